//! Keyed state alone, on one thread: upserts against flat tables, freezing, copying, snapshot files, restore.
//!
//! `cargo bench -p weir-runtime --bench state -- [upsert [KEYS...] | snapshot [KEYS]]`
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::time::{Duration, Instant};
use weir::checkpoint::handles::{FileHandle, StateKind};
use weir::checkpoint::storage::Storage;
use weir::data::{HASH_VERSION, Key, State, Str};
use weir::state::file::{Compression, NotDeclared, Piece, ReadAt, SnapshotMeta, WriteOptions, restore, write};
use weir::state::table::SegmentedTable;
use weir::state::{KeyRef, KeyedTable, ValueState};

const BATCH: u64 = 1024;

#[derive(Clone)]
struct Order {
    title: Str,
    money: i64,
}

fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x123_4567);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Processor time of this thread (on a busy machine the clock says little), or the clock where the kernel does not tell.
fn processor_time(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|n| n.parse().ok()).map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Keyed sum over batches with a hash column. Returns M/s and a checksum.
fn run(titles: &[Str], n: u64, mut step: impl FnMut(u64, Order) -> i64) -> (f64, i64) {
    let (k, origin) = (titles.len() as u64, Instant::now());
    let start = processor_time(origin);
    let (mut batch, mut hashes) = (Vec::with_capacity(BATCH as usize), Vec::with_capacity(BATCH as usize));
    let (mut i, mut check) = (0, 0);
    while i < n {
        for j in i..i + BATCH {
            let h = mix(j);
            let title = titles[(((h >> 32) * k) >> 32) as usize].clone();
            batch.push(Order { title, money: (h & 63) as i64 + 1 });
        }
        hashes.clear();
        hashes.extend(batch.iter().map(|o: &Order| o.title.key_hash()));
        for (o, &h) in batch.drain(..).zip(&hashes) {
            check ^= step(h, o);
        }
        i += BATCH;
    }
    (n as f64 / (processor_time(origin) - start).as_secs_f64() / 1e6, check)
}

fn segmented(titles: &[Str], n: u64, mut table: SegmentedTable<Str, i64>) -> (f64, i64, SegmentedTable<Str, i64>) {
    let (rate, check) = run(titles, n, |h, o| {
        let v = table.upsert(h, &o.title);
        *v += o.money;
        *v
    });
    (rate, check, table)
}

fn upserts(keys: &[u64]) {
    println!(
        "keys | flat, no hash | flat, hash in entry | segments | of 896 | of 1792 | of 3584 | u64 keys in segments (M/s)"
    );
    for &k in keys {
        let n = if k > 10_000 { 20_000 * BATCH } else { 50_000 * BATCH };
        let titles: Vec<Str> = (0..k).map(|i| Str::from(format!("video-{i}"))).collect();
        for _ in 0..2 {
            let mut row = Vec::new();
            let mut checks = Vec::new();
            {
                let mut t = HashTable::<(Str, i64)>::new();
                let (rate, check) = run(&titles, n, |h, o| match t.entry(h, |e| e.0 == o.title, |e| e.0.key_hash()) {
                    Entry::Occupied(e) => {
                        let e = e.into_mut();
                        e.1 += o.money;
                        e.1
                    }
                    Entry::Vacant(e) => {
                        e.insert((o.title, o.money));
                        o.money
                    }
                });
                row.push(rate);
                checks.push(check);
            }
            {
                let mut t = HashTable::<(u64, Str, i64)>::new();
                let same = |h: u64, o: &Order, e: &(u64, Str, i64)| e.0 == h && e.1 == o.title;
                let (rate, check) = run(&titles, n, |h, o| match t.entry(h, |e| same(h, &o, e), |e| e.0) {
                    Entry::Occupied(e) => {
                        let e = e.into_mut();
                        e.2 += o.money;
                        e.2
                    }
                    Entry::Vacant(e) => {
                        e.insert((h, o.title, o.money));
                        o.money
                    }
                });
                row.push(rate);
                checks.push(check);
            }
            let (rate, check, mut table) = segmented(&titles, n, SegmentedTable::default());
            row.push(rate);
            checks.push(check);
            for split_at in [896, 1792, 3584] {
                let (rate, check, _) = segmented(&titles, n, SegmentedTable::with_split_at(split_at));
                row.push(rate);
                checks.push(check);
            }
            {
                let mut t = SegmentedTable::<u64, i64>::default();
                let origin = Instant::now();
                let start = processor_time(origin);
                for i in 0..n {
                    let h = mix(i);
                    let key = ((h >> 32) * k) >> 32;
                    *t.upsert(key.key_hash(), &key) += (h & 63) as i64 + 1;
                }
                row.push(n as f64 / (processor_time(origin) - start).as_secs_f64() / 1e6);
            }
            assert!(checks.windows(2).all(|c| c[0] == c[1]), "{checks:?}");
            println!("{k} | {}", row.iter().map(|r| format!("{r:.1}")).collect::<Vec<_>>().join(" | "));

            let start = Instant::now();
            let frozen = table.freeze();
            let freeze = start.elapsed();
            let (mut longest, start) = (Duration::ZERO, Instant::now());
            for t in titles.chunks(BATCH as usize) {
                let one = Instant::now();
                t.iter().for_each(|t| *table.upsert(t.key_hash(), t) += 1);
                longest = longest.max(one.elapsed());
            }
            println!(
                "    {} segments: freeze {freeze:?}; first writes, each copying its entry: {:?} in all, longest batch {longest:?}",
                table.segments(),
                start.elapsed()
            );
            drop(frozen);
        }
    }
}

