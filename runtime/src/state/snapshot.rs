//! From live state to snapshot: the synchronous part freezes, the asynchronous part writes.
use crate::checkpoint::handles::{Bytes64, StateDescriptor};
use crate::error::Result;
use std::collections::BTreeMap;

/// Takes key group, encoded key and encoded value of one entry. An error ends the visit.
pub type EntryVisitor<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result<()> + 'a;

/// A keyed state as it was at the barrier: immutable, shared with the live table by copy-on-write segments, written out
/// by the uploader while the task goes on.
pub trait FrozenTable: Send + Sync {
    fn descriptor(&self) -> &StateDescriptor;
    /// Number of entries.
    fn entries(&self) -> u64;
    /// Calls `entry(key_group, encoded key, encoded value)` for each entry, in order of key group (not of key). Consumes
    /// the frozen table and lets go of each part as soon as it was visited, so that the task can write to it again without
    /// a copy: this bounds the memory that a snapshot holds.
    fn for_each(self: Box<Self>, max_parallelism: u32, entry: &mut EntryVisitor<'_>) -> Result<()>;
}

/// What the stages of a chain add at a barrier.
#[derive(Default)]
pub struct SnapshotParts {
    /// Frozen keyed states by operator name.
    pub keyed: BTreeMap<String, Vec<Box<dyn FrozenTable>>>,
    /// Operator list states: operator name -> state name -> elements.
    pub lists: BTreeMap<String, BTreeMap<String, Vec<Bytes64>>>,
}
