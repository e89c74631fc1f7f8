//! What windows with triggers keep per key and window, and what triggers do to it.
use super::assigner::{TimeDomain, TimeWindow};
use super::function::WindowFunction;
use super::trigger::{Trigger, TriggerContext, TriggerResult, TriggerTimers};
use crate::data::{Data, DecodeError, Type};
use crate::dataflow::Output;

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

    /// Calls the trigger for the timer of this domain if it is due and the window is still there then.
    pub fn timer(
        &self,
        domain: TimeDomain,
        window: TimeWindow,
        cleanup: i64,
        slot: &mut Slot<W::Acc, G::State>,
    ) -> Option<(i64, TriggerResult)> {
        let now = self.clocks.of(domain);
        let time = slot.timers.of(domain).filter(|&t| t <= now && t <= cleanup)?;
        slot.timers.clear(domain);
        let result = match domain {
            TimeDomain::EventTime => self.trigger.on_event_time(time, &mut self.cx(window, slot)),
            TimeDomain::ProcessingTime => self.trigger.on_processing_time(time, &mut self.cx(window, slot)),
        };
        Some((time, result))
    }

    /// The timer that was set while one for the time `fired` called back has its turn when this clock goes on the next time:
    /// else a trigger that renews its timer would be called for ever.
    pub fn waits(&self, domain: TimeDomain, fired: i64, slot: &Slot<W::Acc, G::State>) -> bool {
        let now = self.clocks.of(domain);
        slot.timers.of(domain).is_some_and(|t| t <= fired || now == i64::MAX)
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
