//! A segment: the layer that is written to, and what lies frozen under it after a barrier.
use super::layer::{Layer, Layers, Slot, Table, Written, live, with_room};
use crate::data::{Data, Key};
use std::sync::Arc;

/// A snapshot that is never let go of and a barrier each second would pile up layers: at so many they are copied together.
const MOST_LAYERS: usize = 6;

pub(super) struct Segment<K, V> {
    /// All entries; while something lies under it, those that were written since.
    pub top: Layer<K, V>,
    /// Writes need no preparation while `top` has fewer entries than this; 0 while something lies under it.
    pub limit: usize,
    /// Number of top bits of the hash that all entries agree in.
    pub depth: u32,
    pub split_at: usize,
    pub under: Option<Layers<K, V>>,
}

impl<K: Key, V: Data> Segment<K, V> {
    /// `table` holds nothing that was written after the epoch `written` tells from.
    pub fn new(table: Table<K, V>, newest: u32, written: Written, depth: u32, split_at: usize) -> Self {
        Self { top: Layer::of(table, newest, written), limit: split_at, depth, split_at, under: None }
    }

    /// Without entries, in a table that was never frozen.
    pub fn with_room(table: Table<K, V>, depth: u32, split_at: usize) -> Self {
        Self::new(table, 0, Written::since(0, split_at), depth, split_at)
    }

    /// Removes everything and keeps the room.
    pub fn empty(&mut self, epoch: u32) {
        if let Some(under) = self.under.take() {
            self.top = match Arc::try_unwrap(under.bottom) {
                Ok(layer) => layer,
                Err(shared) => Layer { table: with_room(shared.table.len()), ..Layer::default() },
            };
        }
        self.top.written = Written::since(epoch, self.split_at);
        self.top.table.clear();
        self.top.removed = None;
        self.top.newest = epoch;
        self.limit = self.split_at;
    }

    /// Newest first.
    pub fn layers(&self) -> impl Iterator<Item = &Layer<K, V>> + Clone {
        [&self.top].into_iter().chain(self.under.iter().flat_map(Layers::iter))
    }

    #[inline]
    pub fn find(&self, hash: u64, key: &K) -> Option<&Slot<K, V>> {
        match (self.top.find(hash, key), &self.under) {
            (None, Some(under)) if !self.top.has_removed(hash, key) => under.find(hash, key),
            (found, _) => found,
        }
    }

    pub fn slots(&self) -> impl Iterator<Item = &Slot<K, V>> {
        live(self.layers(), None)
    }

    /// Removed keys that are remembered.
    pub fn removals(&self) -> usize {
        self.layers().map(Layer::removals).sum()
    }

    /// Entries and removals to move when the layers become one.
    pub fn merge_cost(&self) -> usize {
        let under = self.under.as_ref().map_or(0, Layers::upper_len);
        if under == 0 && self.top.is_empty() { 0 } else { under + self.top.table.len() + self.top.removals() }
    }

    /// Makes one layer of all, without removals up to epoch `forget`; copies those that a snapshot still reads.
    pub fn merge(&mut self, forget: u32) {
        if let Some(under) = self.under.take() {
            let mut all = under.merged();
            all.absorb(std::mem::take(&mut self.top));
            all.forget_removed(forget);
            self.top = all;
            self.limit = self.split_at;
        }
    }

    /// Brings the entry of `key` up to where it may be written, if there is one.
    pub fn lift(&mut self, hash: u64, key: &K) {
        if self.top.covers(hash, key) {
            return;
        }
        if let Some(slot) = self.under.as_ref().and_then(|u| u.find(hash, key)) {
            self.top.table.insert_unique(super::spin(hash), slot.clone(), |s| super::spin(s.key.key_hash()));
        }
    }

    /// Freezes what is there; none if there is nothing. Later writes are of epoch `next` or a later one.
    /// Removals up to epoch `forget` may be forgotten.
    pub fn share(&mut self, next: u32, forget: u32) -> Option<Layers<K, V>> {
        if self.top.is_empty() {
            if self.under.is_none() {
                self.top.newest = next;
            }
            return self.under.clone();
        }
        if self.under.as_ref().is_some_and(|u| u.upper.len() >= MOST_LAYERS) {
            self.merge(forget);
        }
        self.limit = 0;
        let mut frozen = std::mem::take(&mut self.top);
        frozen.written.frozen_at(next - 1, self.split_at);
        match &mut self.under {
            Some(under) => under.upper.push(Arc::new(frozen)),
            None => self.under = Some(Layers::new(frozen)),
        }
        self.under.clone()
    }
}
