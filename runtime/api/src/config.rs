//! The typed configuration of a job and of the jobmanager and taskmanager processes.
//!
//! The operator renders [`ProcessConfig`] as JSON into the environment variable [`CONFIG_ENV`] of each pod; people set the
//! same fields by the command line. An unknown key is refused.
use crate::duration::HumanDuration;
use crate::ids::{Deployment, JobName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Environment variable that holds a [`ProcessConfig`] as JSON.
pub const CONFIG_ENV: &str = "WEIR_CONFIG";
/// Environment variable of a process that shares its pod with another of its kind: when set, it waits until the other is gone.
pub const STANDBY_ENV: &str = "WEIR_STANDBY";
/// Port of the jobmanager's REST interface, as in Flink.
pub const DEFAULT_REST_PORT: u16 = 8081;
/// Port on which the jobmanager takes the taskmanagers' control connections, as in Flink.
pub const DEFAULT_RPC_PORT: u16 = 6123;
/// Port on which a taskmanager takes data connections of other taskmanagers.
pub const DEFAULT_DATA_PORT: u16 = 6121;
/// Port of a taskmanager's own `/metrics`, `/livez` and `/readyz`.
pub const DEFAULT_TASKMANAGER_HTTP_PORT: u16 = 8082;
/// Upper bound of `maxParallelism` (key groups), as in Flink.
pub const MAX_MAX_PARALLELISM: u32 = 32_768;

/// What happens to the checkpoints when the job ends for good (Flink's meaning per terminal state, except that a
/// completed stop keeps the last checkpoint too, and that SIGTERM is never a cancellation). Savepoints are never removed. A
/// suspended job has been stopped to be resumed: to delete its resource then is no cancellation, for no process is left that
/// could record one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Retention {
    /// Kept when the job is cancelled, deleted or fails; removed when it finishes by itself.
    #[default]
    RetainOnCancellation,
    /// Removed when the job is cancelled, or deleted while it runs; kept when it fails or is stopped.
    DeleteOnCancellation,
    /// Removed at every end of the job.
    NeverRetain,
}

/// Guarantee of the barriers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CheckpointMode {
    /// Barriers are aligned: after a failure each record counts once.
    #[default]
    ExactlyOnce,
    /// Barriers are only counted: after a failure a record may count twice.
    AtLeastOnce,
}

/// When and where the job's state is checkpointed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// URL of the checkpoint storage, for example file:///checkpoints. Empty: no checkpoints, and nothing survives a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Time between the starts of two checkpoints (at least 10ms).
    pub interval: HumanDuration,
    /// A checkpoint that takes longer is aborted; the job goes on.
    pub timeout: HumanDuration,
    /// Least time between the end of a checkpoint and the start of the next.
    pub min_pause: HumanDuration,
    /// How many checkpoints may be under way at once.
    #[schemars(range(min = 1, max = 16))]
    pub max_concurrent: u32,
    /// How many checkpoints in a row may fail before the job is restarted. Absent: a failed checkpoint never restarts the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerable_failed: Option<u32>,
    /// How many completed checkpoints are kept.
    #[schemars(range(min = 1, max = 1000))]
    pub retained: u32,
    /// What happens to the checkpoints when the job ends. RetainOnCancellation (if absent): removed when it finishes, else kept.
    /// DeleteOnCancellation: removed also when it is cancelled, or deleted while it runs. NeverRetain: removed at every end. Savepoints are
    /// never removed. A StreamJob that is deleted while it is suspended leaves what it would have resumed from, whatever is written here,
    /// and one of the same name goes on from there: to start new, remove its folder in the storage.
    pub retention: Retention,
    /// Guarantee: ExactlyOnce or AtLeastOnce.
    pub mode: CheckpointMode,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self {
            storage: None,
            interval: HumanDuration::from_secs(10),
            timeout: HumanDuration::from_secs(600),
            min_pause: HumanDuration::from_millis(0),
            max_concurrent: 1,
            tolerable_failed: None,
            retained: 3,
            retention: Retention::default(),
            mode: CheckpointMode::default(),
        }
    }
}

/// What the jobmanager does after a task or a taskmanager is lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RestartConfig {
    /// Which strategy decides whether and when the job restarts. Absent: ExponentialDelay, or None where the job has no checkpoint storage:
    /// a restart would begin from nothing, which must be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<RestartStrategy>,
    /// Delay before the first restart (ExponentialDelay), before each (FixedDelay, FailureRate). After a lost process there is none, if a
    /// checkpoint was completed since the failure before.
    pub delay: HumanDuration,
    /// Longest delay between two restarts (ExponentialDelay).
    pub max_delay: HumanDuration,
    /// Time without a failure after which the delay starts over (ExponentialDelay).
    pub reset_after: HumanDuration,
    /// How much is endured before the job fails. FixedDelay: restarts, whatever the cause and however far apart. FailureRate: failures within
    /// failureInterval. ExponentialDelay: errors of the job's own code with neither a completed checkpoint nor another failure between them;
    /// everything else restarts for ever. Counted by the jobmanager's process: another one begins at 0.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub attempts: u32,
    /// Interval in which failures are counted (FailureRate).
    pub failure_interval: HumanDuration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            strategy: None,
            delay: HumanDuration::from_millis(100),
            max_delay: HumanDuration::from_secs(60),
            reset_after: HumanDuration::from_secs(600),
            attempts: 10,
            failure_interval: HumanDuration::from_secs(60),
        }
    }
}

