//! Watches the children of all jobs and keeps of each object only what decides; wakes the reconciliation of the job that it belongs to.
use crate::build::{CHILD_SELECTOR, CONTAINER, LABEL_GENERATION, LABEL_JOB, LABEL_ROLE, Role, STANDBY_CONTAINER};
use crate::crd::status::Millis;
use crate::reconcile::pods::{ContainerObs, End, PodObs};
use crate::reconcile::world::{DeploymentObs, GenerationObs};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Namespace and name of a job.
pub type JobKey = (String, String);
/// Called with the job that an object belongs to.
pub type Wake = Arc<dyn Fn(&JobKey) + Send + Sync>;

/// An object, reduced.
#[derive(Debug, Clone)]
enum Child {
    Deployment(Role, DeploymentObs),
    Service,
    Pod(Box<PodObs>),
}

/// Kind of a child: the three watches are separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Deployment,
    Service,
    Pod,
}

type Objects = BTreeMap<(Kind, String), (i64, Child)>;

/// The children of all jobs.
#[derive(Default)]
pub struct Children {
    jobs: Mutex<HashMap<JobKey, Objects>>,
}

impl Children {
    /// The children of one job, by generation.
    pub fn of(&self, key: &JobKey) -> BTreeMap<i64, GenerationObs> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut generations: BTreeMap<i64, GenerationObs> = BTreeMap::new();
        for (generation, child) in jobs.get(key).into_iter().flat_map(BTreeMap::values) {
            let g = generations.entry(*generation).or_default();
            match child {
                Child::Deployment(Role::JobManager, d) => g.job_manager = Some(d.clone()),
                Child::Deployment(Role::TaskManager, d) => g.task_manager = Some(d.clone()),
                Child::Service => g.service = true,
                Child::Pod(p) => g.pods.push(p.as_ref().clone()),
            }
        }
        generations
    }

    fn put(&self, kind: Kind, name: String, found: (JobKey, i64, Child)) {
        let (key, generation, child) = found;
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.entry(key).or_default().insert((kind, name), (generation, child));
    }

    fn remove(&self, kind: Kind, key: &JobKey, name: &str) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(objects) = jobs.get_mut(key) {
            objects.remove(&(kind, name.to_owned()));
            if objects.is_empty() {
                jobs.remove(key);
            }
        }
    }

    /// After a list: what was not in it is gone. Returns the jobs that lost something.
    fn keep_only(&self, kind: Kind, listed: &HashSet<(JobKey, String)>) -> Vec<JobKey> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut touched = Vec::new();
        jobs.retain(|key, objects| {
            let before = objects.len();
            objects.retain(|(k, name), _| *k != kind || listed.contains(&(key.clone(), name.clone())));
            if objects.len() < before {
                touched.push(key.clone());
            }
            !objects.is_empty()
        });
        touched
    }
}

/// Runs the three watches until they end (never). `synced` turns true when each has listed once.
pub async fn run(
    client: Client,
    namespace: Option<String>,
    children: Arc<Children>,
    wake: Wake,
    health: crate::web::Health,
    synced: watch::Sender<u8>,
) {
    let config = || watcher::Config::default().labels(CHILD_SELECTOR);
    let synced = Arc::new(synced);
    let deployments: Api<Deployment> = api(client.clone(), namespace.as_deref());
    let pods: Api<Pod> = api(client.clone(), namespace.as_deref());
    let services: Api<PartialObjectMeta<Service>> = api(client, namespace.as_deref());
    tokio::join!(
        drive(
            watcher::watcher(deployments, config()),
            Kind::Deployment,
            deployment,
            &children,
            &wake,
            &health,
            &synced
        ),
        drive(watcher::watcher(pods, config()), Kind::Pod, pod, &children, &wake, &health, &synced),
        drive(watcher::watcher(services, config()), Kind::Service, service, &children, &wake, &health, &synced),
    );
}

/// An API of one namespace or of all.
pub fn api<K>(client: Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(n) => Api::namespaced(client, n),
        None => Api::all(client),
    }
}

