use super::*;
use crate::connectors::testing::sink_cx;
use crate::data::{DecodeError, Type};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use tempfile::TempDir;

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Leg {
    tail: &'static str,
    legs: u64,
    worst: Option<i32>,
}
impl Data for Leg {
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Err(DecodeError::Invalid("not needed"))
    }
    fn type_of() -> Type {
        Type::Unit
    }
}

fn writer<T: Data + Serialize>(sink: &FileSink, subtask: u32, attempt: u64) -> FileWriter {
    Sink::<T>::writer(sink, &sink_cx(subtask, 2, attempt)).unwrap()
}
fn write<T: Serialize>(w: &mut FileWriter, records: Vec<T>) -> Result<()> {
    let mut batch = Batch { records, ..Batch::default() };
    w.write(&mut batch)?;
    assert!(batch.is_empty());
    Ok(())
}
fn prepare(w: &mut FileWriter, checkpoint: u64) -> Result<Vec<Committable>> {
    SinkWriter::<u64>::prepare_commit(w, CheckpointId(checkpoint))
}
fn commit(w: &mut FileWriter, checkpoint: u64) -> Result<()> {
    SinkWriter::<u64>::commit(w, CheckpointId(checkpoint))
}
fn recover(sink: &FileSink, attempt: u64, pending: &[Committable]) -> Result<()> {
    Sink::<u64>::recover(sink, &sink_cx(0, 1, attempt), pending.to_vec())
}
/// Names in the folder: visible, hidden.
fn names(dir: &Path) -> (Vec<String>, Vec<String>) {
    let mut all: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all.into_iter().partition(|n| !n.starts_with('.'))
}
fn visible(dir: &Path) -> Vec<String> {
    names(dir).0.iter().map(|n| std::fs::read_to_string(dir.join(n)).unwrap()).collect()
}

#[test]
fn what_was_pending_when_the_output_moved_is_committed_where_it_was_written() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut w = writer::<u64>(&FileSink::json_lines(old.path()), 0, 1);
    write(&mut w, vec![1u64]).unwrap();
    let pending = prepare(&mut w, 1).unwrap();
    let moved = FileSink::json_lines(new.path());
    for attempt in [2, 3] {
        recover(&moved, attempt, &pending).unwrap();
        assert_eq!(visible(old.path()), ["1\n"]);
        assert_eq!(names(new.path()), (Vec::new(), Vec::new()));
    }
}

#[test]
fn records_become_visible_with_their_checkpoint() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path().join("made/when/missing"));
    let at = dir.path().join("made/when/missing");
    let mut w = writer::<Leg>(&sink, 1, 7);
    write(&mut w, vec![Leg { tail: "N1", legs: 1, worst: None }, Leg { tail: "N\"2", legs: 2, worst: Some(-3) }])
        .unwrap();
    let hidden = names(&at);
    assert!(
        hidden.0.is_empty() && hidden.1[0].starts_with(".weir-out-a7-s1-") && hidden.1[0].ends_with(".open"),
        "{hidden:?}"
    );
    assert_eq!(prepare(&mut w, 3).unwrap().len(), 1);
    write(&mut w, vec![Leg { tail: "N3", legs: 3, worst: None }]).unwrap();
    let hidden = names(&at);
    assert!(
        hidden.0.is_empty()
            && hidden.1.len() == 2
            && hidden.1.iter().any(|n| n.contains("-c3-") && n.ends_with(".pending")),
        "{hidden:?}"
    );
    commit(&mut w, 3).unwrap();
    commit(&mut w, 3).unwrap();
    assert_eq!(
        visible(&at),
        ["{\"tail\":\"N1\",\"legs\":1,\"worst\":null}\n{\"tail\":\"N\\\"2\",\"legs\":2,\"worst\":-3}\n"]
    );
    assert!(names(&at).0[0].starts_with("part-0000000003-0001-") && names(&at).0[0].ends_with(".jsonl"));
    // nothing written: no file
    prepare(&mut w, 4).unwrap();
    commit(&mut w, 4).unwrap();
    assert!(prepare(&mut w, 5).unwrap().is_empty());
    commit(&mut w, 5).unwrap();
    let (parts, hidden) = names(&at);
    assert_eq!((parts.len(), hidden.len()), (2, 0));
    assert_eq!(w.metrics.records_out(), 3);
    assert_eq!(w.metrics.bytes_out(), visible(&at).concat().len() as u64);
}

#[test]
fn csv_files_have_a_header_each() {
    let dir = TempDir::new().unwrap();
    let mut w = writer::<Leg>(&FileSink::csv(dir.path()), 0, 1);
    for c in 1..3 {
        write(&mut w, vec![Leg { tail: "a,b", legs: c, worst: None }]).unwrap();
        prepare(&mut w, c).unwrap();
        commit(&mut w, c).unwrap();
    }
    assert_eq!(visible(dir.path()), ["tail,legs,worst\n\"a,b\",1,\n", "tail,legs,worst\n\"a,b\",2,\n"]);
    assert!(names(dir.path()).0[0].ends_with(".csv"));
}

