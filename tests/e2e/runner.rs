//! Runs the tests: those that may run beside each other on a few threads, then the others one by one; prints a line for each.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::Parser;
use weir_tests::cluster::{Cluster, Weir};

use crate::env::Env;

/// A test.
pub struct Case {
    pub name: &'static str,
    /// Nothing else runs meanwhile: it hits what all tests share.
    alone: bool,
    run: fn(&Env) -> Result<()>,
}

pub const fn beside(name: &'static str, run: fn(&Env) -> Result<()>) -> Case {
    Case { name, alone: false, run }
}

pub const fn alone(name: &'static str, run: fn(&Env) -> Result<()>) -> Case {
    Case { name, alone: true, run }
}

/// Options of Rust's own test runner, as far as they mean something here.
#[derive(Parser)]
#[command(about = "Whole-system tests of Weir on a real Kubernetes")]
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
    #[arg(long, env = "RUST_TEST_THREADS", default_value_t = 3)]
    test_threads: usize,
    /// Output is never captured here
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    no_capture: bool,
    #[arg(long, hide = true)]
    show_output: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    include_ignored: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
}

impl Args {
    fn wants(&self, case: &Case) -> bool {
        let matches =
            |filter: &String| if self.exact { case.name == filter } else { case.name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skip.iter().any(matches)
    }
}

struct Outcome {
    name: &'static str,
    error: Option<String>,
}

pub fn main(cases: &'static [Case]) -> ExitCode {
    let args = Args::parse();
    let wanted: Vec<&Case> = cases.iter().filter(|case| args.wants(case) && !args.ignored).collect();
    if args.list {
        wanted.iter().for_each(|case| println!("{}: test", case.name));
        return ExitCode::SUCCESS;
    }
    if wanted.is_empty() {
        println!("test result: ok. 0 tests of {} wanted", cases.len());
        return ExitCode::SUCCESS;
    }
    if let Ok(Some(why)) = Cluster::impossible() {
        wanted.iter().for_each(|case| println!("test {} ... ignored, {why}", case.name));
        println!("test result: ok. 0 passed; {} ignored", wanted.len());
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    let weir = match Weir::shared() {
        Ok(weir) => weir,
        Err(error) => {
            eprintln!("no test was run, because cluster, images or chart are not there: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "running {} tests on {}; set up in {:.0} s",
        wanted.len(),
        weir.cluster.describe(),
        begun.elapsed().as_secs_f64()
    );
    let (alone, beside): (Vec<&Case>, Vec<&Case>) = wanted.into_iter().partition(|case| case.alone);
    let mut outcomes = side_by_side(weir, &beside, args.test_threads.max(1));
    outcomes.extend(alone.into_iter().map(|case| run(weir, case)));

    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.error.is_some()).collect();
    for outcome in &failed {
        println!("\n---- {} ----\n{}", outcome.name, outcome.error.as_deref().unwrap_or_default());
    }
    println!(
        "\ntest result: {}. {} passed; {} failed; finished in {:.0} s",
        if failed.is_empty() { "ok" } else { "FAILED" },
        outcomes.len() - failed.len(),
        failed.len(),
        begun.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn side_by_side(weir: &'static Weir, cases: &[&Case], threads: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(weir, case);
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn run(weir: &'static Weir, case: &Case) -> Outcome {
    let begun = Instant::now();
    let result = Env::new(weir, case.name).and_then(|env| {
        let result = catch_unwind(AssertUnwindSafe(|| (case.run)(&env))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(anyhow!("panicked: {}", text.unwrap_or_default()))
        });
        env.end(result)
    });
    let error = result.err().map(|error| format!("{error:#}"));
    println!(
        "test {} ... {} ({:.1} s)",
        case.name,
        if error.is_some() { "FAILED" } else { "ok" },
        begun.elapsed().as_secs_f64()
    );
    if let Some(error) = &error {
        println!("  {}: {error}", case.name);
    }
    Outcome { name: case.name, error }
}
