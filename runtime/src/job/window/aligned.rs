//! Tumbling and sliding windows that fire at their end for all keys alike: panes shared by windows, no timer per key.
//!
//! A record is added to the one pane that its time is in. The table of a pane holds one accumulator per key; a window that
//! fires walks the tables of its panes, and a pane whose last window is done with is dropped as a whole. When windows fire
//! follows from the time alone, so the state needs no marks: the time itself is part of the snapshot.
use super::assigner::{Aligned, TimeWindow};
use super::function::WindowFunction;
use super::late::Late;
use crate::data::Key;
use crate::dataflow::{Batch, Output};
use crate::error::Result;
use crate::job::function::KeySelector;
use crate::state::table::SegmentedTable;
use crate::state::{KeyRef, KeyedTable, PaneState, RestoredMarks};
use std::ops::Range;

/// The time of each record of a batch.
#[derive(Clone, Copy)]
pub(super) enum Times<'a> {
    Each(&'a [i64]),
    All(i64),
}

impl<'a> Times<'a> {
    /// Of the record at this place.
    #[inline]
    fn get(self, at: usize) -> i64 {
        match self {
            Self::Each(times) => times.get(at).copied().unwrap_or(i64::MIN),
            Self::All(t) => t,
        }
    }
    /// How many in a row, from this place on, are such.
    #[inline]
    fn count(self, from: usize, such: impl Fn(i64) -> bool) -> usize {
        match self {
            Self::Each(times) => times.iter().skip(from).take_while(|&&t| such(t)).count(),
            Self::All(t) if such(t) => usize::MAX,
            Self::All(_) => 0,
        }
    }
    /// One for each record of the batch, at least.
    pub fn iter(self) -> impl Iterator<Item = i64> + Clone + use<'a> {
        let (each, all) = match self {
            Self::Each(times) => (times, None),
            Self::All(t) => (&[][..], Some(t)),
        };
        each.iter().copied().chain(all.into_iter().flat_map(std::iter::repeat))
    }
}

pub(super) struct AlignedEngine<W: WindowFunction> {
    windows: Aligned,
    /// ms
    lateness: i64,
    state: PaneState<W::Key, W::Acc>,
    /// Time has come so far, in the domain that the windows go by.
    now: i64,
    /// Nothing fires and no pane is dropped before this time.
    due: i64,
    current: Current,
    /// The one before `current`: where a window ends, records of both sides come by turns.
    other: Current,
    /// How far time had come for each key group before the restore: the clocks of subtasks differ.
    before: RestoredMarks,
    /// Where the panes of a window are merged.
    merged: SegmentedTable<W::Key, W::Acc>,
    /// Windows have fired up to this one, and that up to this hash.
    firing: Option<(i64, u64)>,
}

/// A pane that records go to without more to do than to add them.
#[derive(Default, Clone, Copy)]
struct Current {
    start: i64,
    /// 0 if there is none.
    len: u64,
    pane: usize,
}

impl Current {
    #[inline(always)]
    fn holds(&self, t: i64) -> bool {
        (t.wrapping_sub(self.start) as u64) < self.len
    }
}

/// Where a record goes that is not in the current pane.
enum Place {
    /// Into the current pane, which is another one now.
    Current,
    /// Into this pane, whose windows have fired in part: those fire again for the record's key.
    Fired(usize),
    Late,
    /// Between the windows.
    Nowhere,
}

impl<W: WindowFunction> AlignedEngine<W> {
    pub fn new(state: &str, windows: Aligned, lateness: i64) -> Self {
        Self {
            windows,
            lateness,
            state: PaneState::new(state),
            now: i64::MIN,
            due: i64::MAX,
            current: Current::default(),
            other: Current::default(),
            before: RestoredMarks::default(),
            merged: SegmentedTable::default(),
            firing: None,
        }
    }

    /// Key groups of the subtask.
    pub fn own(&mut self, key_groups: std::ops::Range<u32>) {
        self.state.own(key_groups);
    }

    pub fn state(&mut self) -> &mut dyn KeyedTable<W::Key> {
        &mut self.state
    }

    /// The panes were restored; time had come so far.
    pub fn restored(&mut self, marks: RestoredMarks) {
        self.now = marks.least;
        self.before = marks;
        self.due = self.next_due();
    }

    /// The time before which nothing is due.
    pub fn due(&self) -> i64 {
        self.due
    }

    /// The window will not change any more when time has come so far.
    fn cleanup(&self, start: i64) -> i64 {
        self.windows.window(start).max_timestamp().saturating_add(self.lateness)
    }
    /// First window that has not fired.
    fn first_unfired(&self) -> Option<i64> {
        Some(self.windows.first_start(self.now.checked_add(1)?))
    }

