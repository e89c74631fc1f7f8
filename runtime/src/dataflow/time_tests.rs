//! Event time through whole graphs in one process: timestamps, timers, side outputs, two inputs; over restores at another
//! parallelism, too.
use super::harness::{Harness, Setup, job};
use super::{Clock, OutputTag, SideOutput};
use crate::checkpoint::handles::SnapshotKind;
use crate::checkpoint::storage::Storage;
use crate::connectors::{Collect, Generator};
use crate::dataflow::{AnySideOutput, Output};
use crate::error::{ErrorCode, Result};
use crate::graph::LogicalGraph;
use crate::job::*;
use crate::state::{KeyRef, KeyedTable, ListState, ValueState};
use crate::testing::TestSource;
use std::collections::BTreeSet;
use std::time::Duration;

const N: u64 = 20_000;

/// Event time of record `i`: goes up by 10 ms for each, with some disorder.
fn time(i: u64) -> i64 {
    (10 * i + 73 * (i % 7)) as i64
}

fn strategy<T: 'static>(
    f: impl Fn(&T) -> i64 + Clone + Send + Sync + 'static,
) -> WatermarkStrategy<impl GeneratorFactory<T>, impl TimestampAssigner<T>> {
    WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(500)).timestamps(f)
}

fn sorted<T: Ord + crate::data::Data>(sink: &Collect<T>) -> Vec<T> {
    let mut all = sink.records();
    all.sort();
    all
}

fn graph(declare: impl FnOnce(&mut Job)) -> LogicalGraph {
    let mut job = Job::default();
    declare(&mut job);
    job.into_graph()
}

fn block_on<R>(run: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run)
}

fn run(parallelism: u32, declare: impl FnOnce(&mut Job)) -> Result<()> {
    block_on(async { Harness::start(graph(declare), parallelism).await?.finish().await })
}

/// Runs the job with a checkpoint and a restore at another parallelism in the middle of it.
fn run_restored(from: u32, to: u32, declare: impl Fn(&mut Job)) {
    let dir = tempfile::tempdir().unwrap();
    let storage = Storage::open(&format!("file://{}", dir.path().display()), &job()).unwrap();
    let setup = Setup { storage: Some(storage), ..Setup::new(from) };
    block_on(async {
        let mut harness = Harness::start_with(graph(&declare), setup).await.unwrap();
        let (first, _) = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
        harness.complete(first);
        let snapshot = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
        harness.complete(snapshot.0);
        harness.restore(&snapshot, graph(&declare), to).await.unwrap().finish().await.unwrap();
    });
}

struct Times;
impl ProcessFunction for Times {
    type In = u64;
    type Out = (u64, i64);
    fn process(&mut self, record: u64, out: &mut Output<(u64, i64)>) -> Result<()> {
        let t = out.timestamp().expect("a timestamp");
        out.push((record, t));
        Ok(())
    }
}

