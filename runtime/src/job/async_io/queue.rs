//! The order in which results leave an asynchronous operator: pure.
use std::collections::{BTreeMap, VecDeque};

/// Records in the order of their arrival, with the watermarks between them, until their results may go out.
#[derive(Debug)]
pub struct Queue<W, R> {
    ordered: bool,
    /// By their numbers. A result that went out before an earlier one leaves no place behind: one call may take very long.
    entries: BTreeMap<u64, Entry<W, R>>,
    /// Number of the next entry.
    next: u64,
    /// Number of the first entry that may still have to be called.
    uncalled: u64,
    /// Numbers of the watermarks among the entries.
    marks: VecDeque<u64>,
    released: VecDeque<Released<W, R>>,
}

#[derive(Debug)]
enum Entry<W, R> {
    Waiting(W),
    /// Goes out when nothing is before it any more.
    Ready(Released<W, R>),
}

/// What may go out.
#[derive(Debug, PartialEq, Eq)]
pub enum Released<W, R> {
    Result(W, R),
    Watermark(i64),
    Idle(i64),
    EndOfInput,
}

impl<W, R> Queue<W, R> {
    pub fn new(ordered: bool) -> Self {
        Self {
            ordered,
            entries: BTreeMap::new(),
            next: 0,
            uncalled: 0,
            marks: VecDeque::new(),
            released: VecDeque::new(),
        }
    }

