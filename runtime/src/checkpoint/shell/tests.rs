use super::*;
use crate::checkpoint::handles::*;
use crate::checkpoint::inspect;
use crate::checkpoint::log::{Claimed, Nonce};
use crate::checkpoint::manifest::{OperatorKind, OperatorSpec, state_file};
use crate::checkpoint::restore::{Decision, Request, assign, choose};
use crate::data::Type;
use crate::dataflow::task::TaskId;
use std::collections::BTreeMap;
use weir_api::config::RestoreConfig;
use weir_api::ids::{Attempt, CheckpointId, JobName};

struct Job {
    dir: tempfile::TempDir,
    storage: Storage,
    spec: JobSpec,
}

fn job() -> Job {
    let dir = tempfile::tempdir().unwrap();
    let name = JobName { namespace: "default".into(), name: "flights".into() };
    let storage = Storage::open(dir.path().to_str().unwrap(), &name).unwrap();
    let count = StateDescriptor { name: "count".into(), kind: StateKind::Value, key: Type::String, value: Type::U64 };
    let operator = |name: &str, kind, states: &[StateDescriptor], has_lists| OperatorSpec {
        name: name.into(),
        kind,
        vertex: 0,
        parallelism: 1,
        states: states.to_vec(),
        has_lists,
    };
    let operators = vec![
        operator("in", OperatorKind::Source, &[], true),
        operator("legs", OperatorKind::Operator, &[count], false),
    ];
    let spec = JobSpec { job: name, fingerprint: "f".into(), parallelism: 1, max_parallelism: 128, operators };
    Job { dir, storage, spec }
}

