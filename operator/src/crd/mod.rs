//! The custom resource `StreamJob` (`weir.dev/v1alpha1`): what a user writes. The status is in [`status`], the rules in [`schema`].
// the columns repeat the attribute `type_`, which the lint takes for a mistake
#![allow(clippy::duplicated_attributes)]
pub mod conditions;
pub mod schema;
pub mod status;

use k8s_openapi::api::core::v1::{EnvVar, LocalObjectReference, ResourceRequirements};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use weir_api::config::{CheckpointConfig, RestartConfig, RestoreConfig, default_max_parallelism};

pub use status::StreamJobStatus;

/// A stream job: one program, run by a jobmanager pod and as many taskmanager pods as its operators need.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "StreamJob",
    plural = "streamjobs",
    shortname = "sj",
    category = "all",
    namespaced,
    status = "StreamJobStatus",
    derive = "PartialEq",
    doc = "A stream job: one program, run by a jobmanager pod and as many taskmanager pods as its operators need.",
    scale(
        spec_replicas_path = ".spec.parallelism",
        status_replicas_path = ".status.parallelism",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "What the job is doing."),
    printcolumn(
        name = "Parallelism",
        type_ = "integer",
        json_path = ".status.parallelism",
        description = "Parallelism that the running attempt was deployed with."
    ),
    printcolumn(
        name = "Checkpoint",
        type_ = "date",
        json_path = ".status.lastCheckpoint.time",
        description = "Time since the last completed checkpoint that the status tells of: at most 30 s behind."
    ),
    printcolumn(
        name = "Restarts",
        type_ = "integer",
        json_path = ".status.restarts",
        description = "Restarts of the job after failures."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.reason",
        description = "Why the job is not simply running; empty when it is."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct StreamJobSpec {
    /// Image of the job: its entry point is the program that calls `weir::main`. The operator appends `jobmanager` or
    /// `taskmanager`, then `args`. Changing it upgrades the job by its upgradeMode.
    #[schemars(length(min = 1, max = 1024))]
    pub image: String,
    /// When the image is pulled: Always, IfNotPresent or Never. Absent: IfNotPresent, or Always for the tag `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,
    /// Secrets of the same namespace that hold credentials of the image's registry. The kubelet reads them, the operator does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The job's own arguments, appended after the subcommand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment of the job in all its pods. Names that start with WEIR_ are the operator's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// How many subtasks each operator of the job has, unless the program gives it a parallelism of its own; there are taskmanagers
    /// for the widest operator. Change it here or by `kubectl scale`: the job takes a savepoint and goes on from it at the new parallelism.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32768))]
    pub parallelism: u32,
    /// Number of key groups: the upper bound of parallelism. Fixed for the life of the job, because its state is divided by it.
    #[serde(default = "default_max_parallelism")]
    #[schemars(range(min = 1, max = 32768))]
    pub max_parallelism: u32,
    /// Slots of a taskmanager: how many subtasks of each operator one taskmanager pod runs.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    pub task_slots: u32,
    /// Running, or Suspended: stopped by upgradeMode, no pods, resumed where it stopped.
    #[serde(default)]
    pub state: DesiredState,
    /// How the job is carried over an upgrade or a suspension.
    #[serde(default)]
    pub upgrade_mode: UpgradeMode,
    /// When and where the job's state is checkpointed.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// Which snapshot the job starts from.
    #[serde(default)]
    pub restore: RestoreConfig,
    /// Change it to restart the job by its upgradeMode, with nothing else changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_nonce: Option<i64>,
    /// What the jobmanager does after a task or a taskmanager is lost.
    #[serde(default)]
    pub restart: RestartConfig,
    /// The jobmanager's pod.
    #[serde(default)]
    pub job_manager: ProcessSpec,
    /// The taskmanagers' pods.
    #[serde(default)]
    pub task_manager: ProcessSpec,
}

const fn one() -> u32 {
    1
}

/// Resources and pod of a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessSpec {
    /// Requests and limits of the container. Absent: cpu 100m and memory 64Mi (jobmanager) or 128Mi (taskmanager) are requested, nothing is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// A second container in each pod stands by and takes over the moment the first is gone, so that its loss pauses the job for a fraction of a
    /// second. It costs a few MiB of memory; it requests next to nothing, because only one of the two works. Absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standby: Option<bool>,
    /// Merged over the pod that the operator builds: maps by key, lists of named things by name. The job's container is named
    /// `weir`; what is said of it holds for the one that stands by too. Mount a PersistentVolumeClaim here when the checkpoint storage is a file:// URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// What a user adds to a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Labels and annotations of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<PodTemplateMetadata>,
    /// A PodSpec (`kubectl explain pod.spec`), checked by the API server when the pods' Deployment is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::any_object")]
    pub spec: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Labels and annotations of the pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplateMetadata {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Kubernetes' image pull policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Whether the job should run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    #[default]
    Running,
    /// Stopped by upgradeMode, no pods, resumed where it stopped.
    Suspended,
}

/// How the job is carried over an upgrade or a suspension. Never downgraded silently.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpgradeMode {
    /// Stop with a savepoint; the next generation restores it. Where no savepoint can be taken because the job does not run, the
    /// latest checkpoint is restored and an event says so.
    #[default]
    Savepoint,
    /// The next generation takes over from the latest completed checkpoint; records since then are processed again, exactly once in the output.
    LastState,
    /// The next generation starts without state.
    Stateless,
}

impl UpgradeMode {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Savepoint => "Savepoint",
            Self::LastState => "LastState",
            Self::Stateless => "Stateless",
        }
    }
}

impl StreamJobSpec {
    /// Taskmanager pods that hold so many slots.
    pub fn task_managers(&self, slots: u32) -> u32 {
        slots.div_ceil(self.task_slots.max(1)).max(1)
    }
}
