//! Bounded waiting: every wait has a deadline and says what it waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::suite::CannotRun;

/// Asks `probe` every `every` until it answers `Ok(Some)`, at most for `limit`.
///
/// `Err` from the probe counts as "not yet": its text is the reason given on time-out.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    every: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let last = match probe() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            // what cannot be done here will not be possible later
            Err(error) if CannotRun::reason(&error).is_some() => return Err(error),
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            match last {
                Some(error) => bail!("waited {limit:?} in vain for {what}: {error:#}"),
                None => bail!("waited {limit:?} in vain for {what}"),
            }
        }
        std::thread::sleep(every);
    }
}

/// As [`wait_for`] for a plain condition.
pub fn wait_until(what: &str, limit: Duration, every: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, limit, every, || Ok(probe()?.then_some(())))
}
