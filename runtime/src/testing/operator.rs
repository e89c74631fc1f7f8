//! A harness for operators: push records and watermarks, set the clock, look at outputs and state, snapshot, restore.
use super::activity::Activity;
use super::input::TestSource;
use super::keep::{Marks, Shelf};
use crate::checkpoint::handles::SnapshotKind;
use crate::checkpoint::storage::Storage;
use crate::data::{Data, Key};
use crate::dataflow::deploy::FileReader;
use crate::dataflow::factory::TypeOf;
use crate::dataflow::harness::{self, Harness, Setup};
use crate::dataflow::{Clock, OutputTag};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{LogicalGraph, NodeKind};
use crate::job::{AnyListState, BroadcastState, Job, OperatorListState, Stream};
use crate::state::KeyedTable;
use crate::state::file::{self, NotDeclared, ReadAt};
use crate::taskmanager::upload::StorageFiles;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Name of the main output.
const OUTPUT: &str = "output";
/// How long a harness waits for what comes from outside: calls to other systems.
const PATIENCE: Duration = Duration::from_secs(120);

/// A snapshot that a harness took.
#[derive(Debug, Clone)]
pub struct TestSnapshot {
    snapshot: harness::Snapshot,
    /// What had been emitted before it.
    emitted: Marks,
}

/// What tests do with operators, whatever their inputs: reached from [`OperatorHarness`] and [`TwoInputHarness`].
pub struct Operators<U> {
    runtime: Option<Runtime>,
    harness: Option<Harness>,
    /// The graph that runs, for its names and types.
    names: Names,
    activity: Activity,
    clock: Clock,
    storage: Storage,
    shelf: Shelf,
    failed: Option<Error>,
    max_parallelism: u32,
    records: std::marker::PhantomData<fn() -> U>,
}

/// Names of operators, and of the side outputs that are kept.
struct Names {
    operators: Vec<String>,
    side_outputs: BTreeMap<&'static str, String>,
}

fn closed() -> Error {
    Error::user(ErrorCode::Config, "the harness has finished or failed: make a new one")
}

/// The declared graph, with something that keeps each of its outputs.
fn keep_outputs<U: Data>(job: Job, result: &Stream<U>, shelf: &Shelf) -> Result<(LogicalGraph, Names)> {
    let Some((node, output)) = result.origin() else {
        let m = "the function under test must return the stream of one operator, not a union";
        return Err(Error::user(ErrorCode::Graph, m));
    };
    let mut graph = job.into_graph();
    let operators = graph.nodes.iter().filter(|n| n.kind == NodeKind::Operator).map(|n| n.name.clone()).collect();
    let mut names = Names { operators, side_outputs: BTreeMap::new() };
    shelf.keep(&mut graph, OUTPUT, node, output, TypeOf::<U>::shared());
    for node in 0..graph.nodes.len() {
        for i in 0..graph.nodes[node].side_outputs.len() {
            let (tag, ty) = graph.nodes[node].side_outputs[i].clone();
            let name = format!("side output {tag} of {}", graph.nodes[node].name);
            shelf.keep(&mut graph, &name, node, i as u16 + 1, ty);
            names.side_outputs.insert(tag, name);
        }
    }
    Ok((graph, names))
}

