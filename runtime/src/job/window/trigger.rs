//! Triggers: when a window's contents are emitted, and when they are dropped.
use super::assigner::{TimeDomain, TimeWindow};
use crate::data::{Data, DecodeError, Type};
use std::time::Duration;

/// What a trigger wants done with the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerResult {
    Continue,
    /// Emit the contents and keep them.
    Fire,
    /// Drop the contents without emitting them.
    Purge,
    FireAndPurge,
}

impl TriggerResult {
    pub fn fires(self) -> bool {
        matches!(self, Self::Fire | Self::FireAndPurge)
    }
    pub fn purges(self) -> bool {
        matches!(self, Self::Purge | Self::FireAndPurge)
    }
}

/// The timers of one key and window: at most one in each domain. Setting one again moves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TriggerTimers {
    pub event: Option<i64>,
    pub processing: Option<i64>,
}

impl TriggerTimers {
    pub(super) fn of(&self, domain: TimeDomain) -> Option<i64> {
        match domain {
            TimeDomain::EventTime => self.event,
            TimeDomain::ProcessingTime => self.processing,
        }
    }
    pub(super) fn clear(&mut self, domain: TimeDomain) {
        match domain {
            TimeDomain::EventTime => self.event = None,
            TimeDomain::ProcessingTime => self.processing = None,
        }
    }
}

impl Data for TriggerTimers {
    fn encode(&self, out: &mut Vec<u8>) {
        self.event.encode(out);
        self.processing.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { event: Data::decode(input)?, processing: Data::decode(input)? })
    }
    fn type_of() -> Type {
        <(Option<i64>, Option<i64>)>::type_of()
    }
}

/// What a trigger sees of its key and window. Times are ms since the Unix epoch.
pub struct TriggerContext<'a, S> {
    pub window: TimeWindow,
    /// Event time has come so far; `i64::MIN` before the first watermark.
    pub watermark: i64,
    pub processing_time: i64,
    pub state: &'a mut S,
    pub timers: &'a mut TriggerTimers,
}

/// Decides for each key and window when it fires. Implement it for rules of your own.
///
/// A timer calls back once, when its time has come; one in the past calls back at the next watermark or tick. One that is set
/// while the timer of the same time calls back, for a time after that, calls back in the same go if it is due; for that time
/// or one before, at the next watermark or tick. At the end of the input (`i64::MAX`) only those call back that were set
/// before, so a trigger that renews its timer comes to an end.
pub trait Trigger<T>: Clone + Send + Sync + 'static {
    /// What it keeps per key and window, as part of the keyed state.
    type State: Data + Default;
    /// After the record was added to the window.
    fn on_element(&self, record: &T, timestamp: i64, cx: &mut TriggerContext<'_, Self::State>) -> TriggerResult;
    /// The watermark has reached the event-time timer, which was set for `time`.
    fn on_event_time(&self, _time: i64, _cx: &mut TriggerContext<'_, Self::State>) -> TriggerResult {
        TriggerResult::Continue
    }
    /// The clock has reached the processing-time timer, which was set for `time`.
    fn on_processing_time(&self, _time: i64, _cx: &mut TriggerContext<'_, Self::State>) -> TriggerResult {
        TriggerResult::Continue
    }
    /// Two windows have become one (sessions): takes over what the other's state says. The timers are the earlier ones.
    fn on_merge(&self, _other: Self::State, _cx: &mut TriggerContext<'_, Self::State>) {}
    /// The trigger fires at the end of each window in this time, for all keys alike, and again for each record that comes
    /// later, and does nothing else: such windows need no timer per key.
    fn at_end_of_window(&self) -> Option<TimeDomain> {
        None
    }
}

/// Fires when the watermark passes the end of the window, and again for each record that comes within the allowed lateness.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventTime;

impl<T> Trigger<T> for EventTime {
    type State = ();
    fn on_element(&self, _: &T, _: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        if cx.window.max_timestamp() <= cx.watermark {
            return TriggerResult::Fire;
        }
        cx.timers.event = Some(cx.window.max_timestamp());
        TriggerResult::Continue
    }
    fn on_event_time(&self, _: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        if cx.window.max_timestamp() <= cx.watermark {
            return TriggerResult::Fire;
        }
        // the window has grown since: a session
        cx.timers.event = Some(cx.window.max_timestamp());
        TriggerResult::Continue
    }
    fn on_merge(&self, (): (), cx: &mut TriggerContext<'_, ()>) {
        if cx.window.max_timestamp() > cx.watermark {
            cx.timers.event = Some(cx.window.max_timestamp());
        }
    }
    fn at_end_of_window(&self) -> Option<TimeDomain> {
        Some(TimeDomain::EventTime)
    }
}

/// Fires when the wall clock passes the end of the window.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessingTime;

impl<T> Trigger<T> for ProcessingTime {
    type State = ();
    fn on_element(&self, _: &T, _: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        cx.timers.processing = Some(cx.window.max_timestamp());
        TriggerResult::Continue
    }
    fn on_processing_time(&self, _: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        if cx.window.max_timestamp() <= cx.processing_time {
            return TriggerResult::Fire;
        }
        cx.timers.processing = Some(cx.window.max_timestamp());
        TriggerResult::Continue
    }
    fn on_merge(&self, (): (), cx: &mut TriggerContext<'_, ()>) {
        cx.timers.processing = Some(cx.window.max_timestamp());
    }
    fn at_end_of_window(&self) -> Option<TimeDomain> {
        Some(TimeDomain::ProcessingTime)
    }
}

/// The trigger of windows that were given none: the end of the window in the time that the windows go by.
#[derive(Debug, Clone, Copy)]
pub struct DefaultTrigger(pub TimeDomain);

impl<T> Trigger<T> for DefaultTrigger {
    type State = ();
    fn on_element(&self, record: &T, timestamp: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        match self.0 {
            TimeDomain::EventTime => EventTime.on_element(record, timestamp, cx),
            TimeDomain::ProcessingTime => ProcessingTime.on_element(record, timestamp, cx),
        }
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        Trigger::<T>::on_event_time(&EventTime, time, cx)
    }
    fn on_processing_time(&self, time: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        Trigger::<T>::on_processing_time(&ProcessingTime, time, cx)
    }
    fn on_merge(&self, (): (), cx: &mut TriggerContext<'_, ()>) {
        match self.0 {
            TimeDomain::EventTime => Trigger::<T>::on_merge(&EventTime, (), cx),
            TimeDomain::ProcessingTime => Trigger::<T>::on_merge(&ProcessingTime, (), cx),
        }
    }
    fn at_end_of_window(&self) -> Option<TimeDomain> {
        Some(self.0)
    }
}

/// Fires after every so many records of the key and window.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub u64);

impl<T> Trigger<T> for Count {
    type State = u64;
    fn on_element(&self, _: &T, _: i64, cx: &mut TriggerContext<'_, u64>) -> TriggerResult {
        *cx.state += 1;
        if *cx.state < self.0 {
            return TriggerResult::Continue;
        }
        *cx.state = 0;
        TriggerResult::Fire
    }
    fn on_merge(&self, other: u64, cx: &mut TriggerContext<'_, u64>) {
        *cx.state += other;
    }
}

/// The first multiple of `interval` after `time`.
fn next_tick(time: i64, interval: i64) -> i64 {
    time.saturating_sub(time.rem_euclid(interval)).saturating_add(interval)
}
fn interval_ms(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX).max(1)
}
/// A timer for this time is called back: it was for a multiple of the interval, or one has come by now. It is for neither
/// if it was for the end that a session had before it grew.
fn has_ticked(time: i64, now: i64, interval: i64) -> bool {
    next_tick(time.saturating_sub(1), interval) <= now
}

