//! Stores against a model: whatever is written, removed, evicted, checkpointed, saved, restored elsewhere; and what goes wrong.
use super::directory::Root;
use super::options::Shared;
use super::restore;
use super::store::RocksStore;
use crate::checkpoint::handles::StateDescriptor;
use crate::data::{Data, HASH_VERSION, Str};
use crate::error::{ErrorCode, Result};
use crate::graph::key_group_range;
use crate::state::file::{self, InMemory, NotDeclared, Piece, ReadAt, SnapshotMeta, WriteOptions};
use crate::state::store::{LocalFiles, StateStore, StoreSubtask, StoredSnapshot};
use crate::state::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

const MAX: u32 = 100;

type Add = fn(&mut u64, u64);

/// One state of each kind, and one whose entries expire.
struct States {
    value: ValueState<Str, u64>,
    list: ListState<Str, u64>,
    map: MapState<Str, u64, Str>,
    sum: ReducingState<Str, u64, Add>,
    timed: ValueState<Str, u64>,
}

impl States {
    fn new() -> Self {
        Self {
            value: ValueState::new("value"),
            list: ListState::new("list"),
            map: MapState::new("map"),
            sum: ReducingState::new("sum", |a: &mut u64, b: u64| *a = a.wrapping_add(b)),
            timed: ValueState::with_ttl("timed", StateTtl::new(Duration::from_millis(100))),
        }
    }
    fn all(&mut self) -> [&mut dyn KeyedTable<Str>; 5] {
        [&mut self.value, &mut self.list, &mut self.map, &mut self.sum, &mut self.timed]
    }
    fn descriptors() -> Vec<StateDescriptor> {
        Self::new().all().into_iter().map(|s| s.descriptor().clone()).collect()
    }
    /// As before a batch.
    fn prepare(&mut self, keys: &[Str]) {
        for state in self.all() {
            keys.iter().for_each(|k| state.want(&KeyRef::of(k)));
            state.load().unwrap();
        }
    }
    fn settle(&mut self) -> Result<()> {
        self.all().into_iter().try_for_each(KeyedTable::settle)
    }
    fn record(&mut self, key: &Str, x: u64) {
        let key = KeyRef::of(key);
        *self.value.get_mut_or_default(&key) += x;
        self.list.add(&key, x);
        if x.is_multiple_of(3) {
            self.map.remove(&key, &(x % 7));
        } else {
            self.map.put(&key, x % 7, x.to_string().as_str().into());
        }
        self.sum.add(&key, x);
        self.timed.update(&key, x);
    }
    fn remove(&mut self, key: &Str) {
        let key = KeyRef::of(key);
        self.value.clear(&key);
        self.list.clear(&key);
        self.map.clear(&key);
        self.sum.clear(&key);
        self.timed.clear(&key);
    }
    /// All that is known of each key that has something.
    fn contents(&mut self, keys: &[Str]) -> BTreeMap<Str, String> {
        let mut all = BTreeMap::new();
        for k in keys {
            self.prepare(std::slice::from_ref(k));
            let key = KeyRef::of(k);
            let map: BTreeMap<_, _> = self.map.iter(&key).map(|(k, v)| (*k, v.clone())).collect();
            let (value, sum, timed) = (self.value.get(&key), self.sum.get(&key), self.timed.get(&key));
            if value.is_some() || sum.is_some() || timed.is_some() || !map.is_empty() || !self.list.get(&key).is_empty()
            {
                let text = format!("{value:?} {:?} {map:?} {sum:?} {timed:?}", self.list.get(&key));
                all.insert(k.clone(), text);
            }
        }
        all
    }
}

/// One subtask with its store.
struct Subtask {
    states: States,
    store: Arc<RocksStore>,
}

/// Where stores lie; `objects`: bytes that the tables may take.
struct Place {
    _dir: tempfile::TempDir,
    root: Root,
    shared: Shared,
}

