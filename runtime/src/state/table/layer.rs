//! What a segment is made of: slots with the epoch of their last write, keys that were removed, and frozen layers that lie
//! under the one that is written to.
use super::lines::Lines;
use crate::data::{Data, Key};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::sync::Arc;

/// An entry, and the epoch in which it was last written: with it a snapshot can tell what is newer than another one.
#[derive(Clone)]
pub struct Slot<K, V> {
    pub key: K,
    pub value: V,
    pub epoch: u32,
}

/// The hash inside a segment: the top bits, which are alike there, must choose neither the bucket nor the tag (hashbrown
/// takes them from the low and the top bits).
#[inline]
pub(super) fn spin(hash: u64) -> u64 {
    hash.rotate_left(32)
}

pub(super) type Table<K, V> = HashTable<Slot<K, V>, Lines>;

/// An empty table with room for so many entries.
pub(super) fn with_room<K, V>(entries: usize) -> Table<K, V> {
    Table::with_capacity_in(entries, Lines)
}

/// Which entries of a layer were written lately, so that a snapshot of few changes need not look at all entries.
#[derive(Clone)]
pub(super) struct Written {
    /// `hashes` tells each entry that was last written in a later epoch than this.
    since: u32,
    /// Epochs and hashes of entries when they were written first in that epoch, in no order. They may have been written again,
    /// or removed, since.
    hashes: Vec<(u32, u64)>,
    /// Beyond so many all entries are looked at.
    most: usize,
}

/// Share of a segment's entries that are remembered as written.
const WRITTEN_SHARE: usize = 8;

impl Written {
    /// Tells what is written after this epoch.
    pub fn since(epoch: u32, split_at: usize) -> Self {
        Self { since: epoch, hashes: Vec::new(), most: split_at / WRITTEN_SHARE }
    }
    /// Tells nothing.
    pub fn unknown() -> Self {
        Self::since(u32::MAX, 0)
    }
    #[cold]
    #[inline(never)]
    pub fn note(&mut self, hash: u64, epoch: u32) {
        if epoch <= self.since {
            return;
        }
        if self.hashes.len() >= self.most {
            // of several epochs the later ones stay
            let latest = self.hashes.iter().map(|w| w.0).max().unwrap_or(epoch).max(epoch);
            self.since = latest - 1;
            self.hashes.retain(|w| w.0 == latest);
            if self.hashes.len() * 2 >= self.most {
                self.since = latest;
                self.hashes.clear();
            }
            return self.note(hash, epoch);
        }
        self.hashes.push((epoch, hash));
    }
    /// Nothing is there of a later epoch.
    pub fn frozen_at(&mut self, epoch: u32, split_at: usize) {
        self.most = split_at / WRITTEN_SHARE;
        if self.since > epoch {
            *self = Self { since: epoch, ..Self::since(epoch, split_at) };
        }
    }
    /// Hashes of all entries that were written after this epoch, each once, in ascending order; none if it cannot tell.
    fn after(&self, epoch: u32) -> Option<Vec<u64>> {
        if epoch < self.since {
            return None;
        }
        let mut hashes: Vec<u64> = self.hashes.iter().filter(|w| w.0 > epoch).map(|w| w.1).collect();
        hashes.sort_unstable();
        hashes.dedup();
        Some(hashes)
    }
    /// The halves of a segment that splits.
    pub fn split(self, upper: impl Fn(u64) -> bool) -> [Self; 2] {
        let (high, low) = self.hashes.into_iter().partition(|w| upper(w.1));
        [low, high].map(|hashes| Self { hashes, ..self })
    }
}

/// A flat table, and the keys that were removed from it or from what lies under it, each with its epoch. A key that is in
/// both is there: it came back.
pub(super) struct Layer<K, V> {
    pub table: Table<K, V>,
    pub removed: Option<Box<HashTable<(K, u32)>>>,
    /// No entry and no removal is of a later epoch.
    pub newest: u32,
    pub written: Written,
}

impl<K, V> Default for Layer<K, V> {
    fn default() -> Self {
        Self { table: Table::default(), removed: None, newest: 0, written: Written::unknown() }
    }
}