impl Job {
    fn url(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    /// Reads, chooses, compares, claims: a start by hand with `--restore latest`.
    async fn start(&self) -> (LogWriter, Prepared) {
        let log = Log::new(self.storage.clone());
        let view = log.read().await.unwrap();
        let restore = RestoreConfig { from: Some("latest".into()), ..Default::default() };
        let request = Request::new(&restore, 1);
        let Decision::Start(start) = choose(&view, &request) else { panic!() };
        let prepared = prepare(&self.storage, &start, &self.spec, false).await.unwrap();
        let claim = start.claim(&view, &request, &self.spec, prepared.restores.clone(), CheckpointId(1));
        match log.claim(view, Nonce::random(), claim, 0).await.unwrap() {
            Claimed::Won(w) => (w, prepared),
            Claimed::Raced => panic!(),
        }
    }

    /// The third attempt, which claims without looking at what it restores.
    async fn log_of_third(&self, second: &LogWriter) -> LogWriter {
        let log = Log::new(self.storage.clone());
        let view = log.read().await.unwrap();
        let claim = second.view().await.last_claim().unwrap().2.clone();
        match log.claim(view, Nonce::random(), claim, 0).await.unwrap() {
            Claimed::Won(w) => w,
            Claimed::Raced => panic!(),
        }
    }

    /// The only task's snapshot, written as its taskmanager would.
    async fn snapshot(&self, w: &LogWriter, id: u64, kind: SnapshotKind) -> Publish {
        let prefix = if kind.is_savepoint() { "savepoint" } else { "chk" };
        let directory = format!("{prefix}-{id}-{}-{}", w.attempt, w.nonce);
        let file = self.storage.write(&format!("{directory}/legs-0"), format!("state {id}")).await.unwrap();
        let keyed =
            vec![KeyedHandle { file, deltas: vec![], key_groups: 0..128, entries: 3, format: FileFormat::Canonical }];
        let splits = BTreeMap::from([(SPLITS.to_owned(), vec![Bytes64(vec![id as u8])])]);
        let operators = BTreeMap::from([
            ("legs".to_owned(), OperatorSubtaskState { keyed, lists: BTreeMap::new() }),
            ("in".to_owned(), OperatorSubtaskState { keyed: vec![], lists: splits }),
        ]);
        let snapshot = TaskSnapshot { operators, stats: Default::default() };
        Publish {
            attempt: w.attempt,
            id: CheckpointId(id),
            kind,
            directory,
            snapshots: BTreeMap::from([(TaskId { vertex: 0, subtask: 0 }, snapshot)]),
            triggered_at: 1_000,
            duration_ms: 5,
            size_bytes: 8,
        }
    }

    async fn complete(&self, w: &LogWriter, id: u64, kind: SnapshotKind) -> Published {
        let p = self.snapshot(w, id, kind).await;
        let published = publish(&self.storage, w, &self.spec, &p, 2, 1_010).await.unwrap();
        delete(&self.storage, &published.dropped).await;
        published
    }

    async fn folders(&self, prefix: &str) -> usize {
        let all = self.storage.list_folders("").await.unwrap();
        all.iter().filter(|f| f.starts_with(prefix)).count()
    }
}

#[tokio::test]
async fn checkpoints_are_published_retained_restored_and_ended() {
    let j = job();
    let (w, prepared) = j.start().await;
    assert_eq!(
        (prepared.message.as_str(), prepared.manifest.is_none()),
        ("starts new: no checkpoint was completed before", true)
    );
    for id in 1..=4 {
        let p = j.complete(&w, id, SnapshotKind::Checkpoint).await;
        assert_eq!(p.appended.index, id);
    }
    assert_eq!(j.folders("chk-").await, 2);
    // an orphan of the first attempt, then the second attempt
    j.snapshot(&w, 5, SnapshotKind::Checkpoint).await;
    let (w2, prepared) = j.start().await;
    assert!(prepared.message.starts_with("restores the latest: checkpoint 4 (chk-4-1-"), "{}", prepared.message);
    assert_eq!(prepared.restores.as_ref().unwrap().index, Some(4));
    let assignment = assign(prepared.manifest.as_ref().unwrap(), &j.spec);
    let task = &assignment[&TaskId { vertex: 0, subtask: 0 }].operators;
    assert_eq!(task["in"].lists[SPLITS], [Bytes64(vec![4])]);
    assert_eq!(j.storage.read(&task["legs"].keyed[0].file).await.unwrap(), "state 4");
    assert_eq!(j.folders("chk-").await, 3);
    assert_eq!(sweep(&j.storage, &w2, w2.attempt).await.unwrap().len(), 1);
    assert_eq!(j.folders("chk-").await, 2);
    // the first one wakes up: its checkpoint does not come into being
    let late = j.snapshot(&w, 6, SnapshotKind::Checkpoint).await;
    let e = publish(&j.storage, &w, &j.spec, &late, 2, 0).await.unwrap_err();
    assert!(matches!(e, AppendError::Fenced(_)), "{e:?}");
    // stopped with a savepoint: the last checkpoints stay beside it
    j.complete(&w2, 7, SnapshotKind::Stop { drain: false }).await;
    let status = TerminalStatus::Stopped;
    let (_, t, gone) = terminate(&w2, Retention::RetainOnCancellation, status, "asked".into(), 0).await.unwrap();
    assert_eq!((t.kept.len(), gone.len()), (3, 0));
    let (w3, prepared) = j.start().await;
    assert!(prepared.message.contains("savepoint 7"), "{}", prepared.message);
    j.complete(&w3, 8, SnapshotKind::Checkpoint).await;
    let (_, t, gone) =
        terminate(&w3, Retention::RetainOnCancellation, TerminalStatus::Finished, String::new(), 0).await.unwrap();
    delete(&j.storage, &gone).await;
    assert_eq!(t.kept.len(), 1, "the savepoint: {t:?}");
    assert_eq!((j.folders("savepoint-").await, gone.len()), (1, 2));
    // the same words again: what is finished is not done twice
    let view = read_log(&j.storage).await.unwrap();
    let restore = RestoreConfig { from: Some("latest".into()), ..Default::default() };
    assert!(matches!(choose(&view, &Request::new(&restore, 1)), Decision::Ended { .. }));
}

impl Job {
    /// A checkpoint whose keyed state lies in files of these checkpoints, oldest first; the last one is its own.
    async fn built_on(&self, w: &LogWriter, files: &[u64]) -> Publish {
        let id = *files.last().unwrap();
        let mut p = self.snapshot(w, id, SnapshotKind::Checkpoint).await;
        let path =
            |n: u64| state_file(&format!("chk-{n}-{}-{}", w.attempt, w.nonce), SnapshotKind::Checkpoint, "0.state");
        self.storage.write(&path(id), format!("changes {id}")).await.unwrap();
        let mut files = files.iter().map(|n| FileHandle { path: path(*n), size: 9, crc32c: 0 });
        let file = files.next().unwrap();
        let keyed = vec![KeyedHandle {
            file,
            deltas: files.collect(),
            key_groups: 0..128,
            entries: 3,
            format: FileFormat::Canonical,
        }];
        let operators = &mut p.snapshots.values_mut().next().unwrap().operators;
        operators.insert("legs".into(), OperatorSubtaskState { keyed, lists: BTreeMap::new() });
        p
    }

