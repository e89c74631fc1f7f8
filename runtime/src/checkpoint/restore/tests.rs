use super::*;
use crate::checkpoint::handles::*;
use crate::checkpoint::log::{Body, Claim, LogEntry, LogView, Nonce, Snapshot, SnapshotRef, Terminal};
use crate::checkpoint::manifest::{JobSpec, Manifest, OperatorKind, OperatorManifest, OperatorSpec, SnapshotHead};
use crate::data::{Field, Type};
use crate::dataflow::task::TaskId;
use crate::graph::key_group_range;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use weir_api::config::RestoreConfig;
use weir_api::ids::{Attempt, CheckpointId, Deployment, JobName};
use weir_api::status::TerminalStatus;

// ---------------------------------------------------------------------------------------------------- choose

/// A log under construction.
#[derive(Default, Clone)]
struct Story {
    entries: Vec<(u64, LogEntry)>,
    attempt: u64,
}

impl Story {
    fn add(mut self, body: Body) -> Self {
        self.attempt += u64::from(matches!(body, Body::Claim(_)));
        let e = LogEntry { attempt: Attempt(self.attempt), nonce: Nonce(self.attempt), at: 0, body };
        self.entries.push((self.entries.len() as u64, e));
        self
    }
    fn view(&self) -> LogView {
        LogView::new(self.entries.clone()).unwrap()
    }
    fn latest(&self) -> Option<SnapshotRef> {
        self.view().latest()
    }
    /// A claim by this deployment that restores the latest.
    fn claimed(self, deployment: Option<Deployment>, edit: impl FnOnce(&mut Claim)) -> Self {
        let mut claim = Claim {
            fingerprint: "f".into(),
            restores: self.latest(),
            deployment,
            superseded: Vec::new(),
            parallelism: 2,
            configured_parallelism: 2,
            max_parallelism: 128,
            restore_nonce: None,
            restore_from: None,
            next_checkpoint: CheckpointId(1),
            finishes_stop: false,
        };
        edit(&mut claim);
        self.add(Body::Claim(claim))
    }
    fn by(self, uid: &str, generation: i64) -> Self {
        self.claimed(Some(deployment(uid, generation)), |_| {})
    }
    fn checkpoint(self, id: u64) -> Self {
        self.add(Body::Completed(snapshot(id, SnapshotKind::Checkpoint)))
    }
    fn savepoint(self, id: u64, kind: SnapshotKind) -> Self {
        self.add(Body::Savepoint(snapshot(id, kind)))
    }
    fn ended(self, status: TerminalStatus, kept: &[u64]) -> Self {
        let kept = kept.iter().map(|id| path(*id)).collect();
        self.add(Body::Terminal(Terminal { status, kept, reason: String::new() }))
    }
}

fn path(id: u64) -> String {
    format!("chk-{id}")
}
fn snapshot(id: u64, kind: SnapshotKind) -> Snapshot {
    Snapshot { id: CheckpointId(id), path: path(id), kind, size_bytes: 1, duration_ms: 1, retains_from: 0 }
}
fn deployment(uid: &str, generation: i64) -> Deployment {
    Deployment { uid: uid.into(), generation, restart_nonce: None }
}

/// Asks as this deployment (none: by hand), with this restore section.
fn ask(story: &Story, who: Option<(&str, i64)>, from: Option<&str>, nonce: Option<i64>) -> Decision {
    let who = who.map(|(uid, generation)| deployment(uid, generation));
    let restore = RestoreConfig { from: from.map(Into::into), nonce, ..Default::default() };
    let from_path = restore.from.clone().filter(|f| f != "latest");
    choose(&story.view(), &Request { deployment: who.as_ref(), from_path, ..Request::new(&restore, 2) })
}

/// Id that a decision to start restores, and its sentence.
fn started(d: Decision) -> (Option<u64>, String) {
    match d {
        Decision::Start(s) => {
            let id = s.from.as_ref().map(|f| f.path().trim_start_matches("chk-").parse().unwrap());
            (id, s.message)
        }
        other => panic!("{other:?}"),
    }
}
fn id(d: Decision) -> Option<u64> {
    started(d).0
}
fn refusal(d: Decision) -> String {
    match d {
        Decision::Refused(r) => r.message,
        other => panic!("{other:?}"),
    }
}

