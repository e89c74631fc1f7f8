//! A table as the cache in front of a store: entries are loaded, forgotten once the store has them, and removed keys are
//! remembered until it knows.
//!
//! The epochs that tell what is newer than a snapshot tell here what the store does not have: everything after the epoch that
//! was flushed last. What is older may leave.
use super::SegmentedTable;
use super::layer::{Slot, spin};
use super::segment::Segment;
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
            self.removed += usize::from(self.segments[at].top.note_removed(hash, key.clone(), epoch));
        }
    }

    /// Removes a key, also from the store if there is one.
    pub fn forget_or_discard(&mut self, hash: u64, key: &K) {
        match self.is_cache() {
            true => self.forget(hash, key),
            false => self.discard(hash, key),
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
            let removals = segment.removals();
            segment.merge(0);
            // what is written from here on need not be prepared
            segment.top.newest = self.epoch;
            let top = &mut segment.top;
            let before = top.table.len();
            top.table.retain(|s| s.epoch > older.min(flushed));
            top.forget_removed(flushed);
            self.len -= before - top.table.len();
            self.removed = self.removed.saturating_sub(removals - top.removals());
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
        self.removed = self.removals();
    }

    /// As [`Self::settled`], also where a snapshot has let go of layers that lie under others.
    pub fn forget_settled(&mut self, flushed: u32) {
        for segment in &mut self.segments {
            let released = segment.under.as_ref().is_some_and(|u| u.released());
            if released && segment.removals() > 0 {
                segment.merge(0);
                // what is written from here on need not be prepared
                segment.top.newest = self.epoch;
            }
        }
        self.settled(flushed);
    }

    /// Removed keys that are remembered, or a few more: in no time.
    pub fn removals_at_most(&self) -> usize {
        self.removed
    }

    /// Removed keys that are remembered.
    pub fn removals(&self) -> usize {
        self.segments.iter().map(Segment::removals).sum()
    }

    /// Entries whose hash is not less than the first, and less than the second (none: to the end); whole segments are passed over.
    pub fn between(&self, from: u64, to: Option<u64>) -> impl Iterator<Item = (u64, &K, &V)> {
        let last = to.map_or(u64::MAX, |t| t.saturating_sub(1));
        let slots = (from >> 1 >> (63 - self.depth)) as usize..=(last >> 1 >> (63 - self.depth)) as usize;
        // the slots of a segment lie side by side
        let mut segments: Vec<u32> = self.directory.get(slots).unwrap_or_default().to_vec();
        segments.dedup();
        let entries = segments.into_iter().flat_map(|at| self.segments[at as usize].slots());
        entries
            .map(|s| (s.key.key_hash(), &s.key, &s.value))
            .filter(move |e| e.0 >= from && to.is_none_or(|to| e.0 < to))
    }

    /// The first hash behind the segments that hold so many entries, or a few more, from this hash on; none: there are fewer.
    pub fn reach(&self, from: u64, entries: usize) -> Option<u64> {
        let (mut slot, mut n) = ((from >> 1 >> (63 - self.depth)) as usize, 0);
        while let Some(&at) = self.directory.get(slot) {
            let segment = &self.segments[at as usize];
            n += segment.layers().map(|l| l.table.len()).sum::<usize>();
            let slots = 1usize << (self.depth - segment.depth);
            slot = slot / slots * slots + slots;
            if n >= entries {
                return (slot < self.directory.len()).then(|| (slot as u64) << 1 << (63 - self.depth));
            }
        }
        None
    }

    /// Up to so many entries, of segments from `segment` on.
    pub fn sample(&self, segment: usize, entries: usize) -> impl Iterator<Item = (&K, &V)> {
        let all = self.segments.iter().cycle().skip(segment % self.segments.len()).take(self.segments.len());
        all.flat_map(|s| s.slots()).map(|s| (&s.key, &s.value)).take(entries)
    }
}
