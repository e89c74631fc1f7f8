//! Edges: window bounds, lateness 0, the last watermark, times before 1970 and at the ends of time, missing timestamps.
use super::driver::{Driver, LATE, MAX_PARALLELISM, Rec, listing, run_once, selector};
use crate::data::Key;
use crate::dataflow::{Batch, Output};
use crate::error::ErrorCode;
use crate::graph::{key_group, key_group_range};
use crate::job::keyed_stages::KeyedOperator;
use crate::job::window::assigner::{Aligned, Global, Session, Sliding, TimeDomain, Tumbling, Windows};
use crate::job::window::function::{Aggregate, ReduceWindow};
use crate::job::window::operator::{Spec, WindowOperator};
use crate::job::window::trigger::{DefaultTrigger, EventTime, ProcessingTime, Purging};
use crate::state::AggregateFunction;
use std::marker::PhantomData;
use std::time::Duration;

const EVENT: DefaultTrigger = DefaultTrigger(TimeDomain::EventTime);

fn spec(windows: impl Into<Windows>, lateness: i64) -> Spec {
    Spec::Time(windows.into(), lateness)
}
fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_record_at_the_bound_is_in_the_next_window_and_the_watermark_at_the_last_ms_fires() {
    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 0), EVENT, 1);
    d.records(&[((1, 1), 0), ((1, 2), 9), ((1, 3), 10), ((1, 4), -1)]);
    d.watermark(8);
    assert_eq!(d.take().0, [(1, -10, 0, vec![4], -1)]);
    d.watermark(9);
    assert_eq!(d.take().0, [(1, 0, 10, vec![1, 2], 9)]);
    // lateness 0: the window of 9 is gone, that of 10 is not
    d.records(&[((1, 5), 9), ((1, 6), 10)]);
    assert_eq!(d.take(), (vec![], vec![((1, 5), 9)]));
    d.watermark(i64::MAX);
    assert_eq!(d.take().0, [(1, 10, 20, vec![3, 6], 19)]);
}

#[test]
fn within_the_lateness_each_late_record_fires_its_key_again() {
    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 5), EVENT, 1);
    d.records(&[((1, 1), 5), ((2, 2), 5)]);
    d.watermark(9);
    assert_eq!(d.take().0.len(), 2);
    d.watermark(13);
    d.records(&[((1, 3), 6), ((3, 4), 7)]);
    assert_eq!(d.take(), (vec![(1, 0, 10, vec![1, 3], 9), (3, 0, 10, vec![4], 9)], vec![]));
    d.watermark(14);
    d.records(&[((1, 5), 6)]);
    assert_eq!(d.take(), (vec![], vec![((1, 5), 6)]));
    assert_eq!(d.held(), 0);
}

#[test]
fn a_window_that_has_fired_does_not_fire_again_after_a_restore() {
    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 50), EVENT, 2);
    d.records(&[((1, 1), 5), ((2, 2), 5), ((3, 3), 5)]);
    d.watermark(20);
    assert_eq!(d.take().0.len(), 3);
    d.restore(3);
    // the sources begin again with an earlier watermark
    d.watermark(15);
    d.watermark(30);
    assert_eq!(d.take(), (vec![], vec![]));
    d.records(&[((2, 4), 6)]);
    assert_eq!(d.take().0, [(2, 0, 10, vec![2, 4], 9)]);
}

#[test]
fn times_at_the_ends_of_time_neither_overflow_nor_hang() {
    let times = [i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 10, i64::MAX - 1, i64::MAX];
    let kinds: [Windows; 4] = [
        Tumbling::of(ms(7)).into(),
        Sliding::of(ms(1000), ms(300)).offset(ms(11)).into(),
        Session::with_gap(ms(5)).into(),
        Global.into(),
    ];
    for windows in kinds {
        for lateness in [0, i64::MAX] {
            let mut d = Driver::new(spec(windows, lateness), EVENT, 1);
            d.records(&times.map(|t| ((1, 1), t)));
            d.watermark(i64::MIN);
            d.watermark(0);
            d.restore(2);
            d.watermark(i64::MAX);
            d.take();
            assert_eq!(d.held(), 0);
        }
    }
}

#[test]
fn a_far_jump_of_the_watermark_looks_only_at_windows_that_exist() {
    let mut d = Driver::new(spec(Sliding::of(ms(2), ms(1)), 0), EVENT, 1);
    d.records(&[((1, 1), 0), ((1, 2), 1_000_000_000_000)]);
    d.watermark(i64::MAX);
    assert_eq!(d.take().0.len(), 4);
}

