//! Tumbling, sliding and global windows with any trigger: a slot per key and window, kept by window.
use super::assigner::{Aligned, TimeDomain, TimeWindow};
use super::function::WindowFunction;
use super::late::Late;
use super::slot::{Clocks, Rules, Schedule, Slot};
use super::trigger::{Trigger, TriggerTimers};
use crate::data::Key;
use crate::dataflow::{Batch, Output};
use crate::job::function::KeySelector;
use crate::state::{KeyRef, KeyedTable, PaneState};

/// A key in the pane of a window.
struct At<K> {
    start: i64,
    hash: u64,
    key: K,
}

pub(super) struct TriggeredEngine<W: WindowFunction, G: Trigger<W::In>> {
    /// None: one window for all time.
    windows: Option<Aligned>,
    time: TimeDomain,
    /// ms
    lateness: i64,
    trigger: G,
    /// By the start of the window, which is its pane.
    state: PaneState<W::Key, Slot<W::Acc, G::State>>,
    clocks: Clocks,
    event_timers: Schedule<At<W::Key>>,
    processing_timers: Schedule<At<W::Key>>,
}

impl<W: WindowFunction, G: Trigger<W::In>> TriggeredEngine<W, G> {
    pub fn new(state: &str, windows: Option<Aligned>, time: TimeDomain, lateness: i64, trigger: G) -> Self {
        Self {
            windows,
            time,
            lateness,
            trigger,
            state: PaneState::new(state),
            clocks: Clocks::START,
            event_timers: Schedule::default(),
            processing_timers: Schedule::default(),
        }
    }

    /// Key groups of the subtask.
    pub fn own(&mut self, key_groups: std::ops::Range<u32>) {
        self.state.own(key_groups);
    }

    pub fn state(&mut self) -> &mut dyn KeyedTable<W::Key> {
        &mut self.state
    }

    /// The slots were restored; the clocks had come so far.
    pub fn restored(&mut self, clocks: Clocks) {
        self.clocks = clocks;
        for pane in 0..self.state.panes() {
            let start = self.state.namespace(pane);
            for (key, slot) in self.state.entries(pane) {
                let at = || At { start, hash: key.key_hash(), key: key.clone() };
                if let Some(t) = slot.timers.event {
                    self.event_timers.push(t, at());
                }
                if let Some(t) = slot.timers.processing {
                    self.processing_timers.push(t, at());
                }
            }
        }
    }

    fn window(windows: Option<Aligned>, start: i64) -> TimeWindow {
        windows.map_or(TimeWindow::ALL, |w| w.window(start))
    }
    fn cleanup(&self, window: TimeWindow) -> i64 {
        window.max_timestamp().saturating_add(self.lateness)
    }
    /// How far the clock has come that the windows go by.
    fn now(&self) -> i64 {
        match self.time {
            TimeDomain::EventTime => self.clocks.watermark,
            TimeDomain::ProcessingTime => self.clocks.processing,
        }
    }

    fn schedule(&mut self, before: TriggerTimers, after: TriggerTimers, at: impl Fn() -> At<W::Key>) {
        if let Some(t) = after.event.filter(|_| after.event != before.event) {
            self.event_timers.push(t, at());
        }
        if let Some(t) = after.processing.filter(|_| after.processing != before.processing) {
            self.processing_timers.push(t, at());
        }
    }

