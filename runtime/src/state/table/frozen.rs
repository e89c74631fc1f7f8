//! A table as it was at a barrier: what a snapshot reads, segment by segment, on as many threads as it likes.
use super::layer::{Layers, Slot, live};
use crate::data::{Data, Key};
use crate::error::Result;
use crate::graph::key_group;
use crate::state::file::BlockWriter;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// Which changes a frozen table can tell.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Number of freezes before this one: it holds what was written in this epoch and before.
    pub epoch: u32,
    /// Changes since the freeze of this epoch, or of a later one, can be told.
    pub complete_since: u32,
    /// To be raised by the one who writes snapshots to the oldest epoch since which it may still want changes, so that
    /// older removals can be forgotten.
    pub floor: Arc<AtomicU32>,
}

/// Entries that are brought near before they are encoded.
const NEAR: usize = 32;

/// The segments of a table at one moment, in the order of the hash.
pub struct FrozenSegments<K, V> {
    parts: VecDeque<Part<K, V>>,
    len: usize,
    history: History,
    keep: Option<Keep<V>>,
}

/// Which values a snapshot keeps.
pub(super) type Keep<V> = Arc<dyn Fn(&V) -> bool + Send + Sync>;

/// A segment and the hashes that belong into it.
pub(super) struct Part<K, V> {
    pub first_hash: u64,
    pub last_hash: u64,
    pub layers: Layers<K, V>,
}

impl<K: Key, V: Data> FrozenSegments<K, V> {
    pub(super) fn new(parts: Vec<Part<K, V>>, len: usize, history: History) -> Self {
        Self { parts: parts.into(), len, history, keep: None }
    }
    /// Leaves out what is not such. [`Self::len`] counts it still.
    #[must_use]
    pub fn only(self, keep: Keep<V>) -> Self {
        Self { keep: Some(keep), ..self }
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn history(&self) -> &History {
        &self.history
    }
    /// Takes the next segments off, with at least so many entries if there are that many.
    pub fn take(&mut self, entries: usize) -> Option<Self> {
        let mut parts = VecDeque::new();
        let mut n = 0;
        while n < entries
            && let Some(part) = self.parts.pop_front()
        {
            n += part.layers.bottom.table.len();
            parts.push_back(part);
        }
        (!parts.is_empty()).then(|| Self { parts, len: n, history: self.history.clone(), keep: self.keep.clone() })
    }
    pub(super) fn keep(&self) -> Option<Keep<V>> {
        self.keep.clone()
    }
    pub(super) fn into_parts(self) -> VecDeque<Part<K, V>> {
        self.parts
    }
    #[cfg(test)]
    pub(super) fn parts(&self) -> impl Iterator<Item = &Part<K, V>> {
        self.parts.iter()
    }

    /// Visits all entries in order of key group, and lets go of each segment as soon as it was visited.
    pub fn for_each(self, max_parallelism: u32, visit: &mut dyn FnMut(u32, &K, &V) -> Result<()>) -> Result<()> {
        self.parts.into_iter().try_for_each(|p| {
            p.for_each(max_parallelism, None, self.keep.as_ref(), &mut |g, s| visit(g, &s.key, &s.value))
        })
    }

    /// Visits all entries, or those written after the freeze of epoch `since` and the keys removed after it (without a value).
    /// Lets go of each segment as soon as it was visited.
    pub fn for_each_change(
        self,
        max_parallelism: u32,
        since: Option<u32>,
        visit: &mut dyn FnMut(u32, &K, Option<&V>) -> Result<()>,
    ) -> Result<()> {
        self.parts.into_iter().try_for_each(|p| {
            let keep = self.keep.as_ref();
            p.for_each(max_parallelism, since, keep, &mut |g, s| visit(g, &s.key, Some(&s.value)))?;
            let mut gone = since.into_iter().flat_map(|since| p.gone(since, keep));
            gone.try_for_each(|key| visit(key_group(key.key_hash(), max_parallelism), key, None))
        })
    }

    /// Writes all entries, or those written after the freeze of epoch `since` and the keys removed after it. Lets go of
    /// each segment as soon as it is written, so that the live table can have it back.
    pub fn encode(self, max_parallelism: u32, since: Option<u32>, out: &mut BlockWriter<'_>) -> Result<()> {
        for part in self.parts {
            part.encode(max_parallelism, since, self.keep.as_ref(), out)?;
        }
        out.end_run()
    }
}

impl<K: Key, V: Data> Part<K, V> {
    /// Slots that count and are newer than `since`.
    pub fn slots(&self, since: Option<u32>) -> impl Iterator<Item = &Slot<K, V>> {
        live(self.layers.iter(), since)
    }

    /// Keys that were removed after the freeze of epoch `since` and did not come back.
    pub fn removed(&self, since: u32) -> impl Iterator<Item = &K> {
        self.layers.iter().enumerate().filter(move |(_, l)| l.newest > since).flat_map(move |(above, layer)| {
            let removed = layer.removed.iter().flat_map(|r| r.iter()).filter(move |r| r.1 > since).map(|r| &r.0);
            removed.filter(move |key| {
                let hash = key.key_hash();
                layer.find(hash, key).is_none() && !self.layers.iter().take(above).any(|l| l.covers(hash, key))
            })
        })
    }

    /// Keys that were removed, or written and are not kept: what an earlier snapshot says of either does not hold any more.
    fn gone<'a>(&'a self, since: u32, keep: Option<&'a Keep<V>>) -> impl Iterator<Item = &'a K> {
        let left_out = keep.into_iter().flat_map(move |keep| self.slots(Some(since)).filter(move |s| !keep(&s.value)));
        left_out.map(|s| &s.key).chain(self.removed(since))
    }

    fn for_each(
        &self,
        max_parallelism: u32,
        since: Option<u32>,
        keep: Option<&Keep<V>>,
        visit: &mut impl FnMut(u32, &Slot<K, V>) -> Result<()>,
    ) -> Result<()> {
        let first = key_group(self.first_hash, max_parallelism);
        let slots = self.slots(since).filter(|s| keep.is_none_or(|keep| keep(&s.value)));
        if first == key_group(self.last_hash, max_parallelism) {
            let mut slots = slots;
            let mut near = Vec::with_capacity(NEAR);
            loop {
                // looking at their epochs brings them near, all at a time
                near.extend(slots.by_ref().take(NEAR));
                if near.is_empty() {
                    return Ok(());
                }
                near.drain(..).try_for_each(|s| visit(first, s))?;
            }
        }
        let group = |s: &Slot<K, V>| key_group(s.key.key_hash(), max_parallelism);
        let mut all: Vec<_> = slots.map(|s| (group(s), s)).collect();
        all.sort_unstable_by_key(|s| s.0);
        all.into_iter().try_for_each(|(g, s)| visit(g, s))
    }

    fn encode(
        self,
        max_parallelism: u32,
        since: Option<u32>,
        keep: Option<&Keep<V>>,
        out: &mut BlockWriter<'_>,
    ) -> Result<()> {
        self.for_each(max_parallelism, since, keep, &mut |group, s| out.entry(group, &s.key, &s.value))?;
        if let Some(since) = since {
            self.gone(since, keep).for_each(|key| out.removed(key_group(key.key_hash(), max_parallelism), key));
        }
        Ok(())
    }
}
