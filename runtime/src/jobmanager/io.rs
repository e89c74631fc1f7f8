//! Everything of the jobmanager that touches the checkpoint storage, one operation after the other: so an append of the old
//! attempt is over before the next attempt is claimed.
use crate::checkpoint::coordinator::Publish;
use crate::checkpoint::handles::{Bytes64, SPLITS, SnapshotKind};
use crate::checkpoint::log::{AppendError, Claimed as LogClaimed, Log, LogView, LogWriter, Nonce, SnapshotRef};
use crate::checkpoint::manifest::JobSpec;
use crate::checkpoint::restore::{Assignment, Decision, Request, Start, assign, choose};
use crate::checkpoint::shell;
use crate::checkpoint::storage::Storage;
use crate::dataflow::task::TaskId;
use crate::error::{Error, ErrorCode, ErrorDomain, Result};
use crate::graph::{JobGraph, LogicalGraph};
use std::sync::Arc;
use tokio::sync::mpsc;
use weir_api::config::{JobConfig, RestoreConfig};
use weir_api::ids::{Attempt, CheckpointId};
use weir_api::rest::{Millis, SnapshotInfo, TerminalInfo};
use weir_api::status::TerminalStatus;

/// What the master wants done.
#[derive(Debug)]
pub enum Io {
    /// Read the log, choose what to start from, compare; changes nothing.
    Prepare(StartOptions),
    /// Decide anew and claim the next attempt.
    Claim {
        options: StartOptions,
        /// Instead of the one that configuration and log give.
        parallelism: Option<u32>,
        /// Smallest checkpoint id that this process has not used.
        next: CheckpointId,
        /// The attempt must be higher: taskmanagers have followed this one.
        after: Attempt,
    },
    Publish(Box<Publish>),
    /// Whether a savepoint could be written below this folder.
    CheckTarget {
        trigger_id: String,
        kind: SnapshotKind,
        target: String,
    },
    /// Delete the directory of a snapshot that will never complete.
    Discard(String),
    /// Delete the log's entries that nothing needs any more.
    CleanUp,
    /// Record the job's end, then delete what is not kept.
    Terminate {
        status: TerminalStatus,
        reason: String,
    },
}

/// What a start may be told beside the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOptions {
    pub restore: RestoreConfig,
    pub expect_log_index: Option<u64>,
    pub stateless: bool,
}

#[derive(Debug)]
pub enum IoReply {
    Prepared(Verdict<Ready>),
    Claimed(Verdict<Box<Claimed>>),
    Published {
        id: CheckpointId,
        result: Result<Published, AppendError>,
    },
    /// With the folder as entries of the log name it.
    TargetChecked {
        trigger_id: String,
        kind: SnapshotKind,
        result: Result<String>,
    },
    CleanedUp(Result<(), AppendError>),
    Terminated(Result<TerminalInfo, AppendError>),
}

/// Whether the job may start.
#[derive(Debug)]
pub enum Verdict<T> {
    Yes(T),
    /// The job of this deployment has ended.
    Ended(TerminalInfo, LogFacts),
    /// Another one holds the log.
    Fenced(String),
    /// It does not fit or was not asked for in a way that can be met. `conflict`: the log is not where the caller expected it.
    Refused {
        message: String,
        conflict: bool,
        facts: LogFacts,
    },
    /// The storage does not answer: worth another try.
    Failed(Error),
}

#[derive(Debug, Clone)]
pub struct Ready {
    pub message: String,
    /// The same deployment goes on: nobody's word is needed.
    pub resumes: bool,
    pub restores: Option<SnapshotInfo>,
    pub parallelism: u32,
    pub facts: LogFacts,
}

/// A won claim and all that a deployment needs.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub attempt: Attempt,
    pub nonce: Nonce,
    pub next: CheckpointId,
    pub parallelism: u32,
    pub plan: Arc<JobGraph>,
    pub restores: Option<SnapshotRef>,
    pub assignment: Assignment,
    /// Commit what the stop savepoint left pending, then record the end.
    pub finishes_stop: bool,
    pub message: String,
    pub facts: LogFacts,
}

