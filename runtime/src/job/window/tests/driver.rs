//! Runs a window operator as so many subtasks, by hand: records, watermarks, the clock, snapshots, restores.
use crate::data::{Data, HASH_VERSION, Key};
use crate::dataflow::factory::AnyStage;
use crate::dataflow::{Batch, Clock, Output, OutputTag, Signal, Stage};
use crate::error::Result;
use crate::graph::{key_group, key_group_range};
use crate::job::RuntimeContext;
use crate::job::function::Computed;
use crate::job::keyed_stages::KeyedOperator;
use crate::job::stored::read_into_memory;
use crate::job::window::TimeWindow;
use crate::job::window::function::{Elements, WindowFunction};
use crate::job::window::operator::{Spec, WindowOperator};
use crate::job::window::trigger::Trigger;
use crate::observe::TaskMetrics;
use crate::state::file::{
    Compression, InMemory, NotDeclared, Piece, ReadAt, SnapshotMeta, WriteOptions, restore as restore_files, write,
};
use crate::state::snapshot::FrozenTable;
use crate::state::store::{StateStore, StoreFactory, StoreSubtask, StoredSnapshot};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// Key and value.
pub type Rec = (u64, i64);
/// Key, start and end of the window, its values in order of size, timestamp of the result.
pub type Fired = (u64, i64, i64, Vec<i64>, i64);

pub const MAX_PARALLELISM: u32 = 13;
pub const LATE: OutputTag<Rec> = OutputTag::new("late");

/// The end of a stream.
pub struct Collector<T>(pub Arc<Mutex<Vec<(T, i64)>>>);

impl<T: Data> Stage<T> for Collector<T> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let times = batch.timestamps.iter().copied().chain(std::iter::repeat(i64::MIN));
        self.0.lock().unwrap().extend(batch.records.drain(..).zip(times));
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, _: &mut Signal<'_>) -> Result<()> {
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

pub type Selector = Computed<fn(&Rec) -> u64, u64>;
pub type Listing = Elements<
    Rec,
    u64,
    (u64, i64, i64, Vec<i64>),
    fn(&u64, &TimeWindow, &[Rec], &mut Output<(u64, i64, i64, Vec<i64>)>),
>;

fn key_of(r: &Rec) -> u64 {
    r.0
}
pub fn selector() -> Selector {
    Computed(key_of, PhantomData)
}
/// Emits all that a window holds.
pub fn listing() -> Listing {
    Elements(
        |key, window, records, out| {
            assert!(records.iter().all(|r| r.0 == *key));
            let mut values: Vec<i64> = records.iter().map(|r| r.1).collect();
            values.sort_unstable();
            out.push((*key, window.start, window.end, values));
        },
        PhantomData,
    )
}

pub type Operator<G> = WindowOperator<Selector, Listing, G>;

/// What an operator under test emits: key, start and end of the window, values.
pub type Emitted = (u64, i64, i64, Vec<i64>);
pub trait UnderTest: KeyedOperator<Rec, Key = u64, Out = Emitted> {}
impl<O: KeyedOperator<Rec, Key = u64, Out = Emitted>> UnderTest for O {}

struct Subtask<O> {
    operator: O,
    out: Output<Emitted>,
    /// Keeps some of its states.
    store: Option<Arc<dyn StateStore>>,
}

/// What subtasks start from.
#[derive(Default)]
struct Files {
    canonical: Vec<InMemory>,
    /// A store's own, of these key groups.
    stored: Vec<(Range<u32>, Vec<Arc<dyn ReadAt>>)>,
}

/// Where states are kept: in stores, in memory, in other stores ... one after the other at each restore.
pub struct Places {
    factory: Arc<dyn StoreFactory>,
    /// Where the stores lie.
    _directory: tempfile::TempDir,
    restores: usize,
}

impl Places {
    #[cfg(feature = "rocksdb")]
    pub fn new(factory: Arc<dyn StoreFactory>, directory: tempfile::TempDir) -> Self {
        Self { factory, _directory: directory, restores: 0 }
    }
    /// Subtasks that start after so many restores have their states in stores.
    fn keeps(&self) -> bool {
        [true, true, true, false, true, false][self.restores % 6]
    }
    /// The next snapshot is a savepoint; others have the stores' files.
    fn saves(&self) -> bool {
        self.restores % 6 == 2
    }
}

