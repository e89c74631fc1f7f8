//! Keyed state by namespace: one table per pane, so that a window is walked as one table and dropped as one.
//!
//! A namespace is the start of a pane, an `i64`. In a snapshot an entry's key is the namespace followed by the key; its
//! key group is that of the key alone, so that all panes of a key move together at a rescale.
//!
//! The tables of all panes count the same freezes, so that a snapshot can hold what changed since an earlier one: entries that
//! were written, keys that were removed, and panes that were dropped, each with one line per key group.
//!
//! With a store behind it ([`KeyedTable::attach`]), the tables are caches, as those of other states. Keys of a batch are asked for
//! by [`PaneState::want`]; a pane that is walked is read in slices of the hash, [`PaneState::slice`]; a pane that is dropped is one
//! removal of a range.
mod backing;
mod frozen;
mod marks;
#[cfg(test)]
mod tests;

pub use marks::{KeyGroupMark, RestoredMarks};

use super::frozen::{Change, EntryError, RawEntry, RestoreTarget};
use super::handles::{KeyRef, KeyedTable};
use super::snapshot::FrozenTable;
use super::store::StateStore;
use super::table::{History, SegmentedTable};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key, Type};
use crate::error::Result as StateResult;
use crate::graph::key_group;
use backing::{Away, PaneBacking};
use frozen::FrozenPanes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Emptied tables that are kept for the next panes: one takes the place of the one that was dropped last.
const SPARE: usize = 1;

/// Dropped panes that are remembered for the next snapshots. Beyond so many the next one is written whole.
const MOST_DROPPED: usize = 1024;

/// One table per pane, in the order of their namespaces.
pub struct PaneState<K, V> {
    descriptor: Arc<StateDescriptor>,
    panes: Vec<Pane<K, V>>,
    /// Their segments have the room that the panes before them had: a new pane does not grow from nothing.
    spare: Vec<SegmentedTable<K, V>>,
    /// `epoch` is the number of freezes so far.
    history: History,
    /// Panes that were dropped, and in which epoch.
    dropped: Vec<(i64, u32)>,
    /// Key groups of the subtask; none: nobody has said so, and snapshots are written whole.
    owned: Option<Range<u32>>,
    /// What a snapshot that is being restored says of panes: they are gone for these key groups.
    gone: BTreeMap<i64, BTreeSet<u32>>,
    /// Of that snapshot: `max_parallelism` and the key groups that are restored.
    restoring: (u32, Range<u32>),
    /// None: the tables are all there is.
    backing: Option<Box<PaneBacking<K>>>,
}

struct Pane<K, V> {
    namespace: i64,
    table: SegmentedTable<K, V>,
    away: Away,
}

impl<K: Key, V: Data> PaneState<K, V> {
    pub fn new(name: impl Into<String>) -> Self {
        let key = Type::Tuple(vec![Type::I64, K::type_of()]);
        let descriptor = StateDescriptor { name: name.into(), kind: StateKind::Panes, key, value: V::type_of() };
        Self {
            descriptor: Arc::new(descriptor),
            panes: Vec::new(),
            spare: Vec::new(),
            history: History::default(),
            dropped: Vec::new(),
            owned: None,
            gone: BTreeMap::new(),
            restoring: (1, 0..0),
            backing: None,
        }
    }

    /// Says which key groups the subtask owns: with that, snapshots can hold changes alone.
    pub fn own(&mut self, key_groups: Range<u32>) {
        self.owned = Some(key_groups);
    }

