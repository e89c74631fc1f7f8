//! States whose entries expire, against a naive oracle with a time beside each entry.
use super::*;
use crate::data::HASH_VERSION;
use crate::state::file::{Compression, InMemory, NotDeclared, Piece, SnapshotMeta, WriteOptions, restore, write};
use crate::state::{KeyRef, KeyedTable, ListState, MapState, ValueState};
use proptest::prelude::*;
use std::collections::BTreeMap;

const TTL: i64 = 100;

#[derive(Debug, Clone)]
enum Op {
    Set(u16, u8, i32),
    /// Changes in place.
    Mutate(u16, u8, i32),
    Get(u16, u8),
    Remove(u16, u8),
    Advance(i64),
    /// A snapshot, and on from what it holds.
    Restore,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = || (0u16..40, 0u8..4);
    let op = prop_oneof![
        6 => (key(), any::<i32>()).prop_map(|((k, m), v)| Op::Set(k, m, v)),
        4 => (key(), any::<i32>()).prop_map(|((k, m), v)| Op::Mutate(k, m, v)),
        8 => key().prop_map(|(k, m)| Op::Get(k, m)),
        2 => key().prop_map(|(k, m)| Op::Remove(k, m)),
        6 => (0i64..60).prop_map(Op::Advance),
        1 => Just(Op::Restore),
    ];
    prop::collection::vec(op, 0..200)
}

fn ttl(reads: bool, hides: bool) -> StateTtl {
    let update = if reads { TtlUpdate::OnReadAndWrite } else { TtlUpdate::OnCreateAndWrite };
    let never = TtlVisibility::NeverReturnExpired;
    let visibility = if hides { never } else { TtlVisibility::ReturnExpiredIfNotCleanedUp };
    StateTtl::new(Duration::from_millis(TTL as u64)).update(update).visibility(visibility)
}

/// What a snapshot holds of a table: all, or the changes since an epoch; and the number of entries.
fn file(table: &mut dyn KeyedTable<u16>, since: Option<u32>) -> (InMemory, u64) {
    let meta = SnapshotMeta {
        operator: "o".into(),
        hash_version: HASH_VERSION,
        max_parallelism: 8,
        key_groups: 0..8,
        compression: Compression::None,
        states: vec![],
        changes_only: Default::default(),
    };
    let mut bytes = Vec::new();
    let put = &mut |b: &[u8]| {
        bytes.extend_from_slice(b);
        Ok(())
    };
    let piece = Piece { table: table.freeze(), since };
    let written = write(meta, vec![piece], &WriteOptions::default(), put).unwrap();
    (InMemory { name: "f".into(), bytes: bytes.into() }, written.entries)
}

/// What a snapshot of the state holds, in another one.
fn reborn(from: &mut dyn KeyedTable<u16>, into: &mut dyn KeyedTable<u16>) -> u64 {
    let (file, entries) = file(from, None);
    restore("o", &(0..8), 8, NotDeclared::Refuse, &[&[&file]], &mut [into]).unwrap();
    entries
}

/// Entries with the time from which they live.
#[derive(Default)]
struct Oracle {
    all: BTreeMap<(u16, u8), (i32, i64)>,
    now: i64,
    reads: bool,
}

