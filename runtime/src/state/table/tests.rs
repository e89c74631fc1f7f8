use super::*;
use crate::data::{DecodeError, Str, Type};
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Debug, Clone)]
enum Op {
    Add(u16, i64),
    Insert(u16, i64),
    GetMut(u16, i64),
    Remove(u16),
    Clear,
    Freeze,
    /// The snapshot is written: let go of the oldest frozen table.
    Drop,
}

fn ops(keys: u16) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        30 => (0..keys, any::<i8>()).prop_map(|(k, v)| Op::Add(k, v.into())),
        5 => (0..keys, any::<i8>()).prop_map(|(k, v)| Op::Insert(k, v.into())),
        5 => (0..keys, any::<i8>()).prop_map(|(k, v)| Op::GetMut(k, v.into())),
        12 => (0..keys).prop_map(Op::Remove),
        1 => Just(Op::Clear),
        3 => Just(Op::Freeze),
        2 => Just(Op::Drop),
    ];
    prop::collection::vec(op, 0..800)
}

fn contents(frozen: &FrozenSegments<Str, i64>) -> HashMap<Str, i64> {
    let mut all = HashMap::new();
    let mut last = None;
    for p in frozen.parts() {
        assert!(last.is_none_or(|l| l < p.first_hash) && p.first_hash <= p.last_hash);
        last = Some(p.last_hash);
        for s in p.slots(None) {
            let k = &s.key;
            assert!((p.first_hash..=p.last_hash).contains(&k.key_hash()), "{k} lies in the wrong segment");
            assert_eq!(all.insert(k.clone(), s.value), None);
        }
    }
    all
}

/// An earlier table with the changes that a later one tells.
fn changed(frozen: &FrozenSegments<Str, i64>, since: u32, earlier: &HashMap<Str, i64>) -> HashMap<Str, i64> {
    let mut all = earlier.clone();
    for p in frozen.parts() {
        for k in p.removed(since) {
            assert!(p.slots(None).all(|s| s.key != *k), "{k} is there and told as removed");
            all.remove(k);
        }
        let mut once = std::collections::HashSet::new();
        for s in p.slots(Some(since)) {
            assert!(once.insert(s.key.clone()), "{} is told twice", s.key);
            all.insert(s.key.clone(), s.value);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// The table is a map, whatever it splits into; a frozen table stays as it was, and tells what changed since each
    /// earlier one.
    #[test]
    fn behaves_as_a_map_with_snapshots(split_at in 4usize..40, ops in ops(200), floors in any::<bool>()) {
        let mut table = SegmentedTable::<Str, i64>::with_split_at(split_at);
        let mut model = HashMap::<Str, i64>::new();
        let mut snapshots = std::collections::VecDeque::new();
        let mut earlier: Vec<(u32, HashMap<Str, i64>)> = Vec::new();
        let key = |k: u16| Str::from(format!("key-{k}"));
        for op in ops {
            match op {
                Op::Add(k, v) => {
                    let k = key(k);
                    // as an operator does: the short way where there is one
                    table.prefetch(&[k.key_hash()]);
                    match table.single(1) {
                        Some(mut single) => *single.upsert_with(k.key_hash(), &k, i64::default) += v,
                        None => *table.upsert(k.key_hash(), &k) += v,
                    }
                    *model.entry(k).or_default() += v;
                }
                Op::Insert(k, v) => {
                    let k = key(k);
                    prop_assert_eq!(table.insert(k.key_hash(), &k, v), model.insert(k, v));
                }
                Op::GetMut(k, v) => {
                    let k = key(k);
                    let (a, b) = (table.get_mut(k.key_hash(), &k), model.get_mut(&k));
                    prop_assert_eq!(&a, &b);
                    if let (Some(a), Some(b)) = (a, b) {
                        *a = v;
                        *b = v;
                    }
                }
                Op::Remove(k) => {
                    let k = key(k);
                    prop_assert_eq!(table.remove(k.key_hash(), &k), model.remove(&k));
                }
                Op::Clear => {
                    table.clear();
                    model.clear();
                }
                Op::Freeze => {
                    let frozen = table.freeze();
                    prop_assert_eq!(frozen.len(), model.len());
                    let told = frozen.history().clone();
                    for (epoch, before) in &earlier {
                        if *epoch >= told.complete_since {
                            prop_assert_eq!(&changed(&frozen, *epoch, before), &model, "since {}", epoch);
                        }
                    }
                    earlier.push((told.epoch, model.clone()));
                    if floors {
                        // snapshots are relative to the last one but two at most
                        earlier = earlier.split_off(earlier.len().saturating_sub(3));
                        told.floor.store(earlier[0].0, Ordering::Relaxed);
                    }
                    snapshots.push_back((frozen, model.clone()));
                }
                Op::Drop => {
                    snapshots.pop_front();
                }
            }
            prop_assert_eq!(table.len(), model.len());
        }
        for (frozen, then) in &snapshots {
            prop_assert_eq!(&contents(frozen), then);
        }
        let now: HashMap<_, _> = table.iter().map(|(k, v)| (k.clone(), *v)).collect();
        prop_assert_eq!(&now, &model);
        for (k, v) in &model {
            prop_assert_eq!(table.get(k.key_hash(), k), Some(v));
        }
        prop_assert_eq!(contents(&table.freeze()), model);
    }
}

#[test]
fn a_write_after_a_freeze_copies_its_entry_alone_and_a_released_segment_becomes_one_layer_again() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(64);
    for k in 0..1000u64 {
        *table.upsert(k.key_hash(), &k) = k;
    }
    let above = |t: &SegmentedTable<u64, u64>| t.segments.iter().map(|s| s.top.table.len()).sum::<usize>();
    let layered = |t: &SegmentedTable<u64, u64>| t.segments.iter().filter(|s| s.under.is_some()).count();
    let frozen = table.freeze();
    let all = table.segments();
    assert_eq!((layered(&table), above(&table)), (all, 0));
    assert!(table.get(1u64.key_hash(), &1).is_some());
    assert_eq!(table.remove(5000u64.key_hash(), &5000), None);
    assert_eq!(table.get_mut(5000u64.key_hash(), &5000), None);
    assert_eq!((layered(&table), above(&table)), (all, 0), "reads and misses copy nothing");
    for k in 0..20u64 {
        *table.upsert(k.key_hash(), &k) += 1;
        *table.get_mut(k.key_hash(), &k).unwrap() += 1;
    }
    assert_eq!((layered(&table), above(&table)), (all, 20), "each entry is copied once, no segment is");
    assert_eq!(frozen.parts().flat_map(|p| p.slots(None)).map(|s| s.value).sum::<u64>(), 499_500);

    drop(frozen);
    // one round of writes pays for all that lies above
    for k in 0..1000u64 {
        *table.upsert(k.key_hash(), &k) += 1;
    }
    assert_eq!((layered(&table), above(&table)), (0, 1000));
    assert_eq!(table.iter().map(|e| e.1).sum::<u64>(), 499_500 + 40 + 1000);
}

/// What any one write does is bounded: with large segments and a snapshot that is just let go of, no batch moves them all.
#[test]
fn layers_become_one_at_the_pace_of_the_writes() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(512);
    let n = 100_000u64;
    (0..n).for_each(|k| _ = table.upsert(k.key_hash(), &k));
    let frozen = table.freeze();
    (0..n).for_each(|k| *table.upsert(k.key_hash(), &k) += 1);
    drop(frozen);
    let layered = |t: &SegmentedTable<u64, u64>| t.segments.iter().filter(|s| s.under.is_some()).count();
    let before = layered(&table);
    (0..1024u64).for_each(|k| *table.upsert(k.key_hash(), &k) += 1);
    let merged = before - layered(&table);
    assert!(merged > 0 && merged <= (1024 * CREDIT_PER_WRITE + MOST_CREDIT) / 256, "{merged} of {before} in one batch");
    for _ in 0..4 {
        (0..n).for_each(|k| *table.upsert(k.key_hash(), &k) += 1);
    }
    assert_eq!(layered(&table), 0);
}

