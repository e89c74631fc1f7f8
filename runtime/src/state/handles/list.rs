//! A list per key.
use super::{
    EntryError, FrozenTable, Kept, KeyRef, KeyedTable, RawEntry, RestoreShard, RestoreTarget, StateStore, either,
    kept_table,
};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key};
use crate::state::frozen::Named;
use crate::state::ttl::{Aged, Aging, Cutoff, StateTtl, TimedList};
use std::ops::Range;
use std::sync::Arc;

/// A list per key, in the order of adding. A key without elements takes no room.
pub struct ListState<K, T> {
    kept: Kept<K, Vec<T>, TimedList<T>, ()>,
}

fn touch<T>(list: &mut TimedList<T>, (): (), cutoff: Cutoff, now: i64) {
    list.touch(cutoff, now);
}
kept_table!(ListState, [T: Data], touch);

impl<K: Key, T: Data> ListState<K, T> {
    pub fn new(name: impl Into<String>) -> Self {
        Self { kept: Kept::Plain(Named::new(name, StateKind::List)) }
    }
    /// A state whose lists' elements expire, each by itself.
    pub fn with_ttl(name: impl Into<String>, ttl: StateTtl) -> Self {
        Self { kept: Kept::Timed(Box::new(Aging::new(name.into(), StateKind::List, ttl))) }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>) -> &[T] {
        match &self.kept {
            Kept::Plain(t) => t.table.get(key.hash, key.key).map_or(&[], Vec::as_slice),
            Kept::Timed(aging) => {
                let Some(list) = aging.named.table.get(key.hash, key.key) else { return &[] };
                if let Some(oldest) = list.oldest() {
                    aging.touch(key.hash, key.key, || (), oldest);
                }
                list.live(aging.hidden())
            }
        }
    }
    #[inline]
    pub fn add(&mut self, key: &KeyRef<'_, K>, element: T) {
        match &mut self.kept {
            Kept::Plain(t) => t.table.upsert(key.hash, key.key).push(element),
            Kept::Timed(aging) => {
                let (cutoff, now) = (aging.cutoff(), aging.now);
                let list = aging.named.table.upsert(key.hash, key.key);
                list.trim(cutoff);
                list.push(element, now);
            }
        }
    }
    pub fn add_all(&mut self, key: &KeyRef<'_, K>, elements: impl IntoIterator<Item = T>) {
        elements.into_iter().for_each(|e| self.add(key, e));
    }
    /// Replaces the list.
    pub fn update(&mut self, key: &KeyRef<'_, K>, elements: Vec<T>) {
        if elements.is_empty() {
            return self.clear(key);
        }
        match &mut self.kept {
            Kept::Plain(t) => _ = t.table.insert(key.hash, key.key, elements),
            Kept::Timed(aging) => {
                let list = TimedList::of(elements, aging.now);
                aging.named.table.insert(key.hash, key.key, list);
            }
        }
    }
    /// Removes the list and returns it.
    pub fn take(&mut self, key: &KeyRef<'_, K>) -> Vec<T> {
        match &mut self.kept {
            Kept::Plain(t) => t.table.remove(key.hash, key.key).unwrap_or_default(),
            Kept::Timed(aging) => {
                let list = aging.named.table.remove(key.hash, key.key).unwrap_or_default();
                list.into_live(aging.hidden())
            }
        }
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        either!(mut &mut self.kept, t => t.table.discard(key.hash, key.key));
    }
}
