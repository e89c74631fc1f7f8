//! A table with its descriptor: what every handle has inside; how it freezes, and how it takes entries back.
use super::snapshot::{EntryVisitor, FrozenTable};
use super::table::{FrozenSegments, SegmentedTable};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, DecodeError, Key};
use crate::error::Result;
use crate::graph::key_group;
use std::ops::Range;
use std::sync::Arc;

/// A named table. The handles differ only in what they make of `V`.
pub(super) struct Named<K, V> {
    pub descriptor: Arc<StateDescriptor>,
    pub table: SegmentedTable<K, V>,
}

impl<K: Key, V: Data> Named<K, V> {
    pub fn new(name: impl Into<String>, kind: StateKind) -> Self {
        let descriptor = StateDescriptor { name: name.into(), kind, key: K::type_of(), value: V::type_of() };
        Self { descriptor: Arc::new(descriptor), table: SegmentedTable::default() }
    }

    pub fn freeze(&mut self) -> Box<dyn FrozenTable> {
        Box::new(Frozen { descriptor: self.descriptor.clone(), segments: self.table.freeze() })
    }

    pub fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let (mut key, mut value) = (entry.key, entry.value);
        let k = K::decode(&mut key).map_err(EntryError::Key)?;
        let hash = k.key_hash();
        let group = key_group(hash, target.max_parallelism);
        if !target.block.contains(&group) {
            return Err(EntryError::Group(group));
        }
        if !target.owned.contains(&group) {
            return Ok(false);
        }
        let v = V::decode(&mut value).map_err(EntryError::Value)?;
        if !key.is_empty() || !value.is_empty() {
            return Err(EntryError::TooLong);
        }
        self.table.insert_new(hash, k, v).map_err(|_| EntryError::Twice)?;
        Ok(true)
    }
}

/// One encoded entry of a snapshot.
#[derive(Debug, Clone, Copy)]
pub struct RawEntry<'a> {
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Which entries of a block a table takes.
#[derive(Debug, Clone)]
pub struct RestoreTarget<'a> {
    pub max_parallelism: u32,
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
}

struct Frozen<K, V> {
    descriptor: Arc<StateDescriptor>,
    segments: FrozenSegments<K, V>,
}

impl<K: Key, V: Data> FrozenTable for Frozen<K, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }

    fn entries(&self) -> u64 {
        self.segments.len() as u64
    }

    fn for_each(self: Box<Self>, max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        let mut one = |group: u32, (k, v): &(K, V)| {
            key.clear();
            value.clear();
            k.encode(&mut key);
            v.encode(&mut value);
            visit(group, &key, &value)
        };
        for part in self.segments {
            let first = key_group(part.first_hash, max_parallelism);
            if first == key_group(part.last_hash, max_parallelism) {
                part.table.iter().try_for_each(|e| one(first, e))?;
            } else {
                let group = |e: &(K, V)| key_group(e.0.key_hash(), max_parallelism);
                let mut all: Vec<_> = part.table.iter().map(|e| (group(e), e)).collect();
                all.sort_unstable_by_key(|e| e.0);
                all.into_iter().try_for_each(|(g, e)| one(g, e))?;
            }
        }
        Ok(())
    }
}
