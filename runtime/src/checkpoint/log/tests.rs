use super::*;
use crate::checkpoint::handles::SnapshotKind;
use weir_api::ids::{CheckpointId, JobName};
use weir_api::status::TerminalStatus;

fn open(dir: &tempfile::TempDir) -> Log {
    let job = JobName { namespace: "default".into(), name: "flights".into() };
    Log::new(Storage::open(dir.path().to_str().unwrap(), &job).unwrap())
}

fn claim(restores: Option<SnapshotRef>) -> Claim {
    Claim {
        fingerprint: "f".into(),
        restores,
        deployment: None,
        superseded: Vec::new(),
        parallelism: 1,
        configured_parallelism: 1,
        max_parallelism: 128,
        restore_nonce: None,
        restore_from: None,
        next_checkpoint: CheckpointId(1),
        finishes_stop: false,
    }
}

fn snapshot(id: u64) -> Snapshot {
    Snapshot {
        id: CheckpointId(id),
        path: format!("chk-{id}-1-0"),
        kind: SnapshotKind::Checkpoint,
        size_bytes: 10,
        duration_ms: 1,
        retains_from: 0,
    }
}

async fn win(log: &Log) -> LogWriter {
    let view = log.read().await.unwrap();
    let restores = view.latest();
    match log.claim(view, Nonce::random(), claim(restores), 0).await.unwrap() {
        Claimed::Won(w) => w,
        Claimed::Raced => panic!("raced"),
    }
}

/// Appends checkpoint `id`; keeps the newest `retained`.
async fn complete(w: &LogWriter, id: u64, retained: u32) -> Result<Appended, AppendError> {
    let body = move |view: &LogView, index: u64| {
        let retains_from = crate::checkpoint::retention::retains_from(view, index, retained);
        Body::Completed(Snapshot { retains_from, ..snapshot(id) })
    };
    w.append(body, 0).await
}

#[tokio::test]
async fn a_claim_takes_the_log_over_and_the_former_holder_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    assert!(log.read().await.unwrap().is_empty());
    let a = win(&log).await;
    assert_eq!(complete(&a, 1, 3).await.unwrap().index, 1);
    let b = win(&log).await;
    assert_eq!((a.attempt, b.attempt), (Attempt(1), Attempt(2)));
    assert_eq!(b.view().await.last_claim().unwrap().2.restores.as_ref().unwrap().id, CheckpointId(1));
    for _ in 0..2 {
        assert!(matches!(complete(&a, 2, 3).await, Err(AppendError::Fenced(_))));
    }
    assert_eq!(complete(&b, 2, 3).await.unwrap().index, 3);
}

#[tokio::test]
async fn a_claim_by_an_old_view_is_raced_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let old = log.read().await.unwrap();
    let a = win(&log).await;
    assert!(matches!(log.claim(old, Nonce::random(), claim(None), 0).await.unwrap(), Claimed::Raced));
    assert_eq!(complete(&a, 1, 3).await.unwrap().index, 1);
}

#[tokio::test]
async fn a_long_attempt_leaves_a_short_log_that_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let w = win(&log).await;
    for id in 1..=100 {
        let appended = complete(&w, id, 3).await.unwrap();
        w.clean_up(0).await.unwrap();
        let read = log.read().await.unwrap();
        assert!(read.entries().len() <= machine::RENEW_AFTER as usize + 3, "{}", read.entries().len());
        assert_eq!(read, w.view().await);
        let ids: Vec<u64> = read.checkpoints().iter().map(|c| c.id.0).collect();
        assert_eq!(ids, (id.saturating_sub(2).max(1)..=id).collect::<Vec<_>>());
        assert_eq!(read.resumable().unwrap().index, Some(appended.index));
        assert_eq!((read.next_attempt(), read.next_checkpoint()), (Attempt(2), CheckpointId(id + 1)));
    }
}

