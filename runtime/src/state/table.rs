//! The hashmap backend's table: extendible hashing by hash prefix, with segments that snapshots share.
//!
//! A directory, indexed by the top bits of the key's hash, points to segments, each a flat hash table. A segment that
//! fills up splits in two by the next bit of the hash; nothing ever rehashes the whole. The key group is the prefix of the
//! same hash, so segments lie in key-group order. Few keys are one flat table.
//!
//! At a barrier, [`SegmentedTable::freeze`] puts every segment's entries under an empty layer, in a fraction of a
//! microsecond each. The first write to an entry then copies that entry alone into the upper layer; no write copies a
//! segment. When the snapshot has let go of a segment, its layers become one again: each write pays for moving two entries,
//! so that no batch has to move many. The record path pays one comparison for "frozen", "full" and "has to grow".
//!
//! Each entry has the epoch (the number of freezes before) of its last write, and removed keys are remembered with theirs:
//! a snapshot can hold what changed since any earlier one, whichever of them completed.
//!
//! An entry does not hold its hash: with it, a table of string keys was no faster at any size and a quarter larger
//! (`benches/state.rs`); the hash is computed again when a segment grows or splits.
//!
//! For each segment the table remembers which entries were written lately, up to a share of them: a snapshot of what changed
//! looks at those alone.
//!
//! An access is three dependent loads (directory, control bytes, entry). [`SegmentedTable::prefetch`] does them for all
//! records of a batch, none of which waits for another, before the first one needs its entry.
//!
//! Not there: *merging* of sparse neighbours after mass removal. Removal shrinks a segment's table, the directory stays.
mod cache;
mod changes;
mod frozen;
mod layer;
mod lines;
mod restore;
mod segment;
#[cfg(test)]
mod tests;

pub use frozen::{FrozenSegments, History};
pub use restore::Shard;

use crate::data::{Data, Key};
use frozen::Part;
use hashbrown::hash_table::Entry;
use layer::{Layer, Slot, Table, Written, spin, with_room};
use segment::Segment;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The least and the most buckets of a full segment, and the bytes that decide between them. A split moves half a
/// segment's entries within one write, a freeze takes time by the number of segments.
const BUCKETS: (usize, usize) = (512, 4096);
const SEGMENT_BYTES: usize = 1 << 20;

/// In a table of fewer bytes of entries the look-ups of neighbouring records already wait side by side for a cache: looking
/// ahead would only be a look-up more.
const CACHED_BYTES: usize = 8 << 20;

/// The directory may have this many slots per segment, so that keys with equal prefixes cannot blow it up. Also the share
/// of the hashes that one subtask of many owns needs such room: its segments begin at a depth of log2(parallelism).
const SLOTS_PER_SEGMENT: usize = 1 << 16;
const MAX_DEPTH: u32 = 28;

/// Entries that a write to a frozen segment may move towards making it one layer again, and how many may be saved up.
const CREDIT_PER_WRITE: usize = 2;
const MOST_CREDIT: usize = 4096;

/// A hash table from `K` to `V` whose snapshots cost microseconds. The caller supplies each key's
/// [`Key::key_hash`], which it has computed once for the record.
pub struct SegmentedTable<K, V> {
    /// Number of top bits of the hash that index `directory`.
    depth: u32,
    directory: Vec<u32>,
    segments: Vec<Segment<K, V>>,
    /// Entries at which a segment splits.
    split_at: usize,
    /// Entries of all segments.
    len: usize,
    /// Number of freezes so far.
    epoch: u32,
    /// Changes since this epoch or a later one are known; of those before it some removals are forgotten.
    complete_since: u32,
    /// Nobody will ask for changes since an epoch before this one.
    floor: Arc<AtomicU32>,
    credit: usize,
    /// It is a cache: the store must hear of each removal.
    keeps_removals: bool,
    /// Removed keys that are remembered, or a few more.
    removed: usize,
}

/// The only segment of a table, during one batch.
pub struct Single<'a, K, V> {
    table: &'a mut Table<K, V>,
    written: &'a mut Written,
    len: &'a mut usize,
    epoch: u32,
}