#[test]
fn the_event_time_trigger_on_windows_of_the_clock_and_the_other_way_round() {
    let windows = Tumbling::of(ms(10)).processing_time();
    let mut d = Driver::new(spec(windows, 0), EventTime, 1);
    d.clock(3);
    d.records(&[((1, 1), 0)]);
    d.watermark(9);
    assert_eq!(d.take().0, [(1, 0, 10, vec![1], 9)]);
    d.clock(10);
    assert_eq!((d.take().0, d.held()), (vec![], 0));

    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 0), ProcessingTime, 1);
    d.clock(3);
    d.records(&[((1, 1), 5)]);
    d.clock(10);
    assert_eq!(d.take().0, [(1, 0, 10, vec![1], 9)]);
    d.watermark(9);
    assert_eq!((d.take().0, d.held()), (vec![], 0));
}

#[test]
fn a_clock_that_is_set_back_does_not_make_records_late() {
    let mut d =
        Driver::new(spec(Tumbling::of(ms(10)).processing_time(), 0), DefaultTrigger(TimeDomain::ProcessingTime), 1);
    d.clock(25);
    d.records(&[((1, 1), 0)]);
    d.clock(2);
    d.records(&[((1, 2), 0)]);
    d.clock(30);
    assert_eq!(d.take(), (vec![(1, 20, 30, vec![1, 2], 29)], vec![]));
}

#[test]
fn windows_of_event_time_without_timestamps_say_what_to_do() {
    let mut operator = WindowOperator::new(selector(), listing(), EVENT, &spec(Tumbling::of(ms(10)), 0), Some(LATE));
    let mut batch = Batch { records: vec![(1, 1)], hashes: vec![1u64.key_hash()], timestamps: vec![] };
    let e = operator.run(&mut batch, &mut Output::new(vec![])).unwrap_err();
    assert_eq!(e.code, ErrorCode::Graph);
    assert!(e.message.contains("timestamps"), "{e}");
}

#[derive(Clone)]
struct Mean;
impl AggregateFunction for Mean {
    type In = Rec;
    type Acc = (i64, i64);
    type Out = i64;
    fn create(&self) -> (i64, i64) {
        (0, 0)
    }
    fn add(&self, acc: &mut (i64, i64), r: Rec) {
        *acc = (acc.0 + r.1, acc.1 + 1);
    }
    fn result(&self, acc: &(i64, i64)) -> i64 {
        acc.0 / acc.1
    }
    fn merge(&self, acc: &mut (i64, i64), other: (i64, i64)) {
        *acc = (acc.0 + other.0, acc.1 + other.1);
    }
}

#[test]
fn aggregate_and_reduce_merge_the_panes_of_a_sliding_window() {
    let records = [((1, 10), 0), ((1, 20), 4), ((1, 60), 12)];
    let sliding = Spec::Time(Windows::Aligned(Aligned::new(10, 5, 0), TimeDomain::EventTime), 0);
    let mean = Aggregate(
        Mean,
        |k: &u64, w: &super::super::TimeWindow, r, out: &mut Output<(u64, i64, i64)>| {
            out.push((*k, w.start, r));
        },
        PhantomData,
    );
    let mut means = run_once(mean, &sliding, EVENT, &records);
    means.sort_unstable();
    assert_eq!(means, [((1, -5, 15), 4), ((1, 0, 15), 9), ((1, 5, 60), 14), ((1, 10, 60), 19)]);
    let sum = ReduceWindow {
        reduce: |a: &mut Rec, b: Rec| a.1 += b.1,
        f: |_: &u64, _: &super::super::TimeWindow, r: &Rec, out: &mut Output<Rec>| out.push(*r),
        types: PhantomData,
    };
    let sums =
        run_once(sum, &Spec::Time(Windows::Aligned(Aligned::new(15, 5, 0), TimeDomain::EventTime), 0), EVENT, &records);
    assert_eq!(
        sums.iter().map(|(r, t)| (r.1, *t)).collect::<Vec<_>>(),
        [(30, 4), (30, 9), (90, 14), (60, 19), (60, 24)]
    );
}

