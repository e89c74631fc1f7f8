//! Runs an attempt in this process without a jobmanager: for tests and benchmarks of the data path.
use super::Clock;
use super::deploy::{Deployment, Environment, FileReader, RunningAttempt, TaskManagerAddress};
use super::task::{TaskCommand, TaskEvent, TaskId, Uploader};
use crate::checkpoint::handles::{
    Barrier, Bytes64, FileHandle, OperatorRestore, SPLITS, SnapshotKind, TaskRestore, TaskSnapshot,
};
use crate::error::{Error, Result};
use crate::exchange::Channels;
use crate::graph::{JobGraph, LogicalGraph};
use crate::state::snapshot::SnapshotParts;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use weir_api::ids::{Attempt, CheckpointId};

/// One process, one attempt, `parallelism` slots.
pub struct Harness {
    plan: Arc<JobGraph>,
    attempt: RunningAttempt,
    events: mpsc::UnboundedReceiver<(TaskId, TaskEvent)>,
    next_checkpoint: u64,
    ended: BTreeSet<TaskId>,
}

/// Keeps operator lists, drops keyed state: enough where nothing is restored from it.
struct NoFiles;

impl Uploader for NoFiles {
    fn upload(
        &self,
        _task: TaskId,
        _barrier: Barrier,
        parts: SnapshotParts,
    ) -> BoxFuture<'static, Result<TaskSnapshot>> {
        let mut snapshot = TaskSnapshot::default();
        for (operator, lists) in parts.lists {
            snapshot.operators.entry(operator).or_default().lists = lists;
        }
        std::future::ready(Ok(snapshot)).boxed()
    }
}

impl FileReader for NoFiles {
    fn read(&self, file: FileHandle) -> BoxFuture<'static, Result<Bytes>> {
        std::future::ready(Err(Error::internal(format!("the harness has no file {}", file.path)))).boxed()
    }
}

impl Harness {
    /// Starts the job new, on the current runtime.
    pub async fn start(graph: LogicalGraph, parallelism: u32) -> Result<Self> {
        let max_parallelism = 128;
        graph.validate(max_parallelism)?;
        let plan = Arc::new(JobGraph::new(&graph, parallelism, max_parallelism));
        let restore = initial_splits(&graph, &plan)?;
        let deployment = Deployment {
            attempt: Attempt(1),
            parallelism,
            max_parallelism,
            buffer_timeout_ms: 10,
            taskmanagers: vec![TaskManagerAddress { id: "local".into(), data_address: String::new() }],
            slots: vec![0; plan.slots() as usize],
            restore,
        };
        let (sender, events) = mpsc::unbounded_channel();
        let handle = tokio::runtime::Handle::current();
        let none = Arc::new(NoFiles);
        let env = Environment {
            me: 0,
            channels: Channels::in_process(Attempt(1)),
            data: handle.clone(),
            control: handle,
            uploader: none.clone(),
            files: none,
            events: sender,
            clock: Clock::system(),
        };
        let attempt = RunningAttempt::start(Arc::new(graph), plan.clone(), deployment, env).await?;
        Ok(Self { plan, attempt, events, next_checkpoint: 1, ended: BTreeSet::new() })
    }

    /// Takes a snapshot of this kind; [`Self::complete`] or [`Self::abort`] decides what becomes of it.
    pub async fn snapshot(&mut self, kind: SnapshotKind) -> Result<(CheckpointId, BTreeMap<TaskId, TaskSnapshot>)> {
        let id = CheckpointId(self.next_checkpoint);
        self.next_checkpoint += 1;
        let barrier = Barrier { id, attempt: Attempt(1), kind, directory: format!("chk-{id}"), aligned: true };
        self.attempt.command(&TaskCommand::Trigger(barrier));
        let mut all = BTreeMap::new();
        while all.len() < self.plan.tasks() as usize {
            match self.event().await? {
                (task, TaskEvent::Snapshot { checkpoint, snapshot }) if checkpoint == id => {
                    all.insert(task, snapshot);
                }
                (_, TaskEvent::Declined { reason, .. }) => return Err(reason),
                _ => {}
            }
        }
        Ok((id, all))
    }

    pub fn complete(&self, id: CheckpointId) {
        self.attempt.command(&TaskCommand::Complete(id));
    }

    pub fn abort(&self, id: CheckpointId) {
        self.attempt.command(&TaskCommand::Aborted(id));
    }

    async fn event(&mut self) -> Result<(TaskId, TaskEvent)> {
        match self.events.recv().await {
            Some((task, TaskEvent::SourceEnded)) => {
                self.ended.insert(task);
                Ok((task, TaskEvent::SourceEnded))
            }
            Some((_, TaskEvent::Failed(e))) => Err(e),
            Some(event) => Ok(event),
            None => Err(Error::internal("the tasks are gone")),
        }
    }

    /// Waits until all sources have ended, commits, and waits for all tasks to end.
    pub async fn finish(mut self) -> Result<()> {
        let sources: u32 = self.plan.vertices.iter().filter(|v| v.is_source).map(|v| v.parallelism).sum();
        while self.ended.len() < sources as usize {
            self.event().await?;
        }
        let (last, _) = self.snapshot(SnapshotKind::Final).await?;
        self.complete(last);
        let mut finished = 0;
        while finished < self.plan.tasks() {
            if let (_, TaskEvent::Finished) = self.event().await? {
                finished += 1;
            }
        }
        Ok(())
    }
}

/// Splits of all sources for a job that starts new, spread over their subtasks.
pub fn initial_splits(graph: &LogicalGraph, plan: &JobGraph) -> Result<Vec<(TaskId, TaskRestore)>> {
    let mut all = Vec::new();
    for vertex in plan.vertices.iter().filter(|v| v.is_source) {
        let node = &graph.nodes[vertex.nodes[0]];
        let splits = node.factory.enumerate(vertex.parallelism)?;
        for subtask in 0..vertex.parallelism {
            let mine = splits.iter().skip(subtask as usize).step_by(vertex.parallelism as usize);
            let mut operator = OperatorRestore::default();
            operator.lists.insert(SPLITS.into(), mine.cloned().map(Bytes64).collect());
            let restore = TaskRestore { operators: BTreeMap::from([(node.name.clone(), operator)]) };
            all.push((TaskId { vertex: vertex.id, subtask }, restore));
        }
    }
    Ok(all)
}
