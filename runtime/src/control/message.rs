//! What jobmanager and taskmanagers tell each other. Every message that concerns tasks carries the attempt.
use crate::checkpoint::handles::TaskRestore;
use crate::dataflow::deploy::Deployment;
use crate::dataflow::task::{TaskCommand, TaskEvent, TaskId};
use crate::error::Error;
use crate::job::alignment::Slowest;
use crate::observe::TaskMetrics;
use serde::{Deserialize, Serialize};
use weir_api::config::HeartbeatConfig;
use weir_api::ids::{Attempt, JobName};

/// From a taskmanager. The first message of a connection is `Hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToJobManager {
    Hello(Hello),
    Task {
        attempt: Attempt,
        task: TaskId,
        event: TaskEvent,
    },
    Heartbeat(Heartbeat),
    /// The attempt could not be started here; nothing of it runs.
    DeployFailed {
        attempt: Attempt,
        error: Error,
    },
    /// No task of this attempt, nor of an earlier one, runs here any more.
    Gone {
        attempt: Attempt,
    },
    /// The taskmanager is about to end (SIGTERM): its slots are gone.
    Leaving,
}

/// Who wants to register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub id: String,
    pub slots: u32,
    /// `host:port` that other taskmanagers reach its data connections by.
    pub data_address: String,
    /// [`crate::graph::LogicalGraph::fingerprint`] of the graph that the process built.
    pub fingerprint: String,
    pub pid: u32,
    /// The highest attempt that it has followed; it takes no task of this one or an earlier one any more.
    #[serde(default)]
    pub highest: Attempt,
}

/// To a taskmanager. The first message of a connection is `Welcome` or `Refused`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToTaskManager {
    Welcome(Welcome),
    /// The connection ends after it; the sentence says what to do.
    Refused {
        reason: String,
    },
    /// What a task of the attempt starts from; these come before the attempt's `Deploy`, one for each task that does not start
    /// new, so that no message grows with the number of tasks.
    Restore {
        attempt: Attempt,
        task: TaskId,
        restore: TaskRestore,
    },
    Deploy {
        /// Position of the receiver in the deployment's taskmanagers.
        me: u32,
        deployment: Box<Deployment>,
    },
    /// End all tasks of this attempt and of earlier ones; answered with `Gone`.
    Cancel {
        attempt: Attempt,
    },
    Command {
        attempt: Attempt,
        command: TaskCommand,
    },
    Heartbeat,
    /// How far the sources of each alignment group are on the other taskmanagers of this attempt.
    Alignment {
        attempt: Attempt,
        others: Slowest,
    },
    /// The job has ended for good and nobody will come for these slots: a taskmanager that was started by hand ends too.
    JobEnded,
}

/// What a taskmanager has to know once it is registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    pub job: JobName,
    /// The highest attempt so far; tasks of earlier ones end.
    pub attempt: Attempt,
    pub heartbeat: HeartbeatConfig,
    /// Checkpoint storage of the job; none: no checkpoints.
    pub storage: Option<String>,
}

/// Sign of life, with the counters of the running tasks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub attempt: Attempt,
    pub tasks: Vec<(TaskId, TaskCounters)>,
    /// How far the sources of each alignment group are here.
    #[serde(default, skip_serializing_if = "Slowest::is_empty")]
    pub alignment: Slowest,
    /// Resident memory of the process in bytes; 0 where it is not known.
    pub resident_bytes: u64,
}

/// The counters of [`TaskMetrics`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskCounters {
    pub records_in: u64,
    pub records_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub bad_records: u64,
    pub dropped_records: u64,
    pub busy_micros: u64,
    pub idle_micros: u64,
    pub backpressured_micros: u64,
    /// Event time reached, ms since the Unix epoch; none before the first watermark.
    pub watermark: Option<i64>,
}

impl From<&TaskMetrics> for TaskCounters {
    fn from(m: &TaskMetrics) -> Self {
        Self {
            records_in: m.records_in(),
            records_out: m.records_out(),
            bytes_in: m.bytes_in(),
            bytes_out: m.bytes_out(),
            bad_records: m.bad_records(),
            dropped_records: m.dropped_records(),
            busy_micros: m.busy_micros(),
            idle_micros: m.idle_micros(),
            backpressured_micros: m.backpressured_micros(),
            watermark: Some(m.watermark()).filter(|w| *w > i64::MIN),
        }
    }
}

impl std::ops::Add for TaskCounters {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self {
            records_in: self.records_in + o.records_in,
            records_out: self.records_out + o.records_out,
            bytes_in: self.bytes_in + o.bytes_in,
            bytes_out: self.bytes_out + o.bytes_out,
            bad_records: self.bad_records + o.bad_records,
            dropped_records: self.dropped_records + o.dropped_records,
            busy_micros: self.busy_micros + o.busy_micros,
            idle_micros: self.idle_micros + o.idle_micros,
            backpressured_micros: self.backpressured_micros + o.backpressured_micros,
            // the slowest of those that have event time
            watermark: self.watermark.into_iter().chain(o.watermark).min(),
        }
    }
}
