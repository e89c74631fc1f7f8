//! Rows 10 and 11: keyed state of 10M keys of about 100 bytes in the hashmap backend, beside a task that goes on working:
//! checkpoints, the longest stall, memory, savepoint, restore. Each run is a process of its own.
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use weir::checkpoint::handles::FileHandle;
use weir::checkpoint::storage::Storage;
use weir::data::{HASH_VERSION, Key, State, Str, hash_bytes, hash_combine};
use weir::format_str;
use weir::state::file::{NotDeclared, Piece, ReadAt, SnapshotMeta, WriteOptions, restore, write};
use weir::state::{KeyRef, KeyedTable, ValueState};

use crate::limits::{mix, pick};
use crate::outcome::memory;
use crate::table::{Line, median};

/// Records of one batch of the task.
const BATCH: u64 = 1024;
const KEY_GROUPS: u32 = 128;

/// With its key about 100 bytes.
#[derive(Clone, Default, PartialEq, State)]
struct Account {
    sums: (i64, i64, i64, i64, i64, i64),
    times: (u64, u64, u64),
}

type Accounts = ValueState<Str, Account>;

/// What one run measured; seconds where nothing else is said.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// From the barrier until the file is on the disk, while the task updates random keys as fast as it can.
    full: f64,
    changed: f64,
    /// Milliseconds that the task stood still at the barrier, and the longest batch until well after the checkpoint; of the
    /// clock and of its thread's processor time.
    freeze_ms: f64,
    batch_ms: f64,
    batch_cpu_ms: f64,
    /// Most resident memory over that before the checkpoint.
    peak: f64,
    savepoint: f64,
    restore: f64,
    /// Both halves of the key groups at the same time.
    rescale: f64,
    resident_mib: f64,
}

/// Runs everything once, in this process.
pub fn run(keys: u64, folder: &Path) -> Result<Figures> {
    let scratch = tempfile::TempDir::new_in(folder)?;
    let job = weir_api::ids::JobName { namespace: "bench".into(), name: "state".into() };
    let storage = Storage::open(&scratch.path().display().to_string(), &job)?;
    let mut figures = Figures::default();
    let mut state = Accounts::new("accounts");
    (0..keys).for_each(|i| update(&mut state, &name(i), i));
    figures.resident_mib = resident("VmRSS:");

    let start = Instant::now();
    let frozen = state.freeze();
    figures.freeze_ms = start.elapsed().as_secs_f64() * 1e3;
    let first = frozen.history().context("no history")?.epoch;
    let writer = Writer::start(&storage, "full", Piece { table: frozen, since: None })?;
    let mut written = None;
    let (mut i, mut stop) = (0, None);
    while stop.is_none_or(|stop| Instant::now() < stop) {
        let (clock, cpu) = (Instant::now(), processor_time());
        let names: Vec<Str> = (i..i + BATCH).map(|j| name(pick(mix(j), keys))).collect();
        // as the operators do
        state.prefetch(&names.iter().map(Key::key_hash).collect::<Vec<_>>());
        names.iter().zip(i..).for_each(|(name, j)| update(&mut state, name, j));
        i += BATCH;
        figures.batch_ms = figures.batch_ms.max(clock.elapsed().as_secs_f64() * 1e3);
        figures.batch_cpu_ms = figures.batch_cpu_ms.max((processor_time() - cpu).as_secs_f64() * 1e3);
        if written.is_none() && writer.is_finished() {
            // the table takes its segments back afterwards: that is part of the price
            written = Some(start.elapsed());
            stop = Some(Instant::now() + start.elapsed());
        }
    }
    let full = writer.join()?;
    figures.full = full.1.duration_since(start).as_secs_f64();
    figures.peak = resident("VmHWM:") / figures.resident_mib;

    // what the task has changed meanwhile, then one in a hundred
    let frozen = state.freeze();
    let second = frozen.history().context("no history")?.epoch;
    let meanwhile = Writer::start(&storage, "meanwhile", Piece { table: frozen, since: Some(first) })?.join()?;
    (0..keys / 100).for_each(|i| update(&mut state, &name(pick(mix(!i), keys)), i));
    let start = Instant::now();
    let frozen = state.freeze();
    let changed = Writer::start(&storage, "changed", Piece { table: frozen, since: Some(second) })?.join()?;
    figures.changed = changed.1.duration_since(start).as_secs_f64();

    let start = Instant::now();
    let frozen = state.freeze();
    let savepoint = Writer::start(&storage, "savepoint", Piece { table: frozen, since: None })?.join()?;
    figures.savepoint = savepoint.1.duration_since(start).as_secs_f64();

    let expected = fold(&mut state)?;
    drop(state);
    let chain = [full.0, meanwhile.0, changed.0].map(|file| open(&storage, &file));
    let chain = chain.into_iter().collect::<Result<Vec<_>>>()?;
    let mut again = restored(&chain, 0..KEY_GROUPS)?;
    ensure!(fold(&mut again)? == expected, "the state restored from checkpoints is not what it was");
    drop((again, chain));

    let file = [open(&storage, &savepoint.0)?];
    let start = Instant::now();
    let mut again = restored(&file, 0..KEY_GROUPS)?;
    update(&mut again, &name(0), 0);
    figures.restore = start.elapsed().as_secs_f64();
    drop(again);
    let start = Instant::now();
    let halves = std::thread::scope(|scope| {
        let half = |groups| scope.spawn(|| restored(&file, groups));
        let halves = [half(0..KEY_GROUPS / 2), half(KEY_GROUPS / 2..KEY_GROUPS)];
        halves.map(|h| h.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a restore panicked"))))
    });
    figures.rescale = start.elapsed().as_secs_f64();
    let mut all = 0u64;
    for half in halves {
        all = all.wrapping_add(fold(&mut half?)?);
    }
    ensure!(all == expected, "the state restored from a savepoint is not what it was");
    Ok(figures)
}

fn name(i: u64) -> Str {
    format_str!("account-{i}")
}

fn update(state: &mut Accounts, key: &Str, i: u64) {
    let account = state.get_mut_or_default(&KeyRef::of(key));
    account.sums.0 += i as i64;
    account.sums.1 = 1;
    account.times.0 = mix(i);
}

fn resident(field: &str) -> f64 {
    memory(&std::fs::read_to_string("/proc/self/status").unwrap_or_default(), field)
}

/// Of this thread, to the nanosecond. (`schedstat` is brought up to date at ticks of the scheduler, 4 ms apart.)
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes a snapshot on a thread of its own, as a taskmanager does.
struct Writer(std::thread::JoinHandle<Result<(FileHandle, Instant)>>);

impl Writer {
    fn start(storage: &Storage, name: &str, piece: Piece) -> Result<Self> {
        let meta = SnapshotMeta {
            operator: "bench".into(),
            hash_version: HASH_VERSION,
            max_parallelism: KEY_GROUPS,
            key_groups: 0..KEY_GROUPS,
            compression: Default::default(),
            states: Vec::new(),
            changes_only: Default::default(),
        };
        let mut file = storage.create(name)?;
        Ok(Self(std::thread::spawn(move || {
            write(meta, vec![piece], &WriteOptions::default(), &mut |bytes| file.write(bytes))?;
            Ok((file.finish()?, Instant::now()))
        })))
    }
    fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
    fn join(self) -> Result<(FileHandle, Instant)> {
        self.0.join().unwrap_or_else(|_| Err(anyhow::anyhow!("writing a snapshot panicked")))
    }
}

fn open(storage: &Storage, file: &FileHandle) -> Result<std::sync::Arc<dyn ReadAt>> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?.block_on(storage.open_file(file))?)
}

