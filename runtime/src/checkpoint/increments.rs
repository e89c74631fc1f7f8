//! Incremental checkpoints of one operator subtask: what the next one has to write, given which ones completed. Pure.
//!
//! A checkpoint of keyed state lies in a chain of files: a base, which holds all, and what changed since, file by file.
//! The next chain is made from the last one *completed*: what an aborted checkpoint wrote is written again. Later
//! files that are about as large are replaced by one that tells all their changes, as in a binary counter, and when the
//! changes amount to half of the base a new base is written: a restore reads at most half as much again as there is, from
//! few files, and what is written more than once is bounded.
use super::handles::{FileFormat, FileHandle, KeyedHandle};
use std::collections::BTreeMap;
use std::ops::Range;
use weir_api::ids::CheckpointId;

/// More files than this are not chained, however small they are.
const MOST_LINKS: usize = 12;

/// Which changes a frozen table can tell; none: it is always written whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub epoch: u32,
    pub complete_since: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    file: FileHandle,
    /// By table: of what it holds.
    epochs: Vec<u32>,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Files that stay; none: it is a new base.
    kept: Vec<Link>,
    /// By table: write what changed since this epoch; none: all of it.
    pub since: Vec<Option<u32>>,
    /// The files that stay are all there are: if nothing has changed, no other is needed.
    adds: bool,
}

impl Plan {
    /// Everything is written.
    pub fn whole(tables: usize) -> Self {
        Self { kept: Vec::new(), since: vec![None; tables], adds: false }
    }
    /// Without a change there is no file to write.
    pub fn may_be_empty(&self) -> bool {
        self.adds && self.since.iter().all(Option::is_some)
    }
}

/// The chains of one operator subtask.
#[derive(Debug, Default)]
pub struct Increments {
    completed: Option<(CheckpointId, Vec<Link>)>,
    /// Written, and not known to have completed.
    pending: BTreeMap<CheckpointId, Vec<Link>>,
}

impl Increments {
    /// What a checkpoint of these tables writes.
    pub fn plan(&self, tables: &[Option<Told>]) -> Plan {
        let whole = Plan::whole(tables.len());
        let Some((_, links)) = &self.completed else { return whole };
        let Some((base, deltas)) = links.split_first() else { return whole };
        let size = |l: &Link| l.file.size;
        // from the end on, those that are no smaller than half of the one before
        let (mut keep, mut sum) = (deltas.len(), deltas.last().map_or(0, size));
        for i in (0..deltas.len().saturating_sub(1)).rev() {
            if sum * 2 < size(&deltas[i]) {
                break;
            }
            (keep, sum) = (i, sum + size(&deltas[i]));
        }
        if links.len() >= MOST_LINKS {
            keep = 0;
        }
        let (stay, replaced) = deltas.split_at(keep);
        let changes = stay.iter().map(size).sum::<u64>() + replaced.iter().map(size).max().unwrap_or(0);
        if changes * 2 >= size(base) || base.epochs.len() != tables.len() {
            return whole;
        }
        let kept = &links[..=keep];
        let since =
            |(told, epoch): (&Option<Told>, &u32)| told.and_then(|t| (t.complete_since <= *epoch).then_some(*epoch));
        let since: Vec<_> = tables.iter().zip(&links[keep].epochs).map(since).collect();
        if since.iter().all(Option::is_none) {
            whole
        } else {
            Plan { kept: kept.to_vec(), since, adds: replaced.is_empty() }
        }
    }

    /// By table: nobody will ask for changes since an earlier epoch.
    pub fn floors(&self) -> &[u32] {
        self.completed.as_ref().and_then(|(_, links)| links.first()).map_or(&[], |base| &base.epochs)
    }

    /// The checkpoint was written as planned; none: nothing had changed, no file was needed.
    pub fn written(
        &mut self,
        id: CheckpointId,
        plan: Plan,
        tables: &[Option<Told>],
        file: Option<FileHandle>,
        key_groups: Range<u32>,
        entries: u64,
    ) -> Option<KeyedHandle> {
        let mut links = plan.kept;
        links.extend(file.map(|file| Link { file, epochs: tables.iter().map(|t| t.map_or(0, |t| t.epoch)).collect() }));
        let mut files = links.iter().map(|l| l.file.clone());
        let handle = files.next().map(|file| KeyedHandle {
            file,
            deltas: files.collect(),
            key_groups,
            entries,
            format: FileFormat::Canonical,
        });
        self.pending.insert(id, links);
        handle
    }

    /// The checkpoint is in the log: the next one may be made from it.
    pub fn completed(&mut self, id: CheckpointId) {
        if let Some(links) = self.pending.remove(&id)
            && self.completed.as_ref().is_none_or(|c| c.0 < id)
        {
            self.completed = Some((id, links));
        }
        self.pending = self.pending.split_off(&id);
    }

    /// The checkpoint will never complete; its own file is deleted by others.
    pub fn aborted(&mut self, id: CheckpointId) {
        self.pending.remove(&id);
    }
}

#[cfg(test)]
mod tests;
