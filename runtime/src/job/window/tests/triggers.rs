//! Triggers of the library at the end of their windows.
use super::driver::{Driver, Fired};
use crate::job::window::assigner::{Session, Tumbling, Windows};
use crate::job::window::operator::Spec;
use crate::job::window::trigger::{ContinuousEventTime, ContinuousProcessingTime, Purging};
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
    for t in (0..50).step_by(4) {
        d.clock(t);
        d.records(&[((1, t), 0)]);
    }
    assert_eq!(d.take().0.len(), 2, "at 20 and 40");
    d.clock(60);
    assert_eq!((d.take().0.len(), d.held()), (1, 0));
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
