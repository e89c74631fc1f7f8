//! One value per key.
use super::{
    EntryError, FrozenTable, Kept, KeyRef, KeyedTable, RawEntry, RestoreShard, RestoreTarget, StateStore, either,
    kept_table,
};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key};
use crate::state::frozen::Named;
use crate::state::table::Single;
use crate::state::ttl::{Aging, Cutoff, StateTtl, Timed};
use std::ops::Range;
use std::sync::Arc;

/// One value per key.
pub struct ValueState<K, V> {
    kept: Kept<K, V, Timed<V>, ()>,
}

fn touch<V>(timed: &mut Timed<V>, (): (), cutoff: Cutoff, now: i64) {
    if !cutoff.expired(timed.at) {
        timed.at = now;
    }
}
kept_table!(ValueState, [V: Data], touch);

impl<K: Key, V: Data> ValueState<K, V> {
    pub fn new(name: impl Into<String>) -> Self {
        Self { kept: Kept::Plain(Named::new(name, StateKind::Value)) }
    }
    /// A state whose values expire.
    pub fn with_ttl(name: impl Into<String>, ttl: StateTtl) -> Self {
        Self { kept: Kept::Timed(Box::new(Aging::new(name.into(), StateKind::Value, ttl))) }
    }
    /// The state during a batch of so many records, where it is so small that a simpler way leads to all of its values.
    pub(crate) fn single(&mut self, records: usize) -> Option<Single<'_, K, V>> {
        match &mut self.kept {
            Kept::Plain(t) => t.table.single(records),
            Kept::Timed(_) => None,
        }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>) -> Option<&V> {
        match &self.kept {
            Kept::Plain(t) => t.table.get(key.hash, key.key),
            Kept::Timed(aging) => {
                let timed = aging.named.table.get(key.hash, key.key).filter(|t| !aging.hides(t.at))?;
                aging.touch(key.hash, key.key, || (), timed.at);
                Some(&timed.value)
            }
        }
    }
    /// Counts as a write.
    #[inline]
    pub fn get_mut(&mut self, key: &KeyRef<'_, K>) -> Option<&mut V> {
        match &mut self.kept {
            Kept::Plain(t) => t.table.get_mut(key.hash, key.key),
            Kept::Timed(aging) => {
                aging.named.table.get(key.hash, key.key).filter(|t| !aging.hides(t.at))?;
                let timed = aging.named.table.get_mut(key.hash, key.key)?;
                timed.at = aging.now;
                Some(&mut timed.value)
            }
        }
    }
    /// The value, which is first set to its default if there is none.
    #[inline]
    pub fn get_mut_or_default(&mut self, key: &KeyRef<'_, K>) -> &mut V
    where
        V: Default,
    {
        self.get_mut_or_insert_with(key, V::default)
    }
    #[inline]
    pub fn get_mut_or_insert_with(&mut self, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V {
        match &mut self.kept {
            Kept::Plain(t) => t.table.upsert_with(key.hash, key.key, new),
            Kept::Timed(aging) => {
                if aging.named.table.get(key.hash, key.key).is_some_and(|t| aging.hides(t.at)) {
                    aging.named.table.remove(key.hash, key.key);
                }
                let now = aging.now;
                let new = || Timed { at: now, value: new() };
                let timed = aging.named.table.upsert_with(key.hash, key.key, new);
                timed.at = now;
                &mut timed.value
            }
        }
    }
    /// Sets the value.
    #[inline]
    pub fn update(&mut self, key: &KeyRef<'_, K>, value: V) {
        match &mut self.kept {
            Kept::Plain(t) => _ = t.table.insert(key.hash, key.key, value),
            Kept::Timed(aging) => {
                let at = aging.now;
                aging.named.table.insert(key.hash, key.key, Timed { at, value });
            }
        }
    }
    /// Removes the value and returns it.
    pub fn take(&mut self, key: &KeyRef<'_, K>) -> Option<V> {
        match &mut self.kept {
            Kept::Plain(t) => t.table.remove(key.hash, key.key),
            Kept::Timed(aging) => {
                let timed = aging.named.table.remove(key.hash, key.key)?;
                (!aging.hides(timed.at)).then_some(timed.value)
            }
        }
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        self.take(key);
    }
}
