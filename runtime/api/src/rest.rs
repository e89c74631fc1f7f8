//! Bodies of the jobmanager's REST interface.
//!
//! The first part has Flink's v1 field names; the second, [`WeirStatus`] and the requests beside it, is ours and what the
//! operator uses: one body that holds all it needs to know, with a long poll.
pub mod details;

use crate::config::RestoreConfig;
use crate::ids::Deployment;
use crate::status::{JobState, TerminalStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Milliseconds since the Unix epoch; -1 where Flink says "none".
pub type Millis = i64;

/// Error body of every route: Flink's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub errors: Vec<String>,
}

/// `POST /jobs/:id/savepoints`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SavepointRequest {
    #[serde(rename = "target-directory", skip_serializing_if = "Option::is_none")]
    pub target_directory: Option<String>,
    #[serde(rename = "cancel-job")]
    pub cancel_job: bool,
    #[serde(rename = "formatType", skip_serializing_if = "Option::is_none")]
    pub format_type: Option<String>,
    /// Idempotency key: a second request with the same id starts nothing.
    #[serde(rename = "triggerId", skip_serializing_if = "Option::is_none")]
    pub trigger_id: Option<String>,
}

/// `POST /jobs/:id/stop`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StopRequest {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_directory: Option<String>,
    /// Sources end as if their input had ended, before the savepoint: for ending a job for good.
    pub drain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_id: Option<String>,
}

/// Answer to both: 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerResponse {
    #[serde(rename = "request-id")]
    pub request_id: String,
}

/// `GET /jobs/:id/savepoints/:trigger`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AsyncOperationResult {
    pub status: QueueStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<SavepointOutcome>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    pub id: QueueStatusId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum QueueStatusId {
    InProgress,
    Completed,
}

/// Exactly one of `location` and `failure_cause` is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavepointOutcome {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub location: Option<String>,
    /// Index of the savepoint's entry in the log (ours).
    #[serde(rename = "log-index", skip_serializing_if = "Option::is_none", default)]
    pub log_index: Option<u64>,
    #[serde(rename = "failure-cause", skip_serializing_if = "Option::is_none", default)]
    pub failure_cause: Option<FailureCause>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCause {
    pub class: String,
    #[serde(rename = "stack-trace")]
    pub stack_trace: String,
}

/// `GET /overview`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Overview {
    pub taskmanagers: u32,
    pub slots_total: u32,
    pub slots_available: u32,
    pub jobs_running: u32,
    pub jobs_finished: u32,
    pub jobs_cancelled: u32,
    pub jobs_failed: u32,
    pub flink_version: String,
    pub flink_commit: String,
}

/// `GET /jobs`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIds {
    pub jobs: Vec<JobIdStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIdStatus {
    pub id: String,
    pub status: JobState,
}

/// `GET /jobs/overview`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsOverview {
    pub jobs: Vec<JobOverview>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobOverview {
    pub jid: String,
    pub name: String,
    #[serde(rename = "start-time")]
    pub start_time: Millis,
    #[serde(rename = "end-time")]
    pub end_time: Millis,
    pub duration: Millis,
    pub state: JobState,
    #[serde(rename = "last-modification")]
    pub last_modification: Millis,
    /// Number of tasks by state in small letters, and `total`.
    pub tasks: BTreeMap<String, u32>,
    #[serde(rename = "jobType")]
    pub job_type: String,
    #[serde(rename = "schedulerType")]
    pub scheduler_type: String,
    /// Always 0: the whole graph is known before the job starts.
    #[serde(rename = "pending-operators")]
    pub pending_operators: u32,
}

// ---------------------------------------------------------------------------------------------------------------------
// Ours: /weir/v1

