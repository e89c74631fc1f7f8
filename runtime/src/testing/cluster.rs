//! A whole cluster in this process: a real jobmanager and real taskmanagers run the job, and a test kills what it likes.
use super::folder::Folder;
use super::members::{JobManagerMember, TaskManagerMember, listen};
use crate::connectors::source::Source;
use crate::control::ToJobManager;
use crate::dataflow::task::{TaskEvent, TaskId};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{JobGraph, LogicalGraph};
use crate::job::Job;
use crate::jobmanager::master::{Event, Master};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use weir_api::config::{JobConfig, RestartConfig, RestartStrategy, RestoreConfig, StartMode};
use weir_api::duration::HumanDuration;
use weir_api::ids::JobName;
use weir_api::rest::{
    JobManagerPhase, OperationState, RescaleRequest, SavepointRequest, StartRequest, StopRequest, WeirStatus,
};
use weir_api::status::TerminalStatus;

/// How a [`Cluster`] is made; [`Self::start`] starts the job in it.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    parallelism: u32,
    max_parallelism: u32,
    taskmanagers: u32,
    slots: Option<u32>,
    checkpoints: Duration,
    restart: RestartConfig,
    storage: Option<String>,
    patience: Duration,
}

impl ClusterOptions {
    /// One taskmanager, a checkpoint every 20 ms in a folder of its own, restarts without much delay.
    pub fn new(parallelism: u32) -> Self {
        let restart = RestartConfig {
            delay: HumanDuration::from_millis(1),
            max_delay: HumanDuration::from_millis(100),
            ..RestartConfig::default()
        };
        Self {
            parallelism,
            max_parallelism: 128,
            taskmanagers: 1,
            slots: None,
            checkpoints: Duration::from_millis(20),
            restart,
            storage: None,
            patience: Duration::from_secs(120),
        }
    }
    /// So many taskmanagers, which exchange records over TCP.
    #[must_use]
    pub fn taskmanagers(mut self, n: u32) -> Self {
        self.taskmanagers = n.max(1);
        self
    }
    /// Slots of each taskmanager. Without it 4, or more if the job needs them.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }
    /// Number of key groups.
    #[must_use]
    pub fn max_parallelism(mut self, max_parallelism: u32) -> Self {
        self.max_parallelism = max_parallelism;
        self
    }
    /// Time between the starts of two checkpoints; at least 10 ms.
    #[must_use]
    pub fn checkpoint_interval(mut self, interval: Duration) -> Self {
        self.checkpoints = interval;
        self
    }
    /// The job fails with the first error of a task, as with Flink's `RestartStrategies.noRestart()`.
    #[must_use]
    pub fn no_restart(mut self) -> Self {
        self.restart.strategy = Some(RestartStrategy::None);
        self
    }
    /// Where snapshots go: `file:///PATH` or `memory:NAME`. Without it a temporary folder.
    #[must_use]
    pub fn storage(mut self, url: impl Into<String>) -> Self {
        self.storage = Some(url.into());
        self
    }
    /// How long the methods of [`Cluster`] wait before they return an error; 120 s without it.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts the job that `declare` declares, and waits until all of its tasks run (or the job has ended). `declare` is
    /// called again by [`Cluster::restart`]: clones of one [`Collect`](crate::connectors::Collect) collect over all of it.
    pub fn start(self, declare: impl Fn(&mut Job) + 'static) -> Result<Cluster> {
        Cluster::start(self, Box::new(declare), None)
    }

    /// As [`Self::start`], from a savepoint or checkpoint: a path that [`Cluster::savepoint`] returned.
    pub fn restore(self, path: &str, declare: impl Fn(&mut Job) + 'static) -> Result<Cluster> {
        Cluster::start(self, Box::new(declare), Some(path.to_owned()))
    }
}

