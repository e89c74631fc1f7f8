use super::*;
use crate::checkpoint::handles::{Barrier, Bytes64, OperatorRestore, SnapshotKind, TaskRestore, TaskSnapshot};
use crate::checkpoint::log::{Nonce, SnapshotRef};
use crate::checkpoint::restore::Assignment;
use crate::control::Hello;
use crate::dataflow::factory::{AnyStage, BuildContext, Consumers, NodeFactory};
use crate::dataflow::task::{TaskCommand, TaskEvent};
use crate::graph::{Input, Node, NodeKind, Partition};
use crate::jobmanager::io::Published;
use weir_api::config::RestartStrategy;
use weir_api::ids::{CheckpointId, Deployment, JobName};
use weir_api::rest::{JobManagerPhase, OperationState, RescaleRequest, SavepointRequest, StartRequest, StopRequest};

struct NoFactory;
impl NodeFactory for NoFactory {
    fn stage(&self, _: &BuildContext<'_>, _: Consumers) -> crate::error::Result<AnyStage> {
        Err(Error::internal("not run"))
    }
}

fn graph() -> LogicalGraph {
    let node = |name: &str, kind, inputs| Node {
        named: true,
        has_lists: true,
        inputs,
        ..Node::new(name, kind, Arc::new(NoFactory))
    };
    let hash = Input::of(0, Partition::Hash);
    let nodes = vec![node("source", NodeKind::Source, vec![]), node("sink", NodeKind::Sink, vec![hash])];
    LogicalGraph { nodes, ..LogicalGraph::default() }
}

const A: ConnectionId = ConnectionId(1);
const B: ConnectionId = ConnectionId(2);
const C: ConnectionId = ConnectionId(3);

/// A master with its outside: what it asked for since the last look.
struct World {
    m: Master,
    mono: u64,
    out: Vec<Action>,
    attempt: u64,
}

fn config() -> JobConfig {
    let mut c = JobConfig::new(JobName { namespace: "default".into(), name: "flights".into() }, 2);
    c.checkpoint.storage = Some("file:///chk".into());
    c
}

impl World {
    fn new(config: JobConfig) -> Self {
        let now = Now { mono: Duration::ZERO, wall: 1000 };
        let root = config.checkpoint.storage.clone();
        Self { m: Master::new(config, Arc::new(graph()), root, now), mono: 0, out: Vec::new(), attempt: 0 }
    }
    /// Two taskmanagers with a slot each; all tasks run.
    fn running() -> Self {
        Self::running_with(config())
    }
    fn running_with(config: JobConfig) -> Self {
        let mut w = Self::new(config);
        w.on(Event::Started);
        w.ready(false);
        w.claimed(2);
        w.hello(A, "a", 1);
        w.hello(B, "b", 1);
        w.tasks_run();
        assert_eq!(w.m.state(), JobState::Running);
        w.take();
        w
    }
    fn now(&self) -> Now {
        Now { mono: Duration::from_millis(self.mono), wall: 1000 + self.mono as i64 }
    }
    fn on(&mut self, e: Event) {
        let now = self.now();
        self.out.extend(self.m.on(e, now));
    }
    fn pass(&mut self, ms: u64) {
        self.mono += ms;
        self.on(Event::Tick);
    }
    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out)
    }
    fn ready(&mut self, resumes: bool) {
        let ready = Ready {
            message: "restores the latest".into(),
            resumes,
            restores: None,
            parallelism: 2,
            facts: LogFacts::default(),
        };
        self.on(Event::Io(IoReply::Prepared(Verdict::Yes(ready))));
    }
    fn claim_reply(&mut self, parallelism: u32) -> Box<Claimed> {
        self.attempt += 1;
        let plan = Arc::new(JobGraph::new(&graph(), parallelism, 128));
        Box::new(Claimed {
            attempt: Attempt(self.attempt),
            nonce: Nonce(7),
            next: CheckpointId(1),
            parallelism,
            plan,
            restores: None,
            assignment: Default::default(),
            finishes_stop: false,
            message: "starts new".into(),
            facts: LogFacts::default(),
        })
    }
    fn claimed(&mut self, parallelism: u32) {
        let c = self.claim_reply(parallelism);
        self.on(Event::Io(IoReply::Claimed(Verdict::Yes(c))));
    }
    fn hello(&mut self, c: ConnectionId, id: &str, slots: u32) {
        let fingerprint = graph().fingerprint();
        let hello =
            Hello { id: id.into(), slots, data_address: format!("{id}:1"), fingerprint, pid: 1, highest: Attempt(0) };
        self.on(Event::Message(c, ToJobManager::Hello(hello)));
    }
    fn say(&mut self, task: TaskId, event: TaskEvent) {
        let c = self.m.tasks().expect("deployed")[&task].connection;
        let attempt = Attempt(self.attempt);
        self.on(Event::Message(c, ToJobManager::Task { attempt, task, event }));
    }
    fn ids(&self) -> Vec<TaskId> {
        self.m.tasks().expect("deployed").keys().copied().collect()
    }
    fn each(&mut self, event: impl Fn(TaskId) -> TaskEvent) {
        for id in self.ids() {
            self.say(id, event(id));
        }
    }
    fn tasks_run(&mut self) {
        self.each(|_| TaskEvent::Running);
    }
    fn gone(&mut self, c: ConnectionId) {
        let attempt = Attempt(self.attempt);
        self.on(Event::Message(c, ToJobManager::Gone { attempt }));
    }
    /// The barrier that was triggered last among the actions.
    fn barrier(&mut self) -> Barrier {
        let found = self.out.iter().rev().find_map(|a| match a {
            Action::Send(_, ToTaskManager::Command { command: TaskCommand::Trigger(b), .. }) => Some(b.clone()),
            _ => None,
        });
        found.expect("a barrier was triggered")
    }
    /// All tasks acknowledge; the master wants it published.
    fn acknowledge(&mut self, b: &Barrier) {
        self.take();
        let checkpoint = b.id;
        self.each(|_| TaskEvent::Snapshot { checkpoint, snapshot: TaskSnapshot::default() });
    }
    fn published(&mut self, b: &Barrier, index: u64) {
        let p = Published {
            index: Some(index),
            dropped: Vec::new(),
            facts: LogFacts { head: Some(index), ..Default::default() },
        };
        self.on(Event::Io(IoReply::Published { id: b.id, result: Ok(p) }));
    }
    fn has_io(&self, f: impl Fn(&Io) -> bool) -> bool {
        self.out.iter().any(|a| matches!(a, Action::Io(io) if f(io)))
    }
    fn claims(&self) -> bool {
        self.has_io(|io| matches!(io, Io::Claim { .. }))
    }
    fn sent(&self, c: ConnectionId, f: impl Fn(&ToTaskManager) -> bool) -> bool {
        self.out.iter().any(|a| matches!(a, Action::Send(to, m) if *to == c && f(m)))
    }
    fn cancels(&self, c: ConnectionId) -> bool {
        self.sent(c, |m| matches!(m, ToTaskManager::Cancel { .. }))
    }
    fn terminal(&mut self, status: TerminalStatus) {
        let t = TerminalInfo { status, log_index: Some(9), kept: vec![], reason: "r".into(), at: 5 };
        self.on(Event::Io(IoReply::Terminated(Ok(t))));
    }
    fn exit(&self) -> Option<Exit> {
        self.out.iter().find_map(|a| if let Action::Exit(e) = a { Some(*e) } else { None })
    }
}

