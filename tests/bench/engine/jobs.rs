//! The jobs that are measured, and the sink that counts their results.
//!
//! The benchmark's program is the jobs' program too: `engine local --job reduce-str ...` runs one, as a user's would.
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weir::connectors::sink::{Sink, SinkContext, SinkWriter};
use weir::data::{Data, Key};
use weir::dataflow::Batch;
use weir::prelude::*;

use crate::alloc::allocations;
use crate::limits::{event_time, mix, money, pick};
use crate::outcome::{Outcome, tell, usage};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum JobKind {
    ReduceStr,
    ReduceInt,
    WordCount,
    Windows,
    Latency,
    Failover,
}

#[derive(clap::Args)]
pub struct JobArguments {
    #[arg(long)]
    pub job: JobKind,
    #[arg(long, default_value_t = 0)]
    pub records: u64,
    #[arg(long, default_value_t = 0)]
    pub keys: u64,
    #[arg(long)]
    pub input: Option<PathBuf>,
    /// Subtasks of the sink, to know when each is half done
    #[arg(long, default_value_t = 1)]
    pub shares: u64,
    /// Folder for what each subtask of the sink has to tell
    #[arg(long)]
    pub report: PathBuf,
    /// Keep the last result of each key, to compare them
    #[arg(long)]
    pub verify: bool,
}

#[derive(Clone, Record)]
struct Order {
    title: Str,
    money: i64,
}

#[derive(Clone, Record)]
struct Sample {
    key: u64,
    money: i64,
}

#[derive(Clone, Record)]
struct Event {
    key: u64,
    at_ms: i64,
}

/// Counts the events of a window.
#[derive(Clone)]
struct CountEvents;

impl AggregateFunction for CountEvents {
    type In = Event;
    type Acc = u64;
    type Out = u64;
    fn create(&self) -> u64 {
        0
    }
    fn add(&self, count: &mut u64, _: Event) {
        *count += 1;
    }
    fn result(&self, count: &u64) -> u64 {
        *count
    }
    fn merge(&self, count: &mut u64, other: u64) {
        *count += other;
    }
}

/// Becomes the process that the command line says: `local`, `jobmanager`, `taskmanager`.
pub fn main() -> ExitCode {
    weir::main(declare)
}

fn declare(job: &mut Job, args: &JobArguments) -> weir::Result<()> {
    let (records, keys) = (args.records, args.keys);
    match args.job {
        JobKind::ReduceStr => {
            let titles: Arc<Vec<Str>> = Arc::new((0..keys).map(|i| format_str!("video-{i}")).collect());
            let orders = Generator::new(records, move |i| {
                let mixed = mix(i);
                Order { title: titles[pick(mixed, keys) as usize].clone(), money: money(mixed) }
            });
            job.source("orders", orders)
                .key_by(|o| &o.title)
                .reduce("sum", |sum: &mut Order, o: Order| sum.money += o.money)
                .sink("tally", Tally::new(args, |o: &Order| (o.title.key_hash(), o.money)));
        }
        JobKind::ReduceInt => {
            let samples = Generator::new(records, move |i| {
                let mixed = mix(i);
                Sample { key: pick(mixed, keys), money: money(mixed) }
            });
            job.source("samples", samples)
                .key_by(|s| &s.key)
                .reduce("sum", |sum: &mut Sample, s: Sample| sum.money += s.money)
                .sink("tally", Tally::new(args, |s: &Sample| (s.key.key_hash(), s.money)));
        }
        JobKind::Windows => {
            let events = Generator::new(records, move |i| {
                let mixed = mix(i);
                Event { key: pick(mixed, keys), at_ms: event_time(i, mixed) }
            });
            let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(2_500));
            job.source("events", events)
                .watermarks(strategy.timestamps(|e: &Event| e.at_ms))
                .key_by(|e| &e.key)
                .window(Tumbling::of(Duration::from_secs(10)))
                .aggregate("count", CountEvents)
                .sink("tally", Tally { weighed: true, ..Tally::new(args, |count: &u64| (0, *count as i64)) });
        }
        JobKind::Failover => crate::failover::declare(job, args),
        JobKind::Latency => crate::latency::declare(job, args),
        JobKind::WordCount => {
            let input = args.input.clone().unwrap_or_default();
            // as it is recommended where speed counts: no string is made of a line that is only taken apart
            let words = |line: &str, out: &mut Output<(Str, u64)>| {
                line.split_ascii_whitespace().for_each(|w| out.push((Str::from(w), 1)));
                Ok(())
            };
            job.source("words", FileSource::parse_lines(input.display().to_string(), words))
                .key_by(|(word, _)| word)
                .reduce("count", |total: &mut (Str, u64), one| total.1 += one.1)
                .sink("tally", Tally::new(args, |(word, n): &(Str, u64)| (word.key_hash(), *n as i64)));
        }
    }
    Ok(())
}

