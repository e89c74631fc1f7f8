//! Windows exactly once, from their output, over kills at random places and rescales between runs; seeded.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weir::checkpoint::handles::SnapshotKind;
use weir::checkpoint::storage::Storage;
use weir::connectors::{Collect, Generator, random};
use weir::dataflow::OutputTag;
use weir::dataflow::harness::{Harness, Setup, job};
use weir::graph::LogicalGraph;
use weir::job::window::{Session, TimeWindow, Tumbling};
use weir::job::{Job, WatermarkStrategy};

/// Key, number, event time.
type Rec = (u64, u64, i64);
/// Key, start and end of the window, the numbers in it.
type Row = (u64, i64, i64, Vec<u64>);

const RECORDS: u64 = 40_000;
const KEYS: u64 = 25;
const GAP: i64 = 40;
const LATE: OutputTag<Rec> = OutputTag::new("late");

/// Ten records a ms, most of them up to 120 ms out of order, some a second: those are late.
fn record(i: u64) -> Rec {
    let r = random(11, i);
    let delay = if r.is_multiple_of(50) { (r >> 8) % 1_000 } else { (r >> 8) % 120 };
    (r % KEYS, i, (i / 10) as i64 - delay as i64)
}

fn row(key: &u64, window: &TimeWindow, records: &[Rec]) -> Row {
    let mut numbers: Vec<u64> = records.iter().map(|r| r.1).collect();
    numbers.sort_unstable();
    (*key, window.start, window.end, numbers)
}

#[derive(Default, Clone)]
struct Sinks {
    windows: Collect<Row>,
    late: Collect<Rec>,
    sessions: Collect<Row>,
}

fn declare(sinks: &Sinks) -> LogicalGraph {
    let mut job = Job::default();
    let source = job.source("records", Generator::new(RECORDS, record).rate(400_000.0));
    let by =
        |bound| WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(bound)).timestamps(|r: &Rec| r.2);
    let windows = source
        .watermarks(by(60))
        .key_by(|r| &r.0)
        .window(Tumbling::of(Duration::from_millis(100)))
        .allowed_lateness(Duration::from_millis(150))
        .late_output(LATE)
        .process("windows", |key, window, records: &[Rec], out| out.push(row(key, window, records)));
    windows.side_output(LATE).sink("late", sinks.late.clone());
    windows.sink("windows-out", sinks.windows.clone());
    source
        .watermarks(by(1_100))
        .key_by(|r| &r.0)
        .window(Session::with_gap(Duration::from_millis(GAP as u64)))
        .process("sessions", |key, window, records: &[Rec], out| out.push(row(key, window, records)))
        .sink("sessions-out", sinks.sessions.clone());
    job.into_graph()
}

/// Runs the job to its end, killed `kills` times.
async fn run(seed: u64, kills: u64) -> Sinks {
    let mut dice = 0;
    let mut roll = |n: u64| {
        dice += 1;
        random(seed, dice) % n
    };
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&format!("file://{}", folder.path().display()), &job()).unwrap();
    let sinks = Sinks::default();
    let parallelism = 1 + roll(3) as u32;
    let setup = Setup { parallelism, attempt: 1, storage: Some(storage), ..Setup::new(parallelism) };
    let mut harness = Harness::start_with(declare(&sinks), setup).await.unwrap();
    for _ in 0..kills {
        let mut last = None;
        for _ in 0..=roll(4) {
            let snapshot = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
            match roll(4) {
                0 if last.is_some() => harness.abort(snapshot.0),
                // complete, but killed before anybody hears of it: the next attempt must commit
                1 => {
                    last = Some(snapshot);
                    break;
                }
                _ => {
                    harness.complete(snapshot.0);
                    last = Some(snapshot);
                }
            }
        }
        let parallelism = 1 + roll(3) as u32;
        harness = harness.restore(&last.unwrap(), declare(&sinks), parallelism).await.unwrap();
    }
    harness.finish().await.unwrap();
    sinks
}

fn naive_sessions() -> BTreeSet<Row> {
    let mut all: Vec<Rec> = (0..RECORDS).map(record).collect();
    all.sort_by_key(|r| (r.0, r.2));
    let rows = all.chunk_by(|a, b| a.0 == b.0 && b.2 - a.2 <= GAP);
    rows.map(|r| row(&r[0].0, &TimeWindow { start: r[0].2, end: r[r.len() - 1].2 + GAP }, r)).collect()
}

/// The number of late records: none where watermarks have hardly come on between the kills.
fn check(seed: u64, sinks: &Sinks) -> usize {
    let mut last: BTreeMap<(u64, i64), Vec<u64>> = BTreeMap::new();
    let mut rows = sinks.windows.records();
    rows.sort_by_key(|r| (r.0, r.1, r.3.len()));
    for (key, start, _, numbers) in rows {
        if let Some(before) = last.insert((key, start), numbers.clone()) {
            let grown = before.len() < numbers.len() && before.iter().all(|n| numbers.binary_search(n).is_ok());
            assert!(grown, "seed {seed}: key {key}, window {start}: {before:?}, then {numbers:?}");
        }
    }
    for ((key, start), numbers) in &last {
        for &n in numbers {
            let (k, _, t) = record(n);
            assert!(k == *key && (*start..start + 100).contains(&t), "seed {seed}: {n} in the window {start} of {key}");
        }
    }
    let late = sinks.late.records();
    let mut seen: Vec<u64> = last.into_values().flatten().chain(late.iter().map(|r| r.1)).collect();
    seen.sort_unstable();
    assert_eq!(seen.len() as u64, RECORDS, "seed {seed}");
    assert!((0..).zip(&seen).all(|(n, s)| n == *s), "seed {seed}: a record is missing, or there twice");
    let sessions = sinks.sessions.records();
    assert_eq!(sessions.len(), naive_sessions().len(), "seed {seed}");
    assert_eq!(BTreeSet::from_iter(sessions), naive_sessions(), "seed {seed}");
    late.len()
}

/// `WEIR_SEEDS=200` runs more.
#[test]
fn each_record_is_in_one_window_or_late_once_whatever_was_killed() {
    let seeds = std::env::var("WEIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut late = 0;
    for seed in 0..seeds {
        let sinks = runtime.block_on(run(seed, 1 + seed % 4));
        late += check(seed, &sinks);
    }
    assert!(late > 0, "the input has late records");
}
