//! What is observed of a job: its children in Kubernetes and its jobmanagers' own word. Plain data, built by the shell.
use super::pods::PodObs;
use crate::build::Role;
use crate::crd::status::Millis;
use std::collections::{BTreeMap, BTreeSet};
use weir_api::rest::{JobManagerPhase, WeirStatus};
use weir_api::status::JobState;

/// Everything observed of one job.
#[derive(Debug, Clone, Default)]
pub struct World {
    pub generations: BTreeMap<i64, GenerationObs>,
    /// Requests that a jobmanager refused (HTTP 4xx), by trigger id (or `start` and generation).
    pub refused: BTreeMap<String, Refusal>,
    /// Why the last apply of a child failed; empty when it did not.
    pub apply_error: String,
    /// What is wrong with pods, worst first.
    pub problems: Vec<Problem>,
    pub now: Millis,
}

/// What a jobmanager said to a request that it refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
    /// When it last said so.
    pub at: Millis,
}

/// The children of one generation.
#[derive(Debug, Clone, Default)]
pub struct GenerationObs {
    pub service: bool,
    pub job_manager: Option<DeploymentObs>,
    pub task_manager: Option<DeploymentObs>,
    pub pods: Vec<PodObs>,
    pub status: Option<StatusObs>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeploymentObs {
    /// Wanted by its spec.
    pub replicas: u32,
    /// Why pods cannot be created (quota, admission); empty otherwise.
    pub failure: String,
}

/// What the watcher of a jobmanager knows.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusObs {
    /// The last status; absent until the jobmanager answered once.
    pub last: Option<WeirStatus>,
    /// The last request was answered (or is being waited for).
    pub reachable: bool,
    /// Since when reachability, phase, job state and whether all tasks run are what they are.
    pub since: Millis,
    /// Taskmanagers that this jobmanager process had registered and lost, by the pod's name.
    pub lost: BTreeSet<String>,
}

/// Something wrong, for the Degraded condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub generation: i64,
    pub reason: String,
    pub message: String,
}

impl StatusObs {
    /// A jobmanager of another deployment may answer under the same name: one of a StreamJob that was deleted and created anew, on a node
    /// that is cut off.
    pub fn disregard_strangers(&mut self, uid: &str, generation: i64) {
        let known = self.last.as_ref().and_then(|s| s.deployment.as_ref());
        if known.is_some_and(|d| d.uid != uid || d.generation != generation) {
            self.last = None;
            self.reachable = false;
        }
    }
}

impl GenerationObs {
    /// Notes on the pods what the jobmanager says of itself and of its taskmanagers. `goes_on`: this generation is the one to run the job.
    pub fn mark(&mut self, status: &StatusObs, goes_on: bool) {
        // one that is refused the claim from the start belongs to a deployment that another has followed: it has to stay fenced
        let fenced = |s: &WeirStatus| s.phase == JobManagerPhase::Fenced && s.attempt > 0;
        let fenced = goes_on && status.reachable && status.last.as_ref().is_some_and(fenced);
        let alone = self.pods.iter().filter(|p| p.role == Role::JobManager).count() == 1;
        for pod in &mut self.pods {
            pod.unregistered = status.reachable && status.lost.contains(&pod.name);
            // a younger pod is not the one that said so
            let said_so = pod.role == Role::JobManager && pod.is_running_since(status.since);
            pod.fenced = fenced && alone && said_so;
        }
    }
}

impl World {
    /// The last word of a reachable jobmanager.
    pub fn status(&self, generation: i64) -> Option<&WeirStatus> {
        let s = self.generations.get(&generation)?.status.as_ref()?;
        if s.reachable { s.last.as_ref() } else { None }
    }

    /// The job runs: its jobmanager is reachable, holds the claim and says RUNNING.
    pub fn is_running(&self, generation: i64) -> bool {
        self.status(generation).is_some_and(|s| s.phase == JobManagerPhase::Active && s.job_state == JobState::Running)
    }

    /// Milliseconds for which the job has not been running; 0 while it runs or while nothing is known yet.
    pub fn not_running_for(&self, generation: i64) -> Millis {
        if self.is_running(generation) {
            return 0;
        }
        let since = self.generations.get(&generation).and_then(|g| g.status.as_ref()).map(|s| s.since);
        since.map_or(0, |s| (self.now - s).max(0))
    }

