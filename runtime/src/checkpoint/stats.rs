//! Statistics of checkpoints, as the REST interface and the metrics show them. Pure.
use super::handles::{SnapshotKind, TaskSnapshotStats};
use super::log::SnapshotRef;
use crate::dataflow::task::TaskId;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use weir_api::ids::{Attempt, CheckpointId};

/// How many checkpoints are remembered.
pub const HISTORY: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CheckpointStatus {
    InProgress,
    Completed,
    Failed,
}

/// One task's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TaskStat {
    /// Wall-clock milliseconds.
    pub acked_at: i64,
    pub stats: TaskSnapshotStats,
}

/// One checkpoint or savepoint. Times are wall-clock milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckpointStat {
    pub id: CheckpointId,
    pub attempt: Attempt,
    pub kind: SnapshotKind,
    pub status: CheckpointStatus,
    pub triggered_at: i64,
    pub latest_ack_at: Option<i64>,
    /// From the trigger to completion or failure (so far, while in progress).
    pub duration_ms: u64,
    pub size_bytes: u64,
    pub num_tasks: usize,
    #[serde(skip)]
    pub tasks: BTreeMap<TaskId, TaskStat>,
    /// Directory of a completed one.
    pub path: Option<String>,
    pub log_index: Option<u64>,
    /// Dropped by retention.
    pub discarded: bool,
    pub failure: Option<String>,
    pub failed_at: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub restored: u64,
    pub total: u64,
    pub in_progress: u64,
    pub completed: u64,
    pub failed: u64,
}

/// Smallest, largest, average over all completed ones; 0 while there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub min: u64,
    pub max: u64,
    pub avg: u64,
    pub count: u64,
    #[serde(skip)]
    sum: u128,
}

impl Summary {
    pub fn add(&mut self, x: u64) {
        self.min = if self.count == 0 { x } else { self.min.min(x) };
        self.max = self.max.max(x);
        self.count += 1;
        self.sum += u128::from(x);
        self.avg = (self.sum / u128::from(self.count)) as u64;
    }
}

/// The snapshot that the current attempt started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    pub snapshot: SnapshotRef,
    pub at: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    pub counts: Counts,
    pub size: Summary,
    pub duration: Summary,
    /// Newest last, at most [`HISTORY`], those in progress included.
    pub history: VecDeque<CheckpointStat>,
    pub latest_completed: Option<CheckpointStat>,
    pub latest_savepoint: Option<CheckpointStat>,
    pub latest_failed: Option<CheckpointStat>,
    pub restored: Option<Restored>,
}

impl CheckpointStats {
    pub fn get(&self, id: CheckpointId) -> Option<&CheckpointStat> {
        self.history.iter().rev().find(|c| c.id == id)
    }
    fn get_mut(&mut self, id: CheckpointId) -> Option<&mut CheckpointStat> {
        self.history.iter_mut().rev().find(|c| c.id == id)
    }

    pub(super) fn triggered(
        &mut self,
        id: CheckpointId,
        attempt: Attempt,
        kind: SnapshotKind,
        num_tasks: usize,
        at: i64,
    ) {
        self.counts.total += 1;
        self.counts.in_progress += 1;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(CheckpointStat {
            id,
            attempt,
            kind,
            status: CheckpointStatus::InProgress,
            triggered_at: at,
            latest_ack_at: None,
            duration_ms: 0,
            size_bytes: 0,
            num_tasks,
            tasks: BTreeMap::new(),
            path: None,
            log_index: None,
            discarded: false,
            failure: None,
            failed_at: None,
        });
    }
    pub(super) fn acknowledged(
        &mut self,
        id: CheckpointId,
        task: TaskId,
        stats: TaskSnapshotStats,
        size: u64,
        at: i64,
    ) {
        if let Some(c) = self.get_mut(id) {
            c.latest_ack_at = Some(at);
            c.size_bytes += size;
            c.tasks.insert(task, TaskStat { acked_at: at, stats });
        }
    }
    pub(super) fn completed(
        &mut self,
        id: CheckpointId,
        path: String,
        log_index: Option<u64>,
        size: u64,
        duration_ms: u64,
    ) {
        self.counts.in_progress = self.counts.in_progress.saturating_sub(1);
        self.counts.completed += 1;
        self.size.add(size);
        self.duration.add(duration_ms);
        let Some(c) = self.get_mut(id) else { return };
        c.status = CheckpointStatus::Completed;
        c.path = Some(path);
        c.log_index = log_index;
        c.size_bytes = size;
        c.duration_ms = duration_ms;
        let c = c.clone();
        if c.kind.is_savepoint() {
            self.latest_savepoint = Some(c);
        } else {
            self.latest_completed = Some(c);
        }
    }
    pub(super) fn failed(&mut self, id: CheckpointId, reason: &str, duration_ms: u64, at: i64) {
        self.counts.in_progress = self.counts.in_progress.saturating_sub(1);
        self.counts.failed += 1;
        let Some(c) = self.get_mut(id) else { return };
        c.status = CheckpointStatus::Failed;
        c.failure = Some(reason.to_owned());
        c.failed_at = Some(at);
        c.duration_ms = duration_ms;
        self.latest_failed = Some(c.clone());
    }
    /// The current attempt started from this snapshot.
    pub fn restored(&mut self, snapshot: SnapshotRef, at: i64) {
        self.counts.restored += 1;
        self.restored = Some(Restored { snapshot, at });
    }
    /// Retention dropped these directories.
    pub fn discarded(&mut self, directories: &[String]) {
        let all = self.history.iter_mut().chain(self.latest_completed.as_mut()).chain(self.latest_savepoint.as_mut());
        for c in all {
            c.discarded |= c.path.as_ref().is_some_and(|p| directories.contains(p));
        }
    }
}