impl<K: Key, V: Data> Single<'_, K, V> {
    /// As [`SegmentedTable::upsert_with`].
    #[inline]
    pub fn upsert_with(&mut self, hash: u64, key: &K, new: impl FnOnce() -> V) -> &mut V {
        match self.table.find_entry(spin(hash), |s| s.key.same_key(key)) {
            Ok(e) => &mut touch(e.into_mut(), self.written, hash, self.epoch).value,
            Err(absent) => {
                *self.len += 1;
                insert_absent(absent.into_table(), self.written, hash, self.epoch, key, new)
            }
        }
    }
}

/// Out of line: the loop of an operator finds nearly every key.
#[cold]
#[inline(never)]
fn insert_absent<'a, K: Key, V>(
    table: &'a mut Table<K, V>,
    written: &mut Written,
    hash: u64,
    epoch: u32,
    key: &K,
    new: impl FnOnce() -> V,
) -> &'a mut V {
    written.note(hash, epoch);
    let slot = Slot { key: key.clone(), value: new(), epoch };
    &mut table.insert_unique(spin(hash), slot, |s| spin(s.key.key_hash())).into_mut().value
}

/// The slot is written in this epoch.
#[inline]
fn touch<'a, K, V>(slot: &'a mut Slot<K, V>, written: &mut Written, hash: u64, epoch: u32) -> &'a mut Slot<K, V> {
    if slot.epoch != epoch {
        slot.epoch = epoch;
        written.note(hash, epoch);
    }
    slot
}

impl<K: Key, V: Data> Default for SegmentedTable<K, V> {
    fn default() -> Self {
        let buckets = SEGMENT_BYTES.checked_div(size_of::<Slot<K, V>>()).unwrap_or(BUCKETS.1);
        let buckets = (buckets + 1).next_power_of_two() / 2;
        // hashbrown fills seven eighths of its buckets before it grows
        Self::with_split_at(buckets.clamp(BUCKETS.0, BUCKETS.1) / 8 * 7)
    }
}

impl<K: Key, V: Data> SegmentedTable<K, V> {
    /// A table whose segments split at so many entries. [`Self::default`] chooses by the size of an entry.
    pub fn with_split_at(entries: usize) -> Self {
        let split_at = entries.max(1);
        Self {
            depth: 0,
            directory: vec![0],
            segments: vec![Segment::with_room(Table::default(), 0, split_at)],
            split_at,
            len: 0,
            epoch: 0,
            complete_since: 0,
            floor: Arc::default(),
            credit: 0,
            keeps_removals: false,
            removed: 0,
        }
    }

    #[inline]
    fn segment_of(&self, hash: u64) -> usize {
        self.directory[(hash >> 1 >> (63 - self.depth)) as usize] as usize
    }

    /// Brings the entries of these keys near, all at a time, if the table is larger than a cache. For the batch that comes next.
    pub fn prefetch(&self, hashes: &[u64]) {
        if self.len < CACHED_BYTES / size_of::<Slot<K, V>>().max(1) {
            return;
        }
        let mut seen = 0;
        for &hash in hashes {
            let segment = &self.segments[self.segment_of(hash)];
            // no load depends on the one before: the processor waits for many at once
            let mut touch = |table: &Table<K, V>| {
                let found = table.find(spin(hash), |slot| {
                    seen ^= slot.epoch;
                    true
                });
                found.is_some()
            };
            if !touch(&segment.top.table)
                && let Some(under) = &segment.under
            {
                touch(&under.bottom.table);
            }
        }
        std::hint::black_box(seen);
    }

    /// The value of `key`, which is [`Default`] if there was none. The key is cloned only when it is first stored.
    #[inline]
    pub fn upsert(&mut self, hash: u64, key: &K) -> &mut V
    where
        V: Default,
    {
        self.upsert_with(hash, key, V::default)
    }