#[derive(Debug, Clone)]
pub struct Published {
    /// None without storage.
    pub index: Option<u64>,
    pub dropped: Vec<String>,
    pub facts: LogFacts,
}

/// What the status shows of the log.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogFacts {
    pub head: Option<u64>,
    pub last_checkpoint: Option<SnapshotInfo>,
    pub last_savepoint: Option<SnapshotInfo>,
}

impl LogFacts {
    fn new(view: &LogView, storage: &Storage) -> Self {
        let info = |s: SnapshotRef| named(s.info(), storage);
        Self {
            head: view.head(),
            last_checkpoint: view.last_checkpoint().map(info),
            last_savepoint: view.last_savepoint().map(info),
        }
    }
}

/// With the path as people and other jobs use it.
fn named(mut info: SnapshotInfo, storage: &Storage) -> SnapshotInfo {
    info.path = storage.name(&info.path);
    info
}

/// The storage side of a jobmanager.
pub struct Store {
    config: JobConfig,
    graph: Arc<LogicalGraph>,
    storage: Option<Storage>,
    writer: Option<LogWriter>,
    /// Attempts are counted in memory where there is no storage.
    attempts: u64,
    /// What the next claim's attempt must be higher than, whatever the log says.
    after: Attempt,
    clock: fn() -> Millis,
}

impl Store {
    /// Errors: the storage's URL is not understood.
    pub fn new(config: JobConfig, graph: Arc<LogicalGraph>, clock: fn() -> Millis) -> Result<Self> {
        let storage = match &config.checkpoint.storage {
            Some(url) => Some(Storage::open(url, &config.job)?),
            None => None,
        };
        Ok(Self { config, graph, storage, writer: None, attempts: 0, after: Attempt(0), clock })
    }

    /// The job's root, for names of snapshots.
    pub fn storage(&self) -> Option<&Storage> {
        self.storage.as_ref()
    }

