//! Every interleaving of jobmanagers over the real state machines of the log: no two branches ever commit.
//!
//! A jobmanager reads the log, claims it, restores, and completes checkpoints, one store operation a step. Any of them may
//! sleep for as long as it likes between two steps (a crash is a sleep for ever), puts may lose their reply, and entries are
//! cleaned up as soon as the rules allow. A checkpoint's path spells its ancestry, so that two commits belong to one branch
//! exactly if one path begins with the other.
//!
//! To keep it small: jobmanagers start in order (they are alike); in the large model entries are read, and deleted, together
//! with the listing before (entries never change); the small model does it one by one.
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::collections::{BTreeMap, BTreeSet};
use weir::checkpoint::handles::SnapshotKind;
use weir::checkpoint::log::machine::{ReadStep, Reader, StoreOp, StoreReply, WriteStep, Writer, floor, renewal};
use weir::checkpoint::log::{Body, Claim, LogEntry, LogView, Nonce, Snapshot};
use weir::checkpoint::retention::retains_from;
use weir_api::ids::CheckpointId;

/// What is taken away from the protocol.
#[derive(Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    /// The list after each append always says that nothing is above.
    ListAfterAppend,
    /// Claims have a sequence of their own beside that of the checkpoints.
    OneSequence,
}

#[derive(Clone)]
struct Jobmanagers {
    count: usize,
    checkpoints: u8,
    /// So many puts lose their reply.
    lost: u8,
    /// So many times a jobmanager repeats its claim.
    renewals: u8,
    /// Each get and each delete is a step of its own.
    fine: bool,
    without: Without,
}

type Entries = BTreeMap<u64, LogEntry>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    log: Entries,
    /// The sequence of claims in [`Without::OneSequence`].
    claims: Entries,
    procs: Vec<Proc>,
    committed: BTreeSet<String>,
    lost: u8,
    renewals: u8,
    fault: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Proc {
    Reading { reader: Reader, op: StoreOp },
    Claiming { writer: Writer, view: LogView, claim: LogEntry, op: StoreOp },
    Running { writer: Writer, view: LogView, me: LogEntry, parent: String, made: u8, work: Work },
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    None,
    Completing { entry: Box<LogEntry>, op: StoreOp },
    CleaningUp { floor: u64, op: StoreOp },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    /// The store does what it was asked and answers.
    Step(usize),
    /// As `Step`, but the answer to the put is lost.
    LostReply(usize),
    Checkpoint(usize),
    CleanUp(usize),
    Renew(usize),
}

impl State {
    fn op(&self, p: usize) -> Option<&StoreOp> {
        match &self.procs[p] {
            Proc::Reading { op, .. } | Proc::Claiming { op, .. } => Some(op),
            Proc::Running { work: Work::Completing { op, .. } | Work::CleaningUp { op, .. }, .. } => Some(op),
            Proc::Running { work: Work::None, .. } | Proc::Stopped => None,
        }
    }
}

fn perform(entries: &mut Entries, op: &StoreOp, lost: bool) -> StoreReply {
    match op {
        StoreOp::List => StoreReply::Listed(entries.keys().copied().collect()),
        StoreOp::Get(i) => StoreReply::Got(entries.get(i).cloned().map(Box::new)),
        StoreOp::Put(i, entry) => {
            let exists = entries.contains_key(i);
            entries.entry(*i).or_insert_with(|| (**entry).clone());
            match (lost, exists) {
                (true, _) => StoreReply::Unknown,
                (false, true) => StoreReply::Exists,
                (false, false) => StoreReply::Created,
            }
        }
        StoreOp::Delete(i) => {
            entries.remove(i);
            StoreReply::Deleted
        }
    }
}

fn start_reading() -> Proc {
    let (reader, op) = Reader::start();
    Proc::Reading { reader, op }
}

impl Jobmanagers {
    fn claim(&self, p: usize, view: &LogView, attempt_of: &LogView) -> LogEntry {
        let claim = Claim {
            fingerprint: String::new(),
            restores: view.entries().iter().rev().find_map(|(i, e)| e.snapshot_ref(*i)),
            deployment: None,
            superseded: Vec::new(),
            parallelism: 1,
            configured_parallelism: 1,
            max_parallelism: 1,
            restore_nonce: None,
            restore_from: None,
            next_checkpoint: CheckpointId(1),
            finishes_stop: false,
        };
        let claim = match self.without {
            Without::OneSequence => claim,
            _ => Claim { restores: view.resumable(), ..claim },
        };
        LogEntry { attempt: attempt_of.next_attempt(), nonce: Nonce(p as u64), at: 0, body: Body::Claim(claim) }
    }

