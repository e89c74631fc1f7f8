//! Nexmark, an online auction: q0 to q8 on the engine, their results compared with plain loops, then how fast they are:
//! `cargo bench -p weir-tests --bench nexmark -- [--short] [--runs N] [QUERY...]`.
//!
//! Each query runs in a process of its own. `--short` checks results only.

#[path = "../engine/alloc.rs"]
mod alloc;
mod events;
mod oracle;
#[path = "../engine/outcome.rs"]
#[allow(dead_code)]
mod outcome;
mod queries;
mod rows;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use serde::Serialize;
use tempfile::TempDir;

use self::events::Nexmark;
use self::oracle::{Oracle, last_averages};
use self::queries::Query;
use self::rows::Report;

/// Nexmark on Weir.
#[derive(Parser)]
struct Args {
    /// Compare results only (CI)
    #[arg(long)]
    short: bool,
    /// How often each query runs
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Events of a run for speed, in millions
    #[arg(long, default_value_t = 50)]
    millions: u64,
    /// Where the figures go as JSON [default: nexmark.json in the folder]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Folder for what jobs write [default: weir-bench in the cache folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only these
    queries: Vec<Query>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

const SEED: u64 = 42;
/// Events whose results are compared, and how many of them make a second of event time: windows of a minute.
const VERIFIED: u64 = 60_000;
const VERIFIED_RATE: u64 = 1_000;
/// What is measured: events per second of event time as in Beam (few auctions per window) and as in Nexmark for Flink (a
/// window holds more auctions than caches do).
const RATES: [u64; 2] = [10_000, 10_000_000];

/// One way to run a query.
#[derive(Debug, Clone, Copy, Serialize)]
struct Run {
    query: Query,
    parallelism: u32,
    events: u64,
    /// Events per second of event time.
    rate: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    million_events_per_second: f64,
    million_events_per_core_second: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    allocations_per_event: f64,
    rows: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    run: Run,
    wrong: Option<String>,
    figures: Vec<Figures>,
}

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("local" | "jobmanager" | "taskmanager" | "plan") => return queries::main(),
        _ => run(&Args::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nexmark: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let folder = args.folder.clone().map_or_else(|| weir_tests::cache_dir().map(|d| d.join("bench")), Ok)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    events::check(SEED).context("the generator")?;
    let chosen = |q: &Query| args.queries.is_empty() || args.queries.contains(q);
    let queries: Vec<Query> = Query::ALL.into_iter().filter(chosen).collect();
    let wrong = verify(&queries, &folder)?;
    for (query, why) in &wrong {
        println!("WRONG RESULT: {}: {why}", query.id());
    }
    if args.short {
        if wrong.is_empty() {
            println!("{} queries give what they must, at parallelism 1 and 2", queries.len());
        }
        return Ok(wrong.is_empty());
    }
    let mut lines: Vec<Line> = Vec::new();
    for &query in &queries {
        let wrong = wrong.iter().find(|w| w.0 == query).map(|w| w.1.clone());
        for (parallelism, rate) in [(1, RATES[0]), (2, RATES[0]), (1, RATES[1]), (2, RATES[1])] {
            let run = Run { query, parallelism, events: args.millions * 1_000_000, rate };
            lines.push(Line { run, wrong: wrong.clone(), figures: Vec::new() });
        }
    }
    for n in 0..args.runs {
        for line in &mut lines {
            let Run { query, parallelism, rate, .. } = line.run;
            eprintln!("run {} of {}: {}, p={parallelism}, {rate}/s", n + 1, args.runs, query.id());
            line.figures.push(line.run.measure(&folder)?);
        }
    }
    print(&lines);
    let json = args.json.clone().unwrap_or_else(|| folder.join("nexmark.json"));
    std::fs::write(&json, serde_json::to_vec_pretty(&lines)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    println!(
        "\nMedians of {} runs of {} million events. Flink 2.3 was not measured with Nexmark on this kind of machine; its \
         windows of 10 s over 100,000 keys make 1.21 million events per core-second at p=1 and 1.52 at p=2.\n\
         figures of all runs: {}",
        args.runs,
        args.millions,
        json.display()
    );
    Ok(lines.iter().all(|l| l.wrong.is_none()))
}

/// The queries whose results are not those of the loops, and why.
fn verify(queries: &[Query], folder: &Path) -> Result<Vec<(Query, String)>> {
    let oracle = Oracle::new(Nexmark::new(SEED, VERIFIED_RATE), VERIFIED);
    let mut wrong = Vec::new();
    for &query in queries {
        let expected = oracle.rows(query);
        ensure!(!expected.is_empty(), "{} has no results in {VERIFIED} events", query.id());
        for parallelism in [1, 2] {
            eprintln!("checking {} at parallelism {parallelism}", query.id());
            let run = Run { query, parallelism, events: VERIFIED, rate: VERIFIED_RATE };
            if let Err(e) = run.verify(&expected, folder) {
                eprintln!("  {e:#}");
                wrong.push((query, format!("at parallelism {parallelism}: {e:#}")));
            }
        }
    }
    Ok(wrong)
}

impl Run {
    fn report(&self, folder: &Path, verify: bool) -> Result<Report> {
        let scratch = TempDir::new_in(folder)?;
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(["local", "--name", "nexmark", "--query", self.query.id()]);
        let (events, rate, parallelism) =
            (self.events.to_string(), self.rate.to_string(), self.parallelism.to_string());
        command.args(["--events", &events, "--rate", &rate, "--parallelism", &parallelism]);
        command.args(["--seed", &SEED.to_string(), "--report"]).arg(scratch.path());
        if verify {
            command.arg("--verify");
        }
        let output = command.output().context("cannot start the job")?;
        ensure!(output.status.success(), "the job failed: {}", String::from_utf8_lossy(&output.stderr));
        Report::read(scratch.path())
    }

    fn verify(&self, expected: &[String], folder: &Path) -> Result<()> {
        let report = self.report(folder, true)?;
        let all = report.lines.len();
        ensure!(report.rows as usize == all, "{} rows were counted and {all} kept", report.rows);
        let lines = if self.query == Query::Q4 { last_averages(&report.lines) } else { report.lines };
        if lines == expected {
            return Ok(());
        }
        let differ = lines.iter().zip(expected).find(|(a, b)| a != b);
        match differ {
            Some((is, must)) => {
                bail!("{} rows instead of {}; first {is:?} instead of {must:?}", lines.len(), expected.len())
            }
            None => bail!("{} rows instead of {}", lines.len(), expected.len()),
        }
    }

    fn measure(&self, folder: &Path) -> Result<Figures> {
        let report = self.report(folder, false)?;
        let events = self.events as f64;
        Ok(Figures {
            million_events_per_second: events / report.seconds / 1e6,
            million_events_per_core_second: events / report.cpu_seconds / 1e6,
            cpu_seconds: report.cpu_seconds,
            peak_mib: report.peak_mib,
            allocations_per_event: report.allocations as f64 / events,
            rows: report.rows,
        })
    }
}

fn print(lines: &[Line]) {
    println!(
        "| query | events/s of event time | p | M events/s | min-max | per core-s | CPU s | peak MiB | allocs/event | rows |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for line in lines {
        let Run { query, parallelism, rate, .. } = line.run;
        let sorted = |f: fn(&Figures) -> f64| {
            let mut all: Vec<f64> = line.figures.iter().map(f).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let median = |f: fn(&Figures) -> f64| sorted(f).get(line.figures.len() / 2).copied().unwrap_or(f64::NAN);
        let rates = sorted(|f| f.million_events_per_second);
        let spread = (rates.first().copied().unwrap_or(f64::NAN), rates.last().copied().unwrap_or(f64::NAN));
        println!(
            "| {} {}{} | {rate} | {parallelism} | {:.2} | {:.2}-{:.2} | {:.2} | {:.2} | {:.0} | {:.4} | {:.0} |",
            query.id(),
            query.name(),
            if line.wrong.is_some() { " WRONG" } else { "" },
            median(|f| f.million_events_per_second),
            spread.0,
            spread.1,
            median(|f| f.million_events_per_core_second),
            median(|f| f.cpu_seconds),
            median(|f| f.peak_mib),
            median(|f| f.allocations_per_event),
            median(|f| f.rows as f64),
        );
    }
}