/// With its key about 100 bytes.
#[derive(Clone, Default, PartialEq, State)]
struct Account {
    sums: (i64, i64, i64, i64, i64, i64),
    times: (u64, u64, u64),
}

/// Processor time of all threads, to 10 ms.
fn process_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |s| s.1).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0) / 1024
}

/// A snapshot on a thread of its own, as a taskmanager writes it, and what a task that goes on meanwhile feels.
struct Round {
    froze: Duration,
    took: Duration,
    /// Of all threads, meanwhile.
    processors: Duration,
    file: FileHandle,
    updates: u64,
    /// The longest, and one in a hundred, of the batches that ran while the snapshot was written and as long again.
    longest: Duration,
    percentile: Duration,
}

fn round(
    state: &mut ValueState<Str, Account>,
    storage: &Storage,
    path: &str,
    options: WriteOptions,
    since: Option<u32>,
    mut batch: impl FnMut(&mut ValueState<Str, Account>, u64),
    busy: bool,
) -> (Round, u32) {
    let start = Instant::now();
    let table = state.freeze();
    let froze = start.elapsed();
    let cpu = process_time();
    let epoch = table.history().map_or(0, |h| h.epoch);
    let meta = SnapshotMeta {
        operator: "bench".into(),
        hash_version: HASH_VERSION,
        max_parallelism: 128,
        key_groups: 0..128,
        compression: options.compression,
        states: Vec::new(),
        changes_only: Default::default(),
    };
    let mut file = storage.create(path).expect("a file");
    let writer = std::thread::spawn(move || {
        let start = Instant::now();
        let written = write(meta, vec![Piece { table, since }], &options, &mut |bytes| file.write(bytes));
        written.expect("a snapshot");
        (file.finish().expect("room on the disk"), start.elapsed())
    });
    let mut batches = Vec::new();
    let (mut i, mut after) = (0, None);
    let mut goes_on = busy;
    while goes_on {
        // processor time: on a busy machine the clock tells how long others ran
        let one = processor_time(start);
        batch(state, i);
        batches.push(processor_time(start) - one);
        i += BATCH;
        // the layers become one again after the snapshot: that counts too
        match after {
            None if writer.is_finished() => after = Some((Instant::now(), start.elapsed())),
            Some((since, took)) if since.elapsed() > took => goes_on = false,
            _ => {}
        }
    }
    let (file, took) = writer.join().expect("the writer");
    let processors = process_time() - cpu;
    batches.sort_unstable();
    let at = |share: usize| batches.get((batches.len() * share / 100).min(batches.len().saturating_sub(1)));
    let (longest, percentile) = (at(100).copied().unwrap_or_default(), at(99).copied().unwrap_or_default());
    (Round { froze, took, processors, file, updates: i, longest, percentile }, epoch)
}

