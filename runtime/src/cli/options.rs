//! The runtime's options on the command line of every job: they fill the same typed configuration that the operator renders
//! into the environment variable `WEIR_CONFIG`.
use crate::error::{Error, ErrorCode, Result};
use clap::ValueEnum;
use weir_api::HumanDuration;
use weir_api::config::{
    CONFIG_ENV, CheckpointMode, DEFAULT_REST_PORT, DEFAULT_RPC_PORT, JobConfig, JobManagerConfig, MAX_MAX_PARALLELISM,
    ProcessConfig, RestartStrategy, Retention, RocksDbProfile, StateBackend, TaskManagerConfig,
};
use weir_api::ids::JobName;

/// Options that decide how the job runs. What is not given keeps the value of `WEIR_CONFIG`, or the default.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Runtime options")]
pub struct JobOptions {
    /// Name of the job: a folder of the checkpoint storage [default: the program's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Namespace of the job: the folder above it [default: default]
    #[arg(long)]
    pub namespace: Option<String>,
    /// Subtasks of each operator that does not fix its own number [default: 1]
    #[arg(long, short)]
    pub parallelism: Option<u32>,
    /// Number of key groups, fixed for the job's life [default: 128]
    #[arg(long)]
    pub max_parallelism: Option<u32>,
    /// Folder or URL of the checkpoint storage; without it nothing survives a restart
    #[arg(long, value_name = "DIR_OR_URL")]
    pub checkpoints: Option<String>,
    /// Time between two checkpoints, as in 500ms, 10s, 5m [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub checkpoint_interval: Option<HumanDuration>,
    /// A checkpoint that takes longer is aborted [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub checkpoint_timeout: Option<HumanDuration>,
    /// Least time between the end of a checkpoint and the start of the next [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub min_pause: Option<HumanDuration>,
    /// Checkpoints that may be under way at once [default: 1]
    #[arg(long)]
    pub max_concurrent_checkpoints: Option<u32>,
    /// Checkpoints in a row that may fail before the job is restarted [default: any number]
    #[arg(long)]
    pub tolerable_failed_checkpoints: Option<u32>,
    /// Completed checkpoints that are kept [default: 3]
    #[arg(long)]
    pub retained: Option<u32>,
    /// What happens to the checkpoints when the job ends
    #[arg(long)]
    pub retention: Option<RetentionOption>,
    /// Only count barriers instead of aligning them: after a failure a record may count twice
    #[arg(long)]
    pub at_least_once: bool,
    /// Snapshot to start from: latest, or the path of a savepoint or checkpoint
    #[arg(long, value_name = "latest|PATH")]
    pub restore: Option<String>,
    /// Drop the state of operators that the job no longer has, instead of refusing the snapshot
    #[arg(long)]
    pub allow_non_restored_state: bool,
    /// Change it to go back to a snapshot that is older than the latest
    #[arg(long)]
    pub restore_nonce: Option<i64>,
    /// Whether and when the job restarts after a failure [default: exponential-delay; none without --checkpoints]
    #[arg(long, value_name = "STRATEGY")]
    pub restart_strategy: Option<RestartOption>,
    /// Delay before the first restart (exponential-delay), before each (fixed-delay, failure-rate) [default: 100ms]
    #[arg(long, value_name = "DURATION")]
    pub restart_delay: Option<HumanDuration>,
    /// Longest delay between two restarts (exponential-delay) [default: 1m]
    #[arg(long, value_name = "DURATION")]
    pub restart_max_delay: Option<HumanDuration>,
    /// Time without a failure after which the delay starts over (exponential-delay) [default: 10m]
    #[arg(long, value_name = "DURATION")]
    pub restart_reset_after: Option<HumanDuration>,
    /// Restarts (fixed-delay), failures within the interval (failure-rate), or errors of the job's own code with no checkpoint
    /// between them (exponential-delay) before the job fails [default: 10]
    #[arg(long, value_name = "NUMBER")]
    pub restart_attempts: Option<u32>,
    /// Interval in which failures are counted (failure-rate) [default: 1m]
    #[arg(long, value_name = "DURATION")]
    pub restart_failure_interval: Option<HumanDuration>,
    /// A batch that is not full leaves after this time [default: 10ms]
    #[arg(long, value_name = "DURATION")]
    pub buffer_timeout: Option<HumanDuration>,
    /// Where keyed state lies: in memory, or on disk with a cache in memory (a binary with the feature rocksdb) [default: hashmap]
    #[arg(long, value_name = "BACKEND")]
    pub state_backend: Option<StateBackendOption>,
    /// MiB of memory that the backend rocks-db may take in each taskmanager [default: 256]
    #[arg(long, value_name = "MIB")]
    pub state_memory_mib: Option<u32>,
    /// Folder on a local disk for the backend rocks-db [default: that for temporary files]
    #[arg(long, value_name = "DIR")]
    pub state_directory: Option<String>,
    /// What that disk is like [default: ssd]
    #[arg(long, value_name = "PROFILE")]
    pub state_profile: Option<StateProfileOption>,
    /// Time between two signs of life of a process [default: 500ms]
    #[arg(long, value_name = "DURATION")]
    pub heartbeat_interval: Option<HumanDuration>,
    /// Silence after which a process counts as lost; a closed connection is noticed at once [default: 3s]
    #[arg(long, value_name = "DURATION")]
    pub heartbeat_timeout: Option<HumanDuration>,
}

