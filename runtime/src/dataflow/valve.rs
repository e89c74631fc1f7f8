//! Merges the watermarks and the idleness of a task's inputs: pure.
//!
//! The merged watermark is the least of the inputs that are neither idle nor, after having been idle, still behind it. It
//! never goes back. When all inputs are idle it advances to the greatest of them, and the task is idle. Inputs at their end
//! (`i64::MAX`) do not count while others are open, idle ones included: event time ends when all have.

/// What the task hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// A higher watermark, or the same one after idleness.
    Watermark(i64),
    Idle(i64),
}

#[derive(Debug, Clone, Copy)]
struct Input {
    watermark: i64,
    idle: bool,
    /// Counts for the minimum: active, and not behind what was merged without it.
    aligned: bool,
}

/// The watermarks of a task's inputs.
#[derive(Debug)]
pub struct Valve {
    inputs: Vec<Input>,
    merged: i64,
    idle: bool,
}

impl Valve {
    pub fn new(inputs: usize) -> Self {
        let input = Input { watermark: i64::MIN, idle: false, aligned: true };
        Self { inputs: vec![input; inputs], merged: i64::MIN, idle: false }
    }

    /// The merged watermark so far; `i64::MIN` before the first.
    pub fn merged(&self) -> i64 {
        self.merged
    }

    /// An input has sent a watermark. A lower one than before counts only as a sign of activity.
    pub fn watermark(&mut self, input: usize, watermark: i64) -> Option<Advance> {
        let i = &mut self.inputs[input];
        i.watermark = i.watermark.max(watermark);
        i.idle = false;
        i.aligned |= i.watermark >= self.merged;
        self.merge()
    }

    /// An input has become idle at this watermark.
    pub fn idle(&mut self, input: usize, watermark: i64) -> Option<Advance> {
        let i = &mut self.inputs[input];
        i.watermark = i.watermark.max(watermark);
        i.idle = true;
        i.aligned = false;
        self.merge()
    }

    fn merge(&mut self) -> Option<Advance> {
        let (merged, was_idle) = (self.merged, self.idle);
        // those at the end say nothing of the others, which may come back from idleness
        let open = || self.inputs.iter().filter(|i| i.watermark < i64::MAX);
        let idle = open().all(|i| i.idle) && open().next().is_some();
        let to = match idle {
            true => open().map(|i| i.watermark).max(),
            false if open().next().is_none() => Some(i64::MAX),
            false => open().filter(|i| i.aligned).map(|i| i.watermark).min(),
        };
        self.merged = merged.max(to.unwrap_or(i64::MIN));
        self.idle = idle;
        let advanced = self.merged > merged;
        match idle {
            true => (advanced || !was_idle).then_some(Advance::Idle(self.merged)),
            false => (advanced || was_idle).then_some(Advance::Watermark(self.merged)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Advance::{Idle, Watermark};
    use super::*;

    #[test]
    fn the_least_watermark_counts_and_none_goes_back() {
        let mut v = Valve::new(2);
        assert_eq!(v.watermark(0, 10), None, "the other input has none yet");
        assert_eq!(v.watermark(1, 5), Some(Watermark(5)));
        assert_eq!(v.watermark(1, 20), Some(Watermark(10)));
        assert_eq!(v.watermark(0, 3), None, "a lower one is ignored");
        assert_eq!(v.watermark(0, 15), Some(Watermark(15)));
    }

    #[test]
    fn an_idle_input_does_not_hold_the_others_back() {
        let mut v = Valve::new(2);
        v.watermark(0, 10);
        assert_eq!(v.idle(1, i64::MIN), Some(Watermark(10)));
        assert_eq!(v.watermark(0, 20), Some(Watermark(20)));
        // active again, but behind: it counts when it has caught up
        assert_eq!(v.watermark(1, 15), None);
        assert_eq!(v.watermark(0, 30), Some(Watermark(30)));
        assert_eq!(v.watermark(1, 35), None);
        assert_eq!(v.watermark(0, 40), Some(Watermark(35)));
    }

    #[test]
    fn when_all_are_idle_the_task_is_and_event_time_is_the_latest() {
        let mut v = Valve::new(2);
        assert_eq!(v.idle(0, 10), None);
        assert_eq!(v.idle(1, 7), Some(Idle(10)));
        assert_eq!(v.idle(1, 7), None, "said once");
        // any input's activity ends it, even without an advance
        assert_eq!(v.watermark(1, 7), Some(Watermark(10)));
        assert_eq!(v.watermark(1, 12), Some(Watermark(12)));
    }

    #[test]
    fn an_input_at_its_end_does_not_end_event_time_for_others_that_are_idle_or_behind() {
        let mut v = Valve::new(2);
        v.watermark(0, 10);
        v.idle(1, 4);
        assert_eq!(v.watermark(0, i64::MAX), Some(Idle(10)), "what is left is idle");
        assert_eq!(v.watermark(1, 7), Some(Watermark(10)), "active again");
        assert_eq!(v.watermark(1, 12), Some(Watermark(12)));
        assert_eq!(v.idle(1, 13), Some(Idle(13)));
        assert_eq!(v.watermark(1, i64::MAX), Some(Watermark(i64::MAX)));
        // behind
        let mut v = Valve::new(2);
        v.idle(1, 4);
        v.watermark(0, 40);
        assert_eq!(v.watermark(1, 15), None);
        assert_eq!(v.watermark(0, i64::MAX), None, "the other one is active, and behind");
        assert_eq!(v.watermark(1, 30), None);
        assert_eq!(v.watermark(1, 41), Some(Watermark(41)));
        assert_eq!(v.watermark(1, i64::MAX), Some(Watermark(i64::MAX)));
    }

    #[test]
    fn one_input_passes_what_it_gets() {
        let mut v = Valve::new(1);
        assert_eq!(v.watermark(0, 1), Some(Watermark(1)));
        assert_eq!(v.idle(0, 4), Some(Idle(4)));
        assert_eq!(v.watermark(0, 4), Some(Watermark(4)));
        assert_eq!(v.watermark(0, i64::MAX), Some(Watermark(i64::MAX)));
        assert_eq!(v.merged(), i64::MAX);
    }
}
