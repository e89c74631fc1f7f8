//! Timers, two inputs, interval join, broadcast state, list state and asynchronous calls exactly once, from their output, over
//! kills at random places and rescales between runs; seeded.
use std::collections::BTreeMap;
use std::time::Duration;
use weir::checkpoint::handles::SnapshotKind;
use weir::checkpoint::storage::Storage;
use weir::connectors::{Collect, Generator, random};
use weir::dataflow::harness::{Harness, Setup, job};
use weir::graph::LogicalGraph;
use weir::job::{
    AnyListState, AsyncOptions, BroadcastState, KeyedBroadcastProcessFunction, KeyedCoProcessFunction,
    OperatorListState, WatermarkStrategy,
};
use weir::prelude::*;
use weir_api::config::StateConfig;

/// Key, number, event time.
type Rec = (u64, u64, i64);

const ORDERS: u64 = 20_000;
const PAYMENTS: u64 = 10_000;
const RULES: u64 = 100;
const KEYS: u64 = 30;
/// Behind the event time of every record.
const CLOSING: i64 = 1_000_000;
const LONG: Duration = Duration::from_secs(600);

/// Ten records a ms, up to 50 ms out of order.
fn order(i: u64) -> Rec {
    (i % KEYS, i, (i / 10) as i64 - (random(3, i) % 50) as i64)
}

/// The payment of every second order, a little later.
fn payment(i: u64) -> Rec {
    let (key, number, time) = order(2 * i);
    (key, number, time + (random(4, i) % 40) as i64)
}

#[derive(Default, Clone)]
struct Sinks {
    unpaid: Collect<(u64, i64)>,
    paid: Collect<u64>,
    joined: Collect<(u64, u64)>,
    called: Collect<u64>,
    ruled: Collect<(u64, u64)>,
    held: Collect<u64>,
}

/// An order that is not paid for 60 ms; what is paid in time is emitted with the payment.
struct Payments {
    open: MapState<u64, u64, i64>,
    early: MapState<u64, u64, ()>,
    timers: Timers<u64>,
    paid: SideOutput<u64>,
}

const PAID: OutputTag<u64> = OutputTag::new("paid");
const TERM: i64 = 60;

impl KeyedCoProcessFunction for Payments {
    type Key = u64;
    type In1 = Rec;
    type In2 = Rec;
    type Out = (u64, i64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.open, &mut self.early, &mut self.timers]
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.paid]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, order: &Rec, out: &mut Output<Self::Out>) -> Result<()> {
        if self.early.remove(key, &order.1).is_some() {
            out.push_to(&mut self.paid, order.1);
        } else {
            self.open.put(key, order.1, order.2);
            self.timers.register_event_time(key, order.2 + TERM);
        }
        Ok(())
    }
    fn process2(&mut self, key: &KeyRef<'_, u64>, payment: &Rec, out: &mut Output<Self::Out>) -> Result<()> {
        if self.open.remove(key, &payment.1).is_some() {
            out.push_to(&mut self.paid, payment.1);
        } else {
            self.early.put(key, payment.1, ());
        }
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<Self::Out>) -> Result<()> {
        let due = |(number, time): (&u64, &i64)| (*time + TERM <= timer.timestamp).then_some((*number, *time));
        let late: Vec<_> = self.open.iter(key).filter_map(due).collect();
        for (number, time) in late {
            self.open.remove(key, &number);
            out.push((number, time));
        }
        Ok(())
    }
}

/// Holds the orders back until event time has ended, then emits each with the number of rules.
struct Ruled {
    orders: ListState<u64, u64>,
    timers: Timers<u64>,
}

