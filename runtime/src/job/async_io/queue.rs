//! The order in which results leave an asynchronous operator: pure.
use std::collections::VecDeque;

/// Records in the order of their arrival, with the watermarks between them, until their results may go out.
#[derive(Debug)]
pub struct Queue<W, R> {
    ordered: bool,
    entries: VecDeque<Entry<W, R>>,
    /// Number of the first entry; they count up.
    first: u64,
    /// Number of the first entry that may still have to be called.
    uncalled: u64,
    /// Numbers of the watermarks among the entries.
    marks: VecDeque<u64>,
    released: VecDeque<Released<W, R>>,
}

#[derive(Debug)]
enum Entry<W, R> {
    Waiting(W),
    Done(W, R),
    /// Its result went out before that of an earlier one.
    Gone,
    Watermark(i64),
    Idle(i64),
    EndOfInput,
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
            entries: VecDeque::new(),
            first: 0,
            uncalled: 0,
            marks: VecDeque::new(),
            released: VecDeque::new(),
        }
    }

    /// Nothing waits and nothing is left to be released.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.released.is_empty()
    }

    /// Appends a record.
    pub fn push(&mut self, waiting: W) {
        self.entries.push_back(Entry::Waiting(waiting));
    }

    /// Appends a watermark, which no result passes. One that directly follows another replaces it.
    pub fn watermark(&mut self, watermark: i64) {
        if let Some(Entry::Watermark(last)) = self.entries.back_mut() {
            *last = watermark;
            return;
        }
        self.mark(Entry::Watermark(watermark));
    }

    /// Appends the beginning of idleness.
    pub fn idle(&mut self, watermark: i64) {
        self.mark(Entry::Idle(watermark));
    }

    /// Appends the end of the input: what comes behind it hears of it after the last result.
    pub fn end_of_input(&mut self) {
        self.mark(Entry::EndOfInput);
    }

    fn mark(&mut self, entry: Entry<W, R>) {
        self.marks.push_back(self.first + self.entries.len() as u64);
        self.entries.push_back(entry);
        self.settle();
    }

    /// The next record to call, with its number. Each is given out once.
    pub fn next_call(&mut self) -> Option<(u64, &W)> {
        self.uncalled = self.uncalled.max(self.first);
        let ahead = (self.uncalled - self.first) as usize;
        let skip = self.entries.iter().skip(ahead).position(|e| matches!(e, Entry::Waiting(_)))?;
        let id = self.uncalled + skip as u64;
        self.uncalled = id + 1;
        match &self.entries[ahead + skip] {
            Entry::Waiting(w) => Some((id, w)),
            _ => None,
        }
    }

    /// Whether all records were given out by [`Self::next_call`].
    pub fn all_called(&self) -> bool {
        let ahead = self.uncalled.saturating_sub(self.first) as usize;
        !self.entries.iter().skip(ahead).any(|e| matches!(e, Entry::Waiting(_)))
    }

    /// The result of a record is there.
    pub fn complete(&mut self, id: u64, result: R) {
        let at = id.checked_sub(self.first).and_then(|i| self.entries.get_mut(i as usize));
        let Some(entry) = at else { return };
        match std::mem::replace(entry, Entry::Gone) {
            Entry::Waiting(w) if !self.ordered && self.marks.front().is_none_or(|&m| id < m) => {
                self.released.push_back(Released::Result(w, result));
            }
            Entry::Waiting(w) => *entry = Entry::Done(w, result),
            other => *entry = other,
        }
        self.settle();
    }

    /// Moves what has become free from the front to the released ones.
    fn settle(&mut self) {
        while !matches!(self.entries.front(), None | Some(Entry::Waiting(_))) {
            self.first += 1;
            let mark = match self.entries.pop_front() {
                Some(Entry::Done(w, r)) => {
                    self.released.push_back(Released::Result(w, r));
                    continue;
                }
                Some(Entry::Watermark(w)) => Released::Watermark(w),
                Some(Entry::Idle(w)) => Released::Idle(w),
                Some(Entry::EndOfInput) => Released::EndOfInput,
                _ => continue,
            };
            self.released.push_back(mark);
            self.marks.pop_front();
            if !self.ordered {
                self.open();
            }
        }
    }

    /// The records up to the next watermark may overtake each other now.
    fn open(&mut self) {
        let end = self.marks.front().map_or(self.entries.len(), |m| (m - self.first) as usize);
        for entry in self.entries.iter_mut().take(end) {
            match std::mem::replace(entry, Entry::Gone) {
                Entry::Done(w, r) => self.released.push_back(Released::Result(w, r)),
                other => *entry = other,
            }
        }
    }

    /// Takes what may go out next.
    pub fn release(&mut self) -> Option<Released<W, R>> {
        self.released.pop_front()
    }

    /// The records whose results are not out, in the order of their arrival.
    pub fn waiting(&self) -> impl Iterator<Item = &W> {
        self.entries.iter().filter_map(|e| match e {
            Entry::Waiting(w) | Entry::Done(w, _) => Some(w),
            _ => None,
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
            }
            called.extend(std::iter::from_fn(|| q.next_call().map(|(id, w)| (id, *w))));
            prop_assert!(q.all_called());
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