    /// As [`Self::upsert`], with the first value made by `new`.
    #[inline]
    pub fn upsert_with(&mut self, hash: u64, key: &K, new: impl FnOnce() -> V) -> &mut V {
        let at = self.writable(hash, key);
        let Self { segments, len, epoch, .. } = self;
        let Layer { table, written, .. } = &mut segments[at].top;
        match table.find_entry(spin(hash), |s| s.key.same_key(key)) {
            Ok(e) => &mut touch(e.into_mut(), written, hash, *epoch).value,
            Err(absent) => {
                *len += 1;
                insert_absent(absent.into_table(), written, hash, *epoch, key, new)
            }
        }
    }

    /// For a loop over a whole batch: where all keys lie in one segment, which has room for so many more and is not frozen,
    /// that segment alone. Few keys mean little work for each, and looking for the segment is a good part of it.
    pub fn single(&mut self, room: usize) -> Option<Single<'_, K, V>> {
        let Self { segments, len, epoch, .. } = self;
        let [segment] = &mut segments[..] else { return None };
        if segment.top.table.len() + room >= segment.limit {
            return None;
        }
        let Layer { table, written, .. } = &mut segment.top;
        Some(Single { table, written, len, epoch: *epoch })
    }

    #[inline]
    pub fn get(&self, hash: u64, key: &K) -> Option<&V> {
        self.segments[self.segment_of(hash)].find(hash, key).map(|s| &s.value)
    }

    /// Counts as a write if the key is there.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let mut at = self.segment_of(hash);
        if self.segments[at].under.is_some() {
            self.get(hash, key)?;
            at = self.prepare(hash, key);
        }
        let Layer { table, written, .. } = &mut self.segments[at].top;
        let slot = table.find_mut(spin(hash), |s| s.key.same_key(key))?;
        Some(&mut touch(slot, written, hash, self.epoch).value)
    }

    /// Sets the value of `key` and returns the one before.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) -> Option<V> {
        let at = self.writable(hash, key);
        let Self { segments, len, epoch, .. } = self;
        let Layer { table, written, .. } = &mut segments[at].top;
        match table.entry(spin(hash), |s| s.key.same_key(key), |s| spin(s.key.key_hash())) {
            Entry::Occupied(e) => {
                let slot = touch(e.into_mut(), written, hash, *epoch);
                Some(std::mem::replace(&mut slot.value, value))
            }
            Entry::Vacant(e) => {
                *len += 1;
                written.note(hash, *epoch);
                e.insert(Slot { key: key.clone(), value, epoch: *epoch });
                None
            }
        }
    }

    /// Stores the first value of `key`, merges a further one into it; returns what is stored then.
    #[inline]
    pub fn reduce(&mut self, hash: u64, key: &K, value: V, merge: impl FnOnce(&mut V, V)) -> &mut V {
        let at = self.writable(hash, key);
        let Self { segments, len, epoch, .. } = self;
        let Layer { table, written, .. } = &mut segments[at].top;
        match table.entry(spin(hash), |s| s.key.same_key(key), |s| spin(s.key.key_hash())) {
            Entry::Occupied(e) => {
                let slot = touch(e.into_mut(), written, hash, *epoch);
                merge(&mut slot.value, value);
                &mut slot.value
            }
            Entry::Vacant(e) => {
                *len += 1;
                written.note(hash, *epoch);
                &mut e.insert(Slot { key: key.clone(), value, epoch: *epoch }).into_mut().value
            }
        }
    }

    /// Adds an entry whose key is not there yet. Gives it back if it is.
    pub fn insert_new(&mut self, hash: u64, key: K, value: V) -> Result<(), (K, V)> {
        let at = self.writable(hash, &key);
        let Self { segments, len, epoch, .. } = self;
        let Layer { table, written, .. } = &mut segments[at].top;
        match table.entry(spin(hash), |s| s.key.same_key(&key), |s| spin(s.key.key_hash())) {
            Entry::Occupied(_) => Err((key, value)),
            Entry::Vacant(e) => {
                *len += 1;
                written.note(hash, *epoch);
                e.insert(Slot { key, value, epoch: *epoch });
                Ok(())
            }
        }
    }

    /// Removes `key` and returns its value. A segment that has become sparse gives memory back.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        let at = self.segment_of(hash);
        if self.segments[at].under.is_some() {
            self.get(hash, key)?; // absent: nothing to lift
            self.prepare(hash, key);
        }
        let at = self.segment_of(hash);
        let Self { segments, len, epoch, .. } = self;
        let (slot, _) = segments[at].top.table.find_entry(spin(hash), |s| s.key.same_key(key)).ok()?.remove();
        *len -= 1;
        let top = &mut segments[at].top;
        if top.table.len() < top.table.capacity() / 8 && top.table.capacity() > 64 {
            top.table.shrink_to(top.table.len() * 2, |s| spin(s.key.key_hash()));
        }
        // what no snapshot has seen need not be remembered as removed
        if *epoch > 0 {
            self.note_removed(at, hash, slot.key);
        }
        Some(slot.value)
    }

    /// Removes `key`.
    pub fn discard(&mut self, hash: u64, key: &K) {
        self.remove(hash, key);
    }

    /// Keys of a segment whose values are such, with their hashes.
    pub fn find_in_segment(&self, segment: usize, such: impl Fn(&V) -> bool) -> Vec<(u64, K)> {
        let slots = self.segments.get(segment).into_iter().flat_map(Segment::slots).filter(|s| such(&s.value));
        slots.map(|s| (s.key.key_hash(), s.key.clone())).collect()
    }

    fn note_removed(&mut self, at: usize, hash: u64, key: K) {
        let segment = &mut self.segments[at];
        let most = segment.split_at / 2;
        // while a layer lies under it, a removal also hides what that layer says
        if segment.under.is_none() && !self.keeps_removals && segment.top.removals() >= most {
            let floor = self.forgets_up_to();
            let segment = &mut self.segments[at];
            segment.top.forget_removed(floor);
            if segment.top.removals() > most / 2 {
                segment.top.removed = None;
                self.complete_since = self.epoch;
                return;
            }
        }
        let top = &mut self.segments[at].top;
        self.removed += usize::from(top.note_removed(hash, key, self.epoch));
    }

    /// Removals up to this epoch may be forgotten from here on: snapshots say so.
    fn forgets_up_to(&mut self) -> u32 {
        if self.keeps_removals {
            return 0;
        }
        let floor = self.floor.load(Ordering::Relaxed);
        // it may go back: the chain that completed last may begin before that of the one which completed before it
        self.complete_since = self.complete_since.max(floor);
        floor
    }

    /// Index of the segment that takes a write of `key`: its upper layer has room for one more entry, and has the one of
    /// `key` if there is one.
    #[inline]
    fn writable(&mut self, hash: u64, key: &K) -> usize {
        let at = self.segment_of(hash);
        let segment = &self.segments[at];
        if segment.top.table.len() < segment.limit { at } else { self.prepare(hash, key) }
    }

    #[cold]
    #[inline(never)]
    fn prepare(&mut self, hash: u64, key: &K) -> usize {
        self.credit = (self.credit + CREDIT_PER_WRITE).min(MOST_CREDIT);
        loop {
            let at = self.segment_of(hash);
            let segment = &mut self.segments[at];
            segment.top.newest = self.epoch;
            let len = segment.top.table.len();
            if let Some(under) = &segment.under {
                let (cost, full) = (segment.merge_cost(), len >= segment.split_at);
                let released = under.released();
                // what costs more than can be saved up is moved when all is saved up
                if full || (released && cost.min(MOST_CREDIT) <= self.credit) {
                    self.credit = self.credit.saturating_sub(cost);
                    let floor = self.forgets_up_to();
                    self.segments[at].merge(floor);
                    continue;
                }
                segment.lift(hash, key);
                return at;
            }
            if len < segment.limit {
                return at;
            }
            if !self.split(at, hash) {
                let segment = &mut self.segments[at];
                segment.split_at = segment.split_at.saturating_mul(2);
                segment.limit = segment.split_at;
            }
        }
    }

    /// Splits the owned segment of `hash` by the next bit. False if the directory has grown enough for so few segments.
    fn split(&mut self, at: usize, hash: u64) -> bool {
        let depth = self.segments[at].depth;
        if depth == self.depth {
            let most = SLOTS_PER_SEGMENT.saturating_mul(self.segments.len());
            if self.depth == MAX_DEPTH || self.directory.len() >= most {
                return false;
            }
            self.directory = self.directory.iter().flat_map(|&x| [x, x]).collect();
            self.depth += 1;
        }
        let is_upper = |hash: u64| (hash << depth) >> 63 == 1;
        let upper = |key: &K| is_upper(key.key_hash());
        let old = std::mem::take(&mut self.segments[at].top);
        let ones = old.table.iter().filter(|s| upper(&s.key)).count();
        let room = |n: usize| with_room(if n == 0 { 0 } else { n.max(self.split_at) });
        let (mut low, mut high) = (room(old.table.len() - ones), room(ones));
        for slot in old.table {
            let half = if upper(&slot.key) { &mut high } else { &mut low };
            half.insert_unique(spin(slot.key.key_hash()), slot, |s| spin(s.key.key_hash()));
        }
        let [low_written, high_written] = old.written.split(is_upper);
        let half = |table, written| Segment::new(table, old.newest, written, depth + 1, self.split_at);
        let mut halves = [half(low, low_written), half(high, high_written)];
        for (key, epoch) in old.removed.into_iter().flat_map(|r| *r) {
            halves[usize::from(upper(&key))].top.note_removed(key.key_hash(), key, epoch);
        }
        let [low, high] = halves;
        self.segments[at] = low;
        let new = self.segments.len() as u32;
        self.segments.push(high);
        // the segment's slots lie side by side; the upper half is the new one's
        let half = 1 << (self.depth - depth - 1);
        let first = (((hash >> 1 >> (63 - depth)) as usize) << (self.depth - depth)) + half;
        self.directory[first..first + half].fill(new);
        true
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
    /// Entries in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.segments.iter().flat_map(|s| s.slots().map(|s| (&s.key, &s.value)))
    }
    /// Removes everything and gives the memory back.
    pub fn clear(&mut self) {
        let (epoch, floor, keeps_removals) = (self.epoch, self.floor.clone(), self.keeps_removals);
        // that all is gone is not remembered key by key
        *self = Self { epoch, complete_since: epoch, floor, keeps_removals, ..Self::with_split_at(self.split_at) };
        self.segments[0].top.newest = epoch;
    }

    /// Removes everything and keeps the room, also that of segments which no snapshot shares.
    pub fn empty(&mut self) {
        for segment in &mut self.segments {
            segment.empty(self.epoch);
        }
        (self.len, self.removed) = (0, 0);
        self.complete_since = self.epoch;
    }

    /// Makes an empty table one of a state that has seen so many freezes, with that state's floor. Nothing was ever removed
    /// from it, as far as its snapshots tell.
    pub fn begin(&mut self, epoch: u32, floor: Arc<AtomicU32>) {
        debug_assert!(self.is_empty());
        (self.epoch, self.complete_since, self.floor) = (epoch, 0, floor);
        self.segments.iter_mut().for_each(|s| s.top.newest = epoch);
    }

    /// The table as it is now, shared with the live one until either lets go.
    pub fn freeze(&mut self) -> FrozenSegments<K, V> {
        let floor = self.forgets_up_to();
        let history = History { epoch: self.epoch, complete_since: self.complete_since, floor: self.floor.clone() };
        self.epoch += 1;
        let mut parts = Vec::with_capacity(self.segments.len());
        let mut slot = 0;
        while let Some(&at) = self.directory.get(slot) {
            let segment = &mut self.segments[at as usize];
            if let Some(layers) = segment.share(self.epoch, floor) {
                let first_hash = (slot as u64) << 1 << (63 - self.depth);
                let last_hash = first_hash | u64::MAX.checked_shr(segment.depth).unwrap_or(0);
                parts.push(Part { first_hash, last_hash, layers });
            }
            slot += 1 << (self.depth - segment.depth);
        }
        FrozenSegments::new(parts, self.len, history)
    }
}
