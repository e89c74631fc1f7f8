//! What the log says: parsed entries and the questions that are asked of them. Pure.
use super::entry::{Body, Claim, LogEntry, SnapshotRef, Terminal, damaged, file_name};
use crate::checkpoint::handles::SnapshotKind;
use crate::error::Result;
use weir_api::ids::{Attempt, CheckpointId};

/// The log's live entries, oldest first, without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct LogView {
    entries: Vec<(u64, LogEntry)>,
}

/// The live part of a listing: the indices from the last gap up to the head. What lies below a gap is left over from a
/// clean-up, or was put there by a writer that slept through it.
pub fn live(mut indices: Vec<u64>) -> Vec<u64> {
    indices.sort_unstable();
    indices.dedup();
    let start = (1..indices.len()).rev().find(|&i| indices[i] - indices[i - 1] != 1).unwrap_or(0);
    indices.split_off(start)
}

impl LogView {
    /// Checks the entries of a [`live`] listing: a claim must be among them, and what follows the last claim is its own.
    pub fn new(entries: Vec<(u64, LogEntry)>) -> Result<Self> {
        let view = Self { entries };
        let Some(first) = view.entries.first() else { return Ok(view) };
        let Some((at, claim, _)) = view.last_claim() else {
            return Err(damaged(format!(
                "the log begins with log/{} and has no claim: entries below it are missing; restore the log folder, or start from a \
                 snapshot's path with another checkpoint folder",
                file_name(first.0)
            )));
        };
        let stranger =
            view.entries.iter().find(|(i, e)| *i > at && (e.attempt, e.nonce) != (claim.attempt, claim.nonce));
        if let Some((i, e)) = stranger {
            return Err(damaged(format!(
                "log/{} was written by attempt {} ({}) after attempt {} ({}) had claimed the log: two jobmanagers wrote without \
                 seeing each other; the storage does not create files atomically",
                file_name(*i),
                e.attempt,
                e.nonce,
                claim.attempt,
                claim.nonce
            )));
        }
        Ok(view)
    }

    /// Without the check, for models of broken logs.
    pub fn unchecked(entries: Vec<(u64, LogEntry)>) -> Self {
        Self { entries }
    }
    pub fn entries(&self) -> &[(u64, LogEntry)] {
        &self.entries
    }
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn head(&self) -> Option<u64> {
        self.entries.last().map(|e| e.0)
    }
    pub fn get(&self, index: u64) -> Option<&LogEntry> {
        self.entries.iter().find(|e| e.0 == index).map(|e| &e.1)
    }
    /// Adds what was just appended at the head.
    pub fn push(&mut self, index: u64, entry: LogEntry) {
        self.entries.push((index, entry));
    }
    /// Forgets what was cleaned up.
    pub fn forget_below(&mut self, floor: u64) {
        self.entries.retain(|e| e.0 >= floor);
    }

    pub fn last_claim(&self) -> Option<(u64, &LogEntry, &Claim)> {
        self.entries.iter().rev().find_map(|(i, e)| e.claim().map(|c| (*i, e, c)))
    }
    /// The job's end, if the last claim's attempt recorded one.
    pub fn terminal(&self) -> Option<(u64, &LogEntry, &Terminal)> {
        let (i, e) = self.entries.last()?;
        e.terminal().map(|t| (*i, e, t))
    }
    /// Attempt of the next claim.
    pub fn next_attempt(&self) -> Attempt {
        Attempt(self.entries.iter().map(|e| e.1.attempt.0).max().unwrap_or(0) + 1)
    }
    /// Smallest checkpoint id that no completed snapshot has.
    pub fn next_checkpoint(&self) -> CheckpointId {
        let next = |e: &LogEntry| match (e.snapshot(), e.claim()) {
            (Some(s), _) => s.id.0 + 1,
            (_, Some(c)) => c.next_checkpoint.0.max(c.restores.as_ref().map_or(1, |r| r.id.0 + 1)),
            _ => 1,
        };
        CheckpointId(self.entries.iter().map(|e| next(&e.1)).max().unwrap_or(1))
    }

