//! Pure: what is wanted, recorded and observed -> the next record and the actions on it.
//!
//! The record (the status) is stored before any action, and every action is derived from the record and the observation alone, so each is safe to repeat:
//! an operator that died anywhere takes up where the record says. `docs/design.md` has the state chart and the failure table.
use super::diff::{Change, Diff, diff, diff_before_start};
use super::world::World;
use super::{actions, deletion, rescale, rollout, status};
use crate::crd::status::{Deployed, EndStatus, Ended, Millis, Rollout, RolloutKind, Step, Strategy};
use crate::crd::{DesiredState, StreamJobSpec, StreamJobStatus, UpgradeMode};
use weir_api::rest::{JobManagerPhase, RescaleRequest, StartRequest, TerminalInfo};
use weir_api::status::TerminalStatus;

/// The job as its owner wants it.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub generation: i64,
    pub deleting: bool,
    pub spec: &'a StreamJobSpec,
    /// Why the spec is invalid: then nothing new begins, and what was begun goes on.
    pub invalid: Option<&'a str>,
}

/// Something to do. Each may be done twice without harm.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    CreateService {
        generation: i64,
    },
    CreateJobManager {
        generation: i64,
    },
    CreateTaskManagers {
        generation: i64,
        replicas: u32,
    },
    ScaleTaskManagers {
        generation: i64,
        replicas: u32,
        idle_first: bool,
    },
    DeleteGeneration {
        generation: i64,
    },
    /// Pods that do not go away: their node does not answer.
    ForceDeletePods,
    Stop {
        generation: i64,
        trigger: String,
    },
    Start {
        generation: i64,
        request: StartRequest,
    },
    SetParallelism {
        generation: i64,
        request: RescaleRequest,
    },
    Cancel {
        generation: i64,
    },
    RemoveFinalizer,
}

/// What the owner is told, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// To be stored before the actions.
    pub status: StreamJobStatus,
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
    /// Look again at this time at the latest.
    pub look_again: Option<Millis>,
}

/// One look at the job.
pub fn plan(job: &Job<'_>, old: &StreamJobStatus, world: &World) -> Plan {
    let mut p = Planner { job, world, status: old.clone(), notes: Vec::new(), look_again: None, record_first: false };
    // a step may fall through to the next (an upgrade that needs no savepoint); the bound stops a fault in the chart
    for _ in 0..8 {
        if !p.advance() || p.record_first {
            break;
        }
    }
    status::observe(&mut p, old);
    let actions = actions::derive(&mut p);
    Plan { status: p.status, actions, notes: p.notes, look_again: p.look_again }
}

/// The plan in the making.
pub(super) struct Planner<'a> {
    pub job: &'a Job<'a>,
    pub world: &'a World,
    pub status: StreamJobStatus,
    pub notes: Vec<Note>,
    pub look_again: Option<Millis>,
    /// The record is stored before the next step is decided.
    pub record_first: bool,
}