impl Place {
    fn new(objects: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path().to_str()).unwrap();
        Self { root, shared: Shared::for_tests(objects), _dir: dir }
    }
    fn subtask(&self, n: u32, parallelism: u32, stored: &[Stored]) -> Result<Subtask> {
        let files: Vec<_> = stored.iter().map(|s| (s.key_groups.clone(), &s.files)).collect();
        let key_groups = key_group_range(n, parallelism, MAX);
        let overlap = |g: &Range<u32>| g.start < key_groups.end && key_groups.start < g.end;
        let snapshots: Vec<_> = files
            .into_iter()
            .filter(|(g, _)| overlap(g))
            .map(|(key_groups, files)| StoredSnapshot { key_groups, files })
            .collect();
        let about = StoreSubtask {
            operator: "legs",
            subtask: n,
            key_groups: key_groups.clone(),
            max_parallelism: MAX,
            states: States::descriptors(),
            drop_others: false,
        };
        let store = Arc::new(restore::open(&self.shared, &self.root, &about, &snapshots)?);
        let mut states = States::new();
        for s in states.all() {
            assert!(s.attach(&(store.clone() as Arc<dyn StateStore>), snapshots.is_empty())?);
        }
        Ok(Subtask { states, store })
    }
}

/// A checkpoint of one subtask, as it was uploaded.
#[derive(Clone)]
struct Stored {
    key_groups: Range<u32>,
    files: Vec<Arc<dyn ReadAt>>,
}

fn uploaded(subtask: &Subtask, local: &LocalFiles) -> Option<Stored> {
    if local.files.is_empty() {
        return None;
    }
    let file = |name: &str, bytes: Vec<u8>| Arc::new(InMemory { name: name.into(), bytes: bytes.into() });
    let mut files: Vec<Arc<dyn ReadAt>> = vec![file("head", local.head.clone())];
    for f in &local.files {
        files.push(file(&f.name, std::fs::read(&f.path).unwrap()));
    }
    Some(Stored { key_groups: subtask.store.about.key_groups.clone(), files })
}

impl Subtask {
    fn freeze(&mut self) -> Vec<Box<dyn crate::state::snapshot::FrozenTable>> {
        self.states.all().into_iter().map(|s| s.freeze()).collect()
    }
    fn checkpoint(&mut self) -> Result<LocalFiles> {
        let tables = self.freeze();
        self.store.checkpoint(tables, &AtomicBool::new(false))
    }
    /// As an uploader writes a savepoint.
    fn savepoint(&mut self) -> InMemory {
        let tables = self.freeze();
        let tables = self.store.whole(tables, &AtomicBool::new(false)).unwrap();
        let meta = SnapshotMeta {
            operator: "legs".into(),
            hash_version: HASH_VERSION,
            max_parallelism: MAX,
            key_groups: self.store.about.key_groups.clone(),
            compression: Default::default(),
            states: Vec::new(),
            changes_only: BTreeSet::new(),
        };
        let mut bytes = Vec::new();
        let pieces = tables.into_iter().map(Piece::from).collect();
        file::write(meta, pieces, &WriteOptions::default(), &mut |b| {
            bytes.extend_from_slice(b);
            Ok(())
        })
        .unwrap();
        InMemory { name: "savepoint".into(), bytes: bytes.into() }
    }
}

fn name(n: u16) -> Str {
    // some are inline, some on the heap
    match n % 3 {
        0 => format!("{n}").as_str().into(),
        _ => format!("a name that is longer than what fits beside its length {n}").as_str().into(),
    }
}

const KEYS: u16 = 80;