pub struct Driver<O> {
    make: Box<dyn Fn() -> O>,
    subtasks: Vec<Subtask<O>>,
    clock: Clock,
    fired: Arc<Mutex<Vec<(Emitted, i64)>>>,
    late: Arc<Mutex<Vec<(Rec, i64)>>>,
    places: Option<Places>,
}

impl<G: Trigger<Rec>> Driver<Operator<G>> {
    pub fn new(spec: Spec, trigger: G, parallelism: u32) -> Self {
        let make = move || WindowOperator::new(selector(), listing(), trigger.clone(), &spec, Some(LATE));
        Self::of(make, parallelism)
    }

    /// Entries of the schedules, live or not.
    pub fn scheduled(&self) -> usize {
        self.subtasks.iter().map(|s| s.operator.scheduled()).sum()
    }
}

/// As the stage of an operator does when there is room behind it.
fn finish<O: UnderTest>(operator: &mut O, out: &mut Output<Emitted>) {
    while operator.is_busy() {
        operator.go_on(out).unwrap();
    }
}

/// What comes of the tables of a store.
enum Uploaded {
    Tables(Vec<Box<dyn FrozenTable>>),
    Files(Vec<Arc<dyn ReadAt>>),
}

fn upload(store: &dyn StateStore, tables: Vec<Box<dyn FrozenTable>>, savepoint: bool) -> Uploaded {
    if savepoint {
        return Uploaded::Tables(store.whole(tables, &AtomicBool::new(false)).unwrap());
    }
    let local = store.checkpoint(tables, &AtomicBool::new(false)).unwrap();
    let file = |name: &str, bytes: Vec<u8>| Arc::new(InMemory { name: name.into(), bytes: bytes.into() });
    let mut all: Vec<Arc<dyn ReadAt>> = vec![file("head", local.head)];
    all.extend(local.files.iter().map(|f| file(&f.name, std::fs::read(&f.path).unwrap()) as _));
    Uploaded::Files(all)
}

impl<O: UnderTest> Driver<O> {
    pub fn of(make: impl Fn() -> O + 'static, parallelism: u32) -> Self {
        Self::at(make, parallelism, None)
    }

    /// `places`: none: states are in memory.
    pub fn at(make: impl Fn() -> O + 'static, parallelism: u32, places: Option<Places>) -> Self {
        let mut driver = Self {
            make: Box::new(make),
            subtasks: Vec::new(),
            clock: Clock::manual(0),
            fired: Arc::default(),
            late: Arc::default(),
            places,
        };
        driver.start(&Files::default(), parallelism);
        driver
    }

    /// As the stage of an operator opens its states.
    fn open(&self, operator: &mut O, subtask: u32, groups: &Range<u32>, files: &Files) -> Option<Arc<dyn StateStore>> {
        let overlap = |g: &Range<u32>| g.start < groups.end && groups.start < g.end;
        let stored = files.stored.iter().filter(|s| overlap(&s.0));
        let stored: Vec<_> = stored.map(|(g, files)| StoredSnapshot { key_groups: g.clone(), files }).collect();
        let places = self.places.as_ref()?;
        if !places.keeps() && stored.is_empty() {
            return None;
        }
        let about = StoreSubtask {
            operator: "w",
            subtask,
            key_groups: groups.clone(),
            max_parallelism: MAX_PARALLELISM,
            states: operator.states().iter().map(|s| s.descriptor().clone()).collect(),
            drop_others: false,
        };
        let store = places.factory.open(&about, &stored).unwrap();
        let mut kept = false;
        for state in operator.states() {
            if places.keeps() && state.attach(&store, stored.is_empty()).unwrap() {
                kept = true;
            } else {
                read_into_memory("w", groups, MAX_PARALLELISM, &*store, state).unwrap();
            }
        }
        kept.then_some(store)
    }