impl Planner<'_> {
    pub fn now(&self) -> Millis {
        self.world.now
    }

    pub fn wake_at(&mut self, at: Millis) {
        self.look_again = Some(self.look_again.map_or(at, |t| t.min(at)));
    }

    pub fn note(&mut self, reason: &str, message: impl Into<String>) {
        self.notes.push(Note { warning: false, reason: reason.into(), message: message.into() });
    }

    pub fn warn(&mut self, reason: &str, message: impl Into<String>) {
        self.notes.push(Note { warning: true, reason: reason.into(), message: message.into() });
    }

    /// One transition; false when there is none to make.
    fn advance(&mut self) -> bool {
        if self.job.deleting {
            return deletion::advance(self);
        }
        if self.status.rollout.is_some() {
            return rollout::advance(self);
        }
        if self.job.invalid.is_none() && self.begin() {
            return true;
        }
        self.note_end() || rescale::advance(self)
    }

    /// Begins what the spec asks for; false when it asks for nothing new.
    fn begin(&mut self) -> bool {
        let spec = self.job.spec;
        let suspended = spec.state == DesiredState::Suspended;
        let Some(d) = self.status.deployed.clone() else {
            if suspended {
                return false;
            }
            let strategy = if spec.restore.from.is_some() { Strategy::Redeploy } else { Strategy::LastState };
            return self.launch(strategy, "first launch".into());
        };
        let Diff { change, because } =
            if d.attempt.is_some() { diff(&d.spec, spec) } else { diff_before_start(&d.spec, spec) };
        if let Some(ended) = &d.ended {
            return !suspended
                && runs_again(ended, &d.spec, spec, change)
                && self.launch(self.goes_on_by(&d, change), because);
        }
        if d.suspended.is_some() {
            return !suspended && {
                let why = if because.is_empty() { "spec.state: Suspended -> Running".into() } else { because };
                self.launch(self.goes_on_by(&d, change), why)
            };
        }
        // what the jobmanager was told to do comes first: its outcome decides what an upgrade starts from
        if rescale::is_requested(self) {
            return false;
        }
        let stuck = change == Change::Rescale && rescale::is_stuck(self, &d);
        if suspended {
            self.replace(
                RolloutKind::Suspend,
                by_mode(spec, Change::Upgrade),
                &d,
                "spec.state: Running -> Suspended".into(),
            );
        } else if change >= Change::Upgrade || stuck {
            let strategy = if self.owes_redeploy(&d) { Strategy::Redeploy } else { by_mode(spec, change) };
            self.replace(RolloutKind::Upgrade, strategy, &d, because);
        } else if change != Change::None {
            return self.adopt(&d, change);
        } else {
            return false;
        }
        true
    }

    /// How a job goes on of which nothing runs: from its latest snapshot, or, where its log knows of none (another storage, or it
    /// never ran), from where its owner says.
    fn goes_on_by(&self, d: &Deployed, change: Change) -> Strategy {
        let spec = self.job.spec;
        let elsewhere = d.spec.checkpoint.storage != spec.checkpoint.storage;
        match by_mode(spec, change) {
            Strategy::Savepoint | Strategy::LastState if elsewhere || self.owes_redeploy(d) => Strategy::Redeploy,
            Strategy::Savepoint => Strategy::LastState,
            strategy => strategy,
        }
    }

    /// It never started, and was to start from where its owner said: the next is still to do so.
    fn owes_redeploy(&self, d: &Deployed) -> bool {
        let first = self.status.attempt.is_none() && self.job.spec.restore.from.is_some();
        first || d.attempt.is_none() && d.redeploys
    }

    /// Takes over the fields that touch nothing that runs. The parallelism follows when the job has it.
    fn adopt(&mut self, d: &Deployed, change: Change) -> bool {
        let mut spec = self.job.spec.clone();
        spec.parallelism = d.spec.parallelism;
        if spec == d.spec {
            return false;
        }
        if change == Change::Ignore {
            self.note("SpecAdopted", format!("{}: takes effect without a restart", diff(&d.spec, &spec).because));
        }
        if let Some(deployed) = &mut self.status.deployed {
            deployed.spec = spec;
        }
        true
    }

    fn launch(&mut self, strategy: Strategy, because: String) -> bool {
        self.note("Launching", format!("starting generation {}: {because}", self.job.generation));
        self.status.rescale = None;
        self.status.rollout = Some(self.new_rollout(RolloutKind::Launch, strategy, None, because, Step::Starting));
        self.status.deployed = Some(Deployed { redeploys: strategy == Strategy::Redeploy, ..self.new_deployed() });
        true
    }

    fn replace(&mut self, kind: RolloutKind, strategy: Strategy, d: &Deployed, because: String) {
        let storage = &self.job.spec.checkpoint.storage;
        // one that was not started has fenced nobody: who ran before may have another log
        let settled = d.attempt.is_some() || !d.redeploys;
        let shares_log = settled && storage.is_some() && *storage == d.spec.checkpoint.storage;
        // what another storage holds is not the job's latest: its owner named the snapshot
        let strategy = match strategy {
            Strategy::Savepoint | Strategy::LastState if kind == RolloutKind::Upgrade && !shares_log => {
                Strategy::Redeploy
            }
            s => s,
        };
        let (reason, what) = match kind {
            RolloutKind::Suspend => ("Suspending", "suspending"),
            _ => ("Upgrading", "upgrading"),
        };
        let to = self.job.generation;
        self.note(reason, format!("{what} generation {} ({strategy:?}): {because}", d.generation));
        self.record_first = true;
        self.wake_at(self.now());
        self.status.rescale = None;
        self.status.rollout = Some(Rollout {
            to,
            shares_log,
            ..self.new_rollout(kind, strategy, Some(d.generation), because, Step::Preparing)
        });
    }

    fn new_rollout(
        &self,
        kind: RolloutKind,
        strategy: Strategy,
        from: Option<i64>,
        because: String,
        step: Step,
    ) -> Rollout {
        Rollout {
            kind,
            strategy,
            from,
            to: self.job.generation,
            spec: self.job.spec.clone(),
            because,
            step,
            since: self.now(),
            tries: 0,
            retry_at: None,
            problem: String::new(),
            baseline: None,
            shares_log: true,
            savepoint: None,
        }
    }

    fn new_deployed(&self) -> Deployed {
        Deployed {
            generation: self.job.generation,
            spec: self.job.spec.clone(),
            launch_parallelism: self.job.spec.parallelism,
            attempt: None,
            redeploys: false,
            suspended: None,
            ended: None,
        }
    }

    /// Records that the job ended for good; false when it has not.
    fn note_end(&mut self) -> bool {
        let Some(d) = self.status.deployed.as_ref().filter(|d| d.ended.is_none() && d.suspended.is_none()) else {
            return false;
        };
        let Some(t) = self.world.status(d.generation).and_then(|s| s.terminal.clone()) else { return false };
        self.end(&t);
        true
    }

    /// Writes the end down; the children go after that.
    pub fn end(&mut self, t: &TerminalInfo) {
        let status = EndStatus::from(t.status);
        let kept =
            if t.kept.is_empty() { "no snapshot was kept".into() } else { format!("kept: {}", t.kept.join(", ")) };
        let message = if t.reason.is_empty() { kept } else { format!("{}; {kept}", t.reason) };
        match t.status {
            TerminalStatus::Failed => self.warn("Failed", format!("the job failed: {message}")),
            TerminalStatus::Finished => self.note("Finished", format!("the job finished; {message}")),
            TerminalStatus::Canceled => self.note("Canceled", format!("the job was cancelled; {message}")),
            TerminalStatus::Stopped => self.note("Stopped", format!("the job was stopped with a savepoint; {message}")),
        }
        if let Some(d) = &mut self.status.deployed {
            d.ended = Some(Ended { status, reason: t.reason.clone(), kept: t.kept.clone() });
        }
        self.status.rollout = None;
        self.status.rescale = None;
    }

    /// The generation's jobmanager holds the claim. With attempt 0 it asks for it, and may be refused.
    pub fn is_active(&self, generation: i64) -> bool {
        self.world.status(generation).is_some_and(|s| s.phase == JobManagerPhase::Active && s.attempt > 0)
    }
}

/// Whether a job that ended is started again by this change of its spec. One that finished is done: only `restartNonce` runs it again, because
/// its owner cannot know whether an upgrade comes before or after the end, and must not get the output twice.
fn runs_again(ended: &Ended, old: &StreamJobSpec, new: &StreamJobSpec, change: Change) -> bool {
    match ended.status {
        EndStatus::Finished => new.restart_nonce.is_some() && new.restart_nonce != old.restart_nonce,
        EndStatus::Canceled | EndStatus::Failed | EndStatus::Stopped => change >= Change::Upgrade,
    }
}

fn by_mode(spec: &StreamJobSpec, change: Change) -> Strategy {
    if change == Change::Redeploy {
        return Strategy::Redeploy;
    }
    strategy_of(spec.upgrade_mode)
}

pub(super) const fn strategy_of(mode: UpgradeMode) -> Strategy {
    match mode {
        UpgradeMode::Savepoint => Strategy::Savepoint,
        UpgradeMode::LastState => Strategy::LastState,
        UpgradeMode::Stateless => Strategy::Stateless,
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
