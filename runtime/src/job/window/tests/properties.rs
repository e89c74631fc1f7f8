//! Each kind of window with each kind of trigger against the oracle: out-of-order input, lateness, batch sizes, a snapshot
//! and restore at a random place, also at another parallelism.
use super::co_group::{co_grouped, joined, pairs};
use super::driver::{Driver, Fired, LATE, Rec, UnderTest, selector};
use super::oracle::{Kind, Oracle};
use crate::dataflow::Output;
use crate::job::window::TimeWindow;
use crate::job::window::assigner::{Aligned, CountSpec, TimeDomain, Windows};
use crate::job::window::function::Aggregate;
use crate::job::window::operator::Spec;
use crate::job::window::operator::WindowOperator;
use crate::job::window::trigger::{
    ContinuousEventTime, ContinuousProcessingTime, Count, DefaultTrigger, EventTime, ProcessingTime, Purging, Trigger,
    TriggerContext, TriggerResult,
};
use crate::state::AggregateFunction;
use proptest::prelude::*;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Keys, and distances of the timestamps from where event time is.
    Batch(Vec<(u64, i64)>),
    /// Event time goes on by so much; the watermark lags behind by so much.
    Watermark(i64, i64),
    /// The clock goes on by so much.
    Clock(i64),
    /// Snapshot and restore at this parallelism.
    Restore(u32),
}

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    let record = (0u64..7, -80i64..40);
    let event = prop_oneof![
        6 => prop::collection::vec(record, 1..12).prop_map(Event::Batch),
        4 => (0i64..45, 0i64..30).prop_map(|(on, lag)| Event::Watermark(on, lag)),
        2 => (0i64..30).prop_map(Event::Clock),
        1 => (1u32..5).prop_map(Event::Restore),
    ];
    prop::collection::vec(event, 1..60)
}

pub(super) fn aligned() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (1i64..60, -70i64..70).prop_map(|(size, offset)| Kind::Aligned { size, slide: size, offset }),
        (1i64..60, 1i64..40, -70i64..70).prop_map(|(size, slide, offset)| Kind::Aligned { size, slide, offset }),
        (1i64..9, 1i64..9, -5i64..5).prop_map(|(n, slide, offset)| Kind::Aligned { size: n * slide, slide, offset }),
    ]
}

pub(super) fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        3 => aligned(),
        2 => (1i64..25).prop_map(|gap| Kind::Session { gap }),
        1 => Just(Kind::Global),
    ]
}

pub(super) fn lateness() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1i64..60]
}

pub(super) fn spec(kind: Kind, time: TimeDomain, lateness: i64) -> Spec {
    let windows = match kind {
        Kind::Aligned { size, slide, offset } => Windows::Aligned(Aligned::new(size, slide, offset), time),
        Kind::Session { gap } => Windows::Session { gap, time },
        Kind::Global => Windows::Global,
    };
    Spec::Time(windows, lateness)
}

/// Plays the events to the operator and to the oracle; compares what fired and what was late after each.
fn play<G: Trigger<Rec>>(kind: Kind, time: TimeDomain, lateness: i64, trigger: G, parallelism: u32, events: &[Event]) {
    let driver = Driver::new(spec(kind, time, lateness), trigger.clone(), parallelism);
    play_with(driver, Oracle::new(kind, time, lateness, trigger), |fired| vec![fired], events);
}

/// The operator emits `expected` of each firing of the oracle.
pub(super) fn play_with<O: UnderTest, G: Trigger<Rec>>(
    mut driver: Driver<O>,
    mut oracle: Oracle<G>,
    expected: impl Fn(Fired) -> Vec<Fired>,
    events: &[Event],
) {
    let by_clock = oracle.time == TimeDomain::ProcessingTime;
    let (mut value, mut event_time, mut watermark, mut clock) = (0, 0, i64::MIN, 0);
    driver.clock(clock);
    oracle.processing(clock - 1);
    let check = |driver: &mut Driver<O>, oracle: &mut Oracle<G>, what: &dyn std::fmt::Debug| {
        let (fired, late) = oracle.take();
        let mut fired: Vec<Fired> = fired.into_iter().flat_map(&expected).collect();
        fired.sort_unstable();
        assert_eq!(driver.take(), (fired, late), "after {what:?}");
    };
    for event in events {
        match event {
            Event::Batch(records) => {
                // a batch is a tick, too: timers in the past call back
                oracle.processing(clock - 1);
                let mut batch = Vec::new();
                for &(key, distance) in records {
                    value += 1;
                    let t = if by_clock { clock } else { event_time + distance };
                    batch.push(((key, value), t));
                    oracle.record((key, value), t);
                }
                driver.records(&batch);
            }
            Event::Watermark(on, lag) => {
                event_time += on;
                watermark = watermark.max(event_time - lag);
                oracle.watermark(watermark);
                driver.watermark(watermark);
            }
            Event::Clock(on) => {
                clock += on;
                oracle.processing(clock - 1);
                driver.clock(clock);
            }
            Event::Restore(parallelism) => driver.restore(*parallelism),
        }
        check(&mut driver, &mut oracle, event);
    }
    if by_clock {
        oracle.processing(i64::MAX);
        driver.end_of_input();
    } else {
        oracle.watermark(i64::MAX);
        driver.watermark(i64::MAX);
    }
    check(&mut driver, &mut oracle, &"the end");
    assert_eq!(driver.held(), 0, "state is left behind");
}

