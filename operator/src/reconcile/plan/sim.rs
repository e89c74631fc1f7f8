//! A job's surroundings for tests of the plan, at its seams: stored status, children, and jobmanagers that keep the rules of the log.
//! The operator can be made to crash at any point of a pass: before and after the record is stored, and after each action.
use super::*;

use crate::build::Role;
use crate::crd::status::RolloutKind;
use crate::reconcile::pods::PodObs;
use crate::reconcile::unreadable;
use crate::reconcile::world::{DeploymentObs, GenerationObs, Problem, Refusal, StatusObs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use weir_api::rest::{
    OperationInfo, OperationKind, OperationState, Preflight, PreflightVerdict, SlotsNeeded, SnapshotInfo, TerminalInfo,
    WeirStatus,
};
use weir_api::status::JobState;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Claim { generation: i64, restores: Option<u64> },
    Completed,
    Stop,
    Terminal(TerminalStatus),
}

#[derive(Debug, Clone)]
struct Manager {
    phase: JobManagerPhase,
    /// Looks until it has read the answer to its claim: active, without an attempt so far.
    claiming: u8,
    /// Index of its claim.
    claim: Option<usize>,
    parallelism: u32,
    operation: Option<OperationInfo>,
    stopping: bool,
    cancelling: bool,
    rescaling: Option<u32>,
}

#[derive(Debug, Clone, Default)]
pub struct Kids {
    pub service: bool,
    pub task_managers: Option<u32>,
    manager: Option<Manager>,
    pub has_manager: bool,
    waits: bool,
    parallelism: u32,
    slots: u32,
    /// What the watcher saw last, and since when.
    seen: (Option<JobManagerPhase>, bool),
    since: Millis,
    /// Passes until the deletion is through.
    going: Option<u32>,
}

pub struct Sim {
    pub spec: StreamJobSpec,
    pub generation: i64,
    pub deleting: bool,
    deleted_at: Option<Millis>,
    pub finalizer: bool,
    pub stored: StreamJobStatus,
    pub kids: BTreeMap<i64, Kids>,
    pub log: Vec<Entry>,
    pub notes: Vec<String>,
    pub now: Millis,
    /// Generations whose image cannot be pulled.
    pub broken: Vec<i64>,
    /// Generations whose taskmanagers do not start.
    pub slotless: Vec<i64>,
    /// Pods that there is room for.
    pub room: u32,
    /// From this generation on the program has an operator with a parallelism of its own.
    pub own_width: (i64, u32),
    /// Generations whose graph does not fit the state.
    pub misfits: Vec<i64>,
    pub savepoints_fail: u32,
    /// The job ends by itself at this length of the log.
    pub finishes_at: Option<usize>,
    /// The job ends by itself after the operator's last look, while the next generation asks for the log.
    pub finishes_unseen: bool,
    /// Until then a taskmanager of generation 1 that was told to go is still there.
    pub leaving_until: Millis,
    /// Starts asked for.
    pub starts: u32,
    pub invalid: Option<String>,
    /// What the job's end keeps.
    pub kept: Vec<String>,
    /// Generations whose pods stay when they are deleted.
    pub hangs: Vec<i64>,
    /// This version of the operator cannot read the object any more.
    pub unreadable: bool,
    pub problems: Vec<Problem>,
    refused: BTreeMap<String, Refusal>,
    crash_in: Option<usize>,
    pub points: usize,
    /// When the last plan wants the next look.
    pub look_again: Option<Millis>,
    /// Attempts so far.
    attempts: u64,
}

pub fn spec(over: Value) -> StreamJobSpec {
    let mut base = json!({"image": "flights:1", "parallelism": 2, "checkpoint": {"storage": "file:///c"}});
    crate::build::merge::merge(base.as_object_mut().unwrap(), over.as_object().unwrap());
    serde_json::from_value(base).unwrap()
}