#[test]
fn waits_for_slots_says_how_many_then_deploys_and_runs() {
    let mut w = World::new(config());
    w.on(Event::Started);
    assert!(w.has_io(|io| matches!(io, Io::Prepare(_))));
    w.ready(false);
    assert!(w.claims());
    w.claimed(2);
    w.hello(A, "a", 1);
    assert_eq!(w.m.status().reason, "the job needs 2 slots and 1 are registered: 1 more are missing");
    assert!(w.m.tasks().is_none());
    w.hello(B, "b", 1);
    for (c, position) in [(A, 0), (B, 1)] {
        assert!(w.sent(c, |m| matches!(m, ToTaskManager::Deploy { me, deployment }
            if *me == position && deployment.slots == [0, 1] && deployment.attempt == Attempt(1))));
    }
    assert!(!w.m.status().all_tasks_running);
    w.tasks_run();
    let s = w.m.status();
    assert!(s.all_tasks_running && s.job_state == JobState::Running && s.phase == JobManagerPhase::Active);
}

/// An assignment with a list of so many bytes for each task.
fn lists(bytes: usize) -> Assignment {
    let restore = |name: &str| {
        let lists = [("weir.splits".to_owned(), vec![Bytes64(vec![7; bytes])])].into();
        TaskRestore { operators: [(name.to_owned(), OperatorRestore { lists, ..Default::default() })].into() }
    };
    let names = [(0, "source"), (1, "sink")];
    let tasks = names.map(|(vertex, name)| [0, 1].map(|subtask| (TaskId { vertex, subtask }, restore(name))));
    tasks.into_iter().flatten().collect()
}

#[test]
fn what_tasks_start_from_travels_in_messages_of_their_own_ahead_of_the_deployment() {
    let mut w = World::new(config());
    w.on(Event::Started);
    w.ready(false);
    // each fits, both of a taskmanager together do not
    w.m.frame_limit = 2000;
    let mut c = w.claim_reply(2);
    c.assignment = lists(1000);
    w.on(Event::Io(IoReply::Claimed(Verdict::Yes(c))));
    w.hello(A, "a", 1);
    w.take();
    w.hello(B, "b", 1);
    for (me, to) in [(0, A), (1, B)] {
        let sent = w.out.iter().filter_map(|a| match a {
            Action::Send(c, m) if *c == to => Some(m),
            _ => None,
        });
        let sent: Vec<_> =
            sent.filter(|m| !matches!(m, ToTaskManager::Welcome(_) | ToTaskManager::Heartbeat)).collect();
        let [first, second, ToTaskManager::Deploy { me: position, deployment }] = sent[..] else { panic!("{sent:?}") };
        assert!(*position == me && deployment.restore.is_empty());
        for (vertex, message) in [(0, first), (1, second)] {
            let id = TaskId { vertex, subtask: me };
            let restore = lists(1000).remove(&id).unwrap();
            assert_eq!(*message, ToTaskManager::Restore { attempt: Attempt(1), task: id, restore });
        }
    }
}

