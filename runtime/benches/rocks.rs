//! The RocksDb state backend: a job against a bare get + put loop, and the life of a large state.
//!
//! `cargo bench -p weir-runtime --features rocksdb --bench rocks -- job [KEYS [RECORDS]] | state [KEYS [MEMORY_MIB [FOLDER]]]`
//!
//! `state` prints how long load, checkpoints, restore and rescale take. With `WEIR_CGROUP=NAME` it moves itself into the memory
//! cgroup of that name (version 1, which must be there with its limit) first, and says how much memory it had at most.
use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, Options, WriteOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir::checkpoint::handles::{Barrier, SnapshotKind, TaskSnapshot};
use weir::checkpoint::storage::Storage;
use weir::connectors::{Blackhole, Generator};
use weir::dataflow::deploy::FileReader;
use weir::dataflow::harness::{Harness, Setup, job};
use weir::dataflow::task::{TaskId, Uploader};
use weir::graph::{JobGraph, LogicalGraph, key_group_range};
use weir::prelude::*;
use weir::state::snapshot::SnapshotParts;
use weir::state::store::{StateStore, StoreFactory, StoreSubtask, StoredSnapshot, limit_objects};
use weir::taskmanager::upload::{StorageFiles, StorageUploader};
use weir_api::config::{StateBackend, StateConfig};
use weir_api::ids::{Attempt, CheckpointId};

const BATCH: u64 = 1024;
const MAX: u32 = 128;

fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x123_4567);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Processor seconds of this process.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Prints and returns what a step took.
fn step<R>(name: &str, records: u64, work: impl FnOnce() -> R) -> R {
    let (wall, before) = (Instant::now(), cpu());
    let done = work();
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu() - before);
    let rate = if records > 0 { format!(", {:.3} M/s", records as f64 / wall / 1e6) } else { String::new() };
    println!("{name:<52} {wall:8.3} s, processor {cpu:8.2} s{rate}");
    done
}

fn config(memory_mib: u32, folder: &Path) -> StateConfig {
    StateConfig {
        backend: StateBackend::RocksDb,
        memory_mib: Some(memory_mib),
        directory: Some(folder.display().to_string()),
        ..StateConfig::default()
    }
}

/// The bare loop: what the job does, by one get and one put for each record, with the backend's own options.
fn bare(keys: u64, records: u64, memory_mib: u32, folder: &Path) -> f64 {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache((memory_mib as usize) << 19));
    blocks.set_block_size(8 << 10);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    // the backend has no write buffer to speak of; the loop gets the usual one
    options.set_write_buffer_size(64 << 20);
    let path = folder.join("bare");
    let db = DB::open(&options, &path).expect("a database");
    let mut write = WriteOptions::default();
    write.disable_wal(true);
    let titles: Vec<String> = (0..keys).map(|k| format!("video-{k}")).collect();
    let (start, mut check) = (Instant::now(), 0u64);
    for i in 0..records {
        let h = mix(i);
        let title = titles[(((h >> 32) * keys) >> 32) as usize].as_bytes();
        let sum =
            db.get_pinned(title).expect("a read").map_or(0, |v| u64::from_le_bytes((&*v).try_into().expect("8 bytes")));
        let sum = sum + (h & 63) + 1;
        db.put_opt(title, sum.to_le_bytes(), &write).expect("a write");
        check ^= sum;
    }
    let seconds = start.elapsed().as_secs_f64();
    std::hint::black_box(check);
    drop(db);
    let _ = std::fs::remove_dir_all(path);
    records as f64 / seconds
}