impl Sim {
    pub fn new(over: Value) -> Self {
        Self {
            spec: spec(over),
            generation: 1,
            deleting: false,
            deleted_at: None,
            finalizer: true,
            stored: StreamJobStatus::default(),
            kids: BTreeMap::new(),
            log: Vec::new(),
            notes: Vec::new(),
            now: 1_000_000,
            broken: Vec::new(),
            slotless: Vec::new(),
            room: 1_000,
            own_width: (1, 0),
            misfits: Vec::new(),
            savepoints_fail: 0,
            finishes_at: None,
            finishes_unseen: false,
            leaving_until: 0,
            starts: 0,
            invalid: None,
            kept: vec!["/c/kept".into()],
            hangs: Vec::new(),
            unreadable: false,
            problems: Vec::new(),
            refused: BTreeMap::new(),
            crash_in: None,
            points: 0,
            look_again: None,
            attempts: 0,
        }
    }

    /// A job that runs.
    pub fn running(over: Value) -> Self {
        let mut s = Self::new(over);
        s.settle();
        assert_eq!(s.stored.phase.as_str(), "Running", "{:#?}", s.stored);
        s
    }

    pub fn edit(&mut self, over: Value) {
        let mut v = serde_json::to_value(&self.spec).unwrap();
        crate::build::merge::merge(v.as_object_mut().unwrap(), over.as_object().unwrap());
        self.spec = serde_json::from_value(v).unwrap();
        self.generation += 1;
    }

    pub fn delete(&mut self) {
        self.deleting = true;
        self.deleted_at = Some(self.now);
        self.generation += 1;
    }

    /// The operator will crash at the `n`th point from now.
    pub fn crash_in(&mut self, n: usize) {
        self.crash_in = Some(n);
    }

    /// The process of a jobmanager dies and comes back.
    pub fn kill_manager(&mut self, generation: i64) {
        if let Some(k) = self.kids.get_mut(&generation) {
            k.manager = None;
        }
    }