const A1: Option<(&str, i64)> = Some(("a", 1));
const A2: Option<(&str, i64)> = Some(("a", 2));
const B1: Option<(&str, i64)> = Some(("b", 1));

#[test]
fn nothing_starts_empty_by_accident() {
    let empty = Story::default();
    assert_eq!(id(ask(&empty, None, None, None)), None);
    assert_eq!(
        started(ask(&empty, None, Some("latest"), None)),
        (None, "starts new: no checkpoint was completed before".into())
    );
    assert_eq!(id(ask(&empty, A1, None, None)), None);

    let s = Story::default().claimed(None, |_| {}).checkpoint(1).checkpoint(2);
    let e = refusal(ask(&s, None, None, None));
    for way in ["--restore latest", "--restore PATH", "--checkpoints", "checkpoint 2 (chk-2)"] {
        assert!(e.contains(way), "{e}");
    }
    assert_eq!(id(ask(&s, None, Some("latest"), None)), Some(2));
    // under the operator the default is latest
    assert_eq!(id(ask(&s, A1, None, None)), Some(2));
}

#[test]
fn the_same_deployment_resumes_whatever_its_restore_section_says() {
    let s = Story::default().by("a", 1).checkpoint(1).checkpoint(2);
    for from in [None, Some("latest"), Some("chk-1"), Some("file:///elsewhere/chk-9")] {
        assert_eq!(id(ask(&s, A1, from, Some(7))), Some(2), "{from:?}");
    }
    let fresh = Story::default().by("a", 1);
    assert_eq!(id(ask(&fresh, A1, None, None)), None);
}

#[test]
fn a_superseded_deployment_stands_back() {
    let s = Story::default().by("a", 2).checkpoint(1);
    assert!(
        matches!(ask(&s, A1, None, None), Decision::Fenced(m) if m.contains("generation 2 of the job holds the log"))
    );
    assert_eq!(id(ask(&s, Some(("a", 3)), None, None)), Some(1));
    let s = s.claimed(Some(deployment("b", 1)), |c| c.superseded = vec!["a".into()]);
    assert!(matches!(ask(&s, Some(("a", 9)), None, None), Decision::Fenced(m) if m.contains("superseded")));
    assert_eq!(id(ask(&s, B1, None, None)), Some(1));
}

#[test]
fn a_claim_remembers_whom_it_superseded() {
    let mut s = Story::default().by("u0", 1);
    let restore = RestoreConfig::default();
    let spec = spec(&[], 2, 128);
    for i in 1..40 {
        let me = deployment(&format!("u{i}"), 1);
        let request = Request { deployment: Some(&me), ..Request::new(&restore, 2) };
        let Decision::Start(start) = choose(&s.view(), &request) else { panic!() };
        let claim = start.claim(&s.view(), &request, &spec, None, CheckpointId(1));
        s = s.add(Body::Claim(claim));
    }
    let view = s.view();
    let superseded = &view.last_claim().unwrap().2.superseded;
    assert_eq!((superseded.len(), superseded.last().unwrap().as_str()), (32, "u38"));
    assert!(matches!(ask(&s, Some(("u38", 1)), None, None), Decision::Fenced(_)));
}

#[test]
fn a_restart_within_the_process_needs_its_own_claim() {
    let s = Story::default().claimed(None, |_| {}).checkpoint(1);
    let restore = RestoreConfig::default();
    let ask =
        |nonce| choose(&s.view(), &Request { held: Some((Attempt(1), Nonce(nonce))), ..Request::new(&restore, 2) });
    assert_eq!(id(ask(1)), Some(1));
    assert!(matches!(ask(2), Decision::Fenced(_)));
}

#[test]
fn a_log_that_vanished_under_its_holder_is_no_reason_to_start_from_nothing() {
    let restore = RestoreConfig::default();
    let request = |held| Request { held, ..Request::new(&restore, 2) };
    let e = refusal(choose(&LogView::default(), &request(Some((Attempt(4), Nonce(4))))));
    assert!(e.contains("attempt 4") && e.contains("log is gone"), "{e}");
    // to a new process it is a job that never ran
    assert_eq!(id(choose(&LogView::default(), &request(None))), None);
}

