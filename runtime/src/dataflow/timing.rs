//! Busy, idle and backpressured time of a task, from clock reads per batch and per wait: what lies within a poll is work, also when it
//! ends in `Pending`; what lies between that and the next poll is a wait.
use crate::observe::TaskMetrics;
use std::time::{Duration, Instant};

type Add = fn(&TaskMetrics, u64);

/// Accounts each stretch between two clock reads to one of three counters.
pub struct Timing {
    metrics: TaskMetrics,
    last: Instant,
    /// The task waits since `last`.
    waiting: Option<Add>,
}

impl Timing {
    pub const IDLE: Add = TaskMetrics::add_idle_micros;
    pub const BACKPRESSURED: Add = TaskMetrics::add_backpressured_micros;

    pub fn new(metrics: TaskMetrics, now: Instant) -> Self {
        Self { metrics, last: now, waiting: None }
    }

    fn account(&mut self, now: Instant, add: Add) {
        let micros = now.saturating_duration_since(self.last).as_micros() as u64;
        if micros > 0 {
            add(&self.metrics, micros);
            self.last += Duration::from_micros(micros);
        }
    }

    /// The task worked since the last read.
    pub fn busy_until(&mut self, now: Instant) {
        self.account(now, TaskMetrics::add_busy_micros);
    }

    /// A poll ends in `Pending`: the task worked until now, and waits until [`Self::resume`].
    pub fn wait(&mut self, now: Instant, add: Add) {
        self.busy_until(now);
        self.waiting = Some(add);
    }

    /// The task is polled. The time if it had waited, otherwise nothing is read.
    pub fn resume(&mut self) -> Option<Instant> {
        let add = self.waiting.take()?;
        let now = Instant::now();
        self.account(now, add);
        Some(now)
    }
}