#[test]
fn a_job_that_goes_on_after_its_drained_end_does_not_find_everything_late() {
    let by_clock = Tumbling::of(ms(10)).processing_time();
    for windows in [Windows::from(Tumbling::of(ms(10))), Session::with_gap(ms(10)).into(), by_clock.into()] {
        let mut d = Driver::new(spec(windows, 0), DefaultTrigger(windows.time()), 1);
        d.records(&[((1, 1), 0)]);
        d.watermark(i64::MAX);
        d.end_of_input();
        assert_eq!((d.take().0.len(), d.held()), (1, 0));
        d.restore(1);
        d.records(&[((1, 2), 0)]);
        d.watermark(100);
        d.clock(100);
        assert_eq!(d.take(), (vec![(1, 0, 10, vec![2], 9)], vec![]));
    }
}

/// Keys of two subtasks.
fn keys() -> [u64; 2] {
    [0, 1].map(|subtask| {
        let groups = key_group_range(subtask, 2, MAX_PARALLELISM);
        (0..99u64).find(|k| groups.contains(&key_group(k.key_hash(), MAX_PARALLELISM))).unwrap()
    })
}

#[test]
fn a_record_that_was_late_in_its_subtask_is_late_after_a_rescale_too() {
    let [a, b] = keys();
    for lateness in [0, 5] {
        let mut d = Driver::new(spec(Tumbling::of(ms(10)), lateness), EVENT, 2);
        d.records(&[((a, 1), 12), ((b, 2), 12)]);
        d.watermark_of(0, 20);
        d.watermark_of(1, 12);
        assert_eq!(d.take().0, [(a, 10, 20, vec![1], 19)]);
        d.restore(1);
        d.watermark(12);
        d.records(&[((a, 3), 14), ((b, 4), 14)]);
        let expected = match lateness {
            0 => (vec![], vec![((a, 3), 14)]),
            _ => (vec![(a, 10, 20, vec![1, 3], 19)], vec![]),
        };
        assert_eq!(d.take(), expected, "lateness {lateness}");
        d.watermark(19);
        assert_eq!(d.take(), (vec![(b, 10, 20, vec![2, 4], 19)], vec![]), "lateness {lateness}");
    }
}

#[test]
fn a_window_with_a_trigger_that_was_over_in_its_subtask_is_over_after_a_rescale_too() {
    let [a, b] = keys();
    let tumbling = || Driver::new(spec(Tumbling::of(ms(10)), 0), Purging(EventTime), 2);
    let sessions = || Driver::new(spec(Session::with_gap(ms(8)), 0), Purging(EventTime), 2);
    for (mut d, end) in [(tumbling(), 20), (sessions(), 22)] {
        d.records(&[((a, 1), 12), ((b, 2), 12)]);
        d.watermark_of(0, 22);
        d.watermark_of(1, 12);
        assert_eq!(d.take().0.len(), 1);
        d.restore(1);
        d.watermark(12);
        d.records(&[((a, 3), 14), ((b, 4), 14)]);
        assert_eq!(d.take(), (vec![], vec![((a, 3), 14)]), "{end}");
        d.watermark(30);
        assert_eq!(d.take().0.iter().map(|f| (f.0, f.3.clone())).collect::<Vec<_>>(), [(b, vec![2, 4])], "{end}");
    }
}

#[test]
fn a_drained_end_leaves_nothing_of_what_was_restored_before_it() {
    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 0), EVENT, 2);
    d.records(&[((1, 1), 0)]);
    d.watermark(50);
    d.take();
    d.restore(1);
    d.watermark(i64::MAX);
    d.restore(1);
    d.records(&[((1, 2), 0)]);
    d.watermark(100);
    assert_eq!(d.take(), (vec![(1, 0, 10, vec![2], 9)], vec![]));
}

#[test]
fn time_by_the_clock_goes_on_from_where_it_was_for_any_key() {
    let [a, _] = keys();
    let windows = Tumbling::of(ms(10)).processing_time();
    let mut d = Driver::new(spec(windows, 0), DefaultTrigger(TimeDomain::ProcessingTime), 2);
    d.clock(5);
    d.records(&[((a, 1), 0)]);
    d.clock(10);
    assert_eq!(d.take().0, [(a, 0, 10, vec![1], 9)]);
    d.clock(3);
    d.restore(1);
    d.records(&[((a, 2), 0)]);
    d.clock(10);
    d.clock(20);
    assert_eq!(d.take(), (vec![(a, 10, 20, vec![2], 19)], vec![]));
}
