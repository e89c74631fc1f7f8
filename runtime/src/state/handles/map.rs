//! A map per key.
use super::{
    EntryError, FrozenTable, Kept, KeyRef, KeyedTable, RawEntry, RestoreShard, RestoreTarget, StateStore, either,
    kept_table,
};
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key};
use crate::state::frozen::Named;
use crate::state::key_map::KeyMap;
use crate::state::ttl::{Aging, Cutoff, StateTtl, Timed};
use std::ops::Range;
use std::sync::Arc;

/// A map per key. A key without entries takes no room.
pub struct MapState<K, MK, MV> {
    kept: Kept<K, KeyMap<MK, MV>, KeyMap<MK, Timed<MV>>, MK>,
}

fn touch<MK: Key, MV: Data>(map: &mut KeyMap<MK, Timed<MV>>, entry: MK, cutoff: Cutoff, now: i64) {
    if let Some(timed) = map.get_mut(&entry).filter(|t| !cutoff.expired(t.at)) {
        timed.at = now;
    }
}
kept_table!(MapState, [MK: Key MV: Data], touch);

impl<K: Key, MK: Key, MV: Data> MapState<K, MK, MV> {
    pub fn new(name: impl Into<String>) -> Self {
        Self { kept: Kept::Plain(Named::new(name, StateKind::Map)) }
    }
    /// A state whose maps' entries expire, each by itself.
    pub fn with_ttl(name: impl Into<String>, ttl: StateTtl) -> Self {
        Self { kept: Kept::Timed(Box::new(Aging::new(name.into(), StateKind::Map, ttl))) }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>, entry: &MK) -> Option<&MV> {
        match &self.kept {
            Kept::Plain(t) => t.table.get(key.hash, key.key)?.get(entry),
            Kept::Timed(aging) => {
                let timed = aging.named.table.get(key.hash, key.key)?.get(entry).filter(|t| !aging.hides(t.at))?;
                aging.touch(key.hash, key.key, || entry.clone(), timed.at);
                Some(&timed.value)
            }
        }
    }
    /// Counts as a write.
    pub fn get_mut(&mut self, key: &KeyRef<'_, K>, entry: &MK) -> Option<&mut MV> {
        match &mut self.kept {
            Kept::Plain(t) => t.table.get_mut(key.hash, key.key)?.get_mut(entry),
            Kept::Timed(aging) => {
                aging.named.table.get(key.hash, key.key)?.get(entry).filter(|t| !aging.hides(t.at))?;
                let timed = aging.named.table.get_mut(key.hash, key.key)?.get_mut(entry)?;
                timed.at = aging.now;
                Some(&mut timed.value)
            }
        }
    }
    pub fn get_mut_or_default(&mut self, key: &KeyRef<'_, K>, entry: &MK) -> &mut MV
    where
        MV: Default,
    {
        match &mut self.kept {
            Kept::Plain(t) => t.table.upsert(key.hash, key.key).get_mut_or_default(entry),
            Kept::Timed(aging) => {
                let (hidden, at) = (aging.hidden(), aging.now);
                let map = aging.named.table.upsert(key.hash, key.key);
                if map.get(entry).is_some_and(|t| hidden.is_some_and(|c| c.expired(t.at))) {
                    map.remove(entry);
                }
                let timed = map.get_mut_or_insert_with(entry, || Timed { at, value: MV::default() });
                timed.at = at;
                &mut timed.value
            }
        }
    }
    /// Sets an entry and returns the value before.
    pub fn put(&mut self, key: &KeyRef<'_, K>, entry: MK, value: MV) -> Option<MV> {
        match &mut self.kept {
            Kept::Plain(t) => t.table.upsert(key.hash, key.key).insert(entry, value),
            Kept::Timed(aging) => {
                let at = aging.now;
                let before = aging.named.table.upsert(key.hash, key.key).insert(entry, Timed { at, value })?;
                (!aging.hides(before.at)).then_some(before.value)
            }
        }
    }
    pub fn remove(&mut self, key: &KeyRef<'_, K>, entry: &MK) -> Option<MV> {
        match &mut self.kept {
            Kept::Plain(t) => remove(t, key, entry),
            Kept::Timed(aging) => {
                let before = remove(&mut aging.named, key, entry)?;
                (!aging.hides(before.at)).then_some(before.value)
            }
        }
    }
    /// Entries of the key in no useful order.
    pub fn iter(&self, key: &KeyRef<'_, K>) -> impl Iterator<Item = (&MK, &MV)> {
        let (plain, timed) = match &self.kept {
            Kept::Plain(t) => (t.table.get(key.hash, key.key), None),
            Kept::Timed(aging) => (None, aging.named.table.get(key.hash, key.key).map(|map| (map, aging))),
        };
        if let Some((map, aging)) = timed {
            map.iter().for_each(|(k, t)| aging.touch(key.hash, key.key, || k.clone(), t.at));
        }
        let live = timed
            .into_iter()
            .flat_map(|(map, aging)| map.iter().filter(|(_, t)| !aging.hides(t.at)).map(|(k, t)| (k, &t.value)));
        plain.into_iter().flat_map(KeyMap::iter).chain(live)
    }
    /// All keys with their maps, in no useful order. Nothing of a state whose entries expire.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&K, &KeyMap<MK, MV>)> {
        let plain = match &self.kept {
            Kept::Plain(t) => Some(&t.table),
            Kept::Timed(_) => None,
        };
        plain.into_iter().flat_map(|t| t.iter())
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        either!(mut &mut self.kept, t => t.table.discard(key.hash, key.key));
    }
}

fn remove<K: Key, MK: Key, V: Data>(t: &mut Named<K, KeyMap<MK, V>>, key: &KeyRef<'_, K>, entry: &MK) -> Option<V>
where
    KeyMap<MK, V>: Data,
{
    t.table.get(key.hash, key.key)?.get(entry)?; // absent: nothing is written
    let map = t.table.get_mut(key.hash, key.key)?;
    let removed = map.remove(entry);
    if map.is_empty() {
        t.table.remove(key.hash, key.key);
    }
    removed
}
