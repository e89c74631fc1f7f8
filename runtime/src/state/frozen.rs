//! A table with its descriptor: what every handle has inside; how it freezes, and how it takes entries back.
use super::backing::{Backed, Backing};
use super::file::BlockWriter;
use super::snapshot::{EntryVisitor, FrozenRun, FrozenTable, StoreVisitor};
use super::store::StateStore;
use super::table::{FrozenSegments, History, SegmentedTable, Shard};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, DecodeError, Key};
use crate::error::Result;
use crate::graph::key_group;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// A named table. The handles differ only in what they make of `V`.
pub(super) struct Named<K, V> {
    pub descriptor: Arc<StateDescriptor>,
    pub table: SegmentedTable<K, V>,
    /// None: the table is all there is.
    pub backing: Option<Box<Backing<K>>>,
}

/// While entries are restored, the memory is looked at when so many have come.
const SETTLE: usize = 1024;

impl<K: Key, V: Data> Named<K, V> {
    pub fn new(name: impl Into<String>, kind: StateKind) -> Self {
        let descriptor = StateDescriptor { name: name.into(), kind, key: K::type_of(), value: V::type_of() };
        Self { descriptor: Arc::new(descriptor), table: SegmentedTable::default(), backing: None }
    }

    pub fn freeze(&mut self) -> Box<dyn FrozenTable> {
        let backed = self.backing.as_ref().map(|b| b.frozen(self.table.epoch()));
        Box::new(Frozen { descriptor: self.descriptor.clone(), segments: self.table.freeze(), backed })
    }

    /// As [`Self::freeze`], without what `keep` says no to.
    pub fn freeze_only(&mut self, keep: Arc<dyn Fn(&V) -> bool + Send + Sync>) -> Box<dyn FrozenTable> {
        let backed = self.backing.as_ref().map(|b| b.frozen(self.table.epoch()));
        Box::new(Frozen { descriptor: self.descriptor.clone(), segments: self.table.freeze().only(keep), backed })
    }

    pub fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let taken = take(&mut self.table, |_| true, target, entry)?;
        if self.backing.is_some() && self.table.len().is_multiple_of(SETTLE) {
            self.settle().map_err(|e| EntryError::Store(e.message))?;
        }
        Ok(taken)
    }

    pub fn shards(&self, groups: &Range<u32>, max_parallelism: u32, least: usize) -> Vec<Box<dyn RestoreShard>> {
        if self.backing.is_some() {
            return Vec::new();
        }
        let shards = self.table.shards(groups, max_parallelism, least);
        shards.into_iter().map(|s| Box::new(s) as Box<dyn RestoreShard>).collect()
    }

    pub fn adopt(&mut self, shards: Vec<Box<dyn RestoreShard>>) {
        let own = |s: Box<dyn RestoreShard>| s.into_any().downcast::<Shard<K, V>>().ok().map(|s| *s);
        self.table.adopt(shards.into_iter().filter_map(own).collect());
    }
}

/// Decodes an entry and does to the table what it says. False: it is another subtask's, or another shard's.
fn take<K: Key, V: Data>(
    table: &mut SegmentedTable<K, V>,
    covers: impl Fn(u64) -> bool,
    target: &RestoreTarget<'_>,
    entry: RawEntry<'_>,
) -> Result<bool, EntryError> {
    let (mut key, mut value) = (entry.key, entry.value);
    let k = K::decode(&mut key).map_err(EntryError::Key)?;
    let hash = k.key_hash();
    let group = key_group(hash, target.max_parallelism);
    if !target.block.contains(&group) {
        return Err(EntryError::Group(group));
    }
    if !target.owned.contains(&group) || !covers(hash) {
        return Ok(false);
    }
    if target.change == Change::Removed {
        match table.is_cache() {
            true => table.forget(hash, &k),
            false => _ = table.remove(hash, &k),
        }
        return if key.is_empty() && value.is_empty() { Ok(true) } else { Err(EntryError::TooLong) };
    }
    let v = V::decode(&mut value).map_err(EntryError::Value)?;
    if !key.is_empty() || !value.is_empty() {
        return Err(EntryError::TooLong);
    }
    match target.change {
        Change::Changed => _ = table.insert(hash, &k, v),
        _ => table.insert_new(hash, k, v).map_err(|_| EntryError::Twice)?,
    }
    Ok(true)
}

