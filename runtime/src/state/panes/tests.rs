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

fn read(files: &[InMemory], groups: &Range<u32>, max_parallelism: u32, state: &mut dyn KeyedTable<u64>) -> Result<()> {
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
