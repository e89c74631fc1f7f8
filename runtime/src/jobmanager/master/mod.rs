//! The job's master: one pure state machine that composes life cycle, registry, placement, restarts and the checkpoint
//! coordinator. Events and `now` in, actions out; the driver carries them out.
mod execution;
mod history;
mod operations;
mod requests;
#[cfg(test)]
mod tests;
mod view;

pub use execution::TaskView;
pub use history::{ExceptionEntry, FailureSource};
pub use requests::Rejection;

use super::io::{Claimed, Io, IoReply, LogFacts, Ready, StartOptions, Verdict};
use super::lifecycle::Lifecycle;
use super::registry::{ConnectionId, Registry};
use super::restart::{Decision, RestartPolicy};
use crate::checkpoint::coordinator::{self, Coordinator, Now, Settings};
use crate::checkpoint::log::AppendError;
use crate::control::{TaskCounters, ToJobManager, ToTaskManager, Welcome};
use crate::dataflow::task::TaskId;
use crate::error::{Error, ErrorCode};
use crate::graph::{JobGraph, LogicalGraph};
use execution::Execution;
use history::History;
use operations::Operations;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir_api::config::{JobConfig, StartMode};
use weir_api::ids::Attempt;
use weir_api::rest::{Preflight, PreflightVerdict, SnapshotInfo, TerminalInfo};
use weir_api::status::{JobState, TerminalStatus};

/// How long tasks may take to end before their taskmanager counts as lost.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(30);
/// The same when this process is about to end: the taskmanagers end the tasks by themselves then.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a storage operation that did not succeed is tried again.
const STORAGE_RETRY: Duration = Duration::from_secs(1);
/// Longest failure message that is kept, in bytes.
const MAX_MESSAGE: usize = 16 << 10;

/// Target of log lines that a local run says in its summary.
pub const OUTCOME: &str = "weir::outcome";

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The first one.
    Started,
    Message(ConnectionId, ToJobManager),
    /// The connection ended.
    Disconnected(ConnectionId, String),
    Io(IoReply),
    /// Some time has passed; see [`Master::next_wakeup`].
    Tick,
    /// SIGTERM: never a cancellation.
    Leave,
}

/// What the driver is to do.
#[derive(Debug)]
pub enum Action {
    Send(ConnectionId, ToTaskManager),
    Close(ConnectionId),
    Io(Io),
    /// The answer to `POST /weir/v1/start` with this number.
    Started(u64, Result<(), Rejection>),
    /// The process has nothing more to do. A deployment's jobmanager stays up to report, unless it was told to leave.
    Exit(Exit),
}

/// Why the process ends; decides its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ended(TerminalStatus),
    Suspended,
    Fenced,
    Refused,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Ended(TerminalStatus::Failed) => 1,
            Self::Ended(_) | Self::Suspended => 0,
            Self::Refused => 2,
            Self::Fenced => 3,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Preparing,
    Waiting,
    Refused,
    Ended,
    Fenced,
    Active(Stage),
}

/// What the holder of the claim, or the one that wants it, is doing.
#[derive(Debug)]
enum Stage {
    Claiming,
    /// The storage does not answer, or the restart has a delay.
    Backoff {
        until: Duration,
    },
    /// Claimed; waits until enough slots are registered.
    Slots(Box<Claimed>),
    Running(Box<Execution>),
    /// Waits until no task of the attempt is left.
    Stopping {
        then: Then,
        deadline: Duration,
    },
    /// The terminal entry is on its way.
    Ending {
        status: TerminalStatus,
        reason: String,
    },
}

/// What comes after the tasks are gone.
#[derive(Debug, Clone, PartialEq)]
enum Then {
    Restart { at: Duration },
    End { status: TerminalStatus, reason: String },
    Leave,
    Fenced,
}

