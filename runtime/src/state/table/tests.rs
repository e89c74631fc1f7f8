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
        2 => Just(Op::Freeze),
        2 => Just(Op::Drop),
    ];
    prop::collection::vec(op, 0..600)
}

fn contents(frozen: &FrozenSegments<Str, i64>) -> HashMap<Str, i64> {
    let mut all = HashMap::new();
    let mut last = None;
    for p in &frozen.parts {
        assert!(last.is_none_or(|l| l < p.first_hash) && p.first_hash <= p.last_hash);
        last = Some(p.last_hash);
        for (k, v) in p.table.iter() {
            assert!((p.first_hash..=p.last_hash).contains(&k.key_hash()), "{k} lies in the wrong segment");
            assert_eq!(all.insert(k.clone(), *v), None);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// The table is a map, whatever it splits into, and a frozen table stays as it was.
    #[test]
    fn behaves_as_a_map_with_snapshots(split_at in 4usize..40, ops in ops(200)) {
        let mut table = SegmentedTable::<Str, i64>::with_split_at(split_at);
        let mut model = HashMap::<Str, i64>::new();
        let mut snapshots = std::collections::VecDeque::new();
        let key = |k: u16| Str::from(format!("key-{k}"));
        for op in ops {
            match op {
                Op::Add(k, v) => {
                    let k = key(k);
                    *table.upsert(k.key_hash(), &k) += v;
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
fn a_write_copies_one_shared_segment_and_takes_a_released_one_back() {
    let mut table = SegmentedTable::<u64, u64>::with_split_at(8);
    for k in 0..1000u64 {
        *table.upsert(k.key_hash(), &k) = k;
    }
    let shared = |t: &SegmentedTable<u64, u64>| t.segments.iter().filter(|s| s.shared.is_some()).count();
    let frozen = table.freeze();
    let all = table.segments();
    assert_eq!(shared(&table), all);
    assert!(table.get(1u64.key_hash(), &1).is_some());
    assert_eq!(table.remove(5000u64.key_hash(), &5000), None);
    assert_eq!(table.get_mut(5000u64.key_hash(), &5000), None);
    assert_eq!(shared(&table), all, "reads and misses copy nothing");

    // two keys of different segments that are not full (a full one splits)
    let roomy = |t: &SegmentedTable<u64, u64>, not: usize| {
        (0..1000u64).find(|k| {
            let at = t.segment_of(k.key_hash());
            at != not && t.segments[at].readable().len() < 8
        })
    };
    let address = |t: &SegmentedTable<u64, u64>, k: u64| t.get(k.key_hash(), &k).map(std::ptr::from_ref);

    let one = roomy(&table, usize::MAX).unwrap();
    let before = address(&table, one);
    *table.upsert(one.key_hash(), &one) += 1;
    assert_eq!(shared(&table), all - 1);
    assert_ne!(address(&table, one), before, "copied");

    let two = roomy(&table, table.segment_of(one.key_hash())).unwrap();
    let before = address(&table, two);
    drop(frozen);
    *table.upsert(two.key_hash(), &two) += 1;
    assert_eq!(shared(&table), all - 2);
    assert_eq!(address(&table, two), before, "taken back as it was");
}

#[test]
fn removal_gives_memory_back() {
    let mut table = SegmentedTable::<u64, u64>::default();
    for k in 0..20_000u64 {
        table.upsert(k.key_hash(), &k);
    }
    let room = |t: &SegmentedTable<u64, u64>| t.segments.iter().map(|s| s.table.capacity()).sum::<usize>();
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
    assert!(table.segments.iter().all(|s| s.table.len() <= 64));
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