    fn pane_due(&self, pane: i64) -> i64 {
        let last = self.windows.last_start(pane);
        let fires = self.first_unfired().map(|s| s.max(self.windows.first_start(pane))).filter(|&s| s <= last);
        let fires = fires.map_or(i64::MAX, |s| self.windows.window(s).max_timestamp());
        fires.min(self.cleanup(last))
    }
    fn next_due(&self) -> i64 {
        self.state.namespaces().map(|p| self.pane_due(p)).min().unwrap_or(i64::MAX)
    }

    /// Indexes of panes have moved, or time has.
    fn forget(&mut self) {
        (self.current, self.other) = Default::default();
    }

    /// `now`: how far time has come for the record's key.
    #[cold]
    #[inline(never)]
    fn locate(&mut self, t: i64, now: i64) -> Place {
        let w = &self.windows;
        let (pane, last) = (w.pane_of(t), w.last_start(t));
        if t >= last.saturating_add(w.size) {
            return Place::Nowhere;
        }
        if self.cleanup(last) <= now {
            return Place::Late;
        }
        let fired = w.window(w.first_start(t)).max_timestamp() <= now;
        let panes = self.state.panes();
        let at = self.state.open(pane);
        if self.state.panes() > panes {
            self.due = self.due.min(self.pane_due(pane));
            self.forget();
        }
        // without lateness a window that has fired is done with: its panes are there for the others only
        if fired && self.lateness > 0 {
            return Place::Fired(at);
        }
        self.other = self.current;
        self.current = Current { start: pane, len: self.windows.pane as u64, pane: at };
        Place::Current
    }