#[test]
fn a_task_whose_restore_fits_no_message_fails_the_job_and_says_which_list() {
    let mut w = World::new(config());
    w.on(Event::Started);
    w.ready(false);
    w.m.frame_limit = 2000;
    let mut c = w.claim_reply(2);
    c.assignment = lists(3000);
    w.on(Event::Io(IoReply::Claimed(Verdict::Yes(c))));
    w.hello(A, "a", 1);
    w.hello(B, "b", 1);
    let deploys = |m: &ToTaskManager| matches!(m, ToTaskManager::Deploy { .. } | ToTaskManager::Restore { .. });
    assert!(!w.sent(A, deploys) && !w.sent(B, deploys));
    assert_eq!(w.m.state(), JobState::Failing);
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Failed, .. })), "nobody is waited for");
    for part in [r#"operator "source""#, r#""weir.splits" holds 1 elements of 3000 bytes"#, "limit: 2000"] {
        assert!(w.m.reason().contains(part), "{}", w.m.reason());
    }
}

#[test]
fn says_how_many_slots_its_graph_needs_before_it_has_any() {
    for (source, sink) in [(None, None), (None, Some(8)), (Some(3), Some(8)), (Some(200), None)] {
        let mut g = graph();
        (g.nodes[0].parallelism, g.nodes[1].parallelism) = (source, sink);
        let now = Now { mono: Duration::ZERO, wall: 1000 };
        let needed = Master::new(config(), Arc::new(g), None, now).status().slots_needed.expect("told");
        for parallelism in [1, 2, 8, 100, 128] {
            let mut g = graph();
            (g.nodes[0].parallelism, g.nodes[1].parallelism) = (source, sink);
            assert_eq!(needed.at(parallelism), JobGraph::new(&g, parallelism, 128).slots(), "{source:?} {sink:?}");
        }
    }
}

#[test]
fn a_lost_taskmanager_restarts_the_job_at_once_when_the_others_have_let_go() {
    let mut w = World::running();
    w.on(Event::Disconnected(A, "reset by peer".into()));
    assert_eq!(w.m.state(), JobState::Restarting);
    assert!(w.cancels(B) && !w.claims(), "tasks of the old attempt first");
    w.gone(B);
    assert!(w.has_io(|io| matches!(io, Io::Claim { after: Attempt(1), .. })), "whatever the log says then");
    w.claimed(2);
    assert!(w.m.tasks().is_none(), "one slot is missing");
    w.take();
    w.hello(C, "a", 1);
    assert!(w.sent(C, |m| matches!(m, ToTaskManager::Deploy { deployment, .. } if deployment.attempt == Attempt(2))));
    // a word of the old attempt changes nothing
    let task = TaskId { vertex: 0, subtask: 0 };
    let event = TaskEvent::Failed(Error::internal("old"));
    w.on(Event::Message(B, ToJobManager::Task { attempt: Attempt(1), task, event }));
    w.tasks_run();
    assert_eq!(w.m.state(), JobState::Running);
    assert_eq!(w.m.status().restarts, 1);
    let e: Vec<_> = w.m.exceptions().collect();
    assert!(e.len() == 1 && e[0].message.contains("lost taskmanager a: reset by peer"), "{e:?}");
}

#[test]
fn taskmanagers_that_followed_higher_attempts_get_one_above() {
    let mut w = World::new(config());
    w.on(Event::Started);
    w.ready(false);
    w.claimed(2);
    w.take();
    let fingerprint = graph().fingerprint();
    let highest = Attempt(7);
    let hello = Hello { id: "a".into(), slots: 2, data_address: "a:1".into(), fingerprint, pid: 1, highest };
    w.on(Event::Message(A, ToJobManager::Hello(hello)));
    assert!(w.has_io(|io| matches!(io, Io::Claim { after: Attempt(7), .. })), "{:?}", w.out);
    assert!(!w.sent(A, |m| matches!(m, ToTaskManager::Deploy { .. })), "it would be dropped without a word");
}

#[test]
fn other_free_slots_are_used_at_once() {
    let mut w = World::running();
    w.hello(C, "c", 4);
    w.on(Event::Disconnected(A, "killed".into()));
    w.gone(B);
    w.take();
    w.claimed(2);
    assert!(w.sent(C, |m| matches!(m, ToTaskManager::Deploy { .. })));
}

#[test]
fn a_silent_taskmanager_is_lost_after_the_timeout() {
    let mut w = World::running();
    for _ in 0..20 {
        w.on(Event::Message(B, ToJobManager::Heartbeat(Default::default())));
        w.pass(500);
    }
    assert_eq!(w.m.state(), JobState::Restarting);
    assert!(w.out.iter().any(|a| matches!(a, Action::Close(c) if *c == A)));
    assert!(w.sent(B, |m| *m == ToTaskManager::Heartbeat));
    assert_eq!(w.m.registry().len(), 1);
}

