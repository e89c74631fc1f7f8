//! Row 9: 50,000 records a second with exactly-once checkpoints every second: the time from the moment at which a record was
//! due to be emitted until the sink's function sees what followed from it.
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use weir::connectors::sink::{Sink, SinkContext, SinkWriter};
use weir::data::Key as _;
use weir::dataflow::Batch;
use weir::prelude::*;

use crate::histogram::{self, Histogram};
use crate::jobs::{JobArguments, fold};
use crate::limits::{mix, money, pick};
use crate::measure::{Deploy, Run, run_loop};
use crate::outcome::{tell, usage};
use crate::table::{Figure, Line};

const RATE: u64 = 50_000;
const KEYS: u64 = 100_000;
/// Seconds that are measured, after those that are not.
const MEASURED: u64 = 20;
const WARM_UP: u64 = 5;
/// Quantile, must and goal (ms), Flink at its default settings (p = 1, p = 2).
const QUANTILES: [(&str, f64, f64, f64, [f64; 2]); 3] = [
    ("p50", 0.5, 0.5, 0.2, [9.9, 26.0]),
    ("p99", 0.99, 2.0, 1.0, [20.5, 77.0]),
    ("p99.9", 0.999, 5.0, 2.0, [43.5, 82.0]),
];

#[derive(Clone, Record)]
struct Sample {
    key: u64,
    index: u64,
    money: i64,
}

/// When each subtask of the generator was asked for its first record: it is due then, and the others follow at the rate.
static STARTED: [OnceLock<Instant>; 64] = [const { OnceLock::new() }; 64];

pub fn declare(job: &mut Job, args: &JobArguments) {
    let (keys, subtasks) = (args.keys, args.shares);
    let samples = Generator::new(args.records, move |i| {
        if i < subtasks {
            STARTED[i as usize].get_or_init(Instant::now);
        }
        let mixed = mix(i);
        Sample { key: pick(mixed, keys), index: i, money: money(mixed) }
    });
    job.source("samples", samples.rate(RATE as f64))
        .key_by(|s| &s.key)
        .reduce("sum", |sum: &mut Sample, s: Sample| {
            sum.index = s.index;
            sum.money += s.money;
        })
        .sink("watch", Watch { report: args.report.clone(), subtasks, warm_up: warm_up(args.records) });
}

/// Records that are not measured.
fn warm_up(records: u64) -> u64 {
    records * WARM_UP / (WARM_UP + MEASURED)
}

/// What a subtask of the sink saw.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    latencies: Histogram,
    count: u64,
    finals: u64,
    cpu_seconds: f64,
    peak_mib: f64,
}

#[derive(Clone)]
struct Watch {
    report: PathBuf,
    subtasks: u64,
    warm_up: u64,
}

struct WatchWriter {
    watch: Watch,
    file: PathBuf,
    seen: Seen,
    last: HashMap<u64, i64>,
}

impl Sink<Sample> for Watch {
    type Writer = WatchWriter;
    fn writer(&self, cx: &SinkContext) -> weir::Result<WatchWriter> {
        Ok(WatchWriter {
            watch: self.clone(),
            file: self.report.join(format!("{}.json", cx.subtask)),
            seen: Seen::default(),
            // it grows before the run, not in it
            last: HashMap::with_capacity(KEYS as usize),
        })
    }
}

impl SinkWriter<Sample> for WatchWriter {
    fn write(&mut self, batch: &mut Batch<Sample>) -> weir::Result<()> {
        let now = Instant::now();
        let nanos = 1_000_000_000 * self.watch.subtasks / RATE;
        for sample in batch.records.drain(..) {
            let (subtask, nth) = (sample.index % self.watch.subtasks, sample.index / self.watch.subtasks);
            if sample.index >= self.watch.warm_up
                && let Some(started) = STARTED[subtask as usize].get()
            {
                let since = now.saturating_duration_since(*started).as_nanos() as u64;
                self.seen.latencies.add(since.saturating_sub(nth * nanos));
            }
            self.seen.count += 1;
            self.last.insert(sample.key, sample.money);
        }
        batch.clear();
        Ok(())
    }
    fn close(&mut self) -> weir::Result<()> {
        (self.seen.cpu_seconds, self.seen.peak_mib) = usage("self");
        self.seen.finals = fold(self.last.drain().map(|(key, sum)| (key.key_hash(), sum)));
        tell(&self.file, &self.seen)
    }
}

