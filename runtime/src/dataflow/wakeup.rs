//! The timer of a task: sleeps until the chain's next processing-time timer is due.
use super::Clock;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest sleep: after it the clock is read again, in case it was set.
const LONGEST: Duration = Duration::from_secs(60);

/// At most one armed sleep.
pub struct Wakeup {
    clock: Clock,
    armed: Option<(i64, Pin<Box<Sleep>>)>,
}

impl Wakeup {
    pub fn new(clock: Clock) -> Self {
        Self { clock, armed: None }
    }

    /// The clock's time, if `due` (ms since the Unix epoch) has come.
    pub fn due(&self, due: Option<i64>) -> Option<i64> {
        let due = due?;
        let now = self.clock.now_ms();
        (now >= due).then_some(now)
    }

    /// Ready with the clock's time when `due` has come. Pending without a wake-up if there is none.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Option<i64>) -> Poll<i64> {
        let Some(due) = due else {
            self.armed = None;
            return Poll::Pending;
        };
        // whoever sets a clock wakes the task
        let set = self.clock.is_manual() && self.clock.now_ms() >= due;
        loop {
            if !set
                && let Some((at, sleep)) = &mut self.armed
                && *at == due
                && sleep.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            let now = self.clock.now_ms();
            if now >= due {
                self.armed = None;
                return Poll::Ready(now);
            }
            let wait = Duration::from_millis(due.saturating_sub(now).unsigned_abs()).min(LONGEST);
            self.armed = Some((due, Box::pin(sleep_until(Instant::now() + wait))));
        }
    }
}
