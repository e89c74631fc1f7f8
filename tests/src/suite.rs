//! Runs a folder's tests by `libtest-mimic`. A test that this machine or cluster cannot run says so by an error, [`CannotRun`], and is reported as ignored.

use std::fmt;
use std::process::ExitCode;

use anyhow::{Error, Result};
use clap::Parser;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Why a test cannot run here. It may come from deep below; contexts on the way do not hide it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotRun(pub String);

impl CannotRun {
    /// The reason, if this is what the error says.
    pub fn reason(error: &Error) -> Option<&str> {
        error.chain().find_map(|cause| cause.downcast_ref::<Self>()).map(|found| found.0.as_str())
    }
}

impl fmt::Display for CannotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CannotRun {}

/// A test for [`main`].
pub fn trial(name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match CannotRun::reason(&error) {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => Err(Failed::from(format!("{error:#}"))),
        },
    })
}

/// Trials of these functions, each with its path as its name: `trials!(trial: module::function, ...)`.
#[macro_export]
macro_rules! trials {
    ($trial:path: $($test:path),+ $(,)?) => {
        [$($trial(stringify!($test), $test)),+]
    };
}

/// Options of Rust's own runner.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// More filters: a test runs when its name contains any of them
    #[arg(value_name = "FILTER", hide = true)]
    more: Vec<String>,
}

/// Runs those tests that the command line wants, `threads` beside each other unless it or `RUST_TEST_THREADS` says otherwise.
pub fn main(mut trials: Vec<Trial>, threads: usize) -> ExitCode {
    let Options { mut arguments, more } = Options::parse();
    if !more.is_empty() {
        let filters: Vec<String> = arguments.filter.take().into_iter().chain(more).collect();
        let wants = |name: &str, filter: &String| if arguments.exact { name == filter } else { name.contains(filter) };
        trials.retain(|trial| filters.iter().any(|filter| wants(trial.name(), filter)));
    }
    let variable = std::env::var("RUST_TEST_THREADS").ok().and_then(|number| number.parse().ok());
    arguments.test_threads = arguments.test_threads.or(variable).or(Some(threads));
    libtest_mimic::run(&arguments, trials).exit_code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_below_contexts_and_other_errors_have_none() {
        let error = Error::from(CannotRun("no root".into())).context("a mount").context("a disk");
        assert_eq!(CannotRun::reason(&error), Some("no root"));
        assert_eq!(CannotRun::reason(&anyhow::anyhow!("no root").context("a mount")), None);
    }
}