    fn start(&mut self, files: &Files, parallelism: u32) {
        self.subtasks.clear();
        for subtask in 0..parallelism {
            let mut operator = (self.make)();
            let groups = key_group_range(subtask, parallelism, MAX_PARALLELISM);
            let store = self.open(&mut operator, subtask, &groups, files);
            let files: Vec<&dyn ReadAt> = files.canonical.iter().map(|f| f as &dyn ReadAt).collect();
            let chains: Vec<_> = files.chunks(1).collect();
            let refuse = NotDeclared::Refuse;
            restore_files("w", &groups, MAX_PARALLELISM, refuse, &chains, &mut operator.states()).unwrap();
            let cx = RuntimeContext {
                operator: "w".into(),
                subtask,
                parallelism,
                max_parallelism: MAX_PARALLELISM,
                attempt: 1,
                metrics: TaskMetrics::default(),
                clock: self.clock.clone(),
            };
            operator.open(&cx).unwrap();
            for side in operator.side_outputs() {
                side.connect(vec![AnyStage::new::<Rec>(Box::new(Collector(self.late.clone())))]).unwrap();
            }
            let out = Output::new(vec![Box::new(Collector(self.fired.clone())) as Box<dyn Stage<_>>]);
            self.subtasks.push(Subtask { operator, out, store });
        }
    }

    /// Records with timestamps, each to the subtask that owns its key.
    pub fn records(&mut self, records: &[(Rec, i64)]) {
        let parallelism = self.subtasks.len() as u32;
        for (i, s) in (0..parallelism).zip(&mut self.subtasks) {
            let groups = key_group_range(i, parallelism, MAX_PARALLELISM);
            let mut batch = Batch::default();
            for &(record, t) in records {
                let hash = record.0.key_hash();
                if groups.contains(&key_group(hash, MAX_PARALLELISM)) {
                    batch.records.push(record);
                    batch.hashes.push(hash);
                    batch.timestamps.push(t);
                }
            }
            s.out.begin(true);
            if s.store.is_some() {
                s.operator.prepare(&batch).unwrap();
            }
            s.operator.run(&mut batch, &mut s.out).unwrap();
            if s.store.is_some() {
                s.operator.states().into_iter().for_each(|s| s.settle().unwrap());
            }
        }
    }

    pub fn watermark(&mut self, watermark: i64) {
        for s in &mut self.subtasks {
            s.operator.on_watermark(watermark, &mut s.out).unwrap();
            finish(&mut s.operator, &mut s.out);
        }
    }

    /// Event time comes on in one subtask alone: what inputs that were idle say may be merged in another order elsewhere.
    pub fn watermark_of(&mut self, subtask: usize, watermark: i64) {
        let s = &mut self.subtasks[subtask];
        s.operator.on_watermark(watermark, &mut s.out).unwrap();
        finish(&mut s.operator, &mut s.out);
    }

    /// Sets the clock; calls those that want it.
    pub fn clock(&mut self, now: i64) {
        self.clock.set(now);
        for s in &mut self.subtasks {
            if s.operator.next_processing_time().is_some_and(|t| t <= now) {
                s.out.erase_timestamp();
                s.operator.on_processing_time(now, &mut s.out).unwrap();
                finish(&mut s.operator, &mut s.out);
            }
        }
    }

    pub fn end_of_input(&mut self) {
        self.subtasks.iter_mut().for_each(|s| s.operator.end_of_input(&mut s.out).unwrap());
    }