#[test]
fn an_aborted_checkpoint_goes_with_a_later_one() {
    let dir = TempDir::new().unwrap();
    let mut w = writer::<u64>(&FileSink::json_lines(dir.path()), 0, 1);
    write(&mut w, vec![1u64]).unwrap();
    prepare(&mut w, 1).unwrap();
    SinkWriter::<u64>::aborted(&mut w, CheckpointId(1)).unwrap();
    write(&mut w, vec![2u64]).unwrap();
    assert_eq!(prepare(&mut w, 2).unwrap().len(), 2);
    write(&mut w, vec![3u64]).unwrap();
    assert_eq!(prepare(&mut w, 3).unwrap().len(), 3);
    commit(&mut w, 2).unwrap();
    assert_eq!(visible(dir.path()), ["1\n", "2\n"]);
    commit(&mut w, 3).unwrap();
    assert_eq!(visible(dir.path()), ["1\n", "2\n", "3\n"]);
}

fn savepoint(w: &mut FileWriter, id: u64) -> Result<Vec<Committable>> {
    SinkWriter::<u64>::prepare_savepoint(w, CheckpointId(id))
}

#[test]
fn a_savepoint_outlives_the_attempt_that_took_it() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path());
    let mut w = writer::<u64>(&sink, 0, 1);
    write(&mut w, vec![1u64]).unwrap();
    let checkpoint = prepare(&mut w, 1).unwrap();
    commit(&mut w, 1).unwrap();
    write(&mut w, vec![2u64]).unwrap();
    prepare(&mut w, 2).unwrap();
    SinkWriter::<u64>::aborted(&mut w, CheckpointId(2)).unwrap();
    write(&mut w, vec![3u64]).unwrap();
    let saved = [savepoint(&mut w, 3).unwrap(), savepoint(&mut w, 4).unwrap()];
    killed(w, 4);
    // the next attempt goes on from the checkpoint, and fails as well
    recover(&sink, 2, &checkpoint).unwrap();
    assert_eq!(visible(dir.path()), ["1\n"]);
    killed(writer::<u64>(&sink, 0, 2), 2);
    for (attempt, saved) in (3..).zip(&saved) {
        recover(&sink, attempt, saved).unwrap();
        assert_eq!(visible(dir.path()), ["1\n", "2\n", "3\n"]);
    }
    assert_eq!(names(dir.path()).1, Vec::<String>::new());
}

#[test]
fn second_names_go_with_the_commit_or_the_savepoint() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path());
    let mut w = writer::<u64>(&sink, 0, 1);
    let hidden = || names(dir.path()).1.len();
    write(&mut w, vec![1u64]).unwrap();
    let saved = savepoint(&mut w, 1).unwrap();
    let failed = savepoint(&mut w, 2).unwrap();
    assert_eq!((saved.len(), failed.len(), hidden()), (1, 1, 2));
    SinkWriter::<u64>::aborted(&mut w, CheckpointId(2)).unwrap();
    assert_eq!(hidden(), 2, "the first one still holds it");
    commit(&mut w, 3).unwrap();
    assert_eq!((visible(dir.path()), hidden()), (vec!["1\n".to_owned()], 0));
    write(&mut w, vec![2u64]).unwrap();
    savepoint(&mut w, 4).unwrap();
    SinkWriter::<u64>::aborted(&mut w, CheckpointId(4)).unwrap();
    assert_eq!(hidden(), 1, "only the pending file");
    commit(&mut w, 5).unwrap();
    // what the job has committed since need not be committed again
    recover(&sink, 2, &saved).unwrap();
    assert_eq!((visible(dir.path()).len(), hidden()), (2, 0));
}

#[test]
fn files_are_rolled_by_size() {
    for (sink, header) in [(FileSink::json_lines as fn(PathBuf) -> FileSink, 0), (FileSink::csv, 0)] {
        let dir = TempDir::new().unwrap();
        let sink = sink(dir.path().to_path_buf()).max_part_bytes(20_000);
        let mut w = writer::<u64>(&sink, 0, 1);
        for i in 0..50u64 {
            write(&mut w, (i * 1000..(i + 1) * 1000).collect()).unwrap();
        }
        prepare(&mut w, 1).unwrap();
        commit(&mut w, 1).unwrap();
        let all = visible(dir.path());
        assert!(all.len() >= 10 && all.iter().all(|t| t.len() < 40_000 + header), "{}", all.len());
        assert_eq!(all.concat(), (0..50_000).map(|i| format!("{i}\n")).collect::<String>());
    }
}

