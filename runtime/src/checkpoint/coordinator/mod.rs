//! The checkpoint coordinator: when to trigger, what is complete, what is aborted, who is told. Pure: events and `now` in,
//! actions out.
//!
//! One coordinator lives as long as the jobmanager; [`Event::Begin`] and [`Event::End`] bracket each attempt. The life of a
//! checkpoint: triggered -> all tasks acknowledged -> [`Action::Publish`] (manifest, log entry) -> [`Event::Published`] ->
//! tasks told, retention; or, at any point before the entry, aborted: tasks told, files discarded.
#[cfg(test)]
mod tests;

use super::handles::{Barrier, SnapshotKind, TaskSnapshot};
use super::log::Nonce;
use super::manifest::state_bytes;
use super::stats::CheckpointStats;
use crate::dataflow::task::{TaskCommand, TaskId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use weir_api::config::{CheckpointConfig, CheckpointMode};
use weir_api::ids::{Attempt, CheckpointId};

/// The time of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the start of the process; decides.
    pub mono: Duration,
    /// Milliseconds since the epoch; for people.
    pub wall: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Off: no storage; only [`SnapshotKind::Final`] is ever triggered, and savepoints are refused.
    pub storage: bool,
    pub interval: Duration,
    pub timeout: Duration,
    pub min_pause: Duration,
    pub max_concurrent: usize,
    pub tolerable_failed: Option<u32>,
    pub aligned: bool,
}

impl Settings {
    pub fn new(c: &CheckpointConfig) -> Self {
        Self {
            storage: c.storage.is_some(),
            interval: c.interval.get().max(Duration::from_millis(10)),
            timeout: c.timeout.get().max(Duration::from_millis(10)),
            min_pause: c.min_pause.get(),
            max_concurrent: c.max_concurrent.max(1) as usize,
            tolerable_failed: c.tolerable_failed,
            aligned: c.mode == CheckpointMode::ExactlyOnce,
        }
    }
}

#[derive(Debug, Clone)]
pub enum Event {
    /// The claim is won and the tasks are being deployed.
    Begin {
        attempt: Attempt,
        nonce: Nonce,
        /// Ids from here on are free.
        next: CheckpointId,
        tasks: BTreeSet<TaskId>,
    },
    AllTasksRunning,
    /// Some time has passed; see [`Coordinator::next_wakeup`].
    Tick,
    /// Somebody asks for a savepoint, a stop, a rescale; or, without a trigger id, the last source has ended (`Final`).
    Request {
        trigger_id: String,
        kind: SnapshotKind,
        /// Directory that savepoints go to, as an absolute URL; absent: the job's root.
        target: Option<String>,
    },
    Acknowledged {
        attempt: Attempt,
        id: CheckpointId,
        task: TaskId,
        snapshot: TaskSnapshot,
    },
    Declined {
        attempt: Attempt,
        id: CheckpointId,
        task: TaskId,
        reason: String,
    },
    /// Manifest and log entry are there. `index` and `size_bytes` as they were written.
    Published {
        id: CheckpointId,
        index: Option<u64>,
    },
    /// Certainly no entry was written.
    PublishFailed {
        id: CheckpointId,
        reason: String,
    },
    /// The attempt is over: its tasks are gone or going.
    End {
        reason: String,
    },
    /// Another jobmanager holds the log: everything is forgotten, nobody is told, nothing is deleted.
    Fenced,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send to the tasks of the attempt: `Trigger` to sources, the others to all.
    Command(TaskCommand),
    /// Write the manifest and append the entry, then answer with [`Event::Published`] or [`Event::PublishFailed`].
    Publish(Box<Publish>),
    /// Delete this directory: its snapshot will never complete.
    Discard(String),
    /// The outcome of a [`Event::Request`].
    Resolved { trigger_id: String, kind: SnapshotKind, outcome: Result<Outcome, String> },
    /// Apply retention now: a checkpoint of the log was completed.
    Retain { id: CheckpointId },
    /// All tasks commit and end now, by this snapshot.
    TasksEnd { id: CheckpointId, kind: SnapshotKind, directory: String, index: Option<u64> },
    /// More checkpoints failed in a row than the configuration tolerates: restart the job.
    FailJob { reason: String },
    /// A stop that drained was given up. Event time has ended in its tasks, so they cannot go on: others start from the last checkpoint. No
    /// failure of the job.
    Replace { reason: String },
}