impl KeyedBroadcastProcessFunction for Ruled {
    type Key = u64;
    type In = Rec;
    type Broadcast = u64;
    type Out = (u64, u64);
    type BroadcastKey = u64;
    type BroadcastValue = u64;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.orders, &mut self.timers]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process(
        &mut self,
        key: &KeyRef<'_, u64>,
        order: &Rec,
        _: &BroadcastState<u64, u64>,
        _: &mut Output<Self::Out>,
    ) -> Result<()> {
        self.orders.add(key, order.1);
        self.timers.register_event_time(key, CLOSING);
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        rule: &u64,
        rules: &mut BroadcastState<u64, u64>,
        _: &mut Output<Self::Out>,
    ) -> Result<()> {
        // one that came twice would show
        let times = rules.get(rule).copied().unwrap_or_default();
        rules.put(*rule, times + 1);
        Ok(())
    }
    fn on_timer(
        &mut self,
        key: &KeyRef<'_, u64>,
        _: &Timer,
        rules: &BroadcastState<u64, u64>,
        out: &mut Output<Self::Out>,
    ) -> Result<()> {
        let sum = rules.iter().map(|(_, times)| times).sum();
        self.orders.take(key).into_iter().for_each(|number| out.push((number, sum)));
        Ok(())
    }
}

/// Holds records back, some for several snapshots, the last ones until the end.
struct Hold(OperatorListState<u64>);

impl ProcessFunction for Hold {
    type In = u64;
    type Out = u64;
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        vec![&mut self.0]
    }
    fn process(&mut self, record: u64, out: &mut Output<u64>) -> Result<()> {
        self.0.add(record);
        if self.0.get().len() >= 700 {
            self.0.take().into_iter().for_each(|r| out.push(r));
        }
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<u64>) -> Result<()> {
        self.0.take().into_iter().for_each(|r| out.push(r));
        Ok(())
    }
}

/// Answers after a while, in another order than asked.
async fn call(order: Rec) -> anyhow::Result<Vec<u64>> {
    for _ in 0..random(5, order.1) % 20 {
        tokio::task::yield_now().await;
    }
    Ok(vec![order.1])
}

fn declare(sinks: &Sinks) -> LogicalGraph {
    let mut job = Job::default();
    let by =
        |bound| WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(bound)).timestamps(|r: &Rec| r.2);
    let orders = job.source("orders", Generator::new(ORDERS, order).rate(200_000.0)).watermarks(by(60));
    let payments = job.source("payments", Generator::new(PAYMENTS, payment).rate(100_000.0)).watermarks(by(110));
    let rules = job.source("rules", Generator::new(RULES, |i| i).rate(1_000.0)).parallelism(1);
    let (by_order, by_payment) = (orders.key_by(|r| &r.0), payments.key_by(|r| &r.0));
    let make = || Payments {
        open: MapState::new("open"),
        early: MapState::new("early"),
        timers: Timers::new("timers"),
        paid: SideOutput::new(PAID),
    };
    let unpaid = by_order.connect(&by_payment).process_function("payments of orders", make);
    unpaid.side_output(PAID).sink("paid", sinks.paid.clone());
    unpaid.sink("unpaid", sinks.unpaid.clone());
    by_order
        .interval_join(&by_payment, -5, 15)
        .process("join", |order, payment, out| out.push((order.1, payment.1)))
        .sink("joined", sinks.joined.clone());
    orders.async_io("calls", AsyncOptions::unordered(200, LONG), call).sink("called", sinks.called.clone());
    let make = || Ruled { orders: ListState::new("orders"), timers: Timers::new("timers") };
    by_order.connect_broadcast(&rules).process_function("ruled", make).sink("ruled-out", sinks.ruled.clone());
    let hold = orders.map(|r| r.1).rebalance().process(|| Hold(OperatorListState::split("held"))).name("hold");
    hold.sink("held", sinks.held.clone());
    job.into_graph()
}

/// Runs the job to its end, killed `kills` times; each run keeps its state where `backend` says.
async fn run(seed: u64, kills: u64, backend: impl Fn(u64) -> StateConfig) -> Sinks {
    let mut dice = 0;
    let mut roll = |n: u64| {
        dice += 1;
        random(seed, dice) % n
    };
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&format!("file://{}", folder.path().display()), &job()).unwrap();
    let sinks = Sinks::default();
    let parallelism = 1 + roll(3) as u32;
    let setup = Setup { storage: Some(storage), state: backend(seed), ..Setup::new(parallelism) };
    let mut harness = Harness::start_with(declare(&sinks), setup).await.unwrap();
    for kill in 1..=kills {
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
        harness.keep_state_in(backend(seed + kill));
        harness = harness.restore(&last.unwrap(), declare(&sinks), parallelism).await.unwrap();
    }
    harness.finish().await.unwrap();
    sinks
}