    /// Serves until the queue is closed.
    pub async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Io>, reply: impl Fn(IoReply)) {
        while let Some(io) = queue.recv().await {
            match io {
                Io::Prepare(options) => reply(IoReply::Prepared(self.prepare(&options).await)),
                Io::Claim { options, parallelism, next, after } => {
                    self.after = after;
                    reply(IoReply::Claimed(self.claim(&options, parallelism, next).await));
                }
                Io::Publish(p) => reply(IoReply::Published { id: p.id, result: self.publish(&p).await }),
                Io::CheckTarget { trigger_id, kind, target } => {
                    let result = match &self.storage {
                        Some(s) => shell::check_target(s, &target).await,
                        None => Err(Error::internal("a savepoint without a storage")),
                    };
                    reply(IoReply::TargetChecked { trigger_id, kind, result });
                }
                Io::Discard(directory) => {
                    if let Some(s) = self.storage.clone() {
                        tokio::spawn(async move { shell::discard(&s, &directory).await });
                    }
                }
                Io::CleanUp => {
                    if let Some(w) = &self.writer {
                        reply(IoReply::CleanedUp(w.clean_up((self.clock)()).await));
                    }
                }
                Io::Terminate { status, reason } => reply(IoReply::Terminated(self.terminate(status, reason).await)),
            }
        }
    }

    fn request<'a>(&'a self, options: &'a StartOptions, view: &LogView) -> Result<Request<'a>> {
        let from = options.restore.from.as_deref().filter(|f| !matches!(*f, "latest" | ""));
        let from_path = match (from, &self.storage) {
            (Some(path), Some(s)) => Some(s.normalize(path)?),
            _ => None,
        };
        // entries may have it in another form: of an earlier release, or a savepoint that went right into the job's root
        let is_it = |s: &SnapshotRef, path: &String| {
            self.storage.as_ref().is_some_and(|storage| storage.normalize(&s.path).is_ok_and(|n| n == *path))
        };
        let logged = from_path.as_ref().and_then(|p| {
            let all = view.snapshots().into_iter().chain(view.latest());
            all.filter(|s| s.path != *p).find(|s| is_it(s, p)).map(|s| s.path)
        });
        Ok(Request {
            logged_path: logged,
            deployment: self.config.deployment.as_ref(),
            from_path,
            stateless: options.stateless,
            expect_log_index: options.expect_log_index,
            held: self.writer.as_ref().map(|w| (w.attempt, w.nonce)),
            ..Request::new(&options.restore, self.config.parallelism)
        })
    }

    fn spec(&self, parallelism: u32) -> (JobSpec, Arc<JobGraph>) {
        let plan = JobGraph::new(&self.graph, parallelism, self.config.max_parallelism);
        (JobSpec::new(&self.config.job, &self.graph, &plan, parallelism), Arc::new(plan))
    }

    async fn prepare(&self, options: &StartOptions) -> Verdict<Ready> {
        let Some(storage) = &self.storage else {
            return match no_storage(options) {
                Some(why) => refused(why),
                None => Verdict::Yes(Ready {
                    message: "starts new: the job has no checkpoint storage".into(),
                    resumes: false,
                    restores: None,
                    parallelism: self.config.parallelism,
                    facts: LogFacts::default(),
                }),
            };
        };
        let mut facts = LogFacts::default();
        let prepared = async {
            let view = shell::read_log(storage).await?;
            facts = LogFacts::new(&view, storage);
            let start = match choose(&view, &self.request(options, &view)?) {
                Decision::Start(start) => start,
                other => return Ok(not_started(other, facts.clone(), storage, &view).await),
            };
            let (spec, _) = self.spec(start.parallelism);
            let p = shell::prepare(storage, &start, &spec, options.restore.allow_non_restored_state).await?;
            Ok(Verdict::Yes(Ready {
                message: p.message,
                resumes: start.resumes,
                restores: p.restores.map(|s| named(s.info(), storage)),
                parallelism: start.parallelism,
                facts: facts.clone(),
            }))
        };
        let result: Result<_> = prepared.await;
        result.unwrap_or_else(|e| failed(e, facts))
    }

    async fn claim(
        &mut self,
        options: &StartOptions,
        parallelism: Option<u32>,
        next: CheckpointId,
    ) -> Verdict<Box<Claimed>> {
        let Some(storage) = self.storage.clone() else {
            if let Some(why) = no_storage(options) {
                return refused(why);
            }
            let parallelism = parallelism.unwrap_or(self.config.parallelism);
            self.attempts = self.attempts.max(self.after.0) + 1;
            let (spec, plan) = self.spec(parallelism);
            let mut claimed = Claimed {
                attempt: Attempt(self.attempts),
                nonce: Nonce::random(),
                next,
                parallelism,
                plan,
                restores: None,
                assignment: spec.tasks().into_iter().map(|t| (t, Default::default())).collect(),
                finishes_stop: false,
                message: "starts new: the job has no checkpoint storage".into(),
                facts: LogFacts::default(),
            };
            return match self.enumerate(&mut claimed).await {
                Ok(()) => Verdict::Yes(Box::new(claimed)),
                Err(e) => failed(e, LogFacts::default()),
            };
        };
        loop {
            let mut facts = LogFacts::default();
            match self.try_claim(&storage, options, parallelism, next, &mut facts).await {
                Ok(Some(verdict)) => return verdict,
                // somebody appended in between: decide anew
                Ok(None) => continue,
                Err(e) => return failed(e, facts),
            }
        }
    }

    async fn try_claim(
        &mut self,
        storage: &Storage,
        options: &StartOptions,
        parallelism: Option<u32>,
        next: CheckpointId,
        facts: &mut LogFacts,
    ) -> Result<Option<Verdict<Box<Claimed>>>> {
        let view = shell::read_log(storage).await?;
        *facts = LogFacts::new(&view, storage);
        let request = self.request(options, &view)?;
        let mut start: Box<Start> = match choose(&view, &request) {
            Decision::Start(start) => start,
            other => return Ok(Some(not_started(other, facts.clone(), storage, &view).await)),
        };
        start.parallelism = parallelism.unwrap_or(start.parallelism);
        let (spec, plan) = self.spec(start.parallelism);
        let prepared = shell::prepare(storage, &start, &spec, options.restore.allow_non_restored_state).await?;
        let mut assignment = match &prepared.manifest {
            Some(m) => assign(m, &spec),
            None => spec.tasks().into_iter().map(|t| (t, Default::default())).collect(),
        };
        // before the claim, so that a source that cannot be read changes nothing
        enumerate(&self.graph, &spec, &mut assignment).await?;
        let claim = start.claim(&view, &request, &spec, prepared.restores.clone(), next);
        let next = claim.next_checkpoint;
        let writer =
            match Log::new(storage.clone()).claim_after(self.after, view, Nonce::random(), claim, (self.clock)()).await
            {
                Ok(LogClaimed::Won(writer)) => writer,
                Ok(LogClaimed::Raced) => return Ok(None),
                Err(AppendError::Fenced(e)) => return Ok(Some(Verdict::Fenced(e.message))),
                Err(AppendError::Refused(e) | AppendError::Fault(e)) => return Err(e),
            };
        let view = writer.view().await;
        let claimed = Claimed {
            attempt: writer.attempt,
            nonce: writer.nonce,
            next,
            parallelism: start.parallelism,
            plan,
            restores: prepared.restores,
            assignment,
            finishes_stop: start.finishes_stop,
            message: prepared.message,
            facts: LogFacts::new(&view, storage),
        };
        self.writer = Some(writer.clone());
        let storage = storage.clone();
        tokio::spawn(async move {
            if let Err(e) = shell::sweep(&storage, &writer, writer.attempt).await {
                tracing::warn!(error = %e, "what earlier attempts left behind was not swept");
            }
        });
        Ok(Some(Verdict::Yes(Box::new(claimed))))
    }

    async fn enumerate(&self, claimed: &mut Claimed) -> Result<()> {
        let (spec, _) = self.spec(claimed.parallelism);
        enumerate(&self.graph, &spec, &mut claimed.assignment).await
    }

    async fn publish(&self, p: &Publish) -> Result<Published, AppendError> {
        let (Some(storage), Some(writer)) = (&self.storage, &self.writer) else {
            return Ok(Published { index: None, dropped: Vec::new(), facts: LogFacts::default() });
        };
        if writer.attempt != p.attempt {
            return Err(AppendError::Refused(Error::internal(format!(
                "checkpoint {} is of attempt {}, the claim is of attempt {}",
                p.id, p.attempt, writer.attempt
            ))));
        }
        // the parallelism of the attempt, by what its tasks said
        let width = p.snapshots.keys().map(|t| t.subtask + 1).max().unwrap_or(1);
        let view = writer.view().await;
        let parallelism = view.last_claim().map_or(width, |(_, _, c)| c.parallelism);
        let (spec, _) = self.spec(parallelism);
        let done = shell::publish(storage, writer, &spec, p, self.config.checkpoint.retained, (self.clock)()).await?;
        if !done.dropped.is_empty() {
            let (storage, dropped, view) = (storage.clone(), done.dropped.clone(), done.appended.view.clone());
            tokio::spawn(async move { shell::delete_dropped(&storage, &view, &dropped).await });
        }
        let facts = LogFacts::new(&done.appended.view, storage);
        Ok(Published { index: Some(done.appended.index), dropped: done.dropped, facts })
    }

    async fn terminate(&self, status: TerminalStatus, reason: String) -> Result<TerminalInfo, AppendError> {
        let at = (self.clock)();
        let (Some(storage), Some(writer)) = (&self.storage, &self.writer) else {
            return Ok(TerminalInfo { status, log_index: None, kept: Vec::new(), reason, at });
        };
        let policy = self.config.checkpoint.retention;
        // no later attempt may come to do it: what a fenced one wrote since this one swept at its claim, and what a checkpoint
        // left that was under way when the tasks were told to end
        if let Err(e) = shell::sweep_own(storage, writer).await {
            tracing::warn!(error = %e, "what attempts left behind was not swept");
        }
        let (appended, terminal, delete) = shell::terminate(writer, policy, status, reason, at).await?;
        shell::delete_dropped(storage, &appended.view, &delete).await;
        Ok(terminal_info(appended.index, at, terminal, storage))
    }
}