/// [`Retention`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RetentionOption {
    RetainOnCancellation,
    DeleteOnCancellation,
    NeverRetain,
}

/// [`RestartStrategy`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RestartOption {
    ExponentialDelay,
    FixedDelay,
    FailureRate,
    None,
}

/// [`StateBackend`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateBackendOption {
    Hashmap,
    #[value(alias = "rocksdb")]
    RocksDb,
}

/// [`RocksDbProfile`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateProfileOption {
    Ssd,
    SpinningDisk,
    LowMemory,
}

/// Addresses of a jobmanager.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Addresses")]
pub struct JobManagerOptions {
    /// Address of the REST interface [default: 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    pub rest_address: Option<String>,
    /// Address for the taskmanagers' control connections [default: 127.0.0.1:6123]
    #[arg(long, value_name = "HOST:PORT")]
    pub rpc_address: Option<String>,
}

/// Addresses and slots of a taskmanager.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Runtime options")]
pub struct TaskManagerOptions {
    /// The jobmanager's control address [default: 127.0.0.1:6123]
    #[arg(long, value_name = "HOST:PORT")]
    pub jobmanager: Option<String>,
    /// Subtasks of each operator that this process can run [default: 1]
    #[arg(long)]
    pub slots: Option<u32>,
    /// Address for data connections of other taskmanagers [default: 127.0.0.1:0, a free port]
    #[arg(long, value_name = "HOST:PORT")]
    pub data_address: Option<String>,
    /// Host by which other taskmanagers reach this one [default: that of the data address]
    #[arg(long)]
    pub advertised_host: Option<String>,
    /// Address of /metrics, /livez and /readyz [default: none]
    #[arg(long, value_name = "HOST:PORT")]
    pub http_address: Option<String>,
    /// Name in REST bodies and logs [default: host name and process id]
    #[arg(long)]
    pub id: Option<String>,
}

fn config_error(message: impl std::fmt::Display) -> Error {
    Error::user(ErrorCode::Config, message)
}

/// What `WEIR_CONFIG` holds, if it is set.
pub fn from_environment(value: Option<&str>) -> Result<Option<ProcessConfig>> {
    let Some(text) = value.filter(|t| !t.trim().is_empty()) else { return Ok(None) };
    serde_json::from_str(text)
        .map(Some)
        .map_err(|e| config_error(format!("the environment variable {CONFIG_ENV} is not a process configuration: {e}")))
}

macro_rules! set {
    ($target:expr, $option:expr) => {
        if let Some(value) = $option.clone() {
            $target = value.into();
        }
    };
}

