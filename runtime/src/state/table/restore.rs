//! Filling a table from snapshots on several threads: a table for each stretch of the hashes, which together become one.
use super::SegmentedTable;
use super::layer::{Table, with_room};
use super::segment::Segment;
use crate::data::{Data, Key};
use crate::graph::key_group;
use std::ops::Range;

/// A table for the hashes that begin with the same bits.
pub struct Shard<K, V> {
    table: SegmentedTable<K, V>,
    prefix: u64,
    bits: u32,
}

/// Segments are made for this share of the entries at which they would split, so that hardly one has to.
const FILL: f64 = 0.75;

impl<K: Key, V: Data> Shard<K, V> {
    /// Makes room for so many entries.
    pub fn reserve(&mut self, entries: u64) {
        let most = self.table.split_at as f64 * FILL;
        let mut depth = self.bits;
        while depth < super::MAX_DEPTH && entries as f64 > most * (1u64 << (depth - self.bits)) as f64 {
            depth += 1;
        }
        let (table, prefix) = (&mut self.table, self.prefix);
        // the first segment stands for what other shards have
        table.segments.truncate(1);
        table.depth = depth;
        table.directory = vec![0; 1 << depth];
        let first = (prefix << (depth - self.bits)) as usize;
        for slot in first..first + (1 << (depth - self.bits)) {
            table.directory[slot] = table.segments.len() as u32;
            let room = with_room(if entries == 0 { 0 } else { table.split_at });
            table.segments.push(Segment::with_room(room, depth, table.split_at));
        }
    }

    /// The bits that its hashes begin with, and how many they are.
    pub fn prefix(&self) -> (u64, u32) {
        (self.prefix, self.bits)
    }
    pub fn len(&self) -> usize {
        self.table.len()
    }
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
    pub fn table(&mut self) -> &mut SegmentedTable<K, V> {
        &mut self.table
    }
    /// Key groups that have hashes of it.
    pub fn key_groups(&self, max_parallelism: u32) -> Range<u32> {
        let first = self.prefix << 1 << (63 - self.bits);
        let last = first | u64::MAX.checked_shr(self.bits).unwrap_or(0);
        key_group(first, max_parallelism)..key_group(last, max_parallelism) + 1
    }
}

impl<K: Key, V: Data> SegmentedTable<K, V> {
    /// Empty shards for all hashes of these key groups, at least so many if the groups are that many.
    pub fn shards(&self, groups: &Range<u32>, max_parallelism: u32, least: usize) -> Vec<Shard<K, V>> {
        let share = f64::from(groups.end.saturating_sub(groups.start).max(1)) / f64::from(max_parallelism.max(1));
        let bits = (least as f64 / share).log2().ceil().clamp(0.0, 12.0) as u32;
        let shard = |prefix| {
            let mut shard = Shard { table: Self::with_split_at(self.split_at), prefix, bits };
            shard.reserve(0);
            shard
        };
        let all = (0..1u64 << bits).map(shard);
        let mine = |s: &Shard<K, V>| {
            let g = s.key_groups(max_parallelism);
            g.start < groups.end && groups.start < g.end
        };
        all.filter(mine).collect()
    }

    /// Takes over the entries of [`Self::shards`], all of them. The table must be empty.
    pub fn adopt(&mut self, shards: Vec<Shard<K, V>>) {
        let (Some(bits), Some(depth)) = (shards.first().map(|s| s.bits), shards.iter().map(|s| s.table.depth).max())
        else {
            return;
        };
        let mut segments = Vec::new();
        let mut directory = Vec::with_capacity(1 << depth);
        let mut shards = shards.into_iter().peekable();
        for prefix in 0..1u64 << bits {
            let base = segments.len() as u32;
            let Some(shard) = shards.next_if(|s| s.prefix == prefix) else {
                // nobody's key groups, or another subtask's
                segments.push(Segment::with_room(Table::default(), bits, self.split_at));
                directory.resize(directory.len() + (1 << (depth - bits)), base);
                continue;
            };
            let mut table = shard.table;
            let slots = 1usize << (table.depth - bits);
            let first = prefix as usize * slots;
            table.segments.swap_remove(0);
            let moved = table.segments.len() as u32;
            for &at in &table.directory[first..first + slots] {
                let at = base + if at == moved { 0 } else { at };
                directory.resize(directory.len() + (1 << (depth - table.depth)), at);
            }
            segments.append(&mut table.segments);
            self.len += table.len;
        }
        (self.depth, self.directory, self.segments) = (depth, directory, segments);
    }
}