    /// Number of panes.
    pub fn panes(&self) -> usize {
        self.panes.len()
    }
    /// Namespaces in ascending order; the position of each is the index that the other methods take.
    pub fn namespaces(&self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator {
        self.panes.iter().map(|p| p.namespace)
    }
    pub fn namespace(&self, pane: usize) -> i64 {
        self.panes[pane].namespace
    }
    pub fn find(&self, namespace: i64) -> Option<usize> {
        self.panes.binary_search_by_key(&namespace, |p| p.namespace).ok()
    }
    /// Index of the first pane whose namespace is not less.
    pub fn lower_bound(&self, namespace: i64) -> usize {
        self.panes.partition_point(|p| p.namespace < namespace)
    }
    /// Index of the pane, which is made if there is none. Indexes of panes behind it move then.
    pub fn open(&mut self, namespace: i64) -> usize {
        match self.panes.binary_search_by_key(&namespace, |p| p.namespace) {
            Ok(at) => at,
            Err(at) => {
                let mut table = self.spare.pop().unwrap_or_default();
                if self.backing.is_some() {
                    table.into_cache();
                }
                table.begin(self.history.epoch, self.history.floor.clone());
                self.panes.insert(at, Pane { namespace, table, away: Away::default() });
                at
            }
        }
    }
    /// Drops the first `n` panes with everything in them. Indexes of the others move.
    pub fn remove_first(&mut self, n: usize) {
        self.remove_range(0..n);
    }
    /// Drops these panes with everything in them. Indexes of those behind them move.
    pub fn remove_range(&mut self, panes: Range<usize>) {
        for pane in self.panes.drain(panes) {
            // what no snapshot has seen, or no store, need not be remembered
            if self.history.epoch > 0 && (self.backing.is_none() || pane.away.stored) {
                self.dropped.push((pane.namespace, self.history.epoch));
            }
            if self.spare.len() < SPARE && self.backing.is_none() {
                let mut table = pane.table;
                table.empty();
                self.spare.push(table);
            }
        }
    }

    /// The table of a pane, for many accesses in a row.
    #[inline]
    pub fn table(&mut self, pane: usize) -> &mut SegmentedTable<K, V> {
        &mut self.panes[pane].table
    }
    #[inline]
    pub fn get(&self, pane: usize, key: &KeyRef<'_, K>) -> Option<&V> {
        self.panes[pane].table.get(key.hash, key.key)
    }
    #[inline]
    pub fn get_mut(&mut self, pane: usize, key: &KeyRef<'_, K>) -> Option<&mut V> {
        self.panes[pane].table.get_mut(key.hash, key.key)
    }
    /// The value of the key in the pane; made by `new` if there is none.
    #[inline]
    pub fn upsert_with(&mut self, pane: usize, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V {
        self.panes[pane].table.upsert_with(key.hash, key.key, new)
    }
    pub fn remove(&mut self, pane: usize, key: &KeyRef<'_, K>) -> Option<V> {
        self.panes[pane].table.remove(key.hash, key.key)
    }
    /// Entries of a pane in no useful order; those in memory, where a store has others.
    pub fn entries(&self, pane: usize) -> impl Iterator<Item = (&K, &V)> {
        self.panes[pane].table.iter()
    }
}

impl<K: Key, V: Data> KeyedTable<K> for PaneState<K, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        let backed = self.freezes_backed();
        let floor = self.backing.as_ref().map_or_else(|| self.history.floor.load(Ordering::Relaxed), |b| b.flushed());
        let before = self.dropped.len();
        self.dropped.retain(|d| d.1 > floor);
        if self.dropped.len() < before && backed.is_none() {
            // the floor may go back: the chain that completes last need not be the one that was written last
            self.history.complete_since = self.history.complete_since.max(floor);
        }
        if self.dropped.len() > MOST_DROPPED && backed.is_none() {
            self.dropped.clear();
            self.history.complete_since = self.history.epoch;
        }
        let mut history = self.history.clone();
        self.history.epoch += 1;
        let freeze = |p: &mut Pane<K, V>| {
            let segments = p.table.freeze();
            history.complete_since = history.complete_since.max(segments.history().complete_since);
            (p.namespace, segments)
        };
        let panes = self.panes.iter_mut().map(freeze).collect();
        let (descriptor, dropped) = (self.descriptor.clone(), self.dropped.clone());
        Box::new(FrozenPanes { descriptor, panes, dropped, history: self.owned.clone().map(|o| (history, o)), backed })
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let (mut key, mut value) = (entry.key, entry.value);
        let namespace = i64::decode(&mut key).map_err(EntryError::Key)?;
        if target.change == Change::Removed {
            return self.restore_removed(target, namespace, key);
        }
        self.forget_gone()?;
        let k = K::decode(&mut key).map_err(EntryError::Key)?;
        let hash = k.key_hash();
        if !is_mine(target, key_group(hash, target.max_parallelism))? {
            return Ok(false);
        }
        let v = V::decode(&mut value).map_err(EntryError::Value)?;
        if !key.is_empty() || !value.is_empty() {
            return Err(EntryError::TooLong);
        }
        let pane = self.open(namespace);
        let table = &mut self.panes[pane].table;
        match target.change {
            Change::Changed => _ = table.insert(hash, &k, v),
            _ => table.insert_new(hash, k, v).map_err(|_| EntryError::Twice)?,
        }
        self.restoring_backed()?;
        Ok(true)
    }
    fn restored(&mut self) {
        if let Err(error) = self.forget_gone() {
            // the first use of the store tells it, too
            tracing::error!(state = self.descriptor.name, %error, "panes that are gone could not be dropped");
        }
    }
    fn attach(&mut self, store: &Arc<dyn StateStore>, empty: bool) -> StateResult<bool> {
        self.attach_store(store, empty).map(|()| true)
    }
    fn load(&mut self) -> StateResult<()> {
        self.load_wanted()
    }
    fn settle(&mut self) -> StateResult<()> {
        match self.backing {
            Some(_) => self.settle_backed(),
            None => Ok(()),
        }
    }
    fn len(&self) -> usize {
        self.panes.iter().map(|p| p.table.len()).sum()
    }
    fn clear_all(&mut self) {
        self.panes.clear();
        self.spare.clear();
        self.gone.clear();
        self.dropped.clear();
        // that all is gone is not remembered pane by pane
        self.history.complete_since = self.history.epoch;
        self.clear_store();
    }
}