/// One job in one jobmanager process.
pub struct Master {
    config: JobConfig,
    graph: Arc<LogicalGraph>,
    fingerprint: String,
    /// URL of the job's root in the storage; empty without storage.
    storage_root: String,
    phase: Phase,
    lifecycle: Lifecycle,
    restart: RestartPolicy,
    registry: Registry,
    coordinator: Coordinator,
    options: StartOptions,
    plan: Arc<JobGraph>,
    parallelism: u32,
    attempt: Attempt,
    /// Attempts that this process claimed.
    claims: u64,
    /// Parallelism of the next claim, where a rescale asked for another than log and configuration say.
    next_parallelism: Option<u32>,
    /// A cancel or a signal that came while the claim was on its way.
    after_claim: Option<Then>,
    waiting_starts: Vec<u64>,
    /// The log could not be read: when to try again.
    prepare_again: Option<Duration>,
    operations: Operations,
    history: History,
    counters: BTreeMap<TaskId, TaskCounters>,
    facts: LogFacts,
    preflight: Preflight,
    restored_from: Option<SnapshotInfo>,
    terminal: Option<TerminalInfo>,
    reason: String,
    next_beat: Duration,
    /// Longest message to a taskmanager, in bytes.
    frame_limit: u32,
    now: Now,
    out: Vec<Action>,
}

impl Master {
    /// `storage_root`: where the job's snapshots lie, for people; none without storage.
    pub fn new(config: JobConfig, graph: Arc<LogicalGraph>, storage_root: Option<String>, now: Now) -> Self {
        let plan = JobGraph::new(&graph, config.parallelism, config.max_parallelism);
        Self {
            fingerprint: graph.fingerprint(),
            storage_root: storage_root.unwrap_or_default(),
            phase: Phase::Preparing,
            lifecycle: Lifecycle::new(now.wall),
            restart: RestartPolicy::new(config.restart.clone(), config.checkpoint.storage.is_some()),
            registry: Registry::default(),
            coordinator: Coordinator::new(Settings::new(&config.checkpoint), &config.job.name),
            options: StartOptions { restore: config.restore.clone(), ..Default::default() },
            plan: Arc::new(plan),
            parallelism: config.parallelism,
            attempt: Attempt(0),
            claims: 0,
            next_parallelism: None,
            after_claim: None,
            waiting_starts: Vec::new(),
            prepare_again: None,
            operations: Operations::default(),
            history: History::default(),
            counters: BTreeMap::new(),
            facts: LogFacts::default(),
            preflight: Preflight { verdict: PreflightVerdict::Pending, message: String::new(), restores: None },
            restored_from: None,
            terminal: None,
            reason: String::new(),
            next_beat: now.mono,
            frame_limit: crate::control::frame::MAX_FRAME,
            now,
            out: Vec::new(),
            config,
            graph,
        }
    }

    /// Takes one event; what follows from it is in the actions, in order.
    pub fn on(&mut self, event: Event, now: Now) -> Vec<Action> {
        self.now = now;
        match event {
            Event::Started => self.out.push(Action::Io(Io::Prepare(self.options.clone()))),
            Event::Message(c, m) => self.message(c, m),
            Event::Disconnected(c, why) => self.lost(c, ErrorCode::Connection, &why),
            Event::Io(reply) => self.io(reply),
            Event::Tick => {}
            Event::Leave => self.leave(),
        }
        self.timers();
        std::mem::take(&mut self.out)
    }

    /// When to send [`Event::Tick`] at the latest.
    pub fn next_wakeup(&self) -> Duration {
        let stage = match &self.phase {
            Phase::Active(Stage::Backoff { until }) => Some(*until),
            Phase::Active(Stage::Stopping { deadline, .. }) => Some(*deadline),
            Phase::Active(Stage::Running(e)) => e.consequence.as_ref().map(|c| c.0),
            Phase::Preparing => self.prepare_again,
            _ => None,
        };
        let silence = if self.registry.is_empty() { None } else { Some(self.next_beat) };
        let idle = self.now.mono + Duration::from_secs(60);
        [stage, silence, self.coordinator.next_wakeup()].into_iter().flatten().fold(idle, Duration::min)
    }

    fn is_supervised(&self) -> bool {
        self.config.deployment.is_some()
    }

    fn go(&mut self, to: JobState) {
        match self.lifecycle.go(to, self.now.wall) {
            Ok(()) => {}
            Err(e) => tracing::error!(error = %e, "the life cycle has no such transition"),
        }
    }