#[test]
fn a_user_error_restarts_with_a_delay_and_in_the_end_fails_the_job_by_the_log_first() {
    let mut w = World::running();
    for n in 1..=3 {
        let task = w.ids()[0];
        w.say(task, TaskEvent::Failed(Error::user(ErrorCode::BadRecord, "f.csv line 3: no number")));
        w.take();
        w.gone(A);
        w.gone(B);
        if n == 3 {
            break;
        }
        assert!(!w.claims(), "has a delay");
        w.pass(1_000);
        assert!(w.claims());
        w.claimed(2);
        w.tasks_run();
    }
    assert_eq!(w.m.state(), JobState::Failing);
    assert!(w.has_io(
        |io| matches!(io, Io::Terminate { status: TerminalStatus::Failed, reason } if reason.contains("line 3"))
    ));
    assert!(w.m.status().terminal.is_none() && w.exit().is_none(), "nobody is told before the log says so");
    w.terminal(TerminalStatus::Failed);
    assert_eq!((w.m.state(), w.exit()), (JobState::Failed, Some(Exit::Ended(TerminalStatus::Failed))));
}

#[test]
fn a_broken_channel_waits_for_its_cause() {
    let broken = || TaskEvent::Failed(Error::external(ErrorCode::Connection, "the connection from b broke"));
    let mut w = World::running();
    let (first, last) = (w.ids()[0], w.ids()[3]);
    w.say(last, broken());
    assert_eq!(w.m.state(), JobState::Running);
    w.say(first, TaskEvent::Failed(Error::user(ErrorCode::UserFunction, "no such airport")));
    assert_eq!(w.m.exceptions().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["no such airport"]);
    // where nothing better is heard, it is the cause
    let mut w = World::running();
    w.say(last, broken());
    assert!(w.m.next_wakeup() <= Duration::from_millis(50));
    w.pass(50);
    assert_eq!(w.m.exceptions().map(|e| e.message.as_str()).collect::<Vec<_>>(), ["the connection from b broke"]);
    assert_eq!(w.m.state(), JobState::Restarting);
}

#[test]
fn a_program_with_another_fingerprint_is_refused() {
    let mut w = World::running();
    let hello = Hello {
        id: "x".into(),
        slots: 1,
        data_address: "x:1".into(),
        fingerprint: "other".into(),
        pid: 1,
        highest: Attempt(0),
    };
    w.on(Event::Message(C, ToJobManager::Hello(hello)));
    assert!(w.sent(C, |m| matches!(m, ToTaskManager::Refused { reason } if reason.contains("fingerprint other"))));
    assert_eq!(w.m.registry().len(), 2);
}

#[test]
fn checkpoints_complete_and_sinks_are_told_only_after_the_entry() {
    let mut w = World::running();
    w.pass(1000);
    let b = w.barrier();
    assert_eq!(b.kind, SnapshotKind::Checkpoint);
    w.acknowledge(&b);
    assert!(w.has_io(|io| matches!(io, Io::Publish(p) if p.id == b.id)));
    let complete = |m: &ToTaskManager| matches!(m, ToTaskManager::Command { command: TaskCommand::Complete(_), .. });
    assert!(!w.sent(A, complete));
    w.published(&b, 4);
    assert!(w.sent(A, complete) && w.sent(B, complete));
    assert_eq!(w.m.status().log_head, Some(4));
}

#[test]
fn a_fenced_jobmanager_cancels_tells_nobody_and_deletes_nothing() {
    for supervised in [false, true] {
        let mut w = World::running();
        w.m.config.deployment = supervised.then(|| Deployment { uid: "u".into(), generation: 1, restart_nonce: None });
        w.pass(1000);
        let b = w.barrier();
        w.acknowledge(&b);
        w.take();
        let fenced = AppendError::Fenced(Error::external(ErrorCode::Fenced, "attempt 2 holds the log"));
        w.on(Event::Io(IoReply::Published { id: b.id, result: Err(fenced) }));
        assert!(w.cancels(A) && w.cancels(B));
        assert!(!w.out.iter().any(|a| matches!(a, Action::Io(_) | Action::Send(_, ToTaskManager::Command { .. }))));
        w.gone(A);
        w.gone(B);
        assert!(!w.has_io(|_| true) && w.exit() == Some(Exit::Fenced));
        let s = w.m.status();
        assert!(s.phase == JobManagerPhase::Fenced && s.reason.contains("attempt 2") && s.terminal.is_none());
    }
}

#[test]
fn nothing_that_was_under_way_when_it_was_fenced_is_touched_later() {
    let mut c = config();
    c.checkpoint.timeout = weir_api::HumanDuration::from_secs(1);
    let mut w = World::running_with(c);
    w.pass(1000);
    let b = w.barrier();
    w.take();
    let fenced = AppendError::Fenced(Error::external(ErrorCode::Fenced, "attempt 2 holds the log"));
    w.on(Event::Io(IoReply::CleanedUp(Err(fenced))));
    // the checkpoint's timeout passes before the tasks are gone, and again after that
    w.pass(2_000);
    let (attempt, task) = (Attempt(1), TaskId { vertex: 0, subtask: 0 });
    let event = TaskEvent::Snapshot { checkpoint: b.id, snapshot: TaskSnapshot::default() };
    w.on(Event::Message(A, ToJobManager::Task { attempt, task, event }));
    w.gone(A);
    w.gone(B);
    w.pass(2_000);
    w.on(Event::Leave);
    w.pass(60_000);
    assert!(!w.has_io(|_| true), "{:?}", w.out);
    assert!(w.m.next_wakeup() > Duration::from_millis(w.mono), "it sleeps");
    assert_eq!(w.m.checkpoints().counts.in_progress, 0);
}