/// A job in a cluster in this process: a jobmanager and taskmanagers with threads of their own, a control plane over TCP, and
/// snapshots in files. Nothing of it is a stand-in.
///
/// All methods block; they may be called from anywhere, also from `async` code of a test. The cluster ends when it is dropped.
///
/// ```
/// use weir::connectors::Collect;
/// use weir::prelude::*;
/// use weir::testing::{ClusterOptions, TestSource};
///
/// let (input, counts) = (TestSource::new(), Collect::new());
/// let (source, sink) = (input.clone(), counts.clone());
/// let mut cluster = ClusterOptions::new(2).start(move |job| {
///     job.source("words", source.clone())
///         .key_by(|word: &Str| word)
///         .process("count", |n: &mut u64, word: Str, out| {
///             *n += 1;
///             out.push((word, *n));
///         })
///         .sink("counts", sink.clone());
/// })?;
/// input.push(Str::from("to"));
/// cluster.checkpoint()?;
/// cluster.kill_taskmanager(0)?;
/// input.push(Str::from("to"));
/// input.end();
/// cluster.finish()?;
/// assert_eq!(counts.records(), [("to".into(), 1), ("to".into(), 2)]);
/// # Ok::<(), weir::Error>(())
/// ```
pub struct Cluster {
    options: ClusterOptions,
    declare: Box<dyn Fn(&mut Job)>,
    graph: Arc<LogicalGraph>,
    port: TcpListener,
    jobmanager: Option<JobManagerMember>,
    taskmanagers: Vec<Option<TaskManagerMember>>,
    slots: u32,
    /// Taskmanagers and requests are numbered: each has a name of its own.
    next: u64,
    /// Taskmanagers that were killed, whose end the jobmanager may not have noticed yet.
    killed: Vec<String>,
    folder: Option<Folder>,
}

impl Cluster {
    /// The job at this parallelism with all that [`ClusterOptions::new`] says.
    pub fn of(parallelism: u32, declare: impl Fn(&mut Job) + 'static) -> Result<Self> {
        ClusterOptions::new(parallelism).start(declare)
    }

    fn start(options: ClusterOptions, declare: Box<dyn Fn(&mut Job)>, from: Option<String>) -> Result<Self> {
        let folder = if options.storage.is_none() { Some(Folder::new()?) } else { None };
        let graph = graph_of(&declare, options.max_parallelism)?;
        let mut this = Self {
            options,
            declare,
            graph,
            port: listen()?,
            jobmanager: None,
            taskmanagers: Vec::new(),
            slots: 0,
            next: 0,
            killed: Vec::new(),
            folder,
        };
        this.begin(from, None)?;
        Ok(this)
    }

    /// Brings up all members and starts the job, from this snapshot.
    fn begin(&mut self, from: Option<String>, parallelism: Option<u32>) -> Result<()> {
        let width = parallelism.unwrap_or(self.options.parallelism);
        let needed = JobGraph::new(&self.graph, width, self.options.max_parallelism).slots();
        let each = needed.div_ceil(self.options.taskmanagers).max(4);
        self.slots = self.options.slots.unwrap_or(each);
        self.start_jobmanager(from, parallelism)?;
        for i in 0..self.options.taskmanagers as usize {
            self.start_taskmanager(i)?;
        }
        self.running()
    }

