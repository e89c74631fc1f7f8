//! State by namespace: like a map of namespaces and keys, through incremental snapshots and other parallelisms.
use super::*;
use crate::dataflow::Output;
use crate::error::Result;
use crate::job::{BroadcastState, KeyedBroadcastProcessFunction, Stream};
use crate::testing::TwoInputHarness;
use std::collections::BTreeMap;

/// What a record does with its key.
#[derive(Debug, Clone, Copy)]
enum Op {
    Add = 0,
    Update,
    Take,
    ClearKey,
}
/// Key, operation, namespace, value.
type Rec = (u64, u8, i64, u64);

/// Does what records say; a broadcast one, of all keys.
struct Obey(NamespacedState<u64, u64>);
impl KeyedBroadcastProcessFunction for Obey {
    type Key = u64;
    type In = Rec;
    /// Whether namespaces before this one are cleared, too.
    type Broadcast = (i64, bool);
    type Out = (u64, i64, Option<u64>);
    type BroadcastKey = u64;
    type BroadcastValue = ();
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn process(
        &mut self,
        key: &KeyRef<'_, u64>,
        &(_, op, namespace, value): &Rec,
        _: &BroadcastState<u64, ()>,
        out: &mut Output<Self::Out>,
    ) -> Result<()> {
        match op {
            x if x == Op::Add as u8 => *self.0.get_mut_or_default(namespace, key) += value,
            x if x == Op::Update as u8 => self.0.update(namespace, key, value),
            x if x == Op::Take as u8 => _ = self.0.take(namespace, key),
            _ => self.0.clear_key(key),
        }
        out.push((*key.key, namespace, self.0.get(namespace, key).copied()));
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        &(namespace, before): &(i64, bool),
        _: &mut BroadcastState<u64, ()>,
        _: &mut Output<Self::Out>,
    ) -> Result<()> {
        match before {
            true => self.0.clear_before(namespace),
            false => self.0.clear_namespace(namespace),
        }
        Ok(())
    }
}

fn harness(parallelism: u32) -> TwoInputHarness<Rec, (i64, bool), (u64, i64, Option<u64>)> {
    TwoInputHarness::with_parallelism(parallelism, |records: Stream<Rec>, clear: Stream<(i64, bool)>| {
        let make = || Obey(NamespacedState::new("by namespace"));
        records.key_by(|r| &r.0).connect_broadcast(&clear).process_function("obey", make)
    })
    .unwrap()
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

#[test]
fn it_is_a_map_of_namespaces_and_keys_through_snapshots_at_any_parallelism() {
    for mut seed in 1..6 {
        let mut expected: BTreeMap<(i64, u64), u64> = BTreeMap::new();
        let mut h = harness(1);
        for round in 0..12 {
            for _ in 0..40 {
                let (namespace, key, value) =
                    (random(&mut seed) as i64 % 9 - 4, random(&mut seed) % 25, random(&mut seed) % 100);
                let mut op = Op::Add;
                match random(&mut seed) % 20 {
                    0 => {
                        h.push2((namespace, true)).unwrap();
                        expected.retain(|(n, _), _| *n >= namespace);
                        continue;
                    }
                    1 => {
                        h.push2((namespace, false)).unwrap();
                        expected.retain(|(n, _), _| *n != namespace);
                        continue;
                    }
                    2 => {
                        op = Op::ClearKey;
                        expected.retain(|(_, k), _| *k != key);
                    }
                    3..=6 => {
                        op = Op::Take;
                        expected.remove(&(namespace, key));
                    }
                    7..=9 => {
                        op = Op::Update;
                        expected.insert((namespace, key), value);
                    }
                    _ => *expected.entry((namespace, key)).or_default() += value,
                }
                h.push1((key, op as u8, namespace, value)).unwrap();
                let is = expected.get(&(namespace, key)).copied();
                assert_eq!(h.output().unwrap(), [(key, namespace, is)], "seed {seed} round {round}: {op:?}");
            }
            // several snapshots of each life: what changed since the one before
            let snapshot = h.snapshot().unwrap();
            let state = h.state("obey", NamespacedState::<u64, u64>::new("by namespace")).unwrap();
            let have: BTreeMap<(i64, u64), u64> =
                state.namespaces().flat_map(|n| state.entries(n).map(move |(k, v)| ((n, *k), *v))).collect();
            assert!(have == expected && state.len() == expected.len(), "seed {seed} round {round}");
            let mut namespaces: Vec<i64> = expected.keys().map(|k| k.0).collect();
            namespaces.dedup();
            assert_eq!(state.namespaces().collect::<Vec<_>>(), namespaces);
            if round % 3 == 2 {
                h = h.restore(&snapshot, [1, 3, 2][random(&mut seed) as usize % 3]).unwrap();
            }
        }
    }
}

#[test]
fn an_emptied_namespace_is_gone_and_comes_back_empty() {
    let mut s = NamespacedState::<u64, u64>::new("s");
    let (a, b) = (KeyRef::of(&1), KeyRef::of(&2));
    s.update(5, &a, 10);
    s.update(7, &a, 11);
    s.update(7, &b, 12);
    s.clear(5, &a);
    assert_eq!(s.namespaces().collect::<Vec<_>>(), [7], "nothing is left in it");
    assert_eq!(s.get(7, &b), Some(&12), "the one behind it has moved");
    s.clear_namespace(7);
    s.clear_namespace(7);
    s.clear_before(100);
    assert!(s.is_empty() && s.get_mut(7, &a).is_none() && s.take(7, &a).is_none());
    assert_eq!(s.get_mut_or_insert_with(7, &a, || 3), &3);
    assert_eq!((s.get(7, &a), s.get(7, &b), s.entries(7).count()), (Some(&3), None, 1));
}