#[test]
fn the_end_of_all_sources_ends_the_job_through_a_final_checkpoint() {
    let mut w = World::running();
    let (first, second) = (TaskId { vertex: 0, subtask: 0 }, TaskId { vertex: 0, subtask: 1 });
    w.say(first, TaskEvent::SourceEnded);
    w.pass(1);
    w.say(second, TaskEvent::SourceEnded);
    let b = w.barrier();
    assert_eq!(b.kind, SnapshotKind::Final);
    w.acknowledge(&b);
    w.published(&b, 2);
    w.each(|_| TaskEvent::Finished);
    w.gone(A);
    assert!(!w.has_io(|io| matches!(io, Io::Terminate { .. })));
    w.gone(B);
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Finished, .. })));
    assert_eq!(w.m.state(), JobState::Running);
    w.terminal(TerminalStatus::Finished);
    assert_eq!((w.m.state(), w.exit()), (JobState::Finished, Some(Exit::Ended(TerminalStatus::Finished))));
    assert_eq!(w.exit().map(Exit::code), Some(0));
}

#[test]
fn cancel_is_reported_only_when_it_is_recorded_and_may_be_repeated() {
    let mut w = World::running();
    let now = w.now();
    let (r, actions) = w.m.cancel("c1".into(), now);
    r.unwrap();
    w.out.extend(actions);
    assert_eq!(w.m.state(), JobState::Cancelling);
    assert_eq!(w.m.cancel("c2".into(), now).0, Ok(()));
    w.gone(A);
    // one that is lost meanwhile holds nothing up
    w.on(Event::Disconnected(B, "killed".into()));
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Canceled, .. })));
    w.terminal(TerminalStatus::Canceled);
    assert_eq!(w.m.state(), JobState::Canceled);
    assert_eq!(w.m.status().operation.map(|o| o.state), Some(OperationState::Completed));
}

#[test]
fn an_end_that_cannot_be_recorded_is_tried_again() {
    let mut w = World::running();
    let now = w.now();
    let (_, actions) = w.m.cancel("c1".into(), now);
    w.out.extend(actions);
    w.gone(A);
    w.gone(B);
    w.take();
    let full = AppendError::Refused(Error::external(ErrorCode::Storage, "the storage is full"));
    w.on(Event::Io(IoReply::Terminated(Err(full))));
    assert_eq!(w.m.state(), JobState::Cancelling);
    assert!(w.m.reason().contains("the storage is full"));
    w.pass(2_000);
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Canceled, .. })));
}

/// A stop whose savepoint is in the log; the next attempt has finished nothing yet.
fn stop_is_to_be_finished(config: JobConfig) -> World {
    let mut w = World::running_with(config);
    stop(&mut w, StopRequest::default());
    let b = w.barrier();
    w.acknowledge(&b);
    w.published(&b, 3);
    w
}

#[test]
fn a_stop_that_cannot_be_committed_is_tried_again_with_a_delay_and_never_given_up() {
    let full = || TaskEvent::Failed(Error::external(ErrorCode::Io, "no space left on device"));
    for (strategy, delays) in
        [(RestartStrategy::ExponentialDelay, [100, 200, 400]), (RestartStrategy::None, [200, 400, 500])]
    {
        let mut c = config();
        c.restart.max_delay = weir_api::HumanDuration::from_millis(500);
        c.restart.strategy = Some(strategy);
        let mut w = stop_is_to_be_finished(c);
        for delay in delays {
            w.take();
            let task = w.ids()[0];
            w.say(task, full());
            w.gone(A);
            w.gone(B);
            assert!(w.m.state() == JobState::Restarting && !w.claims(), "{strategy:?}");
            w.pass(delay - 1);
            assert!(!w.claims(), "{strategy:?}: {delay} ms");
            w.pass(1);
            assert!(w.claims(), "{strategy:?}: {delay} ms");
            let mut c = w.claim_reply(2);
            c.finishes_stop = true;
            w.on(Event::Io(IoReply::Claimed(Verdict::Yes(c))));
        }
    }
}

#[test]
fn a_job_that_has_stopped_is_not_cancelled_while_its_tasks_let_go() {
    let mut w = stop_is_to_be_finished(config());
    w.each(|_| TaskEvent::Finished);
    let now = w.now();
    let (answer, actions) = w.m.cancel("c1".into(), now);
    assert!(answer.is_err_and(|r| r.status == 409) && actions.is_empty());
    w.gone(A);
    w.gone(B);
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Stopped, .. })));
}