    fn start_jobmanager(&mut self, from: Option<String>, parallelism: Option<u32>) -> Result<()> {
        let o = &self.options;
        let name = JobName { namespace: "test".into(), name: "job".into() };
        let mut config = JobConfig::new(name, o.parallelism);
        config.max_parallelism = o.max_parallelism;
        config.restart = o.restart.clone();
        config.start = StartMode::Await;
        let folder = self.folder.as_ref().map(|f| format!("file://{}", f.path().display()));
        config.checkpoint.storage = o.storage.clone().or(folder);
        config.checkpoint.interval = HumanDuration::from_millis(o.checkpoints.as_millis() as u64);
        config.heartbeat.interval = HumanDuration::from_millis(100);
        // threads of other tests must not look like a lost process
        config.heartbeat.timeout = HumanDuration::from_millis(o.patience.as_millis() as u64);
        config.restore.from = Some(from.clone().unwrap_or_else(|| "latest".into()));
        let member = JobManagerMember::start(config, self.graph.clone(), &self.port)?;
        let handle = member.handle.clone();
        self.jobmanager = Some(member);
        self.wait("the jobmanager to read its log", |s| s.phase != JobManagerPhase::Preparing)?;
        // a test may go back behind what was committed
        let nonce = from.as_ref().map(|_| self.next as i64);
        let restore =
            RestoreConfig { from: Some(from.unwrap_or_else(|| "latest".into())), nonce, ..Default::default() };
        let request = StartRequest { restore: Some(restore), parallelism, ..StartRequest::default() };
        let started = self.ask(async move { handle.start(request).await })?;
        match started {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rejected)) => Err(Error::user(ErrorCode::Config, rejected.message)),
            Err(_) => Err(self.why("the job does not start")),
        }
    }

    fn start_taskmanager(&mut self, i: usize) -> Result<()> {
        self.next += 1;
        let (id, address) = (format!("tm-{i}-{}", self.next), self.port.local_addr().map_err(Error::internal)?);
        let connected = self.options.taskmanagers > 1;
        let member = TaskManagerMember::start(id, self.graph.clone(), address, self.slots, connected)?;
        if self.taskmanagers.len() <= i {
            self.taskmanagers.resize_with(i + 1, || None);
        }
        self.taskmanagers[i] = Some(member);
        Ok(())
    }

    fn jobmanager(&self) -> Result<&JobManagerMember> {
        let gone = || Error::user(ErrorCode::Config, "the cluster crashed: call restart() before anything else");
        self.jobmanager.as_ref().ok_or_else(gone)
    }

    /// Runs this on the jobmanager's thread and waits for it.
    fn ask<R: Send + 'static>(&self, what: impl Future<Output = R> + Send + 'static) -> Result<R> {
        let (tx, rx) = channel();
        self.jobmanager()?.runtime.spawn(async move {
            let _ = tx.send(what.await);
        });
        let patience = self.options.patience;
        rx.recv_timeout(patience).map_err(|_| self.why(&format!("the jobmanager did not answer within {patience:?}")))
    }

    fn why(&self, what: &str) -> Error {
        let s = match self.status() {
            Ok(s) => format!(" (job state {}, attempt {}: {})", s.job_state, s.attempt, s.reason),
            Err(_) => String::new(),
        };
        Error::external(ErrorCode::Internal, format!("{what}{s}"))
    }

    /// Waits for a status; an error if it is not there in time, or the job ends before.
    fn wait(&self, what: &str, is: impl Fn(&WeirStatus) -> bool + Send + Sync + 'static) -> Result<Arc<WeirStatus>> {
        let mut status = self.jobmanager()?.handle.status();
        let patience = self.options.patience;
        let waited = self.ask(async move {
            let found = status.wait_for(|s| is(s) || has_ended(s));
            let found = tokio::time::timeout(patience.mul_f64(0.9), found).await;
            found.ok().and_then(|s| s.ok().map(|s| (is(&s), s.clone())))
        })?;
        match waited {
            Some((true, status)) => Ok(status),
            Some((false, s)) => Err(ended_early(what, &s)),
            None => Err(self.why(&format!("waited in vain for {what}"))),
        }
    }

    fn change<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Master, crate::checkpoint::coordinator::Now) -> (R, Vec<crate::jobmanager::master::Action>)
        + Send
        + 'static,
    ) -> Result<R> {
        let handle = self.jobmanager()?.handle.clone();
        let answer = self.ask(async move { handle.change(f).await })?;
        answer.map_err(|_| self.why("the job has ended"))
    }

    /// What the jobmanager says about the job.
    pub fn status(&self) -> Result<Arc<WeirStatus>> {
        Ok(self.jobmanager()?.handle.status().borrow().clone())
    }

    /// How many taskmanagers there are.
    pub fn taskmanagers(&self) -> u32 {
        self.options.taskmanagers
    }

    /// Names of the job's sources, operators and sinks.
    pub fn operators(&self) -> Vec<String> {
        self.graph.nodes.iter().map(|n| n.name.clone()).collect()
    }

    /// The job came to an end: finished, failed, cancelled or stopped.
    pub fn has_ended(&self) -> bool {
        self.status().is_ok_and(|s| has_ended(&s))
    }

    /// Waits until all tasks run: after a kill, those of the next attempt.
    pub fn running(&self) -> Result<()> {
        if !self.has_ended() {
            let (handle, killed) = (self.jobmanager()?.handle.clone(), self.killed.clone());
            // the answer comes after the status has been brought up to date with all that was asked for before
            let noticed = async move {
                loop {
                    let killed = killed.clone();
                    let there =
                        move |m: &Master| m.registry().by_id().iter().any(|(_, t)| killed.contains(&t.hello.id));
                    match handle.query(move |m, _| there(m)).await {
                        Ok(true) => tokio::time::sleep(Duration::from_millis(1)).await,
                        Ok(false) | Err(_) => return,
                    }
                }
            };
            self.ask(noticed)?;
        }
        self.wait("all tasks to run", |s| s.all_tasks_running || s.phase == JobManagerPhase::Ended).map(drop)
    }

    /// Waits for a checkpoint that begins after this call, and returns its number. All that a [`TestSource`] was given before,
    /// and a source had emitted before, is in it. An error if the job ends before.
    ///
    /// [`TestSource`]: super::TestSource
    pub fn checkpoint(&self) -> Result<u64> {
        self.running()?;
        let next = self.change(|m, _| (m.next_checkpoint().0, Vec::new()))?;
        let done = move |s: &WeirStatus| s.last_checkpoint.as_ref().is_some_and(|c| c.id >= next);
        let status = self.wait("a checkpoint", done)?;
        Ok(status.last_checkpoint.as_ref().map_or(next, |c| c.id))
    }

    fn trigger_id(&mut self) -> String {
        self.next += 1;
        format!("test-{}", self.next)
    }

    /// The outcome of what was asked for under this id: the path of a savepoint.
    fn outcome(&self, id: String, what: &str) -> Result<String> {
        let patience = self.options.patience;
        let handle = self.jobmanager()?.handle.clone();
        let mut status = handle.status();
        let answer = self.ask(async move {
            let outcome = async {
                loop {
                    let id = id.clone();
                    let found = handle.query(move |m, _| m.operation(&id).cloned()).await.ok()?;
                    match found {
                        Some(o) if o.state != OperationState::InProgress => return Some(o),
                        // the jobmanager that heard of it is gone
                        None => return None,
                        Some(_) => {}
                    }
                    // a savepoint alone does not always change the status
                    let _ = tokio::time::timeout(Duration::from_millis(5), status.changed()).await;
                }
            };
            tokio::time::timeout(patience.mul_f64(0.9), outcome).await.ok().flatten()
        })?;
        match answer {
            Some(o) if o.state == OperationState::Completed => Ok(o.message),
            Some(o) => Err(Error::external(ErrorCode::Checkpoint, format!("{what} failed: {}", o.message))),
            None => Err(self.why(&format!("{what} has no outcome"))),
        }
    }

    /// Takes a savepoint; returns its path, for [`ClusterOptions::restore`]. The job goes on. A cluster without a storage of
    /// its own removes its folder, and savepoints in it, when it is dropped.
    pub fn savepoint(&mut self) -> Result<String> {
        self.running()?;
        let id = self.trigger_id();
        let request = SavepointRequest { trigger_id: Some(id.clone()), ..SavepointRequest::default() };
        let fresh = id.clone();
        self.change(move |m, now| m.savepoint(request, fresh, now))?.map_err(rejected)?;
        self.outcome(id, "the savepoint")
    }

    /// Stops the job with a savepoint; returns its path. With `drain` the sources end as if their input had ended.
    pub fn stop(&mut self, drain: bool) -> Result<String> {
        self.running()?;
        let id = self.trigger_id();
        let request = StopRequest { trigger_id: Some(id.clone()), drain, ..StopRequest::default() };
        let fresh = id.clone();
        self.change(move |m, now| m.stop(request, fresh, now))?.map_err(rejected)?;
        let status = self.wait("the job to stop", has_ended)?;
        let path = status.operation.as_ref().filter(|o| o.trigger_id == id).map(|o| o.message.clone());
        match (status.terminal.as_ref().map(|t| t.status), path) {
            (Some(TerminalStatus::Stopped), Some(path)) => Ok(path),
            _ => Err(ended_early("the job to stop", &status)),
        }
    }

    /// Brings the running job to another parallelism, and waits until it runs there.
    pub fn rescale(&mut self, parallelism: u32) -> Result<()> {
        self.running()?;
        let before = self.status()?;
        if before.parallelism == parallelism {
            return Ok(());
        }
        let request = RescaleRequest { parallelism, trigger_id: self.trigger_id() };
        let id = request.trigger_id.clone();
        self.change(move |m, now| m.rescale(request, now))?.map_err(rejected)?;
        let there = move |s: &WeirStatus| {
            let failed = s.operation.as_ref().is_some_and(|o| o.trigger_id == id && o.state == OperationState::Failed);
            failed || (s.all_tasks_running && s.attempt > before.attempt)
        };
        let status = self.wait("the job to run at another parallelism", there)?;
        match &status.operation {
            Some(o) if o.state == OperationState::Failed => {
                Err(Error::external(ErrorCode::Checkpoint, format!("the rescale failed: {}", o.message)))
            }
            _ => Ok(()),
        }
    }

    /// Kills a taskmanager, by its position, in the middle of whatever it does, and starts another one in its place, as
    /// Kubernetes does. The job restarts from its latest checkpoint; [`Self::running`] waits for that.
    pub fn kill_taskmanager(&mut self, i: u32) -> Result<()> {
        let i = i as usize;
        let have = self.taskmanagers.len();
        match self.taskmanagers.get_mut(i).and_then(Option::take) {
            Some(member) => {
                self.killed.push(member.id.clone());
                member.kill();
            }
            None => {
                let m = format!("there is no taskmanager {i}: the cluster has {have}, counted from 0");
                return Err(Error::user(ErrorCode::Config, m));
            }
        }
        if self.has_ended() { Ok(()) } else { self.start_taskmanager(i) }
    }

    /// Kills the jobmanager in the middle of whatever it does, and starts another one in its place, which goes on from the
    /// latest checkpoint.
    pub fn kill_jobmanager(&mut self) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        if let Some(member) = self.jobmanager.take() {
            member.kill();
        }
        self.start_jobmanager(None, None)
    }

    /// Lets a subtask of the operator with this name fail, as if its code had returned an error.
    pub fn fail_task(&mut self, operator: &str, subtask: u32) -> Result<()> {
        self.running()?;
        let Some(node) = self.graph.nodes.iter().position(|n| n.name == operator) else {
            let m = format!("the job has no operator {operator:?}: there are {}", self.operators().join(", "));
            return Err(Error::user(ErrorCode::Config, m));
        };
        let (name, error) = (operator.to_owned(), "the test lets it fail");
        let failed = self.change(move |m, now| {
            let vertex = m.plan().vertices.iter().find(|v| v.nodes.contains(&node)).map(|v| v.id);
            let task = TaskId { vertex: vertex.unwrap_or(u32::MAX), subtask };
            let Some(view) = m.tasks().and_then(|t| t.get(&task)) else { return (false, Vec::new()) };
            let (connection, attempt) = (view.connection, m.attempt());
            let event = TaskEvent::Failed(Error::external(ErrorCode::UserFunction, format!("{name}: {error}")));
            let message = ToJobManager::Task { attempt, task, event };
            (true, m.on(Event::Message(connection, message), now))
        })?;
        match failed {
            true => Ok(()),
            false => Err(self.why(&format!("subtask {subtask} of {operator:?} does not run"))),
        }
    }

    /// Kills everything at once. [`Self::restart`] goes on.
    pub fn crash(&mut self) {
        self.jobmanager.take().into_iter().for_each(JobManagerMember::kill);
        self.taskmanagers.drain(..).flatten().for_each(TaskManagerMember::kill);
        self.killed.clear();
    }

    /// After a crash, or instead of one: declares the job anew and starts it at this parallelism from its latest snapshot, or
    /// new if it has none.
    pub fn restart(&mut self, parallelism: u32) -> Result<()> {
        self.again(None, parallelism)
    }

    /// As [`Self::restart`], from this savepoint.
    pub fn restart_from(&mut self, path: &str, parallelism: u32) -> Result<()> {
        self.again(Some(path.to_owned()), parallelism)
    }

    fn again(&mut self, from: Option<String>, parallelism: u32) -> Result<()> {
        self.crash();
        self.graph = graph_of(&self.declare, self.options.max_parallelism)?;
        self.port = listen()?;
        self.begin(from, Some(parallelism))
    }

    /// Waits until the job has finished: its bounded input is read, all is committed. An error if it ends in another way.
    pub fn finish(&self) -> Result<()> {
        let status = self.wait("the job to finish", has_ended)?;
        match &status.terminal {
            Some(t) if t.status == TerminalStatus::Finished => Ok(()),
            _ => Err(ended_early("the job to finish", &status)),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.crash();
    }
}