    /// One operation of jobmanager `p`, and what it makes of the answer.
    fn step(&self, s: &mut State, p: usize, lost: bool) {
        let Some(op) = s.op(p).cloned() else { return };
        let apart = self.without == Without::OneSequence;
        let claiming = matches!(s.procs[p], Proc::Claiming { .. } | Proc::Reading { .. });
        let entries = if apart && claiming { &mut s.claims } else { &mut s.log };
        let mut reply = perform(entries, &op, lost);
        let checks = matches!(s.procs[p], Proc::Claiming { .. } | Proc::Running { work: Work::Completing { .. }, .. });
        if self.without == Without::ListAfterAppend && checks && matches!(reply, StoreReply::Listed(_)) {
            reply = StoreReply::Listed(Vec::new());
        }
        let proc = std::mem::replace(&mut s.procs[p], Proc::Stopped);
        s.procs[p] = match proc {
            Proc::Reading { mut reader, .. } => match reader.on(reply) {
                ReadStep::Do(op) => Proc::Reading { reader, op },
                ReadStep::Done(view) => {
                    let claim = self.claim(p, &view, &view);
                    let mut writer = Writer::new(&view);
                    match writer.claim(claim.clone()) {
                        WriteStep::Do(op) => Proc::Claiming { writer, view, claim, op },
                        _ => Proc::Stopped,
                    }
                }
                ReadStep::Damaged(_) => {
                    s.fault = true;
                    Proc::Stopped
                }
            },
            Proc::Claiming { mut writer, mut view, claim, .. } => match writer.on(reply) {
                WriteStep::Do(op) | WriteStep::Again(op) => Proc::Claiming { writer, view, claim, op },
                WriteStep::Appended(index) => {
                    let mut me = claim;
                    view.push(index, me.clone());
                    if apart {
                        // only now: the checkpoints' sequence, in one glance
                        view = LogView::unchecked(s.log.clone().into_iter().collect());
                        me = LogEntry { attempt: me.attempt, ..self.claim(p, &view, &view) };
                        writer = Writer::new(&view);
                    }
                    let restores = me.claim().and_then(|c| c.restores.clone());
                    let parent = restores.map_or(String::new(), |r| r.path);
                    if !parent.is_empty() {
                        // what the restored snapshot left pending is committed again
                        s.committed.insert(parent.clone());
                    }
                    Proc::Running { writer, view, me, parent, made: 0, work: Work::None }
                }
                WriteStep::Raced => start_reading(),
                WriteStep::Fenced => Proc::Stopped,
                _ => {
                    s.fault = true;
                    Proc::Stopped
                }
            },
            Proc::Running { mut writer, mut view, me, mut parent, mut made, work } => {
                let again = |op, work: Work| match work {
                    Work::Completing { entry, .. } => Work::Completing { entry, op },
                    Work::CleaningUp { floor, .. } => Work::CleaningUp { floor, op },
                    Work::None => Work::None,
                };
                match (writer.on(reply), work) {
                    (WriteStep::Do(op) | WriteStep::Again(op), work) => {
                        Proc::Running { writer, view, me, parent, made, work: again(op, work) }
                    }
                    (WriteStep::Appended(index), Work::Completing { entry, .. }) => {
                        if let Some(c) = entry.snapshot() {
                            parent = c.path.clone();
                            made += 1;
                            s.committed.insert(parent.clone());
                        }
                        view.push(index, *entry);
                        Proc::Running { writer, view, me, parent, made, work: Work::None }
                    }
                    (WriteStep::CleanedUp, Work::CleaningUp { floor, .. }) => {
                        view.forget_below(floor);
                        Proc::Running { writer, view, me, parent, made, work: Work::None }
                    }
                    (WriteStep::Fenced, _) => Proc::Stopped,
                    // a sequence without claims has to pass over what an older attempt put there
                    (WriteStep::Fault(_), Work::Completing { .. }) if apart => {
                        view = LogView::unchecked(s.log.clone().into_iter().collect());
                        Proc::Running { writer: Writer::new(&view), view, me, parent, made, work: Work::None }
                    }
                    _ => {
                        s.fault = true;
                        Proc::Stopped
                    }
                }
            }
            Proc::Stopped => Proc::Stopped,
        };
    }

    fn begin_checkpoint(&self, s: &mut State, p: usize) {
        let Proc::Running { writer, view, me, parent, made, work } = &mut s.procs[p] else { return };
        let index = writer.head().map_or(0, |h| h + 1);
        let snapshot = Snapshot {
            id: CheckpointId(1),
            path: format!("{parent}{p}{made}"),
            kind: SnapshotKind::Checkpoint,
            size_bytes: 0,
            duration_ms: 0,
            retains_from: retains_from(view, index, 1),
        };
        let entry = LogEntry { body: Body::Completed(snapshot), ..me.clone() };
        if let WriteStep::Do(op) = writer.append(entry.clone()) {
            *work = Work::Completing { entry: Box::new(entry), op };
        }
    }

    fn begin_renewal(s: &mut State, p: usize) {
        s.renewals += 1;
        let Proc::Running { writer, view, me, work, .. } = &mut s.procs[p] else { return };
        let Some(claim) = renewal(view, 1) else { return };
        let entry = LogEntry { body: Body::Claim(claim), ..me.clone() };
        if let WriteStep::Do(op) = writer.append(entry.clone()) {
            *work = Work::Completing { entry: Box::new(entry), op };
        }
    }