/// Files in the folder that this process has open.
fn handles(dir: &Path) -> usize {
    let all = std::fs::read_dir("/proc/self/fd").unwrap();
    let dir = dir.canonicalize().unwrap();
    // the listing's own handle, and those of other tests, may be gone again
    all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).filter(|path| path.starts_with(&dir)).count()
}

#[test]
fn full_parts_are_closed_however_many_a_checkpoint_has() {
    const PARTS: u64 = 300;
    for new in [FileSink::json_lines as fn(PathBuf) -> FileSink, FileSink::csv] {
        let dir = TempDir::new().unwrap();
        let mut w = writer::<u64>(&new(dir.path().to_path_buf()).max_part_bytes(1), 0, 1);
        for i in 0..PARTS {
            write(&mut w, vec![i]).unwrap();
        }
        assert_eq!(names(dir.path()).1.len() as u64, PARTS);
        assert!(handles(dir.path()) <= 1, "{} of {PARTS} files are open", handles(dir.path()));
        prepare(&mut w, 1).unwrap();
        commit(&mut w, 1).unwrap();
        assert_eq!(visible(dir.path()).len() as u64, PARTS);
    }
}

#[test]
fn closing_removes_what_is_open_and_keeps_what_is_pending() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path()).max_part_bytes(1);
    let mut w = writer::<u64>(&sink, 0, 1);
    write(&mut w, vec![1u64]).unwrap();
    let pending = prepare(&mut w, 1).unwrap();
    write(&mut w, vec![2u64, 3]).unwrap();
    SinkWriter::<u64>::close(&mut w).unwrap();
    let (parts, hidden) = names(dir.path());
    assert!(parts.is_empty() && hidden.len() == 1 && hidden[0].ends_with(".pending"), "{hidden:?}");
    recover(&sink, 2, &pending).unwrap();
    assert_eq!(visible(dir.path()), ["1\n"]);
}

/// Writes a record and dies, without the chance to clean up.
fn killed(mut w: FileWriter, record: u64) {
    write(&mut w, vec![record]).unwrap();
    std::mem::forget(w);
}

#[test]
fn a_cancelled_task_leaves_nothing_open() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path()).max_part_bytes(1);
    let mut w = writer::<u64>(&sink, 0, 1);
    write(&mut w, vec![1u64, 2]).unwrap();
    assert_eq!(names(dir.path()).1.len(), 2);
    drop(w);
    assert!(names(dir.path()).1.is_empty());
}

#[test]
fn what_a_silent_process_wrote_after_the_sweep_is_gone_at_the_end() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path());
    recover(&sink, 2, &[]).unwrap();
    let mut zombie = writer::<u64>(&sink, 1, 1);
    write(&mut zombie, vec![7u64]).unwrap();
    prepare(&mut zombie, 5).unwrap();
    killed(zombie, 8);
    let (mut first, mut second) = (writer::<u64>(&sink, 0, 2), writer::<u64>(&sink, 1, 2));
    write(&mut second, vec![9u64]).unwrap();
    prepare(&mut second, 6).unwrap();
    // the other subtask's pending file is of this attempt: it stays
    SinkWriter::<u64>::close(&mut first).unwrap();
    commit(&mut second, 6).unwrap();
    SinkWriter::<u64>::close(&mut second).unwrap();
    assert_eq!(visible(dir.path()), ["9\n"]);
    assert!(names(dir.path()).1.is_empty());
}

#[test]
fn recovery_leaves_alone_what_is_not_its_own() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path());
    let other = SinkContext { operator: "out-2".into(), ..sink_cx(0, 1, 1) };
    killed(Sink::<u64>::writer(&sink, &other).unwrap(), 1); // another sink in the same folder
    killed(writer::<u64>(&sink, 0, 1), 1);
    killed(writer::<u64>(&sink, 0, 9), 1); // a later attempt: we are the fenced one
    for keep in [".keep", "part-of-something", "notes.txt", ".weir-out-a1"] {
        std::fs::write(dir.path().join(keep), "").unwrap();
    }
    let before: Vec<String> = names(dir.path()).1;
    recover(&sink, 2, &[]).unwrap();
    let after = names(dir.path()).1;
    let gone: Vec<_> = before.iter().filter(|n| !after.contains(n)).collect();
    assert!(gone.len() == 1 && gone[0].starts_with(".weir-out-a1-s0-"), "{gone:?}");
}

