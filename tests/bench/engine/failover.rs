//! Row 12: from the SIGKILL of the taskmanager until every subtask of the sink has a record again. Another taskmanager is
//! started at the same moment; processes talk over loopback, checkpoints lie on the local disk.
//!
//! Indexes below `keys` load one key each, the next ones hit keys at random at a fixed rate: the kill falls into them. At last
//! every key is hit once more: its last result from then on is its state in the end.
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use weir::connectors::sink::{Sink, SinkContext, SinkWriter};
use weir::connectors::source::{ReadStatus, Source, SourceContext, SourceReader, Split};
use weir::data::Key as _;
use weir::dataflow::{BATCH_RECORDS, Batch};
use weir::prelude::*;
use weir_tests::local::LocalJob;
use weir_tests::poll::wait_for;

use crate::jobs::JobArguments;
use crate::limits::{mix, money, pick};
use crate::measure::{Deploy, Run};
use crate::outcome::{tell, usage};
use crate::table::{Figure, Line};

const SUBTASKS: u32 = 2;
/// Records per second while the kill is due.
const RATE: u64 = 40_000;
/// How many there are of them: enough to last until then.
const fn paced(keys: u64) -> u64 {
    RATE * if keys > 1_000_000 { 90 } else { 20 }
}
/// Written by the harness: the rest goes at full speed.
const GO: &str = "go";
const PATIENCE: Duration = Duration::from_secs(120);

/// What the harness asks of a place in the input.
fn record(index: u64, keys: u64) -> Hit {
    let mixed = mix(index);
    let key = match index.checked_sub(keys) {
        None => index,
        Some(i) if i < paced(keys) => pick(mixed, keys),
        Some(i) => i - paced(keys),
    };
    Hit { key, index, money: money(mixed) }
}

#[derive(Clone, Record)]
struct Hit {
    key: u64,
    index: u64,
    money: i64,
}

/// 96 bytes beside a key of 8.
#[derive(Clone, Record)]
struct Account {
    money: i64,
    rest: (u64, u64, u64, u64, u64, (u64, u64, u64, u64, u64, u64)),
}

/// Adds up what hits a key.
struct Accounts(ValueState<u64, Account>);

impl KeyedProcessFunction for Accounts {
    type Key = u64;
    type In = Hit;
    type Out = Hit;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, hit: &Hit, out: &mut Output<Hit>) -> weir::Result<()> {
        let account = self.0.get_mut_or_insert_with(key, || {
            // nothing that a compressor could make small
            let mut n = hit.key << 8;
            let mut next = || {
                n += 1;
                mix(n)
            };
            let rest = (next(), next(), next(), next(), next(), (next(), next(), next(), next(), next(), next()));
            Account { money: 0, rest }
        });
        account.money += hit.money;
        out.push(Hit { money: account.money, ..*hit });
        Ok(())
    }
}

pub fn declare(job: &mut Job, args: &JobArguments) {
    let script = Script { keys: args.keys, report: args.report.clone() };
    job.source("script", script)
        .key_by(|h| &h.key)
        .process_function("accounts", || Accounts(ValueState::new("accounts")))
        .sink("watch", Watch { keys: args.keys, report: args.report.clone() });
}

/// The indexes, every p-th of them in each split; a split is its next index and its step.
#[derive(Clone)]
struct Script {
    keys: u64,
    report: PathBuf,
}

struct ScriptReader {
    script: Script,
    next: Vec<(u64, u64)>,
    /// The time and the place from which the rate counts.
    paced_from: Option<(Instant, u64)>,
    loaded: PathBuf,
    released: bool,
}

impl Source for Script {
    type Record = Hit;
    type Reader = ScriptReader;
    fn enumerate(&self, parallelism: u32) -> weir::Result<Vec<Split>> {
        let p = u64::from(parallelism);
        (0..p).map(|first| serde_json::to_vec(&(first, p)).map_err(Error::internal)).collect()
    }
    fn reader(&self, cx: &SourceContext, splits: Vec<Split>) -> weir::Result<ScriptReader> {
        let next = splits.iter().map(|s| serde_json::from_slice(s)).collect::<serde_json::Result<_>>();
        Ok(ScriptReader {
            script: self.clone(),
            next: next.map_err(Error::internal)?,
            paced_from: None,
            loaded: self.report.join(format!("loaded-{}", cx.subtask)),
            released: false,
        })
    }
}