#[test]
fn sigterm_suspends_and_records_nothing() {
    let mut w = World::running();
    w.on(Event::Leave);
    assert!(w.cancels(A) && w.cancels(B));
    assert_eq!(w.m.state(), JobState::Suspended);
    w.gone(A);
    assert_eq!(w.exit(), None);
    // a taskmanager that hangs does not hold it up
    w.pass(3_000);
    assert_eq!(w.exit(), Some(Exit::Suspended));
    assert!(!w.has_io(|io| matches!(io, Io::Terminate { .. })));
}

#[test]
fn stop_with_savepoint_is_done_when_the_job_has_ended_and_its_trigger_is_idempotent() {
    let mut w = World::running();
    let request = || StopRequest { trigger_id: Some("t1".into()), ..Default::default() };
    let now = w.now();
    let (r, actions) = w.m.stop(request(), "x".into(), now);
    assert_eq!(r.unwrap().request_id, "t1");
    w.out.extend(actions);
    let b = w.barrier();
    assert_eq!(b.kind, SnapshotKind::Stop { drain: false });
    let (again, actions) = w.m.stop(request(), "x".into(), now);
    assert!(again.is_ok() && actions.is_empty(), "starts nothing");
    let other = w.m.stop(StopRequest { trigger_id: Some("t2".into()), ..Default::default() }, "x".into(), now).0;
    assert_eq!(other.map_err(|r| r.status), Err(409));
    w.acknowledge(&b);
    w.published(&b, 3);
    assert_eq!(w.m.operations.get("t1").map(|o| o.state), Some(OperationState::InProgress));
    w.each(|_| TaskEvent::Finished);
    w.gone(A);
    w.gone(B);
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Stopped, .. })));
    w.terminal(TerminalStatus::Stopped);
    let o = w.m.operations.get("t1").unwrap();
    assert!(
        o.state == OperationState::Completed
            && o.message.starts_with("file:///chk/savepoint-")
            && o.log_index == Some(3),
        "{o:?}"
    );
}

#[test]
fn a_stop_whose_savepoint_fails_leaves_the_job_running_and_says_why() {
    let mut w = World::running();
    let now = w.now();
    let (r, actions) = w.m.stop(StopRequest { trigger_id: Some("t1".into()), ..Default::default() }, "x".into(), now);
    assert!(r.is_ok());
    w.out.extend(actions);
    let b = w.barrier();
    let task = w.ids()[0];
    let reason = Error::external(ErrorCode::Storage, "no space left on device");
    w.say(task, TaskEvent::Declined { checkpoint: b.id, reason });
    let aborted = |m: &ToTaskManager| matches!(m, ToTaskManager::Command { command: TaskCommand::Aborted(_), .. });
    assert!(w.sent(A, aborted), "sources resume");
    assert_eq!(w.m.state(), JobState::Running);
    let result = w.m.savepoint_result("t1").unwrap().operation.unwrap();
    assert!(result.failure_cause.unwrap().stack_trace.contains("no space left"));
}

fn stop(w: &mut World, request: StopRequest) -> String {
    let now = w.now();
    let (r, actions) = w.m.stop(request, "t1".into(), now);
    w.out.extend(actions);
    r.unwrap().request_id
}

#[test]
fn a_drain_that_fails_goes_on_from_the_last_checkpoint_whatever_the_restart_strategy() {
    for strategy in [RestartStrategy::None, RestartStrategy::FixedDelay] {
        let mut c = config();
        c.restart.strategy = Some(strategy);
        c.restart.attempts = 0;
        let mut w = World::running_with(c);
        let id = stop(&mut w, StopRequest { drain: true, ..Default::default() });
        let b = w.barrier();
        assert_eq!(b.kind, SnapshotKind::Stop { drain: true });
        let task = w.ids()[0];
        let reason = Error::external(ErrorCode::Storage, "no space left on device");
        w.take();
        w.say(task, TaskEvent::Declined { checkpoint: b.id, reason });
        assert_eq!(w.m.state(), JobState::Restarting);
        assert!(w.cancels(A) && w.cancels(B));
        w.gone(A);
        w.gone(B);
        assert!(w.claims(), "without delay");
        w.claimed(2);
        w.tasks_run();
        assert_eq!(w.m.state(), JobState::Running);
        let result = w.m.savepoint_result(&id).unwrap().operation.unwrap();
        assert!(result.failure_cause.unwrap().stack_trace.contains("no space left"));
        let why: Vec<_> = w.m.exceptions().map(|e| e.message.as_str()).collect();
        assert!(why.len() == 1 && why[0].contains("goes on from its last checkpoint"), "{why:?}");
    }
}