/// Fires at every multiple of an interval of event time, and at the end of the window. A watermark that passes several of
/// them at once fires once.
#[derive(Debug, Clone, Copy)]
pub struct ContinuousEventTime(i64);

impl ContinuousEventTime {
    /// The interval in whole ms, at least 1.
    pub fn every(interval: Duration) -> Self {
        Self(interval_ms(interval))
    }
}

impl<T> Trigger<T> for ContinuousEventTime {
    type State = ();
    fn on_element(&self, _: &T, timestamp: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        let end = cx.window.max_timestamp();
        if end <= cx.watermark {
            return TriggerResult::Fire;
        }
        if cx.timers.event.is_none() {
            cx.timers.event = Some(next_tick(timestamp, self.0).min(end));
        }
        TriggerResult::Continue
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        let end = cx.window.max_timestamp();
        if end <= cx.watermark {
            return TriggerResult::Fire;
        }
        cx.timers.event = Some(next_tick(time.max(cx.watermark), self.0).min(end));
        if has_ticked(time, cx.watermark, self.0) { TriggerResult::Fire } else { TriggerResult::Continue }
    }
}

/// Fires at every multiple of an interval of the wall clock from the first record on, and when the wall clock passes the end
/// of the window.
#[derive(Debug, Clone, Copy)]
pub struct ContinuousProcessingTime(i64);

impl ContinuousProcessingTime {
    /// The interval in whole ms, at least 1.
    pub fn every(interval: Duration) -> Self {
        Self(interval_ms(interval))
    }
    /// The next time to fire after this one: a window that goes by the clock is gone after its end.
    fn after(&self, time: i64, window: TimeWindow) -> i64 {
        let (tick, end) = (next_tick(time, self.0), window.max_timestamp());
        if time < end { tick.min(end) } else { tick }
    }
}

impl<T> Trigger<T> for ContinuousProcessingTime {
    type State = ();
    fn on_element(&self, _: &T, _: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        if cx.timers.processing.is_none() {
            cx.timers.processing = Some(self.after(cx.processing_time, cx.window));
        }
        TriggerResult::Continue
    }
    fn on_processing_time(&self, time: i64, cx: &mut TriggerContext<'_, ()>) -> TriggerResult {
        let now = cx.processing_time;
        cx.timers.processing = Some(self.after(time.max(now), cx.window));
        let over = cx.window.max_timestamp() <= now;
        if over || has_ticked(time, now, self.0) { TriggerResult::Fire } else { TriggerResult::Continue }
    }
}

/// Drops the contents whenever the trigger inside fires.
#[derive(Debug, Clone, Copy)]
pub struct Purging<G>(pub G);

fn purging(r: TriggerResult) -> TriggerResult {
    if r.fires() { TriggerResult::FireAndPurge } else { r }
}

impl<T, G: Trigger<T>> Trigger<T> for Purging<G> {
    type State = G::State;
    fn on_element(&self, record: &T, timestamp: i64, cx: &mut TriggerContext<'_, G::State>) -> TriggerResult {
        purging(self.0.on_element(record, timestamp, cx))
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, G::State>) -> TriggerResult {
        purging(self.0.on_event_time(time, cx))
    }
    fn on_processing_time(&self, time: i64, cx: &mut TriggerContext<'_, G::State>) -> TriggerResult {
        purging(self.0.on_processing_time(time, cx))
    }
    fn on_merge(&self, other: G::State, cx: &mut TriggerContext<'_, G::State>) {
        self.0.on_merge(other, cx);
    }
}
