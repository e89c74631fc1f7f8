//! Session windows: per key a short list of sessions, merged as records bridge their gaps.
//!
//! A session's end moves with every record, so nothing is scheduled per record: a key is looked at when the first of its
//! sessions could be due, and scheduled anew if that has moved.
use super::assigner::{TimeDomain, TimeWindow};
use super::function::WindowFunction;
use super::late::Late;
use super::schedule::{AHEAD, AT_ONCE, Schedule, key_heap};
use super::slot::{Clocks, Rules, Slot};
use super::trigger::Trigger;
use crate::data::{Data, DecodeError, Key, Type};
use crate::dataflow::{Batch, Output};
use crate::error::Result;
use crate::job::function::KeySelector;
use crate::state::{KeyRef, KeyedTable, PaneState, RestoredMarks};
use std::hash::{Hash, Hasher};
use std::ops::Range;

/// All sessions lie in one pane.
const ALL: i64 = 0;

/// Which of the sorted, separate windows the new one touches, and the window that covers all of these.
pub(super) fn merge<'a>(sorted: impl Iterator<Item = &'a TimeWindow>, new: TimeWindow) -> (Range<usize>, TimeWindow) {
    let (mut range, mut covering) = (0..0, new);
    for (i, w) in sorted.enumerate() {
        if w.end < new.start {
            range = i + 1..i + 1;
        } else if w.touches(&new) {
            range.end = i + 1;
            covering = covering.cover(w);
        } else {
            break;
        }
    }
    (range, covering)
}

#[derive(Debug, Clone)]
struct OneSession<A, S> {
    window: TimeWindow,
    slot: Slot<A, S>,
}

/// The sessions of a key, in order and apart.
#[derive(Debug, Clone)]
struct Sessions<A, S> {
    list: Vec<OneSession<A, S>>,
    /// When the schedules have the key; not part of snapshots.
    event_due: i64,
    processing_due: i64,
    /// The sessions come from a store, which does not keep the times above: the schedules may have the key earlier.
    event_recalled: bool,
    processing_recalled: bool,
}

impl<A, S> Default for Sessions<A, S> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            event_due: i64::MAX,
            processing_due: i64::MAX,
            event_recalled: false,
            processing_recalled: false,
        }
    }
}

impl<A, S> Sessions<A, S> {
    /// When the key must be looked at, for event time and for processing time; `i64::MAX`: not at all.
    fn due(&self, time: TimeDomain, lateness: i64) -> (i64, i64) {
        let (mut event, mut processing) = (i64::MAX, i64::MAX);
        for s in &self.list {
            event = event.min(s.slot.timers.event.unwrap_or(i64::MAX));
            processing = processing.min(s.slot.timers.processing.unwrap_or(i64::MAX));
            let cleanup = s.window.max_timestamp().saturating_add(lateness);
            match time {
                TimeDomain::EventTime => event = event.min(cleanup),
                TimeDomain::ProcessingTime => processing = processing.min(cleanup),
            }
        }
        (event, processing)
    }

    /// Sessions that come from a store do not know when the schedules have their key: not later than it must be looked at.
    fn recall(&mut self, time: TimeDomain, lateness: i64) {
        let unknown = self.event_due == i64::MAX && self.processing_due == i64::MAX;
        if unknown && self.event_recalled && self.processing_recalled {
            (self.event_due, self.processing_due) = self.due(time, lateness);
        }
    }
}

impl<A: Data, S: Data> Data for Sessions<A, S> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.list.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let list = Data::decode(input)?;
        Ok(Self { list, event_recalled: true, processing_recalled: true, ..Self::default() })
    }
    fn type_of() -> Type {
        Vec::<OneSession<A, S>>::type_of()
    }
}

impl<A: Data, S: Data> Data for OneSession<A, S> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.window.encode(out);
        self.slot.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { window: Data::decode(input)?, slot: Data::decode(input)? })
    }
    fn type_of() -> Type {
        <(TimeWindow, Slot<A, S>)>::type_of()
    }
}

#[derive(Clone, PartialEq, Eq)]
struct At<K> {
    hash: u64,
    key: K,
}

impl<K: Eq> Hash for At<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