/// Emits what it gets with the timestamp that it came with.
struct KeyedTimes(ValueState<u64, u64>);
impl KeyedProcessFunction for KeyedTimes {
    type Key = u64;
    type In = (u64, i64);
    type Out = (u64, i64, i64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn process(&mut self, _: &KeyRef<'_, u64>, r: &(u64, i64), out: &mut Output<Self::Out>) -> Result<()> {
        let t = out.timestamp().expect("a timestamp");
        out.push((r.0, r.1, t));
        Ok(())
    }
}

#[test]
fn every_operator_hands_the_timestamp_on() {
    for p in 1..=3 {
        let sink = Collect::new();
        let to = sink.clone();
        run(p, move |job| {
            job.source("numbers", Generator::new(N, |i| i))
                .watermarks(strategy(|i| time(*i)))
                .map(|i| i + 1)
                .filter(|i| i % 3 > 0)
                .rebalance()
                .flat_map(|i, out| (0..i % 3).for_each(|_| out.push(i - 1)))
                .inspect(|_| ())
                .process(|| Times)
                .key_by(|r| &r.0)
                .reduce("last", |a, b| *a = b)
                .key_by(|r| &r.0)
                .process::<u64, _>("count", |n, r, out| {
                    *n += 1;
                    out.push(r);
                })
                .key_by(|r| &r.0)
                .process_function("times", || KeyedTimes(ValueState::new("unused")))
                .sink("out", to);
        })
        .unwrap();
        let expected: Vec<_> = (0..N).flat_map(|i| vec![(i, time(i), time(i)); ((i + 1) % 3) as usize]).collect();
        assert!(sorted(&sink) == expected, "parallelism {p}");
    }
}

#[test]
fn a_union_of_streams_with_and_without_event_time_keeps_each_as_it_is() {
    struct Maybe;
    impl ProcessFunction for Maybe {
        type In = u64;
        type Out = (u64, Option<i64>);
        fn process(&mut self, record: u64, out: &mut Output<Self::Out>) -> Result<()> {
            let t = out.timestamp();
            out.push((record, t));
            Ok(())
        }
    }
    let sink = Collect::new();
    let to = sink.clone();
    run(2, move |job| {
        let timed = job.source("timed", Generator::new(N, |i| i)).watermarks(strategy(|i| time(*i)));
        let plain = job.source("plain", Generator::new(N, |i| N + i));
        let keyed = timed.union(&plain).key_by(|i| i).reduce("last", |a, b| *a = b);
        keyed.process(|| Maybe).sink("out", to);
    })
    .unwrap();
    let expected: Vec<_> = (0..2 * N).map(|i| (i, (i < N).then(|| time(i)))).collect();
    assert!(sorted(&sink) == expected);
}

/// Fires `delay` ms after each record, once per key and time; counts the records of the key so far.
struct Delayed {
    seen: ListState<u64, i64>,
    timers: Timers<u64>,
}

impl Delayed {
    fn new() -> Self {
        Self { seen: ListState::new("seen"), timers: Timers::new("timers") }
    }
}

impl KeyedProcessFunction for Delayed {
    type Key = u64;
    type In = (u64, i64);
    type Out = (u64, i64, bool);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.seen, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, r: &(u64, i64), _: &mut Output<Self::Out>) -> Result<()> {
        self.seen.add(key, r.1);
        // every other one is taken back, and every one is registered twice
        for _ in 0..2 {
            self.timers.register_event_time(key, r.1 + 1000);
        }
        if r.1 % 2 == 1 {
            self.timers.delete_event_time(key, r.1 + 1000);
        }
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<Self::Out>) -> Result<()> {
        assert_eq!(out.timestamp(), Some(timer.timestamp));
        // all records up to the timer's time are there: the watermark has passed it
        let complete = self.seen.get(key).contains(&(timer.timestamp - 1000));
        out.push((*key.key, timer.timestamp, complete && self.timers.watermark() >= timer.timestamp));
        Ok(())
    }
}

fn delayed(job: &mut Job, to: Collect<(u64, i64, bool)>, rate: Option<f64>) {
    job.source("numbers", Generator::new(N, |i| (i % 97, time(i))).rate(rate))
        .watermarks(strategy(|r: &(u64, i64)| r.1))
        .key_by(|r| &r.0)
        .process_function("delayed", Delayed::new)
        .sink("out", to);
}

fn delayed_expected() -> Vec<(u64, i64, bool)> {
    let all: BTreeSet<_> = (0..N).filter(|&i| time(i) % 2 == 0).map(|i| (i % 97, time(i) + 1000, true)).collect();
    all.into_iter().collect()
}

#[test]
fn event_time_timers_fire_once_each_when_event_time_has_come() {
    for p in [1, 3] {
        let sink = Collect::new();
        run(p, |job| delayed(job, sink.clone(), None)).unwrap();
        assert!(sorted(&sink) == delayed_expected(), "parallelism {p}");
    }
}

#[test]
fn no_timer_is_lost_or_fired_twice_over_a_restore_at_another_parallelism() {
    for (from, to) in [(2, 3), (3, 1), (1, 2)] {
        let sink = Collect::new();
        // slow enough that the restore falls into the middle
        run_restored(from, to, |job| delayed(job, sink.clone(), Some(100_000.0)));
        assert!(sorted(&sink) == delayed_expected(), "from {from} to {to}");
    }
}

#[test]
fn timers_that_are_not_listed_as_state_are_refused() {
    struct Forgets(Timers<u64>);
    impl KeyedProcessFunction for Forgets {
        type Key = u64;
        type In = u64;
        type Out = u64;
        fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
            Vec::new()
        }
        fn timers(&mut self) -> Option<&mut Timers<u64>> {
            Some(&mut self.0)
        }
        fn process(&mut self, _: &KeyRef<'_, u64>, _: &u64, _: &mut Output<u64>) -> Result<()> {
            Ok(())
        }
    }
    let e = run(1, |job| {
        let keyed = job.source("numbers", Generator::new(1, |i| i)).key_by(|i| i);
        keyed.process_function("forgets", || Forgets(Timers::new("timers"))).sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.code == ErrorCode::Graph && e.message.contains("states()"), "{e}");
}