impl JobOptions {
    /// Fills the configuration of a job named `program`, starting from `base`.
    pub fn apply(&self, program: &str, base: Option<JobConfig>) -> Result<JobConfig> {
        let mut c = base
            .unwrap_or_else(|| JobConfig::new(JobName { namespace: "default".into(), name: program.to_owned() }, 1));
        set!(c.job.name, self.name);
        set!(c.job.namespace, self.namespace);
        set!(c.parallelism, self.parallelism);
        set!(c.max_parallelism, self.max_parallelism);
        set!(c.checkpoint.interval, self.checkpoint_interval);
        set!(c.checkpoint.timeout, self.checkpoint_timeout);
        set!(c.checkpoint.min_pause, self.min_pause);
        set!(c.checkpoint.max_concurrent, self.max_concurrent_checkpoints);
        set!(c.checkpoint.retained, self.retained);
        set!(c.restart.delay, self.restart_delay);
        set!(c.restart.max_delay, self.restart_max_delay);
        set!(c.restart.reset_after, self.restart_reset_after);
        set!(c.restart.attempts, self.restart_attempts);
        set!(c.restart.failure_interval, self.restart_failure_interval);
        set!(c.buffer_timeout, self.buffer_timeout);
        set!(c.heartbeat.interval, self.heartbeat_interval);
        set!(c.heartbeat.timeout, self.heartbeat_timeout);
        if let Some(storage) = &self.checkpoints {
            c.checkpoint.storage = Some(absolute(storage)?);
        }
        if self.tolerable_failed_checkpoints.is_some() {
            c.checkpoint.tolerable_failed = self.tolerable_failed_checkpoints;
        }
        if let Some(b) = self.state_backend {
            c.state.backend = match b {
                StateBackendOption::Hashmap => StateBackend::Hashmap,
                StateBackendOption::RocksDb => StateBackend::RocksDb,
            };
        }
        if let Some(p) = self.state_profile {
            c.state.profile = match p {
                StateProfileOption::Ssd => RocksDbProfile::Ssd,
                StateProfileOption::SpinningDisk => RocksDbProfile::SpinningDisk,
                StateProfileOption::LowMemory => RocksDbProfile::LowMemory,
            };
        }
        if self.state_memory_mib.is_some() {
            c.state.memory_mib = self.state_memory_mib;
        }
        if let Some(directory) = &self.state_directory {
            c.state.directory = Some(absolute(directory)?);
        }
        if let Some(r) = self.retention {
            c.checkpoint.retention = match r {
                RetentionOption::RetainOnCancellation => Retention::RetainOnCancellation,
                RetentionOption::DeleteOnCancellation => Retention::DeleteOnCancellation,
                RetentionOption::NeverRetain => Retention::NeverRetain,
            };
        }
        if let Some(s) = self.restart_strategy {
            c.restart.strategy = Some(match s {
                RestartOption::ExponentialDelay => RestartStrategy::ExponentialDelay,
                RestartOption::FixedDelay => RestartStrategy::FixedDelay,
                RestartOption::FailureRate => RestartStrategy::FailureRate,
                RestartOption::None => RestartStrategy::None,
            });
        }
        if self.at_least_once {
            c.checkpoint.mode = CheckpointMode::AtLeastOnce;
        }
        if let Some(from) = &self.restore {
            // a name that is no file here is one below the job's folder in the storage
            let is_file = from != "latest" && std::path::Path::new(from).exists();
            c.restore.from = Some(if is_file { absolute(from)? } else { from.clone() });
        }
        if self.restore_nonce.is_some() {
            c.restore.nonce = self.restore_nonce;
        }
        c.restore.allow_non_restored_state |= self.allow_non_restored_state;
        check(&c)?;
        Ok(c)
    }
}

/// A folder as people type it, relative to where they are; URLs stay as they are.
fn absolute(path: &str) -> Result<String> {
    if path.starts_with("file:") || path.starts_with("memory:") || path.contains("://") || path.is_empty() {
        return Ok(path.to_owned());
    }
    let absolute = std::path::absolute(path).map_err(|e| config_error(format!("{path:?} is not a folder: {e}")))?;
    Ok(absolute.display().to_string())
}

/// The ranges that the resource's schema states too.
fn check(c: &JobConfig) -> Result<()> {
    if c.max_parallelism == 0 || c.max_parallelism > MAX_MAX_PARALLELISM {
        let m = c.max_parallelism;
        return Err(config_error(format!("max parallelism {m} must lie between 1 and {MAX_MAX_PARALLELISM}")));
    }
    if c.parallelism == 0 || c.parallelism > c.max_parallelism {
        let (p, m) = (c.parallelism, c.max_parallelism);
        return Err(config_error(format!("parallelism {p} must lie between 1 and max parallelism ({m})")));
    }
    if c.checkpoint.interval.as_millis() < 10 {
        return Err(config_error("the checkpoint interval must be at least 10ms"));
    }
    if c.checkpoint.retained == 0 || c.checkpoint.max_concurrent == 0 {
        return Err(config_error("retained checkpoints and concurrent checkpoints must be at least 1"));
    }
    if c.checkpoint.max_concurrent > 16 {
        return Err(config_error("at most 16 checkpoints can be under way at once"));
    }
    if c.restart.delay > c.restart.max_delay {
        return Err(config_error("the restart delay must not be above the longest restart delay"));
    }
    if c.heartbeat.timeout <= c.heartbeat.interval {
        return Err(config_error("the heartbeat timeout must be longer than its interval"));
    }
    if c.restore.from.is_some() && c.checkpoint.storage.is_none() {
        return Err(config_error(
            "--restore needs --checkpoints: the storage that the job's log and checkpoints lie in",
        ));
    }
    crate::state::store::check(&c.state)?;
    for (what, part) in [("name", &c.job.name), ("namespace", &c.job.namespace)] {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        if part.is_empty() || part.len() > 253 || !part.bytes().all(ok) || part.starts_with(['.', '-']) {
            return Err(config_error(format!(
                "the job's {what} {part:?} must consist of small letters, digits, '-' and '.': it is a folder and a Kubernetes name"
            )));
        }
    }
    Ok(())
}