    /// Adds records with these times.
    #[inline]
    pub fn run<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        batch: &mut Batch<W::In>,
        times: Times<'_>,
        out: &mut Output<W::Out>,
        late: &mut Late<W::In>,
    ) -> Result<()> {
        if self.state.is_partial() {
            self.want(selector, batch, times)?;
        }
        if self.before.is_ahead(self.now) {
            self.run_mixed(selector, f, batch, times, out, late);
            return Ok(());
        }
        let mut records = batch.records.drain(..);
        let mut hashes = &batch.hashes[..];
        while !hashes.is_empty() {
            let at = batch.hashes.len() - hashes.len();
            if !self.current.holds(times.get(at)) {
                std::mem::swap(&mut self.current, &mut self.other);
            }
            let current = self.current;
            // the pane is looked up once for all records in a row that are in it: the loop over them is short, so that the
            // processor is many records ahead while it waits for an entry
            let n = times.count(at, |t| current.holds(t));
            let (run, rest) = hashes.split_at(n.min(hashes.len()));
            if !run.is_empty() {
                let table = self.state.table(current.pane);
                for (&hash, record) in run.iter().zip(records.by_ref()) {
                    let acc = selector.with_key(&record, |key| table.upsert_with(hash, key, || f.create()));
                    f.add(acc, record);
                }
                hashes = rest;
                continue;
            }
            let t = times.get(at);
            let place = self.locate(t, self.now);
            if let Place::Current = place {
                continue;
            }
            let (Some((&hash, rest)), Some(record)) = (hashes.split_first(), records.next()) else { break };
            hashes = rest;
            match place {
                Place::Fired(pane) => self.add_late(selector, f, record, hash, t, (pane, self.now), out),
                Place::Late => late.push(record, t),
                Place::Current | Place::Nowhere => {}
            }
        }
        Ok(())
    }

    /// As [`Self::run`], while time has not come as far again as it had for some key groups before a restore: for their keys it
    /// has.
    #[cold]
    fn run_mixed<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        batch: &mut Batch<W::In>,
        times: Times<'_>,
        out: &mut Output<W::Out>,
        late: &mut Late<W::In>,
    ) {
        for (at, (record, &hash)) in batch.records.drain(..).zip(&batch.hashes).enumerate() {
            let t = times.get(at);
            let now = self.before.now_of(hash, self.now);
            match self.locate(t, now) {
                Place::Current => {
                    let table = self.state.table(self.current.pane);
                    let acc = selector.with_key(&record, |key| table.upsert_with(hash, key, || f.create()));
                    f.add(acc, record);
                }
                Place::Fired(pane) => self.add_late(selector, f, record, hash, t, (pane, now), out),
                Place::Late => late.push(record, t),
                Place::Nowhere => {}
            }
        }
        self.forget();
    }

    /// Brings what the records of a batch will use into memory: their panes' entries, and, where they are late, those of all
    /// panes of the windows that fire again.
    #[cold]
    fn want<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        batch: &Batch<W::In>,
        times: Times<'_>,
    ) -> Result<()> {
        let (mut pane, mut used) = (Current::default(), 0..0);
        let mixed = self.before.is_ahead(self.now);
        for (at, (record, &hash)) in batch.records.iter().zip(&batch.hashes).enumerate() {
            let t = times.get(at);
            if mixed || !pane.holds(t) {
                pane = Current { start: self.windows.pane_of(t), len: self.windows.pane as u64, pane: 0 };
                used = self.used(t, self.before.now_of(hash, self.now));
            }
            selector.with_key(record, |key| used.clone().for_each(|p| self.state.want(p, hash, key)));
        }
        self.state.load_wanted()
    }

    /// Panes that a record of this time uses when time has come to `now`.
    fn used(&self, t: i64, now: i64) -> Range<usize> {
        let w = &self.windows;
        let (first, last) = (w.window(w.first_start(t)), w.window(w.last_start(t)));
        let own = w.pane_of(t);
        let (mut from, mut to) = (own, own.saturating_add(1));
        if self.lateness > 0 && first.max_timestamp() <= now {
            from = from.min(first.start);
            // of the windows that have not fired nothing but the record's own pane is used
            let fired = w.starts(t).take_while(|s| w.window(*s).max_timestamp() <= now).last();
            to = to.max(fired.map_or(last.end, |s| w.window(s).end));
        }
        self.state.lower_bound(from)..self.state.lower_bound(to)
    }

    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn add_late<S: KeySelector<W::In, Key = W::Key>>(
        &mut self,
        selector: &S,
        f: &W,
        record: W::In,
        hash: u64,
        t: i64,
        (pane, now): (usize, i64),
        out: &mut Output<W::Out>,
    ) {
        let key = selector.with_key(&record, W::Key::clone);
        let key = KeyRef { hash, key: &key };
        f.add(self.state.upsert_with(pane, &key, || f.create()), record);
        for start in self.windows.starts(t) {
            let window = self.windows.window(start);
            if window.max_timestamp() > now || self.cleanup(start) <= now {
                continue;
            }
            let mut panes = self.panes(&window).filter_map(|p| self.state.get(p, &key));
            let Some(first) = panes.next() else { continue };
            out.set_timestamp(window.max_timestamp());
            match panes.next() {
                None => f.emit(key.key, &window, first, out),
                Some(second) => {
                    let mut acc = first.clone();
                    f.merge(&mut acc, second.clone());
                    panes.for_each(|other| f.merge(&mut acc, other.clone()));
                    f.emit(key.key, &window, &acc, out);
                }
            }
        }
    }

    fn panes(&self, window: &TimeWindow) -> Range<usize> {
        self.state.lower_bound(window.start)..self.state.lower_bound(window.end)
    }

    /// Time has come so far: fires what ends, drops what is done with. True: there is more to do, by calling this again before
    /// anything else is done; so it is with panes that do not fit into memory.
    pub fn advance(&mut self, now: i64, f: &W, out: &mut Output<W::Out>) -> Result<bool> {
        if now <= self.now {
            return Ok(false);
        }
        if now < self.due {
            self.now = now;
            return Ok(false);
        }
        let (mut next, mut hash) = match self.firing.take() {
            Some((start, hash)) => (Some(start), hash),
            None => (self.first_unfired(), 0),
        };
        while let Some(start) = next {
            // on to the first window from here on that has a pane
            let at = self.state.lower_bound(start);
            let Some(pane) = self.state.namespaces().nth(at) else { break };
            let start = start.max(self.windows.first_start(pane));
            let window = self.windows.window(start);
            if window.max_timestamp() > now {
                break;
            }
            let rest = self.fire(&window, hash, f, out)?;
            next = rest.map_or_else(|| start.checked_add(self.windows.slide), |_| Some(start));
            hash = rest.unwrap_or(0);
            if let Some(start) = next.filter(|_| self.state.is_partial()) {
                self.firing = Some((start, hash));
                return Ok(true);
            }
        }
        self.now = now;
        let done = |p: &i64| self.cleanup(self.windows.last_start(*p)) <= now;
        let n = self.state.namespaces().take_while(done).count();
        self.state.remove_first(n);
        self.forget();
        self.due = self.next_due();
        Ok(false)
    }

    /// Fires a window for the keys whose hashes lie in a slice from `from` on: all keys, where all of its panes are in memory.
    /// Returns where the next slice begins.
    fn fire(&mut self, window: &TimeWindow, from: u64, f: &W, out: &mut Output<W::Out>) -> Result<Option<u64>> {
        let panes = self.panes(window);
        let some_fired = window.max_timestamp() <= self.before.most;
        let Self { state, before, merged, .. } = self;
        let fires = |key: &W::Key| !some_fired || before.of(key.key_hash()) < window.max_timestamp();
        out.set_timestamp(window.max_timestamp());
        if panes.len() == 1 {
            return state.slice(panes, from, &mut |key: &W::Key, acc: &W::Acc| {
                if fires(key) {
                    f.emit(key, window, acc, out);
                }
            });
        }
        let rest = state.slice(panes, from, &mut |key: &W::Key, acc: &W::Acc| {
            if fires(key) {
                merged.reduce(key.key_hash(), key, acc.clone(), |a, b| f.merge(a, b));
            }
        })?;
        merged.iter().for_each(|(key, acc)| f.emit(key, window, acc, out));
        merged.empty();
        Ok(rest)
    }
}