#[tokio::test]
async fn a_writer_that_slept_through_a_clean_up_is_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let asleep = win(&log).await;
    let b = win(&log).await;
    for id in 1..=40 {
        complete(&b, id, 1).await.unwrap();
        b.clean_up(0).await.unwrap();
    }
    // its index is free again, and its put succeeds
    let e = complete(&asleep, 1, 1).await.unwrap_err();
    assert!(matches!(e, AppendError::Fenced(_)), "{e:?}");
    assert!(dir.path().join("default/flights/log").join(entry::file_name(1)).exists());
    // which nobody else minds
    assert_eq!(log.read().await.unwrap(), b.view().await);
    complete(&b, 41, 1).await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_damaged_or_of_another_version_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let w = win(&log).await;
    complete(&w, 1, 3).await.unwrap();
    complete(&w, 2, 3).await.unwrap();
    let file = dir.path().join("default/flights/log").join(entry::file_name(1));
    let whole = std::fs::read(&file).unwrap();
    let error = async |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let e = log.read().await.unwrap_err().to_string();
        assert!(e.contains("log/00000000000000000001.json"), "{e}");
        e
    };
    assert!(error(&whole[..40]).await.contains("is truncated after 40 bytes"));
    assert!(error(&[]).await.contains("is truncated after 0 bytes"));
    let v2 = String::from_utf8(whole).unwrap().replace("\"version\":1", "\"version\":2");
    assert!(error(v2.as_bytes()).await.contains("has format version 2"));
}

#[tokio::test]
async fn entries_that_are_missing_in_the_middle_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let w = win(&log).await;
    for id in 1..=3 {
        complete(&w, id, 3).await.unwrap();
    }
    std::fs::remove_file(dir.path().join("default/flights/log").join(entry::file_name(1))).unwrap();
    let e = log.read().await.unwrap_err().to_string();
    assert!(e.contains("begins with log/00000000000000000002.json and has no claim"), "{e}");
}

#[tokio::test]
async fn an_append_goes_on_when_its_caller_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir);
    let w = win(&log).await;
    {
        let mut f = std::pin::pin!(complete(&w, 1, 3));
        // polled once, then dropped
        assert!(futures::poll!(f.as_mut()).is_pending());
    }
    assert_eq!(complete(&w, 2, 3).await.unwrap().index, 2);
    assert_eq!(log.read().await.unwrap().checkpoints().len(), 2);
}

#[test]
fn a_lost_reply_is_recognised_by_the_entry_itself() {
    use machine::{StoreOp, StoreReply, WriteStep, Writer};
    let entry =
        |nonce, id| LogEntry { attempt: Attempt(1), nonce: Nonce(nonce), at: 0, body: Body::Completed(snapshot(id)) };
    let holder = || {
        let first = LogEntry { attempt: Attempt(1), nonce: Nonce(7), at: 0, body: Body::Claim(claim(None)) };
        Writer::new(&LogView::new(vec![(0, first)]).unwrap())
    };
    let put = |e: &LogEntry| StoreOp::Put(1, Box::new(e.clone()));
    let mine = entry(7, 1);
    // the put took place, its reply was lost, the second put finds it
    let mut w = holder();
    assert_eq!(w.append(mine.clone()), WriteStep::Do(put(&mine)));
    assert_eq!(w.on(StoreReply::Unknown), WriteStep::Again(put(&mine)));
    // a refusal says nothing about the first put
    assert_eq!(w.on(StoreReply::Refused), WriteStep::Again(put(&mine)));
    assert_eq!(w.on(StoreReply::Exists), WriteStep::Do(StoreOp::Get(1)));
    assert_eq!(w.on(StoreReply::Got(Some(Box::new(mine.clone())))), WriteStep::Do(StoreOp::List));
    assert_eq!(w.on(StoreReply::Listed(vec![0, 1])), WriteStep::Appended(1));
    // a refusal of the first put: nothing happened, and the next append goes to the same index
    let mut w = holder();
    w.append(mine.clone());
    assert_eq!(w.on(StoreReply::Refused), WriteStep::Refused);
    assert_eq!(w.append(entry(7, 2)), WriteStep::Do(put(&entry(7, 2))));
    // somebody else's at our index: a later attempt's fences, anything else is a fault
    for (theirs, fenced) in
        [(LogEntry { attempt: Attempt(2), ..entry(8, 1) }, true), (entry(8, 1), false), (entry(7, 9), false)]
    {
        let mut w = holder();
        w.append(mine.clone());
        w.on(StoreReply::Exists);
        let step = w.on(StoreReply::Got(Some(Box::new(theirs.clone()))));
        assert_eq!(matches!(step, WriteStep::Fenced), fenced, "{theirs:?}");
        assert_eq!(matches!(step, WriteStep::Fault(_)), !fenced, "{theirs:?}");
    }
}

