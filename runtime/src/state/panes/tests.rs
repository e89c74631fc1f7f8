use super::*;
use crate::data::HASH_VERSION;
use crate::graph::key_group_range;
use crate::state::file::{Compression, InMemory, NotDeclared, ReadAt, SnapshotMeta, WriteOptions, restore, write};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Panes = PaneState<u64, u64>;
type Contents = BTreeMap<(i64, u64), u64>;

fn contents(state: &Panes) -> Contents {
    (0..state.panes()).flat_map(|p| state.entries(p).map(move |(k, v)| ((state.namespace(p), *k), *v))).collect()
}

fn snapshot(
    state: &mut dyn KeyedTable<u64>,
    groups: Range<u32>,
    max_parallelism: u32,
) -> (Box<dyn FrozenTable>, SnapshotMeta) {
    let meta = SnapshotMeta {
        operator: "w".into(),
        hash_version: HASH_VERSION,
        max_parallelism,
        key_groups: groups,
        compression: Compression::None,
        states: vec![],
        changes_only: Default::default(),
    };
    (state.freeze(), meta)
}

fn file((frozen, meta): (Box<dyn FrozenTable>, SnapshotMeta)) -> InMemory {
    let mut bytes = Vec::new();
    let options = WriteOptions { block: 4096, ..WriteOptions::default() };
    write(meta, vec![frozen.into()], &options, &mut |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })
    .unwrap();
    InMemory { name: "w".into(), bytes: bytes.into() }
}

fn read(
    files: &[InMemory],
    groups: &Range<u32>,
    max_parallelism: u32,
    state: &mut dyn KeyedTable<u64>,
) -> crate::error::Result<()> {
    let files: Vec<&dyn ReadAt> = files.iter().map(|f| f as &dyn ReadAt).collect();
    let chains: Vec<_> = files.chunks(1).collect();
    restore("w", groups, max_parallelism, NotDeclared::Refuse, &chains, &mut [state]).map(|_| ())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Panes of any sizes, some with many segments: what was frozen comes back at any parallelism, whatever is written to
    /// the live panes before the file is.
    #[test]
    fn frozen_panes_come_back_at_any_parallelism(
        panes in prop::collection::btree_map(any::<i64>(), 0u64..12_000, 0..5),
        max in prop_oneof![Just(128u32), 1u32..200],
        old in 1u32..4,
        new in 1u32..4,
    ) {
        let (old, new) = (old.min(max), new.min(max));
        let mut all = Contents::new();
        let mut files = Vec::new();
        for subtask in 0..old {
            let groups = key_group_range(subtask, old, max);
            let mut state = Panes::new("p");
            for (&namespace, &keys) in &panes {
                for k in (0..keys).filter(|k| groups.contains(&key_group(k.key_hash(), max))) {
                    let at = state.open(namespace);
                    *state.upsert_with(at, &KeyRef::of(&k), || 0) += k;
                    all.insert((namespace, k), k);
                }
            }
            let frozen = snapshot(&mut state, groups, max);
            for at in 0..state.panes() {
                for k in 0..100 {
                    *state.upsert_with(at, &KeyRef::of(&k), || 0) += 1_000_000;
                }
            }
            state.remove_first(state.panes() / 2);
            files.push(file(frozen));
        }
        let mut back = Contents::new();
        for subtask in 0..new {
            let mut state = Panes::new("p");
            read(&files, &key_group_range(subtask, new, max), max, &mut state).unwrap();
            back.extend(contents(&state));
        }
        prop_assert_eq!(back, all);
    }
}

#[test]
fn a_new_pane_takes_the_room_of_the_one_dropped_before_it() {
    let mut state = Panes::new("p");
    for round in 0..5 {
        let pane = state.open(round);
        for k in 0..50_000u64 {
            *state.upsert_with(pane, &KeyRef::of(&k), || 0) += 1;
        }
        let segments = state.panes[pane].table.segments();
        assert!(segments > 4);
        let frozen = state.freeze(); // shared segments, too, leave their room behind
        state.remove_first(1);
        assert_eq!((state.panes(), state.spare[0].len(), state.spare[0].segments()), (0, 0, segments));
        assert_eq!(frozen.entries(), 50_000);
    }
}

