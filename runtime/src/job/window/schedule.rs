//! When windows with triggers are looked at again: entries in the order of time, and what waits for time to go on.
use crate::data::Data;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

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
pub(super) struct Schedule<E> {
    heap: BinaryHeap<Reverse<Due<E>>>,
    /// What was scheduled, while time went on, for times that had come: its turn is when time goes on the next time.
    held: HashMap<E, i64, BuildHasherDefault<DefaultHasher>>,
    /// Time goes on, and not all that is due was taken out.
    going: bool,
}

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
        Self { heap: BinaryHeap::new(), held: HashMap::default(), going: false }
    }
}

impl<E: Clone + Eq + Hash> Schedule<E> {
    pub fn push(&mut self, time: i64, what: E) {
        self.heap.push(Reverse(Due { time, what }));
    }
    /// Time goes on, or has more to do where it has come to.
    pub fn begin(&mut self) {
        if !self.going {
            for (what, time) in std::mem::take(&mut self.held) {
                self.push(time, what);
            }
        }
    }
    /// Time has come where it is to go, but for what is left to do there.
    pub fn end(&mut self, more: bool) {
        self.going = more;
    }
    /// As [`Self::push`], for when time goes on the next time.
    pub fn hold(&mut self, time: i64, what: E) {
        self.held.insert(what, time);
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
