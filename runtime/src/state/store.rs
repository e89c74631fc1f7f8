//! The seam between keyed state and a store that keeps it outside of memory: live objects in a table, which is the cache
//! in front of the store. Which store it is, only [`super::rocks`] knows.
//!
//! Before a batch is processed, the entries of its keys that are not in the table are read in one go; what was changed goes to
//! the store at a barrier, and when the tables take more memory than they may. Everything that is not in the store yet is in a
//! table, so what the store says of a key counts only where the table knows nothing of it.
use super::snapshot::FrozenTable;
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::Data;
use crate::error::{Error, ErrorCode, Result};
use crate::state::file::ReadAt;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use weir_api::config::{StateBackend, StateConfig};

/// A store that has to tidy up before it can take more changes is given so long for that.
pub const MERGE_PATIENCE: Duration = Duration::from_secs(300);

/// A snapshot that was begun is given so long to bring its changes into the store, before a task that needs memory fails: time
/// for the store to tidy up, and to take the changes then.
const PATIENCE: Duration = MERGE_PATIENCE.saturating_add(Duration::from_secs(120));

/// Keeps the entries of one operator subtask's states.
pub trait StateStore: Send + Sync {
    /// Looks up keys (as [`Column::key`] makes them) and calls `found` with the position and the value of each that is there.
    fn read(&self, keys: &KeyList, found: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()>;
    /// Brings the tables' changes into the store. Blocks.
    fn flush(&self, tables: Vec<Box<dyn FrozenTable>>) -> Result<()>;
    /// As [`Self::flush`]; returns the store's files as they are then, which stay until the result is dropped. An error soon after
    /// `given_up` is set, if the store is not ready for the changes then: a later call brings them.
    fn checkpoint(&self, tables: Vec<Box<dyn FrozenTable>>, given_up: &AtomicBool) -> Result<LocalFiles>;
    /// As [`Self::checkpoint`]; returns tables with all entries as they are then, to be written whole.
    fn whole(&self, tables: Vec<Box<dyn FrozenTable>>, given_up: &AtomicBool) -> Result<Vec<Box<dyn FrozenTable>>>;
    /// Declares a state; its name must be unique within the store.
    fn column(&self, descriptor: &Arc<StateDescriptor>, expired: Option<Arc<Expired>>) -> Result<Arc<Column>>;
    /// Removes all entries of a state.
    fn clear(&self, column: &Column) -> Result<()>;
    /// Calls `entry` with each encoded key and value of a state, as a snapshot file has them: in the order of the hash, of one
    /// pane after the other.
    fn visit(&self, state: &StateDescriptor, entry: &mut dyn FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()>;
    /// Namespaces of the panes that have entries, in ascending order.
    fn namespaces(&self, column: &Column) -> Result<Vec<i64>>;
    /// Calls `entry` with hash, encoded key and value of the entries of a pane, from this hash on and in its order, until it
    /// says that it has enough (false).
    fn pane(
        &self,
        column: &Column,
        namespace: i64,
        from: u64,
        entry: &mut dyn FnMut(u64, &[u8], &[u8]) -> Result<bool>,
    ) -> Result<()>;
    /// The order in which snapshots reach the store.
    fn turns(&self) -> &Arc<Turns>;
    /// The memory that tables may take.
    fn memory(&self) -> &Arc<ObjectMemory>;
    /// Whose states it keeps.
    fn operator(&self) -> &str;
}

/// Makes the stores of an attempt on a taskmanager; they share one memory budget.
pub trait StoreFactory: Send + Sync {
    /// Opens a store with the entries of `subtask`'s key groups that these snapshots hold.
    fn open(&self, subtask: &StoreSubtask<'_>, snapshots: &[StoredSnapshot<'_>]) -> Result<Arc<dyn StateStore>>;
}

/// Whose state a store keeps.
pub struct StoreSubtask<'a> {
    pub operator: &'a str,
    pub subtask: u32,
    pub key_groups: Range<u32>,
    pub max_parallelism: u32,
    /// Of the states that are wanted from the snapshots.
    pub states: Vec<StateDescriptor>,
    /// What the snapshots have of other states is dropped.
    pub drop_others: bool,
}

/// The files of a checkpoint that a store wrote: [`LocalFiles::head`], then [`LocalFiles::files`].
pub struct StoredSnapshot<'a> {
    pub key_groups: Range<u32>,
    pub files: &'a [Arc<dyn ReadAt>],
}