#[test]
fn removal_gives_memory_back() {
    let mut table = SegmentedTable::<u64, u64>::default();
    for k in 0..20_000u64 {
        table.upsert(k.key_hash(), &k);
    }
    let room = |t: &SegmentedTable<u64, u64>| t.segments.iter().map(|s| s.top.table.capacity()).sum::<usize>();
    assert!(room(&table) >= 20_000);
    for k in 0..20_000u64 {
        assert_eq!(table.remove(k.key_hash(), &k), Some(0));
    }
    assert!(room(&table) <= 64 * table.segments(), "{}", room(&table));
}

/// A subtask of many owns a narrow range of hashes: its table must split as if the range were whole.
#[test]
fn a_narrow_range_of_hashes_still_splits() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(64);
    let mine: Vec<u64> = (0..300_000u64).filter(|k| k.key_hash() >> 54 == 77).collect();
    for k in &mine {
        table.upsert(k.key_hash(), k);
    }
    assert!(table.segments.iter().all(|s| s.top.table.len() <= 64));
}

/// Keys that all hash alike, as nobody's keys should.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Alike(u32);
impl Data for Alike {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        u32::decode(input).map(Self)
    }
    fn type_of() -> Type {
        Type::U32
    }
}
impl Key for Alike {
    fn key_hash(&self) -> u64 {
        42
    }
}

#[test]
fn equal_hashes_are_slow_but_bounded() {
    let mut table = SegmentedTable::<Alike, u32>::with_split_at(16);
    for k in 0..500 {
        *table.upsert(42, &Alike(k)) = k;
    }
    assert_eq!((table.len(), table.get(42, &Alike(123))), (500, Some(&123)));
    assert!(table.directory.len() <= SLOTS_PER_SEGMENT * 32, "{}", table.directory.len());
}