#[test]
fn going_back_behind_what_was_committed_needs_a_new_nonce() {
    let s = Story::default().by("a", 1).checkpoint(1).checkpoint(2);
    let e = refusal(ask(&s, A2, Some("chk-1"), None));
    assert!(e.contains("would go back behind checkpoint 2 (chk-2)") && e.contains("restore.nonce"), "{e}");
    assert!(refusal(ask(&s, A2, Some("file:///elsewhere/chk-7"), None)).contains("go back"));
    assert_eq!(id(ask(&s, A2, Some("chk-2"), None)), Some(2));
    assert_eq!(id(ask(&s, A2, Some("chk-1"), Some(1))), Some(1));
    // once it was done, the section that stays in the resource asks for nothing
    let s = s
        .claimed(Some(deployment("a", 2)), |c| {
            c.restores = Some(SnapshotRef { id: CheckpointId(1), path: path(1), ..c.restores.clone().unwrap() });
            (c.restore_nonce, c.restore_from) = (Some(1), Some(path(1)));
        })
        .checkpoint(3);
    let (from, message) = started(ask(&s, Some(("a", 3)), Some("chk-1"), Some(1)));
    assert_eq!(from, Some(3), "{message}");
    assert!(message.contains("was carried out before"), "{message}");
    assert_eq!(id(ask(&s, Some(("a", 3)), Some("chk-1"), Some(2))), Some(1));
    // by hand there is no section that stays
    assert!(refusal(ask(&s, None, Some("chk-1"), None)).contains("go back"));
}

#[test]
fn a_savepoint_after_the_last_commit_goes_forward() {
    let s = Story::default().by("a", 1).checkpoint(1).savepoint(2, SnapshotKind::Savepoint);
    assert_eq!(id(ask(&s, A2, Some("chk-2"), None)), Some(2));
    let s = s.checkpoint(3);
    assert!(refusal(ask(&s, A2, Some("chk-2"), None)).contains("go back"));
    // a first start from another job's savepoint
    assert_eq!(id(ask(&Story::default(), A1, Some("chk-9"), None)), Some(9));
}

#[test]
fn a_savepoint_that_was_triggered_before_the_last_commit_and_logged_after_it_goes_back() {
    let s = Story::default().by("a", 1).checkpoint(8).savepoint(7, SnapshotKind::Savepoint);
    assert!(refusal(ask(&s, A2, Some("chk-7"), None)).contains("go back behind checkpoint 8"));
    assert_eq!(id(ask(&s, A2, Some("chk-7"), Some(1))), Some(7));
}

