//! When windows with triggers are looked at again: entries in the order of time, and what waits for time to go on.
use crate::data::Data;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};

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

/// Entries that may be out of date beside half of all before the schedule is tidied.
const STALE: usize = if cfg!(test) { 4 } else { 1024 };

/// When to look at something again: an entry may be out of date, so who takes it out asks whether it still holds.
pub(super) struct Schedule<E> {
    heap: BinaryHeap<Reverse<Due<E>>>,
    /// Entries so far: of several for the same the last one counts.
    sequence: u64,
    /// About so many are out of date.
    stale: usize,
    /// What was scheduled, while time went on, for times that had come: its turn is when time goes on the next time.
    held: HashMap<E, (i64, u64), BuildHasherDefault<DefaultHasher>>,
    /// Time goes on, and not all that is due was taken out.
    going: bool,
}

struct Due<E> {
    time: i64,
    sequence: u64,
    what: E,
}

impl<E> Due<E> {
    fn rank(&self) -> (i64, u64) {
        (self.time, self.sequence)
    }
}

impl<E> PartialEq for Due<E> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
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
        self.rank().cmp(&other.rank())
    }
}

impl<E> Default for Schedule<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0, stale: 0, held: HashMap::default(), going: false }
    }
}

impl<E: Clone + Eq + Hash> Schedule<E> {
    pub fn push(&mut self, time: i64, what: E) {
        self.sequence += 1;
        self.heap.push(Reverse(Due { time, sequence: self.sequence, what }));
    }
    /// An entry is out of date from now on.
    pub fn outdate(&mut self) {
        self.stale += 1;
    }
    /// So many of all panes are gone, with their share of the entries: about so, which is enough to tidy now and then.
    pub fn outdate_panes(&mut self, gone: usize, all: usize) {
        self.stale += self.heap.len().saturating_mul(gone) / all.max(1);
    }
    /// What was taken out was out of date.
    pub fn was_stale(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }
    pub fn is_crowded(&self) -> bool {
        self.stale > self.heap.len() / 2 + STALE
    }
    /// Throws out what is not `live`, and all but the last entry for the same.
    #[cold]
    pub fn tidy(&mut self, live: impl Fn(i64, &E) -> bool) {
        let mut all = std::mem::take(&mut self.heap).into_vec();
        all.retain(|Reverse(d)| live(d.time, &d.what));
        let hasher = self.held.hasher();
        all.sort_by_cached_key(|Reverse(d)| (hasher.hash_one(&d.what), Reverse(d.sequence)));
        all.dedup_by(|Reverse(older), Reverse(last)| older.what == last.what);
        all.shrink_to(2 * all.len() + STALE);
        self.heap = all.into();
        self.stale = 0;
    }
    /// Time goes on, or has more to do where it has come to.
    pub fn begin(&mut self) {
        if !self.going {
            let held = std::mem::take(&mut self.held).into_iter();
            self.heap.extend(held.map(|(what, (time, sequence))| Reverse(Due { time, sequence, what })));
        }
    }
    /// Time has come where it is to go, but for what is left to do there.
    pub fn end(&mut self, more: bool) {
        self.going = more;
    }
    /// As [`Self::push`], for when time goes on the next time.
    pub fn hold(&mut self, time: i64, what: E) {
        self.sequence += 1;
        self.held.insert(what, (time, self.sequence));
    }
    pub fn is_held(&self, what: &E) -> bool {
        !self.held.is_empty() && self.held.contains_key(what)
    }
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.heap.len() + self.held.len()
    }
    /// The earliest time, where time has come to `now`.
    pub fn next(&self, now: i64) -> Option<i64> {
        let held = (!self.held.is_empty()).then(|| now.saturating_add(1));
        self.heap.peek().map(|d| d.0.time).into_iter().chain(held).min()
    }
    /// Some of those that are not after `now`, up to so many: the earliest, as a rule.
    pub fn due(&self, now: i64, most: usize) -> Vec<E> {
        let all = self.heap.as_slice();
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
        let sample = self.heap.as_slice().iter().take(SAMPLE);
        let besides = sample.map(|Reverse(d)| heap(&d.what)).sum::<usize>() / self.heap.len().clamp(1, SAMPLE);
        // a vector that grows by doubling
        (self.heap.len() + self.held.len()) * (size_of::<Due<E>>() * 3 / 2 + besides)
    }
    /// Takes out the earliest if it is not after `now`.
    pub fn pop(&mut self, now: i64) -> Option<(i64, E)> {
        self.heap.peek().filter(|d| d.0.time <= now)?;
        self.heap.pop().map(|Reverse(d)| (d.time, d.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tidy_schedule_has_the_last_entry_of_each_and_gives_them_out_in_the_order_of_time() {
        let mut s = Schedule::default();
        for (time, what) in [(5, 'a'), (9, 'a'), (7, 'a'), (3, 'b'), (8, 'c'), (8, 'd'), (1, 'e')] {
            s.push(time, what);
        }
        s.tidy(|time, what| *what != 'e' && time != 7);
        assert_eq!(s.len(), 4);
        let mut popped = std::iter::from_fn(|| s.pop(100));
        assert_eq!(popped.by_ref().collect::<Vec<_>>(), [(3, 'b'), (8, 'c'), (8, 'd'), (9, 'a')]);
    }

    #[test]
    fn what_is_held_has_its_turn_when_time_goes_on_again() {
        let mut s = Schedule::default();
        s.begin();
        s.hold(3, 'a');
        assert_eq!((s.next(10), s.pop(10), s.is_held(&'a')), (Some(11), None, true));
        s.end(true);
        s.begin();
        assert_eq!(s.pop(10), None, "there was more to do at the same time");
        s.end(false);
        s.begin();
        assert_eq!((s.is_held(&'a'), s.next(10), s.pop(10)), (false, Some(3), Some((3, 'a'))));
    }
}