fn terminal_info(index: u64, at: Millis, t: crate::checkpoint::log::Terminal, storage: &Storage) -> TerminalInfo {
    let kept = t.kept.iter().map(|k| storage.name(k)).collect();
    TerminalInfo { status: t.status, log_index: Some(index), kept, reason: t.reason, at }
}

/// Why a start without storage is refused, if it is.
fn no_storage(options: &StartOptions) -> Option<String> {
    let from = options.restore.from.as_deref().filter(|f| *f != "latest")?;
    Some(format!("restoring {from} needs a checkpoint storage: set checkpoint.storage (--checkpoints DIR)"))
}

fn refused<T>(message: String) -> Verdict<T> {
    Verdict::Refused { message, conflict: false, facts: LogFacts::default() }
}

async fn not_started<T>(decision: Decision, facts: LogFacts, storage: &Storage, view: &LogView) -> Verdict<T> {
    match decision {
        Decision::Ended { index, at, terminal } => {
            // nobody else comes to do it
            shell::delete_left_at_end(storage, view).await;
            let t = terminal_info(index, at, terminal, storage);
            Verdict::Ended(t, facts)
        }
        Decision::Fenced(why) => Verdict::Fenced(why),
        Decision::Refused(r) => Verdict::Refused { message: r.message, conflict: r.conflict, facts },
        Decision::Start(_) => Verdict::Failed(Error::internal("a start is no refusal")),
    }
}