#[test]
fn a_target_that_cannot_be_written_is_found_before_any_barrier() {
    let mut w = World::running();
    let target_directory = Some("/nope".to_owned());
    let id = stop(&mut w, StopRequest { drain: true, target_directory, ..Default::default() });
    let triggers = |m: &ToTaskManager| matches!(m, ToTaskManager::Command { command: TaskCommand::Trigger(_), .. });
    assert!(w.has_io(|io| matches!(io, Io::CheckTarget { target, .. } if target == "/nope")));
    assert!(!w.sent(A, triggers));
    let checked = |result| {
        let (trigger_id, kind) = ("t1".into(), SnapshotKind::Stop { drain: true });
        Event::Io(IoReply::TargetChecked { trigger_id, kind, result })
    };
    w.on(checked(Err(Error::external(ErrorCode::Storage, "permission denied"))));
    assert!(!w.sent(A, triggers) && w.m.state() == JobState::Running);
    let result = w.m.savepoint_result(&id).unwrap().operation.unwrap();
    assert!(result.failure_cause.unwrap().stack_trace.contains("permission denied"));
    // a late answer to what is over starts nothing
    w.on(checked(Ok("file:///nope".into())));
    assert!(!w.sent(A, triggers));
}

#[test]
fn a_savepoint_goes_to_its_target_under_the_name_that_restores_know_it_by() {
    let mut w = World::running();
    stop(&mut w, StopRequest { target_directory: Some("/backup/".into()), ..Default::default() });
    let (trigger_id, kind) = ("t1".into(), SnapshotKind::Stop { drain: false });
    w.on(Event::Io(IoReply::TargetChecked { trigger_id, kind, result: Ok("file:///backup".into()) }));
    let b = w.barrier();
    assert!(b.directory.starts_with("file:///backup/savepoint-flights-"), "{b:?}");
}

#[test]
fn a_taskmanager_lost_after_the_stop_savepoint_does_not_let_the_job_run_on() {
    let mut w = World::running();
    let now = w.now();
    let (_, actions) = w.m.stop(StopRequest::default(), "t1".into(), now);
    w.out.extend(actions);
    let b = w.barrier();
    w.acknowledge(&b);
    w.published(&b, 3);
    w.on(Event::Disconnected(A, "killed".into()));
    w.gone(B);
    w.take();
    // the next attempt only commits what the savepoint left pending
    let mut c = w.claim_reply(2);
    c.finishes_stop = true;
    c.restores = Some(SnapshotRef {
        index: Some(3),
        id: b.id,
        path: b.directory.clone(),
        kind: b.kind,
        size_bytes: 0,
        duration_ms: 0,
        completed_at: 0,
    });
    w.on(Event::Io(IoReply::Claimed(Verdict::Yes(c))));
    w.hello(C, "a", 1);
    w.tasks_run();
    assert!(w.cancels(B) && w.cancels(C));
    w.gone(B);
    w.gone(C);
    assert!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Stopped, .. })));
    w.terminal(TerminalStatus::Stopped);
    assert_eq!(w.m.state(), JobState::Finished);
    assert_eq!(w.m.operations.get("t1").map(|o| o.state), Some(OperationState::Completed));
}

#[test]
fn rescale_checks_slots_first_and_restores_at_the_new_parallelism() {
    let mut w = World::running();
    let now = w.now();
    let request = |p, id: &str| RescaleRequest { parallelism: p, trigger_id: id.into() };
    let e = w.m.rescale(request(3, "r0"), now).0.unwrap_err();
    assert_eq!((e.status, e.message.as_str()), (409, "parallelism 3 needs 3 slots and 2 are registered"));
    assert_eq!(w.m.rescale(request(0, "r0"), now).0.unwrap_err().status, 400);
    assert_eq!(w.m.rescale(request(129, "r0"), now).0.unwrap_err().status, 400);
    w.hello(C, "c", 1);
    let (r, actions) = w.m.rescale(request(3, "r1"), now);
    r.unwrap();
    w.out.extend(actions);
    let b = w.barrier();
    assert_eq!(b.kind, SnapshotKind::Rescale);
    w.acknowledge(&b);
    w.published(&b, 5);
    w.each(|_| TaskEvent::Finished);
    w.gone(A);
    w.take();
    w.gone(B);
    assert!(w.has_io(|io| matches!(io, Io::Claim { parallelism: Some(3), .. })));
    w.claimed(3);
    w.tasks_run();
    let s = w.m.status();
    assert_eq!((s.parallelism, s.job_state), (3, JobState::Running));
    assert_eq!(s.operation.map(|o| (o.trigger_id, o.state)), Some(("r1".into(), OperationState::Completed)));
}

#[test]
fn a_rescale_that_fails_before_its_snapshot_keeps_the_old_parallelism() {
    let mut w = World::running();
    w.hello(C, "c", 1);
    let now = w.now();
    let (r, actions) = w.m.rescale(RescaleRequest { parallelism: 3, trigger_id: "r1".into() }, now);
    r.unwrap();
    w.out.extend(actions);
    w.on(Event::Disconnected(A, "killed".into()));
    w.take();
    w.gone(B);
    assert!(w.has_io(|io| matches!(io, Io::Claim { parallelism: None, .. })), "{:?}", w.out);
    assert_eq!(w.m.operations.get("r1").map(|o| o.state), Some(OperationState::Failed));
}

fn waiting() -> World {
    let mut c = config();
    c.start = StartMode::Await;
    c.deployment = Some(Deployment { uid: "u".into(), generation: 2, restart_nonce: None });
    let mut w = World::new(c);
    w.on(Event::Started);
    w.ready(false);
    w
}