#[test]
fn what_a_claim_restores_is_committed_by_it() {
    let restoring = |s: Story, id: u64, who| {
        let restores = s.view().snapshots().into_iter().find(|s| s.id.0 == id);
        s.claimed(who, |c| c.restores = restores)
    };
    let (a2, a3) = (Some(deployment("a", 2)), Some(deployment("a", 3)));
    let s = Story::default()
        .by("a", 1)
        .checkpoint(1)
        .savepoint(2, SnapshotKind::Savepoint)
        .savepoint(3, SnapshotKind::Savepoint);
    let third = restoring(s.clone(), 3, a2.clone());
    let a4 = Some(("a", 4));
    assert!(refusal(ask(&third, a4, Some("chk-2"), None)).contains("go back behind savepoint 3"));
    assert_eq!(id(ask(&third, a4, Some("chk-2"), Some(1))), Some(2));
    assert_eq!(id(ask(&third, a4, Some("chk-3"), None)), Some(3));
    // the second one only: the third is no step back
    assert_eq!(id(ask(&restoring(s.clone(), 2, a2.clone()), a4, Some("chk-3"), None)), Some(3));
    // a stateless start in between undoes nothing
    let stateless = third.clone().claimed(a3.clone(), |c| c.restores = None);
    assert!(refusal(ask(&stateless, a4, Some("chk-2"), None)).contains("go back"));
    assert_eq!(id(ask(&stateless, a4, None, None)), Some(3), "the latest is not behind it either");

    // one that the log does not know
    let foreign = "file:///elsewhere/savepoint-90";
    let named = |s: Story| {
        s.claimed(a2.clone(), |c| {
            let other = Snapshot { path: foreign.into(), ..snapshot(90, SnapshotKind::Savepoint) };
            let entry = LogEntry { attempt: Attempt(1), nonce: Nonce(1), at: 0, body: Body::Savepoint(other) };
            c.restores = entry.snapshot_ref(0).map(|r| SnapshotRef { index: None, ..r });
        })
    };
    let from = named(Story::default());
    assert!(refusal(ask(&from, a4, Some("file:///elsewhere/savepoint-89"), None)).contains(foreign));
    assert!(refusal(ask(&named(s.clone()), a4, Some("chk-3"), None)).contains("go back"));
    let after = from.clone().savepoint(91, SnapshotKind::Savepoint);
    assert_eq!(id(ask(&after, a4, Some("chk-91"), None)), Some(91));
    assert_eq!(id(ask(&named(after), a4, Some("chk-91"), None)), Some(91), "a restart in between commits nothing new");
    let stateless = from.claimed(a3, |c| c.restores = None);
    for path in [Some(foreign), None] {
        match ask(&stateless, a4, path, None) {
            Decision::Start(s) => assert_eq!(s.from.as_ref().map(choose::From::path), Some(foreign)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_end_of_a_job_is_reported_to_its_deployment_and_a_new_one_goes_on() {
    use TerminalStatus::*;
    for (status, kept, restores) in [
        (Finished, &[][..], None),
        (Canceled, &[1, 2][..], Some(2)),
        (Failed, &[2][..], Some(2)),
        (Canceled, &[][..], None),
    ] {
        let s = Story::default().by("a", 1).checkpoint(1).checkpoint(2).ended(status, kept);
        assert!(matches!(ask(&s, A1, None, None), Decision::Ended { terminal, .. } if terminal.status == status));
        let (from, message) = started(ask(&s, B1, None, None));
        assert_eq!(from, restores, "{message}");
        // by hand: what is finished would be written a second time; otherwise nothing is left to lose
        match ask(&s, None, None, None) {
            d if status == Finished => assert!(refusal(d).contains("write its output a second time")),
            d if kept.is_empty() => assert_eq!(id(d), None),
            d => assert!(refusal(d).contains("--restore latest")),
        }
        // a supervisor starts it again with the same words: what is finished is not done twice
        let again = ask(&s, None, Some("latest"), None);
        assert_eq!(matches!(again, Decision::Ended { .. }), status == Finished, "{again:?}");
    }
}

#[test]
fn a_finished_job_is_not_run_by_its_next_generation_unless_its_owner_says_so() {
    let a = |generation, restart_nonce| Deployment { uid: "a".into(), generation, restart_nonce };
    let s = Story::default().claimed(Some(a(1, Some(1))), |_| {}).checkpoint(1);
    let finished = s.clone().ended(TerminalStatus::Finished, &[]);
    let is_run = |s: &Story, me: &Deployment, from: Option<&str>, stateless: bool| {
        let restore = RestoreConfig { from: from.map(Into::into), nonce: Some(7), ..Default::default() };
        let request = Request { stateless, from_path: restore.from.clone(), ..Request::new(&restore, 2) };
        match choose(&s.view(), &Request { deployment: Some(me), ..request }) {
            Decision::Start(_) => true,
            Decision::Ended { .. } => false,
            other => panic!("{other:?}"),
        }
    };
    for (from, stateless) in [(None, false), (Some("chk-1"), false), (None, true)] {
        for nonce in [None, Some(1)] {
            assert!(!is_run(&finished, &a(2, nonce), from, stateless), "{from:?} {stateless}");
        }
        assert!(is_run(&finished, &a(2, Some(2)), from, stateless));
        assert!(is_run(&finished, &deployment("b", 1), from, stateless), "another StreamJob of this name");
        let cancelled = s.clone().ended(TerminalStatus::Canceled, &[1]);
        assert!(is_run(&cancelled, &a(2, Some(1)), from, stateless));
    }
}

#[test]
fn a_stop_is_finished_by_the_next_process_and_resumed_by_the_next_deployment() {
    let stop = SnapshotKind::Stop { drain: false };
    let s = Story::default().by("a", 1).checkpoint(1).savepoint(2, stop);
    let finishes = |d: Decision| match d {
        Decision::Start(s) => s.finishes_stop,
        other => panic!("{other:?}"),
    };
    assert!(finishes(ask(&s, A1, None, None)));
    let again = s.clone().claimed(Some(deployment("a", 1)), |c| c.finishes_stop = true);
    assert!(finishes(ask(&again, A1, None, None)));
    for s in [s.clone(), again.clone(), again.ended(TerminalStatus::Stopped, &[2])] {
        let d = ask(&s, A2, None, None);
        assert_eq!(id(d.clone()), Some(2));
        assert!(!finishes(d));
    }
}

#[test]
fn the_log_must_be_as_the_caller_expects() {
    let s = Story::default().by("a", 1).checkpoint(1).checkpoint(2);
    let restore = RestoreConfig::default();
    let me = deployment("a", 2);
    let ask = |i| {
        choose(&s.view(), &Request { deployment: Some(&me), expect_log_index: Some(i), ..Request::new(&restore, 2) })
    };
    assert_eq!(id(ask(2)), Some(2));
    let Decision::Refused(r) = ask(1) else { panic!() };
    assert!(
        r.conflict && r.message.contains("should be entry 1 and is checkpoint 2 (chk-2) at log entry 2"),
        "{}",
        r.message
    );
}

#[test]
fn a_stateless_start_is_one_and_stays_one() {
    let s = Story::default().by("a", 1).checkpoint(1);
    let restore = RestoreConfig::default();
    let me = deployment("a", 2);
    let request = Request { deployment: Some(&me), stateless: true, ..Request::new(&restore, 2) };
    assert_eq!(id(choose(&s.view(), &request)), None);
    let s = s.claimed(Some(me), |c| c.restores = None);
    assert_eq!(id(ask(&s, A2, None, None)), None, "its own restart");
    assert_eq!(
        id(ask(&s, Some(("a", 3)), None, None)),
        Some(1),
        "it committed nothing: the state before it is not lost"
    );
    let s = s.checkpoint(2);
    assert_eq!(id(ask(&s, Some(("a", 3)), None, None)), Some(2));
}

#[test]
fn a_rescale_outlives_a_restart_until_the_configuration_changes() {
    let s = Story::default().claimed(Some(deployment("a", 1)), |c| (c.parallelism, c.configured_parallelism) = (5, 2));
    let parallelism = |configured| {
        let (restore, me) = (RestoreConfig::default(), deployment("a", 1));
        match choose(&s.view(), &Request { deployment: Some(&me), ..Request::new(&restore, configured) }) {
            Decision::Start(s) => s.parallelism,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((parallelism(2), parallelism(3)), (5, 3));
}

// ---------------------------------------------------------------------------------------------------- compat

fn operator(name: &str, kind: OperatorKind, states: &[StateDescriptor], has_lists: bool) -> OperatorSpec {
    OperatorSpec { name: name.into(), kind, vertex: 0, parallelism: 2, states: states.to_vec(), has_lists }
}

fn spec(operators: &[OperatorSpec], parallelism: u32, max_parallelism: u32) -> JobSpec {
    let job = JobName { namespace: "default".into(), name: "flights".into() };
    let operators = operators.iter().map(|o| OperatorSpec { parallelism, ..o.clone() }).collect();
    JobSpec { job, fingerprint: "f".into(), parallelism, max_parallelism, operators }
}

fn state(name: &str, kind: StateKind, value: Type) -> StateDescriptor {
    StateDescriptor { name: name.into(), kind, key: Type::String, value }
}

fn legs(fields: &[(&str, Type)]) -> Type {
    let fields = fields.iter().map(|(name, ty)| Field { name: (*name).into(), ty: ty.clone() }).collect();
    Type::Struct { name: "Legs".into(), fields }
}

/// A snapshot of a job in which each operator holds something.
fn manifest(s: &JobSpec) -> Manifest {
    let mut snapshots: BTreeMap<TaskId, TaskSnapshot> = BTreeMap::new();
    for o in &s.operators {
        for subtask in 0..o.parallelism {
            let mut part = OperatorSubtaskState::default();
            if !o.states.is_empty() {
                let path = format!("chk-1/{}-{subtask}", o.name);
                let key_groups = key_group_range(subtask, o.parallelism, s.max_parallelism);
                let file = FileHandle { path, size: 1, crc32c: 0 };
                part.keyed.push(KeyedHandle {
                    file,
                    deltas: vec![],
                    key_groups,
                    entries: 1,
                    format: FileFormat::Canonical,
                });
            }
            if o.has_lists {
                let name = match o.kind {
                    OperatorKind::Source => SPLITS,
                    OperatorKind::Sink => PENDING,
                    OperatorKind::Operator => "list",
                };
                part.lists.insert(name.into(), vec![Bytes64(vec![subtask as u8])]);
            }
            let task = snapshots.entry(TaskId { vertex: o.vertex, subtask }).or_default();
            task.operators.insert(o.name.clone(), part);
        }
    }
    let head = SnapshotHead {
        id: CheckpointId(1),
        attempt: Attempt(1),
        kind: SnapshotKind::Checkpoint,
        directory: "chk-1".into(),
        created_at: 0,
    };
    Manifest::build(s, &head, &snapshots).unwrap()
}

#[test]
fn what_does_not_fit_is_named_with_both_types() {
    let value = |t: Type| [operator("legs", OperatorKind::Operator, &[state("per tail", StateKind::Value, t)], false)];
    let old = legs(&[("legs", Type::U64), ("late", Type::U64)]);
    let m = manifest(&spec(&value(old.clone()), 2, 128));
    let error = |ops: &[OperatorSpec], max| check(&m, &spec(ops, 2, max), false).unwrap_err();

    assert_eq!(check(&m, &spec(&value(old.clone()), 3, 128), false).unwrap(), Compatible::default());

    let new = legs(&[("legs", Type::U64), ("late", Type::U32)]);
    let e = error(&value(new), 128).to_string();
    assert_eq!(
        e,
        "checkpoint 1 (chk-1) does not fit this job; nothing was changed:\n  state \"per tail\" of operator \"legs\": its value \
         type is `Legs { legs: u64, late: u64 }`, the job's is `Legs { legs: u64, late: u32 }` (field late: u64 and u32)"
    );
    let e = error(
        &[operator("legs", OperatorKind::Operator, &[state("per tail", StateKind::Map, old.clone())], false)],
        128,
    );
    assert!(e.to_string().contains("is a Value state in it and a Map state in the job"), "{e}");
    let mut other_key = state("per tail", StateKind::Value, old.clone());
    other_key.key = Type::U64;
    let e = error(&[operator("legs", OperatorKind::Operator, &[other_key], false)], 128);
    assert!(e.to_string().contains("its key type is `String`, the job's is `u64`"), "{e}");
    let e = error(&value(old), 256);
    assert!(e.to_string().contains("its maxParallelism is 128, the job's is 256"), "{e}");
}

#[test]
fn state_without_an_operator_is_refused_and_dropped_only_when_allowed() {
    let count = [state("count", StateKind::Value, Type::U64)];
    let before =
        [operator("in", OperatorKind::Source, &[], true), operator("legs", OperatorKind::Operator, &count, false)];
    let m = manifest(&spec(&before, 2, 128));
    let renamed =
        [operator("in", OperatorKind::Source, &[], true), operator("hops", OperatorKind::Operator, &count, false)];
    let now = spec(&renamed, 2, 128);
    let e = check(&m, &now, false).unwrap_err().to_string();
    assert!(
        e.contains("it holds state of operator \"legs\" (new in the job: \"hops\")")
            && e.contains("allowNonRestoredState"),
        "{e}"
    );
    let ok = check(&m, &now, true).unwrap();
    assert_eq!(ok.new_operators, ["operator \"hops\""]);
    assert_eq!(
        ok.notes(),
        "; drops operator \"legs\" (new in the job: \"hops\"), as allowNonRestoredState says; operator \"hops\" starts empty"
    );

    // of two states one is gone
    let both = [count[0].clone(), state("worst", StateKind::Value, Type::I64)];
    let m = manifest(&spec(&[operator("legs", OperatorKind::Operator, &both, false)], 2, 128));
    let one = spec(&[operator("legs", OperatorKind::Operator, &count, false)], 2, 128);
    assert!(check(&m, &one, false).unwrap_err().to_string().contains("state \"worst\" of operator \"legs\""));
    assert_eq!(check(&m, &one, true).unwrap().dropped, ["state \"worst\" of operator \"legs\""]);
}

#[test]
fn a_savepoint_of_another_job_is_named_as_such() {
    let mut other =
        spec(&[operator("words", OperatorKind::Operator, &[state("n", StateKind::Value, Type::U64)], false)], 2, 128);
    other.job.name = "wordcount".into();
    let mine = spec(&[operator("legs", OperatorKind::Operator, &[], false)], 2, 128);
    let e = check(&manifest(&other), &mine, false).unwrap_err().to_string();
    assert!(e.contains("of the job default/wordcount does not fit") && e.contains("\"words\""), "{e}");
}

#[test]
fn pending_commits_are_not_dropped_by_turning_a_sink_into_something_else() {
    let m = manifest(&spec(&[operator("out", OperatorKind::Sink, &[], true)], 2, 128));
    let now = spec(&[operator("out", OperatorKind::Operator, &[], false)], 2, 128);
    let e = check(&m, &now, true).unwrap_err().to_string();
    assert!(e.contains("operator \"out\" is a sink in it and a operator in the job"), "{e}");
}

// ---------------------------------------------------------------------------------------------------- assign

/// Every list element and every key group of a snapshot, and how often the assignment gives it out.
fn check_assignment(m: &Manifest, s: &JobSpec) -> Result<(), TestCaseError> {
    let assignment = assign(m, s);
    prop_assert_eq!(assignment.keys().copied().collect::<Vec<_>>(), s.tasks());
    for old in &m.operators {
        let new = s.operators.iter().find(|o| o.name == old.name).unwrap();
        let parts: Vec<&OperatorRestore> = (0..new.parallelism)
            .map(|subtask| &assignment[&TaskId { vertex: new.vertex, subtask }].operators[&old.name])
            .collect();
        let names: BTreeSet<&String> = old.subtasks.iter().flat_map(|x| x.lists.keys()).collect();
        for name in names {
            let all = |lists: Vec<&BTreeMap<String, Vec<Bytes64>>>| {
                let mut e: Vec<Vec<u8>> =
                    lists.iter().flat_map(|l| l.get(name)).flatten().map(|b| b.0.clone()).collect();
                e.sort();
                e
            };
            let (before, after) =
                (all(old.subtasks.iter().map(|x| &x.lists).collect()), all(parts.iter().map(|p| &p.lists).collect()));
            prop_assert_eq!(before, after, "{}", name);
            let sizes: Vec<usize> = parts.iter().map(|p| p.lists.get(name).map_or(0, Vec::len)).collect();
            if name == PENDING {
                prop_assert!(sizes[1..].iter().all(|n| *n == 0), "pending commits go to subtask 0");
            } else if old.parallelism != new.parallelism {
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "evenly: {sizes:?}");
            }
        }
        for handle in old.subtasks.iter().flat_map(|x| &x.keyed).filter(|k| k.entries > 0) {
            for group in handle.key_groups.clone() {
                let readers = (0..new.parallelism).filter(|&i| {
                    let mine = key_group_range(i, new.parallelism, s.max_parallelism);
                    mine.contains(&group) && parts[i as usize].keyed.contains(handle)
                });
                prop_assert_eq!(readers.count(), 1, "key group {} of {}", group, handle.file.path);
            }
        }
        // and no subtask reads a file in vain
        for (i, part) in (0u32..).zip(&parts) {
            let mine = key_group_range(i, new.parallelism, s.max_parallelism);
            let useful = |k: &KeyedHandle| mine.clone().any(|g| k.key_groups.contains(&g));
            prop_assert!(part.keyed.iter().all(useful));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn everything_is_assigned_once_at_any_parallelism(
        (max, before, after) in (1u32..200).prop_flat_map(|max| (Just(max), 1..=max.min(40), 1..=max.min(40))),
        sizes in prop::collection::vec(0usize..5, 40),
    ) {
        let count = [state("n", StateKind::Value, Type::U64)];
        let operators = [
            operator("in", OperatorKind::Source, &[], true),
            operator("legs", OperatorKind::Operator, &count, true),
            operator("out", OperatorKind::Sink, &[], true),
        ];
        let mut m = manifest(&spec(&operators, before, max));
        // lists of several lengths, each element another
        for o in &mut m.operators {
            for (i, s) in o.subtasks.iter_mut().enumerate() {
                for list in s.lists.values_mut() {
                    *list = (0..sizes[i]).map(|k| Bytes64(vec![i as u8, k as u8])).collect();
                }
            }
        }
        check_assignment(&m, &spec(&operators, after, max))?;
    }
}

#[test]
fn an_end_of_input_counts_at_another_parallelism_if_all_were_told_and_is_no_state_to_be_lost() {
    let operators = [operator("legs", OperatorKind::Operator, &[], false)];
    let mut m = manifest(&spec(&operators, 2, 128));
    for (told, at_two, at_three) in
        [([1, 1], vec![1, 1], vec![1; 3]), ([5, 3], vec![5, 3], vec![1; 3]), ([1, 0], vec![1], vec![0; 3])]
    {
        for (subtask, bits) in m.operators[0].subtasks.iter_mut().zip(told) {
            let list = (ENDED.to_owned(), vec![Bytes64(vec![bits])]);
            subtask.lists = if bits == 0 { BTreeMap::new() } else { BTreeMap::from([list]) };
        }
        for (parallelism, expected) in [(2, at_two), (3, at_three)] {
            let s = spec(&operators, parallelism, 128);
            let given: Vec<u8> = assign(&m, &s)
                .values()
                .filter_map(|t| t.operators["legs"].lists.get(ENDED)?.first())
                .map(|e| e.0[0])
                .collect();
            assert_eq!(given, expected, "{told:?} at {parallelism}");
        }
    }
    assert!(!m.operators[0].holds_state());
    assert_eq!(check(&m, &spec(&operators, 2, 128), false).unwrap(), Compatible::default());
    assert_eq!(check(&m, &spec(&[], 2, 128), false).unwrap(), Compatible::default());
}

#[test]
fn an_operator_that_the_snapshot_knows_does_not_start_new_even_with_nothing() {
    let operators = [operator("in", OperatorKind::Source, &[], true)];
    let mut m = manifest(&spec(&operators, 1, 128));
    m.operators[0].subtasks = vec![OperatorSubtaskState::default()];
    let with_new = [operators[0].clone(), operator("new", OperatorKind::Source, &[], true)];
    let assignment = assign(&m, &spec(&with_new, 2, 128));
    for t in assignment.values() {
        assert_eq!(t.operators.keys().collect::<Vec<_>>(), ["in"]);
    }
}

#[test]
fn a_manifest_survives_its_json_and_a_damaged_one_is_refused() {
    let m = manifest(&spec(
        &[operator("legs", OperatorKind::Operator, &[state("n", StateKind::Value, Type::U64)], true)],
        2,
        128,
    ));
    let bytes = m.to_bytes().unwrap();
    assert_eq!(Manifest::from_bytes(&bytes, "x").unwrap(), m);
    for n in [0, 1, bytes.len() / 2, bytes.len() - 3] {
        let e = Manifest::from_bytes(&bytes[..n], "chk-1/_metadata.json").unwrap_err().to_string();
        assert!(e.starts_with("chk-1/_metadata.json is truncated"), "{e}");
    }
    let wrong = Manifest { operators: vec![OperatorManifest { parallelism: 3, ..m.operators[0].clone() }], ..m };
    let e = Manifest::from_bytes(&wrong.to_bytes().unwrap(), "x").unwrap_err().to_string();
    assert!(e.contains("parallelism 3 and 2 subtasks"), "{e}");
}