fn sorted<T: Data + Ord>(sink: &Collect<T>) -> Vec<T> {
    let mut all = sink.records();
    all.sort();
    all
}

fn naive_join() -> Vec<(u64, u64)> {
    let mut payments: BTreeMap<u64, Vec<Rec>> = BTreeMap::new();
    (0..PAYMENTS).map(payment).for_each(|p| payments.entry(p.0).or_default().push(p));
    let within =
        |o: Rec| payments[&o.0].iter().filter(move |p| (-5..=15).contains(&(p.2 - o.2))).map(move |p| (o.1, p.1));
    let mut all: Vec<_> = (0..ORDERS).map(order).filter(|o| payments.contains_key(&o.0)).flat_map(within).collect();
    all.sort();
    all
}

fn check(seed: u64, sinks: &Sinks, joined: &[(u64, u64)]) {
    let orders: Vec<u64> = (0..ORDERS).collect();
    // every order once: paid or not; those without a payment never are
    let (paid, unpaid) = (sorted(&sinks.paid), sorted(&sinks.unpaid));
    assert!(unpaid.iter().all(|(n, t)| order(*n).2 == *t), "seed {seed}");
    let mut all: Vec<u64> = paid.iter().copied().chain(unpaid.iter().map(|u| u.0)).collect();
    all.sort_unstable();
    assert!(all == orders, "seed {seed}: {} paid, {} unpaid", paid.len(), unpaid.len());
    assert!(paid.iter().all(|n| n % 2 == 0), "seed {seed}");
    assert!(sorted(&sinks.joined) == joined, "seed {seed}: {} pairs of {}", sinks.joined.len(), joined.len());
    assert!(sorted(&sinks.called) == orders, "seed {seed}: {} calls", sinks.called.len());
    assert!(sorted(&sinks.held) == orders, "seed {seed}: {} held", sinks.held.len());
    let ruled: Vec<_> = orders.iter().map(|n| (*n, RULES)).collect();
    assert!(sorted(&sinks.ruled) == ruled, "seed {seed}: {} ruled", sinks.ruled.len());
}

/// `WEIR_SEEDS=200` runs more.
#[test]
fn functions_with_timers_and_two_inputs_do_everything_once_whatever_was_killed() {
    let seeds = std::env::var("WEIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(6);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let joined = naive_join();
    for seed in 0..seeds {
        let sinks = runtime.block_on(run(seed, 1 + seed % 4, |_| StateConfig::default()));
        check(seed, &sinks, &joined);
    }
}

/// The same with the state backend RocksDb, whose tables may hold hardly anything; every other seed changes the backend with each
/// run. `WEIR_SEEDS=200` runs more.
#[cfg(feature = "rocksdb")]
#[test]
fn with_the_state_on_disk_and_hardly_any_memory_it_is_the_same() {
    use weir_api::config::StateBackend::{Hashmap, RocksDb};
    weir::state::store::limit_objects(20_000);
    let seeds = std::env::var("WEIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4u64);
    // a task may wait for the uploader, which has a thread of its own in a taskmanager, and shares them here
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(12).enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let joined = naive_join();
    for seed in 0..seeds {
        let backend = |run: u64| StateConfig {
            backend: if seed.is_multiple_of(2) || run.is_multiple_of(2) { RocksDb } else { Hashmap },
            memory_mib: Some(512),
            directory: Some(folder.path().display().to_string()),
            ..StateConfig::default()
        };
        let sinks = runtime.block_on(run(seed, 1 + seed % 4, backend));
        check(seed, &sinks, &joined);
    }
}
