//! Panes as they were at a barrier: what was written in them since an earlier one, and which of them are gone.
use crate::checkpoint::handles::StateDescriptor;
use crate::data::{Data, Key};
use crate::error::Result;
use crate::state::backing::Backed;
use crate::state::file::BlockWriter;
use crate::state::snapshot::{EntryVisitor, FrozenRun, FrozenTable, StoreVisitor};
use crate::state::store::{Column, StateStore, namespace_bytes};
use crate::state::table::{FrozenSegments, History};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What a removed key of a snapshot begins with, behind the namespace: all keys of a key group are gone, with the pane.
pub(super) const PANE: u8 = 0;
/// The key that follows is gone.
pub(super) const KEY: u8 = 1;

pub(super) struct FrozenPanes<K, V> {
    pub descriptor: Arc<StateDescriptor>,
    pub panes: VecDeque<(i64, FrozenSegments<K, V>)>,
    /// Panes that were dropped, and in which epoch.
    pub dropped: Vec<(i64, u32)>,
    /// With the key groups of the subtask. None: always written whole.
    pub history: Option<(History, Range<u32>)>,
    pub backed: Option<Backed>,
}

impl<K: Key, V: Data> FrozenTable for FrozenPanes<K, V> {
    fn descriptor(&self) -> &StateDescriptor {
        &self.descriptor
    }

    fn entries(&self) -> u64 {
        self.panes.iter().map(|p| p.1.len() as u64).sum()
    }

    fn for_each(self: Box<Self>, max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        // pane by pane: each begins again with the first key group
        self.panes.into_iter().try_for_each(|(namespace, segments)| {
            segments.for_each(max_parallelism, &mut |group, k, v| {
                encode(&mut key, &mut value, namespace, k, v);
                visit(group, &key, &value)
            })
        })
    }

    fn store(&self) -> Option<&Arc<dyn StateStore>> {
        self.backed.as_ref().map(|b| &b.store)
    }

    fn take_backed(&mut self) -> Option<Backed> {
        self.backed.take()
    }

    fn dropped(&self, since: u32) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut gone: Vec<i64> = self.dropped.iter().filter(|d| d.1 > since).map(|d| d.0).collect();
        gone.sort_unstable();
        gone.dedup();
        // one range for those that have no pane between them
        let live = |a: i64, b: i64| self.panes.iter().any(|p| a < p.0 && p.0 < b);
        let ranges = gone.chunk_by(|a, b| !live(*a, *b));
        let bytes = |namespace| namespace_bytes(namespace).to_vec();
        ranges.map(|r| (bytes(r[0]), r[r.len() - 1].checked_add(1).map(bytes))).collect()
    }

    fn changes(self: Box<Self>, since: u32, visit: &mut StoreVisitor<'_>) -> Result<()> {
        let mut suffix = Vec::new();
        self.panes.into_iter().try_for_each(|(namespace, segments)| {
            segments.changes(since, &mut |hash, key, value| {
                suffix.clear();
                Column::pane_suffix(namespace, hash, &mut suffix);
                suffix.extend_from_slice(key);
                visit(&suffix, value)
            })
        })
    }

    fn history(&self) -> Option<&History> {
        self.history.as_ref().map(|h| &h.0)
    }

    fn take_run(&mut self, entries: usize) -> Option<Box<dyn FrozenRun>> {
        let groups = &self.history.as_ref()?.1;
        if !self.dropped.is_empty() {
            return Some(Box::new(Dropped { panes: std::mem::take(&mut self.dropped), groups: groups.clone() }));
        }
        loop {
            let (namespace, segments) = self.panes.front_mut()?;
            match segments.take(entries) {
                Some(segments) => return Some(Box::new(PaneRun { namespace: *namespace, segments })),
                None => _ = self.panes.pop_front(),
            }
        }
    }
}

fn encode<K: Data, V: Data>(key: &mut Vec<u8>, value: &mut Vec<u8>, namespace: i64, k: &K, v: &V) {
    key.clear();
    value.clear();
    namespace.encode(key);
    k.encode(key);
    v.encode(value);
}

/// Panes that are gone: one line for each key group, so that a reader of some of them knows.
struct Dropped {
    panes: Vec<(i64, u32)>,
    groups: Range<u32>,
}

impl FrozenRun for Dropped {
    fn encode(self: Box<Self>, _max_parallelism: u32, since: Option<u32>, out: &mut BlockWriter<'_>) -> Result<()> {
        let Some(since) = since else { return Ok(()) };
        for (namespace, _) in self.panes.iter().filter(|p| p.1 > since) {
            self.groups.clone().for_each(|group| out.removed(group, &(*namespace, PANE, group)));
        }
        out.end_run()
    }
}

/// Some segments of a pane.
struct PaneRun<K, V> {
    namespace: i64,
    segments: FrozenSegments<K, V>,
}

impl<K: Key, V: Data> FrozenRun for PaneRun<K, V> {
    fn encode(self: Box<Self>, max_parallelism: u32, since: Option<u32>, out: &mut BlockWriter<'_>) -> Result<()> {
        let Self { namespace, segments } = *self;
        let (mut key, mut value) = (Vec::new(), Vec::new());
        segments.for_each_change(max_parallelism, since, &mut |group, k, v| match v {
            Some(v) => {
                encode(&mut key, &mut value, namespace, k, v);
                out.encoded(group, &key, &value)
            }
            None => {
                out.removed(group, &(namespace, KEY, k.clone()));
                Ok(())
            }
        })?;
        out.end_run()
    }
}
