//! Whether and when the job restarts after a failure. Pure.
use crate::error::{Error, ErrorCode, ErrorDomain};
use std::collections::VecDeque;
use std::time::Duration;
use weir_api::config::{RestartConfig, RestartStrategy};

/// How often the very same bad record may fail the job: what is in the input does not go away by reading it again.
const SAME_BAD_RECORD: u32 = 3;
/// Growth of the delay from one restart to the next (exponential delay).
const GROWTH: u32 = 2;

/// What to do about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    RestartAfter(Duration),
    /// The job fails for good; the sentence says which limit was reached.
    Fail(String),
}

/// Remembers the failures of one job in one process.
#[derive(Debug)]
pub struct RestartPolicy {
    config: RestartConfig,
    strategy: RestartStrategy,
    last_failure: Option<Duration>,
    /// Failures since the job last ran for `reset_after` without one; decides the exponential delay.
    in_a_row: u32,
    /// Errors of the job's own code with neither another failure nor a completed checkpoint between them.
    user_in_a_row: u32,
    /// Restarts that were granted.
    restarts: u32,
    /// The job has got on (completed a checkpoint) since the last failure.
    progressed: bool,
    last_bad_record: Option<(String, u32)>,
    recent: VecDeque<Duration>,
}

impl RestartPolicy {
    /// `restores`: the job has a checkpoint storage, so a restart does not begin from nothing.
    pub fn new(config: RestartConfig, restores: bool) -> Self {
        let default = if restores { RestartStrategy::ExponentialDelay } else { RestartStrategy::None };
        Self {
            strategy: config.strategy.unwrap_or(default),
            config,
            last_failure: None,
            in_a_row: 0,
            user_in_a_row: 0,
            restarts: 0,
            progressed: true,
            last_bad_record: None,
            recent: VecDeque::new(),
        }
    }

    /// The job failed. Called once per failed attempt. `now` counts from the start of the process.
    pub fn failed(&mut self, now: Duration, error: &Error) -> Decision {
        let reset_after = self.config.reset_after.get();
        if self.last_failure.is_some_and(|t| now.saturating_sub(t) >= reset_after) {
            (self.in_a_row, self.user_in_a_row) = (0, 0);
            self.last_bad_record = None;
        }
        self.last_failure = Some(now);
        if let Some(why) = self.hopeless(error) {
            self.in_a_row += 1;
            return Decision::Fail(why);
        }
        let delay = self.config.delay.get();
        let decision = match self.strategy {
            RestartStrategy::None => Decision::Fail("the restart strategy is None".into()),
            RestartStrategy::FixedDelay if self.restarts >= self.config.attempts => {
                Decision::Fail(format!("restarted {} times, the limit of strategy FixedDelay", self.restarts))
            }
            RestartStrategy::FixedDelay => Decision::RestartAfter(delay),
            RestartStrategy::FailureRate => {
                let window = self.config.failure_interval.get();
                while self.recent.front().is_some_and(|&t| now.saturating_sub(t) >= window) {
                    self.recent.pop_front();
                }
                if self.recent.len() >= self.config.attempts as usize {
                    let n = self.recent.len() + 1;
                    Decision::Fail(format!(
                        "failed {n} times within {}, above the FailureRate",
                        self.config.failure_interval
                    ))
                } else {
                    self.recent.push_back(now);
                    Decision::RestartAfter(delay)
                }
            }
            RestartStrategy::ExponentialDelay => Decision::RestartAfter(self.exponential()),
        };
        // nothing is known to be wrong with the job: another process takes over at once, unless the job loses one process
        // after the other without getting anywhere
        let progressed = std::mem::take(&mut self.progressed);
        self.restarts = self.restarts.saturating_add(u32::from(matches!(decision, Decision::RestartAfter(_))));
        match decision {
            Decision::RestartAfter(_) if is_lost_process(error) && progressed => Decision::RestartAfter(Duration::ZERO),
            d => {
                self.in_a_row += 1;
                d
            }
        }
    }

