//! Timers against a naive oracle; snapshots of them.
use super::*;
use crate::state::frozen::Change;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Step {
    Register(u64, bool, i64, u8),
    Delete(u64, bool, i64, u8),
    Watermark(i64),
    Clock(i64),
    /// Snapshot, and restore into this many parts.
    Restore(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let timer = (0u64..6, any::<bool>(), 0i64..50, 0u8..2);
    prop_oneof![
        6 => timer.clone().prop_map(|(k, p, t, n)| Step::Register(k, p, t, n)),
        3 => timer.prop_map(|(k, p, t, n)| Step::Delete(k, p, t, n)),
        1 => (0i64..60).prop_map(Step::Watermark),
        1 => (0i64..60).prop_map(Step::Clock),
        1 => (1u32..4).prop_map(Step::Restore),
    ]
}

fn domain(processing: bool) -> TimeDomain {
    if processing { TimeDomain::Processing } else { TimeDomain::Event }
}

const GROUPS: u32 = 16;

/// The entries of all parts, as new parts of another number.
fn rescale(parts: &mut [Timers<u64, u8>], into: u32) -> Vec<Timers<u64, u8>> {
    let mut entries = Vec::new();
    for part in parts {
        let mut visit = |group: u32, key: &[u8], value: &[u8]| {
            entries.push((group, key.to_vec(), value.to_vec()));
            Ok(())
        };
        part.freeze().for_each(GROUPS, &mut visit).unwrap();
    }
    let restored = |subtask| {
        let owned = crate::graph::key_group_range(subtask, into, GROUPS);
        let mut timers = Timers::new("timers");
        for (group, key, value) in &entries {
            let block = *group..*group + 1;
            let target = RestoreTarget { max_parallelism: GROUPS, change: Change::New, owned: &owned, block };
            timers.restore(&target, RawEntry { key, value }).unwrap();
        }
        timers.restored();
        timers
    };
    (0..into).map(restored).collect()
}

proptest! {
    #[test]
    fn timers_fire_once_in_order_of_time_over_restores_at_any_parallelism(steps in prop::collection::vec(step(), 1..200)) {
        let mut oracle = BTreeSet::new();
        let mut parts = vec![Timers::<u64, u8>::new("timers")];
        for step in steps {
            let part = |key: u64, n: usize| {
                let group = crate::graph::key_group(key.key_hash(), GROUPS);
                (0..n).find(|&s| crate::graph::key_group_range(s as u32, n as u32, GROUPS).contains(&group)).unwrap()
            };
            match step {
                Step::Register(key, p, t, n) => {
                    let at = part(key, parts.len());
                    prop_assert_eq!(parts[at].register(&KeyRef::of(&key), domain(p), t, n), oracle.insert((p, t, key, n)));
                }
                Step::Delete(key, p, t, n) => {
                    let at = part(key, parts.len());
                    prop_assert_eq!(parts[at].delete(&KeyRef::of(&key), domain(p), t, n), oracle.remove(&(p, t, key, n)));
                }
                Step::Watermark(w) => {
                    let mut fired = Vec::new();
                    for part in &mut parts {
                        part.advance(w);
                        let mut last = i64::MIN;
                        while let Some(due) = part.pop_event() {
                            prop_assert!(due.timer.timestamp >= last);
                            last = due.timer.timestamp;
                            fired.push((false, last, due.key, due.timer.namespace));
                        }
                    }
                    let w = parts[0].watermark();
                    let expected: Vec<_> = oracle.extract_if(.., |e| !e.0 && e.1 <= w).collect();
                    fired.sort_unstable();
                    prop_assert_eq!(fired, expected);
                }
                Step::Clock(now) => {
                    let mut fired = Vec::new();
                    for part in &mut parts {
                        while let Some(due) = part.pop_processing(now) {
                            fired.push((true, due.timer.timestamp, due.key, due.timer.namespace));
                        }
                    }
                    let expected: Vec<_> = oracle.extract_if(.., |e| e.0 && e.1 <= now).collect();
                    fired.sort_unstable();
                    prop_assert_eq!(fired, expected);
                    let next = parts.iter().filter_map(Timers::next_processing_time).min();
                    prop_assert!(next <= oracle.iter().find(|e| e.0).map(|e| e.1).or(next));
                }
                Step::Restore(n) => parts = rescale(&mut parts, n),
            }
        }
    }
}

#[test]
fn the_queue_does_not_grow_with_timers_that_are_moved_again_and_again() {
    let mut timers = Timers::new("timers");
    let key = &KeyRef::of(&7u64);
    for t in 0..100_000 {
        timers.delete_event_time(key, t % 1000);
        assert!(timers.register_event_time(key, t % 1000 + 1));
        timers.delete_event_time(key, t % 1000 + 1);
        assert!(timers.register_event_time(key, t % 1000));
        timers.delete_event_time(key, t % 1000);
        timers.register_event_time(key, t % 1000 + 1);
        timers.delete_event_time(key, t % 1000 + 1);
    }
    assert!(timers.event.heap.len() <= STALE + 2, "{}", timers.event.heap.len());
    assert_eq!((timers.event.live, timers.len()), (0, 0));
}

#[test]
fn timers_of_the_same_time_fire_in_the_order_of_registration() {
    let mut timers = Timers::new("timers");
    for key in [3u64, 1, 2] {
        timers.register_event_time(&KeyRef::of(&key), 10);
    }
    timers.advance(10);
    let fired: Vec<u64> = std::iter::from_fn(|| timers.pop_event()).map(|d| d.key).collect();
    assert_eq!(fired, [3, 1, 2]);
}

#[test]
fn a_timer_that_renews_itself_ends_with_the_input() {
    let mut timers = Timers::new("timers");
    let key = &KeyRef::of(&1u64);
    timers.register_event_time(key, 10);
    let renew = |timers: &mut Timers<u64>, w| {
        timers.advance(w);
        let mut fired = Vec::new();
        while let Some(due) = timers.pop_event() {
            fired.push(due.timer.timestamp);
            timers.register_event_time(key, due.timer.timestamp + 10);
        }
        fired
    };
    assert_eq!(renew(&mut timers, 35), [10, 20, 30], "in one go, as far as event time has come");
    assert_eq!(renew(&mut timers, i64::MAX), [40]);
    assert!(timers.is_empty());
}

/// A store keeps other states, not timers: their memory has a bound.
#[cfg(feature = "rocksdb")]
#[test]
fn timers_that_outgrow_the_memory_of_the_state_are_an_error_that_names_them() {
    use crate::state::store::StoreSubtask;
    use weir_api::config::{StateBackend, StateConfig};
    let folder = tempfile::tempdir().unwrap();
    let directory = Some(folder.path().display().to_string());
    let config =
        StateConfig { backend: StateBackend::RocksDb, memory_mib: Some(40), directory, ..StateConfig::default() };
    let about = StoreSubtask {
        operator: "legs",
        subtask: 0,
        key_groups: 0..8,
        max_parallelism: 8,
        states: Vec::new(),
        drop_others: false,
    };
    let store = crate::state::rocks::factory(&config, 1).unwrap().open(&about, &[]).unwrap();
    let mut timers = Timers::<u64>::new("waiting");
    assert!(!timers.attach(&store, true).unwrap());
    let mut keys = 0u64..;
    let e = loop {
        let key = keys.next().unwrap();
        timers.register_event_time(&KeyRef::of(&key), 1);
        if let Err(e) = timers.settle() {
            break e;
        }
    };
    for part in ["\"legs\"", "\"waiting\"", "memoryMib"] {
        assert!(e.message.contains(part), "{e}");
    }
    let registered = keys.start;
    assert!((40_000..400_000).contains(&registered), "{registered} timers in 20 MiB");
    // fired ones are memory again
    timers.advance(1);
    (0..registered / 2).for_each(|_| _ = timers.pop_event());
    timers.settle().unwrap();
}