impl<U: Data> Operators<U> {
    fn start(parallelism: u32, declare: impl FnOnce(&mut Job) -> Stream<U>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let broke = |e| Error::external(ErrorCode::Io, format!("cannot start the test harness: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(broke)?;
        let (activity, clock, shelf) = (Activity::default(), Clock::manual(0), Shelf::default());
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let storage = Storage::open(&format!("memory:weir-testing-{n}"), &harness::job())?;
        let mut job = Job::default();
        let result = declare(&mut job);
        let (graph, names) = keep_outputs(job, &result, &shelf)?;
        let setup = Setup {
            clock: clock.clone(),
            storage: Some(storage.clone()),
            activity: Some(activity.clone()),
            ..Setup::new(parallelism)
        };
        let harness = block_on(&runtime, Harness::start_with(graph, setup))?;
        let mut this = Self {
            runtime: Some(runtime),
            harness: Some(harness),
            names,
            activity,
            clock,
            storage,
            shelf,
            failed: None,
            max_parallelism: harness::MAX_PARALLELISM,
            records: std::marker::PhantomData,
        };
        this.settle()?;
        Ok(this)
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().ok_or_else(closed)
    }

    /// Runs all tasks until none has anything to do; an error of one is returned.
    fn settle(&mut self) -> Result<()> {
        self.settle_until(|_| true)
    }

    /// As [`Self::settle`], and then waits until this is so.
    fn settle_until(&mut self, is: impl Fn(&Self) -> bool) -> Result<()> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let activity = self.activity.clone();
        let until = std::time::Instant::now() + PATIENCE;
        loop {
            let idle = async {
                loop {
                    // one that has yielded is woken by the runtime when this one is
                    tokio::task::yield_now().await;
                    if activity.is_idle() {
                        tokio::task::yield_now().await;
                        if activity.is_idle() {
                            return;
                        }
                    }
                }
            };
            block_on(self.runtime()?, idle);
            self.check()?;
            if is(self) {
                return Ok(());
            }
            if std::time::Instant::now() > until {
                return Err(Error::internal(format!("waited in vain for {PATIENCE:?}")));
            }
            // what is waited for comes from outside
            block_on(self.runtime()?, async { tokio::time::sleep(Duration::from_millis(1)).await });
        }
    }

    fn check(&mut self) -> Result<()> {
        let checked = self.harness.as_mut().map_or(Ok(()), Harness::check);
        checked.inspect_err(|e| self.failed = Some(e.clone()))
    }

    /// Takes what the operators have emitted since the last call. In the order of emission within each subtask.
    pub fn output(&mut self) -> Result<Vec<U>> {
        Ok(self.timed_output()?.into_iter().map(|(record, _)| record).collect())
    }

    /// As [`Self::output`], with the event time (ms since the Unix epoch) of each record that has one.
    pub fn timed_output(&mut self) -> Result<Vec<(U, Option<i64>)>> {
        let foreign = || Error::internal("the output has records of another type");
        self.shelf.take(OUTPUT).ok_or_else(foreign)
    }

    /// Takes what was emitted to a side output since the last call.
    pub fn side_output<S: Data>(&mut self, tag: OutputTag<S>) -> Result<Vec<S>> {
        Ok(self.timed_side_output(tag)?.into_iter().map(|(record, _)| record).collect())
    }

    /// As [`Self::side_output`], with the event time of each record that has one.
    pub fn timed_side_output<S: Data>(&mut self, tag: OutputTag<S>) -> Result<Vec<(S, Option<i64>)>> {
        let Some(name) = self.names.side_outputs.get(tag.name()) else {
            let have: Vec<_> = self.names.side_outputs.keys().collect();
            let m = format!("no operator has a side output {:?}: there are {have:?}", tag.name());
            return Err(Error::user(ErrorCode::Graph, m));
        };
        let foreign =
            || Error::user(ErrorCode::Graph, format!("the side output {:?} has records of another type", tag.name()));
        self.shelf.take(name).ok_or_else(foreign)
    }

    /// How far event time has come behind the operators (ms since the Unix epoch), in the subtask that is last; none before
    /// the first watermark.
    pub fn watermark_out(&self) -> Option<i64> {
        self.shelf.watermark(OUTPUT)
    }

    /// Waits until there are so many records to take, of an operator that calls other systems. An error after two minutes.
    pub fn wait_for_output(&mut self, records: usize) -> Result<()> {
        self.settle_until(|this| this.shelf.len::<U>(OUTPUT) >= records)
    }

    /// Processing time is this, ms since the Unix epoch; it is 0 at first, and stands still. Due timers fire.
    pub fn set_processing_time(&mut self, now_ms: i64) -> Result<()> {
        self.clock.set(now_ms);
        self.activity.wake_all();
        self.settle()
    }

    /// Processing time, ms since the Unix epoch.
    pub fn processing_time(&self) -> i64 {
        self.clock.now_ms()
    }

    fn taken(&mut self, kind: SnapshotKind) -> Result<harness::Snapshot> {
        self.settle()?;
        let (runtime, harness) = (self.runtime.as_ref().ok_or_else(closed)?, self.harness.as_mut().ok_or_else(closed)?);
        let snapshot = block_on(runtime, harness.snapshot(kind)).inspect_err(|e| self.failed = Some(e.clone()))?;
        harness.complete(snapshot.0);
        self.settle()?;
        Ok(snapshot)
    }

    /// Takes a checkpoint, through all operators. It is complete when this returns.
    pub fn snapshot(&mut self) -> Result<TestSnapshot> {
        let snapshot = self.taken(SnapshotKind::Checkpoint)?;
        Ok(TestSnapshot { snapshot, emitted: self.shelf.marks() })
    }

    fn known(&self, operator: &str) -> Result<()> {
        if self.names.operators.iter().any(|n| n == operator) {
            return Ok(());
        }
        let m = format!("there is no operator {operator:?}: there are {}", self.names.operators.join(", "));
        Err(Error::user(ErrorCode::Graph, m))
    }

    /// The keyed state of an operator in all of its subtasks, as a savepoint taken now has it: fills `state`, which must have
    /// the name and types of the one in the function, and returns it.
    ///
    /// # Errors
    /// No such operator, or types that are not those of the state.
    pub fn state<K: Key, S: KeyedTable<K>>(&mut self, operator: &str, mut state: S) -> Result<S> {
        self.known(operator)?;
        let (_, tasks) = self.taken(SnapshotKind::Savepoint)?;
        let mut chains: Vec<Vec<Arc<dyn ReadAt>>> = Vec::new();
        let files = StorageFiles(Some(self.storage.clone()));
        for handle in tasks.values().filter_map(|t| t.operators.get(operator)).flat_map(|o| &o.keyed) {
            let open = handle.files().map(|f| files.open(f.clone()));
            chains.push(block_on(self.runtime()?, futures::future::try_join_all(open))?);
        }
        let chains: Vec<Vec<&dyn ReadAt>> = chains.iter().map(|c| c.iter().map(|f| &**f).collect()).collect();
        let chains: Vec<&[&dyn ReadAt]> = chains.iter().map(Vec::as_slice).collect();
        if state.ages() {
            state.tick(self.clock.now_ms());
        }
        let all = 0..self.max_parallelism;
        file::restore(operator, &all, self.max_parallelism, NotDeclared::Drop, &chains, &mut [&mut state])?;
        Ok(state)
    }

    fn lists(&mut self, operator: &str, name: &str) -> Result<Vec<crate::checkpoint::handles::Bytes64>> {
        self.known(operator)?;
        let (_, tasks) = self.taken(SnapshotKind::Savepoint)?;
        let lists = tasks.values().filter_map(|t| t.operators.get(operator)).filter_map(|o| o.lists.get(name));
        Ok(lists.flatten().cloned().collect())
    }

    /// The elements of an operator list state, of one subtask after the other; `state` as in [`Self::state`].
    pub fn list_state<T: Data>(&mut self, operator: &str, mut state: OperatorListState<T>) -> Result<Vec<T>> {
        let name = state.name().to_owned();
        let elements = self.lists(operator, &name)?;
        state.restore(&elements).map_err(|e| {
            let m = format!("{operator}: the list {name:?} has elements of another type: {e}");
            Error::user(ErrorCode::Incompatible, m)
        })?;
        Ok(state.take())
    }

    /// The broadcast state of an operator, of one of its subtasks.
    pub fn broadcast_state<K: Key, V: Data>(&mut self, operator: &str) -> Result<BroadcastState<K, V>> {
        let entries = self.lists(operator, crate::checkpoint::handles::BROADCAST)?;
        let mut state = BroadcastState::default();
        state.restore(&entries).map_err(|e| {
            let m = format!("{operator}: the broadcast state has entries of another type: {e}");
            Error::user(ErrorCode::Incompatible, m)
        })?;
        Ok(state)
    }

    fn finish(&mut self) -> Result<()> {
        self.settle()?;
        let harness = self.harness.take().ok_or_else(closed)?;
        let done = block_on(self.runtime()?, harness.finish());
        done.inspect_err(|e| self.failed = Some(e.clone()))
    }

    fn restored(
        mut self,
        snapshot: &TestSnapshot,
        parallelism: u32,
        declare: impl FnOnce(&mut Job) -> Stream<U>,
    ) -> Result<Self> {
        let old = self.harness.take().ok_or_else(closed)?;
        let mut job = Job::default();
        let result = declare(&mut job);
        let (graph, names) = keep_outputs(job, &result, &self.shelf)?;
        self.names = names;
        self.shelf.back_to(&snapshot.emitted);
        let restored = block_on(self.runtime()?, old.restore(&snapshot.snapshot, graph, parallelism))?;
        self.harness = Some(restored);
        self.settle()?;
        Ok(self)
    }
}

/// A thread that is in a runtime already (an `async` test) may not block on another one: a thread of its own does.
fn block_on<R: Send>(runtime: &Runtime, run: impl Future<Output = R> + Send) -> R {
    if tokio::runtime::Handle::try_current().is_err() {
        return runtime.block_on(run);
    }
    let elsewhere = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(run)).join());
    elsewhere.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl<U> Drop for Operators<U> {
    fn drop(&mut self) {
        self.harness.take();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.storage.forget();
    }
}