impl SourceReader for ScriptReader {
    type Record = Hit;
    fn read(&mut self, out: &mut Output<Hit>, now: Instant) -> weir::Result<ReadStatus> {
        let keys = self.script.keys;
        let Some((next, step)) = self.next.first_mut() else { return Ok(ReadStatus::End) };
        let mut most = BATCH_RECORDS as u64;
        if *next < keys {
            most = most.min((keys - *next).div_ceil(*step));
        } else if !self.released {
            let (since, from) = *self.paced_from.get_or_insert_with(|| {
                // who waits for it learns that all keys are loaded
                let _ = std::fs::write(&self.loaded, "");
                (now, *next)
            });
            let due = from + (now.duration_since(since).as_secs_f64() * RATE as f64) as u64;
            most = most.min(due.saturating_sub(*next) / *step);
            if most == 0 {
                self.released = self.script.report.join(GO).exists();
                return Ok(ReadStatus::Wait(Some(now + Duration::from_millis(1))));
            }
        }
        let n = most.min((2 * keys + paced(keys)).saturating_sub(*next).div_ceil(*step));
        let (first, step) = (*next, *step);
        out.batch_mut().records.extend((0..n).map(|i| record(first + i * step, keys)));
        *next += n * step;
        if *next >= 2 * keys + paced(keys) {
            self.next.remove(0);
        }
        if out.pending() >= BATCH_RECORDS {
            out.emit();
        }
        Ok(ReadStatus::More)
    }
    fn snapshot(&mut self) -> weir::Result<Vec<Split>> {
        self.next.iter().map(|n| serde_json::to_vec(n).map_err(Error::internal)).collect()
    }
}

/// What a subtask of the sink saw of the last results of its keys.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    count: u64,
    fold: u64,
    /// Processor time of the new process until the first records.
    cpu_seconds: f64,
    peak_mib: f64,
}

fn fold(key: u64, sum: i64) -> u64 {
    mix(key.key_hash() ^ sum as u64)
}

#[derive(Clone)]
struct Watch {
    keys: u64,
    report: PathBuf,
}

struct WatchWriter {
    watch: Watch,
    /// Where the time of the first record goes; none once it is written.
    first: Option<PathBuf>,
    file: PathBuf,
    /// The largest sum of each key, which is its last one, since a subtask of the source began with the last hits.
    last: Vec<i64>,
}

impl Sink<Hit> for Watch {
    type Writer = WatchWriter;
    fn writer(&self, cx: &SinkContext) -> weir::Result<WatchWriter> {
        Ok(WatchWriter {
            watch: self.clone(),
            first: Some(self.report.join(format!("first-{}-{}", cx.attempt, cx.subtask))),
            file: self.report.join(format!("seen-{}.json", cx.subtask)),
            last: Vec::new(),
        })
    }
}

impl SinkWriter<Hit> for WatchWriter {
    fn write(&mut self, batch: &mut Batch<Hit>) -> weir::Result<()> {
        if let Some(first) = self.first.take_if(|_| !batch.is_empty()) {
            // written elsewhere and moved there: whoever sees the file finds all of it
            let unfinished = first.with_extension("unfinished");
            let written = std::fs::write(&unfinished, format!("{} {}", now_ns(), usage("self").0));
            written.and_then(|()| std::fs::rename(&unfinished, &first)).map_err(Error::internal)?;
        }
        let last = self.watch.keys + paced(self.watch.keys);
        for hit in batch.records.drain(..) {
            if self.last.is_empty() && hit.index >= last {
                self.last = vec![0; self.watch.keys as usize];
            }
            if let Some(sum) = self.last.get_mut(hit.key as usize) {
                *sum = hit.money.max(*sum);
            }
        }
        batch.clear();
        Ok(())
    }
    fn close(&mut self) -> weir::Result<()> {
        let peak_mib = usage("self").1;
        let mine = || (0u64..).zip(&self.last).filter(|l| *l.1 > 0);
        let fold = mine().fold(0u64, |all, (key, sum)| all.wrapping_add(fold(key, *sum)));
        let seen = Seen { count: mine().count() as u64, fold, peak_mib, ..Seen::default() };
        tell(&self.file, &seen)
    }
}

fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

