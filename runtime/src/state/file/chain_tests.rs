//! Chains of incremental snapshots: whatever is written, removed, frozen, aborted, written out late and restored elsewhere.
use super::tests::{States, meta, name};
use super::*;
use crate::checkpoint::handles::{FileFormat, FileHandle, KeyedHandle};
use crate::checkpoint::increments::{Increments, Plan, Told};
use crate::data::Str;
use crate::graph::key_group_range;
use crate::state::snapshot::FrozenTable;
use crate::state::table::History;
use crate::state::{KeyRef, KeyedTable};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use weir_api::ids::CheckpointId;

const MAX: u32 = 100;

#[derive(Debug, Clone)]
enum Step {
    Records(Vec<(u16, u16)>),
    Remove(Vec<u16>),
    /// One of the states is emptied.
    Clear(u8),
    /// Freeze; `later`: it is written out when the next one is.
    Barrier {
        later: bool,
    },
    Savepoint,
    /// The last that was written completes, or one so many before it.
    Complete(usize),
    Abort,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop::collection::vec((0u16..120, any::<u16>()), 0..60).prop_map(Step::Records),
        4 => prop::collection::vec(0u16..120, 0..30).prop_map(Step::Remove),
        1 => (0u8..12).prop_map(Step::Clear),
        6 => any::<bool>().prop_map(|later| Step::Barrier { later }),
        1 => Just(Step::Savepoint),
        6 => (0usize..3).prop_map(Step::Complete),
        2 => Just(Step::Abort),
    ];
    prop::collection::vec(step, 1..50)
}

type Contents = BTreeMap<Str, String>;

struct Subtask {
    states: States,
    keys: Vec<Str>,
    options: WriteOptions,
    increments: Increments,
    files: BTreeMap<String, InMemory>,
    frozen: Option<(u64, Vec<Box<dyn FrozenTable>>, Contents)>,
    written: BTreeMap<u64, (Option<KeyedHandle>, Contents)>,
    next: u64,
}

impl Subtask {
    fn new(options: WriteOptions) -> Self {
        Self {
            states: States::new(),
            keys: (0..120).map(name).collect(),
            options,
            increments: Increments::default(),
            files: BTreeMap::new(),
            frozen: None,
            written: BTreeMap::new(),
            next: 0,
        }
    }

    fn barrier(&mut self, later: bool) {
        self.upload();
        self.next += 1;
        let frozen = self.states.all().into_iter().map(|s| s.freeze()).collect();
        self.frozen = Some((self.next, frozen, self.states.contents(&self.keys)));
        if !later {
            self.upload();
        }
    }

    /// As the taskmanager's uploader does it.
    fn upload(&mut self) {
        let Some((id, tables, contents)) = self.frozen.take() else { return };
        let entries = tables.iter().map(|t| t.entries()).sum();
        let told = |h: &History| Told { epoch: h.epoch, complete_since: h.complete_since };
        let told: Vec<_> = tables.iter().map(|t| t.history().map(told)).collect();
        let mut plan = self.increments.plan(&told);
        for (t, floor) in tables.iter().zip(self.increments.floors()) {
            t.history().unwrap().floor.store(*floor, Ordering::Relaxed);
        }
        let mut file = None;
        if entries == 0 {
            plan = Plan::whole(tables.len());
        } else {
            let path = format!("shared/{id}");
            file = self.file(&path, tables, &plan);
        }
        let handle = self.increments.written(CheckpointId(id), plan, &told, file, 0..MAX, entries);
        self.written.insert(id, (handle, contents));
    }