impl Oracle {
    fn live(&self, key: (u16, u8)) -> Option<i32> {
        self.all.get(&key).filter(|e| e.1 + TTL > self.now).map(|e| e.0)
    }
    fn set(&mut self, key: (u16, u8), value: i32) {
        self.all.insert(key, (value, self.now));
    }
    fn read(&mut self, key: (u16, u8)) -> Option<i32> {
        let value = self.live(key)?;
        if self.reads {
            self.set(key, value);
        }
        Some(value)
    }
    /// Right if it is what lives, or (where that may be) what has lived.
    fn agrees(&mut self, hides: bool, key: (u16, u8), seen: Option<i32>) -> bool {
        let had = self.all.get(&key).map(|e| e.0);
        let live = self.read(key);
        seen == live || (!hides && live.is_none() && seen == had)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn values_live_as_long_as_they_should(ops in ops(), reads in any::<bool>(), hides in any::<bool>()) {
        let mut o = Oracle { reads, ..Default::default() };
        let make = || ValueState::<u16, i32>::with_ttl("v", ttl(reads, hides));
        let mut s = make();
        for op in ops {
            match op {
                Op::Set(k, _, v) => {
                    s.update(&KeyRef::of(&k), v);
                    o.set((k, 0), v);
                }
                Op::Mutate(k, _, v) => {
                    let seen = s.get_mut(&KeyRef::of(&k));
                    prop_assert!(o.agrees(hides, (k, 0), seen.as_deref().copied()));
                    if let Some(seen) = seen {
                        *seen = v;
                        o.set((k, 0), v);
                    } else {
                        *s.get_mut_or_default(&KeyRef::of(&k)) += v;
                        o.set((k, 0), v);
                    }
                }
                Op::Get(k, _) => {
                    let seen = s.get(&KeyRef::of(&k)).copied();
                    prop_assert!(o.agrees(hides, (k, 0), seen), "{:?} at {}", seen, o.now);
                }
                Op::Remove(k, _) => {
                    let seen = s.take(&KeyRef::of(&k));
                    prop_assert!(o.agrees(hides, (k, 0), seen));
                    o.all.remove(&(k, 0));
                }
                Op::Advance(by) => {
                    o.now += by;
                    s.tick(o.now);
                }
                Op::Restore => {
                    let mut again = make();
                    again.tick(o.now);
                    reborn(&mut s, &mut again);
                    s = again;
                }
            }
        }
        let now = o.now + TTL;
        s.tick(now);
        prop_assert_eq!(reborn(&mut s, &mut make()), 0, "a snapshot leaves out what has expired");
        (0..64).for_each(|i| s.tick(now + i));
        prop_assert!(s.is_empty(), "cleaned up in the course of time");
    }

    #[test]
    fn entries_of_maps_live_as_long_as_they_should(ops in ops(), reads in any::<bool>(), hides in any::<bool>()) {
        let mut o = Oracle { reads, ..Default::default() };
        let make = || MapState::<u16, u8, i32>::with_ttl("m", ttl(reads, hides));
        let mut s = make();
        for op in ops {
            match op {
                Op::Set(k, m, v) => {
                    let had = o.all.get(&(k, m)).map(|e| e.0);
                    let seen = s.put(&KeyRef::of(&k), m, v);
                    prop_assert!(seen == o.live((k, m)) || (!hides && seen == had));
                    o.set((k, m), v);
                }
                Op::Mutate(k, m, v) => {
                    if let Some(seen) = s.get_mut(&KeyRef::of(&k), &m) {
                        prop_assert!(o.agrees(hides, (k, m), Some(*seen)));
                        *seen = v;
                    } else {
                        prop_assert_eq!(o.live((k, m)), None);
                        *s.get_mut_or_default(&KeyRef::of(&k), &m) += v;
                    }
                    o.set((k, m), v);
                }
                Op::Get(k, m) => {
                    let seen = s.get(&KeyRef::of(&k), &m).copied();
                    prop_assert!(o.agrees(hides, (k, m), seen));
                    let all: BTreeMap<u8, i32> = s.iter(&KeyRef::of(&k)).map(|(m, v)| (*m, *v)).collect();
                    for m in 0..4 {
                        prop_assert!(o.agrees(hides, (k, m), all.get(&m).copied()));
                    }
                }
                Op::Remove(k, m) => {
                    let seen = s.remove(&KeyRef::of(&k), &m);
                    prop_assert!(o.agrees(hides, (k, m), seen));
                    o.all.remove(&(k, m));
                }
                Op::Advance(by) => {
                    o.now += by;
                    s.tick(o.now);
                }
                Op::Restore => {
                    let mut again = make();
                    again.tick(o.now);
                    reborn(&mut s, &mut again);
                    s = again;
                }
            }
        }
        let now = o.now + TTL;
        (0..64).for_each(|i| s.tick(now + i));
        prop_assert!(s.is_empty());
    }

    #[test]
    fn elements_of_lists_live_as_long_as_they_should(ops in ops(), reads in any::<bool>()) {
        let mut all: BTreeMap<u16, Vec<(i32, i64)>> = BTreeMap::new();
        let mut now = 0;
        let make = || ListState::<u16, i32>::with_ttl("l", ttl(reads, true));
        let mut s = make();
        for op in ops {
            all.values_mut().for_each(|l| l.retain(|e| e.1 + TTL > now));
            match op {
                Op::Set(k, 0, v) => {
                    s.update(&KeyRef::of(&k), vec![v, v]);
                    all.insert(k, vec![(v, now); 2]);
                }
                Op::Set(k, _, v) | Op::Mutate(k, _, v) => {
                    s.add(&KeyRef::of(&k), v);
                    all.entry(k).or_default().push((v, now));
                }
                Op::Get(k, _) => {
                    let live = all.entry(k).or_default();
                    prop_assert_eq!(s.get(&KeyRef::of(&k)).to_vec(), live.iter().map(|e| e.0).collect::<Vec<_>>());
                    if reads {
                        live.iter_mut().for_each(|e| e.1 = now);
                    }
                }
                Op::Remove(k, _) => {
                    let live: Vec<i32> = all.remove(&k).unwrap_or_default().iter().map(|e| e.0).collect();
                    prop_assert_eq!(s.take(&KeyRef::of(&k)), live);
                }
                Op::Advance(by) => {
                    now += by;
                    s.tick(now);
                }
                Op::Restore => {
                    let mut again = make();
                    again.tick(now);
                    reborn(&mut s, &mut again);
                    s = again;
                }
            }
        }
        (0..64).for_each(|i| s.tick(now + TTL + i));
        prop_assert!(s.is_empty());
    }
}

#[test]
fn a_clock_that_goes_back_takes_nothing_and_gives_nothing_back() {
    let mut s = ValueState::<u16, i32>::with_ttl("v", ttl(false, true));
    s.tick(1000);
    s.update(&KeyRef::of(&1), 7);
    s.tick(500);
    assert_eq!(s.get(&KeyRef::of(&1)), Some(&7));
    s.tick(1000 + TTL);
    s.tick(600);
    assert_eq!(s.get(&KeyRef::of(&1)), None);
}

#[test]
fn each_tick_cleans_up_a_part() {
    let mut s = ValueState::<u16, i32>::with_ttl("v", ttl(false, false));
    s.tick(1);
    (0..60_000u16).for_each(|k| s.update(&KeyRef::of(&k), 1));
    s.tick(1 + TTL);
    let left = s.len();
    assert!(left > 30_000 && left < 60_000, "{left}");
    for i in 0..200 {
        s.tick(2 + TTL + i);
    }
    assert!(s.is_empty());
}

#[test]
fn a_value_that_has_expired_does_not_come_back_as_what_it_was_in_an_earlier_snapshot() {
    // so many that a tick cleans up a part of them
    const KEYS: u16 = 60_000;
    let make = || ValueState::<u16, i32>::with_ttl("v", ttl(false, false));
    let mut s = make();
    s.tick(1);
    (0..KEYS).for_each(|k| s.update(&KeyRef::of(&k), 1));
    let (base, _) = file(&mut s, None);
    s.tick(2);
    (0..KEYS).for_each(|k| s.update(&KeyRef::of(&k), 2));
    s.tick(2 + TTL);
    // of the others, which are removed, a snapshot tells or says that it cannot
    let still: Vec<u16> = (0..KEYS).filter(|k| s.get(&KeyRef::of(k)) == Some(&2)).collect();
    assert!(still.len() > usize::from(KEYS) / 2);
    let (changes, _) = file(&mut s, Some(0));
    let mut again = make();
    restore("o", &(0..8), 8, NotDeclared::Refuse, &[&[&base, &changes]], &mut [&mut again]).unwrap();
    assert_eq!(still.iter().filter(|k| again.get(&KeyRef::of(k)).is_some()).count(), 0);
}

/// They are encoded alike.
#[test]
fn a_state_of_pairs_is_not_taken_for_one_with_times() {
    fn refused(mut from: impl KeyedTable<u16>, mut into: impl KeyedTable<u16>) {
        let (file, _) = file(&mut from, None);
        let e = restore("o", &(0..8), 8, NotDeclared::Refuse, &[&[&file]], &mut [&mut into]).unwrap_err();
        assert_eq!(e.code, crate::error::ErrorCode::Incompatible);
        assert!(e.message.contains("(i64, i32)") && e.message.contains("time-to-live"), "{e}");
    }
    let pairs = || ValueState::<u16, (i64, i32)>::new("s");
    let times = || ValueState::<u16, i32>::with_ttl("s", ttl(false, true));
    refused(pairs(), times());
    refused(times(), pairs());
    refused(ListState::<u16, (i64, i32)>::new("s"), ListState::<u16, i32>::with_ttl("s", ttl(false, true)));
    let times = MapState::<u16, u8, i32>::with_ttl("s", ttl(false, true));
    refused(times, MapState::<u16, u8, (i64, i32)>::new("s"));
}