    /// Through snapshot files into new subtasks; the old ones go on until their snapshot is written.
    pub fn restore(&mut self, parallelism: u32) {
        let mut files = Files::default();
        let old = self.subtasks.len() as u32;
        let saves = self.places.as_ref().is_some_and(Places::saves);
        for (i, s) in (0..old).zip(&mut self.subtasks) {
            let frozen: Vec<_> = s.operator.states().into_iter().map(|s| s.freeze()).collect();
            let (backed, mut frozen): (Vec<_>, Vec<_>) = frozen.into_iter().partition(|t| t.store().is_some());
            let meta = SnapshotMeta {
                operator: "w".into(),
                hash_version: HASH_VERSION,
                max_parallelism: MAX_PARALLELISM,
                key_groups: key_group_range(i, old, MAX_PARALLELISM),
                compression: Compression::None,
                states: Vec::new(),
                changes_only: Default::default(),
            };
            // what comes after the barrier must not be seen by the snapshot
            let (mut batch, mut away) = (Batch::default(), Output::new(Vec::new()));
            for k in 0..9 {
                batch.records.push((k, -1));
                batch.hashes.push(k.key_hash());
                batch.timestamps.push(i64::MAX / 2);
            }
            let (store, operator) = (s.store.clone(), &mut s.operator);
            let stored = std::thread::scope(|scope| {
                // an uploader is on its way while the task goes on, which may have to wait for it
                let uploader = store.map(|store| scope.spawn(move || upload(&*store, backed, saves)));
                if uploader.is_some() {
                    operator.prepare(&batch).unwrap();
                }
                operator.run(&mut batch, &mut away).unwrap();
                operator.on_watermark(i64::MAX, &mut away).unwrap();
                finish(operator, &mut away);
                uploader.map(|u| u.join().unwrap())
            });
            match stored {
                Some(Uploaded::Tables(whole)) => frozen.extend(whole),
                Some(Uploaded::Files(all)) if all.len() > 1 => {
                    files.stored.push((key_group_range(i, old, MAX_PARALLELISM), all));
                }
                Some(Uploaded::Files(_)) | None => {}
            }
            let frozen: Vec<Piece> = frozen.into_iter().map(Piece::from).collect();
            let mut bytes = Vec::new();
            let options = WriteOptions { block: 64, ..WriteOptions::default() };
            write(meta, frozen, &options, &mut |chunk| {
                bytes.extend_from_slice(chunk);
                Ok(())
            })
            .unwrap();
            files.canonical.push(InMemory { name: format!("w-{i}"), bytes: bytes.into() });
        }
        if let Some(places) = &mut self.places {
            places.restores += 1;
        }
        // what the old subtasks did after the barrier is gone with them
        self.fired.lock().unwrap().clear();
        self.late.lock().unwrap().clear();
        self.start(&files, parallelism);
    }

    /// What fired and what was late since the last call, in order of value.
    pub fn take(&mut self) -> (Vec<Fired>, Vec<(Rec, i64)>) {
        for s in &mut self.subtasks {
            s.out.emit();
            for side in s.operator.side_outputs() {
                side.signal(&mut Signal::Flush).unwrap();
            }
        }
        let fired = std::mem::take(&mut *self.fired.lock().unwrap());
        let mut fired: Vec<Fired> = fired.into_iter().map(|((k, s, e, v), t)| (k, s, e, v, t)).collect();
        let mut late = std::mem::take(&mut *self.late.lock().unwrap());
        fired.sort_unstable();
        late.sort_unstable();
        (fired, late)
    }

    /// Panes of the operator's first state that are left in stores, once these know of all that was dropped.
    #[cfg(feature = "rocksdb")]
    pub fn namespaces_in_stores(&mut self) -> usize {
        let mut left = 0;
        for s in &mut self.subtasks {
            let Some(store) = &s.store else { continue };
            let frozen = s.operator.states().into_iter().map(|s| s.freeze());
            let mut backed: Vec<_> = frozen.filter(|t| t.store().is_some()).collect();
            let places = backed.iter_mut().filter_map(|t| t.take_backed());
            let columns: Vec<_> = places.map(|b| b.column.clone()).collect();
            drop(backed);
            let again = s.operator.states().into_iter().map(|s| s.freeze()).filter(|t| t.store().is_some());
            store.flush(again.collect()).unwrap();
            left += columns.iter().map(|c| store.namespaces(c).unwrap().len()).sum::<usize>();
        }
        left
    }

    /// Keys and windows held in the operator's first state.
    pub fn held(&mut self) -> usize {
        self.subtasks.iter_mut().map(|s| s.operator.states()[0].len()).sum()
    }
}

/// Any window function, once: for tests that look at results only.
pub fn run_once<W: WindowFunction<Key = u64, In = Rec>, G: Trigger<Rec>>(
    function: W,
    spec: &Spec,
    trigger: G,
    records: &[(Rec, i64)],
) -> Vec<(W::Out, i64)> {
    let mut operator = WindowOperator::new(selector(), function, trigger, spec, None);
    let all = Arc::new(Mutex::new(Vec::new()));
    let mut out = Output::new(vec![Box::new(Collector(all.clone())) as Box<dyn Stage<_>>]);
    let mut batch = Batch {
        records: records.iter().map(|r| r.0).collect(),
        hashes: records.iter().map(|r| r.0.0.key_hash()).collect(),
        timestamps: records.iter().map(|r| r.1).collect(),
    };
    out.begin(true);
    operator.run(&mut batch, &mut out).unwrap();
    operator.on_watermark(i64::MAX, &mut out).unwrap();
    out.emit();
    std::mem::take(&mut *all.lock().unwrap())
}
