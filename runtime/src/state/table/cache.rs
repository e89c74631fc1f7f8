//! A table as the cache in front of a store: entries are loaded, forgotten once the store has them, and removed keys are
//! remembered until it knows.
//!
//! The epochs that tell what is newer than a snapshot tell here what the store does not have: everything after the epoch that
//! was flushed last. What is older may leave.
use super::SegmentedTable;
use super::layer::{Slot, spin};
use crate::data::{Data, Key};

impl<K: Key, V: Data> SegmentedTable<K, V> {
    /// Makes an empty table a cache: nothing that was removed is forgotten before [`Self::evict`] or [`Self::settled`] say so.
    pub fn into_cache(&mut self) {
        self.keeps_removals = true;
        // entries of epoch 0 are those that a store has from the beginning
        self.epoch = self.epoch.max(1);
        for segment in &mut self.segments {
            segment.top.newest = segment.top.newest.max(self.epoch);
        }
    }

    pub fn is_cache(&self) -> bool {
        self.keeps_removals
    }

    /// The epoch of what is written now.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The table has the key, or knows that it was removed.
    pub fn knows(&self, hash: u64, key: &K) -> bool {
        self.segments[self.segment_of(hash)].layers().any(|l| l.covers(hash, key))
    }

    /// Adds what the store has of a key that the table does not know.
    pub fn load(&mut self, hash: u64, key: K, value: V, flushed: u32) {
        let at = self.writable(hash, &key);
        self.segments[at]
            .top
            .table
            .insert_unique(spin(hash), Slot { key, value, epoch: flushed }, |s| spin(s.key.key_hash()));
        self.len += 1;
    }

    /// Removes a key that the store may have even if the table does not.
    pub fn forget(&mut self, hash: u64, key: &K) {
        if self.remove(hash, key).is_none() {
            let at = self.writable(hash, key);
            let epoch = self.epoch;
            self.segments[at].top.note_removed(hash, key.clone(), epoch);
        }
    }

    /// Lets entries go that were last written (or loaded) up to epoch `older`, until `target` are left; the store has what was
    /// written up to `flushed`. Goes around the segments, beginning at `cursor`; those that a snapshot still reads are left out.
    pub fn evict(&mut self, older: u32, flushed: u32, target: usize, cursor: &mut usize) {
        for _ in 0..self.segments.len() {
            if self.len <= target {
                return;
            }
            *cursor = (*cursor + 1) % self.segments.len();
            let segment = &mut self.segments[*cursor];
            if segment.under.as_ref().is_some_and(|u| !u.released()) {
                continue;
            }
            segment.merge();
            // what is written from here on need not be prepared
            segment.top.newest = self.epoch;
            let top = &mut segment.top;
            let before = top.table.len();
            top.table.retain(|s| s.epoch > older.min(flushed));
            top.forget_removed(flushed);
            self.len -= before - top.table.len();
            if top.table.len() < top.table.capacity() / 4 && top.table.capacity() > 64 {
                top.table.shrink_to(top.table.len() * 2, |s| spin(s.key.key_hash()));
            }
        }
    }

    /// The store has what was removed up to this epoch: it need not be remembered.
    pub fn settled(&mut self, flushed: u32) {
        for segment in self.segments.iter_mut().filter(|s| s.under.is_none()) {
            segment.top.forget_removed(flushed);
        }
    }

    /// Up to so many entries, of segments from `segment` on.
    pub fn sample(&self, segment: usize, entries: usize) -> impl Iterator<Item = (&K, &V)> {
        let all = self.segments.iter().cycle().skip(segment % self.segments.len()).take(self.segments.len());
        all.flat_map(|s| s.slots()).map(|s| (&s.key, &s.value)).take(entries)
    }
}