    async fn complete_built_on(&self, w: &LogWriter, files: &[u64]) -> Result<(), AppendError> {
        let p = self.built_on(w, files).await;
        let published = publish(&self.storage, w, &self.spec, &p, 2, 1_010).await?;
        delete_dropped(&self.storage, &published.appended.view, &published.dropped).await;
        Ok(())
    }

    /// Which checkpoints' files the shared folder holds.
    async fn shared(&self) -> Vec<u64> {
        let names = self.storage.list_files(SHARED).await.unwrap();
        let mut ids: Vec<u64> = names.iter().map(|n| n.split('-').nth(1).unwrap().parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    }
}

#[tokio::test]
async fn a_shared_file_goes_with_the_last_checkpoint_that_refers_to_it() {
    let j = job();
    let (w, _) = j.start().await;
    j.complete_built_on(&w, &[1]).await.unwrap();
    j.complete_built_on(&w, &[1, 2]).await.unwrap();
    j.complete_built_on(&w, &[1, 2, 3]).await.unwrap();
    j.complete_built_on(&w, &[1, 4]).await.unwrap();
    assert_eq!(j.shared().await, [1, 2, 3, 4], "checkpoint 3 refers to them still");
    j.complete_built_on(&w, &[1, 4, 5]).await.unwrap();
    assert_eq!(j.shared().await, [1, 4, 5]);
    // one is aborted, with what it wrote, and nothing else
    let aborted = j.built_on(&w, &[1, 4, 5, 6]).await;
    let tenfold = j.built_on(&w, &[60]).await;
    discard(&j.storage, &aborted.directory).await;
    assert_eq!(j.shared().await, [1, 4, 5, 60]);
    discard(&j.storage, &tenfold.directory).await;
    // a new base
    j.complete_built_on(&w, &[7]).await.unwrap();
    assert_eq!(j.shared().await, [1, 4, 5, 7]);
    j.complete_built_on(&w, &[7, 8]).await.unwrap();
    assert_eq!(j.shared().await, [7, 8]);
    // one that was under way all the while builds on what is gone
    let e = j.complete_built_on(&w, &[1, 9]).await.unwrap_err();
    assert!(matches!(&e, AppendError::Refused(e) if e.to_string().contains("shared/chk-1-1-")), "{e:?}");
    let refused = format!("chk-9-{}-{}", w.attempt, w.nonce);
    assert!(Manifest::read(&j.storage, &refused).await.is_err(), "it is not there");
    // every checkpoint that can be read is whole
    let view = read_log(&j.storage).await.unwrap();
    assert_eq!(view.checkpoints().len(), 2);
    for c in view.checkpoints() {
        let m = Manifest::read(&j.storage, &c.path).await.unwrap();
        for f in m.shared_files() {
            assert!(j.storage.get(f).await.unwrap().is_some(), "{f}");
        }
    }
}

#[tokio::test]
async fn a_later_attempt_sweeps_the_shared_files_that_nothing_refers_to() {
    let j = job();
    let (w, _) = j.start().await;
    j.complete_built_on(&w, &[1]).await.unwrap();
    j.complete_built_on(&w, &[1, 2]).await.unwrap();
    // the process is killed with a checkpoint under way, another half written
    j.built_on(&w, &[1, 2, 3]).await;
    let shared = j.dir.path().join("default/flights").join(SHARED);
    std::fs::write(shared.join("chk-4-1-0.0.state#0000000000000000000170"), "half").unwrap();
    std::fs::write(shared.join("chk-4-2-0.0.state#0000000000000000000171"), "half").unwrap();
    let (w2, _) = j.start().await;
    j.built_on(&w2, &[5]).await;
    sweep(&j.storage, &w2, w2.attempt).await.unwrap();
    assert_eq!(j.shared().await, [1, 2, 5], "what the living attempt writes is not touched");
    let staged = |n: &str| shared.join(n).exists();
    assert!(!staged("chk-4-1-0.0.state#0000000000000000000170"));
    assert!(staged("chk-4-2-0.0.state#0000000000000000000171"));
    // with a manifest that cannot be read nothing is deleted
    let path = w2.view().await.checkpoints().pop().unwrap().path;
    std::fs::write(j.dir.path().join("default/flights").join(&path).join(FILE), "{]").unwrap();
    let (w3, names) = (j.log_of_third(&w2).await, j.shared().await);
    assert!(sweep(&j.storage, &w3, w3.attempt).await.is_err());
    assert_eq!(j.shared().await, names);
}

#[tokio::test]
async fn the_end_of_a_job_that_keeps_nothing_leaves_no_shared_file() {
    let j = job();
    let (w, _) = j.start().await;
    j.complete_built_on(&w, &[1]).await.unwrap();
    j.complete_built_on(&w, &[1, 2]).await.unwrap();
    // of one that was under way
    j.built_on(&w, &[3]).await;
    assert_eq!(sweep(&j.storage, &w, w.attempt).await.unwrap().len(), 0, "its tasks may be there");
    assert_eq!(sweep_own(&j.storage, &w).await.unwrap().len(), 2, "its folder and its file");
    let status = TerminalStatus::Finished;
    let (a, _, gone) = terminate(&w, Retention::RetainOnCancellation, status, String::new(), 0).await.unwrap();
    delete_dropped(&j.storage, &a.view, &gone).await;
    assert_eq!((j.shared().await, j.folders("chk-").await), (vec![], 0));
}

#[tokio::test]
async fn a_checkpoint_of_another_job_finds_its_shared_files() {
    let (j, other) = (job(), job());
    let (w, _) = j.start().await;
    j.complete_built_on(&w, &[1]).await.unwrap();
    j.complete_built_on(&w, &[1, 2]).await.unwrap();
    let path = j.dir.path().join("default/flights").join(w.view().await.checkpoints().pop().unwrap().path);
    let given = other.storage.normalize(path.to_str().unwrap()).unwrap();
    let m = Manifest::read(&other.storage, &given).await.unwrap();
    assert_eq!(m.shared_files().count(), 0, "not of this job");
    for f in m.paths() {
        assert!(other.storage.get(f).await.unwrap().is_some(), "{f}");
    }
    assert_eq!(m.paths().count(), 2);
}

#[tokio::test]
async fn an_aborted_savepoint_of_a_lost_jobmanager_is_swept_and_a_complete_one_never_is() {
    let j = job();
    let (w, _) = j.start().await;
    let named = j.complete(&w, 1, SnapshotKind::Savepoint).await.appended.view.last_savepoint().unwrap().path;
    let aborted = j.snapshot(&w, 2, SnapshotKind::Savepoint).await.directory;
    // lost between the manifest and the entry: all of it is there, so it is left to the user
    let unnamed = j.snapshot(&w, 3, SnapshotKind::Savepoint).await.directory;
    j.storage.write(&format!("{unnamed}/{FILE}"), "{}").await.unwrap();
    let (w2, _) = j.start().await;
    let own = j.snapshot(&w2, 4, SnapshotKind::Savepoint).await.directory;
    assert_eq!(sweep(&j.storage, &w2, w2.attempt).await.unwrap(), [aborted]);
    let mut left = j.storage.list_folders("").await.unwrap();
    left.retain(|f| f.starts_with("savepoint-"));
    left.sort();
    assert_eq!(left, [named, unnamed, own]);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_is_aborted_and_the_next_one_completes() {
    let j = job();
    let (w, _) = j.start().await;
    let p = j.snapshot(&w, 1, SnapshotKind::Checkpoint).await;
    // the manifest's place is taken: the storage refuses it
    std::fs::create_dir(j.dir.path().join("default/flights").join(&p.directory).join(FILE)).unwrap();
    let e = publish(&j.storage, &w, &j.spec, &p, 2, 0).await.unwrap_err();
    assert!(matches!(e, AppendError::Refused(_)), "{e:?}");
    assert_eq!(w.view().await.checkpoints().len(), 0);
    assert_eq!(j.complete(&w, 2, SnapshotKind::Checkpoint).await.appended.index, 1);
}

#[tokio::test]
async fn a_savepoint_can_be_moved_and_restored_from_where_it_lies() {
    let j = job();
    let (w, _) = j.start().await;
    let directory = j.complete(&w, 1, SnapshotKind::Savepoint).await.appended.view.last_savepoint().unwrap().path;
    let elsewhere = tempfile::tempdir().unwrap();
    let to = elsewhere.path().join("moved");
    std::fs::rename(j.dir.path().join("default/flights").join(directory), &to).unwrap();
    let given = j.storage.normalize(to.to_str().unwrap()).unwrap();
    let m = Manifest::read(&j.storage, &given).await.unwrap();
    let handle = &m.operators[1].subtasks[0].keyed[0].file;
    assert_eq!(j.storage.read(handle).await.unwrap(), "state 1");
    assert_eq!(m.foreign_files().count(), 0);
}

#[tokio::test]
async fn a_missing_or_damaged_manifest_is_refused_before_anything_changes() {
    let j = job();
    let (w, _) = j.start().await;
    let path = j.complete(&w, 1, SnapshotKind::Checkpoint).await.appended.view.latest().unwrap().path;
    let file = j.dir.path().join("default/flights").join(&path).join(FILE);
    let before = read_log(&j.storage).await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    let restore = RestoreConfig { from: Some("latest".into()), ..Default::default() };
    for (contents, says) in
        [(Some(&whole[..50]), "is truncated"), (Some(&b"{]"[..]), "is corrupt"), (None, "there is no snapshot at")]
    {
        match contents {
            Some(c) => std::fs::write(&file, c).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let Decision::Start(start) = choose(&before, &Request::new(&restore, 1)) else { panic!() };
        let e = prepare(&j.storage, &start, &j.spec, false).await.unwrap_err().to_string();
        assert!(e.contains(says) && e.contains(&path), "{e}");
    }
    assert_eq!(read_log(&j.storage).await.unwrap(), before);
}

#[tokio::test]
async fn the_log_is_shown_without_a_cluster() {
    let j = job();
    let e = inspect::list(j.url(), None).await.unwrap_err().to_string();
    assert!(e.contains("holds no checkpoints"), "{e}");
    let (w, _) = j.start().await;
    for id in 1..=3 {
        j.complete(&w, id, SnapshotKind::Checkpoint).await;
    }
    j.complete(&w, 4, SnapshotKind::Savepoint).await;
    terminate(&w, Retention::RetainOnCancellation, TerminalStatus::Canceled, "by the user".into(), 0).await.unwrap();
    let text = inspect::list(j.url(), None).await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("default/flights  (file://"), "{text}");
    let has =
        |line: usize, words: &[&str]| assert!(words.iter().all(|w| lines[line].contains(w)), "{words:?} in {text}");
    has(2, &["0", "1970-01-01T00:00:00Z", "claim", "starts new, parallelism 1"]);
    has(3, &["checkpoint", "8 B", "10 ms", "chk-1-1-", "(dropped)"]);
    has(5, &["checkpoint", "chk-3-1-", "<- latest"]);
    has(6, &["savepoint", "savepoint-4-1-"]);
    has(7, &["canceled", "kept chk-2-1-", "by the user"]);
    let job = &j.spec.job;
    for which in ["latest", "3"] {
        let text = inspect::show(j.url(), job, which).await.unwrap();
        let parts = [
            "checkpoint 3 of default/flights",
            "parallelism      1 (max 128)",
            "Value state \"count\": String -> u64",
            "3 entries in 1 files",
            "list \"weir.splits\": 1 elements",
        ];
        assert!(parts.iter().all(|p| text.contains(p)), "{text}");
    }
    assert!(inspect::show(j.url(), job, "1").await.unwrap_err().to_string().contains("no checkpoint 1;"));
    assert_eq!(w.attempt, Attempt(1));
}