/// The least: one thread that sleeps until records are due, in steps of 100 us, and adds each to a table.
pub fn limit(records: u64) -> Histogram {
    let mut sums: HashMap<u64, i64> = HashMap::with_capacity(KEYS as usize);
    let (mut latencies, mut next, started) = (Histogram::default(), 0, Instant::now());
    while next < records {
        let since = started.elapsed().as_nanos() as u64;
        let due = (since * RATE / 1_000_000_000 + 1).min(records);
        for i in next..due {
            let mixed = mix(i);
            *sums.entry(pick(mixed, KEYS)).or_default() += money(mixed);
            if i >= warm_up(records) {
                let seen = started.elapsed().as_nanos() as u64;
                latencies.add(seen.saturating_sub(i * 1_000_000_000 / RATE));
            }
        }
        next = due;
        std::thread::sleep(Duration::from_micros(100));
    }
    std::hint::black_box(sums);
    latencies
}

/// One run, checked.
fn run(folder: &Path, p: u32, records: u64, interval: &'static str) -> Result<Seen> {
    let scratch = TempDir::new_in(folder)?;
    let report = scratch.path().join("report");
    std::fs::create_dir(&report)?;
    let job = Run::reduce("latency", records, KEYS, Deploy::Local(p)).with_checkpoints(interval);
    let checkpoints = job.execute(folder, scratch.path(), &report)?;
    ensure!(checkpoints > 0, "no checkpoint was completed");
    let mut all = Seen::default();
    for entry in std::fs::read_dir(&report)? {
        let one: Seen = serde_json::from_slice(&std::fs::read(entry?.path())?).context("a subtask told nothing")?;
        all.latencies.join(&one.latencies);
        all.count += one.count;
        all.finals = all.finals.wrapping_add(one.finals);
        // of the one process
        (all.cpu_seconds, all.peak_mib) = (one.cpu_seconds, one.peak_mib);
    }
    ensure!(all.count == records, "{} results instead of {records}", all.count);
    ensure!(all.finals == expected(records), "the last results of the keys differ from the definition of the job");
    let measured = all.latencies.count();
    ensure!(measured == records - warm_up(records), "{measured} latencies were taken");
    Ok(all)
}

fn expected(records: u64) -> u64 {
    let mut sums: HashMap<u64, i64> = HashMap::new();
    for i in 0..records {
        let mixed = mix(i);
        *sums.entry(pick(mixed, KEYS)).or_default() += money(mixed);
    }
    fold(sums.into_iter().map(|(key, sum)| (key.key_hash(), sum)))
}

/// The row: three quantiles at each parallelism.
pub fn lines(folder: &Path, runs: usize, short: bool) -> Result<Vec<Line>> {
    histogram::check()?;
    let (records, interval) = if short { (RATE, "100ms") } else { (RATE * (WARM_UP + MEASURED), "1s") };
    let mut found: [Vec<Result<Seen>>; 2] = Default::default();
    let mut limits = Vec::new();
    for n in 0..runs.max(1) {
        let limit: Histogram = run_loop(&["latency".to_owned(), records.to_string()])?;
        let of = |q| limit.quantile(q) as f64 / 1e6;
        eprintln!(
            "limit of latency: p50 {:.3} ms, p99 {:.3}, p99.9 {:.3}, max {:.3}",
            of(0.5),
            of(0.99),
            of(0.999),
            of(1.0)
        );
        limits.push(limit);
        for p in [1, 2] {
            eprintln!("run {} of {}: latency at {RATE} records/s, p={p}", n + 1, runs.max(1));
            let seen = run(folder, p, records, interval);
            if let Ok(seen) = &seen {
                let of = |q| seen.latencies.quantile(q) as f64 / 1e6;
                eprintln!("  p50 {:.3} ms, p99 {:.3}, p99.9 {:.3}, max {:.3}", of(0.5), of(0.99), of(0.999), of(1.0));
            }
            found[p as usize - 1].push(seen);
        }
    }
    let mut lines = Vec::new();
    for (p, seen) in (1..).zip(&found) {
        let right: Vec<&Seen> = seen.iter().filter_map(|s| s.as_ref().ok()).collect();
        let wrong = seen.iter().find_map(|s| s.as_ref().err()).map(|e| format!("{e:#}"));
        for (name, q, must, goal, flink) in QUANTILES {
            let values = right.iter().map(|s| s.latencies.quantile(q) as f64 / 1e6).collect();
            let name = format!("latency at 50,000/s, 1 s checkpoints, p={p}: {name}, ms");
            lines.push(Line::figure(Figure {
                must,
                goal,
                limits: limits.iter().map(|l| l.quantile(q) as f64 / 1e6).collect(),
                flink: Some(flink[p as usize - 1]),
                wrong: wrong.clone(),
                cpu_seconds: right.iter().map(|s| s.cpu_seconds).collect(),
                peak_mib: right.iter().map(|s| s.peak_mib).collect(),
                ..Figure::new("9", name, values)
            }));
        }
    }
    Ok(lines)
}