/// A rule of a user's own: fires for each third record, purges for each seventh, and 20 ms of event time after the first.
#[derive(Debug, Clone)]
pub(super) struct Odd;

impl Trigger<Rec> for Odd {
    type State = Option<i64>;
    fn on_element(&self, record: &Rec, timestamp: i64, cx: &mut TriggerContext<'_, Option<i64>>) -> TriggerResult {
        if cx.state.is_none() {
            *cx.state = Some(timestamp);
            cx.timers.event = Some(timestamp + 20);
        }
        match record.1 {
            v if v % 21 == 0 => TriggerResult::FireAndPurge,
            v if v % 7 == 0 => TriggerResult::Purge,
            v if v % 3 == 0 => TriggerResult::Fire,
            _ => TriggerResult::Continue,
        }
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, Option<i64>>) -> TriggerResult {
        if cx.state.is_some_and(|first| time < first + 40) {
            cx.timers.event = Some(time + 10);
        }
        TriggerResult::Fire
    }
    fn on_merge(&self, other: Option<i64>, cx: &mut TriggerContext<'_, Option<i64>>) {
        *cx.state = (*cx.state).min(other);
    }
}

/// Moves its timer with each record; sets it anew a few times as it calls back: for then, for later, for before.
#[derive(Debug, Clone)]
pub(super) struct Restless;

impl Trigger<Rec> for Restless {
    type State = i64;
    fn on_element(&self, record: &Rec, timestamp: i64, cx: &mut TriggerContext<'_, i64>) -> TriggerResult {
        cx.timers.event = Some(timestamp + 9 - 4 * (record.1 % 5)).filter(|_| record.1 % 11 > 0);
        TriggerResult::Continue
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, i64>) -> TriggerResult {
        *cx.state += 1;
        cx.timers.event = [None, Some(time), Some(time + 4), Some(time - 3), Some(time + 40)][(*cx.state % 5) as usize];
        TriggerResult::Fire
    }
    fn on_merge(&self, other: i64, cx: &mut TriggerContext<'_, i64>) {
        *cx.state += other;
    }
}

pub(super) const EVENT: TimeDomain = TimeDomain::EventTime;
pub(super) const CLOCK: TimeDomain = TimeDomain::ProcessingTime;

