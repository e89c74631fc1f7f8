//! Runs after runs until the wanted number of kills is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::run::{Run, Work};
use super::schedule::Dice;
use crate::local;
use crate::oracle::Expected;

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Job {
    /// The flights example; its input is read so many times in one run.
    Flights { repeat: u64 },
    /// The job with windows, sessions, timers, two inputs, broadcast state and asynchronous calls, for so many seconds.
    Functions { seconds: u64 },
}

/// Orders per second of the functions job.
const RATE: u64 = 10_000;

impl Job {
    fn work(self) -> Result<Work> {
        match self {
            Self::Flights { repeat } => {
                let input = local::input()?;
                local::flights()?;
                let expected = Arc::new(Expected::from_file(&input, repeat)?);
                Ok(Work::Flights { input, repeat, expected })
            }
            Self::Functions { seconds } => {
                local::functions()?;
                Ok(Work::Functions { records: RATE * seconds, rate: RATE as f64 })
            }
        }
    }
}

/// Many runs, at parallelism 1, 2 and 3 in turn.
#[derive(Debug, Clone)]
pub struct Campaign {
    pub seed: u64,
    pub kills: u64,
    /// SIGKILLs of one run at the most.
    pub kills_per_run: u64,
    pub job: Job,
    pub only_kills: bool,
    /// Where the runs' folders go; none: the system's folder for temporary files.
    pub dir: Option<PathBuf>,
    pub verbose: bool,
}

/// What came of them.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub seed: u64,
    pub kills: u64,
    pub runs: u64,
    /// Steps by their kind.
    pub steps: BTreeMap<String, u64>,
    pub rows: u64,
    pub attempts: u64,
    pub took: Duration,
}

/// Taskmanagers and slots of each, by parallelism.
const LAYOUTS: [&[(usize, u32)]; 3] = [&[(1, 1), (2, 1)], &[(2, 1), (1, 2)], &[(3, 1), (2, 2)]];

impl Campaign {
    /// Runs it; the first output that is not exact ends it with an error, and its folder is kept.
    pub fn execute(&self) -> Result<Summary> {
        let begin = Instant::now();
        let work = self.job.work()?;
        let mut dice = Dice::new(self.seed);
        let mut summary = Summary { seed: self.seed, ..Default::default() };
        // runs that end before a kill do not count for ever
        while summary.kills < self.kills && summary.runs < 20 + self.kills {
            let parallelism = u32::try_from(summary.runs % 3)? + 1;
            let (taskmanagers, slots) = dice.one_of(LAYOUTS[parallelism as usize - 1]);
            let builder = self.folder()?;
            let run = Run {
                seed: dice.next(),
                parallelism,
                taskmanagers,
                slots,
                interval: Duration::from_millis(dice.one_of(&[50, 100, 200])),
                work: work.clone(),
                kills: self.kills_per_run.min(self.kills - summary.kills),
                only_kills: self.only_kills,
                dir: builder.path().to_path_buf(),
                verbose: self.verbose,
            };
            let outcome = match run.execute() {
                Ok(outcome) => outcome,
                Err(error) => {
                    let kept = builder.keep();
                    return Err(error.context(format!(
                        "run {} of the campaign with seed {} (kept in {})",
                        summary.runs + 1,
                        self.seed,
                        kept.display()
                    )));
                }
            };
            summary.runs += 1;
            summary.kills += outcome.kills;
            summary.rows += outcome.rows;
            summary.attempts += outcome.attempts;
            for step in &outcome.steps {
                let kind = step.rsplit(": ").next().unwrap_or(step);
                let kind = kind.split('(').next().unwrap_or(kind);
                *summary.steps.entry(kind.to_owned()).or_default() += 1;
            }
            eprintln!(
                "run {}: p={parallelism}, {taskmanagers} x {slots} slots, every {:?}, seed {}: {} steps, {} kills, {} attempts, {} rows exact, {:.1} s",
                summary.runs,
                run.interval,
                run.seed,
                outcome.steps.len(),
                outcome.kills,
                outcome.attempts,
                outcome.rows,
                outcome.took.as_secs_f64()
            );
        }
        summary.took = begin.elapsed();
        Ok(summary)
    }

    fn folder(&self) -> Result<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("weir-chaos-");
        match &self.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
                builder.tempdir_in(dir)
            }
            None => builder.tempdir(),
        }
        .context("cannot create a folder for the run")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        write!(
            f,
            "{} kills in {} runs ({} attempts) with seed {}: {} rows, lost 0, double 0, wrong 0, nothing left over; {:.0} s [{}]",
            self.kills,
            self.runs,
            self.attempts,
            self.seed,
            self.rows,
            self.took.as_secs_f64(),
            steps.join(", ")
        )
    }
}