    fn file(&mut self, path: &str, tables: Vec<Box<dyn FrozenTable>>, plan: &Plan) -> Option<FileHandle> {
        let pieces = tables.into_iter().zip(&plan.since).map(|(table, since)| Piece { table, since: *since }).collect();
        let mut bytes = Vec::new();
        let written = write(meta(0..MAX, MAX), pieces, &self.options, &mut |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
        if plan.may_be_empty() && written.entries + written.removals == 0 {
            return None;
        }
        self.files.insert(path.into(), InMemory { name: path.into(), bytes: bytes.into() });
        Some(FileHandle { path: path.into(), size: written.size, crc32c: written.crc32c })
    }

    fn restore(&self, handle: Option<&KeyedHandle>, parallelism: u32) -> Contents {
        let chain: Vec<&dyn ReadAt> =
            handle.iter().flat_map(|h| h.files()).map(|f| &self.files[&f.path] as &dyn ReadAt).collect();
        let mut all = Contents::new();
        for s in 0..parallelism {
            let mut states = States::new();
            let groups = key_group_range(s, parallelism, MAX);
            restore("legs", &groups, MAX, NotDeclared::Refuse, &[&chain], &mut states.all()).unwrap();
            for (k, text) in states.contents(&self.keys) {
                assert!(all.insert(k, text).is_none());
            }
            // and what was restored goes on as a table
            for k in &self.keys {
                states.sum.add(&KeyRef::of(k), 1);
                states.legs.clear(&KeyRef::of(k));
            }
            assert!(
                self.keys
                    .iter()
                    .all(|k| states.sum.get(&KeyRef::of(k)).is_some() && states.legs.get(&KeyRef::of(k)).is_none())
            );
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_restore_from_any_chain_gives_what_was_there(
        steps in steps(), zstd in any::<bool>(), block in 1usize..3000, threads in 0usize..3, parallelism in 1u32..5,
    ) {
        let compression = if zstd { Compression::Zstd } else { Compression::None };
        let mut s = Subtask::new(WriteOptions {
            block, chunk: block * 3, compression, level: 1, threads, ..WriteOptions::default()
        });
        for step in steps {
            match step {
                Step::Records(records) => records.iter().for_each(|(k, x)| s.states.record(&name(*k), (*x).into())),
                Step::Remove(keys) => {
                    for k in keys {
                        let k = name(k);
                        let key = KeyRef::of(&k);
                        s.states.legs.clear(&key);
                        s.states.log.clear(&key);
                        s.states.by.clear(&key);
                        s.states.sum.clear(&key);
                    }
                }
                Step::Clear(n) => if let Some(state) = s.states.all().get_mut(n as usize) {
                    state.clear_all();
                },
                Step::Barrier { later } => s.barrier(later),
                Step::Savepoint => {
                    let frozen: Vec<_> = s.states.all().into_iter().map(|s| s.freeze()).collect();
                    let plan = Plan::whole(frozen.len());
                    let file = s.file("savepoint", frozen, &plan).unwrap();
                    let handle = KeyedHandle { file, deltas: vec![], key_groups: 0..MAX, entries: 1, format: FileFormat::Canonical };
                    prop_assert_eq!(s.restore(Some(&handle), parallelism), s.states.contents(&s.keys));
                }
                Step::Complete(before) => if let Some((id, _)) = s.written.iter().nth_back(before) {
                    s.increments.completed(CheckpointId(*id));
                },
                Step::Abort => if let Some((id, _)) = s.written.pop_last() {
                    s.increments.aborted(CheckpointId(id));
                },
            }
        }
        s.upload();
        for (id, (handle, contents)) in &s.written {
            prop_assert_eq!(&s.restore(handle.as_ref(), parallelism), contents, "checkpoint {}", id);
        }
    }
}

/// Two bases under way at once: the chain that goes on completes after the other one, and is older than it.
#[test]
fn a_removal_is_not_lost_when_an_older_chain_goes_on() {
    let mut s = Subtask::new(WriteOptions::default());
    let record = |s: &mut Subtask, keys: std::ops::Range<u16>| keys.for_each(|k| s.states.record(&name(k), 3));
    let complete = |s: &mut Subtask, id| s.increments.completed(CheckpointId(id));
    (0..20).for_each(|_| record(&mut s, 0..120));
    s.barrier(false);
    s.states.all().into_iter().for_each(|state| assert_eq!(state.len(), 120));
    s.states.legs.clear(&KeyRef::of(&name(5)));
    s.barrier(false);
    complete(&mut s, 1);
    record(&mut s, 10..12);
    s.barrier(false);
    complete(&mut s, 2);
    record(&mut s, 10..12);
    s.barrier(false);
    // the removal is older than the base of the last completed one
    record(&mut s, 10..12);
    complete(&mut s, 3);
    s.barrier(false);
    complete(&mut s, 5);
    record(&mut s, 10..12);
    s.barrier(false);
    for (id, (handle, contents)) in &s.written {
        assert_eq!(&s.restore(handle.as_ref(), 2), contents, "checkpoint {id}");
    }
    let files = |id: u64| s.written[&id].0.iter().flat_map(|h| h.files()).map(|f| f.path.as_str()).collect::<Vec<_>>();
    assert_eq!([files(3), files(5)], [vec!["shared/1", "shared/3"], vec!["shared/1", "shared/3", "shared/5"]]);
}

#[test]
fn changes_without_what_they_change_are_refused() {
    let mut states = States::new();
    (0..200).for_each(|i| states.record(&name(i), 3));
    let epoch = states.legs.freeze().history().unwrap().epoch;
    (0..20).for_each(|i| states.record(&name(i), 4));
    let table = states.legs.freeze();
    let mut bytes = Vec::new();
    let piece = Piece { table, since: Some(epoch) };
    let written = write(meta(0..MAX, MAX), vec![piece], &WriteOptions::default(), &mut |b| {
        bytes.extend_from_slice(b);
        Ok(())
    });
    assert_eq!(written.unwrap().entries, 20);
    let file = InMemory { name: "shared/2".into(), bytes: bytes.into() };
    let e = restore("legs", &(0..MAX), MAX, NotDeclared::Refuse, &[&[&file]], &mut States::new().all()).unwrap_err();
    assert!(e.message.contains("shared/2") && e.message.contains("only changes"), "{e}");
}
