//! Waits of a source for the next record that is due: a tokio sleep, or for less than two milliseconds, which tokio's timer
//! does not resolve, a timer of the kernel.
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Sleep;

/// Tokio's timer counts milliseconds and rounds up: waits below this would be twice as long and more.
const FINE: Duration = Duration::from_millis(2);
/// Stands for "no time": a day.
const FAR: Duration = Duration::from_secs(86_400);

/// The timer of one task, armed for one time at once.
#[derive(Default)]
pub struct Pause {
    until: Option<Instant>,
    /// It is the kernel's timer that is armed.
    fine: bool,
    sleep: Option<Pin<Box<Sleep>>>,
    /// Made when it is needed first; none before that, and where the kernel has none to give.
    timer: Option<AsyncFd<OwnedFd>>,
    tried: bool,
}

impl Pause {
    /// Arms it; [`Self::poll`] is ready from `until` on (none: in a day).
    pub fn arm(&mut self, until: Option<Instant>) {
        let now = Instant::now();
        let until = until.unwrap_or_else(|| now + FAR);
        self.until = Some(until);
        let left = until.saturating_duration_since(now);
        self.fine = left < FINE && self.set_timer(left);
        if self.fine {
            return;
        }
        let deadline = tokio::time::Instant::from_std(until);
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(deadline))),
        }
    }

    /// Ready when the time has come that it was armed for.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Ready(()) };
        loop {
            if Instant::now() >= until {
                self.until = None;
                return Poll::Ready(());
            }
            if !self.fine {
                return self.sleep.as_mut().map_or(Poll::Ready(()), |s| s.as_mut().poll(cx));
            }
            match self.timer.as_ref().map(|t| t.poll_read_ready(cx)) {
                Some(Poll::Pending) => return Poll::Pending,
                // of an earlier time
                Some(Poll::Ready(Ok(mut ready))) => ready.clear_ready(),
                Some(Poll::Ready(Err(_))) | None => self.timer = None,
            }
            self.arm(Some(until));
        }
    }

    /// False where there is no such timer.
    fn set_timer(&mut self, left: Duration) -> bool {
        if !std::mem::replace(&mut self.tried, true) {
            let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC);
            self.timer = fd.ok().and_then(registered);
        }
        let Some(timer) = &self.timer else { return false };
        // 0 would disarm it
        let nanos = i64::from(left.subsec_nanos().max(1));
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: nanos };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once).is_ok()
    }
}

fn registered(fd: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor from its making to its drop, and nobody takes it out of the `AsyncFd`
    #[allow(unsafe_code)]
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn never_ready_before_its_time_however_long_it_is() {
        let mut pause = Pause::default();
        for micros in [0, 1, 90, 1_500, 150, 4_000, 10, 2_500, 30] {
            let until = Instant::now() + Duration::from_micros(micros);
            pause.arm(Some(until));
            poll_fn(|cx| pause.poll(cx)).await;
            assert!(Instant::now() >= until, "{micros}");
        }
    }

    #[tokio::test]
    async fn a_time_that_was_given_up_does_not_end_a_later_one() {
        let mut pause = Pause::default();
        pause.arm(Some(Instant::now() + Duration::from_micros(50)));
        let _ = poll_fn(|cx| Poll::Ready(pause.poll(cx))).await;
        let until = Instant::now() + Duration::from_millis(1);
        pause.arm(Some(until));
        poll_fn(|cx| pause.poll(cx)).await;
        assert!(Instant::now() >= until);
        pause.arm(None);
        assert!(poll_fn(|cx| Poll::Ready(pause.poll(cx))).await.is_pending());
    }
}