/// `GET /weir/v1/status?after=VERSION&timeout=MS`: everything that the operator wants to know about a jobmanager, in one body.
/// With `after`, the answer waits until the status has a version above it, or the timeout passes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeirStatus {
    /// Grows with each change of this body within one process.
    pub version: u64,
    /// Changes with each start of the process; a version counts within one instance only.
    pub instance: String,
    pub deployment: Option<Deployment>,
    pub job_id: String,
    pub phase: JobManagerPhase,
    pub job_state: JobState,
    /// Why the job is in this state, in a sentence; empty where there is nothing to say.
    pub reason: String,
    pub attempt: u64,
    /// Restarts since this process started the job (attempts after its first).
    pub restarts: u64,
    /// Parallelism that the running attempt was deployed with.
    pub parallelism: u32,
    pub max_parallelism: u32,
    pub taskmanagers: u32,
    pub slots_total: u32,
    /// Slots that the job's graph needs; absent from programs built before it was told.
    #[serde(default)]
    pub slots_needed: Option<SlotsNeeded>,
    /// All tasks of the current attempt are running.
    pub all_tasks_running: bool,
    /// Head of the log; absent while it is empty or there is no storage.
    pub log_head: Option<u64>,
    pub last_checkpoint: Option<SnapshotInfo>,
    pub last_savepoint: Option<SnapshotInfo>,
    /// The snapshot that the current attempt was restored from.
    pub restored_from: Option<SnapshotInfo>,
    pub failed_checkpoints: u64,
    /// Last checkpoint failure, empty when the last one completed.
    pub checkpoint_failure: String,
    /// Outcome of the comparison of this job's graph with the latest snapshot (and, for phase Waiting, what a start would do).
    pub preflight: Preflight,
    /// Set once the job ended for good, and only after the log says so.
    pub terminal: Option<TerminalInfo>,
    /// The rescale or stop under way or the last one, with its outcome.
    pub operation: Option<OperationInfo>,
}

/// Slots that a job needs: as many as its widest operator has subtasks. Operators follow the job's parallelism unless the
/// program gives them their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotsNeeded {
    /// The widest operator with a parallelism of its own; 0: there is none.
    pub fixed: u32,
    /// Whether any operator follows the job's parallelism.
    pub follows: bool,
}

impl SlotsNeeded {
    /// Slots at a parallelism of the job (not above its maxParallelism).
    pub fn at(self, parallelism: u32) -> u32 {
        self.fixed.max(if self.follows { parallelism } else { 0 })
    }
}

/// What a jobmanager process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum JobManagerPhase {
    /// Reading the log, building the graph, comparing.
    Preparing,
    /// Preflight done; waits for `POST /weir/v1/start`.
    Waiting,
    /// Holds the claim: the job is starting, running or restarting.
    Active,
    /// The job ended for good.
    Ended,
    /// Refuses to start: the reason says why; nothing was changed.
    Refused,
    /// Another attempt holds the log.
    Fenced,
}

/// A checkpoint or savepoint as the log has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    pub id: u64,
    pub path: String,
    /// Index of its entry in the log; absent for a snapshot given by path.
    pub log_index: Option<u64>,
    pub is_savepoint: bool,
    /// The savepoint that stopped the job.
    pub is_stop: bool,
    pub completed_at: Millis,
    pub size_bytes: u64,
    pub duration_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preflight {
    pub verdict: PreflightVerdict,
    /// What was found, in a sentence: what does not fit and what to do, or what the job will start from.
    pub message: String,
    /// The snapshot that a start would restore; absent: it would start new.
    pub restores: Option<SnapshotInfo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum PreflightVerdict {
    Pending,
    Compatible,
    Incompatible,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalInfo {
    pub status: TerminalStatus,
    pub log_index: Option<u64>,
    /// Snapshots that were kept, by path.
    pub kept: Vec<String>,
    pub reason: String,
    pub at: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperationInfo {
    /// The caller's trigger id.
    pub trigger_id: String,
    pub kind: OperationKind,
    pub state: OperationState,
    /// Path of the savepoint (completed), or why it failed.
    pub message: String,
    pub log_index: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum OperationKind {
    Savepoint,
    Stop,
    Rescale,
    Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum OperationState {
    InProgress,
    Completed,
    Failed,
}

/// `POST /weir/v1/start`: the word to a waiting jobmanager. Safe to repeat: an active jobmanager answers 200 and changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StartRequest {
    /// Replaces the restore section of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreConfig>,
    /// The log entry that must be what `latest` means at the claim; refused with 409 otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect_log_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
    /// Start new although the log has completed checkpoints (upgrade mode Stateless).
    pub stateless: bool,
}

/// `PUT /weir/v1/parallelism`: savepoint, then the next attempt restores it at the new parallelism. 202; the outcome is in
/// [`WeirStatus::operation`]. Refused with 409 when there are too few slots; the job runs on then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RescaleRequest {
    pub parallelism: u32,
    pub trigger_id: String,
}
