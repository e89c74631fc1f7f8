use super::*;

#[test]
fn turns_are_taken_in_order_and_those_that_are_given_up_hold_nobody_back() {
    let turns = Arc::new(Turns::default());
    let [first, second, third] = [turns.ticket(), turns.ticket(), turns.ticket()];
    turns.wait(&first).unwrap();
    drop(second);
    let waiting = std::thread::spawn({
        let turns = turns.clone();
        move || turns.wait(&third).map(|()| third)
    });
    drop(first);
    let third = waiting.join().unwrap().unwrap();
    assert!(!turns.is_idle());
    drop(third);
    assert!(turns.is_idle());
}

#[test]
fn only_tables_over_their_part_of_a_full_memory_must_shrink() {
    let memory = ObjectMemory::new(100);
    let (mut a, mut b) = (memory.share(), memory.share());
    assert_eq!((a.set(90), b.set(10)), (None, None));
    assert_eq!((b.set(20), a.set(90)), (None, Some(50)));
    assert_eq!((a.set(50), b.set(51)), (None, Some(50)));
    drop(a);
    assert_eq!((b.set(100), b.set(101)), (None, Some(100)));
}

#[test]
fn what_cannot_leave_memory_is_refused_when_it_is_more_than_there_is_and_lets_tables_shrink_before() {
    let memory = ObjectMemory::new(100 << 20);
    let mut table = memory.share();
    let [mut timers, mut others] = ["the timers \"t\"", "the rest"].map(|what| FixedShare::of(&memory, "legs", what));
    assert_eq!(table.set(60 << 20), None);
    timers.set(50 << 20).unwrap();
    assert_eq!(table.set(60 << 20), Some(50 << 20));
    let mut second = memory.share();
    assert_eq!((second.set(1), table.set(60 << 20)), (None, Some(25 << 20)));
    others.set(50 << 20).unwrap();
    let e = timers.set(51 << 20).unwrap_err();
    assert_eq!(e.code, ErrorCode::Config);
    for part in ["\"legs\"", "timers \"t\" take about 51 MiB", "101 MiB", "100 MiB", "--state-memory-mib) to 303"] {
        assert!(e.message.contains(part), "{part}: {e}");
    }
    drop(others);
    timers.set(99 << 20).unwrap();
}

#[test]
fn keys_of_a_store_are_in_the_order_of_the_hash() {
    let d = StateDescriptor {
        name: "legs".into(),
        kind: crate::checkpoint::handles::StateKind::Value,
        key: crate::data::Type::U64,
        value: crate::data::Type::U64,
    };
    let column = Column::new(Arc::new(d), None);
    let mut list = KeyList::default();
    for (hash, key) in [(1, "b"), (1 << 8, "a"), (u64::MAX, "")] {
        list.push(|out| column.key(hash, |out| out.extend_from_slice(key.as_bytes()), out));
    }
    let keys: Vec<_> = list.iter().collect();
    assert!(keys.is_sorted());
    let parts = KeyParts::of(keys[1], false).unwrap();
    assert_eq!((parts.namespace, parts.hash, parts.key), (None, 1 << 8, b"a".as_slice()));
    assert!(KeyParts::of(&keys[2][..11], false).is_none());
    list.clear();
    for (namespace, hash, key) in [(i64::MIN, 3, "b"), (-1, 2, "a"), (0, 1, "x"), (7, 0, ""), (i64::MAX, 0, "")] {
        list.push(|out| column.pane_key(namespace, hash, |out| out.extend_from_slice(key.as_bytes()), out));
    }
    let keys: Vec<_> = list.iter().collect();
    assert!(keys.is_sorted());
    let parts = KeyParts::of(keys[1], true).unwrap();
    assert_eq!((parts.namespace, parts.hash, parts.key), (Some(-1), 2, b"a".as_slice()));
    assert!(KeyParts::of(&keys[4][..19], true).is_none());
}