#[derive(Clone)]
pub(super) struct Sum;
impl AggregateFunction for Sum {
    type In = Rec;
    type Acc = (i64, i64);
    type Out = (i64, i64);
    fn create(&self) -> (i64, i64) {
        (0, 0)
    }
    fn add(&self, acc: &mut (i64, i64), r: Rec) {
        *acc = (acc.0 + r.1, acc.1 + 1);
    }
    fn result(&self, acc: &(i64, i64)) -> (i64, i64) {
        *acc
    }
    fn merge(&self, acc: &mut (i64, i64), other: (i64, i64)) {
        *acc = (acc.0 + other.0, acc.1 + other.1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn at_the_end_of_the_window(kind in kinds(), lateness in lateness(), p in 1u32..4, events in events()) {
        play(kind, EVENT, lateness, DefaultTrigger(EVENT), p, &events);
    }

    #[test]
    fn by_the_clock(kind in kinds().prop_filter("has an end", |k| !matches!(k, Kind::Global)), n in 1u64..6, p in 1u32..4, events in events()) {
        play(kind, CLOCK, 0, DefaultTrigger(CLOCK), p, &events);
        play(kind, CLOCK, 0, Purging(Count(n)), p, &events);
        play(kind, CLOCK, 0, Restless, p, &events);
        play(kind, CLOCK, 0, ContinuousProcessingTime::every(Duration::from_millis(n)), p, &events);
    }

    #[test]
    fn by_count(kind in kinds(), lateness in lateness(), n in 1u64..6, purge in any::<bool>(), p in 1u32..4, events in events()) {
        if purge {
            play(kind, EVENT, lateness, Purging(Count(n)), p, &events);
        } else {
            play(kind, EVENT, lateness, Count(n), p, &events);
        }
    }

    #[test]
    fn continuously(kind in kinds(), lateness in lateness(), every in 1u64..30, p in 1u32..4, events in events()) {
        let every = Duration::from_millis(every);
        play(kind, EVENT, lateness, ContinuousEventTime::every(every), p, &events);
        play(kind, EVENT, lateness, ContinuousProcessingTime::every(every), p, &events);
    }

    #[test]
    fn by_rules_of_ones_own(kind in kinds(), lateness in lateness(), p in 1u32..4, events in events()) {
        play(kind, EVENT, lateness, Odd, p, &events);
        play(kind, EVENT, lateness, Restless, p, &events);
        play(kind, EVENT, lateness, Purging(EventTime), p, &events);
    }

    #[test]
    fn counted_windows(size in 1u64..12, slide in 1u64..12, p in 1u32..4, events in events()) {
        let driver = Driver::new(Spec::Count(CountSpec::new(size, slide)), DefaultTrigger(EVENT), p);
        play_counted(driver, size, slide, &events)?;
    }
}

/// Windows of so many records, compared with the records that came.
pub(super) fn play_counted<O: UnderTest>(
    mut driver: Driver<O>,
    size: u64,
    slide: u64,
    events: &[Event],
) -> Result<(), TestCaseError> {
    let mut all: std::collections::BTreeMap<u64, Vec<i64>> = Default::default();
    let mut value = 0;
    for event in events {
        match event {
            Event::Batch(records) => {
                let mut expected = Vec::new();
                let mut batch = Vec::new();
                for &(key, t) in records {
                    value += 1;
                    batch.push(((key, value), t));
                    let seen = all.entry(key).or_default();
                    seen.push(value);
                    if (seen.len() as u64).is_multiple_of(slide) {
                        let from = seen.len().saturating_sub(size as usize);
                        expected.push((key, i64::MIN, i64::MAX, seen[from..].to_vec(), t));
                    }
                }
                driver.records(&batch);
                expected.sort_unstable();
                prop_assert_eq!(driver.take().0, expected);
            }
            Event::Restore(p) => driver.restore(*p),
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Windows of event time that the clock fires.
    #[test]
    fn of_event_time_by_the_clock(kind in kinds(), lateness in lateness(), p in 1u32..4, events in events()) {
        play(kind, EVENT, lateness, ProcessingTime, p, &events);
    }

    /// Incremental aggregates: panes are merged, results are computed of copies.
    #[test]
    fn aggregated(kind in kinds(), lateness in lateness(), n in 1u64..6, p in 1u32..4, events in events()) {
        fn summing<G: Trigger<Rec>>(kind: Kind, lateness: i64, trigger: G, p: u32, events: &[Event]) {
            let (spec, oracle) = (spec(kind, EVENT, lateness), Oracle::new(kind, EVENT, lateness, trigger.clone()));
            let emit = |k: &u64, w: &TimeWindow, (sum, n): (i64, i64), out: &mut Output<_>| {
                out.push((*k, w.start, w.end, vec![sum, n]));
            };
            let make = move || {
                let sum = Aggregate(Sum, emit, std::marker::PhantomData);
                WindowOperator::new(selector(), sum, trigger.clone(), &spec, Some(LATE))
            };
            let summed = |(k, s, e, v, t): Fired| vec![(k, s, e, vec![v.iter().sum(), v.len() as i64], t)];
            play_with(Driver::of(make, p), oracle, summed, events);
        }
        summing(kind, lateness, DefaultTrigger(EVENT), p, &events);
        summing(kind, lateness, Purging(Count(n)), p, &events);
    }

    /// Both streams' records lie in the same windows, which fire as those of one stream would.
    #[test]
    fn co_groups(kind in kinds(), lateness in lateness(), n in 1u64..6, p in 1u32..4, events in events()) {
        fn grouping<G: Trigger<Rec>>(kind: Kind, time: TimeDomain, lateness: i64, trigger: G, p: u32, events: &[Event]) {
            let (spec, oracle) = (spec(kind, time, lateness), Oracle::new(kind, time, lateness, trigger.clone()));
            play_with(Driver::of(move || co_grouped(trigger.clone(), &spec), p), oracle, |fired| vec![fired], events);
        }
        grouping(kind, EVENT, lateness, DefaultTrigger(EVENT), p, &events);
        grouping(kind, EVENT, lateness, Count(n), p, &events);
        grouping(kind, EVENT, lateness, Odd, p, &events);
        if !matches!(kind, Kind::Global) {
            grouping(kind, CLOCK, 0, DefaultTrigger(CLOCK), p, &events);
        }
    }

    #[test]
    fn joins(kind in kinds(), lateness in lateness(), n in 1u64..6, p in 1u32..4, events in events()) {
        fn joining<G: Trigger<Rec>>(kind: Kind, lateness: i64, trigger: G, p: u32, events: &[Event]) {
            let (spec, oracle) = (spec(kind, EVENT, lateness), Oracle::new(kind, EVENT, lateness, trigger.clone()));
            play_with(Driver::of(move || joined(trigger.clone(), &spec), p), oracle, pairs, events);
        }
        joining(kind, lateness, DefaultTrigger(EVENT), p, &events);
        joining(kind, lateness, Purging(Count(n)), p, &events);
    }
}