    /// The job has completed a checkpoint: it gets on.
    pub fn progressed(&mut self) {
        self.progressed = true;
        self.user_in_a_row = 0;
    }

    /// What grows with failures in a row, whatever the strategy.
    pub fn exponential(&self) -> Duration {
        let factor = GROWTH.saturating_pow(self.in_a_row.min(30));
        self.config.delay.get().saturating_mul(factor).min(self.config.max_delay.get())
    }

    /// Errors that another attempt meets again.
    fn hopeless(&mut self, error: &Error) -> Option<String> {
        if matches!(error.code, ErrorCode::Graph | ErrorCode::Config | ErrorCode::Incompatible) {
            return Some("a restart cannot mend it".into());
        }
        if error.domain != ErrorDomain::User {
            self.user_in_a_row = 0;
            return None;
        }
        self.user_in_a_row += 1;
        if error.code == ErrorCode::BadRecord {
            let times = match self.last_bad_record.take() {
                Some((m, n)) if m == error.message => n + 1,
                _ => 1,
            };
            self.last_bad_record = Some((error.message.clone(), times));
            if times >= SAME_BAD_RECORD {
                return Some(format!("the same bad record was met {times} times"));
            }
        }
        // the other strategies have limits of their own
        (self.strategy == RestartStrategy::ExponentialDelay && self.user_in_a_row > self.config.attempts)
            .then(|| format!("the job's own code failed {} times in a row", self.user_in_a_row))
    }
}