fn keys() -> Vec<Str> {
    (0..KEYS).map(name).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Batch(Vec<(u16, Option<u16>)>),
    /// A checkpoint whose files nobody wants, before which something is written again.
    Dropped(u16),
    Checkpoint,
    /// A checkpoint and a restore at another parallelism.
    Restore(u32),
    /// A savepoint, restored into tables without a store, then into stores.
    Savepoint(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let batch = prop::collection::vec((0..KEYS, prop::option::weighted(0.7, any::<u16>())), 0..50);
    let step = prop_oneof![
        10 => batch.prop_map(Step::Batch),
        2 => (0..KEYS).prop_map(Step::Dropped),
        2 => Just(Step::Checkpoint),
        2 => (1u32..4).prop_map(Step::Restore),
        1 => (1u32..3).prop_map(Step::Savepoint),
    ];
    prop::collection::vec(step, 1..25)
}

fn owner(key: &Str, parallelism: u32) -> usize {
    use crate::data::Key;
    let group = crate::graph::key_group(key.key_hash(), MAX);
    (0..parallelism).position(|s| key_group_range(s, parallelism, MAX).contains(&group)).unwrap()
}

fn contents(subtasks: &mut [Subtask]) -> BTreeMap<Str, String> {
    let all = keys();
    let p = subtasks.len() as u32;
    let mut found = BTreeMap::new();
    for (n, s) in subtasks.iter_mut().enumerate() {
        let mine: Vec<_> = all.iter().filter(|k| owner(k, p) == n).cloned().collect();
        found.extend(s.states.contents(&mine));
        s.states.settle().unwrap();
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::testing::seeds(12) as u32))]
    /// The tables hold everything, some of it, or nothing between batches.
    #[test]
    fn a_store_says_what_a_table_would(steps in steps(), objects in prop_oneof![Just(0), Just(4000), Just(1 << 30)]) {
        let place = Place::new(objects);
        let mut model = States::new();
        let mut subtasks = vec![place.subtask(0, 1, &[]).unwrap()];
        for step in steps {
            let p = subtasks.len() as u32;
            match step {
                Step::Batch(records) => {
                    for (n, s) in subtasks.iter_mut().enumerate() {
                        let mine: Vec<_> =
                            records.iter().map(|r| (name(r.0), r.1)).filter(|r| owner(&r.0, p) == n).collect();
                        s.states.prepare(&mine.iter().map(|r| r.0.clone()).collect::<Vec<_>>());
                        for (key, x) in &mine {
                            match x {
                                Some(x) => s.states.record(key, (*x).into()),
                                None => s.states.remove(key),
                            }
                        }
                        s.states.settle().unwrap();
                    }
                    for (key, x) in records {
                        match x {
                            Some(x) => model.record(&name(key), x.into()),
                            None => model.remove(&name(key)),
                        }
                    }
                }
                Step::Dropped(key) => {
                    let key = name(key);
                    for s in &mut subtasks {
                        drop(s.freeze());
                    }
                    let s = &mut subtasks[owner(&key, p)];
                    s.states.prepare(std::slice::from_ref(&key));
                    s.states.record(&key, 5);
                    model.record(&key, 5);
                }
                Step::Checkpoint => {
                    for s in &mut subtasks {
                        s.checkpoint().unwrap();
                    }
                }
                Step::Restore(to) => {
                    let stored: Vec<_> = subtasks.iter_mut().filter_map(|s| {
                        let local = s.checkpoint().unwrap();
                        // what is written afterwards is not in it
                        let key = name(1);
                        s.states.prepare(std::slice::from_ref(&key));
                        s.states.record(&key, 77);
                        s.states.settle().unwrap();
                        uploaded(s, &local)
                    }).collect();
                    subtasks = (0..to).map(|n| place.subtask(n, to, &stored).unwrap()).collect();
                }
                Step::Savepoint(to) => {
                    let files: Vec<_> = subtasks.iter_mut().map(Subtask::savepoint).collect();
                    let chains: Vec<[&dyn ReadAt; 1]> = files.iter().map(|f| [f as &dyn ReadAt]).collect();
                    let chains: Vec<&[&dyn ReadAt]> = chains.iter().map(|c| c.as_slice()).collect();
                    let mut tables = States::new();
                    file::restore("legs", &(0..MAX), MAX, NotDeclared::Refuse, &chains, &mut tables.all()).unwrap();
                    prop_assert_eq!(tables.contents(&keys()), model.contents(&keys()));
                    subtasks = (0..to).map(|n| place.subtask(n, to, &[]).unwrap()).collect();
                    for (n, s) in (0..).zip(&mut subtasks) {
                        let groups = key_group_range(n, to, MAX);
                        file::restore("legs", &groups, MAX, NotDeclared::Refuse, &chains, &mut s.states.all()).unwrap();
                    }
                }
            }
            prop_assert_eq!(contents(&mut subtasks), model.contents(&keys()));
        }
    }
}

fn fill(s: &mut Subtask, keys: Range<u16>, x: u64) {
    let keys: Vec<_> = keys.map(name).collect();
    s.states.prepare(&keys);
    keys.iter().for_each(|k| s.states.record(k, x));
    s.states.settle().unwrap();
}

