//! Windows whose state a store keeps against the oracle: nothing, some, or all of it stays in memory between batches; restores from
//! the store's files, from savepoints, in and out of memory, at other parallelisms.
use super::co_group::co_grouped;
use super::driver::{Driver, Fired, LATE, Places, Rec, listing, selector};
use super::oracle::{Kind, Oracle};
use super::properties::{
    CLOCK, EVENT, Event, Odd, Restless, Sum, events, kinds, lateness, play_counted, play_with, spec,
};
use crate::dataflow::Output;
use crate::job::window::TimeWindow;
use crate::job::window::assigner::{CountSpec, TimeDomain};
use crate::job::window::function::Aggregate;
use crate::job::window::operator::{Spec, WindowOperator};
use crate::job::window::trigger::{
    ContinuousEventTime, ContinuousProcessingTime, Count, DefaultTrigger, ProcessingTime, Purging, Trigger,
    TriggerContext, TriggerResult,
};
use crate::state::rocks::factory_for_tests;
use proptest::prelude::*;
use std::time::Duration;

/// Tables may take so many bytes.
fn places(objects: usize) -> Option<Places> {
    let directory = tempfile::tempdir().unwrap();
    Some(Places::new(factory_for_tests(objects, directory.path()), directory))
}

/// None, a few entries, all.
fn objects() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 3 => Just(600), 1 => Just(1 << 30)]
}

