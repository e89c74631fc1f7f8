use super::*;
use crate::checkpoint::handles::SnapshotKind;
use crate::checkpoint::log::{Body, Claim, LogEntry, Nonce, Snapshot, SnapshotRef};
use weir_api::ids::CheckpointId;

/// `c`: a claim, numbers: checkpoints, `s7`: savepoint 7, `p7`: stop savepoint 7.
fn log(retained: u32, story: &str) -> LogView {
    let mut entries: Vec<(u64, LogEntry)> = Vec::new();
    let mut attempt = 0;
    for word in story.split_whitespace() {
        let view = LogView::new(entries.clone()).unwrap();
        let index = entries.len() as u64;
        let snapshot = |id: &str, kind: SnapshotKind| Snapshot {
            id: CheckpointId(id.parse().unwrap()),
            path: if kind.is_savepoint() { format!("savepoint-{id}") } else { format!("chk-{id}-{attempt}-0") },
            kind,
            size_bytes: 0,
            duration_ms: 0,
            retains_from: retains_from(&view, index, retained),
        };
        let body = match word.split_at(1) {
            ("c", _) => {
                attempt += 1;
                Body::Claim(claim(view.latest()))
            }
            ("s", id) => Body::Savepoint(snapshot(id, SnapshotKind::Savepoint)),
            ("p", id) => Body::Savepoint(snapshot(id, SnapshotKind::Stop { drain: false })),
            _ => Body::Completed(snapshot(word, SnapshotKind::Checkpoint)),
        };
        entries.push((index, LogEntry { attempt: Attempt(attempt), nonce: Nonce(attempt), at: 0, body }));
    }
    LogView::new(entries).unwrap()
}

fn claim(restores: Option<SnapshotRef>) -> Claim {
    Claim {
        fingerprint: String::new(),
        restores,
        deployment: None,
        superseded: Vec::new(),
        parallelism: 1,
        configured_parallelism: 1,
        max_parallelism: 1,
        restore_nonce: None,
        restore_from: None,
        next_checkpoint: CheckpointId(1),
        finishes_stop: false,
    }
}

fn drops(retained: u32, story: &str) -> Vec<String> {
    let before = story.rsplit_once(' ').unwrap().0;
    dropped(&log(retained, before), &log(retained, story))
}

#[test]
fn the_newest_stay_across_attempts_and_savepoints_do_not_count() {
    assert_eq!(drops(2, "c 1 2"), Vec::<String>::new());
    assert_eq!(drops(2, "c 1 2 3"), ["chk-1-1-0"]);
    assert_eq!(drops(2, "c 1 2 c s3 4"), ["chk-1-1-0"]);
    assert_eq!(drops(2, "c 1 s2 p3 4 5"), ["chk-1-1-0"]);
    assert_eq!(drops(1, "c 1 c s2"), Vec::<String>::new(), "a savepoint drops nothing");
    assert_eq!(drops(0, "c 1 2"), ["chk-1-1-0"], "the last one always stays");
    let ids: Vec<u64> = log(3, "c 1 2 3 c 4 s5 6").checkpoints().iter().map(|c| c.id.0).collect();
    assert_eq!(ids, [3, 4, 6]);
}

#[test]
fn what_the_last_claim_started_from_stays_until_it_has_a_checkpoint_of_its_own() {
    // gone back to checkpoint 1, which retention alone would have dropped long ago
    let v = log(1, "c 1 2");
    let old = SnapshotRef { id: CheckpointId(1), path: "chk-1-1-0".into(), ..v.latest().unwrap() };
    let mut entries = v.entries().to_vec();
    let back = LogEntry { attempt: Attempt(2), nonce: Nonce(2), at: 0, body: Body::Claim(claim(Some(old))) };
    entries.push((3, back));
    let v = LogView::new(entries).unwrap();
    let folders =
        ["chk-1-1-0", "chk-2-1-0", "chk-3-1-0", "log", "savepoint-9", "chk-4-2-0", "chk-x-1-0"].map(str::to_owned);
    assert_eq!(sweep(&v, Attempt(2), &folders), ["chk-3-1-0"]);
}

#[test]
fn a_sweep_takes_only_what_earlier_attempts_left() {
    let v = log(3, "c 1 2 c");
    let folders = ["chk-1-1-0", "chk-2-1-0", "chk-3-1-0", "chk-3-2-0", "chk-9-7-0", "shared", "savepoint-3-1-0"]
        .map(str::to_owned);
    assert_eq!(sweep(&v, Attempt(2), &folders), ["chk-3-1-0"]);
}

#[test]
fn savepoints_of_earlier_attempts_are_looked_at_unless_the_log_names_them() {
    let v = log(3, "c 1 s2 c");
    let folders =
        ["savepoint-2", "savepoint-3-1-0", "savepoint-4-2-0", "savepoint-7-5-1-0", "savepoint-mine", "chk-5-1-0"]
            .map(str::to_owned);
    assert_eq!(unnamed_savepoints(&v, Attempt(2), &folders), ["savepoint-3-1-0"]);
}

#[test]
fn what_the_end_of_the_job_keeps() {
    use Retention::*;
    use TerminalStatus::*;
    let table = [
        (RetainOnCancellation, [(Finished, false), (Canceled, true), (Failed, true), (Stopped, true)]),
        (DeleteOnCancellation, [(Finished, false), (Canceled, false), (Failed, true), (Stopped, true)]),
        (NeverRetain, [(Finished, false), (Canceled, false), (Failed, false), (Stopped, false)]),
    ];
    for (policy, row) in table {
        for (status, kept) in row {
            let end = at_end(&log(2, "c 1 2 3 s4 p5"), policy, status);
            let checkpoints = ["chk-2-1-0", "chk-3-1-0"].map(str::to_owned);
            assert!(end.kept.ends_with(&["savepoint-4".into(), "savepoint-5".into()]), "{policy:?} {status:?} {end:?}");
            assert_eq!(end.kept.starts_with(&checkpoints), kept, "{policy:?} {status:?}");
            assert_eq!(end.delete, if kept { vec![] } else { checkpoints.to_vec() }, "{policy:?} {status:?}");
        }
    }
}