fn restored(chain: &[std::sync::Arc<dyn ReadAt>], groups: std::ops::Range<u32>) -> Result<Accounts> {
    let mut state = Accounts::new("accounts");
    let files: Vec<&dyn ReadAt> = chain.iter().map(|f| &**f).collect();
    restore("bench", &groups, KEY_GROUPS, NotDeclared::Refuse, &[&files], &mut [&mut state])?;
    Ok(state)
}

/// Of all entries, in whatever order.
fn fold(state: &mut Accounts) -> Result<u64> {
    let mut all = 0u64;
    state.freeze().for_each(KEY_GROUPS, &mut |_, key, value| {
        all = all.wrapping_add(hash_combine(hash_bytes(key), hash_bytes(value)));
        Ok(())
    })?;
    Ok(all)
}

/// Rows of the table.
pub fn lines(keys: u64, folder: &Path, runs: usize) -> Result<Vec<Line>> {
    let mut all = Vec::new();
    let mut wrong = None;
    for n in 0..runs.max(1) {
        eprintln!("run {} of {}: state of {keys} keys", n + 1, runs.max(1));
        let program = std::env::current_exe().context("cannot find this program")?;
        let output = Command::new(program).arg("state").arg(keys.to_string()).arg(folder).output()?;
        if output.status.success() {
            all.push(serde_json::from_slice::<Figures>(&output.stdout).context("a run told nothing")?);
        } else {
            wrong = Some(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
    }
    let of = |f: &dyn Fn(&Figures) -> f64| median(all.iter().map(f));
    let state = format!("{}k keys x 100 B, hashmap", keys / 1000);
    let line = |row, what: &str, value, must, goal, unit| {
        let line = Line::plain(row, &format!("{state}: {what}"), value, must, goal, f64::NAN, unit);
        Line { wrong: wrong.clone(), ..line }
    };
    Ok(vec![
        line("10", "full checkpoint to the disk beside a busy task", of(&|f| f.full), 3.0, 2.0, "s"),
        line("10", "checkpoint after 1 % changed", of(&|f| f.changed), 0.4, 0.2, "s"),
        line("10", "freeze at the barrier", of(&|f| f.freeze_ms), 5.0, 1.0, "ms"),
        line("10", "longest batch of 1,024, processor time", of(&|f| f.batch_cpu_ms), 5.0, 1.0, "ms"),
        line("10", "longest batch of 1,024, clock", of(&|f| f.batch_ms), 5.0, 1.0, "ms"),
        line("10", "peak memory over state", of(&|f| f.peak), 1.3, 1.2, "times"),
        line("11", "savepoint", of(&|f| f.savepoint), 3.0, 1.5, "s"),
        line("11", "restore to the first record", of(&|f| f.restore), 2.0, 1.0, "s"),
        line("11", "restore at p=2 from p=1", of(&|f| f.rescale), 2.0, 1.0, "s"),
    ])
}