/// The job: keyed sums at parallelism 1.
fn sums(keys: u64, records: u64, state: StateConfig) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut job = Job::default();
        let titles: Arc<Vec<Str>> = Arc::new((0..keys).map(|k| Str::from(format!("video-{k}"))).collect());
        let make = move |i| {
            let h = mix(i);
            (titles[(((h >> 32) * keys) >> 32) as usize].clone(), (h & 63) + 1)
        };
        job.source("orders", Generator::new(records, make))
            .key_by(|o| &o.0)
            .process("sum", |sum: &mut u64, order: (Str, u64), out| {
                *sum += order.1;
                out.push(*sum);
            })
            .sink("out", Blackhole);
        let start = Instant::now();
        let harness = Harness::start_with(job.into_graph(), Setup { state, ..Setup::new(1) }).await.expect("a start");
        harness.finish().await.expect("an end");
        records as f64 / start.elapsed().as_secs_f64()
    })
}

fn compare(keys: u64, records: u64, folder: &Path) {
    for round in 0..3 {
        let bare = bare(keys, records / 10, 512, folder);
        let job = sums(keys, records, config(512, folder));
        let hashmap = sums(keys, records, StateConfig::default());
        println!(
            "{keys} keys, round {round}: bare loop {:.3} M/s, job {:.3} M/s = {:.1}x (hashmap {:.3} M/s)",
            bare / 1e6,
            job / 1e6,
            job / bare,
            hashmap / 1e6
        );
    }
    // nothing may stay in the tables beyond a tenth of the keys
    limit_objects(keys as usize * 6);
    let job = sums(keys, records / 10, config(512, folder));
    println!("{keys} keys, tables of a tenth: job {:.3} M/s", job / 1e6);
    limit_objects(usize::MAX);
}

/// 100 bytes that hardly compress.
fn text(key: u64, turn: u64) -> Str {
    let mut bytes = [0; 100];
    for (i, eight) in bytes.chunks_mut(8).enumerate() {
        let mixed = mix(key ^ turn << 8 ^ i as u64);
        eight.iter_mut().zip(mixed.to_le_bytes()).for_each(|(to, b)| *to = b' ' + b % 94);
    }
    Str::from(std::str::from_utf8(&bytes).unwrap_or_default())
}

struct Subtask {
    state: ValueState<u64, Str>,
}

fn open(factory: &dyn StoreFactory, n: u32, parallelism: u32, snapshots: &[StoredSnapshot<'_>]) -> Subtask {
    let mut state = ValueState::new("state");
    let about = StoreSubtask {
        operator: "bench",
        subtask: n,
        key_groups: key_group_range(n, parallelism, MAX),
        max_parallelism: MAX,
        states: vec![state.descriptor().clone()],
        drop_others: false,
    };
    let store: Arc<dyn StateStore> = factory.open(&about, snapshots).expect("a store");
    state.attach(&store, snapshots.is_empty()).expect("a state with a store");
    Subtask { state }
}

impl Subtask {
    /// Writes 100 bytes for each of these keys.
    fn write(&mut self, keys: impl Iterator<Item = u64>, turn: u64) {
        let mut batch = Vec::with_capacity(BATCH as usize);
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            batch.clear();
            batch.extend(keys.by_ref().take(BATCH as usize));
            batch.iter().for_each(|k| self.state.want(&KeyRef::of(k)));
            self.state.load().expect("a read");
            for key in &batch {
                self.state.update(&KeyRef::of(key), text(*key, turn));
            }
            self.state.settle().expect("room");
        }
    }
}

async fn checkpoint(uploader: &StorageUploader, s: &mut Subtask, id: u64, kind: SnapshotKind) -> TaskSnapshot {
    let frozen = Instant::now();
    let mut parts = SnapshotParts::default();
    parts.keyed.insert("bench".into(), vec![s.state.freeze()]);
    let stall = frozen.elapsed();
    let directory = format!("{}-{id}-1-0", if kind.is_savepoint() { "savepoint" } else { "chk" });
    let barrier = Barrier { id: CheckpointId(id), attempt: Attempt(1), kind, directory, aligned: true };
    let done = uploader.upload(TaskId { vertex: 0, subtask: 0 }, barrier, parts).await.expect("a checkpoint");
    println!("    stall of the task {stall:?}, {:.1} MB written", done.stats.bytes as f64 / 1e6);
    done
}

