//! Alignment of barriers over the inputs of a task: pure.
//!
//! Exactly-once: an input that has delivered the barrier is blocked until all have. At-least-once: inputs are only counted.
//! A newer barrier on an input that still owes an older one means that the older checkpoint will not complete: it is given up.
use crate::checkpoint::handles::Barrier;
use weir_api::ids::CheckpointId;

/// What the task does after a barrier arrived on an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aligned {
    /// Others are missing.
    Waiting,
    /// All inputs have delivered it: take the snapshot.
    Complete(Barrier),
    /// Older than one already handled.
    Ignored,
}

/// State of the alignment of one task.
#[derive(Debug)]
pub struct Aligner {
    /// Inputs that have delivered the current barrier.
    arrived: Vec<bool>,
    missing: usize,
    current: Option<Barrier>,
    /// Highest checkpoint that was completed here; those before it are done with.
    done: CheckpointId,
    /// Aborted, and after `done`. One between them may still complete.
    aborted: Vec<CheckpointId>,
    /// Checkpoints that were given up for a newer one, to be declined by the task.
    given_up: Vec<CheckpointId>,
}

impl Aligner {
    pub fn new(inputs: usize) -> Self {
        Self {
            arrived: vec![false; inputs],
            missing: inputs,
            current: None,
            done: CheckpointId(0),
            aborted: Vec::new(),
            given_up: Vec::new(),
        }
    }

    /// Whether nothing may be taken from this input now.
    #[inline]
    pub fn is_blocked(&self, input: usize) -> bool {
        self.arrived[input] && self.current.as_ref().is_some_and(|b| b.aligned)
    }

    /// A barrier arrived on an input.
    pub fn barrier(&mut self, input: usize, barrier: Barrier) -> Aligned {
        if barrier.id <= self.done || self.aborted.contains(&barrier.id) {
            return Aligned::Ignored;
        }
        match &self.current {
            Some(current) if current.id > barrier.id => return Aligned::Ignored,
            Some(current) if current.id < barrier.id => {
                self.given_up.push(current.id);
                self.reset();
            }
            _ => {}
        }
        if !self.arrived[input] {
            self.arrived[input] = true;
            self.missing -= 1;
        }
        if self.missing > 0 {
            self.current = Some(barrier);
            return Aligned::Waiting;
        }
        self.done = barrier.id;
        self.aborted.retain(|id| *id > barrier.id);
        self.reset();
        Aligned::Complete(barrier)
    }

    /// The jobmanager aborted the checkpoint: inputs blocked for it flow again.
    pub fn abort(&mut self, id: CheckpointId) {
        if self.current.as_ref().is_some_and(|b| b.id == id) {
            self.reset();
        }
        if id > self.done && !self.aborted.contains(&id) {
            self.aborted.push(id);
        }
    }

    /// Checkpoints that were given up since the last call.
    pub fn take_given_up(&mut self) -> Vec<CheckpointId> {
        std::mem::take(&mut self.given_up)
    }

    /// Whether an alignment is under way.
    pub fn is_aligning(&self) -> bool {
        self.current.is_some()
    }

    fn reset(&mut self) {
        self.current = None;
        self.arrived.fill(false);
        self.missing = self.arrived.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::handles::SnapshotKind;
    use weir_api::ids::Attempt;

    fn barrier(id: u64, aligned: bool) -> Barrier {
        let kind = SnapshotKind::Checkpoint;
        Barrier { id: CheckpointId(id), attempt: Attempt(1), kind, directory: String::new(), aligned }
    }

    #[test]
    fn an_input_is_blocked_until_all_have_delivered_the_barrier() {
        let mut a = Aligner::new(3);
        assert_eq!(a.barrier(1, barrier(1, true)), Aligned::Waiting);
        assert_eq!([0, 1, 2].map(|i| a.is_blocked(i)), [false, true, false]);
        assert_eq!(a.barrier(0, barrier(1, true)), Aligned::Waiting);
        assert_eq!(a.barrier(2, barrier(1, true)), Aligned::Complete(barrier(1, true)));
        assert_eq!([0, 1, 2].map(|i| a.is_blocked(i)), [false; 3]);
    }

    #[test]
    fn at_least_once_never_blocks() {
        let mut a = Aligner::new(2);
        assert_eq!(a.barrier(0, barrier(1, false)), Aligned::Waiting);
        assert!(!a.is_blocked(0));
        assert_eq!(a.barrier(1, barrier(1, false)), Aligned::Complete(barrier(1, false)));
    }

    #[test]
    fn an_abort_unblocks_and_late_barriers_of_it_are_ignored() {
        let mut a = Aligner::new(2);
        a.barrier(0, barrier(1, true));
        a.abort(CheckpointId(1));
        assert!(!a.is_blocked(0));
        assert_eq!(a.barrier(1, barrier(1, true)), Aligned::Ignored);
        assert_eq!(a.barrier(0, barrier(2, true)), Aligned::Waiting);
        assert_eq!(a.barrier(1, barrier(2, true)), Aligned::Complete(barrier(2, true)));
    }

    #[test]
    fn an_abort_of_a_newer_checkpoint_leaves_the_older_one_alone() {
        let mut a = Aligner::new(2);
        a.barrier(0, barrier(1, true));
        a.abort(CheckpointId(2));
        assert_eq!(a.barrier(1, barrier(1, true)), Aligned::Complete(barrier(1, true)));
        assert_eq!(a.barrier(0, barrier(2, true)), Aligned::Ignored);
        assert_eq!(a.barrier(1, barrier(2, true)), Aligned::Ignored);
        assert_eq!(a.barrier(0, barrier(3, true)), Aligned::Waiting);
        assert!(a.is_blocked(0));
    }

    #[test]
    fn a_newer_barrier_gives_up_the_older_one() {
        let mut a = Aligner::new(2);
        a.barrier(0, barrier(1, true));
        assert_eq!(a.barrier(1, barrier(2, true)), Aligned::Waiting);
        assert_eq!(a.take_given_up(), [CheckpointId(1)]);
        assert_eq!(a.barrier(0, barrier(1, true)), Aligned::Ignored);
        assert_eq!(a.barrier(0, barrier(2, true)), Aligned::Complete(barrier(2, true)));
    }

    #[test]
    fn a_task_with_one_input_completes_at_once() {
        let mut a = Aligner::new(1);
        assert_eq!(a.barrier(0, barrier(7, true)), Aligned::Complete(barrier(7, true)));
        assert_eq!(a.barrier(0, barrier(7, true)), Aligned::Ignored);
    }
}