fn snapshots(k: u64) {
    let name = |i: u64| Str::from(format!("account-{i}"));
    let mut state = ValueState::<Str, Account>::new("accounts");
    let touch = |state: &mut ValueState<Str, Account>, i: u64| {
        let key = name(((mix(i) >> 32) * k) >> 32);
        let account = state.get_mut_or_default(&KeyRef::of(&key));
        account.sums.0 += i as i64;
        account.times.0 = mix(i);
    };
    let start = Instant::now();
    for i in 0..k {
        let key = name(i);
        let account = state.get_mut_or_default(&KeyRef::of(&key));
        account.sums = (mix(i) as i64 % 1000, i as i64, 0, 0, 1, mix(i + 1) as i64);
        account.times = (1_700_000_000_000 + i, 0, mix(i));
    }
    let before = resident("VmRSS");
    println!("{k} keys of ~100 B: filled in {:?}, {before} MiB resident", start.elapsed());
    let dir = std::env::temp_dir().join(format!("weir-bench-state-{}", std::process::id()));
    let job = weir_api::ids::JobName { namespace: "bench".into(), name: "state".into() };
    let storage = Storage::open(&dir.display().to_string(), &job).expect("a temporary folder");
    let folder = dir.join("bench/state");
    let mut last = 0;
    for compression in [Compression::None, Compression::Zstd] {
        for busy in [false, true] {
            let options = WriteOptions { compression, ..Default::default() };
            let batch = |state: &mut ValueState<Str, Account>, i| (i..i + BATCH).for_each(|i| touch(state, i));
            let (r, epoch) = round(&mut state, &storage, "full", options, None, batch, busy);
            last = epoch;
            println!(
                "  {compression:?}: freeze {:?}, {} MiB on the disk in {:?}, {:?} of processors; {} random updates meanwhile and as long again, longest batch of {BATCH} {:?}, one in a hundred {:?}; peak {} MiB",
                r.froze,
                r.file.size >> 20,
                r.took,
                r.processors,
                r.updates,
                r.longest,
                r.percentile,
                resident("VmHWM")
            );
            if !busy {
                let open = storage.open_file(&r.file);
                let file = tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(open);
                let file = file.expect("the file");
                for groups in [0..128, 0..64] {
                    let mut again = ValueState::<Str, Account>::new("accounts");
                    let (start, cpu) = (Instant::now(), process_time());
                    let files: [&[&dyn ReadAt]; 1] = [&[&*file]];
                    let restored = restore("bench", &groups, 128, NotDeclared::Refuse, &files, &mut [&mut again]);
                    println!(
                        "    restore of groups {groups:?}: {} entries in {:?}, {:?} of processors",
                        restored.expect("a restore").entries,
                        start.elapsed(),
                        process_time() - cpu
                    );
                }
            }
            std::fs::remove_file(folder.join("full")).ok();
        }
    }
    // all layers are one again, then one in a hundred changes
    (0..k).for_each(|i| touch(&mut state, i));
    for _ in 0..2 {
        (0..k / 100).for_each(|i| touch(&mut state, mix(i)));
        let (r, epoch) = round(&mut state, &storage, "changes", WriteOptions::default(), Some(last), |_, _| {}, false);
        println!(
            "  changes since the last: freeze {:?}, {} MiB on the disk in {:?}, {:?} of processors",
            r.froze,
            r.file.size >> 20,
            r.took,
            r.processors
        );
        last = epoch;
        std::fs::remove_file(folder.join("changes")).ok();
    }
    std::fs::remove_dir_all(&dir).ok();
    assert_eq!(KeyedTable::descriptor(&state).kind, StateKind::Value);
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let numbers: Vec<u64> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let what = args.first().map_or("", String::as_str);
    if what != "snapshot" {
        let all = [2, 1000, 100_000, 1_000_000, 10_000_000];
        upserts(if numbers.is_empty() { &all } else { &numbers });
    }
    if what != "upsert" {
        snapshots(numbers.first().copied().unwrap_or(2_000_000));
    }
}
