//! Panes whose entries a store keeps: what is loaded, what leaves, and how a pane is walked that is in part elsewhere.
//!
//! One column of the store has all panes; what it has is told by one epoch, as all tables count the same freezes. Panes of earlier
//! times leave first: windows that go on take records of the latest.
use super::{Pane, PaneState};
use crate::data::{Data, Key};
use crate::error::{Error, ErrorCode, Result};
use crate::state::backing::{Backed, SAMPLE, SHRINK_TO, entry_bytes};
use crate::state::frozen::EntryError;
use crate::state::store::{Column, FixedShare, KeyList, ObjectShare, StateStore};
use std::ops::Range;
use std::sync::Arc;

/// One pane is measured again after so many batches.
const REMEASURE: u32 = 8;
/// While entries are restored, the memory is looked at when so many have come.
const SETTLE: u32 = 1024;
/// A slice of panes has about so many entries, of each pane at least so many.
const SLICE: usize = if cfg!(test) { 8 } else { 16 << 10 };
const SLICE_LEAST: usize = if cfg!(test) { 2 } else { 64 };

/// What of a pane is not in its table.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// The store may have something of it.
    pub stored: bool,
    /// The store has entries that the table does not know.
    partial: bool,
    /// Segment that let entries go last.
    cursor: usize,
    /// Bytes of an entry in memory, and the table's length when that was measured.
    entry: usize,
    measured: usize,
}

impl Away {
    /// The table has all that there is.
    pub fn complete(&self) -> bool {
        !self.partial
    }
}

/// What panes with a store have besides their tables.
pub(super) struct PaneBacking<K> {
    store: Arc<dyn StateStore>,
    column: Arc<Column>,
    wanted: Vec<(i64, u64, K)>,
    keys: KeyList,
    share: ObjectShare,
    /// What the state's user keeps in memory besides, and its bytes.
    fixed: FixedShare,
    beside: usize,
    /// Some pane has entries that are not in memory.
    partial: bool,
    batches: u32,
    restored: u32,
    /// Removals up to this epoch are forgotten.
    settled: u32,
}

impl<K> PaneBacking<K> {
    /// What was written up to this epoch is in the store.
    pub fn flushed(&self) -> u32 {
        self.column.flushed()
    }
}

/// What is wrong with an entry of the store.
fn damaged(state: &str, what: impl std::fmt::Display) -> Error {
    let m = format!(
        "state {state:?}: an entry of its store cannot be decoded ({what}); the disk may be damaged: restart the taskmanager elsewhere"
    );
    Error::external(ErrorCode::Storage, m)
}

fn decode<T: Data>(state: &str, mut bytes: &[u8]) -> Result<T> {
    match T::decode(&mut bytes) {
        Ok(value) if bytes.is_empty() => Ok(value),
        Ok(_) => Err(damaged(state, "bytes are left over")),
        Err(e) => Err(damaged(state, e)),
    }
}

impl<K: Key, V: Data> Pane<K, V> {
    /// About so many bytes does it take in memory.
    fn bytes(&self) -> usize {
        (self.table.len() + self.table.removals_at_most()) * self.away.entry
    }
}

impl<K: Key, V: Data> PaneState<K, V> {
    /// Makes the tables caches in front of a store; `empty`: the store has nothing of them.
    pub(super) fn attach_store(&mut self, store: &Arc<dyn StateStore>, empty: bool) -> Result<()> {
        let column = store.column(&self.descriptor, None)?;
        // entries of epoch 0 are those that the store has from the beginning
        self.history.epoch = self.history.epoch.max(1);
        let namespaces = if empty { Vec::new() } else { store.namespaces(&column)? };
        self.panes.clear();
        self.spare.clear();
        self.backing = Some(Box::new(PaneBacking {
            store: store.clone(),
            column,
            wanted: Vec::new(),
            keys: KeyList::default(),
            share: store.memory().share(),
            fixed: FixedShare::new(&**store, format!("the times at which {:?} are looked at", self.descriptor.name)),
            beside: 0,
            partial: !empty,
            batches: 0,
            restored: 0,
            settled: 0,
        }));
        for namespace in namespaces {
            let pane = self.open(namespace);
            let away = &mut self.panes[pane].away;
            (away.stored, away.partial) = (true, true);
        }
        Ok(())
    }

