//! Pure: a generation of a job -> its child objects.
pub mod merge;
mod pod;

use crate::crd::StreamJobSpec;
use serde_json::{Value, json};
use weir_api::config::{
    DEFAULT_DATA_PORT, DEFAULT_REST_PORT, DEFAULT_RPC_PORT, DEFAULT_TASKMANAGER_HTTP_PORT, JobConfig, JobManagerConfig,
    ProcessConfig, RestoreConfig, StartMode, TaskManagerConfig,
};
use weir_api::ids::{Deployment as DeploymentId, JobName};

pub use pod::pod_template;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "weir-operator";
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub const LABEL_JOB: &str = "weir.dev/job";
pub const LABEL_GENERATION: &str = "weir.dev/generation";
pub const LABEL_ROLE: &str = "weir.dev/role";
/// Selects every child of every job.
pub const CHILD_SELECTOR: &str = "app.kubernetes.io/managed-by=weir-operator,weir.dev/job";
/// Name of the container that runs the job's image.
pub const CONTAINER: &str = "weir";
/// Name of the container that stands by.
pub const STANDBY_CONTAINER: &str = "weir-standby";

/// The two kinds of process of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    JobManager,
    TaskManager,
}

impl Role {
    /// The subcommand of the job's program, and the value of [`LABEL_ROLE`].
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JobManager => "jobmanager",
            Self::TaskManager => "taskmanager",
        }
    }
    pub fn from_label(s: &str) -> Option<Self> {
        [Self::JobManager, Self::TaskManager].into_iter().find(|r| r.as_str() == s)
    }
    const fn suffix(self) -> &'static str {
        match self {
            Self::JobManager => "jm",
            Self::TaskManager => "tm",
        }
    }
}

/// One generation of one job: everything that its children are named and built from.
#[derive(Debug, Clone, Copy)]
pub struct Generation<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub number: i64,
    pub spec: &'a StreamJobSpec,
    /// Parallelism that the jobmanager starts the job with.
    pub parallelism: u32,
    /// Whether the jobmanager waits for the word to start.
    pub start: StartMode,
    /// Start from the spec's restore section (first launch, redeploy) instead of from the latest snapshot.
    pub restore_from_spec: bool,
}

/// Name of the Deployment of one role of one generation.
pub fn deployment_name(job: &str, generation: i64, role: Role) -> String {
    format!("{job}-g{generation}-{}", role.suffix())
}

/// Name of the jobmanager's Service of one generation.
pub fn service_name(job: &str, generation: i64) -> String {
    format!("{job}-g{generation}")
}

/// Selector of the scale subresource: the job's taskmanager pods.
pub fn task_manager_selector(job: &str) -> String {
    format!("{LABEL_JOB}={job},{LABEL_ROLE}={}", Role::TaskManager.as_str())
}

impl Generation<'_> {
    fn labels(&self, role: Option<Role>) -> Value {
        let mut labels = json!({
            LABEL_MANAGED_BY: FIELD_MANAGER,
            "app.kubernetes.io/name": self.name,
            LABEL_JOB: self.name,
            LABEL_GENERATION: self.number.to_string(),
        });
        if let Some(role) = role {
            labels[LABEL_ROLE] = role.as_str().into();
        }
        labels
    }

    fn metadata(&self, name: String, role: Option<Role>) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(role),
            "ownerReferences": [{
                "apiVersion": "weir.dev/v1alpha1",
                "kind": "StreamJob",
                "name": self.name,
                "uid": self.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        })
    }

    /// The configuration that a process of this generation gets.
    pub fn config(&self, role: Role) -> ProcessConfig {
        match role {
            Role::JobManager => {
                let s = self.spec;
                let mut job = JobConfig::new(
                    JobName { namespace: self.namespace.into(), name: self.name.into() },
                    self.parallelism,
                );
                job.deployment = Some(DeploymentId {
                    uid: self.uid.into(),
                    generation: self.number,
                    restart_nonce: s.restart_nonce,
                });
                job.max_parallelism = s.max_parallelism;
                job.checkpoint = s.checkpoint.clone();
                job.restart = s.restart.clone();
                job.restore = if self.restore_from_spec {
                    s.restore.clone()
                } else {
                    RestoreConfig {
                        from: s.checkpoint.storage.as_ref().map(|_| "latest".into()),
                        allow_non_restored_state: s.restore.allow_non_restored_state,
                        nonce: None,
                    }
                };
                job.start = self.start;
                ProcessConfig::JobManager(Box::new(JobManagerConfig {
                    rest_address: format!("0.0.0.0:{DEFAULT_REST_PORT}"),
                    rpc_address: format!("0.0.0.0:{DEFAULT_RPC_PORT}"),
                    job,
                }))
            }
            Role::TaskManager => ProcessConfig::TaskManager(TaskManagerConfig {
                id: String::new(), // WEIR_TASKMANAGER_ID: the pod's name
                jobmanager: format!("{}:{DEFAULT_RPC_PORT}", service_name(self.name, self.number)),
                slots: self.spec.task_slots,
                data_address: format!("0.0.0.0:{DEFAULT_DATA_PORT}"),
                advertised_host: String::new(), // WEIR_ADVERTISED_HOST: the pod's address
                http_address: Some(format!("0.0.0.0:{DEFAULT_TASKMANAGER_HTTP_PORT}")),
            }),
        }
    }

    /// The Deployment of one role, ready for server-side apply.
    ///
    /// # Errors
    /// The user's pod template does not merge into a pod: names the field.
    pub fn deployment(&self, role: Role, replicas: u32) -> Result<Value, String> {
        let template = pod_template(self, role)?;
        let mut selector = self.labels(Some(role));
        if let Some(o) = selector.as_object_mut() {
            o.retain(|k, _| k.starts_with("weir.dev/"));
        }
        // a jobmanager is never rolled: two at once would fence each other
        let strategy = match role {
            Role::JobManager => json!({ "type": "Recreate" }),
            Role::TaskManager => {
                json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } })
            }
        };
        Ok(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(deployment_name(self.name, self.number, role), Some(role)),
            "spec": {
                "replicas": replicas,
                "revisionHistoryLimit": 0,
                "strategy": strategy,
                "selector": { "matchLabels": selector },
                "template": template,
            },
        }))
    }

    /// The Service by which taskmanagers and the operator reach the jobmanager.
    pub fn service(&self) -> Value {
        let mut selector = self.labels(Some(Role::JobManager));
        if let Some(o) = selector.as_object_mut() {
            o.retain(|k, _| k.starts_with("weir.dev/"));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(service_name(self.name, self.number), None),
            "spec": {
                // taskmanagers and operator reconnect as soon as the port is open, not when a probe has seen it
                "publishNotReadyAddresses": true,
                "selector": selector,
                "ports": [
                    { "name": "rpc", "port": DEFAULT_RPC_PORT, "targetPort": DEFAULT_RPC_PORT, "protocol": "TCP" },
                    { "name": "rest", "port": DEFAULT_REST_PORT, "targetPort": DEFAULT_REST_PORT, "protocol": "TCP" },
                ],
            },
        })
    }
}

#[cfg(test)]
mod tests;