/// The short way to a table of one segment is closed while the segment is frozen or has no room for the batch.
#[test]
fn a_batch_goes_to_a_single_segment_only_where_nothing_has_to_be_prepared() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(64);
    (0..40u64).for_each(|k| *table.upsert(k.key_hash(), &k) = k);
    assert!(table.single(23).is_some());
    assert!(table.single(24).is_none(), "the segment might have to split");
    let frozen = table.freeze();
    assert!(table.single(1).is_none(), "entries have to be copied first");
    *table.upsert(7u64.key_hash(), &7) += 1000;
    assert!(table.single(1).is_none());
    assert_eq!(frozen.parts().flat_map(|p| p.slots(None)).map(|s| s.value).sum::<u64>(), 780);
    drop(frozen);
    (0..40u64).for_each(|k| *table.upsert(k.key_hash(), &k) += 1);
    let mut single = table.single(1).expect("one layer again");
    *single.upsert_with(7u64.key_hash(), &7, || 0) += 1;
    *single.upsert_with(99u64.key_hash(), &99, || 5) += 1;
    assert_eq!(
        (table.len(), table.get(7u64.key_hash(), &7), table.get(99u64.key_hash(), &99)),
        (41, Some(&1009), Some(&6))
    );
}

/// A snapshot of what changed looks at the entries that were written since, not at all of them.
#[test]
fn few_changes_are_told_from_memory() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(512);
    let n = 10_000u64;
    (0..n).for_each(|k| *table.upsert(k.key_hash(), &k) = k);
    let told = |table: &mut SegmentedTable<u64, u64>, since| {
        let frozen = table.freeze();
        let mut keys: Vec<u64> = frozen.parts().flat_map(|p| p.slots(Some(since))).map(|s| s.key).collect();
        keys.sort_unstable();
        keys
    };
    let first = table.freeze().history().epoch;
    // the layers become one again, and all entries are newer than the first freeze
    (0..n).for_each(|k| *table.upsert(k.key_hash(), &k) += 1);
    let second = table.freeze().history().epoch;
    assert_eq!((first, second), (0, 1));
    for k in (0..n).step_by(100) {
        *table.upsert(k.key_hash(), &k) += 1;
        *table.upsert(k.key_hash(), &k) += 1;
    }
    table.remove(300u64.key_hash(), &300);
    table.remove(500u64.key_hash(), &500);
    *table.upsert(500u64.key_hash(), &500) = 1;
    let expected: Vec<u64> = (0..n).step_by(100).filter(|k| *k != 300).collect();
    assert_eq!(told(&mut table, second), expected);
    // later ones, and from further back
    *table.upsert(42u64.key_hash(), &42) += 1;
    assert_eq!(told(&mut table, 2), [42]);
    assert_eq!(told(&mut table, second).len(), expected.len() + 1);
    assert_eq!(told(&mut table, first).len() as u64, n - 1);
}

/// With several checkpoints under way, the one that completes last may go on from an older base than the one before it.
#[test]
fn removals_that_were_forgotten_are_not_told_to_be_known_when_the_floor_goes_back() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(64);
    (0..60u64).for_each(|k| *table.upsert(k.key_hash(), &k) = k);
    let first = table.freeze();
    let (floor, epoch) = (first.history().floor.clone(), first.history().epoch);
    drop(first);
    (0..20u64).for_each(|k| _ = table.remove(k.key_hash(), &k));
    let second = table.freeze().history().epoch;
    assert_eq!((epoch, second), (0, 1));
    floor.store(second, Ordering::Relaxed);
    (20..50u64).for_each(|k| _ = table.remove(k.key_hash(), &k));
    assert_eq!(table.segments(), 1);
    assert!(table.removals() < 50, "some are forgotten");
    floor.store(epoch, Ordering::Relaxed);
    assert_eq!(table.freeze().history().complete_since, second);
}

/// The removals of one snapshot's time may be more than a segment ever has entries.
#[test]
fn keys_that_come_and_go_while_a_snapshot_is_written_leave_nothing_behind() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(64);
    let come_and_go = |table: &mut SegmentedTable<u64, u64>, keys: std::ops::Range<u64>| {
        for k in keys {
            *table.upsert(k.key_hash(), &k) = k;
            assert_eq!(table.remove(k.key_hash(), &k), Some(k));
        }
    };
    *table.upsert(1u64.key_hash(), &1) = 1;
    let frozen = table.freeze();
    come_and_go(&mut table, 2..5002);
    drop(frozen);
    come_and_go(&mut table, 6000..6100);
    assert!(table.removals() <= 64, "{}", table.removals());
    assert_eq!((table.len(), table.get(1u64.key_hash(), &1)), (1, Some(&1)));

    // snapshots that are always under way: what the oldest that counts has seen goes when layers become one
    let mut under_way = std::collections::VecDeque::new();
    for round in 0..40u64 {
        under_way.push_back(table.freeze());
        if under_way.len() > 2 {
            under_way.pop_front();
        }
        let history = under_way[0].history();
        history.floor.store(history.epoch, Ordering::Relaxed);
        come_and_go(&mut table, 10_000 + round * 100..10_100 + round * 100);
    }
    assert!(table.removals() <= 1200, "{}", table.removals());
}