async fn drive<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    kind: Kind,
    reduce: fn(&K) -> Option<Child>,
    children: &Children,
    wake: &Wake,
    health: &crate::web::Health,
    synced: &watch::Sender<u8>,
) where
    K: Resource + Send + 'static,
{
    let mut stream = std::pin::pin!(stream.default_backoff());
    let (mut listed, mut first) = (HashSet::new(), true);
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Apply(o)) => {
                health.progress(kind as usize);
                if let Some(key) = store(children, kind, &o, reduce) {
                    wake(&key);
                }
            }
            Ok(Event::Delete(o)) => {
                if let Some((key, _)) = identity(o.meta()) {
                    children.remove(kind, &key, &o.name_any());
                    wake(&key);
                }
            }
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(o)) => {
                if let Some(key) = store(children, kind, &o, reduce) {
                    listed.insert((key.clone(), o.name_any()));
                    wake(&key);
                }
            }
            Ok(Event::InitDone) => {
                health.progress(kind as usize);
                children.keep_only(kind, &listed).iter().for_each(|k| wake(k));
                if std::mem::take(&mut first) {
                    synced.send_modify(|n| *n += 1);
                }
            }
            Err(e) => {
                health.trouble(kind as usize);
                tracing::warn!(kind = ?kind, error = %e, "watch failed");
            }
        }
    }
}

fn store<K: Resource>(children: &Children, kind: Kind, o: &K, reduce: fn(&K) -> Option<Child>) -> Option<JobKey> {
    let (key, generation) = identity(o.meta())?;
    let mut child = reduce(o)?;
    if let Child::Pod(p) = &mut child {
        p.generation = generation;
    }
    children.put(kind, o.name_any(), (key.clone(), generation, child));
    Some(key)
}

fn identity(meta: &ObjectMeta) -> Option<(JobKey, i64)> {
    let labels = meta.labels.as_ref()?;
    let generation = labels.get(LABEL_GENERATION)?.parse().ok()?;
    Some(((meta.namespace.clone()?, labels.get(LABEL_JOB)?.clone()), generation))
}

fn role(meta: &ObjectMeta) -> Option<Role> {
    meta.labels.as_ref()?.get(LABEL_ROLE).and_then(|r| Role::from_label(r))
}

fn service(_: &PartialObjectMeta<Service>) -> Option<Child> {
    Some(Child::Service)
}

fn deployment(d: &Deployment) -> Option<Child> {
    // one that is being deleted is gone for a plan: it may be created anew only when it is
    let replicas = d.spec.replicas.unwrap_or(1);
    let failure = d
        .status
        .as_ref()
        .and_then(|s| s.conditions.as_ref())
        .and_then(|c| {
            c.iter().find(|c| c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True"))
        })
        .and_then(|c| c.message.clone())
        .unwrap_or_default();
    Some(Child::Deployment(
        role(&d.metadata)?,
        DeploymentObs { replicas: u32::try_from(replicas).unwrap_or(0), failure },
    ))
}

fn millis(t: Option<&Time>) -> Option<Millis> {
    t.map(|t| t.0.as_millisecond())
}

fn end(state: Option<&ContainerState>) -> Option<End> {
    let t = state?.terminated.as_ref()?;
    Some(End {
        reason: t.reason.clone().unwrap_or_default(),
        message: t.message.clone().unwrap_or_default(),
        exit_code: t.exit_code,
        started: millis(t.started_at.as_ref()).unwrap_or_default(),
        finished: millis(t.finished_at.as_ref()).unwrap_or_default(),
    })
}

fn pod(p: &Pod) -> Option<Child> {
    let status = p.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let condition =
        |type_: &str, reason: &str| conditions.iter().find(|c| c.type_ == type_ && c.reason.as_deref() == Some(reason));
    let ours = |c: &&ContainerStatus| [CONTAINER, STANDBY_CONTAINER].contains(&c.name.as_str());
    let containers = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    Some(Child::Pod(Box::new(PodObs {
        name: p.name_any(),
        uid: p.uid().unwrap_or_default(),
        generation: 0,
        role: role(&p.metadata)?,
        gone_by: millis(p.metadata.deletion_timestamp.as_ref()),
        node_lost: condition("DisruptionTarget", "DeletionByTaintManager").is_some()
            || status.and_then(|s| s.reason.as_deref()) == Some("NodeLost"),
        unschedulable: condition("PodScheduled", "Unschedulable").and_then(|c| c.message.clone()).unwrap_or_default(),
        containers: containers.iter().filter(ours).map(container).collect(),
        unregistered: false,
        fenced: false,
    })))
}

fn container(c: &ContainerStatus) -> ContainerObs {
    let state = c.state.as_ref();
    let waiting = state.and_then(|s| s.waiting.as_ref());
    ContainerObs {
        running: state.and_then(|s| s.running.as_ref()).and_then(|r| millis(r.started_at.as_ref())),
        waiting: waiting.map(|w| (w.reason.clone().unwrap_or_default(), w.message.clone().unwrap_or_default())),
        terminated: end(state),
        last_terminated: end(c.last_state.as_ref()),
        restarts: u32::try_from(c.restart_count).unwrap_or(0),
    }
}
