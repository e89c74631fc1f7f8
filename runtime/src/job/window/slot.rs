//! What windows with triggers keep per key and window, and when to look at it again.
use super::assigner::{TimeDomain, TimeWindow};
use super::function::WindowFunction;
use super::trigger::{Trigger, TriggerContext, TriggerResult, TriggerTimers};
use crate::data::{Data, DecodeError, Type};
use crate::dataflow::Output;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Accumulator, trigger state and timers of one key and window.
#[derive(Debug, Clone)]
pub(super) struct Slot<A, S> {
    /// None after a purge.
    pub acc: Option<A>,
    pub trigger: S,
    pub timers: TriggerTimers,
}

impl<A, S: Default> Default for Slot<A, S> {
    fn default() -> Self {
        Self { acc: None, trigger: S::default(), timers: TriggerTimers::default() }
    }
}

impl<A: Data, S: Data> Data for Slot<A, S> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.acc.encode(out);
        self.trigger.encode(out);
        self.timers.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { acc: Data::decode(input)?, trigger: Data::decode(input)?, timers: Data::decode(input)? })
    }
    fn type_of() -> Type {
        <(Option<A>, S, TriggerTimers)>::type_of()
    }
}

/// How far the clocks have come: all of these milliseconds are over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    pub watermark: i64,
    pub processing: i64,
}

impl Clocks {
    pub const START: Self = Self { watermark: i64::MIN, processing: i64::MIN };
    pub fn of(&self, domain: TimeDomain) -> i64 {
        match domain {
            TimeDomain::EventTime => self.watermark,
            TimeDomain::ProcessingTime => self.processing,
        }
    }
    /// These, with one of them at `now`.
    pub fn at(self, domain: TimeDomain, now: i64) -> Self {
        match domain {
            TimeDomain::EventTime => Self { watermark: now, ..self },
            TimeDomain::ProcessingTime => Self { processing: now, ..self },
        }
    }
}

/// Trigger and window function of an operator, with the clocks: what happens to a slot.
pub(super) struct Rules<'a, W, G> {
    pub function: &'a W,
    pub trigger: &'a G,
    pub clocks: Clocks,
}

impl<W: WindowFunction, G: Trigger<W::In>> Rules<'_, W, G> {
    fn cx<'s>(&self, window: TimeWindow, slot: &'s mut Slot<W::Acc, G::State>) -> TriggerContext<'s, G::State> {
        TriggerContext {
            window,
            watermark: self.clocks.watermark,
            processing_time: self.clocks.processing,
            state: &mut slot.trigger,
            timers: &mut slot.timers,
        }
    }

    /// Adds a record and asks the trigger.
    pub fn add(
        &self,
        record: W::In,
        timestamp: i64,
        window: TimeWindow,
        slot: &mut Slot<W::Acc, G::State>,
    ) -> TriggerResult {
        let result = self.trigger.on_element(&record, timestamp, &mut self.cx(window, slot));
        self.function.add(slot.acc.get_or_insert_with(|| self.function.create()), record);
        result
    }

    /// Calls the trigger for the event-time timer if it is due and the window is still there then.
    pub fn event_timer(
        &self,
        window: TimeWindow,
        cleanup: i64,
        slot: &mut Slot<W::Acc, G::State>,
    ) -> Option<(i64, TriggerResult)> {
        let time = slot.timers.event.filter(|&t| t <= self.clocks.watermark && t <= cleanup)?;
        slot.timers.event = None;
        Some((time, self.trigger.on_event_time(time, &mut self.cx(window, slot))))
    }

    /// As [`Self::event_timer`], for processing time.
    pub fn processing_timer(
        &self,
        window: TimeWindow,
        cleanup: i64,
        slot: &mut Slot<W::Acc, G::State>,
    ) -> Option<(i64, TriggerResult)> {
        let time = slot.timers.processing.filter(|&t| t <= self.clocks.processing && t <= cleanup)?;
        slot.timers.processing = None;
        Some((time, self.trigger.on_processing_time(time, &mut self.cx(window, slot))))
    }

    /// Merges another window's slot into that of the window that covers both.
    pub fn merge(&self, window: TimeWindow, slot: &mut Slot<W::Acc, G::State>, other: Slot<W::Acc, G::State>) {
        slot.acc = match (slot.acc.take(), other.acc) {
            (Some(mut a), Some(b)) => {
                self.function.merge(&mut a, b);
                Some(a)
            }
            (a, b) => a.or(b),
        };
        let earlier = |a: Option<i64>, b: Option<i64>| a.into_iter().chain(b).min();
        slot.timers = TriggerTimers {
            event: earlier(slot.timers.event, other.timers.event),
            processing: earlier(slot.timers.processing, other.timers.processing),
        };
        self.trigger.on_merge(other.trigger, &mut self.cx(window, slot));
    }

    /// Does what the trigger said. `time` is that of the record or timer; results of a window without an end carry it.
    pub fn act(
        &self,
        result: TriggerResult,
        time: i64,
        key: &W::Key,
        window: TimeWindow,
        slot: &mut Slot<W::Acc, G::State>,
        out: &mut Output<W::Out>,
    ) {
        if result.fires()
            && let Some(acc) = &slot.acc
        {
            set_time(out, window, time);
            self.function.emit(key, &window, acc, out);
        }
        if result.purges() {
            slot.acc = None;
        }
    }
}

