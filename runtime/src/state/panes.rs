//! Keyed state by namespace: one table per pane, so that a window is walked as one table and dropped as one.
//!
//! A namespace is the start of a pane, an `i64`. In a snapshot an entry's key is the namespace followed by the key; its
//! key group is that of the key alone, so that all panes of a key move together at a rescale.
use super::frozen::{EntryError, RawEntry, RestoreTarget};
use super::handles::{KeyRef, KeyedTable};
use super::snapshot::{EntryVisitor, FrozenTable};
use super::table::{FrozenSegments, SegmentedTable};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key, Type};
use crate::error::Result;
use crate::graph::key_group;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Emptied tables that are kept for the next panes: one takes the place of the one that was dropped last.
const SPARE: usize = 1;

/// One table per pane, in the order of their namespaces.
pub struct PaneState<K, V> {
    descriptor: Arc<StateDescriptor>,
    panes: Vec<Pane<K, V>>,
    /// Their segments have the room that the panes before them had: a new pane does not grow from nothing.
    spare: Vec<SegmentedTable<K, V>>,
}

struct Pane<K, V> {
    namespace: i64,
    table: SegmentedTable<K, V>,
}

impl<K: Key, V: Data> PaneState<K, V> {
    pub fn new(name: impl Into<String>) -> Self {
        let key = Type::Tuple(vec![Type::I64, K::type_of()]);
        let descriptor = StateDescriptor { name: name.into(), kind: StateKind::Panes, key, value: V::type_of() };
        Self { descriptor: Arc::new(descriptor), panes: Vec::new(), spare: Vec::new() }
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
                let table = self.spare.pop().unwrap_or_default();
                self.panes.insert(at, Pane { namespace, table });
                at
            }
        }
    }
    /// Drops the first `n` panes with everything in them. Indexes of the others move.
    pub fn remove_first(&mut self, n: usize) {
        for pane in self.panes.drain(..n) {
            if self.spare.len() < SPARE {
                let mut table = pane.table;
                table.empty();
                self.spare.push(table);
            }
        }
    }

    /// A batch of records with these keys comes next: brings their entries in the pane near, where that pays.
    pub fn prefetch(&self, pane: usize, hashes: &[u64]) {
        self.panes[pane].table.prefetch(hashes);
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
    /// Entries of a pane in no useful order.
    pub fn entries(&self, pane: usize) -> impl Iterator<Item = (&K, &V)> {
        self.panes[pane].table.iter()
    }
}

impl<K: Key, V: Data> KeyedTable<K> for PaneState<K, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        let panes = self.panes.iter_mut().map(|p| (p.namespace, p.table.freeze())).collect();
        Box::new(FrozenPanes { descriptor: self.descriptor.clone(), panes })
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let (mut key, mut value) = (entry.key, entry.value);
        let namespace = i64::decode(&mut key).map_err(EntryError::Key)?;
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
        let pane = self.open(namespace);
        self.panes[pane].table.insert_new(hash, k, v).map_err(|_| EntryError::Twice)?;
        Ok(true)
    }
    fn len(&self) -> usize {
        self.panes.iter().map(|p| p.table.len()).sum()
    }
    fn clear_all(&mut self) {
        self.panes.clear();
        self.spare.clear();
    }
}

struct FrozenPanes<K, V> {
    descriptor: Arc<StateDescriptor>,
    panes: Vec<(i64, FrozenSegments<K, V>)>,
}

impl<K: Key, V: Data> FrozenTable for FrozenPanes<K, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }

    fn entries(&self) -> u64 {
        self.panes.iter().map(|p| p.1.len() as u64).sum()
    }

    fn for_each(self: Box<Self>, max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        // pane by pane: each begins again with the first key group
        self.panes.into_iter().try_for_each(|(namespace, segments)| {
            segments.for_each(max_parallelism, &mut |group, k, v| {
                key.clear();
                value.clear();
                namespace.encode(&mut key);
                k.encode(&mut key);
                v.encode(&mut value);
                visit(group, &key, &value)
            })
        })
    }
}

