//! Builds and runs a taskmanager's share of an attempt: channels, chains, tasks.
use super::task::{TaskCommand, TaskEvent, TaskId, Uploader};
use crate::checkpoint::handles::TaskRestore;
use crate::error::{Error, Result};
use crate::graph::{JobGraph, LogicalGraph};
use crate::observe::TaskMetrics;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use weir_api::ids::Attempt;

/// What the jobmanager sends to each taskmanager to start an attempt. Both derive the same [`JobGraph`] from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    pub attempt: Attempt,
    pub parallelism: u32,
    pub max_parallelism: u32,
    pub buffer_timeout_ms: u64,
    /// The taskmanagers that take part, by position.
    pub taskmanagers: Vec<TaskManagerAddress>,
    /// Position (in `taskmanagers`) of the taskmanager of each slot; subtask i of every vertex runs in slot i.
    pub slots: Vec<u32>,
    /// What the receiver's own tasks start from. A task that is not named starts new.
    pub restore: Vec<(TaskId, TaskRestore)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskManagerAddress {
    pub id: String,
    /// `host:port` of its data connections.
    pub data_address: String,
}

/// What of the taskmanager an attempt runs on.
#[derive(Clone)]
pub struct Environment {
    /// Position of this taskmanager in [`Deployment::taskmanagers`].
    pub me: u32,
    /// Runtime of the tasks.
    pub data: tokio::runtime::Handle,
    /// Runtime of everything else.
    pub control: tokio::runtime::Handle,
    pub uploader: Arc<dyn Uploader>,
    /// Reads a snapshot file whole and checks its size and checksum.
    pub files: Arc<dyn FileReader>,
    pub events: mpsc::UnboundedSender<(TaskId, TaskEvent)>,
}

/// Reads snapshot files for a restore.
pub trait FileReader: Send + Sync {
    fn read(
        &self,
        file: crate::checkpoint::handles::FileHandle,
    ) -> futures::future::BoxFuture<'static, Result<bytes::Bytes>>;
}

/// The running tasks of one attempt on one taskmanager.
pub struct RunningAttempt {
    tasks: Vec<(TaskId, mpsc::UnboundedSender<TaskCommand>, tokio::task::JoinHandle<()>, TaskMetrics)>,
}

impl RunningAttempt {
    /// Builds all tasks of this taskmanager and starts them. On an error nothing runs.
    pub async fn start(_graph: &LogicalGraph, _plan: &JobGraph, _d: Deployment, _env: Environment) -> Result<Self> {
        Err(Error::internal("not built yet"))
    }

    /// Sends a command: `Trigger` to the sources, the others to every task.
    pub fn command(&self, _command: &TaskCommand) {}

    /// The counters of each task.
    pub fn metrics(&self) -> impl Iterator<Item = (TaskId, &TaskMetrics)> {
        self.tasks.iter().map(|t| (t.0, &t.3))
    }

    /// Ends all tasks at their next await and waits until they are gone; they emit no event any more.
    pub async fn cancel(self) {
        for t in &self.tasks {
            t.2.abort();
        }
        for t in self.tasks {
            let _ = t.2.await;
        }
    }

    /// How long a batch may wait.
    pub fn buffer_timeout(d: &Deployment) -> Duration {
        Duration::from_millis(d.buffer_timeout_ms)
    }
}
