//! The uploader against a real folder: what each checkpoint writes, and that a restore finds it.
use super::*;
use crate::checkpoint::handles::{Bytes64, PENDING, SnapshotKind};
use crate::state::file::{NotDeclared, restore};
use crate::state::{KeyRef, KeyedTable, ValueState};
use weir_api::ids::{Attempt, JobName};

struct Subtask {
    _dir: tempfile::TempDir,
    storage: Storage,
    uploader: StorageUploader,
    state: ValueState<u64, u64>,
}

fn subtask() -> Subtask {
    let dir = tempfile::tempdir().unwrap();
    let job = JobName { namespace: "default".into(), name: "job".into() };
    let storage = Storage::open(dir.path().to_str().unwrap(), &job).unwrap();
    let plan = Arc::new(JobGraph { vertices: vec![], edges: vec![], max_parallelism: 128 });
    let uploader = StorageUploader::new(Some(storage.clone()), plan, &[]);
    Subtask { _dir: dir, storage, uploader, state: ValueState::new("count") }
}

impl Subtask {
    fn set(&mut self, keys: std::ops::Range<u64>, value: u64) {
        keys.for_each(|k| self.state.update(&KeyRef::of(&k), value));
    }

    fn barrier(&mut self, id: u64, kind: SnapshotKind) -> BoxFuture<'static, Result<TaskSnapshot>> {
        let prefix = if kind.is_savepoint() { "savepoint" } else { "chk" };
        let directory = format!("{prefix}-{id}-1-0");
        let barrier = Barrier { id: CheckpointId(id), attempt: Attempt(1), kind, directory, aligned: true };
        let mut parts = SnapshotParts::default();
        parts.keyed.insert("op".into(), vec![self.state.freeze()]);
        self.uploader.upload(TaskId { vertex: 0, subtask: 0 }, barrier, parts)
    }

    async fn snapshot(&mut self, id: u64, kind: SnapshotKind) -> (KeyedHandle, u64) {
        let mut done = self.barrier(id, kind).await.unwrap();
        (done.operators.remove("op").unwrap().keyed.remove(0), done.stats.bytes)
    }

    /// Value of each of the first hundred keys, by a restore.
    async fn restored(&self, handle: &KeyedHandle) -> Vec<Option<u64>> {
        let files = StorageFiles(Some(self.storage.clone()));
        let mut chain = Vec::new();
        for f in handle.files() {
            chain.push(files.open(f.clone()).await.unwrap());
        }
        let chain: Vec<&dyn ReadAt> = chain.iter().map(|f| &**f).collect();
        let mut again = ValueState::<u64, u64>::new("count");
        restore("op", &(0..128), 128, NotDeclared::Refuse, &[&chain], &mut [&mut again]).unwrap();
        (0..100).map(|k| again.get(&KeyRef::of(&k)).copied()).collect()
    }

    fn live(&self) -> Vec<Option<u64>> {
        (0..100).map(|k| self.state.get(&KeyRef::of(&k)).copied()).collect()
    }
}