/// A process or its connection was lost; the job itself did nothing wrong.
pub fn is_lost_process(error: &Error) -> bool {
    matches!(error.code, ErrorCode::Connection | ErrorCode::HeartbeatTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_api::HumanDuration;

    fn policy(strategy: RestartStrategy) -> RestartPolicy {
        RestartPolicy::new(RestartConfig { strategy: Some(strategy), ..Default::default() }, true)
    }
    fn after(ms: u64) -> Decision {
        Decision::RestartAfter(Duration::from_millis(ms))
    }
    fn lost() -> Error {
        Error::external(ErrorCode::Connection, "taskmanager tm-1 is gone")
    }
    fn io() -> Error {
        Error::external(ErrorCode::Storage, "storage does not answer")
    }

    #[test]
    fn the_delay_grows_up_to_its_limit_and_starts_over_after_a_quiet_time() {
        let mut p = policy(RestartStrategy::ExponentialDelay);
        let t = Duration::from_secs(1000);
        assert_eq!([0, 1, 2].map(|_| p.failed(t, &io())), [after(100), after(200), after(400)]);
        for _ in 0..100 {
            p.failed(t, &io());
        }
        assert_eq!(p.failed(t, &io()), after(60_000));
        assert_eq!(p.failed(t + Duration::from_secs(599), &io()), after(60_000));
        assert_eq!(p.failed(t + Duration::from_secs(599 + 600), &io()), after(100));
    }

    #[test]
    fn a_lost_process_restarts_without_delay_if_the_job_got_on_before() {
        let mut p = policy(RestartStrategy::ExponentialDelay);
        let t = Duration::from_secs(1000);
        assert_eq!([0, 1, 2].map(|_| p.failed(t, &lost())), [after(0), after(100), after(200)]);
        p.progressed();
        assert_eq!([0, 1].map(|_| p.failed(t, &lost())), [after(0), after(400)]);
        assert_eq!(policy(RestartStrategy::FixedDelay).failed(t, &lost()), after(0));
        assert!(matches!(policy(RestartStrategy::None).failed(t, &lost()), Decision::Fail(_)));
    }

    #[test]
    fn user_errors_do_not_loop_for_ever() {
        let t = Duration::from_secs(1000);
        let mut p = policy(RestartStrategy::ExponentialDelay);
        let bad = Error::user(ErrorCode::BadRecord, "f.csv line 3 column 2: not a number");
        assert_eq!([p.failed(t, &bad), p.failed(t, &bad)], [after(100), after(200)]);
        assert!(matches!(p.failed(t, &bad), Decision::Fail(why) if why.contains("3 times")));

        let mut p = policy(RestartStrategy::ExponentialDelay);
        let failures = (0..100).take_while(|_| {
            let e = Error::user(ErrorCode::UserFunction, "the service said no");
            matches!(p.failed(t, &e), Decision::RestartAfter(_))
        });
        assert_eq!(failures.count(), 10);

        let mut p = policy(RestartStrategy::ExponentialDelay);
        assert!(matches!(p.failed(t, &Error::user(ErrorCode::Incompatible, "x")), Decision::Fail(_)));
    }

    #[test]
    fn user_errors_between_completed_checkpoints_are_not_in_a_row() {
        let t = Duration::from_secs(1000);
        let mut p = policy(RestartStrategy::ExponentialDelay);
        for _ in 0..50 {
            let e = Error::user(ErrorCode::UserFunction, "the service said no");
            assert!(matches!(p.failed(t, &e), Decision::RestartAfter(_)));
            p.progressed();
        }
        // but a checkpoint before a bad record makes it no better
        let bad = Error::user(ErrorCode::BadRecord, "f.csv line 3 column 2: not a number");
        for n in 1..=3 {
            assert_eq!(matches!(p.failed(t, &bad), Decision::Fail(_)), n == 3);
            p.progressed();
        }
    }

    #[test]
    fn fixed_delay_counts_every_restart_of_the_process() {
        let config = RestartConfig { strategy: Some(RestartStrategy::FixedDelay), attempts: 3, ..Default::default() };
        let mut p = RestartPolicy::new(config, true);
        let t = Duration::from_secs(1000);
        for n in 0..3 {
            // far apart, each after a checkpoint
            assert_eq!(p.failed(t * (n + 1), &lost()), after(0));
            p.progressed();
        }
        assert!(matches!(p.failed(t * 4, &lost()), Decision::Fail(why) if why.contains("restarted 3 times")));
    }

    #[test]
    fn a_failure_rate_alone_limits_user_errors() {
        let config = RestartConfig { strategy: Some(RestartStrategy::FailureRate), attempts: 1, ..Default::default() };
        let mut p = RestartPolicy::new(config, true);
        let e = Error::user(ErrorCode::UserFunction, "the service said no");
        for n in 1..=20 {
            assert_eq!(p.failed(Duration::from_secs(100 * n), &e), after(100));
        }
        assert!(matches!(p.failed(Duration::from_secs(2001), &e), Decision::Fail(_)));
    }

    #[test]
    fn fixed_delay_and_failure_rate_end_at_their_limits() {
        let t = Duration::from_secs(1000);
        let config = |strategy| RestartConfig {
            strategy: Some(strategy),
            attempts: 2,
            delay: HumanDuration::from_secs(1),
            failure_interval: HumanDuration::from_secs(10),
            ..Default::default()
        };
        let mut p = RestartPolicy::new(config(RestartStrategy::FixedDelay), true);
        assert_eq!([p.failed(t, &io()), p.failed(t, &io())], [after(1000), after(1000)]);
        assert!(matches!(p.failed(t, &io()), Decision::Fail(_)));

        let mut p = RestartPolicy::new(config(RestartStrategy::FailureRate), true);
        for i in 0..20 {
            assert_eq!(p.failed(t + Duration::from_secs(i * 5), &io()), after(1000), "two in 10 s are allowed");
        }
        let t = t + Duration::from_secs(96);
        assert!(matches!(p.failed(t, &io()), Decision::RestartAfter(_) | Decision::Fail(_)));
        assert!(matches!(p.failed(t, &io()), Decision::Fail(_)));
    }
}
