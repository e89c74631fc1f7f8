//! Runs an attempt in this process without a jobmanager: for tests and benchmarks of the data path.
use super::Clock;
use super::deploy::{Deployment, Environment, RunningAttempt, TaskManagerAddress};
use super::task::{TaskCommand, TaskEvent, TaskId};
use crate::checkpoint::handles::{Barrier, Bytes64, OperatorRestore, SPLITS, SnapshotKind, TaskRestore, TaskSnapshot};
use crate::checkpoint::manifest::{JobSpec, Manifest, SnapshotHead};
use crate::checkpoint::restore;
use crate::checkpoint::storage::Storage;
use crate::error::{Error, Result};
use crate::exchange::Channels;
use crate::graph::{JobGraph, LogicalGraph};
use crate::taskmanager::upload::{StorageFiles, StorageUploader};
use crate::testing::Activity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use tokio::sync::mpsc;
use weir_api::config::{StateBackend, StateConfig};
use weir_api::ids::{Attempt, CheckpointId, JobName};

/// The job that the harness runs, for its folder in the storage.
pub fn job() -> JobName {
    JobName { namespace: "test".into(), name: "job".into() }
}

/// One process, one attempt, `parallelism` slots.
pub struct Harness {
    plan: Arc<JobGraph>,
    spec: JobSpec,
    setup: Setup,
    attempt: RunningAttempt,
    events: mpsc::UnboundedReceiver<(TaskId, TaskEvent)>,
    next_checkpoint: u64,
    ended: BTreeSet<TaskId>,
}

/// How an attempt runs.
#[derive(Clone)]
pub struct Setup {
    pub parallelism: u32,
    pub attempt: u64,
    /// Where keyed state is written to; none: snapshots hold lists only.
    pub storage: Option<Storage>,
    /// For processing-time timers.
    pub clock: Clock,
    /// Where keyed state lies.
    pub state: StateConfig,
    /// Watches the tasks.
    pub activity: Option<Activity>,
}

impl Setup {
    /// The first attempt, without storage, by the system's clock.
    pub fn new(parallelism: u32) -> Self {
        let state = StateConfig::default();
        Self { parallelism, attempt: 1, storage: None, clock: Clock::system(), state, activity: None }
    }
}

/// What [`Harness::restore`] starts from.
pub type Snapshot = (CheckpointId, BTreeMap<TaskId, TaskSnapshot>);

pub(crate) const MAX_PARALLELISM: u32 = 128;

/// Threads for uploads, as a taskmanager has: a task may wait for an upload, and one that it started on its own threads might stay
/// with the very thread that waits.
fn uploads() -> Result<tokio::runtime::Handle> {
    static UPLOADS: OnceLock<Result<tokio::runtime::Runtime, String>> = OnceLock::new();
    let new = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = UPLOADS.get_or_init(|| new().map_err(|e| e.to_string()));
    let failed = |e| Error::internal(format!("cannot start threads for uploads: {e}"));
    runtime.as_ref().map(|r| r.handle().clone()).map_err(failed)
}

impl Harness {
    /// Starts the job new, on the current runtime.
    pub async fn start(graph: LogicalGraph, parallelism: u32) -> Result<Self> {
        Self::start_with(graph, Setup::new(parallelism)).await
    }

    /// Starts the job new.
    pub async fn start_with(graph: LogicalGraph, setup: Setup) -> Result<Self> {
        graph.validate(MAX_PARALLELISM)?;
        let plan = JobGraph::new(&graph, setup.parallelism, MAX_PARALLELISM);
        let restore = initial_splits(&graph, &plan)?;
        Self::run(graph, plan, setup, restore).await
    }