    /// Passes and time until nothing changes any more.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..600 {
            quiet = if self.pass() { 0 } else { quiet + 1 };
            self.tick();
            if quiet > 20 && self.stored.rollout.as_ref().is_none_or(|r| r.retry_at.is_none()) || !self.finalizer {
                return;
            }
        }
    }

    /// One look of the operator; true when it changed or did something.
    pub fn pass(&mut self) -> bool {
        let now = self.now;
        let own_width = self.own_width;
        for (g, k) in &mut self.kids {
            let needs = needs(own_width, *g);
            let has = |m: &Manager| m.phase == JobManagerPhase::Active && k.slots >= needs.at(m.parallelism);
            let works = k.manager.as_ref().is_some_and(has);
            let seen = (k.manager.as_ref().map(|m| m.phase), works);
            if k.seen != seen || k.since == 0 {
                (k.seen, k.since) = (seen, now);
            }
        }
        let world = self.world();
        if self.unreadable {
            return self.pass_unread(&world);
        }
        let uid = "u".to_owned();
        let job = Job {
            namespace: "ns",
            name: "job",
            uid: &uid,
            generation: self.generation,
            deleting: self.deleting,
            spec: &self.spec,
            invalid: self.invalid.as_deref(),
        };
        let p = plan(&job, &self.stored, &world);
        self.look_again = p.look_again;
        if self.crashes() {
            return true;
        }
        let mut did = strip(&p.status) != strip(&self.stored);
        if p.status != self.stored {
            self.stored = p.status;
            self.notes.extend(p.notes.into_iter().map(|n| n.reason));
        }
        if self.crashes() {
            return true;
        }
        for a in p.actions {
            did = true;
            self.act(a);
            if self.crashes() {
                return true;
            }
        }
        did
    }

    /// Without a record: there is none that could be read.
    fn pass_unread(&mut self, world: &World) -> bool {
        let Some(since) = self.deleted_at else { return false };
        let look = unreadable::delete(world, since);
        self.look_again = look.look_again;
        self.notes.extend(look.kept);
        if self.crashes() {
            return true;
        }
        let did = !look.actions.is_empty();
        for a in look.actions {
            self.act(a);
            if self.crashes() {
                break;
            }
        }
        did
    }

    fn crashes(&mut self) -> bool {
        self.points += 1;
        match &mut self.crash_in {
            Some(0) => {
                self.crash_in = None;
                // what only memory held is gone
                self.refused.clear();
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        }
    }

    fn latest(&self) -> Option<(usize, Entry)> {
        self.log.iter().copied().enumerate().rev().find(|(_, e)| matches!(e, Entry::Completed | Entry::Stop))
    }

    fn snapshot(&self) -> Option<SnapshotInfo> {
        self.latest().map(|(i, e)| SnapshotInfo {
            id: i as u64,
            path: format!("/c/{i}"),
            log_index: Some(i as u64),
            is_savepoint: e == Entry::Stop,
            is_stop: e == Entry::Stop,
            completed_at: 0,
            size_bytes: 0,
            duration_ms: 0,
        })
    }

    fn last_claim(&self) -> Option<usize> {
        self.log.iter().rposition(|e| matches!(e, Entry::Claim { .. }))
    }

    fn claim(&mut self, generation: i64, stateless: bool) -> usize {
        let restores = if stateless { None } else { self.latest().map(|(i, _)| i as u64) };
        self.log.push(Entry::Claim { generation, restores });
        self.attempts += 1;
        self.log.len() - 1
    }

    fn act(&mut self, a: Action) {
        match a {
            Action::CreateService { generation } => self.kids.entry(generation).or_default().service = true,
            Action::CreateJobManager { generation } => {
                let r = self.stored.rollout.as_ref().filter(|r| r.to == generation);
                let launches = r.is_some_and(|r| r.kind == RolloutKind::Launch && r.strategy != Strategy::Stateless);
                let parallelism = match (&self.stored.deployed, r) {
                    (Some(d), _) if d.generation == generation => d.launch_parallelism,
                    (_, Some(r)) => r.spec.parallelism,
                    _ => panic!("generation {generation} is not in the record"),
                };
                let k = self.kids.entry(generation).or_default();
                (k.has_manager, k.waits, k.parallelism) = (true, !launches, parallelism);
            }
            Action::CreateTaskManagers { generation, replicas }
            | Action::ScaleTaskManagers { generation, replicas, .. } => {
                self.kids.entry(generation).or_default().task_managers = Some(replicas);
            }
            Action::DeleteGeneration { generation } => {
                if let Some(k) = self.kids.get_mut(&generation) {
                    k.going.get_or_insert(2);
                }
            }
            Action::ForceDeletePods => self.kids.clear(),
            Action::RemoveFinalizer => self.finalizer = false,
            Action::Stop { generation, trigger } => self.on_stop(generation, trigger),
            Action::Start { generation, request } => self.on_start(generation, &request),
            Action::SetParallelism { generation, request } => self.on_rescale(generation, &request),
            Action::Cancel { generation } => {
                if let Some(m) = self.manager(generation) {
                    m.cancelling = true;
                }
            }
        }
    }

    fn manager(&mut self, generation: i64) -> Option<&mut Manager> {
        self.kids.get_mut(&generation)?.manager.as_mut()
    }

    fn on_stop(&mut self, generation: i64, trigger: String) {
        let Some(m) = self.manager(generation) else { return };
        if m.phase != JobManagerPhase::Active || m.operation.as_ref().is_some_and(|o| o.trigger_id == trigger) {
            return;
        }
        m.stopping = true;
        m.operation = Some(operation(trigger, OperationKind::Stop));
    }

    fn on_start(&mut self, generation: i64, request: &StartRequest) {
        self.starts += 1;
        let latest = self.latest().map(|(i, _)| i as u64);
        let Some(m) = self.manager(generation) else { return };
        if m.phase != JobManagerPhase::Waiting {
            return;
        }
        if request.expect_log_index.is_some() && request.expect_log_index != latest {
            self.refuse(rollout::start_key(generation), "the log has moved");
            return;
        }
        if let Some(p) = request.parallelism {
            m.parallelism = p;
        }
        if std::mem::take(&mut self.finishes_unseen) {
            self.log.push(Entry::Terminal(TerminalStatus::Finished));
            let managers = self.kids.values_mut().filter_map(|k| k.manager.as_mut());
            managers.filter(|m| m.phase == JobManagerPhase::Active).for_each(|m| m.phase = JobManagerPhase::Ended);
        }
        if self.is_done() {
            self.manager(generation).unwrap().phase = JobManagerPhase::Ended;
            return;
        }
        let m = self.manager(generation).unwrap();
        m.phase = JobManagerPhase::Active;
        let others = self.kids.iter().filter(|(g, _)| **g != generation);
        let alive = others.filter_map(|(_, k)| k.manager.as_ref()).any(|m| m.phase == JobManagerPhase::Active);
        assert!(self.spec.checkpoint.storage.is_some() || !alive, "two generations run and nothing fences either");
        let claim = self.claim(generation, request.stateless);
        if let Some(m) = self.manager(generation) {
            (m.claim, m.claiming) = (Some(claim), 2);
        }
    }

    /// What is finished is not run again, as the jobmanager sees to; `restartNonce` is not looked at here.
    fn is_done(&self) -> bool {
        self.spec.restart_nonce.is_none() && self.log.last() == Some(&Entry::Terminal(TerminalStatus::Finished))
    }

    fn refuse(&mut self, key: String, why: &str) {
        self.refused.insert(key, Refusal { why: why.into(), at: self.now });
    }

    fn on_rescale(&mut self, generation: i64, request: &RescaleRequest) {
        let (slots, needs) = (self.kids[&generation].slots, needs(self.own_width, generation));
        let Some(m) = self.manager(generation) else { return };
        if m.operation.as_ref().is_some_and(|o| o.trigger_id == request.trigger_id) {
            return;
        }
        if slots < needs.at(request.parallelism) {
            self.refuse(request.trigger_id.clone(), "too few slots");
            return;
        }
        m.rescaling = Some(request.parallelism);
        m.operation = Some(operation(request.trigger_id.clone(), OperationKind::Rescale));
    }

    /// A second passes: pods come and go, jobmanagers work.
    pub fn tick(&mut self) {
        self.now += 1_000;
        for g in self.kids.keys().copied().collect::<Vec<_>>() {
            let k = self.kids.get_mut(&g).unwrap();
            if let Some(n) = k.going {
                if n == 0 && !self.hangs.contains(&g) {
                    self.kids.remove(&g);
                } else {
                    k.going = Some(n.saturating_sub(1));
                    k.manager = None;
                }
                continue;
            }
            k.slots = if self.slotless.contains(&g) { 0 } else { k.task_managers.unwrap_or(0).min(self.room) };
            if k.has_manager && !self.broken.contains(&g) {
                self.work(g);
            }
        }
    }

    fn work(&mut self, g: i64) {
        let (waits, parallelism, slots) = (self.kids[&g].waits, self.kids[&g].parallelism, self.kids[&g].slots);
        let last = self.last_claim();
        let owner = last.map(|i| self.log[i]);
        let mine = matches!(owner, Some(Entry::Claim { generation, .. }) if generation == g);
        let after: Vec<Entry> = last.map_or(Vec::new(), |i| self.log[i + 1..].to_vec());
        let Some(m) = self.manager(g).cloned() else {
            let mut m = Manager {
                phase: JobManagerPhase::Waiting,
                claiming: 0,
                claim: None,
                parallelism,
                operation: None,
                stopping: false,
                cancelling: false,
                rescaling: None,
            };
            if mine && (after.contains(&Entry::Stop) || after.iter().any(|e| matches!(e, Entry::Terminal(_)))) {
                if !after.iter().any(|e| matches!(e, Entry::Terminal(_))) {
                    self.log.push(Entry::Terminal(TerminalStatus::Stopped));
                }
                m.phase = JobManagerPhase::Ended;
            } else if !mine && self.is_done() {
                m.phase = JobManagerPhase::Ended;
            } else if mine || !waits {
                m.claim = Some(self.claim(g, false));
                m.phase = JobManagerPhase::Active;
            }
            self.kids.get_mut(&g).unwrap().manager = Some(m);
            return;
        };
        if m.phase == JobManagerPhase::Waiting && self.is_done() {
            self.manager(g).unwrap().phase = JobManagerPhase::Ended;
        }
        if m.phase != JobManagerPhase::Active {
            return;
        }
        if m.claim != last {
            self.manager(g).unwrap().phase = JobManagerPhase::Fenced;
            return;
        }
        if m.cancelling {
            return self.finish(g, TerminalStatus::Canceled);
        }
        if m.claiming > 0 {
            self.manager(g).unwrap().claiming -= 1;
        }
        if slots < needs(self.own_width, g).at(m.parallelism) || m.claiming > 1 {
            return;
        }
        if self.finishes_at.is_some_and(|n| self.log.len() >= n) {
            return self.finish(g, TerminalStatus::Finished);
        }
        if m.stopping {
            let fails = self.savepoints_fail > 0;
            self.savepoints_fail = self.savepoints_fail.saturating_sub(1);
            let index = self.log.len() as u64;
            let m = self.manager(g).unwrap();
            m.stopping = false;
            let o = m.operation.as_mut().unwrap();
            if fails {
                (o.state, o.message) = (OperationState::Failed, "disk full".into());
                return;
            }
            (o.state, o.message, o.log_index) = (OperationState::Completed, format!("/c/{index}"), Some(index));
            self.log.push(Entry::Stop);
            return self.finish(g, TerminalStatus::Stopped);
        }
        if let Some(p) = m.rescaling {
            self.log.push(Entry::Completed);
            let claim = self.claim(g, false);
            let m = self.manager(g).unwrap();
            (m.rescaling, m.parallelism, m.claim) = (None, p, Some(claim));
            m.operation.as_mut().unwrap().state = OperationState::Completed;
            return;
        }
        self.log.push(Entry::Completed);
    }

    fn finish(&mut self, g: i64, status: TerminalStatus) {
        self.log.push(Entry::Terminal(status));
        self.manager(g).unwrap().phase = JobManagerPhase::Ended;
    }

    fn world(&self) -> World {
        let generations = self.kids.iter().map(|(g, k)| {
            let deployment = |replicas| DeploymentObs { replicas, failure: String::new() };
            let seen = GenerationObs {
                service: k.service,
                job_manager: k.has_manager.then(|| deployment(1)),
                task_manager: k.task_managers.map(deployment),
                pods: Vec::from_iter((*g == 1 && self.now < self.leaving_until).then(leaving)),
                status: Some(StatusObs {
                    reachable: k.manager.is_some(),
                    last: self.status(*g, k),
                    since: k.since,
                    lost: std::collections::BTreeSet::new(),
                }),
            };
            (*g, seen)
        });
        World {
            generations: generations.collect(),
            refused: self.refused.clone(),
            apply_error: String::new(),
            problems: self.problems.clone(),
            now: self.now,
        }
    }

    fn status(&self, g: i64, k: &Kids) -> Option<WeirStatus> {
        let m = k.manager.as_ref()?;
        let needs = needs(self.own_width, g);
        let has_slots = k.slots >= needs.at(m.parallelism);
        let works = m.phase == JobManagerPhase::Active && has_slots && m.claiming == 0;
        let terminal = match self.log.last() {
            Some(Entry::Terminal(s)) if m.phase == JobManagerPhase::Ended => Some(*s),
            _ => None,
        };
        let verdict =
            if self.misfits.contains(&g) { PreflightVerdict::Incompatible } else { PreflightVerdict::Compatible };
        let restored = m.claim.and_then(|i| match self.log[i] {
            Entry::Claim { restores: Some(r), .. } => Some(r),
            _ => None,
        });
        Some(WeirStatus {
            version: 1,
            instance: "i".into(),
            deployment: None,
            job_id: String::new(),
            phase: m.phase,
            job_state: if works { JobState::Running } else { JobState::Created },
            reason: match needs.at(m.parallelism) {
                _ if has_slots => String::new(),
                n => format!("the job needs {n} slots and {} are registered", k.slots),
            },
            attempt: if m.claiming > 0 { 0 } else { self.attempts },
            restarts: 0,
            parallelism: m.parallelism,
            max_parallelism: 128,
            taskmanagers: k.slots,
            slots_total: k.slots,
            slots_needed: Some(needs),
            all_tasks_running: works,
            log_head: None,
            last_checkpoint: self.snapshot(),
            last_savepoint: self.snapshot().filter(|s| s.is_savepoint),
            restored_from: restored.map(|i| SnapshotInfo {
                id: i,
                path: format!("/c/{i}"),
                log_index: Some(i),
                is_savepoint: false,
                is_stop: false,
                completed_at: 0,
                size_bytes: 0,
                duration_ms: 0,
            }),
            failed_checkpoints: 0,
            checkpoint_failure: String::new(),
            preflight: Preflight { verdict, message: "state legs: u64 became text".into(), restores: self.snapshot() },
            terminal: terminal.map(|status| TerminalInfo {
                status,
                log_index: None,
                kept: self.kept.clone(),
                reason: String::new(),
                at: 0,
            }),
            operation: m.operation.clone(),
        })
    }

    pub fn claims(&self) -> Vec<(i64, Option<u64>)> {
        self.log
            .iter()
            .filter_map(|e| match e {
                Entry::Claim { generation, restores } => Some((*generation, *restores)),
                _ => None,
            })
            .collect()
    }

    pub fn stops(&self) -> Vec<usize> {
        self.log.iter().enumerate().filter(|(_, e)| **e == Entry::Stop).map(|(i, _)| i).collect()
    }

    pub fn generations(&self) -> Vec<i64> {
        self.kids.keys().copied().collect()
    }

    pub fn message(&self, type_: &str) -> String {
        self.stored.conditions.iter().find(|c| c.type_ == type_).unwrap().message.clone()
    }

    pub fn condition(&self, type_: &str) -> (String, String, Option<i64>) {
        let c = self.stored.conditions.iter().find(|c| c.type_ == type_).unwrap();
        (c.status.clone(), c.reason.clone(), c.observed_generation)
    }
}

fn leaving() -> PodObs {
    PodObs {
        name: "p".into(),
        uid: "u".into(),
        generation: 1,
        role: Role::TaskManager,
        gone_by: Some(0),
        node_lost: false,
        unschedulable: String::new(),
        containers: Vec::new(),
        unregistered: false,
        fenced: false,
    }
}

fn needs((since, fixed): (i64, u32), generation: i64) -> SlotsNeeded {
    SlotsNeeded { fixed: if generation >= since { fixed } else { 0 }, follows: true }
}

fn operation(trigger_id: String, kind: OperationKind) -> OperationInfo {
    OperationInfo { trigger_id, kind, state: OperationState::InProgress, message: String::new(), log_index: None }
}

/// A status without what every checkpoint changes.
fn strip(s: &StreamJobStatus) -> StreamJobStatus {
    let mut s = s.clone();
    s.last_checkpoint = None;
    s
}