    fn timers(&mut self) {
        let now = self.now.mono;
        if now >= self.next_beat && !self.registry.is_empty() {
            let interval = self.config.heartbeat.interval.get().max(Duration::from_millis(1));
            self.next_beat = now + interval;
            for c in self.registry.silent(now, self.config.heartbeat.timeout.get()) {
                self.out.push(Action::Close(c));
                let why = format!("no heartbeat for {}", self.config.heartbeat.timeout);
                self.lost(c, ErrorCode::HeartbeatTimeout, &why);
            }
            let beats = self.registry.connections().map(|c| Action::Send(c, ToTaskManager::Heartbeat));
            self.out.extend(beats);
            let attempt = self.attempt;
            let align = |(c, others)| Action::Send(c, ToTaskManager::Alignment { attempt, others });
            self.out.extend(self.registry.alignment(attempt).into_iter().map(align));
        }
        match &self.phase {
            Phase::Preparing if self.prepare_again.is_some_and(|t| now >= t) => {
                self.prepare_again = None;
                self.out.push(Action::Io(Io::Prepare(self.options.clone())));
            }
            Phase::Active(Stage::Backoff { until }) if now >= *until => self.claim(),
            Phase::Active(Stage::Running(e)) => {
                if let Some((_, error, source)) = e.consequence.clone().filter(|c| now >= c.0) {
                    self.fail(error, source);
                }
            }
            Phase::Active(Stage::Stopping { deadline, .. }) if now >= *deadline => {
                let stuck: Vec<_> = self.registry.holding().map(|h| h.0).collect();
                for c in stuck {
                    self.out.push(Action::Close(c));
                    self.lost(c, ErrorCode::HeartbeatTimeout, "its tasks do not end");
                }
                self.stopped_if_gone();
            }
            _ => {}
        }
        if self.coordinator.next_wakeup().is_some_and(|t| now >= t) {
            self.coordinate(coordinator::Event::Tick);
        }
    }

    // -- storage ----------------------------------------------------------------------------------------------------

    fn io(&mut self, reply: IoReply) {
        match reply {
            IoReply::Prepared(v) => self.prepared(v),
            IoReply::Claimed(v) => self.claimed(v),
            IoReply::Published { id, result } => match result {
                Ok(p) => {
                    if p.index.is_some() {
                        self.facts = p.facts;
                    }
                    self.restart.progressed();
                    self.coordinator.stats_mut().discarded(&p.dropped);
                    self.coordinate(coordinator::Event::Published { id, index: p.index });
                }
                Err(AppendError::Refused(e)) => {
                    tracing::warn!(checkpoint = %id, error = %e, "the checkpoint was not published");
                    self.coordinate(coordinator::Event::PublishFailed { id, reason: e.message });
                }
                Err(AppendError::Fenced(e) | AppendError::Fault(e)) => self.fenced(e.message),
            },
            IoReply::TargetChecked { trigger_id, kind, result } => self.target_checked(trigger_id, kind, result),
            IoReply::CleanedUp(Ok(())) => {}
            IoReply::CleanedUp(Err(AppendError::Refused(e))) => {
                tracing::warn!(error = %e, "old entries of the log were not deleted");
            }
            IoReply::CleanedUp(Err(AppendError::Fenced(e) | AppendError::Fault(e))) => self.fenced(e.message),
            IoReply::Terminated(Ok(t)) => self.ended(t),
            IoReply::Terminated(Err(AppendError::Refused(e))) => {
                self.reason = format!("the job's end cannot be recorded: {e}");
                tracing::error!(error = %e, "the job's end cannot be recorded; trying again");
                if let Phase::Active(Stage::Ending { status, reason }) = &self.phase {
                    let then = Then::End { status: *status, reason: reason.clone() };
                    let deadline = self.now.mono + STORAGE_RETRY;
                    self.phase = Phase::Active(Stage::Stopping { then, deadline });
                }
            }
            IoReply::Terminated(Err(AppendError::Fenced(e) | AppendError::Fault(e))) => self.fenced(e.message),
        }
    }

    fn prepared(&mut self, verdict: Verdict<Ready>) {
        if !matches!(self.phase, Phase::Preparing) {
            return;
        }
        match verdict {
            Verdict::Yes(ready) => {
                tracing::info!(decision = %ready.message, "compared with the log");
                self.facts = ready.facts;
                self.parallelism = ready.parallelism;
                self.plan = Arc::new(JobGraph::new(&self.graph, self.parallelism, self.config.max_parallelism));
                self.preflight = Preflight {
                    verdict: PreflightVerdict::Compatible,
                    message: ready.message.clone(),
                    restores: ready.restores,
                };
                self.reason = ready.message;
                if self.config.start == StartMode::Await && !ready.resumes {
                    self.phase = Phase::Waiting;
                } else {
                    self.claim();
                }
            }
            other => self.not_started(other),
        }
    }

