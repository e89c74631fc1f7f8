//! The status of a `StreamJob`: what is observed, and the operator's write-ahead record of what it is about to do.
//!
//! `deployed`, `rollout`, `rescale` and `deletion` are the write-ahead part: they are stored before the operator acts on them, so that an operator
//! that crashed knows from them, the log and the children alone where it is.
use super::StreamJobSpec;
use super::conditions::rfc3339;
use super::schema::any_object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_api::rest::SnapshotInfo;
use weir_api::status::{JobState, TerminalStatus};

/// Milliseconds since the Unix epoch.
pub type Millis = i64;

/// A count of the jobmanager's as the status has it: Kubernetes' integers have a sign.
pub fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// What is observed of the job, and what the operator is about to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamJobStatus {
    /// Generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the job is doing.
    pub phase: Phase,
    /// Why the job is not simply running, in one word; empty when it is.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// The job's id in the jobmanager's REST paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// State of the job as the jobmanager last told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_state: Option<JobState>,
    /// Number of the job's current execution: grows with each start from a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// Parallelism that the running attempt was deployed with.
    pub parallelism: i32,
    /// Selects the job's taskmanager pods (for the scale subresource).
    pub selector: String,
    /// Taskmanagers that are registered at the jobmanager.
    pub task_managers: i32,
    /// Restarts of the job after failures.
    pub restarts: i64,
    /// The last completed checkpoint; up to 30 s behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<SnapshotStatus>,
    /// The last completed savepoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_savepoint: Option<SnapshotStatus>,
    /// Path of the snapshot that the current attempt was restored from; absent when it started new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored_from: Option<String>,
    /// Ready, Progressing, Degraded, Suspended.
    pub conditions: Vec<Condition>,
    /// The generation that runs (or is suspended, or ended), with the spec it was started from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed: Option<Deployed>,
    /// The launch, upgrade or suspension under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// The change of parallelism under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale: Option<Rescale>,
    /// The deletion under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
}

/// What a job is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not looked at yet, or its spec is invalid and nothing runs.
    #[default]
    Pending,
    /// The first pods are starting.
    Deploying,
    Running,
    /// The job restarts after a failure.
    Restarting,
    Upgrading,
    Rescaling,
    Suspending,
    Suspended,
    Finished,
    Canceled,
    Failed,
    Deleting,
}

impl Phase {
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::Deploying,
        Self::Running,
        Self::Restarting,
        Self::Upgrading,
        Self::Rescaling,
        Self::Suspending,
        Self::Suspended,
        Self::Finished,
        Self::Canceled,
        Self::Failed,
        Self::Deleting,
    ];
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Deploying => "Deploying",
            Self::Running => "Running",
            Self::Restarting => "Restarting",
            Self::Upgrading => "Upgrading",
            Self::Rescaling => "Rescaling",
            Self::Suspending => "Suspending",
            Self::Suspended => "Suspended",
            Self::Finished => "Finished",
            Self::Canceled => "Canceled",
            Self::Failed => "Failed",
            Self::Deleting => "Deleting",
        }
    }
}

/// A checkpoint or savepoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotStatus {
    pub id: i64,
    pub path: String,
    /// When it completed (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    /// Index of its entry in the job's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_index: Option<i64>,
    pub size_bytes: i64,
    pub duration_ms: i64,
}

impl From<&SnapshotInfo> for SnapshotStatus {
    fn from(s: &SnapshotInfo) -> Self {
        Self {
            id: int(s.id),
            path: s.path.clone(),
            time: rfc3339(s.completed_at),
            log_index: s.log_index.map(int),
            size_bytes: int(s.size_bytes),
            duration_ms: int(s.duration_ms),
        }
    }
}

/// A savepoint as the operator needs it: where it is and which entry of the log names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SavepointRef {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_index: Option<i64>,
}

impl From<&SnapshotInfo> for SavepointRef {
    fn from(s: &SnapshotInfo) -> Self {
        Self { path: s.path.clone(), log_index: s.log_index.map(int) }
    }
}

/// The generation whose children are the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deployed {
    /// Names the children: NAME-gGENERATION-jm and NAME-gGENERATION-tm.
    pub generation: i64,
    /// The spec that these children were built from.
    #[schemars(schema_with = "any_object")]
    pub spec: StreamJobSpec,
    /// Parallelism in the jobmanager's configuration; a later rescale does not change that.
    pub launch_parallelism: u32,
    /// Last attempt that this generation was seen to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i64>,
    /// Its first attempt starts from where its owner says, and not from what its log knows: owed until it has one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redeploys: bool,
    /// Set while the job is suspended: pods are gone, and what it resumes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<SavepointRef>,
    /// Set once the job ended for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// How the job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    pub status: EndStatus,
    #[serde(default)]
    pub reason: String,
    /// Snapshots that were kept, by path.
    #[serde(default)]
    pub kept: Vec<String>,
}

