//! What is done to a job, and when: decided by a seed alone, so that a failure can be played again.

use std::fmt;
use std::time::Duration;

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let last = all.len() as u64 - 1;
        all[usize::try_from(self.between(0, last)).unwrap_or(0)]
    }
}

/// When something is done, counted from the end of the step before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// So much later.
    After(Duration),
    /// As soon as another checkpoint is in the log: before, within or after the commit of the sinks.
    CheckpointCompleted,
    /// As soon as a file of the output waits for its commit: the checkpoint is under way.
    OutputPending,
    /// So much after another attempt claimed the log: while it restores.
    Claimed(Duration),
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL; started again at once.
    KillTaskmanager(u64),
    /// SIGKILL; started again at once, with `--restore latest`.
    KillJobmanager,
    /// Both at once.
    KillBoth(u64),
    /// The jobmanager, and again shortly after it came back.
    KillJobmanagerTwice(Duration),
    /// SIGTERM, which is no cancellation; started again.
    EndTaskmanager(u64),
    /// SIGTERM, which is no cancellation; started again.
    EndJobmanager,
    /// SIGSTOP until after it counted as lost, then SIGCONT: it may not commit what it still believes in.
    FreezeTaskmanager(u64),
    /// SIGSTOP until its taskmanagers gave it up, then SIGCONT.
    FreezeJobmanager,
    /// A second jobmanager with taskmanagers of its own restores the latest while the first still runs.
    SecondCluster,
    /// Stop with a savepoint, start from it at another parallelism.
    StopAndRescale(u32),
    /// The jobmanager is killed while it stops the job with a savepoint.
    KillWhileStopping(Duration),
    /// Another parallelism by REST, in the running job.
    Rescale(u32),
    /// The jobmanager is killed while it rescales the job.
    KillWhileRescaling(u32, Duration),
    /// Cancelled by REST, which keeps the checkpoints; started again from the latest.
    CancelAndRestore,
    /// A savepoint by REST, which commits nothing.
    Savepoint,
}

impl Blow {
    /// SIGKILLs in it.
    pub const fn kills(self) -> u64 {
        match self {
            Self::KillTaskmanager(_) | Self::KillJobmanager | Self::KillWhileStopping(_) => 1,
            Self::KillWhileRescaling(..) => 1,
            Self::KillBoth(_) | Self::KillJobmanagerTwice(_) => 2,
            _ => 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub moment: Moment,
    pub blow: Blow,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.moment, self.blow)
    }
}

/// Steps without end.
#[derive(Debug, Clone)]
pub struct Schedule {
    dice: Dice,
    only_kills: bool,
}

impl Schedule {
    /// `only_kills`: SIGKILLs and nothing else.
    pub const fn new(seed: u64, only_kills: bool) -> Self {
        Self { dice: Dice::new(seed), only_kills }
    }

    fn moment(&mut self) -> Moment {
        let dice = &mut self.dice;
        match dice.between(0, 99) {
            0..50 => Moment::After(Duration::from_millis(dice.between(0, 1200))),
            50..70 => Moment::CheckpointCompleted,
            70..85 => Moment::OutputPending,
            _ => Moment::Claimed(Duration::from_millis(dice.between(0, 120))),
        }
    }

    fn blow(&mut self) -> Blow {
        let dice = &mut self.dice;
        let most = if self.only_kills { 77 } else { 109 };
        let pause = |dice: &mut Dice, most| Duration::from_millis(dice.between(0, most));
        match dice.between(0, most) {
            0..36 => Blow::KillTaskmanager(dice.next()),
            36..62 => Blow::KillJobmanager,
            62..70 => Blow::KillBoth(dice.next()),
            70..78 => Blow::KillJobmanagerTwice(pause(dice, 400)),
            78..81 => Blow::EndTaskmanager(dice.next()),
            81..84 => Blow::EndJobmanager,
            84..87 => Blow::FreezeTaskmanager(dice.next()),
            87..89 => Blow::FreezeJobmanager,
            89..92 => Blow::SecondCluster,
            92..95 => Blow::StopAndRescale(dice.one_of(&[1, 2, 3])),
            95..99 => Blow::KillWhileStopping(pause(dice, 300)),
            99..102 => Blow::Rescale(dice.one_of(&[1, 2, 3])),
            102..106 => Blow::KillWhileRescaling(dice.one_of(&[1, 2, 3]), pause(dice, 300)),
            106..108 => Blow::CancelAndRestore,
            _ => Blow::Savepoint,
        }
    }
}

impl Iterator for Schedule {
    type Item = Step;
    fn next(&mut self) -> Option<Step> {
        Some(Step { moment: self.moment(), blow: self.blow() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let steps = |seed| Schedule::new(seed, false).take(200).collect::<Vec<_>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }

    #[test]
    fn every_kind_of_blow_comes() {
        let kinds: std::collections::HashSet<_> =
            Schedule::new(1, false).take(2000).map(|s| std::mem::discriminant(&s.blow)).collect();
        assert_eq!(kinds.len(), 15);
        assert!(Schedule::new(1, true).take(2000).all(|s| s.blow.kills() > 0));
    }
}