    /// The verdict on a preparation or a claim, when it is not yes.
    fn not_started<T>(&mut self, verdict: Verdict<T>) {
        match verdict {
            Verdict::Yes(_) => {}
            Verdict::Ended(t, facts) => {
                tracing::info!(
                    "the log says that the job has ended: nothing is run; a start without --restore begins anew"
                );
                self.facts = facts;
                self.answer_starts(Err(Rejection::conflict("the job has ended")));
                self.lifecycle = Lifecycle::already(state_of(t.status), t.at);
                self.ended(t);
            }
            Verdict::Fenced(why) => self.fenced(why),
            Verdict::Refused { message, conflict, facts } => {
                self.facts = facts;
                tracing::error!(target: OUTCOME, reason = %message, "the job does not start");
                let rejection = if conflict { Rejection::conflict(&message) } else { Rejection::new(422, &message) };
                self.answer_starts(Err(rejection));
                self.reason = message.clone();
                if conflict {
                    // the caller's picture of the log is old; the job itself could start
                    self.phase = Phase::Waiting;
                    return;
                }
                self.preflight.verdict = PreflightVerdict::Incompatible;
                self.preflight.message = message;
                self.phase = Phase::Refused;
                if self.claims > 0 {
                    self.go(JobState::Suspended);
                }
                if !self.is_supervised() {
                    self.out.push(Action::Exit(Exit::Refused));
                }
            }
            Verdict::Failed(e) => {
                tracing::warn!(error = %e, "the checkpoint storage cannot be used; trying again");
                self.reason = e.message.clone();
                let retry = self.now.mono + STORAGE_RETRY;
                if matches!(self.phase, Phase::Preparing) {
                    self.prepare_again = Some(retry);
                } else if self.waiting_starts.is_empty() {
                    self.phase = Phase::Active(Stage::Backoff { until: retry });
                } else {
                    // the one who asked for the start decides what is next
                    self.answer_starts(Err(Rejection::new(503, &e.message)));
                    self.phase = Phase::Waiting;
                }
            }
        }
    }

    /// Asks for the next attempt.
    fn claim(&mut self) {
        self.phase = Phase::Active(Stage::Claiming);
        self.out.push(Action::Io(Io::Claim {
            options: self.options.clone(),
            parallelism: self.next_parallelism,
            next: self.coordinator.next_checkpoint(),
            after: self.registry.highest_followed().max(self.attempt),
        }));
    }

    fn claimed(&mut self, verdict: Verdict<Box<Claimed>>) {
        if !matches!(self.phase, Phase::Active(Stage::Claiming)) {
            return;
        }
        let claimed = match verdict {
            Verdict::Yes(c) => c,
            other => return self.not_started(other),
        };
        tracing::info!(attempt = %claimed.attempt, parallelism = claimed.parallelism, decision = %claimed.message, "claimed the next attempt");
        self.answer_starts(Ok(()));
        self.claims += 1;
        self.attempt = claimed.attempt;
        self.parallelism = claimed.parallelism;
        self.next_parallelism = None;
        self.plan = claimed.plan.clone();
        self.facts = claimed.facts.clone();
        let root = self.storage_root.clone();
        self.restored_from = claimed.restores.as_ref().map(|s| {
            let mut info = s.info();
            info.path = absolute(&root, &info.path);
            info
        });
        self.preflight = Preflight {
            verdict: PreflightVerdict::Compatible,
            message: claimed.message.clone(),
            restores: self.restored_from.clone(),
        };
        if let Some(s) = &claimed.restores {
            self.coordinator.stats_mut().restored(s.clone(), self.now.wall);
        }
        match self.after_claim.take() {
            Some(then) => self.stop_tasks(then),
            None => {
                self.phase = Phase::Active(Stage::Slots(claimed));
                self.deploy_if_possible();
            }
        }
    }

    fn answer_starts(&mut self, answer: Result<(), Rejection>) {
        for n in std::mem::take(&mut self.waiting_starts) {
            self.out.push(Action::Started(n, answer.clone()));
        }
    }

    /// Another attempt holds the log, or the log is not as the rules say: stop, tell nobody, delete nothing.
    fn fenced(&mut self, why: String) {
        if matches!(self.phase, Phase::Fenced) {
            return;
        }
        tracing::error!(attempt = %self.attempt, reason = %why, "fenced: this jobmanager stops");
        self.reason = why;
        self.answer_starts(Err(Rejection::conflict(&self.reason.clone())));
        self.operations.fail_all(&self.reason);
        self.go(JobState::Suspended);
        self.stop_tasks(Then::Fenced);
    }

