//! Bodies of Flink's v1 routes that only the jobmanager writes and dashboards read. Durations and times are milliseconds.
use super::Millis;
use crate::status::{JobState, TaskState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /config`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DashboardConfig {
    pub refresh_interval: u64,
    pub timezone_name: String,
    pub timezone_offset: i64,
    pub flink_version: String,
    pub flink_revision: String,
    pub features: Features,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Features {
    pub web_submit: bool,
    pub web_cancel: bool,
    pub web_rescale: bool,
    pub web_history: bool,
}

/// `GET /jobs/:id`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobDetails {
    pub jid: String,
    pub name: String,
    #[serde(rename = "isStoppable")]
    pub is_stoppable: bool,
    pub state: JobState,
    #[serde(rename = "job-type")]
    pub job_type: String,
    #[serde(rename = "schedulerType")]
    pub scheduler_type: String,
    /// The job's own id: an application has one job here.
    #[serde(rename = "application-id")]
    pub application_id: String,
    #[serde(rename = "start-time")]
    pub start_time: Millis,
    #[serde(rename = "end-time")]
    pub end_time: Millis,
    pub duration: Millis,
    #[serde(rename = "maxParallelism")]
    pub max_parallelism: u32,
    pub now: Millis,
    /// When each state was entered last; 0: never.
    pub timestamps: BTreeMap<String, Millis>,
    pub vertices: Vec<JobVertex>,
    #[serde(rename = "status-counts")]
    pub status_counts: BTreeMap<String, u32>,
    pub plan: JobPlan,
    /// Always null: `plan` is all there is.
    #[serde(rename = "stream-graph")]
    pub stream_graph: Option<JobPlan>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobVertex {
    pub id: String,
    #[serde(rename = "slotSharingGroupId")]
    pub slot_sharing_group_id: String,
    pub name: String,
    #[serde(rename = "maxParallelism")]
    pub max_parallelism: u32,
    pub parallelism: u32,
    pub status: TaskState,
    #[serde(rename = "start-time")]
    pub start_time: Millis,
    #[serde(rename = "end-time")]
    pub end_time: Millis,
    pub duration: Millis,
    /// Number of subtasks by state.
    pub tasks: BTreeMap<String, u32>,
    pub metrics: IoMetrics,
}

/// Bytes, records and accumulated times of a vertex or subtask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IoMetrics {
    pub read_bytes: u64,
    pub read_bytes_complete: bool,
    pub write_bytes: u64,
    pub write_bytes_complete: bool,
    pub read_records: u64,
    pub read_records_complete: bool,
    pub write_records: u64,
    pub write_records_complete: bool,
    pub accumulated_backpressured_time: u64,
    pub accumulated_idle_time: u64,
    pub accumulated_busy_time: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPlan {
    pub jid: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub nodes: Vec<PlanNode>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNode {
    pub id: String,
    pub parallelism: u32,
    pub operator: String,
    pub operator_strategy: String,
    pub description: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<PlanInput>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanInput {
    pub num: u32,
    pub id: String,
    /// FORWARD, HASH, REBALANCE or BROADCAST.
    pub ship_strategy: String,
    pub exchange: String,
}

/// `GET /jobs/:id/vertices/:vertex`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VertexDetails {
    pub id: String,
    pub name: String,
    pub parallelism: u32,
    #[serde(rename = "maxParallelism")]
    pub max_parallelism: u32,
    pub now: Millis,
    pub subtasks: Vec<SubtaskDetails>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SubtaskDetails {
    pub subtask: u32,
    pub status: TaskState,
    /// The job's attempt: all tasks restart together.
    pub attempt: u64,
    pub endpoint: String,
    pub start_time: Millis,
    pub end_time: Millis,
    pub duration: Millis,
    pub metrics: IoMetrics,
    pub taskmanager_id: String,
}

/// `GET /jobs/:id/exceptions`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobExceptions {
    #[serde(rename = "exceptionHistory")]
    pub exception_history: ExceptionHistory,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionHistory {
    /// Newest first.
    pub entries: Vec<ExceptionInfo>,
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExceptionInfo {
    pub exception_name: String,
    pub stacktrace: String,
    pub timestamp: Millis,
    pub task_name: Option<String>,
    pub endpoint: Option<String>,
    pub task_manager_id: Option<String>,
    pub failure_labels: BTreeMap<String, String>,
    pub concurrent_exceptions: Vec<ExceptionInfo>,
}

/// One element of `GET /jobs/:id/metrics`; with `?get=` the value is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricValue {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<String>,
}

/// `GET /taskmanagers`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskManagers {
    pub taskmanagers: Vec<TaskManagerInfo>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskManagerInfo {
    pub id: String,
    /// Address of its data connections.
    pub path: String,
    pub data_port: u16,
    /// -1: there is no JMX.
    pub jmx_port: i32,
    /// When it was heard of last.
    pub time_since_last_heartbeat: Millis,
    pub slots_number: u32,
    pub free_slots: u32,
    pub assigned_tasks: u32,
    pub total_resource: ResourceProfile,
    pub free_resource: ResourceProfile,
    pub hardware: Hardware,
    pub memory_configuration: MemoryConfiguration,
    pub blocked: bool,
    /// Resident memory of the process in bytes (ours).
    pub resident_bytes: u64,
    /// Process id (ours).
    pub pid: u32,
}

/// What a taskmanager's slots are made of. Memory is not divided up here: all 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceProfile {
    pub cpu_cores: f64,
    pub task_heap_memory: u64,
    pub task_off_heap_memory: u64,
    pub managed_memory: u64,
    pub network_memory: u64,
    pub extended_resources: BTreeMap<String, f64>,
}

/// A taskmanager's machine: not looked at, all 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hardware {
    pub cpu_cores: u32,
    pub physical_memory: u64,
    pub free_memory: u64,
    pub managed_memory: u64,
}

/// Flink's division of a process's memory: there is none here, all 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryConfiguration {
    pub framework_heap: u64,
    pub task_heap: u64,
    pub framework_off_heap: u64,
    pub task_off_heap: u64,
    pub network_memory: u64,
    pub managed_memory: u64,
    pub jvm_metaspace: u64,
    pub jvm_overhead: u64,
    pub total_flink_memory: u64,
    pub total_process_memory: u64,
}

/// `GET /jobs/:id/checkpoints`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointStatistics {
    pub counts: CheckpointCounts,
    pub summary: CheckpointSummary,
    pub latest: LatestCheckpoints,
    /// Newest first.
    pub history: Vec<CheckpointInfo>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCounts {
    pub restored: u64,
    pub total: u64,
    pub in_progress: u64,
    pub completed: u64,
    pub failed: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointSummary {
    pub checkpointed_size: Statistics,
    pub state_size: Statistics,
    pub end_to_end_duration: Statistics,
    /// Always 0, as the two below: nothing is buffered while barriers are aligned.
    pub alignment_buffered: Statistics,
    pub processed_data: Statistics,
    pub persisted_data: Statistics,
}

/// Of all completed checkpoints; the percentiles of those in the history. 0 while there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    pub min: u64,
    pub max: u64,
    pub avg: u64,
    pub p50: u64,
    pub p90: u64,
    pub p95: u64,
    pub p99: u64,
    pub p999: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatestCheckpoints {
    pub completed: Option<CheckpointInfo>,
    pub savepoint: Option<CheckpointInfo>,
    pub failed: Option<CheckpointInfo>,
    pub restored: Option<RestoredCheckpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredCheckpoint {
    pub id: u64,
    pub restore_timestamp: Millis,
    pub is_savepoint: bool,
    pub external_path: String,
}

/// A checkpoint in the history, and `GET /jobs/:id/checkpoints/details/:n`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// completed, in_progress or failed.
    #[serde(rename = "className")]
    pub class_name: String,
    pub id: u64,
    /// COMPLETED, IN_PROGRESS or FAILED.
    pub status: String,
    pub is_savepoint: bool,
    #[serde(rename = "savepointFormat")]
    pub savepoint_format: Option<String>,
    pub trigger_timestamp: Millis,
    pub latest_ack_timestamp: Millis,
    pub checkpointed_size: u64,
    pub state_size: u64,
    pub end_to_end_duration: u64,
    pub alignment_buffered: u64,
    pub processed_data: u64,
    pub persisted_data: u64,
    pub num_subtasks: u64,
    pub num_acknowledged_subtasks: u64,
    /// CHECKPOINT, SAVEPOINT or SYNC_SAVEPOINT.
    pub checkpoint_type: String,
    /// By vertex id; only in the details.
    pub tasks: BTreeMap<String, TaskCheckpoint>,
    pub external_path: Option<String>,
    pub discarded: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_timestamp: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_message: Option<String>,
    /// Index of its entry in the log (ours).
    #[serde(rename = "log-index", skip_serializing_if = "Option::is_none", default)]
    pub log_index: Option<u64>,
}

/// A vertex's part of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCheckpoint {
    pub id: u64,
    /// COMPLETED, IN_PROGRESS or FAILED: the checkpoint's, unless all subtasks have acknowledged.
    pub status: String,
    pub latest_ack_timestamp: Millis,
    pub checkpointed_size: u64,
    pub state_size: u64,
    pub end_to_end_duration: u64,
    pub alignment_buffered: u64,
    pub processed_data: u64,
    pub persisted_data: u64,
    pub num_subtasks: u64,
    pub num_acknowledged_subtasks: u64,
    /// Longest over the subtasks; milliseconds.
    pub alignment_duration: u64,
    pub sync_duration: u64,
    pub async_duration: u64,
}

/// `GET /jobs/:id/checkpoints/config`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointSettings {
    /// exactly_once or at_least_once.
    pub mode: String,
    pub interval: u64,
    pub timeout: u64,
    pub min_pause: u64,
    pub max_concurrent: u32,
    pub externalization: Externalization,
    pub state_backend: String,
    pub checkpoint_storage: String,
    pub unaligned_checkpoints: bool,
    /// -1: any number.
    pub tolerable_failed_checkpoints: i64,
    pub aligned_checkpoint_timeout: u64,
    pub checkpoints_after_tasks_finish: bool,
    pub state_changelog_enabled: bool,
    /// Completed checkpoints that are kept (ours: Flink does not show it).
    #[serde(rename = "num-retained")]
    pub num_retained: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Externalization {
    pub enabled: bool,
    pub delete_on_cancellation: bool,
}
