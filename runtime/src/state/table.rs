//! The hashmap backend's table: extendible hashing by hash prefix, with segments that are copied on write.
//!
//! A directory, indexed by the top bits of the key's hash, points to segments, each a flat hash table. A segment that
//! fills up splits in two by the next bit of the hash; nothing ever rehashes the whole. The key group is the prefix of the
//! same hash, so segments lie in key-group order. Few keys are one flat table.
//!
//! At a barrier, [`SegmentedTable::freeze`] turns every segment into a shared one in a fraction of a microsecond each. The
//! first write to a shared segment copies that segment only, or takes it back as it is if the snapshot has let go of it.
//! The record path pays one comparison for both "shared" and "full": a shared segment has a limit of zero entries.
//!
//! An entry does not hold its hash: with it, a table of string keys was no faster at any size and a quarter larger
//! (`benches/state.rs`); the hash is computed again when a segment grows or splits.
//!
//! Seams that are not filled yet:
//! - *incremental snapshots*: an epoch of the last write belongs into `Segment` (set in `make_writable`, which the first
//!   write after a barrier passes anyway) and, if needed, into the entry; `freeze` would then hand out what is newer.
//! - *prefetch by batch*: `upsert` is three dependent loads (directory, control bytes, entry). A batch form would do the
//!   first two for all hashes of a batch before the third.
//! - *short stalls of large state under uniform writes*: after a barrier a batch of 1,024 random keys may copy 1,024
//!   segments. To bound that, `freeze` would hand segments to the writer a few at a time, and the first write to an entry
//!   of a segment still in line would save that entry alone; `FrozenTable::for_each` already consumes part by part.
//! - *merging* of sparse neighbours after mass removal: removal shrinks a segment's table, the directory stays.
use crate::data::{Data, Key};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::sync::Arc;

/// The least and the most buckets of a full segment, and the bytes that decide between them. A copy of a segment stalls
/// the task, so it is kept to some tens of microseconds.
const BUCKETS: (usize, usize) = (512, 4096);
const SEGMENT_BYTES: usize = 128 << 10;

/// The directory may have this many slots per segment, so that keys with equal prefixes cannot blow it up. Also the share
/// of the hashes that one subtask of many owns needs such room: its segments begin at a depth of log2(parallelism).
const SLOTS_PER_SEGMENT: usize = 1 << 16;
const MAX_DEPTH: u32 = 28;

type Table<K, V> = HashTable<(K, V)>;

/// A hash table from `K` to `V` whose snapshots cost microseconds. The caller supplies each key's
/// [`Key::key_hash`], which it has computed once for the record.
pub struct SegmentedTable<K, V> {
    /// Number of top bits of the hash that index `directory`.
    depth: u32,
    directory: Vec<u32>,
    segments: Vec<Segment<K, V>>,
    /// Entries at which a segment splits.
    split_at: usize,
}

struct Segment<K, V> {
    /// Empty while the segment is shared.
    table: Table<K, V>,
    /// Writes go on while there are fewer entries than this; 0 while the segment is shared.
    limit: usize,
    /// Number of top bits of the hash that all entries agree in.
    depth: u32,
    split_at: usize,
    shared: Option<Arc<Table<K, V>>>,
}

/// The hash inside a segment: the top bits, which are alike there, must choose neither the bucket nor the tag (hashbrown
/// takes them from the low and the top bits).
#[inline]
fn spin(hash: u64) -> u64 {
    hash.rotate_left(32)
}

/// Out of line: the loop of an operator finds nearly every key.
#[cold]
#[inline(never)]
fn insert_absent<'a, K: Key, V>(table: &'a mut Table<K, V>, hash: u64, key: &K, new: impl FnOnce() -> V) -> &'a mut V {
    &mut table.insert_unique(spin(hash), (key.clone(), new()), |e| spin(e.0.key_hash())).into_mut().1
}

impl<K: Key, V: Data> Segment<K, V> {
    fn new(table: Table<K, V>, depth: u32, split_at: usize) -> Self {
        Self { table, limit: split_at, depth, split_at, shared: None }
    }

    #[inline]
    fn readable(&self) -> &Table<K, V> {
        self.shared.as_deref().unwrap_or(&self.table)
    }