/// A store's files at a barrier.
pub struct LocalFiles {
    /// Describes the others; small.
    pub head: Vec<u8>,
    /// By the order that the head has. A file of a name never changes.
    pub files: Vec<LocalFile>,
    /// About so many entries; not 0 if there are files.
    pub entries: u64,
    /// Keeps the files.
    pub guard: Box<dyn Send + Sync>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    pub name: String,
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

/// Says of an encoded value that it has expired.
pub type Expired = dyn Fn(&Column, &[u8]) -> bool + Send + Sync;

/// A state in a store.
pub struct Column {
    pub descriptor: Arc<StateDescriptor>,
    prefix: [u8; PREFIX],
    /// What was written up to the freeze of this epoch is in the store.
    flushed: AtomicU32,
    /// Bytes and number of the entries that were encoded last: how large one is.
    encoded: Mutex<(u64, u64)>,
    /// ms since the Unix epoch: what was written before has expired.
    pub cutoff: AtomicI64,
    pub expired: Option<Arc<Expired>>,
}

/// Bytes of a state's name in a store's keys, of a pane's namespace behind it, and of the hash.
const PREFIX: usize = 4;
const NAMESPACE: usize = 8;
const HASH: usize = 8;

/// A namespace in a store's keys, in the order of the numbers.
pub fn namespace_bytes(namespace: i64) -> [u8; NAMESPACE] {
    (namespace.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// A store's key in its parts.
pub struct KeyParts<'a> {
    /// None: the state has no panes.
    pub namespace: Option<i64>,
    pub hash: u64,
    /// Encoded.
    pub key: &'a [u8],
}

impl<'a> KeyParts<'a> {
    /// `panes`: the key is one of a state with panes.
    pub fn of(key: &'a [u8], panes: bool) -> Option<Self> {
        let rest = key.get(PREFIX..)?;
        let (namespace, rest) = match panes {
            true => {
                let (namespace, rest) = rest.split_first_chunk::<NAMESPACE>()?;
                (Some((u64::from_be_bytes(*namespace) ^ (1 << 63)).cast_signed()), rest)
            }
            false => (None, rest),
        };
        let (hash, key) = rest.split_first_chunk::<HASH>()?;
        Some(Self { namespace, hash: u64::from_be_bytes(*hash), key })
    }
    /// The key as a snapshot file has it: with the namespace, if there is one, before it.
    pub fn canonical(&self, out: &mut Vec<u8>) {
        out.clear();
        if let Some(namespace) = self.namespace {
            namespace.encode(out);
        }
        out.extend_from_slice(self.key);
    }
}

impl Column {
    pub fn new(descriptor: Arc<StateDescriptor>, expired: Option<Arc<Expired>>) -> Self {
        let prefix = Self::prefix_of(&descriptor.name);
        let (flushed, encoded, cutoff) = (AtomicU32::new(0), Mutex::default(), AtomicI64::new(i64::MIN));
        Self { descriptor, prefix, flushed, encoded, cutoff, expired }
    }
    /// With what the keys of a state begin.
    pub fn prefix_of(name: &str) -> [u8; PREFIX] {
        crc32c::crc32c(name.as_bytes()).to_be_bytes()
    }
    pub fn prefix(&self) -> [u8; PREFIX] {
        self.prefix
    }
    /// The key of an entry: state, hash, key. So the entries of a range of key groups lie side by side.
    pub fn key(&self, hash: u64, key: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&hash.to_be_bytes());
        key(out);
    }
    /// The key of an entry of a pane: state, namespace, hash, key. So the entries of a pane lie side by side.
    pub fn pane_key(&self, namespace: i64, hash: u64, key: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        Self::pane_suffix(namespace, hash, out);
        key(out);
    }
    /// What [`Self::pane_key`] has between state and key.
    pub fn pane_suffix(namespace: i64, hash: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&namespace_bytes(namespace));
        out.extend_from_slice(&hash.to_be_bytes());
    }
    /// It has a pane for each namespace.
    pub fn has_panes(&self) -> bool {
        self.descriptor.kind == StateKind::Panes
    }
    pub fn flushed(&self) -> u32 {
        self.flushed.load(Ordering::Acquire)
    }
    /// The store has what was written up to the freeze of this epoch: entries of it may leave the table.
    pub fn set_flushed(&self, epoch: u32) {
        self.flushed.store(epoch, Ordering::Release);
    }
    pub fn note_encoded(&self, bytes: u64, entries: u64) {
        if entries > 0 {
            *self.encoded.lock().unwrap_or_else(PoisonError::into_inner) = (bytes, entries);
        }
    }
    /// Bytes of an encoded entry, on average; none: unknown.
    pub fn entry_bytes(&self) -> Option<u64> {
        let (bytes, entries) = *self.encoded.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.checked_div(entries)
    }
    pub fn is_expired(&self, value: &[u8]) -> bool {
        self.expired.as_ref().is_some_and(|f| f(self, value))
    }
}