    /// Nothing waits and nothing is left to be released.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.released.is_empty()
    }

    /// How many records' results are not out: those not called, under way, or waiting for their turn.
    pub fn outstanding(&self) -> usize {
        self.entries.len() - self.marks.len()
    }

    fn append(&mut self, entry: Entry<W, R>) {
        self.entries.insert(self.next, entry);
        self.next += 1;
    }

    /// Appends a record.
    pub fn push(&mut self, waiting: W) {
        self.append(Entry::Waiting(waiting));
    }

    /// Appends a watermark, which no result passes. One that directly follows another replaces it.
    pub fn watermark(&mut self, watermark: i64) {
        if let Some(mut last) = self.entries.last_entry()
            && let Entry::Ready(Released::Watermark(last)) = last.get_mut()
        {
            *last = watermark;
            return;
        }
        self.mark(Released::Watermark(watermark));
    }

    /// Appends the beginning of idleness.
    pub fn idle(&mut self, watermark: i64) {
        self.mark(Released::Idle(watermark));
    }

    /// Appends the end of the input: what comes behind it hears of it after the last result.
    pub fn end_of_input(&mut self) {
        self.mark(Released::EndOfInput);
    }

    fn mark(&mut self, mark: Released<W, R>) {
        self.marks.push_back(self.next);
        self.append(Entry::Ready(mark));
        self.settle();
    }

    /// The next record to call, with its number. Each is given out once.
    pub fn next_call(&mut self) -> Option<(u64, &W)> {
        let mut uncalled = self.entries.range(self.uncalled..);
        let (id, waiting) = uncalled.find_map(|(&id, e)| match e {
            Entry::Waiting(w) => Some((id, w)),
            Entry::Ready(_) => None,
        })?;
        self.uncalled = id + 1;
        Some((id, waiting))
    }

    /// The result of a record is there.
    pub fn complete(&mut self, id: u64, result: R) {
        match self.entries.remove(&id) {
            Some(Entry::Waiting(w)) if !self.ordered && self.marks.front().is_none_or(|&m| id < m) => {
                self.released.push_back(Released::Result(w, result));
            }
            Some(Entry::Waiting(w)) => _ = self.entries.insert(id, Entry::Ready(Released::Result(w, result))),
            Some(other) => _ = self.entries.insert(id, other),
            None => {}
        }
        self.settle();
    }

    /// Moves what has become free from the front to the released ones.
    fn settle(&mut self) {
        while let Some(first) = self.entries.first_entry() {
            if matches!(first.get(), Entry::Waiting(_)) {
                return;
            }
            let Entry::Ready(ready) = first.remove() else { return };
            let is_mark = !matches!(ready, Released::Result(..));
            self.released.push_back(ready);
            if is_mark {
                self.marks.pop_front();
                if !self.ordered {
                    self.open();
                }
            }
        }
    }

    /// The records up to the next watermark may overtake each other now.
    fn open(&mut self) {
        let end = self.marks.front().copied().unwrap_or(self.next);
        let ready = self.entries.extract_if(..end, |_, e| matches!(e, Entry::Ready(_)));
        self.released.extend(ready.filter_map(|(_, e)| match e {
            Entry::Ready(r) => Some(r),
            Entry::Waiting(_) => None,
        }));
    }

    /// Takes what may go out next.
    pub fn release(&mut self) -> Option<Released<W, R>> {
        self.released.pop_front()
    }

    /// The records whose results are not out, in the order of their arrival.
    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.entries.values().filter_map(|e| match e {
            Entry::Waiting(w) | Entry::Ready(Released::Result(w, _)) => Some(w),
            Entry::Ready(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(q: &mut Queue<u32, u32>) -> Vec<String> {
        let text = |r: Released<u32, u32>| match r {
            Released::Result(w, r) => {
                assert_eq!(w * 10, r);
                w.to_string()
            }
            Released::Watermark(w) => format!("w{w}"),
            Released::Idle(w) => format!("idle {w}"),
            Released::EndOfInput => "end".into(),
        };
        std::iter::from_fn(|| q.release()).map(text).collect()
    }

    /// Records 0, 1, a watermark, 2, 3, all called.
    fn filled(ordered: bool) -> Queue<u32, u32> {
        let mut q = Queue::new(ordered);
        [0, 1].into_iter().for_each(|r| q.push(r));
        q.watermark(4);
        q.watermark(5);
        [2, 3].into_iter().for_each(|r| q.push(r));
        let called: Vec<_> = std::iter::from_fn(|| q.next_call().map(|(id, w)| (id, *w))).collect();
        assert_eq!(called, [(0, 0), (1, 1), (3, 2), (4, 3)]);
        q
    }

    #[test]
    fn unordered_results_overtake_each_other_but_no_watermark() {
        let mut q = filled(false);
        q.complete(4, 30);
        assert!(drain(&mut q).is_empty());
        q.complete(1, 10);
        assert_eq!(drain(&mut q), ["1"]);
        assert_eq!(q.waiting().copied().collect::<Vec<_>>(), [0, 2, 3], "the order of arrival");
        q.complete(0, 0);
        assert_eq!(drain(&mut q), ["0", "w5", "3"]);
        q.complete(3, 20);
        assert_eq!(drain(&mut q), ["2"]);
        assert!(q.is_empty());
    }

    #[test]
    fn ordered_results_wait_for_each_other() {
        let mut q = filled(true);
        for (id, r) in [(4, 30), (1, 10), (3, 20)] {
            q.complete(id, r);
            assert!(drain(&mut q).is_empty());
        }
        q.complete(0, 0);
        assert_eq!(drain(&mut q), ["0", "1", "w5", "2", "3"]);
        q.idle(5);
        assert_eq!(drain(&mut q), ["idle 5"], "nothing is before it");
        q.push(4);
        q.end_of_input();
        let (id, _) = q.next_call().unwrap();
        assert!(drain(&mut q).is_empty() && !q.is_empty());
        q.complete(id, 40);
        assert_eq!(drain(&mut q), ["4", "end"]);
    }

    #[test]
    fn what_overtook_a_slow_call_takes_no_room_and_what_waits_for_it_counts() {
        for (ordered, watermark, outstanding) in [(false, false, 1), (false, true, 1001), (true, false, 1001)] {
            let mut q = Queue::new(ordered);
            q.push(0);
            assert_eq!(q.next_call(), Some((0, &0)));
            if watermark {
                q.watermark(5);
            }
            for r in 1..=1000 {
                q.push(r);
                let (id, _) = q.next_call().unwrap();
                q.complete(id, r * 10);
                drain(&mut q);
            }
            assert_eq!((q.outstanding(), q.entries.len()), (outstanding, outstanding + usize::from(watermark)));
        }
    }

    proptest! {
        #[test]
        fn each_result_goes_out_once_between_its_watermarks(
            ordered in any::<bool>(),
            steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut q = Queue::new(ordered);
            let (mut next, mut watermark, mut called, mut out, mut bounds) = (0u32, 0i64, Vec::new(), Vec::new(), Vec::new());
            for (step, pick) in steps {
                match step {
                    0 => {
                        q.push(next);
                        bounds.push(watermark);
                        next += 1;
                    }
                    1 => {
                        watermark += 1;
                        q.watermark(watermark);
                    }
                    2 => called.extend(q.next_call().map(|(id, w)| (id, *w))),
                    _ if !called.is_empty() => {
                        let (id, w) = called.swap_remove(pick.index(called.len()));
                        q.complete(id, w * 10);
                    }
                    _ => {}
                }
                out.extend(drain(&mut q));
                let results = out.iter().filter(|o| !o.starts_with('w')).count();
                prop_assert_eq!(q.outstanding(), next as usize - results);
            }
            called.extend(std::iter::from_fn(|| q.next_call().map(|(id, w)| (id, *w))));
            prop_assert!(q.next_call().is_none());
            called.into_iter().rev().for_each(|(id, w)| q.complete(id, w * 10));
            out.extend(drain(&mut q));
            prop_assert!(q.is_empty());
            let (mut at, mut results) = (0, Vec::new());
            for o in &out {
                match o.strip_prefix('w') {
                    Some(w) => at = w.parse().unwrap(),
                    None => {
                        let r: u32 = o.parse().unwrap();
                        prop_assert_eq!(bounds[r as usize], at.max(bounds[r as usize]), "a result is not behind its watermark");
                        results.push(r);
                    }
                }
            }
            if !ordered {
                results.sort_unstable();
            }
            prop_assert_eq!(results, (0..next).collect::<Vec<_>>());
        }
    }
}