    /// Ends sharing: takes the table back if the snapshot has let go of it, else copies it.
    fn own(&mut self) {
        if let Some(shared) = self.shared.take() {
            self.table = Arc::try_unwrap(shared).unwrap_or_else(|shared| (*shared).clone());
            self.limit = self.split_at;
        }
    }

    fn share(&mut self) -> Arc<Table<K, V>> {
        self.limit = 0;
        let table = &mut self.table;
        self.shared.get_or_insert_with(|| Arc::new(std::mem::take(table))).clone()
    }
}

impl<K: Key, V: Data> Default for SegmentedTable<K, V> {
    fn default() -> Self {
        let buckets = SEGMENT_BYTES.checked_div(size_of::<(K, V)>()).unwrap_or(BUCKETS.1);
        let buckets = (buckets + 1).next_power_of_two() / 2;
        // hashbrown fills seven eighths of its buckets before it grows
        Self::with_split_at(buckets.clamp(BUCKETS.0, BUCKETS.1) / 8 * 7)
    }
}

impl<K: Key, V: Data> SegmentedTable<K, V> {
    /// A table whose segments split at so many entries. [`Self::default`] chooses by the size of an entry.
    pub fn with_split_at(entries: usize) -> Self {
        let split_at = entries.max(1);
        Self { depth: 0, directory: vec![0], segments: vec![Segment::new(Table::new(), 0, split_at)], split_at }
    }

    #[inline]
    fn segment_of(&self, hash: u64) -> usize {
        self.directory[(hash >> 1 >> (63 - self.depth)) as usize] as usize
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
        let at = self.writable(hash);
        match self.segments[at].table.find_entry(spin(hash), |e| e.0.same_key(key)) {
            Ok(e) => &mut e.into_mut().1,
            Err(absent) => insert_absent(absent.into_table(), hash, key, new),
        }
    }

    #[inline]
    pub fn get(&self, hash: u64, key: &K) -> Option<&V> {
        let segment = &self.segments[self.segment_of(hash)];
        segment.readable().find(spin(hash), |e| e.0.same_key(key)).map(|e| &e.1)
    }

