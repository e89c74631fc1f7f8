//! What a task is told and what it tells: commands in, events out. The loops are in `source_task` and `input_task`.
use super::Clock;
use crate::checkpoint::handles::{Barrier, TaskSnapshot};
use crate::error::{Error, Result};
use crate::observe::TaskMetrics;
use crate::state::snapshot::SnapshotParts;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use weir_api::ids::CheckpointId;

/// A subtask of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    pub vertex: u32,
    pub subtask: u32,
}

/// From the jobmanager (by way of the taskmanager) to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskCommand {
    /// To sources: send this barrier.
    Trigger(Barrier),
    /// To all tasks: the checkpoint is complete.
    Complete(CheckpointId),
    /// To all tasks: the checkpoint will never complete. Sources that paused for it resume.
    Aborted(CheckpointId),
}

/// From a task to the jobmanager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskEvent {
    Running,
    /// A source has read all its splits. It stays, and answers barriers, until a barrier that ends tasks.
    SourceEnded,
    Snapshot {
        checkpoint: CheckpointId,
        snapshot: TaskSnapshot,
    },
    Declined {
        checkpoint: CheckpointId,
        reason: Error,
    },
    /// Ended after a completed snapshot that ends tasks.
    Finished,
    Failed(Error),
}

/// Writes frozen state to the checkpoint storage.
pub trait Uploader: Send + Sync {
    /// Writes the files of one task's snapshot; runs beside the task.
    fn upload(&self, task: TaskId, barrier: Barrier, parts: SnapshotParts) -> BoxFuture<'static, Result<TaskSnapshot>>;
    /// The checkpoint is in the log; later ones may build on its files.
    fn completed(&self, _id: CheckpointId) {}
    /// The checkpoint will never complete; its files are deleted.
    fn aborted(&self, _id: CheckpointId) {}
    /// The tasks are gone: gives up what is under way, and is done when nobody writes any more.
    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// What a task needs from its taskmanager.
pub struct TaskIo {
    pub id: TaskId,
    pub commands: mpsc::UnboundedReceiver<TaskCommand>,
    pub events: mpsc::UnboundedSender<(TaskId, TaskEvent)>,
    pub uploader: Arc<dyn Uploader>,
    /// Where uploads run: the control plane's runtime.
    pub control: tokio::runtime::Handle,
    pub buffer_timeout: Duration,
    /// For processing-time timers.
    pub clock: Clock,
    pub metrics: TaskMetrics,
}

/// A built task, ready to run. The future ends after `Finished` or with the error; dropping it cancels the task.
pub trait TaskBody: Send {
    fn run(self: Box<Self>, io: TaskIo) -> BoxFuture<'static, Result<()>>;
}