    /// Starts the job, declared anew, from a snapshot that this attempt took; the parallelism may be another one. Uncommitted
    /// records of the old attempt are those that come again: cancel it before.
    pub async fn restore(self, snapshot: &Snapshot, graph: LogicalGraph, parallelism: u32) -> Result<Self> {
        let Self { spec: old, mut setup, attempt, .. } = self;
        attempt.cancel().await;
        (setup.attempt, setup.parallelism) = (setup.attempt + 1, parallelism);
        graph.validate(MAX_PARALLELISM)?;
        let plan = JobGraph::new(&graph, parallelism, MAX_PARALLELISM);
        let head = SnapshotHead {
            id: snapshot.0,
            attempt: Attempt(setup.attempt - 1),
            kind: SnapshotKind::Checkpoint,
            directory: format!("chk-{}", snapshot.0),
            created_at: 0,
        };
        let manifest = Manifest::build(&old, &head, &snapshot.1)?;
        let spec = JobSpec::new(&job(), &graph, &plan, parallelism);
        restore::check(&manifest, &spec, false)?;
        let mut restore = restore::assign(&manifest, &spec);
        // a source that is new in the job starts with its splits
        for (task, new) in initial_splits(&graph, &plan)? {
            for (operator, splits) in new.operators {
                if !manifest.operators.iter().any(|o| o.name == operator) {
                    restore.entry(task).or_default().operators.insert(operator, splits);
                }
            }
        }
        let restore = restore.into_iter().collect();
        Self::run(graph, plan, setup, restore).await
    }

    /// Where keyed state lies from the next [`Self::restore`] on.
    pub fn keep_state_in(&mut self, state: StateConfig) {
        self.setup.state = state;
    }

    async fn run(
        graph: LogicalGraph,
        plan: JobGraph,
        setup: Setup,
        restore: Vec<(TaskId, TaskRestore)>,
    ) -> Result<Self> {
        let (plan, id) = (Arc::new(plan), Attempt(setup.attempt));
        let spec = JobSpec::new(&job(), &graph, &plan, setup.parallelism);
        let deployment = Deployment {
            attempt: id,
            parallelism: setup.parallelism,
            max_parallelism: MAX_PARALLELISM,
            buffer_timeout_ms: 10,
            taskmanagers: vec![TaskManagerAddress { id: "local".into(), data_address: String::new() }],
            slots: vec![0; plan.slots() as usize],
            state: setup.state.clone(),
            restore,
        };
        let (sender, events) = mpsc::unbounded_channel();
        let handle = tokio::runtime::Handle::current();
        let control = match setup.state.backend {
            StateBackend::RocksDb => uploads()?,
            StateBackend::Hashmap => handle.clone(),
        };
        let env = Environment {
            me: 0,
            channels: Channels::in_process(id),
            data: handle.into(),
            control,
            uploader: Arc::new(StorageUploader::new(setup.storage.clone(), plan.clone(), &deployment.restore)),
            files: Arc::new(StorageFiles(setup.storage.clone())),
            events: sender,
            clock: setup.clock.clone(),
            activity: setup.activity.clone(),
        };
        let attempt = RunningAttempt::start(Arc::new(graph), plan.clone(), deployment, env).await?;
        Ok(Self { plan, spec, setup, attempt, events, next_checkpoint: 1, ended: BTreeSet::new() })
    }

    /// Takes a snapshot of this kind; [`Self::complete`] or [`Self::abort`] decides what becomes of it.
    pub async fn snapshot(&mut self, kind: SnapshotKind) -> Result<Snapshot> {
        let id = CheckpointId(self.next_checkpoint);
        self.next_checkpoint += 1;
        let barrier =
            Barrier { id, attempt: Attempt(self.setup.attempt), kind, directory: format!("chk-{id}"), aligned: true };
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

    /// The error of a task that has failed meanwhile.
    pub fn check(&mut self) -> Result<()> {
        while let Ok((task, event)) = self.events.try_recv() {
            match event {
                TaskEvent::SourceEnded => _ = self.ended.insert(task),
                TaskEvent::Failed(e) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until all sources have ended.
    pub async fn sources_ended(&mut self) -> Result<()> {
        let sources: u32 = self.plan.vertices.iter().filter(|v| v.is_source).map(|v| v.parallelism).sum();
        while self.ended.len() < sources as usize {
            self.event().await?;
        }
        Ok(())
    }

    /// Waits until all sources have ended, commits, and waits for all tasks to end.
    pub async fn finish(mut self) -> Result<()> {
        self.sources_ended().await?;
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