/// Results carry the last time of their window; where that is no time, the time at which they came about; where the stream
/// has no times (`i64::MIN`), none.
pub(super) fn set_time<T: Clone>(out: &mut Output<T>, window: TimeWindow, time: i64) {
    if window != TimeWindow::ALL {
        out.set_timestamp(window.max_timestamp());
    } else if time == i64::MIN {
        out.erase_timestamp();
    } else {
        out.set_timestamp(time);
    }
}

/// Keys that a store is asked for at once while timers fire.
pub(super) const AHEAD: usize = if cfg!(test) { 3 } else { 512 };

/// Timers that fire in one go where a store keeps slots.
pub(super) const AT_ONCE: usize = if cfg!(test) { 2 } else { 4096 };

/// Bytes that a key has besides its own size.
pub(super) fn key_heap<K: Data>(key: &K) -> usize {
    if !std::mem::needs_drop::<K>() {
        return 0;
    }
    let mut bytes = Vec::new();
    key.encode(&mut bytes);
    bytes.len() * 5 / 4 + 16
}

/// When to look at something again: an entry may be out of date, so who takes it out asks whether it still holds.
pub(super) struct Schedule<E>(BinaryHeap<Reverse<Due<E>>>);

struct Due<E> {
    time: i64,
    what: E,
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.time == other.time
    }
}
impl<E> Eq for Due<E> {}
impl<E> PartialOrd for Due<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Due<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.time.cmp(&other.time)
    }
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<E> Schedule<E> {
    pub fn push(&mut self, time: i64, what: E) {
        self.0.push(Reverse(Due { time, what }));
    }
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The earliest time.
    pub fn next(&self) -> Option<i64> {
        self.0.peek().map(|d| d.0.time)
    }
    /// Some of those that are not after `now`, up to so many: the earliest, as a rule.
    pub fn due(&self, now: i64, most: usize) -> Vec<E>
    where
        E: Clone,
    {
        let all = self.0.as_slice();
        // an entry's children in the heap are not earlier than it
        let (mut at, mut turn, mut due) = (vec![0], 0, Vec::new());
        while let Some(&i) = at.get(turn)
            && due.len() < most
        {
            turn += 1;
            if let Some(Reverse(d)) = all.get(i).filter(|d| d.0.time <= now) {
                due.push(d.what.clone());
                at.extend([2 * i + 1, 2 * i + 2]);
            }
        }
        due
    }
    /// About so many bytes does it take; `heap` says how many an entry has besides its own.
    pub fn bytes(&self, heap: impl Fn(&E) -> usize) -> usize {
        const SAMPLE: usize = 16;
        let sample = self.0.as_slice().iter().take(SAMPLE);
        let besides = sample.map(|Reverse(d)| heap(&d.what)).sum::<usize>() / self.0.len().clamp(1, SAMPLE);
        // a vector that grows by doubling
        self.0.len() * (size_of::<Due<E>>() * 3 / 2 + besides)
    }
    /// Takes out the earliest if it is not after `now`.
    pub fn pop(&mut self, now: i64) -> Option<(i64, E)> {
        self.next().filter(|&t| t <= now)?;
        self.0.pop().map(|Reverse(d)| (d.time, d.what))
    }
}