#[test]
fn what_the_log_offers_for_a_restore() {
    let mut entries: Vec<(u64, LogEntry)> = Vec::new();
    let mut attempt = 0;
    let mut add = |entries: &mut Vec<(u64, LogEntry)>, body: Body| {
        attempt += u64::from(matches!(body, Body::Claim(_)));
        let e = LogEntry { attempt: Attempt(attempt), nonce: Nonce(attempt), at: 0, body };
        entries.push((entries.len() as u64, e));
        LogView::new(entries.clone()).unwrap()
    };
    let id = |s: Option<SnapshotRef>| s.map(|s| s.id.0);
    let e = &mut entries;
    let v = add(e, Body::Claim(claim(None)));
    assert_eq!((id(v.resumable()), id(v.latest()), v.next_checkpoint()), (None, None, CheckpointId(1)));
    let v = add(e, Body::Completed(snapshot(4)));
    assert_eq!((id(v.resumable()), id(v.latest()), v.next_checkpoint()), (Some(4), Some(4), CheckpointId(5)));
    // an intermediate savepoint is never chosen
    let v = add(e, Body::Savepoint(Snapshot { kind: SnapshotKind::Savepoint, ..snapshot(5) }));
    assert_eq!((id(v.resumable()), id(v.latest()), id(v.last_savepoint())), (Some(4), Some(4), Some(5)));
    // a stateless start that completed nothing: it goes on like that, others fall back to what was committed
    let v = add(e, Body::Claim(claim(None)));
    assert_eq!((id(v.resumable()), id(v.latest())), (None, Some(4)));
    // going back to an older one: a crash before its first checkpoint goes back again
    let old = SnapshotRef { id: CheckpointId(2), ..v.latest().unwrap() };
    let v = add(e, Body::Claim(claim(Some(old))));
    assert_eq!((id(v.resumable()), id(v.latest()), v.next_checkpoint()), (Some(2), Some(2), CheckpointId(6)));
    let v = add(e, Body::Savepoint(Snapshot { kind: SnapshotKind::Stop { drain: false }, ..snapshot(6) }));
    assert_eq!((id(v.resumable()), id(v.unfinished_stop()), id(v.last_committed())), (Some(6), Some(6), Some(6)));
    let v = add(e, Body::Claim(Claim { finishes_stop: true, ..claim(v.resumable()) }));
    assert_eq!(id(v.unfinished_stop()), Some(6));
    let end = Terminal { status: TerminalStatus::Stopped, kept: vec![snapshot(6).path], reason: String::new() };
    let v = add(e, Body::Terminal(end));
    assert_eq!((id(v.latest()), id(v.unfinished_stop()), v.checkpoints().len()), (Some(6), None, 0));
    // a new attempt from there is not a stop any more
    let v = add(e, Body::Claim(claim(v.latest())));
    assert_eq!((id(v.resumable()), id(v.unfinished_stop())), (Some(6), None));
    let v = add(e, Body::Completed(snapshot(7)));
    let v2 =
        add(e, Body::Terminal(Terminal { status: TerminalStatus::Finished, kept: Vec::new(), reason: String::new() }));
    // the savepoint 6 is still there, and is no fallback: what came after it was committed
    assert_eq!((id(v.latest()), id(v2.latest()), id(v2.last_committed())), (Some(7), None, Some(7)));
    assert!(v2.snapshots().iter().any(|s| s.id.0 == 6));
}