#[test]
fn a_processing_time_timer_fires_when_the_clock_has_come() {
    const REGISTERED: (u64, i64, Option<i64>) = (1, 0, None);
    struct Wake(Timers<u64>, std::sync::mpsc::Sender<(u64, i64, Option<i64>)>);
    impl KeyedProcessFunction for Wake {
        type Key = u64;
        type In = u64;
        type Out = u64;
        fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
            vec![&mut self.0]
        }
        fn timers(&mut self) -> Option<&mut Timers<u64>> {
            Some(&mut self.0)
        }
        fn process(&mut self, key: &KeyRef<'_, u64>, record: &u64, _: &mut Output<u64>) -> Result<()> {
            let now = self.0.processing_time();
            // one that lies in the past fires at once
            self.0.register_processing_time(key, if *record == 0 { now - 5 } else { now + 20 });
            if *record == 1 {
                self.1.send(REGISTERED).unwrap();
            }
            Ok(())
        }
        fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<u64>) -> Result<()> {
            self.1.send((*key.key, timer.timestamp, out.timestamp())).unwrap();
            Ok(())
        }
    }
    for p in [1, 2] {
        let (fired, log) = std::sync::mpsc::channel();
        let clock = Clock::manual(1000);
        let setup = Setup { clock: clock.clone(), ..Setup::new(p) };
        block_on(async {
            let graph = graph(move |job| {
                let keyed = job.source("numbers", Generator::new(2, |i| i)).key_by(|i| i);
                let fired = std::sync::Mutex::new(fired);
                let make = move || Wake(Timers::new("timers"), fired.lock().unwrap().clone());
                keyed.process_function("wake", make).sink("out", Collect::new());
            });
            let harness = Harness::start_with(graph, setup).await.unwrap();
            let log = std::sync::Arc::new(std::sync::Mutex::new(log));
            let next = || {
                let log = log.clone();
                tokio::task::spawn_blocking(move || log.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap())
            };
            // the clock moves when both have registered
            let mut before = [next().await.unwrap(), next().await.unwrap()];
            before.sort();
            assert_eq!(before, [(0, 995, None), REGISTERED]);
            clock.set(2000);
            assert_eq!(next().await.unwrap(), (1, 1020, None));
            harness.finish().await.unwrap();
        });
    }
}

const ODD: OutputTag<(u64, i64)> = OutputTag::new("odd");

struct Split(SideOutput<(u64, i64)>);
impl ProcessFunction for Split {
    type In = u64;
    type Out = u64;
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.0]
    }
    fn process(&mut self, record: u64, out: &mut Output<u64>) -> Result<()> {
        match record % 2 {
            0 => out.push(record),
            _ => out.push_to(&mut self.0, (record, time(record))),
        }
        Ok(())
    }
}

#[test]
fn a_side_output_is_a_stream_of_its_own_with_event_time() {
    for p in [1, 2] {
        let (even, odd) = (Collect::new(), Collect::new());
        let (to_even, to_odd) = (even.clone(), odd.clone());
        run(p, move |job| {
            let numbers = job.source("numbers", Generator::new(N, |i| i)).watermarks(strategy(|i| time(*i)));
            let main = numbers.process(|| Split(SideOutput::new(ODD)));
            main.sink("even", to_even);
            // one consumer in the chain, one behind an exchange
            let side = main.side_output(ODD);
            side.map(|r| r.0).filter(|_| false).sink("none", Collect::new());
            side.key_by(|r| &r.0)
                .process_function("times", || KeyedTimes(ValueState::new("unused")))
                .sink("odd", to_odd);
        })
        .unwrap();
        assert!(sorted(&even) == (0..N).step_by(2).collect::<Vec<_>>(), "parallelism {p}");
        let expected: Vec<_> = (1..N).step_by(2).map(|i| (i, time(i), time(i))).collect();
        assert!(sorted(&odd) == expected, "parallelism {p}");
    }
}