#[test]
fn marks_come_back_by_key_group() {
    let max = 10;
    let mark = |groups: Range<u32>, at: i64| {
        let mut m = KeyGroupMark::new("reached");
        m.own(groups.clone(), max);
        m.set(Some(at));
        file(snapshot(&mut m, groups, max))
    };
    let files = [mark(0..4, 7), mark(4..10, 9)];
    let restored = |groups: Range<u32>| {
        let mut m = KeyGroupMark::new("reached");
        read(&files, &groups, max, &mut m).unwrap();
        let marks = m.own(groups.clone(), max);
        (m, marks)
    };
    let (mut m, marks) = restored(2..6);
    assert_eq!((marks.least, marks.most, m.get()), (7, 9, Some(7)));
    let key_in = |group: u32| (0..1000u64).find(|k| key_group(k.key_hash(), max) == group).unwrap().key_hash();
    assert_eq!([2, 3, 4, 5].map(|g| marks.of(key_in(g))), [7, 7, 9, 9]);
    // those ahead are not forgotten by a snapshot before the others have come as far
    m.set(Some(8));
    let mut again = KeyGroupMark::new("reached");
    read(&[file(snapshot(&mut m, 2..6, max))], &(2..6), max, &mut again).unwrap();
    let marks = again.own(2..6, max);
    assert_eq!((marks.least, marks.most), (8, 9));
    assert_eq!(restored(5..9).1.least, 9);
    assert_eq!(KeyGroupMark::new("reached").own(0..3, max).least, i64::MIN);
}

