//! Triggers of the library at the end of their windows, and triggers of a user's own that renew or move their timers.
use super::driver::{Driver, Fired, Rec};
use crate::job::window::assigner::{Global, Session, Tumbling, Windows};
use crate::job::window::operator::Spec;
use crate::job::window::trigger::{
    ContinuousEventTime, ContinuousProcessingTime, Purging, Trigger, TriggerContext, TriggerResult,
};
use std::time::Duration;

fn spec(windows: impl Into<Windows>, lateness: i64) -> Spec {
    Spec::Time(windows.into(), lateness)
}
fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
fn values(fired: Vec<Fired>) -> Vec<Vec<i64>> {
    fired.into_iter().map(|f| f.3).collect()
}

#[test]
fn a_window_of_the_clock_that_fires_at_every_tick_fires_its_tail_too() {
    for (every, first) in [(4, true), (10, false), (25, false)] {
        let trigger = Purging(ContinuousProcessingTime::every(ms(every)));
        let mut d = Driver::new(spec(Tumbling::of(ms(10)).processing_time(), 0), trigger, 1);
        d.clock(1);
        d.records(&[((1, 1), 0)]);
        d.clock(9);
        assert_eq!(values(d.take().0), if first { vec![vec![1]] } else { vec![] }, "every {every} ms");
        d.records(&[((1, 2), 0)]);
        d.clock(30);
        assert_eq!(values(d.take().0), [if first { vec![2] } else { vec![1, 2] }], "every {every} ms");
        assert_eq!(d.held(), 0);
    }
}

#[test]
fn the_end_of_the_input_fires_the_tail_of_a_window_of_the_clock() {
    let trigger = ContinuousProcessingTime::every(ms(10));
    let mut d = Driver::new(spec(Tumbling::of(ms(10)).processing_time(), 0), trigger, 1);
    d.clock(1);
    d.records(&[((1, 1), 0)]);
    d.end_of_input();
    assert_eq!((values(d.take().0), d.held()), (vec![vec![1]], 0));
}

/// An end that a session had before it grew is no time to fire at.
#[test]
fn a_session_that_grows_fires_at_the_ticks_and_at_its_end_alone() {
    let mut d = Driver::new(spec(Session::with_gap(ms(5)), 0), ContinuousEventTime::every(ms(20)), 1);
    for t in (0..50).step_by(4) {
        d.records(&[((1, t), t)]);
        d.watermark(t);
    }
    assert_eq!(d.take().0.len(), 2, "at 20 and 40");
    d.watermark(60);
    assert_eq!((d.take().0.len(), d.held()), (1, 0));

    let windows = Session::with_gap(ms(5)).processing_time();
    let mut d = Driver::new(spec(windows, 0), ContinuousProcessingTime::every(ms(20)), 1);
    for t in (4..50).step_by(4) {
        d.clock(t);
        d.records(&[((1, t), 0)]);
    }
    assert_eq!(d.take().0.len(), 2, "at 20 and 40");
    d.clock(60);
    assert_eq!((d.take().0.len(), d.held()), (1, 0));
}

/// Sets its timers anew whenever they call back, for so much later.
#[derive(Clone)]
struct Renew(i64);

impl Trigger<Rec> for Renew {
    type State = ();
    fn on_element(&self, _: &Rec, timestamp: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.event.get_or_insert(timestamp + 1);
        TriggerResult::Continue
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.event = Some(time.saturating_add(self.0));
        TriggerResult::Fire
    }
}

/// As [`Renew`], by the clock.
#[derive(Clone)]
struct RenewByClock(i64);

impl Trigger<Rec> for RenewByClock {
    type State = ();
    fn on_element(&self, _: &Rec, _: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.processing.get_or_insert(cx.processing_time + 1);
        TriggerResult::Continue
    }
    fn on_processing_time(&self, time: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.processing = Some(time.saturating_add(self.0));
        TriggerResult::Fire
    }
}

/// Windows in which event-time timers live as long as time.
fn endless() -> [Windows; 3] {
    let by_clock = [Tumbling::of(ms(10)).processing_time().into(), Session::with_gap(ms(10)).processing_time().into()];
    [Global.into(), by_clock[0], by_clock[1]]
}

#[test]
fn a_timer_that_is_renewed_for_ever_calls_back_once_at_the_end_of_the_input() {
    for (windows, step) in endless().into_iter().flat_map(|w| [(w, 1), (w, 0), (w, -3)]) {
        let mut d = Driver::new(spec(windows, 0), Renew(step), 1);
        d.records(&[((1, 1), 0), ((2, 2), 5)]);
        d.watermark(i64::MAX);
        assert_eq!(values(d.take().0), [[1], [2]], "{windows:?}, {step}");
    }
}