    /// Writes nothing, but a shared segment that holds the key is copied.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let mut at = self.segment_of(hash);
        if self.segments[at].shared.is_some() {
            self.get(hash, key)?;
            at = self.make_writable(hash);
        }
        self.segments[at].table.find_mut(spin(hash), |e| e.0.same_key(key)).map(|e| &mut e.1)
    }

    /// Sets the value of `key` and returns the one before.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) -> Option<V> {
        let at = self.writable(hash);
        match self.segments[at].table.entry(spin(hash), |e| e.0.same_key(key), |e| spin(e.0.key_hash())) {
            Entry::Occupied(e) => Some(std::mem::replace(&mut e.into_mut().1, value)),
            Entry::Vacant(e) => {
                e.insert((key.clone(), value));
                None
            }
        }
    }

    /// Stores the first value of `key`, merges a further one into it; returns what is stored then.
    #[inline]
    pub fn reduce(&mut self, hash: u64, key: &K, value: V, merge: impl FnOnce(&mut V, V)) -> &mut V {
        let at = self.writable(hash);
        match self.segments[at].table.entry(spin(hash), |e| e.0.same_key(key), |e| spin(e.0.key_hash())) {
            Entry::Occupied(e) => {
                let stored = &mut e.into_mut().1;
                merge(stored, value);
                stored
            }
            Entry::Vacant(e) => &mut e.insert((key.clone(), value)).into_mut().1,
        }
    }

    /// Adds an entry whose key is not there yet. Gives it back if it is.
    pub fn insert_new(&mut self, hash: u64, key: K, value: V) -> Result<(), (K, V)> {
        let at = self.writable(hash);
        match self.segments[at].table.entry(spin(hash), |e| e.0.same_key(&key), |e| spin(e.0.key_hash())) {
            Entry::Occupied(_) => Err((key, value)),
            Entry::Vacant(e) => {
                e.insert((key, value));
                Ok(())
            }
        }
    }

    /// Removes `key` and returns its value. A segment that has become sparse gives memory back.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        self.get(hash, key)?; // absent: a shared segment stays shared
        let at = self.writable(hash);
        let table = &mut self.segments[at].table;
        let ((_, value), _) = table.find_entry(spin(hash), |e| e.0.same_key(key)).ok()?.remove();
        if table.len() < table.capacity() / 8 && table.capacity() > 64 {
            table.shrink_to(table.len() * 2, |e| spin(e.0.key_hash()));
        }
        Some(value)
    }

    /// Index of the segment of `hash`, owned and with room for one more entry.
    #[inline]
    fn writable(&mut self, hash: u64) -> usize {
        let at = self.segment_of(hash);
        let segment = &self.segments[at];
        if segment.table.len() < segment.limit { at } else { self.make_writable(hash) }
    }

    #[cold]
    #[inline(never)]
    fn make_writable(&mut self, hash: u64) -> usize {
        loop {
            let at = self.segment_of(hash);
            let segment = &mut self.segments[at];
            segment.own();
            if segment.table.len() < segment.limit {
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
        let upper = |e: &(K, V)| (e.0.key_hash() << depth) >> 63 == 1;
        let old = std::mem::take(&mut self.segments[at].table);
        let ones = old.iter().filter(|e| upper(e)).count();
        let room = |n: usize| if n == 0 { Table::new() } else { Table::with_capacity(n.max(self.split_at)) };
        let (mut low, mut high) = (room(old.len() - ones), room(ones));
        for e in old {
            let half = if upper(&e) { &mut high } else { &mut low };
            half.insert_unique(spin(e.0.key_hash()), e, |e| spin(e.0.key_hash()));
        }
        self.segments[at] = Segment::new(low, depth + 1, self.split_at);
        let new = self.segments.len() as u32;
        self.segments.push(Segment::new(high, depth + 1, self.split_at));
        // the segment's slots lie side by side; the upper half is the new one's
        let half = 1 << (self.depth - depth - 1);
        let first = (((hash >> 1 >> (63 - depth)) as usize) << (self.depth - depth)) + half;
        self.directory[first..first + half].fill(new);
        true
    }

    /// Number of entries; takes time by the number of segments.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|s| s.readable().len()).sum()
    }
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|s| s.readable().is_empty())
    }
    pub fn segments(&self) -> usize {
        self.segments.len()
    }
    /// Entries in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.segments.iter().flat_map(|s| s.readable().iter().map(|(k, v)| (k, v)))
    }
    /// Removes everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::with_split_at(self.split_at);
    }

    /// Removes everything and keeps the room, also that of segments which no snapshot shares.
    pub fn empty(&mut self) {
        for segment in &mut self.segments {
            match segment.shared.take().map(Arc::try_unwrap) {
                Some(Ok(table)) => segment.table = table,
                Some(Err(shared)) => segment.table = Table::with_capacity(shared.len()),
                None => {}
            }
            segment.table.clear();
            segment.limit = segment.split_at;
        }
    }

    /// The table as it is now, shared with the live one until either lets go.
    pub fn freeze(&mut self) -> FrozenSegments<K, V> {
        let mut parts = Vec::with_capacity(self.segments.len());
        let mut slot = 0;
        while let Some(&at) = self.directory.get(slot) {
            let segment = &mut self.segments[at as usize];
            let (depth, table) = (segment.depth, segment.share());
            if !table.is_empty() {
                let first_hash = (slot as u64) << 1 << (63 - self.depth);
                parts.push(Part {
                    first_hash,
                    last_hash: first_hash | u64::MAX.checked_shr(depth).unwrap_or(0),
                    table,
                });
            }
            slot += 1 << (self.depth - depth);
        }
        FrozenSegments { parts }
    }
}

/// The segments of a table at one moment, in the order of the hash.
pub struct FrozenSegments<K, V> {
    parts: Vec<Part<K, V>>,
}

/// A segment and the hashes that belong into it.
pub struct Part<K, V> {
    pub first_hash: u64,
    pub last_hash: u64,
    pub table: Arc<Table<K, V>>,
}

impl<K: Key, V: Data> FrozenSegments<K, V> {
    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.table.len()).sum()
    }
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl<K, V> IntoIterator for FrozenSegments<K, V> {
    type Item = Part<K, V>;
    type IntoIter = std::vec::IntoIter<Part<K, V>>;
    fn into_iter(self) -> Self::IntoIter {
        self.parts.into_iter()
    }
}

#[cfg(test)]
mod tests;
