//! Busy, idle and backpressured time of a task, from the clock reads that its loop does anyway: one or two per batch.
use crate::observe::TaskMetrics;
use std::time::Instant;

/// Accounts each stretch between two clock reads to one of three counters.
pub struct Timing {
    metrics: TaskMetrics,
    last: Instant,
}

impl Timing {
    pub const IDLE: fn(&TaskMetrics, u64) = TaskMetrics::add_idle_micros;
    pub const BACKPRESSURED: fn(&TaskMetrics, u64) = TaskMetrics::add_backpressured_micros;

    pub fn new(metrics: TaskMetrics, now: Instant) -> Self {
        Self { metrics, last: now }
    }

    fn account(&mut self, now: Instant, add: fn(&TaskMetrics, u64)) {
        let micros = now.saturating_duration_since(self.last).as_micros() as u64;
        if micros > 0 {
            add(&self.metrics, micros);
            self.last = now;
        }
    }

    /// The task worked since the last read.
    pub fn busy_until(&mut self, now: Instant) {
        self.account(now, TaskMetrics::add_busy_micros);
    }

    /// The task waited since the last read.
    pub fn waited(&mut self, now: Instant, add: fn(&TaskMetrics, u64)) {
        self.account(now, add);
    }
}