#[derive(Debug, Clone)]
enum Step {
    /// Adds to these keys of a pane.
    Add(u8, Vec<u16>),
    Remove(u8, Vec<u16>),
    /// Drops the first panes.
    Drop(usize),
    /// A snapshot of what changed since the one before it; false: it does not complete, the next one holds it, too.
    Snapshot(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || prop::collection::vec(0u16..200, 1..60);
    prop_oneof![
        6 => (0u8..6, keys()).prop_map(|(p, k)| Step::Add(p, k)),
        2 => (0u8..6, keys()).prop_map(|(p, k)| Step::Remove(p, k)),
        2 => (1usize..3).prop_map(Step::Drop),
        4 => any::<bool>().prop_map(Step::Snapshot),
    ]
}

fn changes(table: Box<dyn FrozenTable>, since: Option<u32>, groups: &Range<u32>, max: u32) -> InMemory {
    let (_, meta) = snapshot(&mut Panes::new("p"), groups.clone(), max);
    let mut bytes = Vec::new();
    // small blocks, so that readers of some key groups skip some
    let options = WriteOptions { block: 64, ..WriteOptions::default() };
    let piece = crate::state::file::Piece { table, since };
    write(meta, vec![piece], &options, &mut |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })
    .unwrap();
    InMemory { name: "w".into(), bytes: bytes.into() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Chains of changes: whatever is added, removed and dropped between snapshots, each chain restores what was there,
    /// also when other subtasks read it.
    #[test]
    fn changes_of_panes_come_back(
        steps in prop::collection::vec(step(), 1..40),
        max in 1u32..40,
        readers in 1u32..4,
    ) {
        let (mut state, mut chain, mut completed) = (Panes::new("p"), Vec::new(), None);
        let readers = readers.min(max);
        state.own(0..max);
        for step in steps {
            match step {
                Step::Add(namespace, keys) => for k in keys.into_iter().map(u64::from) {
                    let pane = state.open(i64::from(namespace));
                    *state.upsert_with(pane, &KeyRef::of(&k), || 0) += 1;
                },
                Step::Remove(namespace, keys) => if let Some(pane) = state.find(i64::from(namespace)) {
                    for k in keys.into_iter().map(u64::from) {
                        state.remove(pane, &KeyRef::of(&k));
                    }
                },
                Step::Drop(n) => state.remove_first(n.min(state.panes())),
                Step::Snapshot(completes) => {
                    let expected = contents(&state);
                    let frozen = state.freeze();
                    let history = frozen.history().unwrap().clone();
                    let since = completed.filter(|&c| history.complete_since <= c);
                    let file = changes(frozen, since, &(0..max), max);
                    if since.is_none() {
                        chain.clear();
                    }
                    chain.push(file);
                    let mut found = Contents::new();
                    for reader in 0..readers {
                        let groups = key_group_range(reader, readers, max);
                        let files: Vec<&dyn ReadAt> = chain.iter().map(|f| f as &dyn ReadAt).collect();
                        let mut restored = Panes::new("p");
                        restore("w", &groups, max, NotDeclared::Refuse, &[&files], &mut [&mut restored]).unwrap();
                        found.extend(contents(&restored));
                    }
                    prop_assert_eq!(found, expected);
                    if completes {
                        completed = Some(history.epoch);
                        history.floor.store(history.epoch, Ordering::Relaxed);
                    } else {
                        chain.pop();
                        if since.is_none() {
                            completed = None;
                        }
                    }
                }
            }
        }
    }
}

/// With several checkpoints under way, the one that completes last may go on from an older base than the one before it.
#[test]
fn a_pane_that_was_forgotten_as_dropped_is_not_told_to_be_known_when_the_floor_goes_back() {
    let mut state = Panes::new("p");
    state.own(0..4);
    let pane = state.open(0);
    *state.upsert_with(pane, &KeyRef::of(&1), || 0) += 1;
    let history = state.freeze().history().unwrap().clone();
    state.remove_first(1);
    assert_eq!((history.epoch, state.freeze().history().unwrap().epoch), (0, 1));
    history.floor.store(1, Ordering::Relaxed);
    state.freeze();
    history.floor.store(0, Ordering::Relaxed);
    assert_eq!(state.freeze().history().unwrap().complete_since, 1, "the drop of epoch 1 is forgotten");
}

#[test]
fn a_pane_that_did_not_change_is_not_written_again() {
    let mut state = Panes::new("p");
    state.own(0..4);
    let fill = |state: &mut Panes, namespace: i64| {
        let pane = state.open(namespace);
        (0..100u64).for_each(|k| *state.upsert_with(pane, &KeyRef::of(&k), || 0) += 1);
    };
    fill(&mut state, 0);
    fill(&mut state, 10);
    let first = state.freeze().history().unwrap().epoch;
    fill(&mut state, 20);
    state.remove_first(1);
    let entries = |table: Box<dyn FrozenTable>, since: u32| {
        let (_, meta) = snapshot(&mut Panes::new("p"), 0..4, 4);
        let piece = crate::state::file::Piece { table, since: Some(since) };
        let written = write(meta, vec![piece], &WriteOptions::default(), &mut |_| Ok(())).unwrap();
        (written.entries, written.removals)
    };
    let frozen = state.freeze();
    let second = frozen.history().unwrap().epoch;
    assert_eq!(entries(frozen, first), (100, 4), "the new pane; the one that is gone, by key group");
    assert_eq!(entries(state.freeze(), second), (0, 0));
}

#[test]
fn a_mark_is_written_when_it_has_changed() {
    let mut mark = KeyGroupMark::new("reached");
    mark.own(0..4, 4);
    mark.set(Some(7));
    let written = |mark: &mut KeyGroupMark, since: Option<u32>| {
        let table = KeyedTable::<u64>::freeze(mark);
        let epoch = table.history().unwrap().epoch;
        (changes(table, since, &(0..4), 4), epoch)
    };
    let (whole, first) = written(&mut mark, None);
    let (same, second) = written(&mut mark, Some(first));
    mark.set(Some(9));
    let (moved, third) = written(&mut mark, Some(second));
    mark.set(None);
    let (ended, _) = written(&mut mark, Some(third));
    let restored = |files: &[&InMemory]| {
        let mut m = KeyGroupMark::new("reached");
        let files: Vec<&dyn ReadAt> = files.iter().map(|f| *f as &dyn ReadAt).collect();
        restore::<u64>("w", &(0..4), 4, NotDeclared::Refuse, &[&files], &mut [&mut m]).unwrap();
        m.own(0..4, 4);
        m.get()
    };
    assert_eq!(restored(&[&whole, &same]), Some(7));
    assert!(same.bytes.len() < whole.bytes.len());
    assert_eq!(restored(&[&whole, &same, &moved]), Some(9));
    assert_eq!(restored(&[&whole, &same, &moved, &ended]), None);
}

#[test]
fn no_mark_at_all_is_what_is_restored_when_that_was_said_last() {
    for groups in [0..4, 0..2] {
        let mut before = KeyGroupMark::new("reached");
        before.own(groups.clone(), 4);
        before.set(Some(7));
        let first = changes(KeyedTable::<u64>::freeze(&mut before), None, &groups, 4);
        // of the second half of the key groups there is none
        let mut mark = KeyGroupMark::new("reached");
        restore::<u64>("w", &(0..4), 4, NotDeclared::Refuse, &[&[&first]], &mut [&mut mark]).unwrap();
        mark.own(0..4, 4);
        let whole = changes(KeyedTable::<u64>::freeze(&mut mark), None, &(0..4), 4);
        mark.set(None);
        let ended = changes(KeyedTable::<u64>::freeze(&mut mark), Some(0), &(0..4), 4);
        let mut again = KeyGroupMark::new("reached");
        restore::<u64>("w", &(0..4), 4, NotDeclared::Refuse, &[&[&whole, &ended]], &mut [&mut again]).unwrap();
        assert_eq!(again.own(0..4, 4).most, i64::MIN, "{groups:?}");
    }
}