    /// For a freeze of this epoch, after which the store may have something of all panes.
    pub(super) fn freezes_backed(&mut self) -> Option<Backed> {
        let b = self.backing.as_ref()?;
        self.panes.iter_mut().for_each(|p| p.away.stored = true);
        let (store, column) = (b.store.clone(), b.column.clone());
        Some(Backed { ticket: store.turns().ticket(), store, column, epoch: self.history.epoch })
    }

    /// A store keeps the entries.
    pub fn is_stored(&self) -> bool {
        self.backing.is_some()
    }

    /// Its user keeps so many bytes in memory, which no store takes.
    pub fn beside(&mut self, bytes: usize) {
        if let Some(b) = &mut self.backing {
            b.beside = bytes;
        }
    }

    /// Some pane has entries that are not in memory: keys must be asked for before they are used.
    pub fn is_partial(&self) -> bool {
        self.backing.as_ref().is_some_and(|b| b.partial)
    }

    /// The key of a pane will be used; [`Self::load_wanted`] brings it into memory.
    #[inline]
    pub fn want(&mut self, pane: usize, hash: u64, key: &K) {
        let p = &self.panes[pane];
        if p.away.partial
            && !p.table.knows(hash, key)
            && let Some(b) = &mut self.backing
        {
            b.wanted.push((p.namespace, hash, key.clone()));
        }
    }