/// Configuration of a jobmanager from its options, the job's options and the environment.
pub fn jobmanager(
    program: &str,
    options: &JobManagerOptions,
    job: &JobOptions,
    env: Option<ProcessConfig>,
) -> Result<JobManagerConfig> {
    let base = match env {
        None => None,
        Some(ProcessConfig::JobManager(c)) => Some(*c),
        Some(ProcessConfig::TaskManager(_)) => {
            return Err(config_error(format!("{CONFIG_ENV} holds the configuration of a taskmanager")));
        }
    };
    let (rest, rpc, base) = match base {
        Some(c) => (c.rest_address, c.rpc_address, Some(c.job)),
        None => (format!("127.0.0.1:{DEFAULT_REST_PORT}"), format!("127.0.0.1:{DEFAULT_RPC_PORT}"), None),
    };
    let mut c = JobManagerConfig { rest_address: rest, rpc_address: rpc, job: job.apply(program, base)? };
    set!(c.rest_address, options.rest_address);
    set!(c.rpc_address, options.rpc_address);
    Ok(c)
}

/// Configuration of a taskmanager from its options and the environment.
pub fn taskmanager(options: &TaskManagerOptions, env: Option<ProcessConfig>) -> Result<TaskManagerConfig> {
    let mut c = match env {
        Some(ProcessConfig::TaskManager(c)) => c,
        Some(ProcessConfig::JobManager(_)) => {
            return Err(config_error(format!("{CONFIG_ENV} holds the configuration of a jobmanager")));
        }
        None => TaskManagerConfig {
            id: String::new(),
            jobmanager: format!("127.0.0.1:{DEFAULT_RPC_PORT}"),
            slots: 1,
            data_address: "127.0.0.1:0".into(),
            advertised_host: String::new(),
            http_address: None,
        },
    };
    set!(c.jobmanager, options.jobmanager);
    set!(c.slots, options.slots);
    set!(c.data_address, options.data_address);
    set!(c.advertised_host, options.advertised_host);
    set!(c.id, options.id);
    if options.http_address.is_some() {
        c.http_address.clone_from(&options.http_address);
    }
    if c.slots == 0 {
        return Err(config_error("a taskmanager needs at least 1 slot"));
    }
    Ok(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::config::{CheckpointConfig, HeartbeatConfig, RestartConfig, RestoreConfig, StateConfig};

    #[test]
    fn options_win_over_the_environment_and_the_rest_stays() {
        let mut job = JobConfig::new(JobName { namespace: "ns".into(), name: "flights".into() }, 4);
        job.checkpoint.storage = Some("file:///chk".into());
        let env = JobManagerConfig { rest_address: "0.0.0.0:1".into(), rpc_address: "0.0.0.0:2".into(), job };
        let text = serde_json::to_string(&ProcessConfig::JobManager(Box::new(env))).unwrap();
        let env = from_environment(Some(&text)).unwrap();
        let options = JobOptions { parallelism: Some(2), ..Default::default() };
        let c = jobmanager("program", &JobManagerOptions::default(), &options, env).unwrap();
        assert_eq!((c.rest_address.as_str(), c.job.parallelism, c.job.job.name.as_str()), ("0.0.0.0:1", 2, "flights"));
        assert_eq!(c.job.checkpoint.storage.as_deref(), Some("file:///chk"));
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        job: JobOptions,
    }

    #[test]
    fn every_field_of_the_configuration_has_an_option() {
        let line = "job --name other --namespace ns --parallelism 3 --max-parallelism 256 --checkpoints /chk \
            --checkpoint-interval 1s --checkpoint-timeout 2s --min-pause 3ms --max-concurrent-checkpoints 2 \
            --tolerable-failed-checkpoints 4 --retained 5 --retention never-retain --at-least-once --restore latest \
            --allow-non-restored-state --restore-nonce 6 --restart-strategy failure-rate --restart-delay 7s \
            --restart-max-delay 8s --restart-reset-after 9s --restart-attempts 11 --restart-failure-interval 12s \
            --buffer-timeout 13ms --heartbeat-interval 14ms --heartbeat-timeout 15ms --state-backend hashmap \
            --state-memory-mib 17 --state-directory /state --state-profile low-memory";
        let options = <Line as clap::Parser>::parse_from(line.split_whitespace()).job;
        // a field that is added does not compile here until it is decided what sets it
        let JobConfig {
            job: JobName { namespace, name },
            deployment: _, // the operator's
            start: _,      // the operator's
            parallelism,
            max_parallelism,
            checkpoint,
            restart,
            restore,
            buffer_timeout,
            heartbeat,
            state,
        } = options.apply("flights", None).unwrap();
        assert_eq!((namespace.as_str(), name.as_str(), parallelism, max_parallelism), ("ns", "other", 3, 256));
        let ms = HumanDuration::from_millis;
        let expected = CheckpointConfig {
            storage: Some("/chk".into()),
            interval: ms(1000),
            timeout: ms(2000),
            min_pause: ms(3),
            max_concurrent: 2,
            tolerable_failed: Some(4),
            retained: 5,
            retention: Retention::NeverRetain,
            mode: CheckpointMode::AtLeastOnce,
        };
        assert_eq!(checkpoint, expected);
        let expected = RestartConfig {
            strategy: Some(RestartStrategy::FailureRate),
            delay: ms(7000),
            max_delay: ms(8000),
            reset_after: ms(9000),
            attempts: 11,
            failure_interval: ms(12_000),
        };
        assert_eq!(restart, expected);
        let expected = RestoreConfig { from: Some("latest".into()), allow_non_restored_state: true, nonce: Some(6) };
        assert_eq!(restore, expected);
        assert_eq!((buffer_timeout, heartbeat), (ms(13), HeartbeatConfig { interval: ms(14), timeout: ms(15) }));
        let expected = StateConfig {
            backend: StateBackend::Hashmap,
            memory_mib: Some(17),
            directory: Some("/state".into()),
            profile: RocksDbProfile::LowMemory,
        };
        assert_eq!(state, expected);
    }

    #[test]
    fn a_backend_that_is_not_in_the_binary_or_has_too_little_memory_is_refused() {
        let rocks = |memory| JobOptions {
            state_backend: Some(StateBackendOption::RocksDb),
            state_memory_mib: memory,
            ..Default::default()
        };
        let of = |memory| rocks(memory).apply("flights", None).map(|c| c.state.backend).map_err(|e| e.to_string());
        if cfg!(feature = "rocksdb") {
            assert_eq!(of(None), Ok(StateBackend::RocksDb));
            assert!(of(Some(39)).unwrap_err().contains("needs at least 40 MiB"));
        } else {
            assert!(of(None).unwrap_err().contains("build the job with the feature `rocksdb`"));
        }
    }

    #[test]
    fn a_relative_folder_is_taken_from_here_and_a_url_stays() {
        let storage = |given: &str| {
            let o = JobOptions { checkpoints: Some(given.into()), ..Default::default() };
            o.apply("flights", None).unwrap().checkpoint.storage.unwrap()
        };
        let here = std::env::current_dir().unwrap().join("chk").display().to_string();
        assert_eq!([storage("chk"), storage("./chk")], [here.clone(), here]);
        assert_eq!([storage("/c"), storage("file:///c"), storage("s3://b/c")], ["/c", "file:///c", "s3://b/c"]);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let message = |o: JobOptions| o.apply("flights", None).unwrap_err().to_string();
        let o = JobOptions::default;
        assert!(message(JobOptions { parallelism: Some(0), ..o() }).contains("parallelism 0 must lie between 1 and"));
        assert!(message(JobOptions { max_parallelism: Some(40_000), ..o() }).contains("max parallelism 40000"));
        assert!(message(JobOptions { name: Some("../x".into()), ..o() }).contains("name \"../x\""));
        assert!(message(JobOptions { max_concurrent_checkpoints: Some(17), ..o() }).contains("at most 16"));
        let restart_delay = Some(HumanDuration::from_secs(61));
        assert!(message(JobOptions { restart_delay, ..o() }).contains("longest restart delay"));
        assert!(message(JobOptions { restore: Some("latest".into()), ..o() }).contains("--checkpoints"));
        let e = from_environment(Some("{\"nodeManager\":{}}")).unwrap_err().to_string();
        assert!(e.contains("WEIR_CONFIG") && e.contains("nodeManager"), "{e}");
    }
}