    fn ended(&mut self, t: TerminalInfo) {
        tracing::info!(status = ?t.status, kept = ?t.kept, reason = %t.reason, "the job has ended");
        let state = state_of(t.status);
        self.go(state);
        self.facts.head = t.log_index.or(self.facts.head);
        self.reason = t.reason.clone();
        self.operations.job_ended(&t);
        let status = t.status;
        self.terminal = Some(t);
        self.phase = Phase::Ended;
        self.out.push(Action::Exit(Exit::Ended(status)));
    }

    // -- stopping -----------------------------------------------------------------------------------------------------

    /// Ends all tasks, then does what is next.
    fn stop_tasks(&mut self, then: Then) {
        let reason = match &then {
            Then::Restart { .. } => "the job is restarting",
            Then::End { .. } => "the job is ending",
            Then::Leave => "the jobmanager is ending",
            Then::Fenced => "another jobmanager holds the log",
        };
        self.coordinate(match then {
            Then::Fenced => coordinator::Event::Fenced,
            _ => coordinator::Event::End { reason: reason.into() },
        });
        let patience = if then == Then::Leave { LEAVE_TIMEOUT } else { CANCEL_TIMEOUT };
        let holding: Vec<_> = self.registry.holding().collect();
        for (c, attempt) in holding {
            self.out.push(Action::Send(c, ToTaskManager::Cancel { attempt }));
        }
        self.phase = Phase::Active(Stage::Stopping { then, deadline: self.now.mono + patience });
        self.stopped_if_gone();
    }

    fn stopped_if_gone(&mut self) {
        let Phase::Active(Stage::Stopping { then, deadline }) = &self.phase else { return };
        if self.registry.holding().next().is_some() && !(*then == Then::Leave && self.now.mono >= *deadline) {
            return;
        }
        match then.clone() {
            Then::Restart { at } => {
                self.phase = Phase::Active(Stage::Backoff { until: at });
                if self.now.mono >= at {
                    self.claim();
                }
            }
            Then::End { status, reason } => {
                self.out.push(Action::Io(Io::Terminate { status, reason: reason.clone() }));
                self.phase = Phase::Active(Stage::Ending { status, reason });
            }
            Then::Leave => {
                self.phase = Phase::Ended;
                self.out.push(Action::Exit(Exit::Suspended));
            }
            Then::Fenced => {
                self.phase = Phase::Fenced;
                self.out.push(Action::Exit(Exit::Fenced));
            }
        }
    }

    /// SIGTERM: the tasks end, nothing is recorded and nothing deleted; the next process resumes.
    fn leave(&mut self) {
        if self.terminal.is_none() && self.lifecycle.state() != JobState::Suspended {
            self.go(JobState::Suspended);
            self.reason = "the jobmanager was told to end; another one resumes the job".into();
        }
        match self.phase {
            Phase::Ended => self.out.push(Action::Exit(Exit::Suspended)),
            _ => self.stop_tasks(Then::Leave),
        }
    }

    // -- failures -------------------------------------------------------------------------------------------------------

    /// The attempt cannot go on.
    fn fail(&mut self, error: Error, source: FailureSource) {
        let Phase::Active(Stage::Running(execution)) = &self.phase else { return };
        let error = Error { message: truncate(error.message), ..error };
        let stopped = execution.stop_is_complete();
        tracing::warn!(attempt = %self.attempt, code = %error.code, error = %error, task = %source.task, "the attempt failed");
        self.history.add(&error, source, self.now.wall);
        let decision = match self.restart.failed(self.now.mono, &error) {
            // the savepoint is in the log: what remains is to commit and to record the end, for as long as it takes
            Decision::Fail(_) if stopped => Decision::RestartAfter(self.restart.exponential()),
            d => d,
        };
        match decision {
            Decision::RestartAfter(delay) => {
                self.reason = error.message;
                self.go(JobState::Restarting);
                self.stop_tasks(Then::Restart { at: self.now.mono + delay });
            }
            Decision::Fail(why) => {
                let reason = format!("{} ({why})", error.message);
                tracing::error!(target: OUTCOME, %reason, "the job fails");
                self.reason = reason.clone();
                self.go(JobState::Failing);
                self.stop_tasks(Then::End { status: TerminalStatus::Failed, reason });
            }
        }
    }

    // -- taskmanagers -----------------------------------------------------------------------------------------------------