/// Runs the job once with one kill. Seconds until the first record of the slowest subtask, and what the second attempt did.
fn run(folder: &Path, keys: u64) -> Result<(f64, Seen)> {
    let scratch = TempDir::new_in(folder)?;
    let report = scratch.path().join("report");
    std::fs::create_dir(&report)?;
    let job = Run::reduce("failover", 0, keys, Deploy::Processes(SUBTASKS)).with_checkpoints("1s");
    let mut job = LocalJob::start(job.deployed(folder, scratch.path(), &report)?, SUBTASKS, 1, SUBTASKS)?;
    let all = |of: &dyn Fn(u32) -> String| (0..SUBTASKS).all(|s| report.join(of(s)).exists());
    wait_for("all keys to be loaded", PATIENCE, Duration::from_millis(5), || {
        Ok(all(&|s| format!("loaded-{s}")).then_some(()))
    })?;
    // the first one may have begun before; and the kill shall not fall behind the same moment of a checkpoint each time
    job.wait_checkpoint()?;
    job.wait_checkpoint()?;
    std::thread::sleep(Duration::from_millis(100 + now_ns() as u64 / 1000 % 800));
    let killed = now_ns();
    job.taskmanagers[0].signal(Signal::KILL)?;
    job.start_taskmanager(1)?;
    let first = |s: u32| format!("first-2-{s}");
    wait_for("records of the second attempt", PATIENCE, Duration::from_millis(1), || Ok(all(&first).then_some(())))
        .with_context(|| job.taskmanagers[1].tail())?;
    let (mut last, mut cpu_seconds) = (0, 0f64);
    for s in 0..SUBTASKS {
        let told = std::fs::read_to_string(report.join(first(s)))?;
        let (at, cpu) = told.split_once(' ').context("a time and a figure")?;
        (last, cpu_seconds) = (last.max(at.parse::<u128>()?), cpu_seconds.max(cpu.parse()?));
    }
    std::fs::write(report.join(GO), "")?;
    let jobmanager = job.jobmanager.as_mut().context("a jobmanager")?;
    let exit = jobmanager.wait(PATIENCE)?;
    ensure!(exit.success(), "the jobmanager ended with {exit}:\n{}", jobmanager.tail());
    ensure!(!report.join("first-3-0").exists(), "there was a third attempt:\n{}", jobmanager.tail());
    if let Some(kept) = std::env::var_os("WEIR_BENCH_LOGS") {
        for proc in job.jobmanager.iter().chain(&job.taskmanagers) {
            let name = proc.log.file_name().context("a name")?;
            std::fs::copy(&proc.log, Path::new(&kept).join(format!("{keys}-{}", name.display())))?;
        }
    }
    let mut found = Seen::default();
    for s in 0..SUBTASKS {
        let one: Seen = serde_json::from_slice(&std::fs::read(report.join(format!("seen-{s}.json")))?)?;
        found.count += one.count;
        found.fold = found.fold.wrapping_add(one.fold);
        found.peak_mib = one.peak_mib;
    }
    found.cpu_seconds = cpu_seconds;
    ensure!(found.count == keys, "{} keys instead of {keys} at the end", found.count);
    ensure!(found.fold == expected(keys), "the state of the keys at the end differs from the definition of the job");
    Ok((last.saturating_sub(killed) as f64 / 1e9, found))
}

fn expected(keys: u64) -> u64 {
    let mut sums = vec![0i64; keys as usize];
    for i in 0..2 * keys + paced(keys) {
        let hit = record(i, keys);
        sums[hit.key as usize] += hit.money;
    }
    (0u64..).zip(sums).fold(0, |all, (key, sum)| all.wrapping_add(fold(key, sum)))
}

/// The row: small state and 1 GB.
pub fn lines(folder: &Path, runs: usize, short: bool) -> Vec<Line> {
    let (small, large) = if short { (1_000, 50_000) } else { (1_000, 10_000_000) };
    let mut found: [Vec<Result<(f64, Seen)>>; 2] = Default::default();
    for n in 0..runs.max(1) {
        for (i, keys) in [small, large].into_iter().enumerate() {
            eprintln!("run {} of {}: failover with {keys} keys", n + 1, runs.max(1));
            let one = run(folder, keys);
            match &one {
                Ok((seconds, seen)) => {
                    let cpu = seen.cpu_seconds;
                    eprintln!("  first record of every subtask after {seconds:.3} s, {cpu:.2} s of processor time");
                }
                Err(e) => eprintln!("  {e:#}"),
            }
            found[i].push(one);
        }
    }
    let [few, many] = found;
    let line = |name: &str, must, goal, flink, found: Vec<Result<(f64, Seen)>>| {
        let wrong = found.iter().find_map(|f| f.as_ref().err()).map(|e| format!("{e:#}"));
        let right: Vec<_> = found.into_iter().flatten().collect();
        Line::figure(Figure {
            must,
            goal,
            flink: Some(flink),
            wrong,
            cpu_seconds: right.iter().map(|r| r.1.cpu_seconds).collect(),
            peak_mib: right.iter().map(|r| r.1.peak_mib).collect(),
            ..Figure::new("12", name, right.iter().map(|r| r.0).collect())
        })
    };
    vec![
        line("SIGKILL until first records, small state, s", 1.0, 0.5, 6.5, few),
        line("SIGKILL until first records, 1 GB hashmap, s", 3.0, 2.0, 67.6, many),
    ]
}
