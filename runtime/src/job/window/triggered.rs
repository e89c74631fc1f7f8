//! Tumbling, sliding and global windows with any trigger: a slot per key and window, kept by window.
use super::assigner::{Aligned, TimeDomain, TimeWindow};
use super::function::WindowFunction;
use super::late::Late;
use super::schedule::{AHEAD, AT_ONCE, Schedule, key_heap};
use super::slot::{Clocks, Rules, Slot};
use super::trigger::{Trigger, TriggerTimers};
use crate::data::Key;
use crate::dataflow::{Batch, Output};
use crate::error::Result;
use crate::job::function::KeySelector;
use crate::state::{KeyRef, KeyedTable, PaneState, RestoredMarks};
use std::hash::{Hash, Hasher};

/// A key in the pane of a window.
#[derive(Clone, PartialEq, Eq)]
struct At<K> {
    start: i64,
    hash: u64,
    key: K,
}

impl<K: Eq> Hash for At<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.start, self.hash).hash(state);
    }
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
    /// How far time had come for each key group before the restore: the clocks of subtasks differ.
    before: RestoredMarks,
    event_timers: Schedule<At<W::Key>>,
    processing_timers: Schedule<At<W::Key>>,
    /// So many of the timers that fire next have their slots in memory.
    known: usize,
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
            before: RestoredMarks::default(),
            event_timers: Schedule::default(),
            processing_timers: Schedule::default(),
            known: 0,
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
    pub fn restored(&mut self, clocks: Clocks, before: RestoredMarks) -> Result<()> {
        self.clocks = clocks;
        self.before = before;
        let Self { state, event_timers, processing_timers, .. } = self;
        for pane in 0..state.panes() {
            let start = state.namespace(pane);
            state.visit(pane, |key, slot| {
                let at = || At { start, hash: key.key_hash(), key: key.clone() };
                if let Some(t) = slot.timers.event {
                    event_timers.push(t, at());
                }
                if let Some(t) = slot.timers.processing {
                    processing_timers.push(t, at());
                }
            })?;
        }
        self.account();
        Ok(())
    }

    /// Says how much memory the schedules take where a store keeps the slots.
    fn account(&mut self) {
        if self.state.is_stored() {
            let bytes = |s: &Schedule<At<W::Key>>| s.bytes(|at| key_heap(&at.key));
            self.state.beside(bytes(&self.event_timers) + bytes(&self.processing_timers));
        }
    }

    /// Brings what the records of a batch will use into memory.
    #[cold]
    fn want<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        batch: &Batch<W::In>,
        times: impl Iterator<Item = i64>,
    ) -> Result<()> {
        for ((record, &hash), t) in batch.records.iter().zip(&batch.hashes).zip(times) {
            let now = self.clocks(hash).of(self.time);
            let mut want = |start: i64| {
                if let Some(pane) = self.state.find(start) {
                    selector.with_key(record, |key| self.state.want(pane, hash, key));
                }
            };
            match self.windows {
                None => want(0),
                Some(w) => {
                    let live = |s: &i64| w.window(*s).max_timestamp().saturating_add(self.lateness) > now;
                    w.starts(t).filter(live).for_each(want);
                }
            }
        }
        self.state.load_wanted()
    }

    /// Brings the slot of a timer that fires into memory, and those of the ones that are likely to fire next.
    #[cold]
    fn want_due(&mut self, at: &At<W::Key>, domain: TimeDomain) -> Result<()> {
        if self.known == 0 {
            self.state.settle()?;
            let due = match domain {
                TimeDomain::EventTime => self.event_timers.due(self.clocks.watermark, AHEAD),
                TimeDomain::ProcessingTime => self.processing_timers.due(self.clocks.processing, AHEAD),
            };
            for at in &due {
                if let Some(pane) = self.state.find(at.start) {
                    self.state.want(pane, at.hash, &at.key);
                }
            }
            self.known = due.len() + 1;
        }
        self.known -= 1;
        if let Some(pane) = self.state.find(at.start) {
            self.state.want(pane, at.hash, &at.key);
        }
        self.state.load_wanted()
    }

    fn window(windows: Option<Aligned>, start: i64) -> TimeWindow {
        windows.map_or(TimeWindow::ALL, |w| w.window(start))
    }
    fn cleanup(&self, window: TimeWindow) -> i64 {
        window.max_timestamp().saturating_add(self.lateness)
    }
    /// How far the clock has come that the windows go by.
    fn now(&self) -> i64 {
        self.clocks.of(self.time)
    }
    /// The clocks for a key with this hash.
    fn clocks(&self, hash: u64) -> Clocks {
        self.clocks.at(self.time, self.before.now_of(hash, self.now()))
    }

    fn schedule(&mut self, before: TriggerTimers, after: TriggerTimers, at: impl Fn() -> At<W::Key>) {
        for domain in [TimeDomain::EventTime, TimeDomain::ProcessingTime] {
            let (old, new) = (before.of(domain), after.of(domain));
            if old == new {
                continue;
            }
            let new = new.map(|time| (time, at()));
            // what is gone by then needs no entry
            let gone = |at: &At<W::Key>| self.cleanup(Self::window(self.windows, at.start));
            let new = new.filter(|(time, at)| domain != self.time || *time <= gone(at));
            let timers = match domain {
                TimeDomain::EventTime => &mut self.event_timers,
                TimeDomain::ProcessingTime => &mut self.processing_timers,
            };
            if old.is_some() {
                timers.outdate();
            }
            if let Some((time, at)) = new {
                timers.push(time, at);
            }
        }
        self.tidy();
    }

    /// Throws out entries that are out of date when they are many.
    fn tidy(&mut self) {
        let Self { state, event_timers, processing_timers, .. } = self;
        let live = |domain: TimeDomain, time: i64, at: &At<W::Key>| {
            let Some(pane) = state.find(at.start) else { return false };
            match state.get(pane, &KeyRef { hash: at.hash, key: &at.key }) {
                Some(slot) => slot.timers.of(domain) == Some(time),
                None => state.is_stored(),
            }
        };
        if event_timers.is_crowded() {
            event_timers.tidy(|time, at| live(TimeDomain::EventTime, time, at));
        }
        if processing_timers.is_crowded() {
            processing_timers.tidy(|time, at| live(TimeDomain::ProcessingTime, time, at));
        }
    }

    /// Adds records with these times, which are `i64::MIN` where the stream has none.
    pub fn run<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        batch: &mut Batch<W::In>,
        times: impl Iterator<Item = i64> + Clone,
        out: &mut Output<W::Out>,
        late: &mut Late<W::In>,
    ) -> Result<()> {
        if self.state.is_partial() {
            self.want(selector, batch, times.clone())?;
        }
        for ((record, &hash), t) in batch.records.drain(..).zip(&batch.hashes).zip(times) {
            let Some(windows) = self.windows else {
                self.add(selector, f, record, hash, t, 0, out);
                continue;
            };
            let now = self.clocks(hash).of(self.time);
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
        self.account();
        Ok(())
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
        let clocks = self.clocks(hash);
        let state = &mut self.state;
        let slot = state.upsert_with(pane, &KeyRef { hash, key: &key }, Slot::default);
        let rules = Rules { function: f, trigger: &self.trigger, clocks };
        let before = slot.timers;
        let result = rules.add(record, t, window, slot);
        rules.act(result, t, &key, window, slot, out);
        let after = slot.timers;
        if before != after {
            self.schedule(before, after, || At { start, hash, key: key.clone() });
        }
    }

    /// So many timers fire before somebody asks whether there is room for more results.
    fn most_at_once(&self) -> usize {
        if self.state.is_partial() { AT_ONCE } else { usize::MAX }
    }

    /// The watermark has come so far. True: there is more to do, by calling this again before anything else is done; so it is
    /// where slots do not fit into memory.
    pub fn advance_watermark(&mut self, watermark: i64, f: &W, out: &mut Output<W::Out>) -> Result<bool> {
        if watermark < self.clocks.watermark {
            return Ok(false);
        }
        self.clocks.watermark = watermark;
        self.event_timers.begin();
        self.known = 0;
        let mut most = self.most_at_once();
        while most > 0
            && let Some((time, at)) = self.event_timers.pop(watermark)
        {
            self.timer(time, at, TimeDomain::EventTime, f, out)?;
            most -= 1;
        }
        self.event_timers.end(most == 0);
        self.account();
        if most == 0 {
            return Ok(true);
        }
        self.clean();
        Ok(false)
    }

    /// The clock has come so far: this millisecond is over. As [`Self::advance_watermark`].
    pub fn advance_processing(&mut self, now: i64, f: &W, out: &mut Output<W::Out>) -> Result<bool> {
        if now < self.clocks.processing {
            return Ok(false);
        }
        self.clocks.processing = now;
        self.processing_timers.begin();
        self.known = 0;
        let mut most = self.most_at_once();
        while most > 0
            && let Some((time, at)) = self.processing_timers.pop(now)
        {
            self.timer(time, at, TimeDomain::ProcessingTime, f, out)?;
            most -= 1;
        }
        self.processing_timers.end(most == 0);
        self.account();
        if most == 0 {
            return Ok(true);
        }
        self.clean();
        Ok(false)
    }

    fn timer(&mut self, time: i64, at: At<W::Key>, domain: TimeDomain, f: &W, out: &mut Output<W::Out>) -> Result<()> {
        if self.state.is_partial() {
            self.want_due(&at, domain)?;
        }
        let window = Self::window(self.windows, at.start);
        let (end, now) = (self.cleanup(window), self.now());
        let cleanup = if self.time == domain { end } else { i64::MAX };
        let timers = match domain {
            TimeDomain::EventTime => &mut self.event_timers,
            TimeDomain::ProcessingTime => &mut self.processing_timers,
        };
        let pane = self.state.find(at.start);
        let slot = pane.and_then(|pane| self.state.get_mut(pane, &KeyRef { hash: at.hash, key: &at.key }));
        let slot = slot.filter(|s| s.timers.of(domain) == Some(time) && time <= cleanup && !timers.is_held(&at));
        let Some(slot) = slot else {
            timers.was_stale(); // it was moved since, or the window was gone by then
            return Ok(());
        };
        let rules = Rules { function: f, trigger: &self.trigger, clocks: self.clocks };
        let mut before = slot.timers;
        before.clear(domain);
        if let Some((time, result)) = rules.timer(domain, window, cleanup, slot) {
            rules.act(result, time, &at.key, window, slot, out);
        }
        if let Some(t) = slot.timers.of(domain).filter(|_| rules.waits(domain, time, slot)) {
            if end > now {
                timers.hold(t, at.clone());
            } else {
                slot.timers.clear(domain); // the window is gone before time goes on
            }
        }
        let mut after = slot.timers;
        if timers.is_held(&at) {
            after.clear(domain);
        }
        self.schedule(before, after, || At { start: at.start, hash: at.hash, key: at.key.clone() });
        Ok(())
    }

    fn clean(&mut self) {
        let now = self.now();
        let done = |s: &i64| self.cleanup(Self::window(self.windows, *s)) <= now;
        let (n, all) = (self.state.namespaces().take_while(done).count(), self.state.panes());
        if n == 0 {
            return;
        }
        self.state.remove_first(n);
        // timers by the clock that the windows go by have come, or have no entry
        match self.time {
            TimeDomain::EventTime => self.processing_timers.outdate_panes(n, all),
            TimeDomain::ProcessingTime => self.event_timers.outdate_panes(n, all),
        }
        self.tidy();
    }

    #[cfg(test)]
    pub fn scheduled(&self) -> usize {
        self.event_timers.len() + self.processing_timers.len()
    }

    /// When [`Self::advance_processing`] has something to do.
    pub fn processing_due(&self) -> Option<i64> {
        let first = (self.time == TimeDomain::ProcessingTime)
            .then(|| self.state.namespaces().next().map(|s| self.cleanup(Self::window(self.windows, s))))
            .flatten();
        first.into_iter().chain(self.processing_timers.next(self.clocks.processing)).min()
    }
}