    /// Snapshots that still exist as far as the log says, oldest first: without what retention or a terminal entry dropped.
    pub fn snapshots(&self) -> Vec<SnapshotRef> {
        let mut found: Vec<SnapshotRef> = Vec::new();
        for (i, e) in &self.entries {
            if let Some(t) = e.terminal() {
                found.retain(|s| s.kind.is_savepoint() || t.kept.contains(&s.path));
            }
            if let Body::Completed(c) = &e.body {
                found.retain(|s| s.kind.is_savepoint() || s.index >= Some(c.retains_from));
            }
            found.extend(e.snapshot_ref(*i));
        }
        found
    }
    /// Completed checkpoints that still exist, oldest first.
    pub fn checkpoints(&self) -> Vec<SnapshotRef> {
        self.snapshots().into_iter().filter(|s| !s.kind.is_savepoint()).collect()
    }
    pub fn last_checkpoint(&self) -> Option<SnapshotRef> {
        self.checkpoints().pop()
    }
    pub fn last_savepoint(&self) -> Option<SnapshotRef> {
        self.snapshots().into_iter().rfind(|s| s.kind.is_savepoint())
    }
    /// What may have been committed since, and with, the last snapshot of the log whose kind commits, newest first: that one, and
    /// what later claims restored, for whoever restores a snapshot commits what it left pending. With the index of the entry.
    fn committed(&self) -> Vec<(u64, SnapshotRef)> {
        let mut found = Vec::new();
        for (i, e) in self.entries.iter().rev() {
            if let Some(s) = e.snapshot_ref(*i).filter(|s| s.kind.commits()) {
                found.push((*i, s));
                break;
            }
            found.extend(e.claim().and_then(|c| c.restores.clone()).map(|r| (*i, r)));
        }
        found
    }
    /// The furthest snapshot whose side effects may have been committed, whether or not it still exists.
    pub fn last_committed(&self) -> Option<SnapshotRef> {
        let all = self.committed().into_iter().rev().map(|(_, s)| s);
        all.reduce(|far, s| if s.index.is_some() && !s.goes_forward_from(&far) { far } else { s })
    }
    /// Restoring the snapshot at this path (`known`: as the log has it) goes back behind nothing that was committed. By index
    /// and id: with several under way at once, one that was triggered earlier may be logged later.
    pub fn goes_forward(&self, path: &str, known: Option<&SnapshotRef>) -> bool {
        let committed = self.committed();
        committed.iter().all(|(_, c)| {
            let behind_it = known.is_some_and(|k| match c.index {
                Some(_) => k.path == c.path || k.goes_forward_from(c),
                // of another log: its id says nothing here. Each restart before the first checkpoint restores it again, but what it
                // left pending was committed by the first
                None => k.index > committed.iter().filter(|o| o.1.path == c.path).map(|o| o.0).min(),
            });
            c.path == path || behind_it
        })
    }
    /// What an attempt of the same deployment resumes: the last completed checkpoint or stop savepoint of the last claim's
    /// attempt, or what that attempt itself started from. None: it started new and completed nothing, or nothing was kept.
    pub fn resumable(&self) -> Option<SnapshotRef> {
        let (at, _, claim) = self.last_claim()?;
        let own = self.entries.iter().rev().take_while(|e| e.0 > at).filter_map(|(i, e)| e.snapshot_ref(*i));
        let from = own.into_iter().find(|s| s.kind.commits()).or_else(|| claim.restores.clone())?;
        self.still_exists(&from).then_some(from)
    }
    /// What `latest` means: as [`Self::resumable`], but after an attempt that started new by request and completed nothing
    /// (so that it committed nothing either) the last completed one before it. Never anything behind which side effects
    /// were committed.
    pub fn latest(&self) -> Option<SnapshotRef> {
        self.resumable().or_else(|| {
            let last = self.last_committed()?;
            if last.index.is_none() {
                return Some(last);
            }
            self.snapshots().into_iter().find(|s| s.index == last.index)
        })
    }
    /// The last attempt was stopped with a savepoint, and its end is not yet recorded.
    pub fn unfinished_stop(&self) -> Option<SnapshotRef> {
        let (i, e) = self.entries.last()?;
        let of = match e.claim() {
            Some(c) if c.finishes_stop => c.restores.clone(),
            _ => e.snapshot_ref(*i),
        };
        of.filter(|s| matches!(s.kind, SnapshotKind::Stop { .. }))
    }
    fn still_exists(&self, s: &SnapshotRef) -> bool {
        s.kind.is_savepoint() || self.terminal().is_none_or(|(_, _, t)| t.kept.contains(&s.path))
    }
}
