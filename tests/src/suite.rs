//! A runner for tests that find out by themselves whether this machine can run them: passed, failed, or ignored with the reason.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Parser;

/// How a test ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// This machine cannot run it; the reason is printed.
    Ignored(String),
}

/// What a test returns.
pub type Test = Result<Verdict>;

/// A test: its name and what it does.
pub type Case = (&'static str, fn() -> Test);

/// Options of Rust's own test runner, as far as they mean something here.
#[derive(Parser)]
struct Args {
    /// Run the tests whose name contains one of these
    filters: Vec<String>,
    /// Take the filters as whole names
    #[arg(long)]
    exact: bool,
    /// Leave out the tests whose name contains this
    #[arg(long)]
    skip: Vec<String>,
    /// Print the names and end
    #[arg(long)]
    list: bool,
    /// How many tests run beside each other
    #[arg(long, env = "RUST_TEST_THREADS")]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    no_capture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
}

impl Args {
    fn wants(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

/// Runs those that the command line wants, `threads` beside each other, and prints what Rust's own runner would.
pub fn main(cases: &[Case], threads: usize) -> ExitCode {
    let args = Args::parse();
    let wanted: Vec<&Case> = cases.iter().filter(|(name, _)| args.wants(name) && !args.ignored).collect();
    if args.list {
        wanted.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", wanted.len());
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.test_threads.unwrap_or(threads).clamp(1, wanted.len().max(1)) {
            scope.spawn(|| {
                while let Some(case) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(case);
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((case.0, outcome));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, outcome) in &outcomes {
        match outcome {
            Ok(Verdict::Passed) => passed += 1,
            Ok(Verdict::Ignored(_)) => ignored += 1,
            Err(error) => {
                failed += 1;
                println!("\n---- {name} ----\n{error:#}");
            }
        }
    }
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed == 0 { "ok" } else { "FAILED" },
        cases.len() - wanted.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run((name, test): &Case) -> Test {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(test)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow!("panicked: {}", text.unwrap_or_default()))
    });
    let word = match &outcome {
        Ok(Verdict::Passed) => "ok".to_owned(),
        Ok(Verdict::Ignored(reason)) => format!("ignored, {reason}"),
        Err(_) => "FAILED".to_owned(),
    };
    println!("test {name} ... {word} ({:.1} s)", begun.elapsed().as_secs_f64());
    outcome
}