/// What a subtask of the sink has to tell when its task ends.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    pid: u32,
    /// Nanoseconds since the Unix epoch.
    started: u64,
    ended: u64,
    count: u64,
    acc: i64,
    /// Results of 1: the first ones of keys, where records count 1 each; all results, where they are weighed.
    ones: u64,
    /// Allocations of the process and results of this subtask since it was half done.
    allocations: u64,
    counted: u64,
    finals: u64,
    cpu_seconds: f64,
    peak_mib: f64,
}

/// Folds the last results of all keys so that neither order nor distribution matters.
pub fn fold(finals: impl Iterator<Item = (u64, i64)>) -> u64 {
    finals.fold(0, |all, (key_hash, last)| all.wrapping_add(mix(key_hash ^ last as u64)))
}

/// Joins what the subtasks told.
pub fn collect(report: &std::path::Path) -> anyhow::Result<(Outcome, u64)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(report)? {
        all.push(serde_json::from_slice::<Told>(&std::fs::read(entry?.path())?)?);
    }
    anyhow::ensure!(!all.is_empty(), "no subtask of the sink has told what it counted");
    let started = all.iter().map(|t| t.started).min().unwrap_or(0);
    let ended = all.iter().map(|t| t.ended).max().unwrap_or(0);
    let processes: HashMap<u32, &Told> = all.iter().map(|t| (t.pid, t)).collect();
    let counted: u64 = all.iter().map(|t| t.counted).sum();
    let outcome = Outcome {
        count: all.iter().map(|t| t.count).sum(),
        seconds: ended.saturating_sub(started) as f64 / 1e9,
        acc: Some(all.iter().fold(0, |acc, t| acc ^ t.acc)),
        distinct: Some(all.iter().map(|t| t.ones).sum()),
        allocations: (counted > 0).then(|| all.iter().map(|t| t.allocations).sum::<u64>() as f64 / counted as f64),
        cpu_seconds: processes.values().map(|t| t.cpu_seconds).sum(),
        peak_mib: processes.values().map(|t| t.peak_mib).sum(),
    };
    Ok((outcome, all.iter().fold(0, |f, t| f.wrapping_add(t.finals))))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// Counts results and folds them; `read` gives a result's key hash and value.
#[derive(Clone)]
struct Tally<F> {
    report: PathBuf,
    /// Results of a subtask after which allocations count.
    half: u64,
    verify: bool,
    /// A result of n stands for n records.
    weighed: bool,
    read: F,
}

impl<F> Tally<F> {
    fn new<T>(args: &JobArguments, read: F) -> Self
    where
        F: Fn(&T) -> (u64, i64),
    {
        let half = args.records / args.shares.max(1) / 2;
        Self { report: args.report.clone(), half, verify: args.verify, weighed: false, read }
    }
}

impl<T: Data, F: Fn(&T) -> (u64, i64) + Clone + Send + Sync + 'static> Sink<T> for Tally<F> {
    type Writer = TallyWriter<F>;
    fn writer(&self, cx: &SinkContext) -> weir::Result<TallyWriter<F>> {
        Ok(TallyWriter {
            tally: self.clone(),
            file: self.report.join(format!("{}.json", cx.subtask)),
            told: Told { pid: std::process::id(), started: now(), ..Told::default() },
            at_half: None,
            finals: HashMap::new(),
        })
    }
}

struct TallyWriter<F> {
    tally: Tally<F>,
    file: PathBuf,
    told: Told,
    /// Allocations and results when this subtask was half done.
    at_half: Option<(u64, u64)>,
    finals: HashMap<u64, i64>,
}

impl<T: Data, F: Fn(&T) -> (u64, i64) + Clone + Send + Sync + 'static> SinkWriter<T> for TallyWriter<F> {
    fn write(&mut self, batch: &mut Batch<T>) -> weir::Result<()> {
        let (mut acc, mut ones, mut sum) = (0, 0, 0);
        for record in &batch.records {
            let (_, value) = (self.tally.read)(record);
            acc ^= value;
            ones += u64::from(value == 1);
            sum += value as u64;
        }
        let weighed = self.tally.weighed;
        if self.tally.verify {
            self.finals.extend(batch.records.iter().map(&self.tally.read));
        }
        let told = &mut self.told;
        told.acc ^= acc;
        told.ones += if weighed { batch.len() as u64 } else { ones };
        told.count += if weighed { sum } else { batch.len() as u64 };
        if self.at_half.is_none() && told.count >= self.tally.half {
            self.at_half = Some((allocations(), told.count));
        }
        batch.clear();
        // once per batch: nobody tells a sink that this was the last one
        told.ended = now();
        Ok(())
    }
    fn close(&mut self) -> weir::Result<()> {
        let told = &mut self.told;
        if let Some((allocated, counted)) = self.at_half {
            (told.allocations, told.counted) = (allocations() - allocated, told.count - counted);
        }
        (told.cpu_seconds, told.peak_mib) = usage("self");
        told.finals = fold(self.finals.drain());
        tell(&self.file, told)
    }
}
