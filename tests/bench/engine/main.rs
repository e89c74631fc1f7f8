//! The engine beside the least that a handwritten loop must do for the same job, interleaved, in one table:
//! `cargo bench -p weir-tests --bench engine -- [--short] [--runs N] [FILTER...]`.
//!
//! Each loop and each job runs in a process of its own. `--short` checks results only: its figures mean nothing.

mod alloc;
mod big_state;
mod failover;
mod histogram;
mod jobs;
mod latency;
mod limits;
mod measure;
mod outcome;
mod table;
mod words;
mod workloads;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use weir::data::{Key as _, Str};

use self::limits::{mix, money, pick};
use self::outcome::Outcome;
use self::table::{Figure, Line, Pair};
use self::workloads::{Limit, Workload};

/// Weir's engine against handwritten loops.
#[derive(Parser)]
struct Args {
    /// Few records and one run, for correctness (CI)
    #[arg(long)]
    short: bool,
    /// How often each pair of loop and job runs [default: 5]
    #[arg(long)]
    runs: Option<usize>,
    /// Where the figures go as JSON [default: engine.json in the folder of inputs]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Folder for inputs (a text of 1 GB) and what jobs write [default: weir-bench in the cache folder]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only the workloads of these rows, or whose name contains one of these
    filters: Vec<String>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// Records of the run that keeps the last result of each key.
const VERIFIED: u64 = 1_000_000;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1).as_deref() {
        Some("local" | "jobmanager" | "taskmanager" | "plan") => return jobs::main(),
        Some("state") => big_state(&std::env::args().skip(2).collect::<Vec<_>>()),
        Some("limit") => limit(&std::env::args().skip(2).collect::<Vec<_>>()),
        _ => run(&Args::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("engine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one loop in this process.
fn limit(arguments: &[String]) -> Result<bool> {
    let number = |i: usize| -> Result<u64> {
        let text = arguments.get(i).with_context(|| format!("argument {i} is missing"))?;
        text.parse().with_context(|| format!("{text:?} is no number"))
    };
    if arguments.first().is_some_and(|a| a == "latency") {
        println!("{}", serde_json::to_string(&latency::limit(number(1)?))?);
        return Ok(true);
    }
    let outcome = match arguments.first().map(String::as_str) {
        Some("str") => limits::reduce_str(number(1)?, number(2)?),
        Some("str2") => limits::reduce_str_2(number(1)?, number(2)?),
        Some("int") => limits::reduce_int(number(1)?, number(2)?),
        Some("ser") => limits::reduce_ser(number(1)?, number(2)?),
        Some("window") => limits::windows(number(1)?, number(2)?),
        Some("wc") => limits::word_count(arguments.get(1).map(Path::new).context("no file")?, number(2)?)?,
        _ => bail!("limit: str|str2|int|ser N KEYS, window N KEYS, wc FILE THREADS, latency N"),
    };
    println!("{}", serde_json::to_string(&outcome.with_usage())?);
    Ok(true)
}

/// Measures a large state in this process.
fn big_state(arguments: &[String]) -> Result<bool> {
    let [keys, folder] = arguments else { bail!("state KEYS FOLDER") };
    let figures = big_state::run(keys.parse().context("KEYS is no number")?, Path::new(folder))?;
    println!("{}", serde_json::to_string(&figures)?);
    Ok(true)
}

fn run(args: &Args) -> Result<bool> {
    let scale = if args.short { workloads::SHORT } else { workloads::FULL };
    let runs = args.runs.unwrap_or(if args.short { 1 } else { 5 });
    let folder = args.folder.clone().map_or_else(|| weir_tests::cache_dir().map(|d| d.join("bench")), Ok)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let chosen = |row: &str, name: &str| {
        let is_row = |f: &str| f.parse::<u32>().is_ok();
        args.filters.is_empty()
            || args.filters.iter().any(|f| if is_row(f) { row == f } else { name.contains(f.as_str()) })
    };
    let mut workloads = workloads::all(scale);
    workloads.retain(|w| chosen(w.row, w.name));
    let mut pairs: Vec<Vec<Pair>> = workloads.iter().map(|_| Vec::new()).collect();
    let mut wrong: Vec<Option<String>> = workloads.iter().map(|w| verify(w, &folder).err().map(explain)).collect();
    let before = load();
    for run in 0..runs {
        for (i, w) in workloads.iter().enumerate() {
            eprintln!("run {} of {runs}: {}", run + 1, w.name);
            match pair(w, &folder, run) {
                Ok(pair) => pairs[i].push(pair),
                Err(e) => wrong[i] = Some(explain(e)),
            }
        }
    }
    let lines = workloads.iter().zip(pairs).zip(wrong);
    let mut lines: Vec<Line> = lines.map(|((w, pairs), wrong)| Line::new(w, pairs, wrong)).collect();
    if chosen("9", "latency") {
        lines.extend(latency::lines(&folder, runs, args.short)?);
    }
    // other tests kill processes, too: in a short run only where it is asked for
    if chosen("12", "failover") && !(args.short && args.filters.is_empty()) {
        lines.extend(failover::lines(&folder, runs, args.short));
    }
    if chosen("14", "idle") {
        lines.extend(idle(&folder, runs)?);
    }
    if chosen("10", "state") || chosen("11", "state") {
        lines.extend(big_state::lines(scale.state_keys, &folder, runs)?);
    }
    table::print(&lines);
    println!(
        "\nMedians of {runs} interleaved runs on {}; load of the machine before and after: {before:.2} / {:.2}.\n\
         Results per second in millions; rows 4 and 7: per second of processor time; rows with a unit: less is better. Row 9: the limit \
         sleeps in steps of 100 us; Flink at its default buffer timeout of 100 ms (with 0: 0.10 / 1.1 / 3.6 ms). Flink and timely: measured 2026-11-21 on this \
         kind of machine.",
        machine(),
        load()
    );
    let json = args.json.clone().unwrap_or_else(|| folder.join("engine.json"));
    let all = serde_json::json!({ "machine": machine(), "short": args.short, "lines": lines });
    std::fs::write(&json, serde_json::to_vec_pretty(&all)?)
        .with_context(|| format!("cannot write {}", json.display()))?;
    let history = folder.join("engine-history.jsonl");
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let mut line = serde_json::to_vec(&serde_json::json!({ "at": at, "figures": all }))?;
    line.push(b'\n');
    let file = std::fs::File::options().create(true).append(true).open(&history);
    let appended = file.and_then(|mut f| std::io::Write::write_all(&mut f, &line));
    appended.with_context(|| format!("cannot append to {}", history.display()))?;
    println!("figures of all runs: {}, added to {}", json.display(), history.display());
    Ok(lines.iter().all(|l| l.wrong.is_none()))
}

fn explain(error: anyhow::Error) -> String {
    let text = format!("{error:#}");
    eprintln!("  {text}");
    text
}

/// One-minute load.
fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(f64::NAN)
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores of {}", model.map_or("an unknown processor", |m| m.1.trim()))
}

/// Runs the limit, then the job (the other way round in every other run, where both are jobs), and compares their results.
fn pair(w: &Workload, folder: &Path, run: usize) -> Result<Pair> {
    let load = load();
    let (limit, (weir, _, checkpoints)) = match &w.limit {
        Limit::Loop(arguments) => {
            let mut arguments = arguments.clone();
            if let Some(megabytes) = w.run.megabytes {
                arguments[1] = words::file(folder, megabytes)?.display().to_string();
            }
            (measure::run_loop(&arguments)?, w.run.measure(folder)?)
        }
        Limit::Unchecked if run.is_multiple_of(2) => {
            let limit = w.run.without_checkpoints().measure(folder)?.0;
            (limit, w.run.measure(folder)?)
        }
        Limit::Unchecked => {
            let weir = w.run.measure(folder)?;
            (w.run.without_checkpoints().measure(folder)?.0, weir)
        }
    };
    compare(w, &limit, &weir)?;
    let million = |rate: f64| rate / 1e6;
    Ok(Pair {
        weir: million(weir.rate()),
        weir_per_core: million(weir.rate_per_core()),
        limit: million(limit.rate()),
        limit_per_core: million(limit.rate_per_core()),
        cpu_seconds: weir.cpu_seconds,
        peak_mib: weir.peak_mib,
        allocations: weir.allocations,
        checkpoints,
        load,
    })
}

fn compare(w: &Workload, limit: &Outcome, weir: &Outcome) -> Result<()> {
    ensure!(weir.count == limit.count, "{} results instead of {}", weir.count, limit.count);
    if w.run.is_ordered() && limit.acc.is_some() {
        ensure!(weir.acc == limit.acc, "the running sums differ: {:?} instead of {:?}", weir.acc, limit.acc);
    }
    if w.run.is_text() || w.run.is_windowed() {
        let what = if w.run.is_text() { "words" } else { "windows" };
        ensure!(weir.distinct == limit.distinct, "{:?} {what} instead of {:?}", weir.distinct, limit.distinct);
    }
    Ok(())
}

/// A short run whose last result of every key is compared with what the definition of the job says.
fn verify(w: &Workload, folder: &Path) -> Result<()> {
    // compared with the loop after each run
    if w.run.is_text() || w.run.is_windowed() {
        return Ok(());
    }
    eprintln!("checking the results of {}", w.name);
    let run = w.run.verifying(VERIFIED);
    let (records, keys) = (run.records(), run.keys);
    let strings = !w.name.contains("u64");
    let mut sums: HashMap<u64, i64> = HashMap::new();
    for i in 0..records {
        let mixed = mix(i);
        *sums.entry(pick(mixed, keys)).or_default() += money(mixed);
    }
    let hash = |key: u64| if strings { Str::from(format!("video-{key}")).key_hash() } else { key.key_hash() };
    let expected = jobs::fold(sums.into_iter().map(|(key, sum)| (hash(key), sum)));
    let (outcome, finals, _) = run.measure(folder)?;
    ensure!(outcome.count == records, "{} results instead of {records}", outcome.count);
    ensure!(finals == expected, "the last results of the keys differ from the definition of the job");
    Ok(())
}

fn idle(folder: &Path, runs: usize) -> Result<[Line; 2]> {
    let found = (0..runs.max(1)).map(|_| measure::idle(folder)).collect::<Result<Vec<_>>>()?;
    let of = |name: &str, must, goal, flink, values: Vec<f64>| {
        Line::figure(Figure { must, goal, flink: Some(flink), ..Figure::new("14", name, values) })
    };
    let (memory, seconds) = found.into_iter().unzip();
    Ok([
        of("idle jobmanager + taskmanager: resident memory, MiB", 40.0, 25.0, 880.0, memory),
        of("start of both processes until the slots are there, s", 0.3, 0.1, 12.2, seconds),
    ])
}