/// What another try may mend is tried again; the rest is refused.
fn failed<T>(e: Error, facts: LogFacts) -> Verdict<T> {
    let lasting =
        matches!(e.code, ErrorCode::Snapshot | ErrorCode::Incompatible | ErrorCode::Config | ErrorCode::Graph);
    if lasting || e.domain == ErrorDomain::User {
        Verdict::Refused { message: e.message, conflict: false, facts }
    } else {
        Verdict::Failed(e)
    }
}

/// Deals out the splits of sources that start new. Sources look at files: on a thread that may block.
async fn enumerate(graph: &Arc<LogicalGraph>, spec: &JobSpec, assignment: &mut Assignment) -> Result<()> {
    for (node, op) in graph.nodes.iter().enumerate().filter(|(_, n)| n.kind == crate::graph::NodeKind::Source) {
        let Some(o) = spec.operators.iter().find(|o| o.name == op.name) else { continue };
        let task = |subtask| TaskId { vertex: o.vertex, subtask };
        // one that the snapshot knows goes on from there, even if it has nothing left to read
        if assignment.get(&task(0)).is_some_and(|t| t.operators.contains_key(&o.name)) {
            continue;
        }
        let (g, name, parallelism) = (graph.clone(), o.name.clone(), o.parallelism);
        let splits = tokio::task::spawn_blocking(move || g.nodes[node].factory.enumerate(parallelism))
            .await
            .map_err(|e| Error::internal(format!("listing the splits panicked: {e}")))
            .and_then(|r| r)
            .map_err(|e| e.at(format!("source {name}")))?;
        for subtask in 0..o.parallelism {
            let mine = splits.iter().skip(subtask as usize).step_by(o.parallelism as usize);
            let mine: Vec<Bytes64> = mine.map(|s| Bytes64(s.clone())).collect();
            let restore = assignment.entry(task(subtask)).or_default().operators.entry(o.name.clone()).or_default();
            restore.lists.insert(SPLITS.into(), mine);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