#[test]
fn a_side_output_that_is_not_there_is_a_clear_error() {
    let e = run(1, |job| {
        let numbers = job.source("numbers", Generator::new(N, |i| i));
        numbers.side_output(OutputTag::<u64>::new("late")).sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.code == ErrorCode::Graph && e.message.contains("late"), "{e}");
    let e = run(1, |job| {
        let numbers = job.source("numbers", Generator::new(N, |i| i)).process(|| Split(SideOutput::new(ODD)));
        numbers.side_output(OutputTag::<u64>::new("odd")).sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.code == ErrorCode::Graph && e.message.contains("u64"), "{e}");
}

/// Pairs the records of both inputs by key, each with what came from the other side before it, and at the end of event time
/// emits how many there were.
struct Counts {
    left: ValueState<u64, u64>,
    right: ValueState<u64, u64>,
    timers: Timers<u64>,
}
impl KeyedCoProcessFunction for Counts {
    type Key = u64;
    type In1 = (u64, i64);
    type In2 = u64;
    type Out = (u64, u64, u64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.left, &mut self.right, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, r: &(u64, i64), out: &mut Output<Self::Out>) -> Result<()> {
        assert_eq!(out.timestamp(), Some(r.1));
        *self.left.get_mut_or_default(key) += 1;
        self.timers.register_event_time(key, 1_000_000_000);
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, u64>, r: &u64, out: &mut Output<Self::Out>) -> Result<()> {
        assert_eq!(out.timestamp(), Some(time(*r)));
        *self.right.get_mut_or_default(key) += 1;
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, _: &Timer, out: &mut Output<Self::Out>) -> Result<()> {
        let count = |s: &ValueState<u64, u64>| s.get(key).copied().unwrap_or_default();
        out.push((*key.key, count(&self.left), count(&self.right)));
        Ok(())
    }
}

#[test]
fn two_keyed_streams_share_the_state_of_a_key_over_a_restore() {
    for (from, to) in [(1, 1), (2, 3), (3, 2)] {
        let sink = Collect::new();
        run_restored(from, to, |job| {
            let left = job.source("left", Generator::new(N, |i| (i % 50, time(i))).rate(100_000.0));
            let right = job.source("right", Generator::new(N / 2, |i| i).rate(50_000.0)).parallelism(1);
            let left = left.watermarks(strategy(|r: &(u64, i64)| r.1)).key_by(|r| &r.0);
            let right = right.watermarks(strategy(|i| time(*i))).key_by_value(|i| i % 50);
            let make = || Counts {
                left: ValueState::new("left"),
                right: ValueState::new("right"),
                timers: Timers::new("timers"),
            };
            left.connect(&right).process_function("counts", make).sink("out", sink.clone());
        });
        let expected: Vec<_> = (0..50).map(|k| (k, N / 50, N / 100)).collect();
        assert_eq!(sorted(&sink), expected, "from {from} to {to}");
    }
}

/// Emits each record whose key no rule has blocked; rules come first.
struct Blocked;
impl KeyedBroadcastProcessFunction for Blocked {
    type Key = u64;
    type In = u64;
    type Broadcast = u64;
    type Out = (u64, u64);
    type BroadcastKey = u64;
    type BroadcastValue = ();
    fn process(
        &mut self,
        _: &KeyRef<'_, u64>,
        record: &u64,
        rules: &BroadcastState<u64, ()>,
        out: &mut Output<Self::Out>,
    ) -> Result<()> {
        // before the first checkpoint the rules are all there; after a restore they must be, in every subtask
        out.push((*record, rules.iter().map(|r| *r.0).max().unwrap_or_default()));
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        record: &u64,
        rules: &mut BroadcastState<u64, ()>,
        _: &mut Output<Self::Out>,
    ) -> Result<()> {
        rules.put(*record, ());
        if rules.len() > 10 {
            rules.remove(&(*record - 10));
        }
        Ok(())
    }
}

#[test]
fn broadcast_state_is_the_same_in_every_subtask_and_survives_a_restore() {
    for (from, to) in [(2, 4), (3, 1)] {
        let sink = Collect::new();
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(&format!("file://{}", dir.path().display()), &job()).unwrap();
        // the first attempt reads the rules only: what the second one knows comes from the snapshot
        let declare = |records: u64, sink: &Collect<(u64, u64)>| {
            graph(|job| {
                let rules = job.source("rules", Generator::new(500, |i| i)).parallelism(1);
                let empty = job.source("records", Generator::new(0, |i| i));
                let records = match records {
                    0 => empty,
                    n => empty.union(&job.source("more", Generator::new(n, |i| i))),
                };
                records
                    .key_by(|i| i)
                    .connect_broadcast(&rules)
                    .process_function("blocked", || Blocked)
                    .sink("out", sink.clone());
            })
        };
        block_on(async {
            let setup = Setup { storage: Some(storage), ..Setup::new(from) };
            let mut first = Harness::start_with(declare(0, &Collect::new()), setup).await.unwrap();
            first.sources_ended().await.unwrap();
            let snapshot = first.snapshot(SnapshotKind::Checkpoint).await.unwrap();
            let lists: Vec<usize> = snapshot
                .1
                .values()
                .flat_map(|t| t.operators.get("blocked"))
                .map(|o| o.lists["weir.broadcast"].len())
                .collect();
            assert_eq!(lists, vec![10; from as usize]);
            let second = first.restore(&snapshot, declare(1000, &sink), to).await.unwrap();
            second.finish().await.unwrap();
        });
        assert!(sorted(&sink) == (0..1000).map(|i| (i, 499)).collect::<Vec<_>>(), "from {from} to {to}");
    }
}

/// Holds every record back until the end of the input.
struct Hold {
    held: OperatorListState<u64>,
    seen: OperatorListState<u64>,
    before: usize,
}
impl ProcessFunction for Hold {
    type In = u64;
    type Out = (u64, bool);
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        vec![&mut self.held, &mut self.seen]
    }
    fn open(&mut self, _: &RuntimeContext) -> Result<()> {
        // of the union list every subtask gets what all had seen
        self.before = self.seen.take().len();
        Ok(())
    }
    fn process(&mut self, record: u64, _: &mut Output<Self::Out>) -> Result<()> {
        self.held.add(record);
        Ok(())
    }
    fn snapshot(&mut self) -> Result<()> {
        self.seen.update(self.held.get().to_vec());
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<Self::Out>) -> Result<()> {
        // the first snapshot was taken behind the whole input
        self.held.take().into_iter().for_each(|r| out.push((r, self.before == 1000)));
        Ok(())
    }
}

#[test]
fn list_state_is_dealt_out_anew_and_union_lists_go_to_all() {
    for (from, to) in [(1, 1), (2, 3), (3, 2)] {
        let sink = Collect::new();
        // held back while this input is open
        let open = TestSource::new();
        let declare = |to: &Collect<(u64, bool)>| {
            graph(|job| {
                let make = || Hold {
                    held: OperatorListState::split("held"),
                    seen: OperatorListState::union("seen"),
                    before: 0,
                };
                let numbers = job.source("numbers", Generator::new(1000, |i| i)).rebalance();
                let open = job.source("open", open.clone()).parallelism(1).rebalance();
                numbers.union(&open).process(make).name("hold").sink("out", to.clone());
            })
        };
        block_on(async {
            let mut first = Harness::start(declare(&Collect::new()), from).await.unwrap();
            let snapshot = loop {
                let snapshot = first.snapshot(SnapshotKind::Checkpoint).await.unwrap();
                let hold = snapshot.1.values().flat_map(|t| t.operators.get("hold"));
                if hold.flat_map(|o| &o.lists["weir.list.held"]).count() == 1000 {
                    break snapshot;
                }
            };
            open.end();
            first.restore(&snapshot, declare(&sink), to).await.unwrap().finish().await.unwrap();
        });
        assert!(sorted(&sink) == (0..1000).map(|i| (i, true)).collect::<Vec<_>>(), "from {from} to {to}");
    }
    let e = run(1, |job| {
        let make =
            || Hold { held: OperatorListState::split("held"), seen: OperatorListState::union("seen"), before: 0 };
        job.source("numbers", Generator::new(1, |i| i)).process(make).sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.message.contains("keeps state and has no name"), "{e}");
}

#[test]
fn an_interval_join_finds_exactly_the_pairs_within_the_bounds() {
    const M: u64 = 3000;
    let right_time = |i: u64| time(i) + 5;
    for (lower, upper) in [(-40, 60), (0, 100), (-100, -20), (15, 15)] {
        let mut expected = Vec::new();
        for a in 0..M {
            for b in a.saturating_sub(60)..(a + 60).min(M) {
                let d = right_time(b) - time(a);
                if a % 5 == b % 5 && d >= lower && d <= upper {
                    expected.push((a, b, time(a).max(right_time(b))));
                }
            }
        }
        expected.sort();
        for (from, to) in [(1, 2), (3, 1)] {
            let sink = Collect::new();
            run_restored(from, to, |job| {
                let left = job.source("left", Generator::new(M, |i| i).rate(30_000.0));
                let right = job.source("right", Generator::new(M, |i| i).rate(30_000.0));
                let left = left.watermarks(strategy(|i| time(*i))).key_by_value(|i| i % 5);
                let right = right.watermarks(strategy(move |i| right_time(*i))).key_by_value(|i| i % 5);
                left.interval_join(&right, lower, upper)
                    .process("join", |a, b, out| {
                        let t = out.timestamp().expect("a timestamp");
                        out.push((*a, *b, t));
                    })
                    .sink("out", sink.clone());
            });
            assert!(sorted(&sink) == expected, "{lower} to {upper}, parallelism {from} to {to}");
        }
    }
}