#[test]
fn a_timer_that_is_set_to_a_time_that_has_come_waits_for_the_next_watermark() {
    let gap: Windows = Session::with_gap(ms(100)).into();
    for windows in endless().into_iter().chain([Tumbling::of(ms(100)).into(), gap]) {
        for step in [0, -3] {
            let mut d = Driver::new(spec(windows, 0), Renew(step), 1);
            d.records(&[((1, 1), 0)]);
            for watermark in [10, 10, 20] {
                d.watermark(watermark);
                assert_eq!(values(d.take().0), [[1]], "{windows:?}, {step}, {watermark}");
            }
            // what waits is part of snapshots
            d.restore(1);
            d.watermark(30);
            assert_eq!(values(d.take().0), [[1]], "{windows:?}, {step}");
        }
        let mut d = Driver::new(spec(windows, 0), Renew(3), 1);
        d.records(&[((1, 1), 0)]);
        d.watermark(10);
        assert_eq!(d.take().0.len(), 4, "{windows:?}: at 1, 4, 7, 10");
    }
}

#[test]
fn a_timer_that_is_set_to_a_time_that_has_come_waits_for_the_next_ms_of_the_clock() {
    let windows: [Windows; 3] = [Global.into(), Tumbling::of(ms(100)).into(), Session::with_gap(ms(100)).into()];
    for windows in windows {
        let mut d = Driver::new(spec(windows, 0), RenewByClock(0), 1);
        d.records(&[((1, 1), 0)]);
        for (clock, fires) in [(5, 1), (5, 0), (6, 1), (9, 1)] {
            d.clock(clock);
            assert_eq!(d.take().0.len(), fires, "{windows:?}, {clock}");
        }
    }
}

/// Fires when nothing has come for a second.
#[derive(Clone)]
struct Quiet;

impl Trigger<Rec> for Quiet {
    type State = ();
    fn on_element(&self, _: &Rec, timestamp: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.event = Some(timestamp + 1_000);
        cx.timers.processing = Some(timestamp + 5_000);
        TriggerResult::Continue
    }
    fn on_event_time(&self, _: i64, _: &mut TriggerContext<'_, ()>) -> TriggerResult {
        TriggerResult::Fire
    }
}

#[test]
fn timers_that_move_with_every_record_leave_nothing_behind() {
    let windows: [Windows; 2] = [Global.into(), Tumbling::of(ms(1_000_000)).into()];
    for windows in windows {
        let mut d = Driver::new(spec(windows, 0), Quiet, 1);
        for t in 0..1_000 {
            d.records(&[((1, t), t), ((2, -t), t)]);
            assert!(d.scheduled() < 30, "{windows:?}: {} entries after {t} records", d.scheduled());
        }
        d.watermark(1_998);
        assert_eq!(d.take().0.len(), 0);
        d.watermark(1_999);
        assert_eq!(d.take().0.len(), 2);
    }
}

/// The clock stands still: timers by the clock outlive their windows.
#[test]
fn windows_that_are_over_take_their_timers_along() {
    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 0), Quiet, 1);
    for t in 0..1_000 {
        d.records(&[((1, t), t), ((2, -t), t)]);
        d.watermark(t);
        assert!(d.scheduled() < 50, "{} entries after {t} records", d.scheduled());
    }
}

/// Fires a little after each record.
#[derive(Clone)]
struct Soon;

impl Trigger<Rec> for Soon {
    type State = ();
    fn on_element(&self, _: &Rec, timestamp: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.event = Some(timestamp + 5);
        TriggerResult::Continue
    }
    fn on_event_time(&self, _: i64, _: &mut TriggerContext<'_, ()>) -> TriggerResult {
        TriggerResult::Fire
    }
}

#[test]
fn a_long_session_with_short_timers_is_scheduled_a_few_times_at_most() {
    for windows in [Session::with_gap(ms(100_000)), Session::with_gap(ms(100_000)).processing_time()] {
        let mut d = Driver::new(spec(windows, 0), Soon, 1);
        for t in (0..10_000).step_by(10) {
            d.records(&[((1, t), t)]);
            d.watermark(t + 6);
            assert_eq!(d.take().0.len(), 1);
            assert!(d.scheduled() < 20, "{} entries at {t}", d.scheduled());
        }
    }
}

#[test]
fn ticks_of_the_clock_go_on_where_a_window_of_event_time_ended_long_ago() {
    let mut d = Driver::new(spec(Tumbling::of(ms(10)), 0), ContinuousProcessingTime::every(ms(100)), 1);
    d.clock(1_010);
    d.records(&[((1, 1), 5)]);
    d.clock(1_100);
    assert_eq!(d.take().0.len(), 0, "the window's end lies in the clock's past");
    d.clock(1_101);
    assert_eq!(values(d.take().0), [[1]]);
}