    /// Adds records with these times, which are `i64::MIN` where the stream has none.
    pub fn run<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        batch: &mut Batch<W::In>,
        times: impl Iterator<Item = i64>,
        out: &mut Output<W::Out>,
        late: &mut Late<W::In>,
    ) {
        for ((record, &hash), t) in batch.records.drain(..).zip(&batch.hashes).zip(times) {
            let Some(windows) = self.windows else {
                self.add(selector, f, record, hash, t, 0, out);
                continue;
            };
            let now = self.now();
            let live = |s: &i64| self.cleanup(windows.window(*s)) > now;
            // windows of a record are done with in their order
            let mut starts = windows.starts(t).skip_while(|s| !live(s)).peekable();
            let Some(mut start) = starts.next() else {
                if windows.starts(t).next().is_some() {
                    late.push(record, t);
                }
                continue;
            };
            let rest: Option<(i64, i64)> = starts.peek().map(|&n| (n, windows.last_start(t)));
            if let Some((mut next, last)) = rest {
                loop {
                    self.add(selector, f, record.clone(), hash, t, start, out);
                    start = next;
                    if start >= last {
                        break;
                    }
                    next += windows.slide;
                }
            }
            self.add(selector, f, record, hash, t, start, out);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn add<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        record: W::In,
        hash: u64,
        t: i64,
        start: i64,
        out: &mut Output<W::Out>,
    ) {
        let window = Self::window(self.windows, start);
        let pane = self.state.open(start);
        let key = selector.with_key(&record, W::Key::clone);
        let state = &mut self.state;
        let slot = state.upsert_with(pane, &KeyRef { hash, key: &key }, Slot::default);
        let rules = Rules { function: f, trigger: &self.trigger, clocks: self.clocks };
        let before = slot.timers;
        let result = rules.add(record, t, window, slot);
        rules.act(result, t, &key, window, slot, out);
        let after = slot.timers;
        if before != after {
            self.schedule(before, after, || At { start, hash, key: key.clone() });
        }
    }

    /// The watermark has come so far.
    pub fn advance_watermark(&mut self, watermark: i64, f: &W, out: &mut Output<W::Out>) {
        if watermark < self.clocks.watermark {
            return;
        }
        self.clocks.watermark = watermark;
        while let Some((time, at)) = self.event_timers.pop(watermark) {
            self.timer(time, at, TimeDomain::EventTime, f, out);
        }
        self.clean();
    }

    /// The clock has come so far: this millisecond is over.
    pub fn advance_processing(&mut self, now: i64, f: &W, out: &mut Output<W::Out>) {
        if now < self.clocks.processing {
            return;
        }
        self.clocks.processing = now;
        while let Some((time, at)) = self.processing_timers.pop(now) {
            self.timer(time, at, TimeDomain::ProcessingTime, f, out);
        }
        self.clean();
    }

    fn timer(&mut self, time: i64, at: At<W::Key>, domain: TimeDomain, f: &W, out: &mut Output<W::Out>) {
        let window = Self::window(self.windows, at.start);
        let cleanup = if self.time == domain { self.cleanup(window) } else { i64::MAX };
        let Some(pane) = self.state.find(at.start) else { return };
        let Some(slot) = self.state.get_mut(pane, &KeyRef { hash: at.hash, key: &at.key }) else { return };
        let rules = Rules { function: f, trigger: &self.trigger, clocks: self.clocks };
        let set = if domain == TimeDomain::EventTime { slot.timers.event } else { slot.timers.processing };
        if set != Some(time) || time > cleanup {
            return; // it was moved since, or the window was gone by then
        }
        let before = match domain {
            TimeDomain::EventTime => TriggerTimers { event: None, ..slot.timers },
            TimeDomain::ProcessingTime => TriggerTimers { processing: None, ..slot.timers },
        };
        let called = match domain {
            TimeDomain::EventTime => rules.event_timer(window, cleanup, slot),
            TimeDomain::ProcessingTime => rules.processing_timer(window, cleanup, slot),
        };
        if let Some((time, result)) = called {
            rules.act(result, time, &at.key, window, slot, out);
        }
        let after = slot.timers;
        self.schedule(before, after, || At { start: at.start, hash: at.hash, key: at.key.clone() });
    }

    fn clean(&mut self) {
        let now = self.now();
        let done = |s: &i64| self.cleanup(Self::window(self.windows, *s)) <= now;
        let n = self.state.namespaces().take_while(done).count();
        self.state.remove_first(n);
    }

    /// When [`Self::advance_processing`] has something to do.
    pub fn processing_due(&self) -> Option<i64> {
        let first = (self.time == TimeDomain::ProcessingTime)
            .then(|| self.state.namespaces().next().map(|s| self.cleanup(Self::window(self.windows, s))))
            .flatten();
        first.into_iter().chain(self.processing_timers.next()).min()
    }
}