fn rejected(r: crate::jobmanager::master::Rejection) -> Error {
    Error::user(ErrorCode::Config, r.message)
}

fn has_ended(s: &WeirStatus) -> bool {
    use JobManagerPhase::{Ended, Fenced, Refused};
    matches!(s.phase, Ended | Fenced | Refused)
}

fn ended_early(what: &str, s: &WeirStatus) -> Error {
    let reason = s.terminal.as_ref().map_or(&s.reason, |t| &t.reason);
    Error::user(ErrorCode::UserFunction, format!("waited for {what}, and the job is {}: {reason}", s.job_state))
}

fn graph_of(declare: &dyn Fn(&mut Job), max_parallelism: u32) -> Result<Arc<LogicalGraph>> {
    let mut job = Job::default();
    declare(&mut job);
    let graph = job.into_graph();
    graph.validate(max_parallelism)?;
    Ok(Arc::new(graph))
}

/// Runs a job with bounded input to its end, in a cluster of its own; an error of its code is returned.
///
/// ```
/// use weir::connectors::Collect;
/// use weir::prelude::*;
///
/// let doubled = Collect::new();
/// let sink = doubled.clone();
/// weir::testing::run(1, move |job| {
///     job.source("numbers", weir::testing::records([1u64, 2, 3])).map(|n| 2 * n).sink("out", sink.clone());
/// })?;
/// assert_eq!(doubled.records(), [2, 4, 6]);
/// # Ok::<(), weir::Error>(())
/// ```
pub fn run(parallelism: u32, declare: impl Fn(&mut Job) + 'static) -> Result<()> {
    ClusterOptions::new(parallelism).no_restart().start(declare)?.finish()
}

/// A bounded source of these records; at parallelism 1 they come in their order.
pub fn records<T: crate::data::Data>(records: impl IntoIterator<Item = T>) -> impl Source<Record = T> {
    let all: Arc<[T]> = records.into_iter().collect();
    crate::connectors::Generator::new(all.len() as u64, move |i| all[i as usize].clone())
}