#[test]
fn a_waiting_jobmanager_claims_nothing_before_the_word() {
    let mut w = waiting();
    assert!(!w.claims());
    let s = w.m.status();
    assert_eq!((s.phase, s.preflight.verdict), (JobManagerPhase::Waiting, PreflightVerdict::Compatible));
    let now = w.now();
    let (answer, actions) = w.m.start(StartRequest { expect_log_index: Some(8), ..Default::default() }, 1, now);
    assert!(answer.is_none(), "answered when the claim is won");
    w.out.extend(actions);
    assert!(w.has_io(|io| matches!(io, Io::Claim { options, .. } if options.expect_log_index == Some(8))));
    let s = w.m.status();
    assert_eq!((s.phase, s.attempt), (JobManagerPhase::Preparing, 0), "not active before the claim is won");
    w.claimed(2);
    assert_eq!(w.m.manager_phase(), JobManagerPhase::Active);
    assert!(w.out.iter().any(|a| matches!(a, Action::Started(1, Ok(())))));
    let now = w.now();
    assert_eq!(w.m.start(StartRequest::default(), 2, now).0, Some(Ok(())), "safe to repeat");
}

#[test]
fn a_start_that_expects_another_log_entry_is_refused_and_the_jobmanager_waits_on() {
    let mut w = waiting();
    let now = w.now();
    let (_, actions) = w.m.start(StartRequest { expect_log_index: Some(8), ..Default::default() }, 1, now);
    w.out.extend(actions);
    let refused =
        Verdict::Refused { message: "the latest is entry 9".into(), conflict: true, facts: LogFacts::default() };
    w.on(Event::Io(IoReply::Claimed(refused)));
    assert!(w.out.iter().any(|a| matches!(a, Action::Started(1, Err(r)) if r.status == 409)));
    assert_eq!(w.m.manager_phase(), JobManagerPhase::Waiting);
}

#[test]
fn a_deployment_that_holds_the_claim_resumes_without_the_word() {
    let mut c = config();
    c.start = StartMode::Await;
    let mut w = World::new(c);
    w.on(Event::Started);
    w.ready(true);
    assert!(w.claims());
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_before_anything_is_claimed() {
    let mut w = World::new(config());
    w.on(Event::Started);
    let message = "state legs of operator legs: i32 cannot become String".to_owned();
    let refused = Verdict::Refused { message: message.clone(), conflict: false, facts: LogFacts::default() };
    w.on(Event::Io(IoReply::Prepared(refused)));
    assert!(!w.claims());
    let s = w.m.status();
    assert_eq!(
        (s.phase, s.preflight.verdict, s.reason),
        (JobManagerPhase::Refused, PreflightVerdict::Incompatible, message)
    );
    assert_eq!(w.exit(), Some(Exit::Refused));
}

#[test]
fn a_storage_that_does_not_answer_is_asked_again() {
    let mut w = World::new(config());
    w.on(Event::Started);
    w.take();
    let e = Error::external(ErrorCode::Storage, "timed out");
    w.on(Event::Io(IoReply::Prepared(Verdict::Failed(e))));
    assert!(!w.has_io(|_| true));
    w.pass(1_000);
    assert!(w.has_io(|io| matches!(io, Io::Prepare(_))));
}

#[test]
fn malformed_requests_name_the_field_and_change_nothing() {
    let mut w = World::running();
    let now = w.now();
    let stop = |r: StopRequest, w: &mut World| w.m.stop(r, "x".into(), now).0.unwrap_err();
    let e = stop(StopRequest { target_directory: Some("s3//x".into()), ..Default::default() }, &mut w);
    assert!(e.status == 400 && e.message.starts_with("targetDirectory"), "{e:?}");
    let e = stop(StopRequest { trigger_id: Some("a b".into()), ..Default::default() }, &mut w);
    assert!(e.status == 400 && e.message.starts_with("triggerId"), "{e:?}");
    for format in ["avro", "CANONICAL"] {
        let e = stop(StopRequest { format_type: Some(format.into()), ..Default::default() }, &mut w);
        assert!(e.status == 400 && e.message.starts_with("formatType") && e.message.contains("NATIVE"), "{e:?}");
    }
    let r = SavepointRequest { target_directory: Some("relative".into()), ..Default::default() };
    let e = w.m.savepoint(r, "x".into(), now).0.unwrap_err();
    assert!(e.status == 400 && e.message.starts_with("target-directory"), "{e:?}");
    assert!(w.m.operations.last().is_none());
}

#[test]
fn without_storage_a_failure_fails_the_job_unless_a_strategy_was_chosen() {
    for (strategy, restarts) in [(None, false), (Some(RestartStrategy::FixedDelay), true)] {
        let mut c = config();
        c.checkpoint.storage = None;
        c.restart.strategy = strategy;
        let mut w = World::new(c);
        w.on(Event::Started);
        w.ready(false);
        w.claimed(2);
        w.hello(A, "a", 2);
        w.tasks_run();
        w.take();
        w.on(Event::Disconnected(A, "killed".into()));
        w.pass(100);
        assert_eq!(w.claims(), restarts);
        assert_eq!(w.has_io(|io| matches!(io, Io::Terminate { status: TerminalStatus::Failed, .. })), !restarts);
    }
}