pub(super) struct SessionEngine<W: WindowFunction, G: Trigger<W::In>> {
    /// ms
    gap: i64,
    time: TimeDomain,
    /// ms
    lateness: i64,
    trigger: G,
    state: PaneState<W::Key, Sessions<W::Acc, G::State>>,
    /// Index of the one pane.
    pane: usize,
    clocks: Clocks,
    /// How far time had come for each key group before the restore: the clocks of subtasks differ.
    before: RestoredMarks,
    event: Schedule<At<W::Key>>,
    processing: Schedule<At<W::Key>>,
    /// So many of the keys that are looked at next are in memory.
    known: usize,
}

impl<W: WindowFunction, G: Trigger<W::In>> SessionEngine<W, G> {
    pub fn new(state: &str, gap: i64, time: TimeDomain, lateness: i64, trigger: G) -> Self {
        let mut state = PaneState::new(state);
        let pane = state.open(ALL);
        Self {
            gap,
            time,
            lateness,
            trigger,
            state,
            pane,
            clocks: Clocks::START,
            before: RestoredMarks::default(),
            event: Schedule::default(),
            processing: Schedule::default(),
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

    /// The sessions were restored; the clocks had come so far.
    pub fn restored(&mut self, clocks: Clocks, before: RestoredMarks) -> Result<()> {
        self.clocks = clocks;
        self.before = before;
        self.pane = self.state.open(ALL);
        if self.state.is_stored() {
            let Self { state, event, processing, time, lateness, .. } = self;
            state.visit(self.pane, |key, sessions| {
                let due = sessions.due(*time, *lateness);
                let at = || At { hash: key.key_hash(), key: key.clone() };
                if due.0 < i64::MAX {
                    event.push(due.0, at());
                }
                if due.1 < i64::MAX {
                    processing.push(due.1, at());
                }
            })?;
            self.account();
            return Ok(());
        }
        let keys: Vec<W::Key> = self.state.entries(self.pane).map(|e| e.0.clone()).collect();
        for key in keys {
            self.schedule(&KeyRef::of(&key), None);
        }
        Ok(())
    }

    /// Says how much memory the schedules take where a store keeps the sessions.
    fn account(&mut self) {
        if self.state.is_stored() {
            let bytes = |s: &Schedule<At<W::Key>>| s.bytes(|at| key_heap(&at.key));
            self.state.beside(bytes(&self.event) + bytes(&self.processing));
        }
    }

    /// Brings the sessions of the keys of a batch into memory.
    #[cold]
    fn want<S: KeySelector<W::In, Key = W::Key>>(&mut self, selector: &S, batch: &Batch<W::In>) -> Result<()> {
        for (record, &hash) in batch.records.iter().zip(&batch.hashes) {
            selector.with_key(record, |key| self.state.want(self.pane, hash, key));
        }
        self.state.load_wanted()
    }

    /// Brings the sessions of a key that is looked at into memory, and those of the keys that are likely to be next.
    #[cold]
    fn want_due(&mut self, at: &At<W::Key>, domain: TimeDomain) -> Result<()> {
        if self.known == 0 {
            self.state.settle()?;
            let due = match domain {
                TimeDomain::EventTime => self.event.due(self.clocks.watermark, AHEAD),
                TimeDomain::ProcessingTime => self.processing.due(self.clocks.processing, AHEAD),
            };
            due.iter().for_each(|at| self.state.want(self.pane, at.hash, &at.key));
            self.known = due.len() + 1;
        }
        self.known -= 1;
        self.state.want(self.pane, at.hash, &at.key);
        self.state.load_wanted()
    }

    fn cleanup(&self, window: TimeWindow) -> i64 {
        window.max_timestamp().saturating_add(self.lateness)
    }
    fn now(&self) -> i64 {
        self.clocks.of(self.time)
    }
    /// The clocks for a key with this hash.
    fn clocks(&self, hash: u64) -> Clocks {
        self.clocks.at(self.time, self.before.now_of(hash, self.now()))
    }

    /// Puts the key into the schedules if it must be looked at before they say so. `looked`: it was, as this clock went on, and
    /// all that was due then has fired: what is due by now waits until the clock goes on again.
    fn schedule(&mut self, key: &KeyRef<'_, W::Key>, looked: Option<TimeDomain>) {
        let Some(sessions) = self.state.get_mut(self.pane, key) else { return };
        let (event, processing) = sessions.due(self.time, self.lateness);
        let at = || At { hash: key.hash, key: key.key.clone() };
        if event < sessions.event_due {
            if sessions.event_due < i64::MAX {
                self.event.outdate();
            }
            (sessions.event_due, sessions.event_recalled) = (event, false);
            if looked == Some(TimeDomain::EventTime) && event <= self.clocks.watermark {
                self.event.hold(event, at());
            } else {
                self.event.push(event, at());
            }
        }
        if processing < sessions.processing_due {
            if sessions.processing_due < i64::MAX {
                self.processing.outdate();
            }
            (sessions.processing_due, sessions.processing_recalled) = (processing, false);
            if looked == Some(TimeDomain::ProcessingTime) && processing <= self.clocks.processing {
                self.processing.hold(processing, at());
            } else {
                self.processing.push(processing, at());
            }
        }
        self.tidy();
    }

    /// Throws out entries that are out of date when they are many.
    fn tidy(&mut self) {
        let Self { state, pane, event, processing, .. } = self;
        let sessions = |at: &At<W::Key>| state.get(*pane, &KeyRef { hash: at.hash, key: &at.key });
        let away = state.is_stored();
        if event.is_crowded() {
            event.tidy(|time, at| sessions(at).map_or(away, |s| s.event_recalled || s.event_due == time));
        }
        if processing.is_crowded() {
            processing
                .tidy(|time, at| sessions(at).map_or(away, |s| s.processing_recalled || s.processing_due == time));
        }
    }

    /// Adds records with these times.
    pub fn run<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        batch: &mut Batch<W::In>,
        times: impl Iterator<Item = i64>,
        out: &mut Output<W::Out>,
        late: &mut Late<W::In>,
    ) -> Result<()> {
        let stored = self.state.is_stored();
        if self.state.is_partial() {
            self.want(selector, batch)?;
        }
        for ((record, &hash), t) in batch.records.drain(..).zip(&batch.hashes).zip(times) {
            let key = selector.with_key(&record, W::Key::clone);
            let key = KeyRef { hash, key: &key };
            let clocks = self.clocks(hash);
            let now = clocks.of(self.time);
            let new = TimeWindow { start: t, end: t.saturating_add(self.gap) };
            let done = self.cleanup(new) <= now;
            if done && self.state.get(self.pane, &key).is_none() {
                late.push(record, t);
                continue;
            }
            let sessions = self.state.upsert_with(self.pane, &key, Sessions::default);
            if stored {
                sessions.recall(self.time, self.lateness);
            }
            let (touched, window) = merge(sessions.list.iter().map(|s| &s.window), new);
            if touched.is_empty() {
                if done {
                    late.push(record, t);
                    continue;
                }
                sessions.list.insert(touched.start, OneSession { window, slot: Slot::default() });
            }
            let rules = Rules { function: f, trigger: &self.trigger, clocks };
            let at = touched.start;
            for _ in touched.skip(1) {
                let other = sessions.list.remove(at + 1);
                rules.merge(window, &mut sessions.list[at].slot, other.slot);
            }
            let session = &mut sessions.list[at];
            session.window = window;
            let result = rules.add(record, t, window, &mut session.slot);
            rules.act(result, t, key.key, window, &mut session.slot, out);
            self.schedule(&key, None);
        }
        self.account();
        Ok(())
    }

    /// So many keys are looked at before somebody asks whether there is room for more results.
    fn most_at_once(&self) -> usize {
        if self.state.is_partial() { AT_ONCE } else { usize::MAX }
    }

    /// The watermark has come so far. True: there is more to do, by calling this again before anything else is done; so it is
    /// where sessions do not fit into memory.
    pub fn advance_watermark(&mut self, watermark: i64, f: &W, out: &mut Output<W::Out>) -> Result<bool> {
        if watermark < self.clocks.watermark {
            return Ok(false);
        }
        self.clocks.watermark = watermark;
        self.event.begin();
        self.known = 0;
        let mut most = self.most_at_once();
        while most > 0
            && let Some((time, at)) = self.event.pop(watermark)
        {
            self.look(time, &at, TimeDomain::EventTime, f, out)?;
            most -= 1;
        }
        self.event.end(most == 0);
        self.account();
        Ok(most == 0)
    }

    /// The clock has come so far: this millisecond is over. As [`Self::advance_watermark`].
    pub fn advance_processing(&mut self, now: i64, f: &W, out: &mut Output<W::Out>) -> Result<bool> {
        if now < self.clocks.processing {
            return Ok(false);
        }
        self.clocks.processing = now;
        self.processing.begin();
        self.known = 0;
        let mut most = self.most_at_once();
        while most > 0
            && let Some((time, at)) = self.processing.pop(now)
        {
            self.look(time, &at, TimeDomain::ProcessingTime, f, out)?;
            most -= 1;
        }
        self.processing.end(most == 0);
        self.account();
        Ok(most == 0)
    }

    /// Calls the timers of the key's sessions that are due, drops the sessions that are done with.
    fn look(&mut self, time: i64, at: &At<W::Key>, domain: TimeDomain, f: &W, out: &mut Output<W::Out>) -> Result<()> {
        let scheduled = match domain {
            TimeDomain::EventTime => &mut self.event,
            TimeDomain::ProcessingTime => &mut self.processing,
        };
        if scheduled.is_held(at) {
            scheduled.was_stale(); // it was looked at already
            return Ok(());
        }
        if self.state.is_partial() {
            self.want_due(at, domain)?;
        }
        let key = KeyRef { hash: at.hash, key: &at.key };
        let (by, lateness, now, stored) = (self.time, self.lateness, self.now(), self.state.is_stored());
        let (scheduled, other) = match domain {
            TimeDomain::EventTime => (&mut self.event, &mut self.processing),
            TimeDomain::ProcessingTime => (&mut self.processing, &mut self.event),
        };
        let Some(sessions) = self.state.get_mut(self.pane, &key) else {
            scheduled.was_stale();
            return Ok(());
        };
        if stored {
            sessions.recall(by, lateness);
        }
        let (due, recalled) = match domain {
            TimeDomain::EventTime => (&mut sessions.event_due, &mut sessions.event_recalled),
            TimeDomain::ProcessingTime => (&mut sessions.processing_due, &mut sessions.processing_recalled),
        };
        // the key was scheduled for another time since; what comes from a store knows only not later than when it must be
        if *due != time && !*recalled {
            scheduled.was_stale();
            return Ok(());
        }
        (*due, *recalled) = (i64::MAX, false);
        let rules = Rules { function: f, trigger: &self.trigger, clocks: self.clocks };
        sessions.list.retain_mut(|s| {
            let cleanup = s.window.max_timestamp().saturating_add(lateness);
            let until = if by == domain { cleanup } else { i64::MAX };
            while let Some((time, result)) = rules.timer(domain, s.window, until, &mut s.slot) {
                rules.act(result, time, key.key, s.window, &mut s.slot, out);
                if rules.waits(domain, time, &s.slot) {
                    break;
                }
            }
            cleanup > now
        });
        if sessions.list.is_empty() {
            if sessions.event_due.min(sessions.processing_due) < i64::MAX {
                other.outdate();
            }
            self.state.remove(self.pane, &key);
        } else {
            self.schedule(&key, Some(domain));
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn scheduled(&self) -> usize {
        self.event.len() + self.processing.len()
    }

    /// When [`Self::advance_processing`] has something to do.
    pub fn processing_due(&self) -> Option<i64> {
        self.processing.next(self.clocks.processing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Windows merged one by one are the connected groups of them all.
        #[test]
        fn merged_windows_are_the_connected_groups(spans in prop::collection::vec((0i64..300, 1i64..30), 0..40)) {
            let mut list: Vec<TimeWindow> = Vec::new();
            for &(start, len) in &spans {
                let (range, covering) = merge(list.iter(), TimeWindow { start, end: start + len });
                list.splice(range, [covering]);
            }
            let mut naive: Vec<TimeWindow> = spans.iter().map(|&(s, l)| TimeWindow { start: s, end: s + l }).collect();
            naive.sort_unstable();
            naive.dedup_by(|b, a| {
                let one = a.touches(b);
                if one {
                    *a = a.cover(b);
                }
                one
            });
            prop_assert_eq!(list, naive);
        }
    }
}
