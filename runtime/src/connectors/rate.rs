//! Throttling of a source: how many records are due now, and when to ask again.
use crate::error::{Error, ErrorCode, Result};
use std::time::{Duration, Instant};

/// Records come in chunks of about so many: a wake-up for each would cost more than the record itself.
const CHUNK: f64 = 4.0;
/// But chunks are no nearer together than this, which is about what a wake-up takes, and no farther apart.
const CHUNKS: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(10)];
/// After a stall (backpressure, a checkpoint) at most this much is made up for.
const MAX_LAG: Duration = Duration::from_secs(1);

/// Hands out permission to read at an even rate. The n-th record is due n / rate after the first question.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_second: f64,
    /// Between two chunks.
    pace: Duration,
    start: Option<Instant>,
    taken: u64,
}

/// Refuses a rate that is not a positive number of records per second.
pub(crate) fn check_rate(rate: Option<f64>) -> Result<()> {
    match rate {
        Some(r) if !(r.is_finite() && r > 0.0) => Err(Error::user(
            ErrorCode::Config,
            format!(
                "a source's rate must be a positive number of records per second, not {r}; leave it out for full speed"
            ),
        )),
        _ => Ok(()),
    }
}

impl Throttle {
    /// The share of one of `readers` readers in a source's total rate; `None` when the source has no rate.
    pub fn share(rate: Option<f64>, readers: usize) -> Result<Option<Self>> {
        check_rate(rate)?;
        Ok(rate.map(|r| {
            let per_second = r / readers.max(1) as f64;
            let chunk = Duration::try_from_secs_f64(CHUNK / per_second).unwrap_or(CHUNKS[1]);
            Self { per_second, pace: chunk.clamp(CHUNKS[0], CHUNKS[1]), start: None, taken: 0 }
        }))
    }

    /// How many records may be read at `now`.
    pub fn due(&mut self, now: Instant) -> u64 {
        let start = *self.start.get_or_insert(now);
        let elapsed = now.saturating_duration_since(start).as_secs_f64();
        let due = ((elapsed * self.per_second) as u64 + 1).saturating_sub(self.taken);
        let most = (self.per_second * MAX_LAG.as_secs_f64()) as u64 + 1;
        if due > most {
            // forget the rest: the clock starts again, with `most` records due
            self.start = Some(now.checked_sub(MAX_LAG).unwrap_or(now));
            self.taken = 0;
        }
        due.min(most)
    }

    /// Counts records that were read.
    pub fn take(&mut self, n: u64) {
        self.taken += n;
    }

    /// When the next chunk is due, given that nothing is due at `now`.
    pub fn next(&self, now: Instant) -> Instant {
        let record = self.start.unwrap_or(now)
            + Duration::try_from_secs_f64(self.taken as f64 / self.per_second).unwrap_or(Duration::from_secs(3600));
        record.max(now + self.pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rate: f64, readers: usize, seconds: u64) -> (u64, u64, u64) {
        let start = Instant::now();
        let mut now = start;
        let mut t = Throttle::share(Some(rate), readers).unwrap().unwrap();
        let (mut total, mut calls, mut largest) = (0, 0, 0);
        while now < start + Duration::from_secs(seconds) {
            let n = t.due(now);
            t.take(n);
            (total, calls, largest) = (total + n, calls + 1, largest.max(n));
            now = t.next(now);
        }
        (total, calls, largest)
    }

    #[test]
    fn records_come_in_small_chunks_at_the_rate() {
        for (rate, most) in [(10_000.0, 6), (50_000.0, 7), (1_000_000.0, 110)] {
            let (total, calls, largest) = run(rate, 1, 10);
            let all = rate as u64 * 10;
            assert!((all - all / 500..=all + all / 1000).contains(&total), "{rate}: {total}");
            assert!(largest <= most, "{rate}: {largest}");
            assert!(calls <= 100_000, "{rate}: {calls}");
        }
        // few readers of a high rate, many of a low one
        assert_eq!(Throttle::share(Some(50_000.0), 2).unwrap().unwrap().pace, Duration::from_micros(160));
        assert_eq!(Throttle::share(Some(100.0), 1).unwrap().unwrap().pace, Duration::from_millis(10));
    }

    #[test]
    fn low_rates_wait_for_each_record_and_readers_share() {
        assert_eq!(run(2.0, 1, 10), (20, 20, 1));
        assert_eq!(run(2.0, 4, 10), (5, 5, 1));
    }

    #[test]
    fn a_stall_is_made_up_for_by_a_second_at_most() {
        let start = Instant::now();
        let mut t = Throttle::share(Some(1000.0), 1).unwrap().unwrap();
        assert_eq!(t.due(start), 1);
        assert_eq!(t.due(start + Duration::from_millis(500)), 501);
        t.take(501);
        let late = start + Duration::from_secs(100);
        assert_eq!(t.due(late), 1001);
        t.take(1001);
        assert_eq!(t.due(late), 0);
        assert_eq!(t.due(late + Duration::from_millis(20)), 20);
    }

    #[test]
    fn senseless_rates_are_refused() {
        for r in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check_rate(Some(r)).unwrap_err().message.contains("positive number"));
        }
        assert!(Throttle::share(None, 1).unwrap().is_none());
    }
}