impl<K: Key, V: Data> RestoreShard for Shard<K, V> {
    fn key_groups(&self, max_parallelism: u32) -> Range<u32> {
        Shard::key_groups(self, max_parallelism)
    }
    fn reserve(&mut self, entries: u64) {
        Shard::reserve(self, entries);
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let (prefix, bits) = self.prefix();
        take(self.table(), |hash| hash >> 1 >> (63 - bits) == prefix, target, entry)
    }
    fn len(&self) -> usize {
        Shard::len(self)
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A part of a state that is being restored, for one of several threads.
pub trait RestoreShard: Send {
    /// Key groups that have entries of it.
    fn key_groups(&self, max_parallelism: u32) -> Range<u32>;
    /// Called once, before the first entry: about so many will come.
    fn reserve(&mut self, entries: u64);
    /// As [`super::KeyedTable::restore`]; false also if another shard takes the entry.
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError>;
    /// Number of entries.
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// What an entry of a snapshot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There is this key; no file before has it.
    New,
    /// There is this key, whether or not a file before has it.
    Changed,
    /// The key is gone.
    Removed,
}

/// One encoded entry of a snapshot. A removed key has no value.
#[derive(Debug, Clone, Copy)]
pub struct RawEntry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Which entries of a block a table takes.
#[derive(Debug, Clone)]
pub struct RestoreTarget<'a> {
    pub max_parallelism: u32,
    pub change: Change,
    /// Key groups that the restoring subtask owns; others are skipped.
    pub owned: &'a Range<u32>,
    /// Key groups that the block says it holds.
    pub block: Range<u32>,
}

/// Why an entry of a snapshot was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("its key cannot be decoded: {0}")]
    Key(DecodeError),
    #[error("its value cannot be decoded: {0}")]
    Value(DecodeError),
    #[error("bytes are left over behind its key or value")]
    TooLong,
    #[error("its key hashes to key group {0}, which the block does not hold")]
    Group(u32),
    #[error("its key is there twice")]
    Twice,
    #[error("{0}")]
    Store(String),
}

struct Frozen<K, V> {
    descriptor: Arc<StateDescriptor>,
    segments: FrozenSegments<K, V>,
    backed: Option<Backed>,
}

impl<K: Key, V: Data> FrozenTable for Frozen<K, V> {
    fn store(&self) -> Option<&Arc<dyn StateStore>> {
        self.backed.as_ref().map(|b| &b.store)
    }
    fn take_backed(&mut self) -> Option<Backed> {
        self.backed.take()
    }
    fn changes(self: Box<Self>, since: u32, visit: &mut StoreVisitor<'_>) -> Result<()> {
        let mut suffix = Vec::new();
        self.segments.changes(since, &mut |hash, key, value| {
            suffix.clear();
            suffix.extend_from_slice(&hash.to_be_bytes());
            suffix.extend_from_slice(key);
            visit(&suffix, value)
        })
    }
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn entries(&self) -> u64 {
        self.segments.len() as u64
    }
    fn for_each(self: Box<Self>, max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        self.segments.for_each(max_parallelism, &mut |group, k, v| {
            key.clear();
            value.clear();
            k.encode(&mut key);
            v.encode(&mut value);
            visit(group, &key, &value)
        })
    }
    fn history(&self) -> Option<&History> {
        Some(self.segments.history())
    }
    fn take_run(&mut self, entries: usize) -> Option<Box<dyn FrozenRun>> {
        Some(Box::new(Run(self.segments.take(entries)?)))
    }
}

struct Run<K, V>(FrozenSegments<K, V>);

impl<K: Key, V: Data> FrozenRun for Run<K, V> {
    fn encode(self: Box<Self>, max_parallelism: u32, since: Option<u32>, out: &mut BlockWriter<'_>) -> Result<()> {
        self.0.encode(max_parallelism, since, out)
    }
}