    fn message(&mut self, c: ConnectionId, m: ToJobManager) {
        if let ToJobManager::Hello(hello) = m {
            return self.hello(c, hello);
        }
        let Some(tm) = self.registry.heard(c, self.now.mono) else { return };
        match m {
            ToJobManager::Hello(_) => {}
            ToJobManager::Heartbeat(h) => {
                if h.attempt == self.attempt {
                    self.counters.extend(h.tasks.iter().copied());
                }
                tm.heartbeat = h;
            }
            ToJobManager::Gone { attempt } => {
                self.registry.gone(c, attempt);
                self.stopped_if_gone();
            }
            ToJobManager::Leaving => {
                self.registry.leaving(c);
                self.lost_tasks(c, ErrorCode::Connection, "it was told to end");
            }
            ToJobManager::DeployFailed { attempt, error } => {
                let id = tm.hello.id.clone();
                if attempt == self.attempt {
                    let source = FailureSource { taskmanager: id, ..Default::default() };
                    self.fail(error, source);
                }
            }
            ToJobManager::Task { attempt, task, event } if attempt == self.attempt => self.task_event(c, task, event),
            // of an attempt that is over
            ToJobManager::Task { .. } => {}
        }
    }

    fn hello(&mut self, c: ConnectionId, hello: crate::control::Hello) {
        let refused = if hello.fingerprint != self.fingerprint {
            Some(format!(
                "taskmanager {} runs another program: its graph has the fingerprint {}, the jobmanager's {}; start both from the same \
                 image with the same arguments",
                hello.id, hello.fingerprint, self.fingerprint
            ))
        } else if hello.slots == 0 {
            Some(format!("taskmanager {} offers no slots: give it at least one", hello.id))
        } else {
            None
        };
        if let Some(reason) = refused {
            tracing::warn!(%reason, "refused a taskmanager");
            self.out.push(Action::Send(c, ToTaskManager::Refused { reason }));
            self.out.push(Action::Close(c));
            return;
        }
        tracing::info!(taskmanager = %hello.id, slots = hello.slots, pid = hello.pid, "registered");
        if let Some(old) = self.registry.add(c, hello, self.now.mono) {
            self.out.push(Action::Close(old));
            self.lost(old, ErrorCode::Connection, "it connected anew");
        }
        self.out.push(Action::Send(
            c,
            ToTaskManager::Welcome(Welcome {
                job: self.config.job.clone(),
                attempt: self.attempt,
                heartbeat: self.config.heartbeat,
                storage: self.config.checkpoint.storage.clone(),
            }),
        ));
        self.deploy_if_possible();
    }

    /// The taskmanager is gone, and its tasks with it.
    fn lost(&mut self, c: ConnectionId, code: ErrorCode, why: &str) {
        if self.registry.get(c).is_none() {
            return;
        }
        self.lost_tasks(c, code, why);
        if let Some(tm) = self.registry.remove(c) {
            match self.phase {
                Phase::Active(_) if !tm.leaving => {
                    tracing::warn!(taskmanager = %tm.hello.id, reason = %why, "lost a taskmanager");
                }
                _ => tracing::info!(taskmanager = %tm.hello.id, reason = %why, "a taskmanager has left"),
            }
        }
        self.stopped_if_gone();
    }

    fn lost_tasks(&mut self, c: ConnectionId, code: ErrorCode, why: &str) {
        let Some(tm) = self.registry.get(c) else { return };
        let id = tm.hello.id.clone();
        if let Phase::Active(Stage::Running(e)) = &self.phase
            && e.uses(c)
        {
            let error = Error::external(code, format!("lost taskmanager {id}: {why}"));
            self.fail(error, FailureSource { taskmanager: id, ..Default::default() });
        }
    }
}

/// The job's state for the way that it ended.
const fn state_of(status: TerminalStatus) -> JobState {
    match status {
        TerminalStatus::Finished | TerminalStatus::Stopped => JobState::Finished,
        TerminalStatus::Canceled => JobState::Canceled,
        TerminalStatus::Failed => JobState::Failed,
    }
}

/// A snapshot's directory as people and other jobs name it.
fn absolute(root: &str, path: &str) -> String {
    if path.starts_with('/') || path.starts_with("file:") || root.is_empty() {
        path.to_owned()
    } else {
        format!("{root}/{path}")
    }
}

fn truncate(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(" ...");
    }
    message
}