/// The terminal states of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndStatus {
    Finished,
    Canceled,
    Failed,
    /// Stopped with a savepoint by somebody else than the operator.
    Stopped,
}

impl From<TerminalStatus> for EndStatus {
    fn from(s: TerminalStatus) -> Self {
        match s {
            TerminalStatus::Finished => Self::Finished,
            TerminalStatus::Canceled => Self::Canceled,
            TerminalStatus::Failed => Self::Failed,
            TerminalStatus::Stopped => Self::Stopped,
        }
    }
}

/// A launch, upgrade or suspension, written before each of its steps is acted on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    pub kind: RolloutKind,
    /// How state is carried over.
    pub strategy: Strategy,
    /// Generation that is replaced; absent at a launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<i64>,
    /// Generation that is being started (for a suspension: that asked for it).
    pub to: i64,
    /// The spec of `to`.
    #[schemars(schema_with = "any_object")]
    pub spec: StreamJobSpec,
    /// The field that decided, and how it changed.
    #[serde(default)]
    pub because: String,
    pub step: Step,
    /// When the step began.
    pub since: Millis,
    /// Counts the savepoints asked for: part of the trigger id.
    #[serde(default)]
    pub tries: u32,
    /// Not before this time is a savepoint asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Millis>,
    /// Why the last savepoint failed, or why none can be taken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
    /// Snapshot that the new generation would have restored when the step began: a later one is news.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<i64>,
    /// Both generations use one checkpoint storage, so that the claim of the next fences the one before. Otherwise `from` must be gone before `to` starts.
    #[serde(default = "yes")]
    pub shares_log: bool,
    /// The savepoint that stopped `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub savepoint: Option<SavepointRef>,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RolloutKind {
    /// Nothing runs: first start, resume, or start after the job had ended.
    Launch,
    /// One generation takes over from another.
    Upgrade,
    Suspend,
}

/// How state is carried over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// Stop with a savepoint and restore it.
    Savepoint,
    /// Take over from the latest snapshot in the log.
    LastState,
    /// Start without state.
    Stateless,
    /// Start from `restore.from`, also when that is older than the latest snapshot.
    Redeploy,
}

/// Steps of a rollout, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// The new jobmanager starts, builds its graph and compares it with the latest snapshot. The old generation runs.
    Preparing,
    /// The new generation fits. Its taskmanagers start and register; the old generation runs.
    Warming,
    /// The old generation has been told to stop with a savepoint.
    Savepointing,
    /// The old generation has stopped (or is taken over): the new one is told to start.
    Starting,
    /// All tasks run: waiting for the first checkpoint.
    Proving,
    /// Suspension: the pods are being removed.
    Stopping,
}

impl Step {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "Preparing",
            Self::Warming => "Warming",
            Self::Savepointing => "Savepointing",
            Self::Starting => "Starting",
            Self::Proving => "Proving",
            Self::Stopping => "Stopping",
        }
    }
}

/// A change of parallelism through a savepoint, by the same jobmanager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rescale {
    pub from: u32,
    pub to: u32,
    pub step: RescaleStep,
    pub since: Millis,
    /// Generation of the spec that asked for it: part of the trigger id.
    pub generation: i64,
    #[serde(default)]
    pub tries: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Millis>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RescaleStep {
    /// Taskmanagers are added until the slots are there.
    Slots,
    /// The jobmanager has been told.
    Requested,
}

/// A deletion under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    pub since: Millis,
    pub step: DeletionStep,
    /// What became of the checkpoints, in a sentence.
    #[serde(default)]
    pub kept: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionStep {
    /// The jobmanager has been told to cancel, so that it applies the retention policy.
    Cancelling,
    /// Children are being removed.
    Removing,
    /// Nothing is left: the finalizer goes.
    Released,
}

impl StreamJobStatus {
    /// This generation is the one to run the job, and none is about to follow it.
    pub fn goes_on(&self, generation: i64) -> bool {
        let deployed = |d: &Deployed| d.generation == generation && d.suspended.is_none() && d.ended.is_none();
        let followed = self.rollout.as_ref().is_some_and(|r| r.from == Some(generation));
        self.deletion.is_none() && !followed && self.deployed.as_ref().is_some_and(deployed)
    }

    /// Name of the step that this status is about to act on; what the test-only annotation `weir.dev/crash-at` names.
    pub fn step_name(&self) -> &'static str {
        if self.deletion.is_some() {
            "Deleting"
        } else if let Some(r) = &self.rollout {
            r.step.as_str()
        } else if let Some(r) = &self.rescale {
            match r.step {
                RescaleStep::Slots => "RescaleSlots",
                RescaleStep::Requested => "Rescaling",
            }
        } else {
            "Done"
        }
    }
}
