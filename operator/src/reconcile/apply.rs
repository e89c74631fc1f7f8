//! Carries out the actions of a plan. Each may be repeated; what is already so is no error.
use super::plan::Action;
use super::pods::Replace;
use crate::build::{FIELD_MANAGER, Generation, Role, deployment_name, service_name};
use crate::crd::StreamJobStatus;
use crate::crd::status::{RolloutKind, Strategy};
use crate::job_client::{ClientError, JobClient, Target};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy, ValidationDirective};
use kube::{Api, Client};
use serde_json::{Value, json};
use weir_api::config::StartMode;

/// Annotation by which a ReplicaSet chooses the pods that go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("{what}: {}", words(source))]
    Kubernetes { what: String, source: Box<kube::Error> },
    #[error("{0}")]
    Build(String),
    /// The jobmanager said no: the plan has to know.
    #[error("{message}")]
    Refused { key: String, message: String },
    #[error(transparent)]
    JobManager(#[from] ClientError),
}

/// Everything that an action needs.
pub struct Applier<'a> {
    pub client: &'a Client,
    pub jobs: &'a JobClient,
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub status: &'a StreamJobStatus,
    /// Names of the job's pods, with generation and role.
    pub pods: &'a [super::pods::PodObs],
}

impl Applier<'_> {
    /// Carries out one action (the finalizer is the caller's).
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn act(&self, action: &Action) -> Result<(), ApplyError> {
        match action {
            Action::CreateService { generation } => {
                let g = self.generation(*generation)?;
                self.server_side::<Service>(&service_name(self.name, *generation), &g.service()).await
            }
            Action::CreateJobManager { generation } => self.deployment(*generation, Role::JobManager, 1).await,
            Action::CreateTaskManagers { generation, replicas } => {
                self.deployment(*generation, Role::TaskManager, *replicas).await
            }
            Action::ScaleTaskManagers { generation, replicas, idle_first } => {
                if *idle_first {
                    self.mark_idle(*generation).await;
                }
                let name = deployment_name(self.name, *generation, Role::TaskManager);
                let patch = json!({ "spec": { "replicas": replicas } });
                self.merge::<Deployment>(&name, &patch).await
            }
            Action::DeleteGeneration { generation } => {
                for role in [Role::JobManager, Role::TaskManager] {
                    self.delete::<Deployment>(&deployment_name(self.name, *generation, role)).await?;
                }
                self.delete::<Service>(&service_name(self.name, *generation)).await
            }
            Action::ForceDeletePods => {
                for p in self.pods {
                    self.delete_pod(&p.name, &p.uid, true).await?;
                }
                Ok(())
            }
            Action::Stop { generation, trigger } => {
                refused(trigger, self.jobs.stop(&self.target(*generation), trigger).await)
            }
            Action::Start { generation, request } => refused(
                &super::rollout::start_key(*generation),
                self.jobs.start(&self.target(*generation), request).await,
            ),
            Action::SetParallelism { generation, request } => {
                refused(&request.trigger_id, self.jobs.set_parallelism(&self.target(*generation), request).await)
            }
            Action::Cancel { generation } => Ok(self.jobs.cancel(&self.target(*generation)).await?),
            Action::RemoveFinalizer => Ok(()),
        }
    }

    /// Deletes a pod so that a fresh one takes its place.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn replace(&self, r: &Replace) -> Result<(), ApplyError> {
        self.delete_pod(&r.name, &r.uid, r.force).await
    }

    fn target(&self, generation: i64) -> Target {
        Target { namespace: self.namespace.into(), job: self.name.into(), generation }
    }

    /// The generation as the record has it.
    fn generation(&self, number: i64) -> Result<Generation<'_>, ApplyError> {
        let rollout = self.status.rollout.as_ref().filter(|r| r.to == number);
        let (spec, parallelism) = match (&self.status.deployed, rollout) {
            (Some(d), _) if d.generation == number => (&d.spec, d.launch_parallelism),
            (_, Some(r)) => (&r.spec, r.spec.parallelism),
            _ => return Err(ApplyError::Build(format!("generation {number} is not in the record"))),
        };
        let redeploys = self.status.deployed.as_ref().is_some_and(|d| d.generation == number && d.redeploys);
        let launches = rollout.is_some_and(|r| r.kind == RolloutKind::Launch && r.strategy != Strategy::Stateless);
        Ok(Generation {
            namespace: self.namespace,
            name: self.name,
            uid: self.uid,
            number,
            spec,
            parallelism,
            start: if launches { StartMode::Immediately } else { StartMode::Await },
            restore_from_spec: redeploys || rollout.is_some_and(|r| r.strategy == Strategy::Redeploy),
        })
    }

    async fn deployment(&self, generation: i64, role: Role, replicas: u32) -> Result<(), ApplyError> {
        let object = self.generation(generation)?.deployment(role, replicas).map_err(ApplyError::Build)?;
        self.server_side::<Deployment>(&deployment_name(self.name, generation, role), &object).await
    }

    /// The taskmanagers that hold no task are marked to go first when the Deployment shrinks. Best effort: otherwise one that
    /// is in use may go, and the job restarts once.
    async fn mark_idle(&self, generation: i64) {
        let list = match self.jobs.task_managers(&self.target(generation)).await {
            Ok(list) => list,
            Err(e) => {
                tracing::warn!(job = self.name, error = %e, "idle taskmanagers not known");
                return;
            }
        };
        for p in self.pods.iter().filter(|p| p.generation == generation && p.role == Role::TaskManager) {
            let used = list.iter().any(|t| t.id == p.name && t.free_slots < t.slots_number);
            let cost = if used { "0" } else { "-100" };
            let patch = json!({ "metadata": { "annotations": { DELETION_COST: cost } } });
            if let Err(e) = self.merge::<Pod>(&p.name, &patch).await {
                tracing::warn!(job = self.name, pod = p.name, error = %e, "deletion cost not set");
            }
        }
    }

    async fn server_side<K>(&self, name: &str, object: &Value) -> Result<(), ApplyError>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let mut params = PatchParams::apply(FIELD_MANAGER).force();
        // an unknown field in a pod template is refused, not dropped
        params.field_validation = Some(ValidationDirective::Strict);
        self.api::<K>()
            .patch(name, &params, &Patch::Apply(object))
            .await
            .map_err(|e| kubernetes("apply", name, e))
            .map(|_| ())
    }

    async fn merge<K>(&self, name: &str, patch: &Value) -> Result<(), ApplyError>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match self.api::<K>().patch(name, &params, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(kubernetes("patch", name, e)),
        }
    }

    async fn delete<K>(&self, name: &str) -> Result<(), ApplyError>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        match self.api::<K>().delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(kubernetes("delete", name, e)),
        }
    }

    async fn delete_pod(&self, name: &str, uid: &str, force: bool) -> Result<(), ApplyError> {
        let params = DeleteParams {
            grace_period_seconds: force.then_some(0),
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api::<Pod>().delete(name, &params).await {
            Ok(_) => Ok(()),
            // gone, or another pod of this name
            Err(e) if is_gone(&e) || is_conflict(&e) => Ok(()),
            Err(e) => Err(kubernetes("delete pod", name, e)),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }
}

/// The API server's own sentence, without the envelope.
fn words(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(s) if !s.message.is_empty() => s.message.clone(),
        e => e.to_string(),
    }
}

fn refused(key: &str, result: Result<(), ClientError>) -> Result<(), ApplyError> {
    match result {
        Err(ClientError::Refused { message, .. }) => Err(ApplyError::Refused { key: key.into(), message }),
        r => Ok(r?),
    }
}

fn kubernetes(verb: &str, name: &str, e: kube::Error) -> ApplyError {
    ApplyError::Kubernetes { what: format!("failed to {verb} {name}"), source: Box::new(e) }
}

/// The object does not exist (any more).
pub fn is_gone(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.code == 404)
}

/// Somebody else wrote in between.
pub fn is_conflict(e: &kube::Error) -> bool {
    matches!(e, kube::Error::Api(s) if s.code == 409)
}