#[test]
fn a_checkpoint_has_what_was_there_at_the_barrier_and_new_files_hold_what_changed() {
    let place = Place::new(1 << 30);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    fill(&mut s, 0..2000, 1);
    let first = s.checkpoint().unwrap();
    fill(&mut s, 0..20, 1);
    let tables = s.freeze();
    fill(&mut s, 0..2000, 1); // after the barrier
    let second = s.store.checkpoint(tables, &AtomicBool::new(false)).unwrap();
    let known: BTreeSet<_> = first.files.iter().map(|f| f.name.clone()).collect();
    let size = |all: &LocalFiles| all.files.iter().filter(|f| !known.contains(&f.name)).map(|f| f.size).sum::<u64>();
    assert!(size(&second) > 0 && size(&second) * 5 < first.files.iter().map(|f| f.size).sum::<u64>());
    let stored = uploaded(&s, &second).unwrap();
    let mut back = place.subtask(0, 1, &[stored]).unwrap();
    let all: Vec<_> = (0..2000).map(name).collect();
    back.states.prepare(&all);
    let value = |n: u16| back.states.value.get(&KeyRef::of(&name(n))).copied();
    assert_eq!([value(0), value(19), value(20), value(1999)], [Some(2), Some(2), Some(1), Some(1)]);
}

#[test]
fn a_barrier_that_is_still_on_its_way_is_reached_before_what_came_after_it() {
    // nothing may stay in the tables: each batch wants to write, and must not get before the barrier
    let place = Place::new(0);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    fill(&mut s, 0..50, 1);
    let tables = s.freeze();
    let store = s.store.clone();
    let (written, go) = std::sync::mpsc::channel::<()>();
    let uploader = std::thread::spawn(move || {
        go.recv().unwrap();
        store.checkpoint(tables, &AtomicBool::new(false))
    });
    std::thread::scope(|scope| {
        let after = scope.spawn(|| fill(&mut s, 0..50, 1));
        written.send(()).unwrap();
        after.join().unwrap();
    });
    let local = uploader.join().unwrap().unwrap();
    let stored = uploaded(&s, &local).unwrap();
    let mut back = place.subtask(0, 1, &[stored]).unwrap();
    for (subtask, expected) in [(&mut back, 1), (&mut s, 2)] {
        subtask.states.prepare(&[name(7)]);
        assert_eq!(subtask.states.value.get(&KeyRef::of(&name(7))), Some(&expected));
    }
}