/// A snapshot that all tasks have acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub attempt: Attempt,
    pub id: CheckpointId,
    pub kind: SnapshotKind,
    pub directory: String,
    pub snapshots: BTreeMap<TaskId, TaskSnapshot>,
    pub triggered_at: i64,
    /// From the trigger to the last acknowledgement.
    pub duration_ms: u64,
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub id: CheckpointId,
    pub directory: String,
    pub index: Option<u64>,
}

/// Requests that wait at most.
pub const MAX_QUEUED: usize = 16;
/// The first periodic checkpoint comes at most this long after all tasks run: a restart proves itself soon.
const FIRST_AFTER: Duration = Duration::from_millis(200);
/// A failed `Final` is tried again after this.
const FINAL_RETRY: Duration = Duration::from_secs(1);
/// So many aborted ids are remembered, to recognise late acknowledgements.
const ABORTED: usize = 64;

#[derive(Debug)]
struct Pending {
    kind: SnapshotKind,
    directory: String,
    trigger_id: Option<String>,
    triggered: Now,
    acks: BTreeMap<TaskId, TaskSnapshot>,
    size_bytes: u64,
    state: PendingState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PendingState {
    Acknowledging,
    /// All have acknowledged; waits for its turn to be published.
    Ready,
    /// On its way into the log: can neither expire nor be aborted.
    Publishing,
}

#[derive(Debug)]
struct Queued {
    trigger_id: String,
    kind: SnapshotKind,
    target: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between attempts.
    Idle,
    Deploying,
    Running,
    /// A snapshot that ends the tasks is complete.
    Ended,
}

#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    job: String,
    phase: Phase,
    attempt: Attempt,
    nonce: Nonce,
    tasks: BTreeSet<TaskId>,
    next_id: CheckpointId,
    pending: BTreeMap<CheckpointId, Pending>,
    /// Those of earlier attempts that are still being published.
    leftovers: BTreeMap<CheckpointId, Pending>,
    queue: VecDeque<Queued>,
    /// `Final` is wanted, not before this time.
    final_at: Option<Duration>,
    next_periodic: Duration,
    failed_in_a_row: u32,
    /// Aborted ids of this attempt with their directories, newest last.
    aborted: VecDeque<(CheckpointId, String)>,
    last_completed: CheckpointId,
    stats: CheckpointStats,
}

impl Coordinator {
    /// `job`: the job's name, part of the names of savepoint directories outside of the job's root.
    pub fn new(settings: Settings, job: &str) -> Self {
        Self {
            settings,
            job: job.to_owned(),
            phase: Phase::Idle,
            attempt: Attempt(0),
            nonce: Nonce(0),
            tasks: BTreeSet::new(),
            next_id: CheckpointId(1),
            pending: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            queue: VecDeque::new(),
            final_at: None,
            next_periodic: Duration::ZERO,
            failed_in_a_row: 0,
            aborted: VecDeque::new(),
            last_completed: CheckpointId(0),
            stats: CheckpointStats::default(),
        }
    }

    pub fn stats(&self) -> &CheckpointStats {
        &self.stats
    }
    pub fn stats_mut(&mut self) -> &mut CheckpointStats {
        &mut self.stats
    }
    /// Smallest id that was never used.
    pub fn next_checkpoint(&self) -> CheckpointId {
        self.next_id
    }
    /// Directories that the current attempt is writing to: no sweep may touch them.
    pub fn active_directories(&self) -> BTreeSet<String> {
        self.pending.values().chain(self.leftovers.values()).map(|p| p.directory.clone()).collect()
    }
    /// When to send the next [`Event::Tick`] at the latest; none: no need.
    pub fn next_wakeup(&self) -> Option<Duration> {
        let timeout = self.settings.timeout;
        let expiry = self.pending.values().filter(|p| p.state == PendingState::Acknowledging);
        let expiry = expiry.map(|p| p.triggered.mono + timeout).min();
        let waits = self.phase == Phase::Running && self.has_room();
        let periodic = (waits && self.settings.storage).then_some(self.next_periodic);
        let last = self.final_at.filter(|_| waits);
        [expiry, periodic, last].into_iter().flatten().min()
    }