fn life(keys: u64, memory_mib: u32, folder: &Path) {
    if let Ok(name) = std::env::var("WEIR_CGROUP") {
        let tasks = format!("/sys/fs/cgroup/memory/{name}/cgroup.procs");
        std::fs::write(&tasks, std::process::id().to_string()).unwrap_or_else(|e| panic!("{tasks}: {e}"));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let storage =
        Storage::open(&format!("file://{}", folder.join("checkpoints").display()), &job()).expect("a storage");
    let plan = Arc::new(JobGraph::new(&LogicalGraph::default(), 1, MAX));
    let uploader = StorageUploader::new(Some(storage.clone()), plan, &[]);
    let factory = weir::state::rocks::factory(&config(memory_mib, folder), 1).expect("a factory");
    let mut s = open(&*factory, 0, 1, &[]);
    step(&format!("load of {keys} keys"), keys, || s.write((0..keys).map(mix), 0));
    let take = |s: &mut Subtask, id, kind| runtime.block_on(checkpoint(&uploader, s, id, kind));
    step("first checkpoint", 0, || take(&mut s, 1, SnapshotKind::Checkpoint));
    uploader.completed(CheckpointId(1));
    let mut last = None;
    for (n, id) in (2..5).enumerate() {
        let changed = keys / 100;
        step("1 % changed", changed, || {
            s.write((0..changed).map(|i| mix(mix(i + n as u64 * changed) % keys)), id);
        });
        last = Some(step("checkpoint after 1 %", 0, || take(&mut s, id, SnapshotKind::Checkpoint)));
        uploader.completed(CheckpointId(id));
        std::thread::sleep(Duration::from_millis(500));
    }
    step("reads and writes of 1 % at random", keys / 100, || {
        s.write((0..keys / 100).map(|i| mix(mix(i + (1 << 40)) % keys)), 8);
    });
    if std::env::var_os("WEIR_SAVEPOINT").is_some() {
        step("savepoint", keys, || take(&mut s, 9, SnapshotKind::Savepoint));
    }
    drop(s);
    let handle = last.and_then(|t| t.operators["bench"].keyed.first().cloned()).expect("a handle");
    let reader = StorageFiles(Some(storage));
    let files: Vec<_> = handle.files().map(|f| runtime.block_on(reader.open(f.clone())).expect("a file")).collect();
    let snapshot = || StoredSnapshot { key_groups: handle.key_groups.clone(), files: &files };
    let restored = step("restore to the first record", 0, || {
        let mut s = open(&*factory, 0, 1, &[snapshot()]);
        s.write([mix(0)].into_iter(), 9);
        s
    });
    drop(restored);
    step("restore at p = 2, both, to their first records", 0, || {
        let mut both = [0, 1].map(|n| open(&*factory, n, 2, &[snapshot()]));
        both.iter_mut().for_each(|s| s.write([mix(0)].into_iter(), 9));
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("RssAnon")) {
        println!("{line}");
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let number = |i: usize, default: u64| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let temporary = tempfile::tempdir().expect("a folder");
    match arguments.first().map(String::as_str) {
        None | Some("job") => {
            for keys in if arguments.len() > 1 { vec![number(1, 1000)] } else { vec![1000, 1_000_000] } {
                compare(keys, number(2, 20_000_000), temporary.path());
            }
        }
        Some("state") => {
            let folder = arguments.get(3).map_or_else(|| temporary.path().to_owned(), PathBuf::from);
            life(number(1, 10_000_000), number(2, 4096) as u32, &folder);
        }
        Some(other) => eprintln!("{other:?}: job [KEYS [RECORDS]] or state [KEYS [MEMORY_MIB [FOLDER]]]"),
    }
}
