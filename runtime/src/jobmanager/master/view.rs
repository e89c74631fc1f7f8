//! What the master shows: the operator's status body, and read access for REST and metrics.
use super::{ExceptionEntry, Master, Phase, Stage, TaskView};
use crate::checkpoint::stats::CheckpointStats;
use crate::control::TaskCounters;
use crate::dataflow::task::TaskId;
use crate::graph::JobGraph;
use crate::jobmanager::lifecycle::Lifecycle;
use crate::jobmanager::registry::Registry;
use std::collections::BTreeMap;
use weir_api::config::JobConfig;
use weir_api::ids::{Attempt, CheckpointId};
use weir_api::rest::{OperationInfo, WeirStatus};
use weir_api::status::{JobState, TaskState};

impl Master {
    /// The status body; the driver sets `version` and `instance`.
    pub fn status(&self) -> WeirStatus {
        let stats = self.coordinator.stats();
        WeirStatus {
            version: 0,
            instance: String::new(),
            deployment: self.config.deployment.clone(),
            job_id: self.config.job.job_id(),
            phase: self.manager_phase(),
            job_state: self.lifecycle.state(),
            reason: self.reason.clone(),
            attempt: self.attempt.0,
            restarts: self.restarts(),
            parallelism: self.parallelism,
            max_parallelism: self.config.max_parallelism,
            taskmanagers: self.registry.len() as u32,
            slots_total: self.registry.slots(),
            slots_needed: Some(JobGraph::slots_needed(&self.graph, self.config.max_parallelism)),
            all_tasks_running: self.all_tasks_running(),
            log_head: self.facts.head,
            last_checkpoint: self.facts.last_checkpoint.clone(),
            last_savepoint: self.facts.last_savepoint.clone(),
            restored_from: self.restored_from.clone(),
            failed_checkpoints: stats.counts.failed,
            checkpoint_failure: self.checkpoint_failure(),
            preflight: self.preflight.clone(),
            terminal: self.terminal.clone(),
            operation: self.operations.last().cloned(),
        }
    }

    /// The last checkpoint's failure; empty when the last one completed.
    fn checkpoint_failure(&self) -> String {
        let stats = self.coordinator.stats();
        let completed = stats.latest_completed.as_ref().map_or(0, |c| c.id.0);
        let failed = stats.latest_failed.as_ref().filter(|f| f.id.0 > completed && !f.kind.is_savepoint());
        failed.and_then(|f| f.failure.clone()).unwrap_or_default()
    }

    /// Checkpoints from this number on begin later.
    pub fn next_checkpoint(&self) -> CheckpointId {
        self.coordinator.next_checkpoint()
    }
    /// What was asked for under this trigger id.
    pub fn operation(&self, trigger_id: &str) -> Option<&OperationInfo> {
        self.operations.get(trigger_id)
    }

    pub fn all_tasks_running(&self) -> bool {
        let running = |t: &TaskView| matches!(t.state, TaskState::Running | TaskState::Finished);
        match &self.phase {
            Phase::Active(Stage::Running(e)) => e.all_running && e.tasks.values().all(running),
            _ => false,
        }
    }

    /// Attempts after the first one that this process started.
    pub fn restarts(&self) -> u64 {
        self.claims.saturating_sub(1)
    }
    pub fn config(&self) -> &JobConfig {
        &self.config
    }
    pub fn plan(&self) -> &JobGraph {
        &self.plan
    }
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }
    pub fn state(&self) -> JobState {
        self.lifecycle.state()
    }
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }
    pub fn reason(&self) -> &str {
        &self.reason
    }
    pub fn checkpoints(&self) -> &CheckpointStats {
        self.coordinator.stats()
    }
    /// Newest first.
    pub fn exceptions(&self) -> impl Iterator<Item = &ExceptionEntry> {
        self.history.entries()
    }
    pub fn exceptions_truncated(&self) -> bool {
        self.history.is_truncated()
    }
    /// Counters of the current attempt, as the last heartbeats had them.
    pub fn counters(&self, task: TaskId) -> TaskCounters {
        self.counters.get(&task).copied().unwrap_or_default()
    }
    /// Tasks of the current attempt; none while nothing is deployed.
    pub fn tasks(&self) -> Option<&BTreeMap<TaskId, TaskView>> {
        match &self.phase {
            Phase::Active(Stage::Running(e)) => Some(&e.tasks),
            _ => None,
        }
    }
    /// State of a task, also where none is deployed.
    pub fn task_state(&self, task: TaskId) -> TaskState {
        match (self.tasks(), self.state()) {
            (Some(tasks), _) => tasks.get(&task).map_or(TaskState::Created, |t| t.state),
            (None, JobState::Finished) => TaskState::Finished,
            (None, JobState::Canceled) => TaskState::Canceled,
            (None, JobState::Failed) => TaskState::Failed,
            (None, JobState::Cancelling | JobState::Failing | JobState::Suspended) => TaskState::Canceling,
            (None, _) => match self.phase {
                Phase::Active(Stage::Slots(_)) => TaskState::Scheduled,
                _ => TaskState::Created,
            },
        }
    }
    /// A snapshot's directory as people name it.
    pub fn snapshot_name(&self, path: &str) -> String {
        super::absolute(&self.storage_root, path)
    }
}