    /// Reads what is wanted, in one go.
    pub fn load_wanted(&mut self) -> Result<()> {
        let Self { descriptor, panes, backing, .. } = self;
        let Some(b) = backing.as_mut().filter(|b| !b.wanted.is_empty()) else { return Ok(()) };
        let mut wanted = std::mem::take(&mut b.wanted);
        wanted.sort_unstable_by_key(|w| (w.0, w.1));
        wanted.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1 && a.2 == b.2);
        b.keys.clear();
        for (namespace, hash, key) in &wanted {
            b.keys.push(|out| b.column.pane_key(*namespace, *hash, |out| key.encode(out), out));
        }
        let flushed = b.column.flushed();
        b.store.read(&b.keys, &mut |at, bytes| {
            let Some((namespace, hash, key)) = wanted.get(at) else { return Ok(()) };
            let Ok(pane) = panes.binary_search_by_key(namespace, |p| p.namespace) else { return Ok(()) };
            let table = &mut panes[pane].table;
            if !table.knows(*hash, key) {
                table.load(*hash, key.clone(), decode(&descriptor.name, bytes)?, flushed);
            }
            Ok(())
        })?;
        wanted.clear();
        b.wanted = wanted;
        Ok(())
    }

    /// Calls `entry` with all entries of a pane, wherever they are, in no useful order.
    pub fn visit(&self, pane: usize, mut entry: impl FnMut(&K, &V)) -> Result<()> {
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.slice(pane..pane + 1, at, &mut entry)?;
        }
        Ok(())
    }

    /// Calls `entry` with the entries of these panes, wherever they are, whose hash lies in a slice that begins here: with as
    /// many as are good to have in memory. Returns where the next slice begins; none: there is no more. Of a pane no key comes
    /// twice; those of a pane come before those of the next.
    pub fn slice(&self, panes: Range<usize>, from: u64, entry: &mut impl FnMut(&K, &V)) -> Result<Option<u64>> {
        let panes = &self.panes[panes];
        let Some(b) = self.backing.as_ref().filter(|_| panes.iter().any(|p| p.away.partial)) else {
            panes.iter().for_each(|p| p.table.iter().for_each(|(k, v)| entry(k, v)));
            return Ok(None);
        };
        let most = (SLICE / panes.len().max(1)).max(SLICE_LEAST);
        let mut end = panes.iter().filter_map(|p| p.table.reach(from, most)).min();
        let mut found = Vec::new();
        for (pane, p) in panes.iter().enumerate().filter(|(_, p)| p.away.partial) {
            let (mut n, mut last) = (0, from);
            b.store.pane(&b.column, p.namespace, from, &mut |hash, mut key, value| {
                if end.is_some_and(|end| hash >= end) {
                    return Ok(false);
                }
                if n >= most && hash != last {
                    end = Some(hash);
                    return Ok(false);
                }
                (n, last) = (n + 1, hash);
                let k = K::decode(&mut key).map_err(|e| damaged(&self.descriptor.name, e))?;
                if p.table.knows(hash, &k) {
                    return Ok(true);
                }
                let v = decode(&self.descriptor.name, value)?;
                if panes.len() == 1 {
                    entry(&k, &v);
                } else {
                    found.push((pane, hash, k, v));
                }
                Ok(true)
            })?;
        }
        let mut found = found.iter().filter(|f| end.is_none_or(|end| f.1 < end)).peekable();
        for (pane, p) in panes.iter().enumerate() {
            while let Some((_, _, k, v)) = found.next_if(|f| f.0 == pane) {
                entry(k, v);
            }
            p.table.between(from, end).for_each(|(_, k, v)| entry(k, v));
        }
        Ok(end)
    }

    /// After an entry was restored.
    pub(super) fn restoring_backed(&mut self) -> Result<(), EntryError> {
        let Some(b) = &mut self.backing else { return Ok(()) };
        b.restored = b.restored.wrapping_add(1);
        match b.restored.is_multiple_of(SETTLE) {
            true => self.settle_backed().map_err(|e| EntryError::Store(e.message)),
            false => Ok(()),
        }
    }

    /// Between batches: keeps the memory that the tables take within its bounds.
    pub(super) fn settle_backed(&mut self) -> Result<()> {
        let Self { panes, backing: Some(b), .. } = self else { return Ok(()) };
        b.fixed.set(b.beside)?;
        b.batches = b.batches.wrapping_add(1);
        let again = match panes.len() {
            0 => None,
            n => b.batches.is_multiple_of(REMEASURE).then_some((b.batches / REMEASURE) as usize % n),
        };
        for (at, p) in panes.iter_mut().enumerate() {
            if p.away.entry == 0 || p.table.len() > 2 * p.away.measured + SAMPLE || again == Some(at) {
                p.away.measured = p.table.len();
                p.away.entry = entry_bytes(&p.table, b.batches as usize);
            }
        }
        let flushed = b.column.flushed();
        if flushed > b.settled {
            b.settled = flushed;
            panes.iter_mut().for_each(|p| p.table.settled(flushed));
        }
        b.partial = panes.iter().any(|p| p.away.partial);
        match b.share.set(panes.iter().map(Pane::bytes).sum()) {
            Some(limit) => self.shrink(limit),
            None => Ok(()),
        }
    }

    fn bytes(&self) -> usize {
        self.panes.iter().map(Pane::bytes).sum()
    }

    #[cold]
    fn shrink(&mut self, limit: usize) -> Result<()> {
        let Some(b) = &self.backing else { return Ok(()) };
        let store = b.store.clone();
        let target = limit / 100 * SHRINK_TO;
        let flushed = b.column.flushed();
        self.panes.iter_mut().for_each(|p| p.table.forget_settled(flushed));
        let before = self.bytes();
        self.evict(target);
        // a snapshot on its way to the store may have a little more room, so that the task need not wait for it
        let later = !store.turns().is_idle() && before < 2 * limit;
        if self.bytes() > target && !later {
            use crate::state::KeyedTable;
            let frozen = self.freeze();
            store.flush(vec![frozen])?;
            if let Some(b) = &self.backing {
                let flushed = b.column.flushed();
                self.panes.iter_mut().for_each(|p| p.table.forget_settled(flushed));
            }
            self.evict(target);
        }
        let bytes = self.bytes();
        if let Some(b) = &mut self.backing {
            b.partial = self.panes.iter().any(|p| p.away.partial);
            b.share.set(bytes);
        }
        Ok(())
    }

    /// Lets go of what the store has, down to so many bytes: first what was not used since the store was told last.
    fn evict(&mut self, target: usize) {
        let Some(b) = &self.backing else { return };
        let flushed = b.column.flushed();
        let mut bytes = self.bytes();
        for older in [flushed.saturating_sub(1), flushed] {
            for p in &mut self.panes {
                if bytes <= target {
                    return;
                }
                let before = p.table.len();
                let keep = before.saturating_sub((bytes - target).div_ceil(p.away.entry.max(1)));
                p.table.evict(older, flushed, keep, &mut p.away.cursor);
                p.away.partial |= p.table.len() < before;
                bytes -= (before - p.table.len()) * p.away.entry;
            }
        }
    }

    pub(super) fn clear_store(&mut self) {
        if let Some(b) = &mut self.backing
            && let Err(error) = b.store.clear(&b.column)
        {
            tracing::error!(state = self.descriptor.name, %error, "the store's entries could not be removed");
        }
    }
}