impl<K: Key, V: Data> Layer<K, V> {
    pub fn of(table: Table<K, V>, newest: u32, written: Written) -> Self {
        Self { table, removed: None, newest, written }
    }
    pub fn is_empty(&self) -> bool {
        self.table.is_empty() && self.removed.is_none()
    }
    #[inline]
    pub fn find(&self, hash: u64, key: &K) -> Option<&Slot<K, V>> {
        self.table.find(spin(hash), |s| s.key.same_key(key))
    }
    pub fn has_removed(&self, hash: u64, key: &K) -> bool {
        self.removed.as_ref().is_some_and(|r| r.find(spin(hash), |e| e.0.same_key(key)).is_some())
    }
    pub fn removals(&self) -> usize {
        self.removed.as_ref().map_or(0, |r| r.len())
    }
    /// What lies under it says nothing about this key any more.
    pub fn covers(&self, hash: u64, key: &K) -> bool {
        self.find(hash, key).is_some() || self.has_removed(hash, key)
    }
    /// The key is gone since this epoch. False: it was noted before.
    pub fn note_removed(&mut self, hash: u64, key: K, epoch: u32) -> bool {
        self.newest = self.newest.max(epoch);
        let removed = self.removed.get_or_insert_default();
        match removed.entry(spin(hash), |e| e.0.same_key(&key), |e| spin(e.0.key_hash())) {
            Entry::Occupied(e) => {
                e.into_mut().1 = epoch;
                false
            }
            Entry::Vacant(e) => {
                e.insert((key, epoch));
                true
            }
        }
    }
    /// Forgets removals up to this epoch.
    pub fn forget_removed(&mut self, until: u32) {
        if let Some(removed) = &mut self.removed {
            removed.retain(|e| e.1 > until);
            if removed.is_empty() {
                self.removed = None;
            } else if removed.len() < removed.capacity() / 4 && removed.capacity() > 64 {
                removed.shrink_to(removed.len() * 2, |e| spin(e.0.key_hash()));
            }
        }
    }
    pub fn copy(&self) -> Self {
        let (table, removed, written) = (self.table.clone(), self.removed.clone(), self.written.clone());
        Self { table, removed, newest: self.newest, written }
    }
    /// Entries that were last written after this epoch; none: all.
    pub fn slots(&self, since: Option<u32>) -> impl Iterator<Item = &Slot<K, V>> {
        let changed = since.filter(|&s| s < self.newest).map(|s| (s, self.written.after(s)));
        let (all, few) = match (since, changed) {
            (None, _) => (Some(0), None),
            (Some(_), None) => (None, None),
            (Some(_), Some((s, None))) => (Some(s + 1), None),
            (Some(_), Some((s, Some(hashes)))) => (None, Some((s, hashes))),
        };
        let all = all.into_iter().flat_map(|least| self.table.iter().filter(move |s| s.epoch >= least));
        let few = few.into_iter().flat_map(move |(since, hashes)| {
            hashes.into_iter().flat_map(move |hash| {
                self.table.iter_hash(spin(hash)).filter(move |s| s.epoch > since && s.key.key_hash() == hash)
            })
        });
        all.chain(few)
    }
    /// Takes over what a newer layer says.
    pub fn absorb(&mut self, newer: Self) {
        self.newest = self.newest.max(newer.newest);
        if let Some(removed) = newer.removed {
            for (key, epoch) in *removed {
                let hash = key.key_hash();
                if newer.table.find(spin(hash), |s| s.key.same_key(&key)).is_some() {
                    continue;
                }
                if let Ok(e) = self.table.find_entry(spin(hash), |s| s.key.same_key(&key)) {
                    e.remove();
                }
                self.note_removed(hash, key, epoch);
            }
        }
        if self.table.is_empty() {
            self.table = newer.table;
            self.written = Written::unknown();
            return;
        }
        for slot in newer.table {
            self.written.note(slot.key.key_hash(), slot.epoch);
            match self.table.entry(spin(slot.key.key_hash()), |s| s.key.same_key(&slot.key), |s| spin(s.key.key_hash()))
            {
                Entry::Occupied(e) => *e.into_mut() = slot,
                Entry::Vacant(e) => _ = e.insert(slot),
            }
        }
    }
}

/// Frozen layers, shared with the snapshots that still read them.
pub(super) struct Layers<K, V> {
    pub bottom: Arc<Layer<K, V>>,
    /// Later ones, oldest first. Nearly always none.
    pub upper: Vec<Arc<Layer<K, V>>>,
}

impl<K, V> Clone for Layers<K, V> {
    fn clone(&self) -> Self {
        Self { bottom: self.bottom.clone(), upper: self.upper.clone() }
    }
}

impl<K: Key, V: Data> Layers<K, V> {
    pub fn new(bottom: Layer<K, V>) -> Self {
        Self { bottom: Arc::new(bottom), upper: Vec::new() }
    }
    /// Newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Layer<K, V>> + Clone {
        self.upper.iter().rev().chain([&self.bottom]).map(|l| &**l)
    }
    /// No snapshot reads them any more.
    pub fn released(&self) -> bool {
        Arc::strong_count(&self.bottom) == 1 && self.upper.iter().all(|l| Arc::strong_count(l) == 1)
    }
    /// Entries and removals above the bottom.
    pub fn upper_len(&self) -> usize {
        self.upper.iter().map(|l| l.table.len() + l.removals()).sum()
    }
    pub fn find(&self, hash: u64, key: &K) -> Option<&Slot<K, V>> {
        for layer in self.iter() {
            if let Some(slot) = layer.find(hash, key) {
                return Some(slot);
            }
            if layer.has_removed(hash, key) {
                return None;
            }
        }
        None
    }
    /// One layer that says the same; copies what a snapshot still reads.
    pub fn merged(self) -> Layer<K, V> {
        let own = |l: Arc<Layer<K, V>>| Arc::try_unwrap(l).unwrap_or_else(|shared| shared.copy());
        let mut all = own(self.bottom);
        self.upper.into_iter().for_each(|l| all.absorb(own(l)));
        all
    }
}

/// The slots that count, of layers given newest first, and were last written after this epoch (none: all).
pub(super) fn live<'a, K: Key, V: Data>(
    layers: impl Iterator<Item = &'a Layer<K, V>> + Clone,
    since: Option<u32>,
) -> impl Iterator<Item = &'a Slot<K, V>> {
    layers.clone().enumerate().flat_map(move |(above, layer)| {
        let newer = layers.clone().take(above);
        layer.slots(since).filter(move |s| {
            above == 0 || {
                let hash = s.key.key_hash();
                !newer.clone().any(|l| l.covers(hash, &s.key))
            }
        })
    })
}
