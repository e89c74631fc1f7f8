//! From live state to snapshot: the synchronous part freezes, the asynchronous part writes.
use super::backing::Backed;
use super::file::BlockWriter;
use super::store::StateStore;
use super::table::History;
use crate::checkpoint::handles::{Bytes64, StateDescriptor};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Takes key group, encoded key and encoded value of one entry. An error ends the visit.
pub type EntryVisitor<'a> = dyn FnMut(u32, &[u8], &[u8]) -> Result<()> + 'a;

/// Takes a store's key without the state, and the encoded value unless the key was removed.
pub type StoreVisitor<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<()> + 'a;

/// A keyed state as it was at the barrier: immutable, shared with the live table by segments, written out by the uploader
/// while the task goes on.
pub trait FrozenTable: Send + Sync {
    fn descriptor(&self) -> &StateDescriptor;
    /// Number of entries.
    fn entries(&self) -> u64;
    /// Calls `entry(key_group, encoded key, encoded value)` for each entry, in stretches of ascending key groups. Consumes
    /// the frozen table and lets go of each part as soon as it was visited, so that the task can have it back: this bounds
    /// the memory that a snapshot holds.
    fn for_each(self: Box<Self>, max_parallelism: u32, entry: &mut EntryVisitor<'_>) -> Result<()>;
    /// Which changes it can tell. None: it is always written whole, by [`Self::for_each`].
    fn history(&self) -> Option<&History> {
        None
    }
    /// With a history: takes off the next part, with at least so many entries if there are that many, for one of several
    /// threads to write.
    fn take_run(&mut self, _entries: usize) -> Option<Box<dyn FrozenRun>> {
        None
    }
    /// Keeps the entries of the live table; what follows is of use only then.
    fn store(&self) -> Option<&Arc<dyn StateStore>> {
        None
    }
    /// The place in the store's order, once.
    fn take_backed(&mut self) -> Option<Backed> {
        None
    }
    /// Ranges of the store's keys (without the state) of which nothing from up to epoch `since` is left: from the first up to
    /// the second; none: to the end. They come before [`Self::changes`].
    fn dropped(&self, _since: u32) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        Vec::new()
    }
    /// What was written and removed after epoch `since`, in the order of the store's keys.
    fn changes(self: Box<Self>, _since: u32, _visit: &mut StoreVisitor<'_>) -> Result<()> {
        Err(Error::internal("a table without a store was asked for what the store does not have"))
    }
}

/// A part of a frozen table.
pub trait FrozenRun: Send {
    /// Writes its entries, or those written and the keys removed after the freeze of epoch `since`.
    fn encode(self: Box<Self>, max_parallelism: u32, since: Option<u32>, out: &mut BlockWriter<'_>) -> Result<()>;
}

/// What the stages of a chain add at a barrier.
#[derive(Default)]
pub struct SnapshotParts {
    /// Frozen keyed states by operator name.
    pub keyed: BTreeMap<String, Vec<Box<dyn FrozenTable>>>,
    /// Operator list states: operator name -> state name -> elements.
    pub lists: BTreeMap<String, BTreeMap<String, Vec<Bytes64>>>,
}
