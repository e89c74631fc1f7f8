//! Options of the databases, and how one memory budget is shared by all of them.
use crate::error::{Error, ErrorCode, Result};
use crate::state::store::{Column, ObjectMemory};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DBCompressionType, IngestExternalFileOptions, LogLevel, Options,
    ReadOptions, WriteOptions,
};
use std::sync::{Arc, PoisonError, RwLock};
use weir_api::config::{RocksDbProfile, StateBackend, StateConfig};

/// MiB of a taskmanager's budget if none is set.
pub const DEFAULT_MEMORY_MIB: u32 = 256;
/// Below this nothing works: MiB, and MiB more for each operator subtask with keyed state.
const LEAST_MIB: u32 = 32;
const LEAST_MIB_EACH: u32 = 8;

/// Parts of the budget in percent: live objects; blocks, indexes and filters of files. The rest is for what is being written.
const OBJECTS: usize = 50;
const BLOCKS: usize = 40;

/// What can be said before anything starts.
pub fn check(config: &StateConfig) -> Result<()> {
    match config.memory_mib {
        Some(m) if config.backend == StateBackend::RocksDb && m < LEAST_MIB + LEAST_MIB_EACH => Err(too_small(m, 1)),
        _ => Ok(()),
    }
}

fn too_small(mib: u32, subtasks: usize) -> Error {
    let need = LEAST_MIB as usize + LEAST_MIB_EACH as usize * subtasks;
    let message = format!(
        "the RocksDb state backend has {mib} MiB of memory and needs at least {need} MiB for {subtasks} operator subtasks with keyed state in one taskmanager ({LEAST_MIB} MiB, and {LEAST_MIB_EACH} MiB for each): set the state's memoryMib (--state-memory-mib) to that or more, or run fewer slots in a taskmanager"
    );
    Error::user(ErrorCode::Config, message)
}

/// Shared by all stores of a taskmanager.
#[derive(Clone)]
pub struct Shared {
    pub objects: Arc<ObjectMemory>,
    profile: RocksDbProfile,
    cache: Cache,
}

/// The states of a store, for the filter of its compactions.
pub type Columns = Arc<RwLock<Vec<Arc<Column>>>>;

struct Numbers {
    block: usize,
    file: u64,
    /// Files that overlap before they are merged.
    trigger: i32,
}

impl Shared {
    pub fn new(config: &StateConfig, subtasks: usize) -> Result<Self> {
        let mib = config.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB);
        if (mib as usize) < LEAST_MIB as usize + LEAST_MIB_EACH as usize * subtasks {
            return Err(too_small(mib, subtasks));
        }
        let bytes = (mib as usize) << 20;
        let cache = Cache::new_lru_cache(bytes / 100 * BLOCKS);
        Ok(Self { objects: ObjectMemory::new(bytes / 100 * OBJECTS), profile: config.profile, cache })
    }

    /// With so many bytes for live objects.
    #[cfg(test)]
    pub fn for_tests(objects: usize) -> Self {
        Self {
            objects: ObjectMemory::for_tables(objects),
            profile: RocksDbProfile::LowMemory,
            cache: Cache::new_lru_cache(1 << 20),
        }
    }

    fn numbers(&self) -> Numbers {
        match self.profile {
            RocksDbProfile::Ssd => Numbers { block: 8 << 10, file: 64 << 20, trigger: 4 },
            RocksDbProfile::SpinningDisk => Numbers { block: 64 << 10, file: 256 << 20, trigger: 8 },
            RocksDbProfile::LowMemory => Numbers { block: 16 << 10, file: 16 << 20, trigger: 4 },
        }
    }

    /// Bytes at which a sorted file ends.
    pub fn file_bytes(&self) -> u64 {
        self.numbers().file
    }

    /// Of a database, and of the files that are made for it. `columns`: states whose entries expire are among them.
    pub fn database(&self, columns: Option<Columns>) -> Options {
        let n = self.numbers();
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&self.cache);
        blocks.set_block_size(n.block);
        blocks.set_format_version(5);
        // most keys that are not in the table are in no file either: ten bits answer all but one in a hundred
        blocks.set_bloom_filter(10.0, false);
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        blocks.set_index_type(BlockBasedIndexType::BinarySearch);
        let mut o = Options::default();
        o.create_if_missing(true);
        o.set_block_based_table_factory(&blocks);
        o.set_compression_type(DBCompressionType::Lz4);
        o.set_level_compaction_dynamic_level_bytes(true);
        o.set_target_file_size_base(n.file);
        o.set_max_bytes_for_level_base(n.file * 4);
        o.set_level_zero_file_num_compaction_trigger(n.trigger);
        // only removals of whole ranges go through the buffer of writes
        o.set_write_buffer_size(4 << 20);
        o.set_max_background_jobs(2);
        o.set_max_open_files(1000);
        o.set_max_file_opening_threads(2);
        // what is written here is not read again soon, and after a crash the checkpoint counts
        o.set_bytes_per_sync(8 << 20);
        o.set_stats_dump_period_sec(0);
        o.set_keep_log_file_num(1);
        o.set_max_log_file_size(1 << 20);
        o.set_log_level(LogLevel::Warn);
        if let Some(columns) = columns {
            o.set_compaction_filter("weir-ttl", move |_, key, value| expired(&columns, key, value));
        }
        o
    }

    pub fn write() -> WriteOptions {
        let mut o = WriteOptions::default();
        // a database is never opened again after a crash
        o.disable_wal(true);
        o
    }

    pub fn ingest() -> IngestExternalFileOptions {
        let mut o = IngestExternalFileOptions::default();
        o.set_move_files(true);
        // nobody reads by the database's own snapshots
        o.set_snapshot_consistency(false);
        o
    }

    /// To read everything once.
    pub fn scan() -> ReadOptions {
        let mut o = ReadOptions::default();
        o.fill_cache(false);
        o.set_readahead_size(2 << 20);
        o
    }
}

fn expired(columns: &Columns, key: &[u8], value: &[u8]) -> rocksdb::CompactionDecision {
    let columns = columns.read().unwrap_or_else(PoisonError::into_inner);
    match columns.iter().find(|c| key.starts_with(&c.prefix())).is_some_and(|c| c.is_expired(value)) {
        true => rocksdb::CompactionDecision::Remove,
        false => rocksdb::CompactionDecision::Keep,
    }
}