/// One number for each key group of a subtask: what an operator knows that is not about a key but must be there again after
/// a restore at any parallelism, such as how far time had come. While the operator runs all key groups have the same.
pub struct KeyGroupMark {
    descriptor: Arc<StateDescriptor>,
    owned: Range<u32>,
    mark: Option<i64>,
    /// From before the restore.
    restored: BTreeMap<u32, i64>,
}

impl KeyGroupMark {
    pub fn new(name: impl Into<String>) -> Self {
        let descriptor =
            StateDescriptor { name: name.into(), kind: StateKind::KeyGroup, key: Type::U32, value: Type::I64 };
        Self { descriptor: Arc::new(descriptor), owned: 0..0, mark: None, restored: BTreeMap::new() }
    }
    /// Says which key groups the subtask owns; returns what was restored for them. Until it is set again, the mark is the
    /// least of these.
    pub fn own(&mut self, key_groups: Range<u32>, max_parallelism: u32) -> RestoredMarks {
        let by_group = self.restored.clone();
        let mut all = key_groups.clone().map(|g| by_group.get(&g).copied().unwrap_or(i64::MIN));
        let first = all.next().unwrap_or(i64::MIN);
        let (least, most) = all.fold((first, first), |(a, b), m| (a.min(m), b.max(m)));
        self.mark = Some(least).filter(|&m| m > i64::MIN);
        self.owned = key_groups;
        RestoredMarks { least, most, max_parallelism, by_group }
    }
    pub fn get(&self) -> Option<i64> {
        self.mark
    }
    pub fn set(&mut self, mark: Option<i64>) {
        self.mark = mark;
    }
}

/// The marks that the key groups of a subtask had in the subtasks before; `i64::MIN` where there was none.
#[derive(Debug, Clone)]
pub struct RestoredMarks {
    pub least: i64,
    pub most: i64,
    max_parallelism: u32,
    by_group: BTreeMap<u32, i64>,
}

impl Default for RestoredMarks {
    fn default() -> Self {
        Self { least: i64::MIN, most: i64::MIN, max_parallelism: 1, by_group: BTreeMap::new() }
    }
}

impl RestoredMarks {
    /// The mark of the key group of a key with this hash.
    pub fn of(&self, hash: u64) -> i64 {
        self.by_group.get(&key_group(hash, self.max_parallelism)).copied().unwrap_or(i64::MIN)
    }
}

impl<K: Key> KeyedTable<K> for KeyGroupMark {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        // one that was ahead before a restore stays ahead until the others have come as far
        let ahead = |g: u32, mark: i64| self.restored.get(&g).map_or(mark, |&r| r.max(mark));
        let marks = self.mark.map(|m| self.owned.clone().map(|g| (g, ahead(g, m))).collect());
        Box::new(FrozenMarks { descriptor: self.descriptor.clone(), marks: marks.unwrap_or_default() })
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        let (mut key, mut value) = (entry.key, entry.value);
        let group = u32::decode(&mut key).map_err(EntryError::Key)?;
        if !target.block.contains(&group) {
            return Err(EntryError::Group(group));
        }
        if !target.owned.contains(&group) {
            return Ok(false);
        }
        let mark = i64::decode(&mut value).map_err(EntryError::Value)?;
        if !key.is_empty() || !value.is_empty() {
            return Err(EntryError::TooLong);
        }
        match self.restored.insert(group, mark) {
            None => Ok(true),
            Some(_) => Err(EntryError::Twice),
        }
    }
    fn len(&self) -> usize {
        if self.mark.is_some() { self.owned.len() } else { 0 }
    }
    fn clear_all(&mut self) {
        self.mark = None;
        self.restored.clear();
    }
}

struct FrozenMarks {
    descriptor: Arc<StateDescriptor>,
    marks: Vec<(u32, i64)>,
}

impl FrozenTable for FrozenMarks {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }
    fn entries(&self) -> u64 {
        self.marks.len() as u64
    }
    fn for_each(self: Box<Self>, _max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        self.marks.iter().try_for_each(|(group, mark)| visit(*group, &group.to_le_bytes(), &mark.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests;