/// False: the key group belongs to another subtask.
fn is_mine(target: &RestoreTarget<'_>, group: u32) -> Result<bool, EntryError> {
    match target.block.contains(&group) {
        true => Ok(target.owned.contains(&group)),
        false => Err(EntryError::Group(group)),
    }
}

impl<K: Key, V: Data> PaneState<K, V> {
    /// Takes what a snapshot says is gone; `key` is what follows the namespace.
    fn restore_removed(
        &mut self,
        target: &RestoreTarget<'_>,
        namespace: i64,
        mut key: &[u8],
    ) -> Result<bool, EntryError> {
        let pane = u8::decode(&mut key).map_err(EntryError::Key)? == frozen::PANE;
        if pane {
            let group = u32::decode(&mut key).map_err(EntryError::Key)?;
            let mine = is_mine(target, group)?;
            if mine {
                self.restoring = (target.max_parallelism, target.owned.clone());
                self.gone.entry(namespace).or_default().insert(group);
            }
            return if key.is_empty() { Ok(mine) } else { Err(EntryError::TooLong) };
        }
        let k = K::decode(&mut key).map_err(EntryError::Key)?;
        let hash = k.key_hash();
        let mine = is_mine(target, key_group(hash, target.max_parallelism))?;
        if mine && let Some(pane) = self.find(namespace) {
            self.panes[pane].table.forget_or_discard(hash, &k);
        }
        if key.is_empty() { Ok(mine) } else { Err(EntryError::TooLong) }
    }

    /// Drops what [`Self::restore_removed`] has collected: all key groups of a pane at once, as a rule.
    fn forget_gone(&mut self) -> Result<(), EntryError> {
        if self.gone.is_empty() {
            return Ok(());
        }
        let (max_parallelism, owned) = self.restoring.clone();
        for (namespace, groups) in std::mem::take(&mut self.gone) {
            let Some(at) = self.find(namespace) else { continue };
            if owned.clone().all(|g| groups.contains(&g)) {
                self.remove_range(at..at + 1);
                continue;
            }
            let is_gone = |hash: u64| groups.contains(&key_group(hash, max_parallelism));
            let mut gone: Vec<(u64, K)> = Vec::new();
            self.visit(at, |k, _| {
                let hash = k.key_hash();
                if is_gone(hash) {
                    gone.push((hash, k.clone()));
                }
            })
            .map_err(|e| EntryError::Store(e.message))?;
            let pane = &mut self.panes[at];
            gone.iter().for_each(|(hash, k)| pane.table.forget_or_discard(*hash, k));
            if pane.table.is_empty() && pane.away.complete() {
                self.remove_range(at..at + 1);
            }
        }
        Ok(())
    }
}