    /// Slots that a generation needs at this parallelism. Its jobmanager knows the graph; until it said so, a slot for each subtask. Its
    /// last word holds also when it cannot be reached: a generation's graph does not change.
    pub fn slots_needed(&self, generation: i64, parallelism: u32) -> u32 {
        let last = self.generations.get(&generation).and_then(|g| g.status.as_ref()).and_then(|s| s.last.as_ref());
        last.and_then(|s| s.slots_needed).map_or(parallelism, |n| n.at(parallelism))
    }

    /// Some of the generation's taskmanagers were told to go, and are there still.
    pub fn leaves(&self, generation: i64) -> bool {
        let pods = self.generations.get(&generation).into_iter().flat_map(|g| &g.pods);
        pods.into_iter().any(|p| p.role == Role::TaskManager && p.gone_by.is_some())
    }

    /// No child of this generation is left.
    pub fn is_gone(&self, generation: i64) -> bool {
        self.generations
            .get(&generation)
            .is_none_or(|g| g.job_manager.is_none() && g.task_manager.is_none() && g.pods.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::pods::ContainerObs;
    use super::*;
    use serde_json::json;

    fn status(uid: &str, phase: &str, attempt: u64) -> StatusObs {
        let last = json!({
            "version": 1, "instance": "i", "deployment": {"uid": uid, "generation": 1}, "jobId": "x", "phase": phase,
            "jobState": "CANCELED", "reason": "", "attempt": attempt, "restarts": 0, "parallelism": 2, "maxParallelism": 128,
            "taskmanagers": 0, "slotsTotal": 0, "allTasksRunning": false, "logHead": null, "lastCheckpoint": null,
            "lastSavepoint": null, "restoredFrom": null, "failedCheckpoints": 0, "checkpointFailure": "",
            "preflight": {"verdict": "Pending", "message": "", "restores": null}, "terminal": null, "operation": null,
        });
        StatusObs { last: serde_json::from_value(last).unwrap(), reachable: true, since: 50_000, lost: BTreeSet::new() }
    }

    fn pod(role: Role, since: Millis) -> PodObs {
        PodObs {
            name: "p".into(),
            uid: "u".into(),
            generation: 1,
            role,
            gone_by: None,
            node_lost: false,
            unschedulable: String::new(),
            containers: vec![ContainerObs { running: Some(since), ..ContainerObs::default() }],
            unregistered: false,
            fenced: false,
        }
    }

    #[test]
    fn a_jobmanager_of_another_deployment_is_not_listened_to() {
        let (mut ours, mut theirs) = (status("new", "Ended", 1), status("old", "Ended", 1));
        ours.disregard_strangers("new", 1);
        theirs.disregard_strangers("new", 1);
        assert_eq!((ours.reachable, theirs.reachable, theirs.last), (true, false, None));
    }

    /// The pods that count as fenced.
    fn fenced(pods: &[PodObs], status: &StatusObs, goes_on: bool) -> Vec<usize> {
        let mut g = GenerationObs { pods: pods.to_vec(), ..GenerationObs::default() };
        g.mark(status, goes_on);
        g.pods.iter().enumerate().filter(|(_, p)| p.fenced).map(|(n, _)| n).collect()
    }

    #[test]
    fn a_fenced_jobmanager_counts_when_no_other_is_left_to_run_the_job() {
        let pods = [pod(Role::TaskManager, 0), pod(Role::JobManager, 40_000)];
        assert_eq!(fenced(&pods, &status("u", "Fenced", 2), true), [1]);
        assert!(fenced(&pods, &status("u", "Active", 2), true).is_empty());
        assert!(fenced(&pods, &status("u", "Fenced", 0), true).is_empty(), "a later deployment holds the log");
        assert!(fenced(&pods, &status("u", "Fenced", 2), false).is_empty(), "the next generation has fenced it");
        let younger = [pod(Role::JobManager, 51_000)];
        assert!(fenced(&younger, &status("u", "Fenced", 2), true).is_empty(), "its predecessor said so");
        let two = [pod(Role::JobManager, 0), pod(Role::JobManager, 40_000)];
        assert!(fenced(&two, &status("u", "Fenced", 2), true).is_empty(), "the other may hold the claim");
        let silent = StatusObs { reachable: false, ..status("u", "Fenced", 2) };
        assert!(fenced(&pods, &silent, true).is_empty());
    }
}