/// Encoded keys, one behind the other.
#[derive(Default)]
pub struct KeyList {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl KeyList {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
    pub fn push(&mut self, key: impl FnOnce(&mut Vec<u8>)) {
        key(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }
    pub fn len(&self) -> usize {
        self.ends.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.ends.len()).map(|i| &self.bytes[i.checked_sub(1).map_or(0, |b| self.ends[b])..self.ends[i]])
    }
}

/// Whose turn it is to change a store: snapshots reach it in the order in which the tables were frozen, and nothing that came
/// later is in it before the files of a snapshot are linked.
#[derive(Default)]
pub struct Turns {
    state: Mutex<TurnState>,
    ended: Condvar,
}

#[derive(Default)]
struct TurnState {
    next: u64,
    waiting: BTreeSet<u64>,
}

/// A place in the order; it ends when this is dropped.
pub struct Ticket {
    turns: Arc<Turns>,
    number: u64,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn ticket(self: &Arc<Self>) -> Ticket {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number);
        Ticket { turns: self.clone(), number }
    }
    /// Nobody has a place.
    pub fn is_idle(&self) -> bool {
        self.lock().waiting.is_empty()
    }
    /// Waits until nobody is before this place.
    pub fn wait(&self, ticket: &Ticket) -> Result<()> {
        let mut state = self.lock();
        // each of those before has its own time
        while let Some(first) = state.waiting.first().copied().filter(|first| *first < ticket.number) {
            let waited = self.ended.wait_timeout_while(state, PATIENCE, |s| s.waiting.contains(&first));
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return Err(Error::external(
                    ErrorCode::Storage,
                    format!("the snapshot before did not bring its changes to the state's store within {PATIENCE:?}"),
                ));
            }
            state = guard;
        }
        Ok(())
    }
}

impl Ticket {
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.turns.lock().waiting.remove(&self.number);
        self.turns.ended.notify_all();
    }
}

/// The stores of an attempt on this taskmanager.
#[derive(Clone, Default)]
pub struct Stores {
    factory: Option<Arc<dyn StoreFactory>>,
    keep: bool,
}

impl Stores {
    /// For so many operator subtasks with keyed state.
    ///
    /// # Errors
    /// `config`: the backend is not compiled in, or its memory does not suffice.
    pub fn new(config: &StateConfig, subtasks: usize) -> Result<Self> {
        check(config)?;
        let keep = config.backend == StateBackend::RocksDb;
        #[cfg(feature = "rocksdb")]
        let factory = Some(match keep {
            true => super::rocks::factory(config, subtasks)?,
            // for what another backend wrote
            false => super::rocks::factory(&StateConfig { memory_mib: None, ..config.clone() }, 0)?,
        });
        #[cfg(not(feature = "rocksdb"))]
        let factory = None;
        let _ = subtasks;
        Ok(Self { factory, keep })
    }
    /// Where states are to be kept; none: in memory.
    pub fn keeper(&self) -> Option<&dyn StoreFactory> {
        self.factory.as_deref().filter(|_| self.keep)
    }
    /// Reads what a store wrote, whatever the job's own backend is.
    pub fn reader(&self) -> Result<&dyn StoreFactory> {
        self.factory.as_deref().ok_or_else(|| {
            let message = "the checkpoint was written by the RocksDb state backend, which this binary does not have: build the job with the feature `rocksdb` of weir-runtime, or restore from a savepoint, which suits every backend";
            Error::user(ErrorCode::Snapshot, message)
        })
    }
}

/// What can be said of the configuration before anything starts.
pub fn check(config: &StateConfig) -> Result<()> {
    if config.backend == StateBackend::RocksDb && !cfg!(feature = "rocksdb") {
        let message = "the state backend RocksDb is not in this binary: build the job with the feature `rocksdb` of weir-runtime, or use the backend Hashmap";
        return Err(Error::user(ErrorCode::Config, message));
    }
    #[cfg(feature = "rocksdb")]
    super::rocks::check(config)?;
    Ok(())
}

mod memory;
#[cfg(test)]
mod tests;

pub use memory::{FixedShare, ObjectMemory, ObjectShare, limit_objects};