/// Runs what a function makes of a stream: one operator or several, `key_by` and windows included, in any number of subtasks.
/// Everything is the real thing (exchange, key groups, timers, snapshot files), driven step by step on the test's own thread:
/// when a call returns, all that follows from it has happened.
///
/// ```
/// use weir::prelude::*;
/// use weir::testing::OperatorHarness;
///
/// fn counts(words: Stream<Str>) -> Stream<(Str, u64)> {
///     words.key_by(|word| word).process("count", |n: &mut u64, word, out| {
///         *n += 1;
///         out.push((word, *n));
///     })
/// }
///
/// let mut counting = OperatorHarness::new(counts)?;
/// counting.push("to".into())?;
/// counting.push("to".into())?;
/// assert_eq!(counting.output()?, [("to".into(), 1), ("to".into(), 2)]);
///
/// let snapshot = counting.snapshot()?;
/// let mut counting = counting.restore(&snapshot, 3)?;
/// counting.push("to".into())?;
/// assert_eq!(counting.output()?, [("to".into(), 3)]);
/// let state = counting.state("count", ValueState::<Str, u64>::new("value"))?;
/// assert_eq!(state.get(&KeyRef::of(&"to".into())), Some(&3));
/// # Ok::<(), weir::Error>(())
/// ```
pub struct OperatorHarness<T, U> {
    input: TestSource<T>,
    declare: Box<dyn Fn(Stream<T>) -> Stream<U>>,
    running: Operators<U>,
}

