//! The reconciliation of one StreamJob, and the loop that runs it for all: the shell around `reconcile`.
mod unreadable;

use crate::children::{Children, JobKey};
use crate::clock;
use crate::crd::status::Millis;
use crate::crd::{StreamJob, StreamJobStatus};
use crate::events::Events;
use crate::job_client::JobClient;
use crate::metrics::{Metrics, ReasonLabel};
use crate::reconcile::apply::{Applier, ApplyError, is_conflict, is_gone};
use crate::reconcile::plan::{Action, Job, Note, Plan, plan};
use crate::reconcile::pods::{PodHistory, PodObs, Verdict};
use crate::reconcile::unreadable::read;
use crate::reconcile::validate::validate;
use crate::reconcile::world::{Refusal, World};
use crate::watch::Watchers;
use crate::web::Health;
use futures::StreamExt as _;
use futures::channel::mpsc;
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action as Requeue, Config, Controller};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{PredicateConfig, WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Keeps a StreamJob until its pods are gone.
pub const FINALIZER: &str = "weir.dev/pods";
/// Test-only: names the step right after whose record the operator aborts. Obeyed only with crash injection on.
pub const CRASH_ANNOTATION: &str = "weir.dev/crash-at";
/// Every job is looked at so often even if nothing happens.
const RESYNC: Duration = Duration::from_secs(60);
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
const CONCURRENCY: u16 = 32;

/// What the operator needs to know from outside.
pub struct Options {
    /// One namespace, or all.
    pub namespace: Option<String>,
    pub jobs: JobClient,
    /// Name in events: the pod.
    pub instance: String,
    pub crash_injection: bool,
}

/// Longest look at one job.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a reconciliation failed; it is repeated with a growing delay.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to read the StreamJob: {0}")]
    Read(#[source] Box<kube::Error>),
    #[error("failed to write the StreamJob: {0}")]
    Write(#[source] Box<kube::Error>),
    /// What the look was based on has changed: look again at once.
    #[error("the StreamJob changed in between")]
    Conflict,
    #[error("the API server or a jobmanager did not answer within {PATIENCE:?}")]
    Timeout,
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl Error {
    const fn label(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Write(_) => "write",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
            Self::Apply(_) => "apply",
        }
    }
}

/// What the operator remembers of a job besides its status; lost without harm.
#[derive(Default)]
struct Memory {
    pods: PodHistory,
    refused: BTreeMap<String, Refusal>,
    apply_error: String,
    failures: u32,
    /// Of an object that cannot be read: the last that was said of it, and what became of its snapshots.
    unreadable: String,
    kept: String,
}

struct Context {
    client: Client,
    /// Of a StreamJob, for reading one that may not parse.
    kind: ApiResource,
    options: Options,
    children: Arc<Children>,
    watchers: Watchers,
    memory: Mutex<HashMap<JobKey, Memory>>,
    events: Events,
    metrics: Arc<Metrics>,
}

type Key = PartialObjectMeta<StreamJob>;

/// Runs until the process ends.
pub async fn run(client: Client, options: Options, metrics: Arc<Metrics>, health: Health) {
    let (wake, woken) = mpsc::unbounded::<ObjectRef<Key>>();
    let by_child = wake.clone();
    let children = Arc::new(Children::default());
    let (synced, mut is_synced) = tokio::sync::watch::channel(0u8);
    let watch_children = crate::children::run(
        client.clone(),
        options.namespace.clone(),
        children.clone(),
        Arc::new(move |(namespace, name): &JobKey| {
            let _ = by_child.unbounded_send(ObjectRef::new(name).within(namespace));
        }),
        health.clone(),
        synced,
    );
    let watchers = Watchers::new(
        options.jobs.clone(),
        Arc::new(move |t| {
            let _ = wake.unbounded_send(ObjectRef::new(&t.job).within(&t.namespace));
        }),
    );
    let jobs: Api<Key> = crate::children::api(client.clone(), options.namespace.as_deref());
    let context = Arc::new(Context {
        events: Events::new(client.clone(), options.instance.clone()),
        client,
        kind: ApiResource::erase::<StreamJob>(&()),
        options,
        children,
        watchers,
        memory: Mutex::default(),
        metrics,
    });
    let reconcile_all = async {
        // a plan made before the children are known would create them anew
        let _ = is_synced.wait_for(|n| *n == 3).await;
        health.set_ready();
        tracing::info!("watching StreamJobs");
        let (reader, writer) = reflector::store();
        let watch_health = health.clone();
        let stream = watcher::watcher(jobs, watcher::Config::default())
            .default_backoff()
            .inspect(move |e| match e {
                Ok(_) => watch_health.progress(3),
                Err(e) => {
                    watch_health.trouble(3);
                    tracing::warn!(error = %e, "watch of StreamJobs failed");
                }
            })
            .modify(|o| o.metadata.managed_fields = None)
            .reflect(writer)
            .touched_objects()
            .predicate_filter(wanted_change, PredicateConfig::default());
        Controller::for_stream(stream, reader)
            .with_config(Config::default().concurrency(CONCURRENCY))
            .reconcile_on(woken)
            .run(reconcile, failed, context)
            .for_each(|_| async {})
            .await;
    };
    tokio::join!(watch_children, reconcile_all);
}

/// Our own writes of the status wake nobody.
fn wanted_change(o: &Key) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut h = DefaultHasher::new();
    o.metadata.generation.hash(&mut h);
    o.metadata.uid.hash(&mut h);
    o.metadata.annotations.hash(&mut h);
    o.metadata.finalizers.hash(&mut h);
    o.metadata.deletion_timestamp.is_some().hash(&mut h);
    Some(h.finish())
}

async fn reconcile(key: Arc<Key>, context: Arc<Context>) -> Result<Requeue, Error> {
    let started = Instant::now();
    let namespace = key.namespace().unwrap_or_default();
    let name = key.name_any();
    // the client waits for ever for an answer to a request that was taken; a look may be cut short anywhere
    let job = (namespace, name);
    let look = tokio::time::timeout(PATIENCE, context.look(&job));
    let result = look.await.unwrap_or(Err(Error::Timeout));
    context.metrics.reconciliations.inc();
    context.metrics.duration.observe(started.elapsed().as_secs_f64());
    result
}

fn failed(key: Arc<Key>, error: &Error, context: Arc<Context>) -> Requeue {
    if matches!(error, Error::Conflict) {
        return Requeue::requeue(Duration::from_millis(20));
    }
    context.metrics.errors.get_or_create(&ReasonLabel { reason: error.label() }).inc();
    let job = (key.namespace().unwrap_or_default(), key.name_any());
    let failures = context.with_memory(&job, |m| {
        m.failures += 1;
        m.failures
    });
    let delay = (RETRY_FIRST * 2u32.pow(failures.saturating_sub(1).min(10))).min(RETRY_MAX);
    tracing::warn!(namespace = job.0, job = job.1, error = %error, retry_ms = delay.as_millis(), "reconciliation failed");
    Requeue::requeue(delay)
}

impl Context {
    fn with_memory<T>(&self, key: &JobKey, f: impl FnOnce(&mut Memory) -> T) -> T {
        f(self.memory.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default())
    }

    /// One look: observe, validate, plan, store the record, act.
    async fn look(&self, key: &JobKey) -> Result<Requeue, Error> {
        let (namespace, name) = key;
        let api: Api<StreamJob> = Api::namespaced(self.client.clone(), namespace);
        // read it fresh: a plan on a record older than our own last write would repeat steps
        let objects: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &self.kind);
        let Some(object) = objects.get_opt(name).await.map_err(|e| Error::Read(Box::new(e)))? else {
            self.forget(key);
            return Ok(Requeue::await_change());
        };
        let job = match read(&object) {
            Ok(job) => job,
            Err(why) => return self.look_unread(key, &objects, object, &why).await,
        };
        self.with_memory(key, |m| m.unreadable.clear());
        let deleting = job.metadata.deletion_timestamp.is_some();
        let held = job.finalizers().iter().any(|f| f == FINALIZER);
        if deleting && !held {
            self.forget(key);
            return Ok(Requeue::await_change());
        }
        let job = if held { job } else { self.hold(&api, &job).await? };

        let generation = job.metadata.generation.unwrap_or_default();
        let uid = job.uid().unwrap_or_default();
        let invalid = validate(namespace, name, &job.spec).err();
        let old = job.status.clone().unwrap_or_default();
        self.watch(key, &old);
        let (world, pods, verdict) = self.observe(key, &uid, &old);
        let wanted =
            Job { namespace, name, uid: &uid, generation, deleting, spec: &job.spec, invalid: invalid.as_deref() };
        let next = plan(&wanted, &old, &world);
        if next.status != old {
            self.store(&api, &job, &next.status).await?;
            if next.status.step_name() != old.step_name() {
                self.crash_if_asked(&api, &job, &next.status).await;
            }
        }
        self.metrics.phase(&format!("{namespace}/{name}"), Some(next.status.phase));
        self.tell(&job, &next.notes);
        self.watch(key, &next.status);
        self.act(key, &job, &next, &pods, &verdict).await?;
        let until = [next.look_again, verdict.look_again].into_iter().flatten().min();
        Ok(Requeue::requeue(until.map_or(RESYNC, |t| delay_until(t, world.now))))
    }

    fn observe(&self, key: &JobKey, uid: &str, record: &StreamJobStatus) -> (World, Vec<PodObs>, Verdict) {
        let now = clock::now();
        let mut generations = self.children.of(key);
        let mut statuses = self.watchers.all(&key.0, &key.1);
        for (generation, status) in &mut statuses {
            status.disregard_strangers(uid, *generation);
        }
        for (g, status) in &statuses {
            if let Some(generation) = generations.get_mut(g) {
                generation.mark(status, record.goes_on(*g));
            }
        }
        let pods: Vec<PodObs> = generations.values().flat_map(|g| g.pods.iter().cloned()).collect();
        let (verdict, refused, apply_error) =
            self.with_memory(key, |m| (m.pods.look(&pods, now), m.refused.clone(), m.apply_error.clone()));
        for (g, status) in statuses {
            generations.entry(g).or_default().status = Some(status);
        }
        let world = World { generations, refused, apply_error, problems: verdict.problems.clone(), now };
        (world, pods, verdict)
    }

    /// Follows the jobmanagers of the generations in the record.
    fn watch(&self, key: &JobKey, status: &StreamJobStatus) {
        let mut generations = BTreeSet::new();
        if let Some(d) = status.deployed.as_ref().filter(|d| d.suspended.is_none() && d.ended.is_none()) {
            generations.insert(d.generation);
        }
        if let Some(r) = &status.rollout {
            generations.extend(r.from);
            if r.kind != crate::crd::status::RolloutKind::Suspend {
                generations.insert(r.to);
            }
        }
        self.watchers.set(&key.0, &key.1, &generations);
    }

    async fn hold(&self, api: &Api<StreamJob>, job: &StreamJob) -> Result<StreamJob, Error> {
        let mut finalizers = job.finalizers().to_vec();
        finalizers.push(FINALIZER.into());
        self.set_finalizers(api, job, &finalizers).await
    }

    async fn set_finalizers(
        &self,
        api: &Api<StreamJob>,
        job: &StreamJob,
        finalizers: &[String],
    ) -> Result<StreamJob, Error> {
        let patch = json!({ "metadata": { "finalizers": finalizers, "resourceVersion": job.resource_version() } });
        api.patch(&job.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.map_err(write_error)
    }

    /// Stores the record; refused if anybody wrote since it was read.
    async fn store(&self, api: &Api<StreamJob>, job: &StreamJob, status: &StreamJobStatus) -> Result<(), Error> {
        let mut job = job.clone();
        job.status = Some(status.clone());
        job.metadata.managed_fields = None;
        let params = PostParams { field_manager: Some(crate::build::FIELD_MANAGER.into()), ..PostParams::default() };
        api.replace_status(&job.name_any(), &params, &job).await.map_err(write_error).map(|_| ())
    }

    async fn act(
        &self,
        key: &JobKey,
        job: &StreamJob,
        next: &Plan,
        pods: &[PodObs],
        verdict: &Verdict,
    ) -> Result<(), Error> {
        let uid = job.uid().unwrap_or_default();
        let applier = Applier {
            client: &self.client,
            jobs: &self.options.jobs,
            namespace: &key.0,
            name: &key.1,
            uid: &uid,
            status: &next.status,
            pods,
        };
        let mut failure = self.replace(&applier, verdict).await.err();
        if let Some(e) = &failure {
            self.note_failure(key, e);
        }
        // creations do not wait for each other
        let (creations, others): (Vec<&Action>, Vec<&Action>) = next.actions.iter().partition(|a| is_create(a));
        for action in &creations {
            tracing::info!(namespace = key.0, job = key.1, generation = job.metadata.generation, action = ?action, "act");
        }
        for e in futures::future::join_all(creations.iter().map(|a| applier.act(a)))
            .await
            .into_iter()
            .filter_map(Result::err)
        {
            self.note_failure(key, &e);
            failure = Some(e);
        }
        for action in others {
            tracing::info!(namespace = key.0, job = key.1, generation = job.metadata.generation, action = ?action, "act");
            if *action == Action::RemoveFinalizer {
                let api: Api<StreamJob> = Api::namespaced(self.client.clone(), &key.0);
                let rest: Vec<String> = job.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
                let current = match api.get_opt(&key.1).await.map_err(|e| Error::Read(Box::new(e)))? {
                    Some(j) if j.uid() == job.uid() => j,
                    _ => continue,
                };
                self.set_finalizers(&api, &current, &rest).await?;
                self.forget(key);
                return Ok(());
            }
            if let Err(e) = applier.act(action).await {
                self.note_failure(key, &e);
                failure = Some(e);
            }
        }
        match failure {
            // the plan reads the refusal at once
            Some(ApplyError::Refused { .. }) => Err(Error::Conflict),
            Some(e) => Err(e.into()),
            None => {
                let mended = self.with_memory(key, |m| {
                    m.failures = 0;
                    m.refused.retain(|k, _| refusal_matters(k, &next.status));
                    !std::mem::take(&mut m.apply_error).is_empty()
                });
                // the record still names the error
                if mended {
                    return Err(Error::Conflict);
                }
                Ok(())
            }
        }
    }

    /// Replaces the pods that are not worth waiting for. One that cannot be is no reason to do nothing else: the last error comes back.
    async fn replace(&self, applier: &Applier<'_>, verdict: &Verdict) -> Result<(), ApplyError> {
        let mut done = Ok(());
        for r in &verdict.replace {
            let (namespace, job) = (applier.namespace, applier.name);
            tracing::info!(namespace, job, pod = r.name, force = r.force, why = r.why, "replacing pod");
            match applier.replace(r).await {
                Ok(()) => _ = self.metrics.pods_replaced.inc(),
                Err(e) => done = Err(e),
            }
        }
        done
    }

    fn note_failure(&self, key: &JobKey, e: &ApplyError) {
        self.with_memory(key, |m| match e {
            ApplyError::Refused { key, message } => {
                m.refused.insert(key.clone(), Refusal { why: message.clone(), at: clock::now() });
            }
            ApplyError::Kubernetes { .. } | ApplyError::Build(_) => m.apply_error = e.to_string(),
            ApplyError::JobManager(_) => {}
        });
    }

    fn forget(&self, key: &JobKey) {
        self.watchers.set(&key.0, &key.1, &BTreeSet::new());
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.metrics.phase(&format!("{}/{}", key.0, key.1), None);
    }

    /// One line and one event for each note.
    fn tell(&self, job: &StreamJob, notes: &[Note]) {
        let (namespace, name, generation) = (job.namespace(), job.name_any(), job.metadata.generation);
        for Note { warning, reason, message } in notes {
            match warning {
                true => tracing::warn!(namespace, job = name, generation, reason, "{message}"),
                false => tracing::info!(namespace, job = name, generation, reason, "{message}"),
            }
        }
        self.events.publish(&job.object_ref(&()), notes);
    }

    /// Test-only. The annotation goes first, so that the operator aborts once and not for ever.
    async fn crash_if_asked(&self, api: &Api<StreamJob>, job: &StreamJob, status: &StreamJobStatus) {
        let asked = job.annotations().get(CRASH_ANNOTATION);
        if !self.options.crash_injection || asked.is_none_or(|step| step != status.step_name()) {
            return;
        }
        let patch = json!({ "metadata": { "annotations": { CRASH_ANNOTATION: null } } });
        if api.patch(&job.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok() {
            tracing::error!(job = job.name_any(), step = status.step_name(), "aborting, as the annotation asks");
            std::process::abort();
        }
    }
}

fn is_create(a: &Action) -> bool {
    matches!(a, Action::CreateService { .. } | Action::CreateJobManager { .. } | Action::CreateTaskManagers { .. })
}

/// A refusal is remembered while the record still asks for what was refused.
fn refusal_matters(key: &str, status: &StreamJobStatus) -> bool {
    status.rollout.is_some() && (key.starts_with("start-") || key.starts_with("stop-"))
        || status.rescale.is_some() && key.starts_with("rescale-")
}

fn write_error(e: kube::Error) -> Error {
    if is_conflict(&e) || is_gone(&e) { Error::Conflict } else { Error::Write(Box::new(e)) }
}

fn delay_until(at: Millis, now: Millis) -> Duration {
    Duration::from_millis(u64::try_from((at - now).max(1)).unwrap_or(1)).min(RESYNC)
}
