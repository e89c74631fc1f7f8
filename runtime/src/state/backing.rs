//! A table whose entries a store keeps: what it loads, when it lets entries go.
use super::frozen::Named;
use super::store::{Column, Expired, KeyList, ObjectShare, StateStore, Ticket};
use crate::data::{Data, Key};
use crate::error::{Error, ErrorCode, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Entries that are encoded to know how large one is, and after how many batches that is done again.
pub(super) const SAMPLE: usize = 64;
const REMEASURE: u32 = 1024;
/// A table that must shrink goes down to this share of what it may take, in percent.
pub(super) const SHRINK_TO: usize = 75;

/// What a table with a store has besides its entries.
pub(super) struct Backing<K> {
    pub store: Arc<dyn StateStore>,
    pub column: Arc<Column>,
    /// The table has all that the store has: nobody need be asked.
    complete: bool,
    wanted: Vec<(u64, K)>,
    keys: KeyList,
    share: ObjectShare,
    /// Segment that let entries go last.
    cursor: usize,
    /// Bytes of an entry in memory, and when that was measured.
    entry: usize,
    measured: usize,
    batches: u32,
    /// Removals up to this epoch are forgotten.
    settled: u32,
}

/// What a frozen table needs to bring its changes into the store.
pub struct Backed {
    pub store: Arc<dyn StateStore>,
    pub column: Arc<Column>,
    pub ticket: Ticket,
    /// The epoch that was frozen.
    pub epoch: u32,
}

impl<K> Backing<K> {
    /// For a freeze of this epoch.
    pub fn frozen(&self, epoch: u32) -> Backed {
        let (store, column) = (self.store.clone(), self.column.clone());
        Backed { ticket: store.turns().ticket(), store, column, epoch }
    }
}

impl<K: Key, V: Data> Named<K, V> {
    /// Makes the (empty) table the cache in front of a store; `empty`: the store has nothing of it.
    pub fn attach(&mut self, store: &Arc<dyn StateStore>, empty: bool, expired: Option<Arc<Expired>>) -> Result<()> {
        let column = store.column(&self.descriptor, expired)?;
        self.table.into_cache();
        self.backing = Some(Box::new(Backing {
            store: store.clone(),
            column,
            complete: empty,
            wanted: Vec::new(),
            keys: KeyList::default(),
            share: store.memory().share(),
            cursor: 0,
            entry: size_of::<(K, V, u32)>(),
            measured: 0,
            batches: 0,
            settled: 0,
        }));
        Ok(())
    }

    /// The key will be used: [`Self::load`] brings it into the table.
    #[inline]
    pub fn want(&mut self, hash: u64, key: &K) {
        if let Some(b) = &mut self.backing
            && !b.complete
            && !self.table.knows(hash, key)
        {
            b.wanted.push((hash, key.clone()));
        }
    }

    /// Reads what is wanted, in one go.
    pub fn load(&mut self) -> Result<()> {
        let Self { descriptor, table, backing } = self;
        let Some(b) = backing.as_mut().filter(|b| !b.wanted.is_empty()) else { return Ok(()) };
        let mut wanted = std::mem::take(&mut b.wanted);
        wanted.sort_unstable_by_key(|w| w.0);
        wanted.dedup_by(|a, b| a.0 == b.0 && a.1 == b.1);
        b.keys.clear();
        for (hash, key) in &wanted {
            b.keys.push(|out| b.column.key(*hash, |out| key.encode(out), out));
        }
        let flushed = b.column.flushed();
        b.store.read(&b.keys, &mut |at, mut bytes| {
            let Some((hash, key)) = wanted.get(at) else { return Ok(()) };
            if b.column.is_expired(bytes) || table.knows(*hash, key) {
                return Ok(());
            }
            match V::decode(&mut bytes) {
                Ok(value) if bytes.is_empty() => table.load(*hash, key.clone(), value, flushed),
                other => {
                    let what = other.err().map_or("bytes are left over".into(), |e| e.to_string());
                    let m = format!(
                        "state {:?}: an entry of its store cannot be decoded ({what}); the disk may be damaged: restart the taskmanager elsewhere",
                        descriptor.name
                    );
                    return Err(Error::external(ErrorCode::Storage, m));
                }
            }
            Ok(())
        })?;
        wanted.clear();
        b.wanted = wanted;
        Ok(())
    }

    /// Between batches: keeps the memory that the table takes within its bounds.
    #[inline]
    pub fn settle(&mut self) -> Result<()> {
        match self.backing {
            Some(_) => self.settle_backed(),
            None => Ok(()),
        }
    }

    fn settle_backed(&mut self) -> Result<()> {
        let Self { table, backing: Some(b), .. } = self else { return Ok(()) };
        let len = table.len();
        b.batches = b.batches.wrapping_add(1);
        if len > 2 * b.measured + SAMPLE || b.batches.is_multiple_of(REMEASURE) {
            b.measured = len;
            b.entry = entry_bytes(table, b.batches as usize);
        }
        let flushed = b.column.flushed();
        if flushed > b.settled {
            b.settled = flushed;
            table.settled(flushed);
        }
        match b.share.set((len + table.removals_at_most()) * b.entry) {
            Some(limit) => self.shrink(limit),
            None => Ok(()),
        }
    }

    #[cold]
    fn shrink(&mut self, limit: usize) -> Result<()> {
        let Self { table, backing: Some(b), .. } = self else { return Ok(()) };
        let target = limit / 100 * SHRINK_TO / b.entry.max(1);
        let flushed = b.column.flushed();
        table.forget_settled(flushed);
        let taken = table.len() + table.removals_at_most();
        let before = table.len();
        // what was not used since the store was told last, then whatever the store has
        table.evict(flushed.saturating_sub(1), flushed, target, &mut b.cursor);
        table.evict(flushed, flushed, target, &mut b.cursor);
        b.complete &= table.len() == before;
        // a snapshot on its way to the store may have a little more room, so that the task need not wait for it
        let later = !b.store.turns().is_idle() && taken * b.entry < 2 * limit;
        if table.len() + table.removals_at_most() > target && !later {
            let store = b.store.clone();
            let frozen = self.freeze();
            store.flush(vec![frozen])?;
            let Self { table, backing: Some(b), .. } = self else { return Ok(()) };
            let flushed = b.column.flushed();
            table.forget_settled(flushed);
            let before = table.len();
            table.evict(flushed.saturating_sub(1), flushed, target, &mut b.cursor);
            table.evict(flushed, flushed, target, &mut b.cursor);
            b.complete &= table.len() == before;
        }
        if let Some(b) = &mut self.backing {
            b.share.set((self.table.len() + self.table.removals_at_most()) * b.entry);
        }
        Ok(())
    }

    /// Removes everything, also from the store.
    pub fn clear(&mut self) {
        self.table.clear();
        if let Some(b) = &mut self.backing
            && let Err(error) = b.store.clear(&b.column)
        {
            // nothing that was removed may come back
            b.complete = true;
            tracing::error!(state = self.descriptor.name, %error, "the store's entries could not be removed");
        }
    }

    /// What was written up to this time (ms since the Unix epoch) has expired.
    pub fn set_cutoff(&self, cutoff: i64) {
        if let Some(b) = &self.backing {
            b.column.cutoff.store(cutoff, Ordering::Relaxed);
        }
    }
}

/// About so many bytes does an entry take in memory.
pub(super) fn entry_bytes<K: Key, V: Data>(table: &super::table::SegmentedTable<K, V>, from: usize) -> usize {
    // two thirds of the buckets are in use, on average
    let slot = (size_of::<(K, V, u32)>() + 1) * 3 / 2;
    if !std::mem::needs_drop::<(K, V)>() {
        return slot;
    }
    let (mut bytes, mut entries) = (Vec::new(), 0);
    for (k, v) in table.sample(from, SAMPLE) {
        k.encode(&mut bytes);
        v.encode(&mut bytes);
        entries += 1;
    }
    // what is encoded lies on the heap, with the allocator's own share
    slot + bytes.len() * 5 / 4 / entries.max(1) + 16
}