/// As [`OperatorHarness`], for operators with two inputs: connected streams, joins, broadcast.
///
/// ```
/// use weir::prelude::*;
/// use weir::testing::TwoInputHarness;
///
/// let mut join = TwoInputHarness::new(|orders: Stream<(u64, Str)>, payments: Stream<(u64, u64)>| {
///     orders
///         .key_by(|o| &o.0)
///         .interval_join(&payments.key_by(|p| &p.0), 0, 1000)
///         .process("join", |order, payment, out| out.push((order.1.clone(), payment.1)))
/// })?;
/// join.push1_at((7, "book".into()), 100)?;
/// join.push2_at((7, 12), 600)?;
/// join.push2_at((7, 13), 1101)?;
/// assert_eq!(join.timed_output()?, [(("book".into(), 12), Some(600))]);
/// # Ok::<(), weir::Error>(())
/// ```
pub struct TwoInputHarness<A, B, U> {
    inputs: (TestSource<A>, TestSource<B>),
    declare: Box<dyn Fn(Stream<A>, Stream<B>) -> Stream<U>>,
    running: Operators<U>,
}

impl<T: Data, U: Data> OperatorHarness<T, U> {
    /// In one subtask.
    pub fn new(declare: impl Fn(Stream<T>) -> Stream<U> + 'static) -> Result<Self> {
        Self::with_parallelism(1, declare)
    }

    /// In so many subtasks. Records come to them as in a job: by key where the function keys the stream, in turn elsewhere.
    pub fn with_parallelism(parallelism: u32, declare: impl Fn(Stream<T>) -> Stream<U> + 'static) -> Result<Self> {
        let input = TestSource::new();
        let running = Operators::start(parallelism, |job| declare(source(job, "input", &input)))?;
        Ok(Self { input, declare: Box::new(declare), running })
    }

    /// Pushes a record without event time.
    pub fn push(&mut self, record: T) -> Result<()> {
        self.push_all([record])
    }

    /// Pushes records without event time, all before anything follows from them: they come in batches.
    pub fn push_all(&mut self, records: impl IntoIterator<Item = T>) -> Result<()> {
        records.into_iter().for_each(|r| self.input.push(r));
        self.running.settle()
    }

    /// Pushes a record with this event time; ms since the Unix epoch.
    pub fn push_at(&mut self, record: T, timestamp: i64) -> Result<()> {
        self.input.push_at(record, timestamp);
        self.running.settle()
    }

    /// Pushes a watermark: event time has come so far; ms since the Unix epoch.
    pub fn watermark(&mut self, watermark: i64) -> Result<()> {
        self.input.watermark(watermark);
        self.running.settle()
    }

    /// Cancels what runs and starts anew from the snapshot, in so many subtasks. The clock stays as it is. Of what was emitted
    /// and not taken, that from before the snapshot is still there.
    pub fn restore(self, snapshot: &TestSnapshot, parallelism: u32) -> Result<Self> {
        let Self { declare, running, .. } = self;
        let input = TestSource::from_now();
        let running = running.restored(snapshot, parallelism, |job| declare(source(job, "input", &input)))?;
        Ok(Self { input, declare, running })
    }