    fn begin_clean_up(s: &mut State, p: usize) {
        let Proc::Running { writer, view, work, .. } = &mut s.procs[p] else { return };
        let floor = floor(view);
        if let WriteStep::Do(op) = writer.clean_up(floor) {
            *work = Work::CleaningUp { floor, op };
        }
    }
}

impl Model for Jobmanagers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: Entries::new(),
            claims: Entries::new(),
            procs: vec![start_reading(); self.count],
            committed: BTreeSet::new(),
            lost: 0,
            renewals: 0,
            fault: false,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        for p in 0..self.count {
            if p > 0 && s.procs[p - 1] == start_reading() {
                break;
            }
            match s.op(p) {
                Some(StoreOp::Put(..)) if s.lost < self.lost => actions.extend([Action::Step(p), Action::LostReply(p)]),
                Some(_) => actions.push(Action::Step(p)),
                None => {
                    let Proc::Running { view, made, .. } = &s.procs[p] else { continue };
                    if *made < self.checkpoints {
                        actions.push(Action::Checkpoint(p));
                    }
                    if view.entries().first().is_some_and(|e| e.0 < floor(view)) {
                        actions.push(Action::CleanUp(p));
                    }
                    if s.renewals < self.renewals && renewal(view, 1).is_some() {
                        actions.push(Action::Renew(p));
                    }
                }
            }
        }
    }

    fn next_state(&self, s: &State, action: Action) -> Option<State> {
        let mut s = s.clone();
        match action {
            Action::Step(p) => {
                self.step(&mut s, p, false);
                let together = |op: &StoreOp| matches!(op, StoreOp::Get(_) | StoreOp::Delete(_));
                let reads = |s: &State| {
                    matches!(s.procs[p], Proc::Reading { .. } | Proc::Running { work: Work::CleaningUp { .. }, .. })
                        && s.op(p).is_some_and(together)
                };
                while !self.fine && reads(&s) {
                    self.step(&mut s, p, false);
                }
            }
            Action::LostReply(p) => {
                s.lost += 1;
                self.step(&mut s, p, true);
            }
            Action::Checkpoint(p) => self.begin_checkpoint(&mut s, p),
            Action::Renew(p) => Self::begin_renewal(&mut s, p),
            Action::CleanUp(p) => Self::begin_clean_up(&mut s, p),
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_TWO_BRANCHES, |_, s: &State| {
                let mut paths = s.committed.iter();
                let longest = s.committed.iter().max_by_key(|p| p.len());
                paths.all(|p| longest.is_some_and(|l| l.starts_with(p.as_str())))
            }),
            Property::always("the log is never found damaged", |_, s: &State| !s.fault),
            Property::sometimes("all jobmanagers commit, one after the other", |m: &Self, s: &State| {
                let by = |p: &usize| s.committed.iter().any(|c| c.ends_with(&format!("{p}{}", m.checkpoints - 1)));
                (0..m.count).all(|p| by(&p))
            }),
        ]
    }
}

const NO_TWO_BRANCHES: &str = "no two branches commit";
const ALL: Jobmanagers =
    Jobmanagers { count: 3, checkpoints: 2, lost: 1, renewals: 0, fine: false, without: Without::Nothing };

fn explore(model: Jobmanagers) -> impl Checker<Jobmanagers> {
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker
}

#[test]
fn no_two_branches_ever_commit() {
    explore(Jobmanagers { lost: 0, ..ALL }).assert_properties();
}

#[test]
fn no_two_branches_commit_when_replies_are_lost() {
    explore(Jobmanagers { checkpoints: 1, ..ALL }).assert_properties();
    explore(Jobmanagers { count: 2, lost: 3, ..ALL }).assert_properties();
}

#[test]
fn no_two_branches_commit_when_reads_and_deletions_interleave() {
    explore(Jobmanagers { count: 2, fine: true, ..ALL }).assert_properties();
}

#[test]
fn no_two_branches_commit_when_claims_are_repeated() {
    explore(Jobmanagers { checkpoints: 1, lost: 0, renewals: 1, ..ALL }).assert_properties();
    explore(Jobmanagers { count: 2, renewals: 2, ..ALL }).assert_properties();
}

/// Both at once: minutes in a debug build.
#[test]
#[ignore = "takes minutes"]
fn no_two_branches_ever_commit_in_the_largest_model() {
    explore(ALL).assert_properties();
}

#[test]
fn without_the_list_after_the_append_two_branches_commit() {
    two_branches_commit(Without::ListAfterAppend, 3);
}

#[test]
fn with_claims_in_a_sequence_of_their_own_two_branches_commit() {
    two_branches_commit(Without::OneSequence, 2);
}

/// The model finds what the rule was made against.
fn two_branches_commit(without: Without, count: usize) {
    let model = Jobmanagers { count, lost: 0, without, ..ALL };
    let found = HasDiscoveries::AnyOf(BTreeSet::from([NO_TWO_BRANCHES]));
    let checker = model.checker().threads(2).finish_when(found).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    let path = checker.discovery(NO_TWO_BRANCHES).expect("a counterexample");
    println!("{:?}", path.last_state().committed);
}