#[test]
fn the_store_drops_what_has_expired() {
    let place = Place::new(0);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    s.states.timed.tick(1000);
    fill(&mut s, 0..50, 1);
    s.states.timed.tick(1050);
    fill(&mut s, 50..60, 1);
    s.states.timed.tick(1120);
    // not yet merged: hidden
    s.states.prepare(&[name(1), name(55)]);
    let timed = |s: &Subtask, n| s.states.timed.get(&KeyRef::of(&name(n))).copied();
    assert_eq!([timed(&s, 1), timed(&s, 55)], [None, Some(1)]);
    s.store.db.compact_range(None::<&[u8]>, None::<&[u8]>);
    let mut left = 0;
    s.store
        .visit(s.states.timed.descriptor(), &mut |_, _| {
            left += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(left, 10);
}

#[test]
fn a_damaged_checkpoint_is_refused_with_its_name() {
    let place = Place::new(1 << 30);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    fill(&mut s, 0..500, 1);
    let local = s.checkpoint().unwrap();
    let good = uploaded(&s, &local).unwrap();
    let bytes = |f: &Arc<dyn ReadAt>| f.read_at(0..f.size()).unwrap().to_vec();
    let replaced = |at: usize, bytes: Vec<u8>| {
        let mut bad = good.clone();
        bad.files[at] = Arc::new(InMemory { name: format!("file {at}"), bytes: bytes.into() });
        bad
    };
    // the head: every flipped bit
    let head = bytes(&good.files[0]);
    for at in (0..head.len()).step_by(head.len() / 40) {
        let mut flipped = head.clone();
        flipped[at] ^= 0x20;
        match place.subtask(0, 1, &[replaced(0, flipped)]) {
            Err(e) => assert!(e.code == ErrorCode::Snapshot && e.message.contains("file 0"), "{at}: {e}"),
            // a letter of the envelope whose case does not matter
            Ok(_) => panic!("byte {at} of the head was not missed"),
        }
    }
    let short = |at: usize| bytes(&good.files[at])[..100].to_vec();
    for bad in [replaced(1, short(1)), replaced(1, Vec::new())] {
        let e = place.subtask(0, 1, &[bad]).err().unwrap();
        assert!(e.message.contains("cannot open the database"), "{e}");
    }
    // a block of entries: found when it is read; by another process, for this one has the block in its cache
    let mut flipped = bytes(&good.files[1]);
    flipped[200] ^= 1;
    let elsewhere = Place::new(1 << 30);
    let mut back = elsewhere.subtask(0, 1, &[replaced(1, flipped)]).unwrap();
    let all: Vec<_> = (0..500).map(name).collect();
    let read = back.states.all().into_iter().try_for_each(|s| {
        all.iter().for_each(|k| s.want(&KeyRef::of(k)));
        s.load()
    });
    let e = read.unwrap_err();
    assert!(e.message.contains("cannot read") && e.message.contains("damaged"), "{e}");
    // fewer files than the head says
    let mut fewer = good.clone();
    fewer.files.pop();
    assert!(place.subtask(0, 1, &[fewer]).err().unwrap().message.contains("damaged"));
}

#[test]
fn folders_of_processes_that_are_gone_are_removed_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("weir-rocksdb-1-0");
    std::fs::create_dir_all(gone.join("legs-0")).unwrap();
    std::fs::write(gone.join("lock"), "").unwrap();
    let alive = dir.path().join("weir-rocksdb-2-0");
    std::fs::create_dir(&alive).unwrap();
    let lock = std::fs::File::create(alive.join("lock")).unwrap();
    lock.lock().unwrap();
    let half = dir.path().join("weir-rocksdb-3-0");
    std::fs::create_dir_all(half.join("legs-0")).unwrap();
    std::fs::create_dir(dir.path().join("something-else")).unwrap();
    let root = Root::open(dir.path().to_str()).unwrap();
    let folder = root.folder("a/b c").unwrap();
    let path = folder.path().to_owned();
    assert!(path.is_dir() && !gone.exists() && alive.exists() && dir.path().join("something-else").exists());
    assert!(!half.exists(), "its removal was not finished");
    let own = std::fs::File::open(path.parent().unwrap().join("lock")).unwrap();
    assert!(own.try_lock().is_err(), "others see that this process lives");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn what_the_database_refuses_is_an_error_with_the_folder_and_nothing_is_lost() {
    let place = Place::new(1 << 30);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    fill(&mut s, 0..10, 1);
    // where a folder should be there is none: as with a disk that is full, no file can be made
    let folder = s.store.folder.path().to_owned();
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    let e = s.checkpoint().err().unwrap();
    assert!(e.code == ErrorCode::Storage && e.message.contains(folder.to_str().unwrap()), "{e}");
    std::fs::rename(&aside, &folder).unwrap();
    let local = s.checkpoint().unwrap();
    let mut back = place.subtask(0, 1, &[uploaded(&s, &local).unwrap()]).unwrap();
    back.states.prepare(&[name(3)]);
    assert_eq!(back.states.value.get(&KeyRef::of(&name(3))), Some(&1));
}

/// A function that sets and clears a key for each record has no entries, but what it removed is remembered until the store knows.
#[test]
fn keys_that_come_and_go_between_two_barriers_take_no_more_memory_than_there_is() {
    use crate::checkpoint::handles::StateKind;
    use crate::data::Key;
    const LIMIT: usize = 40_000;
    let place = Place::new(LIMIT);
    let s = place.subtask(0, 1, &[]).unwrap();
    let store: Arc<dyn StateStore> = s.store.clone();
    let mut plain = super::super::frozen::Named::<u64, u64>::new("plain", StateKind::Value);
    plain.attach(&store, true, None).unwrap();
    let mut panes = PaneState::<u64, u64>::new("panes");
    panes.attach(&store, true).unwrap();
    panes.open(7);
    let (mut most, flushed) = (0, |s: &Named| s.backing.as_ref().unwrap().column.flushed());
    type Named = super::super::frozen::Named<u64, u64>;
    for k in 0..20_000u64 {
        let hash = k.key_hash();
        for table in [&mut plain.table, panes.table(0)] {
            table.upsert(hash, &k);
            assert_eq!(table.remove(hash, &k), Some(0));
        }
        if k % 100 == 99 {
            plain.settle().unwrap();
            panes.settle().unwrap();
            most = most.max(plain.table.removals()).max(panes.table(0).removals());
        }
    }
    assert!(most * size_of::<(u64, u32)>() < LIMIT, "{most} removed keys");
    assert!(flushed(&plain) < 200, "it is flushed when it is full, not all the time: {} times", flushed(&plain));
    // and they are gone
    plain.want(5u64.key_hash(), &5);
    plain.load().unwrap();
    assert_eq!(plain.table.get(5u64.key_hash(), &5), None);
}

#[test]
fn a_snapshot_that_is_given_up_does_not_wait_until_the_database_has_merged_and_a_later_one_has_its_changes() {
    let place = Place::new(1 << 30);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    s.store.db.set_options(&[("disable_auto_compactions", "true")]).unwrap();
    let given_up = AtomicBool::new(true);
    // each overlaps with those before; until the database has more of them than it should
    let mut written = 0;
    let e = loop {
        assert!(written < 200, "it takes everything");
        fill(&mut s, 0..50, 1);
        written += 1;
        let tables = s.freeze();
        if let Err(e) = s.store.checkpoint(tables, &given_up) {
            break e;
        }
    };
    assert!(e.code == ErrorCode::Checkpoint && e.message.contains("given up"), "{e}");
    s.store.db.set_options(&[("disable_auto_compactions", "false")]).unwrap();
    s.store.db.compact_range::<&[u8], &[u8]>(None, None);
    let local = s.checkpoint().unwrap();
    let mut back = place.subtask(0, 1, &[uploaded(&s, &local).unwrap()]).unwrap();
    back.states.prepare(&[name(3)]);
    assert_eq!(back.states.value.get(&KeyRef::of(&name(3))), Some(&written));
}

#[test]
fn a_checkpoint_of_another_job_is_refused() {
    let place = Place::new(1 << 30);
    let mut s = place.subtask(0, 1, &[]).unwrap();
    fill(&mut s, 0..10, 1);
    let local = s.checkpoint().unwrap();
    let stored = uploaded(&s, &local).unwrap();
    let open = |operator: &str, max_parallelism: u32, states: Vec<StateDescriptor>| {
        let about = StoreSubtask {
            operator,
            subtask: 0,
            key_groups: 0..max_parallelism,
            max_parallelism,
            states,
            drop_others: false,
        };
        let snapshot = StoredSnapshot { key_groups: 0..MAX, files: &stored.files };
        restore::open(&place.shared, &place.root, &about, &[snapshot]).err().unwrap().to_string()
    };
    assert!(open("other", MAX, States::descriptors()).contains("operator \"legs\", not of \"other\""));
    assert!(open("legs", 7, States::descriptors()).contains("maxParallelism 100, the job has 7"));
    assert!(
        open("legs", MAX, States::descriptors()[1..].to_vec()).contains("\"value\", which the job does not declare")
    );
    let mut other = States::descriptors();
    other[0].value = crate::data::Type::Bool;
    assert!(open("legs", MAX, other).contains("restore with the types of the snapshot"));
}

/// What a checkpoint's first file looks like is fixed: it is read by later versions.
#[test]
fn the_head_survives_its_envelope() {
    use super::checkpoint::Head;
    use crate::checkpoint::envelope;
    let head = Head {
        operator: "legs".into(),
        hash_version: 1,
        max_parallelism: 128,
        key_groups: 0..64,
        states: States::descriptors(),
        sorted: vec!["000012.sst".into()],
        others: BTreeMap::from([(
            "CURRENT".into(),
            crate::checkpoint::handles::Bytes64(b"MANIFEST-000005\n".to_vec()),
        )]),
    };
    let bytes = envelope::seal(&head).unwrap();
    assert_eq!(Head::parse(&bytes, "head", 1).unwrap(), head);
    for bad in ["../x", "a/b", "", "."] {
        let bad = Head { sorted: vec![bad.into()], ..head.clone() };
        assert!(Head::parse(&envelope::seal(&bad).unwrap(), "head", 1).is_err());
    }
    assert_eq!(u64::type_of(), crate::data::Type::U64);
}