    /// Ends the input, and waits until all that was held back is out: timers of event time have fired, windows are closed,
    /// calls are answered. The output can be taken still.
    pub fn finish(&mut self) -> Result<()> {
        self.input.end();
        self.running.finish()
    }
}

impl<A: Data, B: Data, U: Data> TwoInputHarness<A, B, U> {
    /// In one subtask.
    pub fn new(declare: impl Fn(Stream<A>, Stream<B>) -> Stream<U> + 'static) -> Result<Self> {
        Self::with_parallelism(1, declare)
    }

    /// In so many subtasks.
    pub fn with_parallelism(
        parallelism: u32,
        declare: impl Fn(Stream<A>, Stream<B>) -> Stream<U> + 'static,
    ) -> Result<Self> {
        let inputs = (TestSource::new(), TestSource::new());
        let running = Operators::start(parallelism, |job| {
            let first = source(job, "input1", &inputs.0);
            declare(first, source(job, "input2", &inputs.1))
        })?;
        Ok(Self { inputs, declare: Box::new(declare), running })
    }

    /// Pushes a record without event time into the first input.
    pub fn push1(&mut self, record: A) -> Result<()> {
        self.inputs.0.push(record);
        self.running.settle()
    }

    /// Pushes a record without event time into the second input.
    pub fn push2(&mut self, record: B) -> Result<()> {
        self.inputs.1.push(record);
        self.running.settle()
    }

    /// Pushes a record with this event time (ms since the Unix epoch) into the first input.
    pub fn push1_at(&mut self, record: A, timestamp: i64) -> Result<()> {
        self.inputs.0.push_at(record, timestamp);
        self.running.settle()
    }

    /// Pushes a record with this event time (ms since the Unix epoch) into the second input.
    pub fn push2_at(&mut self, record: B, timestamp: i64) -> Result<()> {
        self.inputs.1.push_at(record, timestamp);
        self.running.settle()
    }

    /// Event time has come so far in the first input; ms since the Unix epoch. That of the operator is the lesser of both.
    pub fn watermark1(&mut self, watermark: i64) -> Result<()> {
        self.inputs.0.watermark(watermark);
        self.running.settle()
    }

    /// As [`Self::watermark1`], in the second input.
    pub fn watermark2(&mut self, watermark: i64) -> Result<()> {
        self.inputs.1.watermark(watermark);
        self.running.settle()
    }

    /// As [`Self::watermark1`], in both inputs.
    pub fn watermark(&mut self, watermark: i64) -> Result<()> {
        self.inputs.0.watermark(watermark);
        self.watermark2(watermark)
    }

    /// The first input ends; the other one goes on.
    pub fn end1(&mut self) -> Result<()> {
        self.inputs.0.end();
        self.running.settle()
    }

    /// The second input ends; the other one goes on.
    pub fn end2(&mut self) -> Result<()> {
        self.inputs.1.end();
        self.running.settle()
    }

    /// Cancels what runs and starts anew from the snapshot, in so many subtasks. The clock stays as it is. Of what was emitted
    /// and not taken, that from before the snapshot is still there.
    pub fn restore(self, snapshot: &TestSnapshot, parallelism: u32) -> Result<Self> {
        let Self { declare, running, .. } = self;
        let inputs = (TestSource::from_now(), TestSource::from_now());
        let running = running.restored(snapshot, parallelism, |job| {
            let first = source(job, "input1", &inputs.0);
            declare(first, source(job, "input2", &inputs.1))
        })?;
        Ok(Self { inputs, declare, running })
    }

    /// Ends both inputs, and waits until all that was held back is out. The output can be taken still.
    pub fn finish(&mut self) -> Result<()> {
        self.inputs.0.end();
        self.inputs.1.end();
        self.running.finish()
    }
}

fn source<T: Data>(job: &mut Job, name: &str, input: &TestSource<T>) -> Stream<T> {
    job.source(name, input.clone()).parallelism(1)
}

impl<T, U> std::ops::Deref for OperatorHarness<T, U> {
    type Target = Operators<U>;
    fn deref(&self) -> &Operators<U> {
        &self.running
    }
}
impl<T, U> std::ops::DerefMut for OperatorHarness<T, U> {
    fn deref_mut(&mut self) -> &mut Operators<U> {
        &mut self.running
    }
}
impl<A, B, U> std::ops::Deref for TwoInputHarness<A, B, U> {
    type Target = Operators<U>;
    fn deref(&self) -> &Operators<U> {
        &self.running
    }
}
impl<A, B, U> std::ops::DerefMut for TwoInputHarness<A, B, U> {
    fn deref_mut(&mut self) -> &mut Operators<U> {
        &mut self.running
    }
}