#[test]
fn senseless_folders_and_records_are_named() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("below")] {
        let e = recover(&FileSink::json_lines(&bad), 1, &[]).unwrap_err().message;
        assert!(e.contains("cannot write to the output folder") && e.contains(bad.to_str().unwrap()), "{e}");
        assert!(Sink::<u64>::writer(&FileSink::json_lines(&bad), &sink_cx(0, 1, 1)).is_err());
    }
    let mut w = writer::<BTreeMap<(u64, u64), u64>>(&FileSink::json_lines(dir.path().join("out")), 0, 1);
    let e = write(&mut w, vec![BTreeMap::from([((1u64, 2u64), 3u64)])]).unwrap_err().message;
    assert!(e.contains("cannot write a record as JSON: key must be a string"), "{e}");
    let mut w = writer::<BTreeMap<u64, u64>>(&FileSink::csv(dir.path().join("csv")), 0, 1);
    let e = write(&mut w, vec![BTreeMap::from([(1u64, 3u64)])]).unwrap_err().message;
    assert!(e.contains("cannot write a record as CSV"), "{e}");
}

/// A job in small: a source of the numbers below `RECORDS`, dealt to the writers, snapshots in memory; each third one is a
/// savepoint. `die` counts the changes on disk until the process is killed; at 0 all further ones fail. Returns whether it came to
/// its end.
const RECORDS: u64 = 12;
struct Job {
    sink: FileSink,
    dir: TempDir,
    attempt: u64,
    next_checkpoint: u64,
    /// Of the last completed checkpoint.
    position: u64,
    pending: Vec<Committable>,
    savepoints: Vec<Vec<Committable>>,
}

impl Job {
    fn run(&mut self, parallelism: u32, completes: bool, die: i64) -> bool {
        self.attempt += 1;
        self.sink.folder.fuse.store(die, Relaxed);
        let ended = self.attempt(parallelism, completes).is_ok();
        self.sink.folder.fuse.store(i64::MAX, Relaxed);
        self.check();
        ended
    }

    fn attempt(&mut self, parallelism: u32, completes: bool) -> Result<()> {
        recover(&self.sink, self.attempt, &self.pending)?;
        let mut writers = Vec::new();
        for i in 0..parallelism {
            writers.push(Sink::<u64>::writer(&self.sink, &sink_cx(i, parallelism, self.attempt))?);
        }
        let mut position = self.position;
        while self.position < RECORDS || !self.pending.is_empty() {
            for _ in 0..4u64.min(RECORDS - position) {
                write(&mut writers[(position % u64::from(parallelism)) as usize], vec![position])?;
                position += 1;
            }
            let checkpoint = self.next_checkpoint;
            self.next_checkpoint += 1;
            let mut pending = Vec::new();
            if checkpoint.is_multiple_of(3) {
                for w in &mut writers {
                    pending.extend(savepoint(w, checkpoint)?);
                }
                self.savepoints.push(pending);
                continue;
            }
            for w in &mut writers {
                pending.extend(prepare(w, checkpoint)?);
            }
            if !completes && checkpoint.is_multiple_of(2) {
                continue; // aborted: goes with the next
            }
            (self.position, self.pending) = (position, pending);
            for w in &mut writers {
                commit(w, checkpoint)?;
            }
        }
        Ok(())
    }

    fn numbers(&self) -> Vec<u64> {
        let mut all: Vec<u64> = visible(self.dir.path()).concat().lines().map(|l| l.parse().unwrap()).collect();
        all.sort_unstable();
        all
    }

    /// Never a duplicate, never anything beyond the last completed checkpoint.
    fn check(&self) {
        let all = self.numbers();
        assert!(all.windows(2).all(|w| w[0] < w[1]), "duplicates in {all:?}");
        assert!(all.last().is_none_or(|&n| n < self.position), "{all:?} beyond {}", self.position);
    }
}

fn crash(kills: &[(u32, bool, i64)]) -> bool {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::json_lines(dir.path());
    let mut job =
        Job { sink, dir, attempt: 0, next_checkpoint: 1, position: 0, pending: Vec::new(), savepoints: Vec::new() };
    let ended = kills.iter().any(|&(p, completes, die)| job.run(p, completes, die));
    if !ended {
        assert!(job.run(3, true, i64::MAX), "the last attempt must come to its end");
    }
    assert_eq!(job.numbers(), (0..RECORDS).collect::<Vec<_>>());
    let is_kept = |n: &String| n.ends_with(".savepoint");
    assert!(names(job.dir.path()).1.iter().all(is_kept), "orphans");
    // whatever came behind it, each savepoint can be restored; what it commits may be there from another attempt as well
    for saved in &job.savepoints {
        recover(&job.sink, 100, saved).unwrap();
    }
    ended
}

#[test]
fn killed_at_any_step_nothing_is_lost_or_doubled() {
    for (parallelism, completes) in [(1, true), (2, true), (2, false)] {
        let mut steps = 0;
        while !crash(&[(parallelism, completes, steps)]) {
            steps += 1;
        }
        assert!(steps > 15, "{steps}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn killed_again_and_again_nothing_is_lost_or_doubled(kills in prop::collection::vec((1u32..4, any::<bool>(), 0i64..50), 0..8)) {
        crash(&kills);
    }
}