#[tokio::test]
async fn checkpoints_hold_what_changed_since_the_last_completed_one() {
    let mut s = subtask();
    s.set(0..20_000, 1);
    let (first, whole) = s.snapshot(1, SnapshotKind::Checkpoint).await;
    assert!(first.deltas.is_empty() && first.file.path.starts_with("shared/chk-1-1-0."), "{first:?}");
    s.uploader.completed(CheckpointId(1));

    s.set(0..10, 2);
    s.state.clear(&KeyRef::of(&50));
    let (aborted, changes) = s.snapshot(2, SnapshotKind::Checkpoint).await;
    assert!(aborted.deltas.len() == 1 && aborted.file == first.file && changes * 20 < whole, "{changes} of {whole}");
    s.uploader.aborted(CheckpointId(2));
    s.storage.delete(&aborted.deltas[0].path).await.unwrap();

    s.set(10..20, 3);
    let (third, _) = s.snapshot(3, SnapshotKind::Checkpoint).await;
    assert_eq!((third.deltas.len(), third.entries), (1, 19_999));
    assert_eq!(s.restored(&third).await, s.live());
    s.uploader.completed(CheckpointId(3));

    // nothing new: nothing is written
    let (fourth, written) = s.snapshot(4, SnapshotKind::Checkpoint).await;
    assert_eq!((written, fourth.deltas), (0, third.deltas.clone()));
    s.uploader.completed(CheckpointId(4));

    // a savepoint stands alone, and no checkpoint builds on it
    s.set(20..30, 4);
    let (savepoint, _) = s.snapshot(5, SnapshotKind::Savepoint).await;
    assert!(savepoint.deltas.is_empty() && savepoint.file.path.starts_with("savepoint-5-1-0/"), "{savepoint:?}");
    assert_eq!(s.restored(&savepoint).await, s.live());
    s.uploader.completed(CheckpointId(5));
    let (sixth, _) = s.snapshot(6, SnapshotKind::Checkpoint).await;
    assert!(sixth.files().all(|f| f.path.starts_with("shared/")) && sixth.deltas.len() == 2, "{sixth:?}");
    assert_eq!(s.restored(&sixth).await, s.live());
}

#[tokio::test]
async fn an_acknowledgement_that_no_message_takes_declines_the_checkpoint() {
    let mut s = subtask();
    s.uploader.frame_limit = ACKNOWLEDGEMENT + 1500;
    let folder = s.storage.clone();
    let mut upload = |bytes: usize, storage: Option<Storage>| {
        let mut parts = SnapshotParts::default();
        let list = BTreeMap::from([(PENDING.to_owned(), vec![Bytes64(vec![7; bytes])])]);
        parts.lists.insert("sink".into(), list);
        let kind = SnapshotKind::Checkpoint;
        let barrier =
            Barrier { id: CheckpointId(1), attempt: Attempt(1), kind, directory: "chk-1-1-0".into(), aligned: true };
        s.uploader.storage = storage;
        s.uploader.upload(TaskId { vertex: 0, subtask: 0 }, barrier, parts)
    };
    for storage in [Some(folder), None] {
        assert!(upload(900, storage.clone()).await.is_ok());
        let e = upload(1500, storage).await.unwrap_err();
        assert_eq!(e.code, ErrorCode::Checkpoint);
        assert!(e.message.contains(r#"operator "sink": list state "weir.pending" holds 1 elements of 1500"#), "{e}");
    }
}

#[tokio::test]
async fn nothing_is_written_any_more_when_the_end_is_over() {
    let mut s = subtask();
    s.set(0..1000, 1);
    // begun and not polled yet; and one that is polled to where it writes
    let late = s.barrier(1, SnapshotKind::Checkpoint);
    let mut early = s.barrier(2, SnapshotKind::Checkpoint);
    let _ = futures::poll!(&mut early);
    let end = s.uploader.end();
    tokio::pin!(end);
    assert!(futures::poll!(&mut end).is_pending(), "one is on its way");
    let (early, ()) = tokio::join!(early, &mut end);
    let written = s.storage.list_files("shared").await.unwrap();
    assert_eq!(written.len(), usize::from(early.is_ok()), "{written:?}");
    assert!(late.await.is_err());
    assert_eq!(s.storage.list_files("shared").await.unwrap(), written);
}

#[tokio::test]
async fn a_checkpoint_that_is_aborted_meanwhile_writes_nothing() {
    let mut s = subtask();
    s.set(0..1000, 1);
    let upload = s.barrier(1, SnapshotKind::Checkpoint);
    s.uploader.aborted(CheckpointId(1));
    let e = upload.await.unwrap_err();
    assert!(e.code == ErrorCode::Checkpoint && e.message.contains("aborted"), "{e}");
    assert_eq!(s.storage.list_files("shared").await.unwrap(), Vec::<String>::new());
}