    pub fn on(&mut self, event: Event, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Begin { attempt, nonce, next, tasks } => self.begin(attempt, nonce, next, tasks, now, &mut out),
            Event::AllTasksRunning => {
                if self.phase == Phase::Deploying {
                    self.phase = Phase::Running;
                    self.next_periodic = now.mono + self.settings.interval.min(FIRST_AFTER);
                }
            }
            Event::Tick => {}
            Event::Request { trigger_id, kind, target } => self.request(trigger_id, kind, target, now, &mut out),
            Event::Acknowledged { attempt, id, task, snapshot } if attempt == self.attempt => {
                self.acknowledged(id, task, snapshot, now, &mut out);
            }
            Event::Declined { attempt, id, task, reason } if attempt == self.attempt => {
                let acknowledging = |p: &Pending| p.state == PendingState::Acknowledging;
                if self.tasks.contains(&task) && self.pending.get(&id).is_some_and(acknowledging) {
                    let reason = format!("declined by subtask {} of vertex {}: {reason}", task.subtask, task.vertex);
                    self.abort(id, &reason, true, now, &mut out);
                }
            }
            // of an attempt that is over
            Event::Acknowledged { .. } | Event::Declined { .. } => {}
            Event::Published { id, index } => self.published(id, index, now, &mut out),
            Event::PublishFailed { id, reason } => {
                if let Some(p) = self.leftovers.remove(&id) {
                    self.abandon(id, p, &reason, now, &mut out);
                } else if self.pending.get(&id).is_some_and(|p| p.state == PendingState::Publishing) {
                    self.abort(id, &reason, true, now, &mut out);
                }
            }
            Event::End { reason } => self.end(&reason, now, &mut out),
            Event::Fenced => self.fenced(now),
        }
        self.expire(now, &mut out);
        self.publish_next(&mut out);
        self.trigger_due(now, &mut out);
        out
    }

    fn begin(
        &mut self,
        attempt: Attempt,
        nonce: Nonce,
        next: CheckpointId,
        tasks: BTreeSet<TaskId>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        self.end("the next attempt has begun", now, out);
        self.phase = Phase::Deploying;
        self.attempt = attempt;
        self.nonce = nonce;
        self.tasks = tasks;
        self.next_id = self.next_id.max(next);
        self.failed_in_a_row = 0;
        self.aborted.clear();
    }

    fn end(&mut self, reason: &str, now: Now, out: &mut Vec<Action>) {
        for (id, p) in std::mem::take(&mut self.pending) {
            if p.state == PendingState::Publishing {
                // its entry may land: only the answer decides
                self.leftovers.insert(id, p);
            } else {
                self.abandon(id, p, reason, now, out);
            }
        }
        for q in std::mem::take(&mut self.queue) {
            out.push(Action::Resolved { trigger_id: q.trigger_id, kind: q.kind, outcome: Err(reason.to_owned()) });
        }
        self.final_at = None;
        self.phase = Phase::Idle;
        self.tasks.clear();
    }

    /// Whose files they are, the holder of the log knows: its sweep finds what is left over.
    fn fenced(&mut self, now: Now) {
        for (id, p) in self.pending.iter().chain(&self.leftovers) {
            self.stats.failed(*id, "another jobmanager holds the log", millis_between(p.triggered, now), now.wall);
        }
        self.pending.clear();
        self.leftovers.clear();
        self.queue.clear();
        self.aborted.clear();
        self.tasks.clear();
        self.final_at = None;
        self.phase = Phase::Idle;
    }

    fn request(
        &mut self,
        trigger_id: String,
        kind: SnapshotKind,
        target: Option<String>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        if kind == SnapshotKind::Final {
            self.final_at.get_or_insert(now.mono);
            return;
        }
        let known = |id: &Option<String>| id.as_deref() == Some(trigger_id.as_str());
        let under_way = self.pending.values().chain(self.leftovers.values()).any(|p| known(&p.trigger_id));
        if under_way || self.queue.iter().any(|q| q.trigger_id == trigger_id) {
            return;
        }
        let refused = match self.phase {
            _ if !self.settings.storage => Some("the job has no checkpoint storage: set checkpoint.storage"),
            Phase::Idle => Some("the job is not running"),
            Phase::Ended => Some("the job is ending"),
            _ if self.queue.len() >= MAX_QUEUED => {
                Some("too many savepoints are waiting: try again when some are done")
            }
            _ => None,
        };
        match refused {
            Some(why) => out.push(Action::Resolved { trigger_id, kind, outcome: Err(why.to_owned()) }),
            None => {
                // those that end the job come first
                let at = if kind.ends_tasks() {
                    self.queue.iter().position(|q| !q.kind.ends_tasks()).unwrap_or(self.queue.len())
                } else {
                    self.queue.len()
                };
                self.queue.insert(at, Queued { trigger_id, kind, target });
            }
        }
    }

    fn acknowledged(
        &mut self,
        id: CheckpointId,
        task: TaskId,
        snapshot: TaskSnapshot,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let Some(p) = self.pending.get_mut(&id) else {
            // too late: the files that it names were written after the directory was deleted
            if let Some((_, directory)) = self.aborted.iter().find(|a| a.0 == id) {
                out.push(Action::Discard(directory.clone()));
            }
            return;
        };
        if p.state != PendingState::Acknowledging || !self.tasks.contains(&task) || p.acks.contains_key(&task) {
            return;
        }
        let size: u64 = snapshot.operators.values().map(state_bytes).sum();
        p.size_bytes += size;
        self.stats.acknowledged(id, task, snapshot.stats, size, now.wall);
        p.acks.insert(task, snapshot);
        if p.acks.len() == self.tasks.len() {
            p.state = PendingState::Ready;
            if !self.settings.storage {
                // nothing to write: complete as it is
                p.state = PendingState::Publishing;
                self.published(id, None, now, out);
            }
        }
    }

    fn published(&mut self, id: CheckpointId, index: Option<u64>, now: Now, out: &mut Vec<Action>) {
        let leftover = self.leftovers.remove(&id);
        let current = leftover.is_none();
        let publishing = |p: &Pending| p.state == PendingState::Publishing;
        let Some(p) =
            leftover.or_else(|| self.pending.get(&id).is_some_and(publishing).then(|| self.pending.remove(&id))?)
        else {
            return;
        };
        self.stats.completed(id, p.directory.clone(), index, p.size_bytes, millis_between(p.triggered, now));
        if let Some(trigger_id) = p.trigger_id {
            let outcome = Outcome { id, directory: p.directory.clone(), index };
            out.push(Action::Resolved { trigger_id, kind: p.kind, outcome: Ok(outcome) });
        }
        if !current {
            return;
        }
        if !p.kind.is_savepoint() {
            self.failed_in_a_row = 0;
        }
        self.next_periodic = self.next_periodic.max(now.mono + self.settings.min_pause);
        if !p.kind.commits() {
            return;
        }
        self.last_completed = id;
        // what is older and still under way has no use any more
        let subsumed = |(i, q): (&CheckpointId, &Pending)| {
            (*i < id && q.kind == SnapshotKind::Checkpoint && q.state != PendingState::Publishing).then_some(*i)
        };
        for old in self.pending.iter().filter_map(subsumed).collect::<Vec<_>>() {
            self.abort(old, &format!("checkpoint {id} completed before it"), false, now, out);
        }
        out.push(Action::Command(TaskCommand::Complete(id)));
        if self.settings.storage && !p.kind.is_savepoint() {
            out.push(Action::Retain { id });
        }
        if p.kind.ends_tasks() {
            self.phase = Phase::Ended;
            self.final_at = None;
            let ended = format!("the job was ended by {} {id}", name(p.kind));
            for old in self.pending.keys().copied().collect::<Vec<_>>() {
                self.abort(old, &ended, false, now, out);
            }
            for q in std::mem::take(&mut self.queue) {
                out.push(Action::Resolved { trigger_id: q.trigger_id, kind: q.kind, outcome: Err(ended.clone()) });
            }
            out.push(Action::TasksEnd { id, kind: p.kind, directory: p.directory, index });
        }
    }

    /// Gives up a snapshot of the running attempt. `counts`: as a failure, against the tolerance.
    fn abort(&mut self, id: CheckpointId, reason: &str, counts: bool, now: Now, out: &mut Vec<Action>) {
        let Some(p) = self.pending.remove(&id) else { return };
        let kind = p.kind;
        out.push(Action::Command(TaskCommand::Aborted(id)));
        if self.aborted.len() == ABORTED {
            self.aborted.pop_front();
        }
        self.aborted.push_back((id, p.directory.clone()));
        self.abandon(id, p, reason, now, out);
        self.next_periodic = self.next_periodic.max(now.mono + self.settings.min_pause);
        if kind == SnapshotKind::Final {
            self.final_at = Some(now.mono + self.settings.min_pause.max(FINAL_RETRY));
        }
        if kind == (SnapshotKind::Stop { drain: true }) {
            out.push(Action::Replace { reason: reason.to_owned() });
        }
        if counts && !kind.is_savepoint() {
            self.failed_in_a_row += 1;
            if let Some(tolerable) = self.settings.tolerable_failed
                && self.failed_in_a_row > tolerable
            {
                let n = self.failed_in_a_row;
                let reason = format!("{n} checkpoints failed in a row, {tolerable} are tolerated; the last: {reason}");
                out.push(Action::FailJob { reason });
                self.failed_in_a_row = 0;
            }
        }
    }

    fn abandon(&mut self, id: CheckpointId, p: Pending, reason: &str, now: Now, out: &mut Vec<Action>) {
        self.stats.failed(id, reason, millis_between(p.triggered, now), now.wall);
        if self.settings.storage {
            out.push(Action::Discard(p.directory));
        }
        if let Some(trigger_id) = p.trigger_id {
            out.push(Action::Resolved { trigger_id, kind: p.kind, outcome: Err(reason.to_owned()) });
        }
    }

    fn expire(&mut self, now: Now, out: &mut Vec<Action>) {
        let timeout = self.settings.timeout;
        let late = |p: &Pending| p.state == PendingState::Acknowledging && now.mono >= p.triggered.mono + timeout;
        for id in self.pending.iter().filter(|(_, p)| late(p)).map(|(id, _)| *id).collect::<Vec<_>>() {
            let missing = self.tasks.len() - self.pending.get(&id).map_or(0, |p| p.acks.len());
            let reason = format!(
                "expired after {} ms: {missing} of {} tasks have not acknowledged",
                timeout.as_millis(),
                self.tasks.len()
            );
            self.abort(id, &reason, true, now, out);
        }
    }

    /// One at a time, in the order of the ids.
    fn publish_next(&mut self, out: &mut Vec<Action>) {
        if self.pending.values().any(|p| p.state == PendingState::Publishing) {
            return;
        }
        let Some((id, p)) = self.pending.iter_mut().find(|(_, p)| p.state == PendingState::Ready) else { return };
        p.state = PendingState::Publishing;
        let last_ack = self.stats.get(*id).and_then(|s| s.latest_ack_at).unwrap_or(p.triggered.wall);
        out.push(Action::Publish(Box::new(Publish {
            attempt: self.attempt,
            id: *id,
            kind: p.kind,
            directory: p.directory.clone(),
            snapshots: std::mem::take(&mut p.acks),
            triggered_at: p.triggered.wall,
            duration_ms: u64::try_from(last_ack - p.triggered.wall).unwrap_or(0),
            size_bytes: p.size_bytes,
        })));
    }

    /// Nothing that ends the tasks is under way, and fewer than the maximum are.
    fn has_room(&self) -> bool {
        self.pending.len() < self.settings.max_concurrent && !self.pending.values().any(|p| p.kind.ends_tasks())
    }

    fn trigger_due(&mut self, now: Now, out: &mut Vec<Action>) {
        while self.phase == Phase::Running && self.has_room() {
            let wants_final = self.final_at.is_some_and(|at| now.mono >= at);
            let ends = self.queue.front().is_some_and(|q| q.kind.ends_tasks());
            if wants_final && !ends {
                self.final_at = None;
                self.trigger(SnapshotKind::Final, None, None, now, out);
            } else if let Some(q) = self.queue.pop_front() {
                self.trigger(q.kind, Some(q.trigger_id), q.target, now, out);
            } else if self.settings.storage && now.mono >= self.next_periodic {
                self.next_periodic = now.mono + self.settings.interval;
                self.trigger(SnapshotKind::Checkpoint, None, None, now, out);
            } else {
                break;
            }
        }
    }

    fn trigger(
        &mut self,
        kind: SnapshotKind,
        trigger_id: Option<String>,
        target: Option<String>,
        now: Now,
        out: &mut Vec<Action>,
    ) {
        let id = self.next_id;
        self.next_id = CheckpointId(id.0 + 1);
        // attempt and nonce in the name: no two processes ever write to the same directory
        let unique = format!("{id}-{}-{}", self.attempt, self.nonce);
        let directory = match (kind.is_savepoint(), target) {
            (true, Some(t)) => format!("{}/savepoint-{}-{unique}", t.trim_end_matches('/'), self.job),
            (true, None) => format!("savepoint-{unique}"),
            (false, _) => format!("chk-{unique}"),
        };
        self.stats.triggered(id, self.attempt, kind, self.tasks.len(), now.wall);
        let barrier = Barrier {
            id,
            attempt: self.attempt,
            kind,
            directory: directory.clone(),
            aligned: self.settings.aligned || kind.is_savepoint(),
        };
        out.push(Action::Command(TaskCommand::Trigger(barrier)));
        self.pending.insert(
            id,
            Pending {
                kind,
                directory,
                trigger_id,
                triggered: now,
                acks: BTreeMap::new(),
                size_bytes: 0,
                state: PendingState::Acknowledging,
            },
        );
    }
}

fn name(kind: SnapshotKind) -> &'static str {
    if kind.is_savepoint() { "savepoint" } else { "checkpoint" }
}

fn millis_between(from: Now, to: Now) -> u64 {
    u64::try_from(to.mono.saturating_sub(from.mono).as_millis()).unwrap_or(u64::MAX)
}