fn cases() -> u32 {
    std::env::var("WEIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

fn play<G: Trigger<Rec>>(kind: Kind, time: TimeDomain, late: i64, trigger: G, p: u32, memory: usize, events: &[Event]) {
    let oracle = Oracle::new(kind, time, late, trigger.clone());
    let make = move || WindowOperator::new(selector(), listing(), trigger.clone(), &spec(kind, time, late), Some(LATE));
    play_with(Driver::at(make, p, places(memory)), oracle, |fired| vec![fired], events);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn at_the_end_of_the_window(kind in kinds(), lateness in lateness(), p in 1u32..4, memory in objects(), events in events()) {
        play(kind, EVENT, lateness, DefaultTrigger(EVENT), p, memory, &events);
    }

    #[test]
    fn by_the_clock(kind in kinds().prop_filter("has an end", |k| !matches!(k, Kind::Global)), n in 1u64..6, p in 1u32..4, memory in objects(), events in events()) {
        play(kind, CLOCK, 0, DefaultTrigger(CLOCK), p, memory, &events);
        play(kind, CLOCK, 0, ContinuousProcessingTime::every(Duration::from_millis(n)), p, memory, &events);
    }

    #[test]
    fn by_triggers(kind in kinds(), lateness in lateness(), n in 1u64..6, which in 0..5, p in 1u32..4, memory in objects(), events in events()) {
        match which {
            0 => play(kind, EVENT, lateness, Purging(Count(n)), p, memory, &events),
            1 => play(kind, EVENT, lateness, ContinuousEventTime::every(Duration::from_millis(4 * n)), p, memory, &events),
            2 => play(kind, EVENT, lateness, ProcessingTime, p, memory, &events),
            3 => play(kind, EVENT, lateness, Restless, p, memory, &events),
            _ => play(kind, EVENT, lateness, Odd, p, memory, &events),
        }
    }

    #[test]
    fn counted(size in 1u64..12, slide in 1u64..12, p in 1u32..4, memory in objects(), events in events()) {
        let make = move || {
            let spec = Spec::Count(CountSpec::new(size, slide));
            WindowOperator::new(selector(), listing(), DefaultTrigger(EVENT), &spec, Some(LATE))
        };
        play_counted(Driver::at(make, p, places(memory)), size, slide, &events)?;
    }

    #[test]
    fn aggregated_and_over_two_streams(kind in kinds(), lateness in lateness(), p in 1u32..4, memory in objects(), events in events()) {
        let (spec_of, trigger) = (move || spec(kind, EVENT, lateness), DefaultTrigger(EVENT));
        let emit = |k: &u64, w: &TimeWindow, (sum, n): (i64, i64), out: &mut Output<_>| {
            out.push((*k, w.start, w.end, vec![sum, n]));
        };
        let make = move || {
            let sum = Aggregate(Sum, emit, std::marker::PhantomData);
            WindowOperator::new(selector(), sum, trigger, &spec_of(), Some(LATE))
        };
        let summed = |(k, s, e, v, t): Fired| vec![(k, s, e, vec![v.iter().sum(), v.len() as i64], t)];
        play_with(Driver::at(make, p, places(memory)), Oracle::new(kind, EVENT, lateness, trigger), summed, &events);
        let both = Driver::at(move || co_grouped(trigger, &spec_of()), p, places(memory));
        play_with(both, Oracle::new(kind, EVENT, lateness, trigger), |fired| vec![fired], &events);
    }
}

/// Keys with a value each in a window of 10 ms, of which hardly any stay in memory.
fn filled(keys: u64) -> Driver<super::driver::Operator<DefaultTrigger>> {
    let make = || {
        let spec = spec(Kind::Aligned { size: 10, slide: 10, offset: 0 }, EVENT, 0);
        WindowOperator::new(selector(), listing(), DefaultTrigger(EVENT), &spec, Some(LATE))
    };
    let mut driver = Driver::at(make, 1, places(2_000));
    for batch in 0..keys / 100 {
        let records: Vec<(Rec, i64)> = (batch * 100..batch * 100 + 100).map(|k| ((k, 1), (k % 30) as i64)).collect();
        driver.records(&records);
    }
    driver
}

#[test]
fn a_window_larger_than_memory_fires_once_for_each_key_and_leaves_nothing_behind() {
    let mut driver = filled(6_000);
    assert!(driver.held() < 1_000, "{} of 6000 entries are in memory", driver.held());
    for window in 0..3 {
        driver.watermark(window * 10 + 9);
        let (fired, _) = driver.take();
        let keys: std::collections::BTreeSet<u64> = fired.iter().map(|f| f.0).collect();
        assert_eq!((fired.len(), keys.len()), (2_000, 2_000));
        driver.restore(1 + (window as u32) % 2);
    }
    assert_eq!(driver.held(), 0);
    assert_eq!(driver.namespaces_in_stores(), 0);
}

/// What a batch needs is read before, whatever the order of its times.
#[test]
fn records_of_several_panes_in_one_batch_find_what_their_keys_had() {
    let mut driver = filled(600);
    let again: Vec<(Rec, i64)> = (0..600).rev().map(|k| ((k, 2), (k % 30) as i64)).collect();
    driver.records(&again);
    driver.watermark(i64::MAX);
    let (fired, late) = driver.take();
    assert!(late.is_empty() && fired.len() == 600 && fired.iter().all(|f| f.3 == [1, 2]), "{fired:?}");
}

/// Fires a little after each record.
#[derive(Clone)]
struct Soon;

impl Trigger<Rec> for Soon {
    type State = ();
    fn on_element(&self, _: &Rec, timestamp: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.event = Some(timestamp + 1);
        TriggerResult::Continue
    }
}

/// What is out of date goes when its time comes, and is not renewed, whether or not the sessions stay in memory.
#[test]
fn entries_of_a_stored_session_that_are_out_of_date_are_not_renewed() {
    let mut driver = Driver::at(
        || {
            let spec = spec(Kind::Session { gap: 100 }, EVENT, 0);
            WindowOperator::new(selector(), listing(), Soon, &spec, Some(LATE))
        },
        1,
        places(1 << 30),
    );
    // each of the first three is scheduled for itself, and for the end of the session as it is then: 99, 100, ...
    for t in 0..100 {
        driver.records(&[((1, t), t * 10)]);
        if t < 3 {
            driver.watermark(t * 10 + 1);
        }
    }
    assert!(driver.scheduled() > 1, "nothing is out of date");
    driver.watermark(1_001);
    assert_eq!(driver.scheduled(), 1, "the session is there, and scheduled for its end");
    driver.watermark(2_000);
    assert_eq!((driver.held(), driver.scheduled()), (0, 0));
}
