//! When a task flushes next: no record waits in a batch that is not full for longer than the buffer timeout, whatever the task itself
//! waits for.
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Least time between two flushes of a task that waits: with a timeout of zero it would do nothing else.
const LEAST: Duration = Duration::from_millis(1);

/// The buffer timeout of one task.
pub struct Flusher {
    timeout: Duration,
    last: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Flusher {
    pub fn new(timeout: Duration, now: Instant) -> Self {
        Self { timeout, last: now, sleep: None }
    }

    /// The last flush is so long ago.
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= self.timeout
    }

    pub fn flushed(&mut self, now: Instant) {
        self.last = now;
    }

    /// Ready when it is due. For a task that waits: reads the clock.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // beyond the end of time: never
        let Some(due) = self.last.checked_add(self.timeout.max(LEAST)) else { return Poll::Pending };
        if Instant::now() >= due {
            return Poll::Ready(());
        }
        let due = tokio::time::Instant::from_std(due);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if sleep.deadline() != due {
            sleep.as_mut().reset(due);
        }
        sleep.as_mut().poll(cx)
    }
}