/// Names of the restart strategies, as in Flink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RestartStrategy {
    ExponentialDelay,
    FixedDelay,
    FailureRate,
    None,
}

/// Where keyed state lies while the job runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StateBackend {
    /// In memory.
    #[default]
    Hashmap,
    /// On the taskmanagers' disks, with a cache in memory: for state larger than memory.
    RocksDb,
}

/// What the disks of the RocksDb backend are like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RocksDbProfile {
    /// Small blocks, for disks that read at random quickly.
    #[default]
    Ssd,
    /// Large blocks and few, large files.
    SpinningDisk,
    /// Small files and buffers, for many instances in little memory.
    LowMemory,
}

/// Where keyed state lies while the job runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StateConfig {
    /// Hashmap: in memory. RocksDb: on the taskmanagers' disks, with a cache in memory; the job's binary must be built with it.
    pub backend: StateBackend,
    /// MiB of memory that the RocksDb backend may take in each taskmanager, for all operators together. Absent: 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub memory_mib: Option<u32>,
    /// Folder for the RocksDb backend's files, on a disk of the taskmanager's own. Absent: the folder for temporary files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What the RocksDb backend's disk is like.
    pub profile: RocksDbProfile,
}

/// Which snapshot the job starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RestoreConfig {
    /// `latest`, or the path of a savepoint or checkpoint. Absent: `latest` under the operator; on the command line a storage that
    /// already holds checkpoints of the job is then refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// State of operators that the job no longer has is dropped instead of refused.
    pub allow_non_restored_state: bool,
    /// Change it to go back to a snapshot older than the latest: side effects after it were already committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<i64>,
}

/// Whether a jobmanager starts the job by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartMode {
    /// Claim the log and start as soon as slots are there.
    #[default]
    Immediately,
    /// Build the graph, compare it with the latest snapshot, report, and wait for `POST /weir/v1/start`. A jobmanager whose
    /// deployment already holds the last claim does not wait: it resumes.
    Await,
}

/// Everything that decides how the job runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobConfig {
    pub job: JobName,
    /// Set by the operator; absent when started by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    pub parallelism: u32,
    /// Number of key groups: fixed for the job's life.
    #[serde(default = "default_max_parallelism")]
    pub max_parallelism: u32,
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    #[serde(default)]
    pub restart: RestartConfig,
    #[serde(default)]
    pub restore: RestoreConfig,
    #[serde(default)]
    pub start: StartMode,
    /// A batch that is not full leaves after this time at the latest.
    #[serde(default = "default_buffer_timeout")]
    pub buffer_timeout: HumanDuration,
    #[serde(default)]
    pub heartbeat: HeartbeatConfig,
    #[serde(default)]
    pub state: StateConfig,
}

impl JobConfig {
    pub fn new(job: JobName, parallelism: u32) -> Self {
        Self {
            job,
            deployment: None,
            parallelism,
            max_parallelism: default_max_parallelism(),
            checkpoint: CheckpointConfig::default(),
            restart: RestartConfig::default(),
            restore: RestoreConfig::default(),
            start: StartMode::default(),
            buffer_timeout: default_buffer_timeout(),
            heartbeat: HeartbeatConfig::default(),
            state: StateConfig::default(),
        }
    }
}

/// Default of `maxParallelism`.
pub const fn default_max_parallelism() -> u32 {
    128
}
/// Default of `bufferTimeout`.
pub const fn default_buffer_timeout() -> HumanDuration {
    HumanDuration::from_millis(10)
}

/// How a silent taskmanager (or jobmanager) is noticed; a closed connection is noticed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeartbeatConfig {
    pub interval: HumanDuration,
    pub timeout: HumanDuration,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self { interval: HumanDuration::from_millis(500), timeout: HumanDuration::from_secs(3) }
    }
}

/// Addresses of a jobmanager process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobManagerConfig {
    pub rest_address: String,
    pub rpc_address: String,
    pub job: JobConfig,
}

/// Addresses and slots of a taskmanager process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskManagerConfig {
    /// Name in REST bodies and logs; under Kubernetes the pod's name. Empty: host name and process id.
    #[serde(default)]
    pub id: String,
    /// `host:port` of the jobmanager's control port.
    pub jobmanager: String,
    pub slots: u32,
    /// Address on which data connections are taken.
    pub data_address: String,
    /// Host that the other taskmanagers reach it by; under Kubernetes the pod's address. Empty: the host of `data_address`.
    #[serde(default)]
    pub advertised_host: String,
    /// Address of `/metrics`, `/livez` and `/readyz`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_address: Option<String>,
}

/// What [`CONFIG_ENV`] holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessConfig {
    JobManager(Box<JobManagerConfig>),
    TaskManager(TaskManagerConfig),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let e = serde_json::from_str::<CheckpointConfig>(r#"{"intervall":"1s"}"#).unwrap_err().to_string();
        assert!(e.contains("unknown field `intervall`"), "{e}");
    }

    #[test]
    fn a_process_config_survives_json() {
        let job = JobConfig::new(JobName { namespace: "default".into(), name: "flights".into() }, 2);
        let c = ProcessConfig::JobManager(Box::new(JobManagerConfig {
            rest_address: "0.0.0.0:8081".into(),
            rpc_address: "0.0.0.0:6123".into(),
            job,
        }));
        assert_eq!(serde_json::from_str::<ProcessConfig>(&serde_json::to_string(&c).unwrap()).unwrap(), c);
    }
}
