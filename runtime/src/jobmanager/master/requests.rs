//! What people and the operator ask for: start, savepoint, stop, cancel, rescale. Each is checked before anything changes.
use super::{Action, Error, Io, Master, Phase, Stage, Then};
use crate::checkpoint::coordinator::{self, Now};
use crate::checkpoint::handles::SnapshotKind;
use crate::graph::JobGraph;
use weir_api::rest::{
    AsyncOperationResult, JobManagerPhase, OperationKind, OperationState, RescaleRequest, SavepointRequest,
    StartRequest, StopRequest, TriggerResponse,
};
use weir_api::status::{JobState, TerminalStatus};

/// A request that is not carried out: HTTP status and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub status: u16,
    pub message: String,
}

impl Rejection {
    pub fn new(status: u16, message: &str) -> Self {
        Self { status, message: message.to_owned() }
    }
    pub fn conflict(message: &str) -> Self {
        Self::new(409, message)
    }
}

const MAX_TRIGGER_ID: usize = 128;

fn check_trigger(field: &str, id: Option<&str>) -> Result<(), Rejection> {
    match id {
        Some(t)
            if t.is_empty()
                || t.len() > MAX_TRIGGER_ID
                || !t.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c)) =>
        {
            let m = format!("{field}: {t:?} is not a trigger id: use 1 to {MAX_TRIGGER_ID} letters, digits and -_.:");
            Err(Rejection::new(400, &m))
        }
        _ => Ok(()),
    }
}

fn check_target(field: &str, target: Option<&str>) -> Result<(), Rejection> {
    match target {
        Some(t) if !(t.starts_with('/') || t.starts_with("file:///")) || t.contains("..") => {
            let m = format!("{field}: {t:?} is not a directory that savepoints can go to: give file:///PATH or /PATH");
            Err(Rejection::new(400, &m))
        }
        _ => Ok(()),
    }
}

fn check_format(format: Option<&str>) -> Result<(), Rejection> {
    match format {
        None | Some("NATIVE") => Ok(()),
        // another format than the one that was asked for would be found out at the restore
        Some("CANONICAL") => {
            let m = "formatType: canonical savepoints are not there yet: use NATIVE or leave formatType out";
            Err(Rejection::new(400, m))
        }
        Some(f) => {
            Err(Rejection::new(400, &format!("formatType: {f:?} is not known: use NATIVE or leave formatType out")))
        }
    }
}

impl Master {
    /// `POST /weir/v1/start`. None: the answer comes as [`Action::Started`] with this number.
    pub fn start(
        &mut self,
        request: StartRequest,
        number: u64,
        now: Now,
    ) -> (Option<Result<(), Rejection>>, Vec<Action>) {
        self.now = now;
        let answer = match &self.phase {
            Phase::Active(_) => Some(Ok(())),
            Phase::Preparing => Some(Err(Rejection::new(503, "the log is still being read: ask again"))),
            Phase::Ended => Some(Err(Rejection::conflict("the job has ended"))),
            Phase::Fenced => Some(Err(Rejection::conflict(&self.reason))),
            // a refused one may be started otherwise: from another snapshot, or new
            Phase::Waiting | Phase::Refused => self.try_start(request, number).err().map(Err),
        };
        (answer, std::mem::take(&mut self.out))
    }

    fn try_start(&mut self, request: StartRequest, number: u64) -> Result<(), Rejection> {
        if let Some(p) = request.parallelism {
            self.check_parallelism(p)?;
        }
        if self.lifecycle.state() == JobState::Suspended {
            return Err(Rejection::conflict("this jobmanager has given the job up: restart it"));
        }
        if let Some(restore) = request.restore {
            self.options.restore = restore;
        }
        self.options.expect_log_index = request.expect_log_index;
        self.options.stateless = request.stateless;
        self.next_parallelism = request.parallelism;
        self.waiting_starts.push(number);
        self.claim();
        Ok(())
    }

    fn check_parallelism(&self, p: u32) -> Result<(), Rejection> {
        let max = self.config.max_parallelism;
        if p == 0 || p > max {
            return Err(Rejection::new(
                400,
                &format!("parallelism: {p} must lie between 1 and maxParallelism ({max})"),
            ));
        }
        Ok(())
    }

    /// `POST /jobs/:id/savepoints`
    pub fn savepoint(
        &mut self,
        r: SavepointRequest,
        fresh_id: String,
        now: Now,
    ) -> (Result<TriggerResponse, Rejection>, Vec<Action>) {
        let kind = if r.cancel_job { SnapshotKind::Stop { drain: false } } else { SnapshotKind::Savepoint };
        let checked = check_trigger("triggerId", r.trigger_id.as_deref())
            .and_then(|()| check_target("target-directory", r.target_directory.as_deref()))
            .and_then(|()| check_format(r.format_type.as_deref()));
        self.now = now;
        let answer = checked.and_then(|()| self.trigger(r.trigger_id.unwrap_or(fresh_id), kind, r.target_directory));
        (answer, std::mem::take(&mut self.out))
    }

    /// `POST /jobs/:id/stop`
    pub fn stop(
        &mut self,
        r: StopRequest,
        fresh_id: String,
        now: Now,
    ) -> (Result<TriggerResponse, Rejection>, Vec<Action>) {
        let kind = SnapshotKind::Stop { drain: r.drain };
        let checked = check_trigger("triggerId", r.trigger_id.as_deref())
            .and_then(|()| check_target("targetDirectory", r.target_directory.as_deref()))
            .and_then(|()| check_format(r.format_type.as_deref()));
        self.now = now;
        let answer = checked.and_then(|()| self.trigger(r.trigger_id.unwrap_or(fresh_id), kind, r.target_directory));
        (answer, std::mem::take(&mut self.out))
    }

    fn trigger(
        &mut self,
        trigger_id: String,
        kind: SnapshotKind,
        target: Option<String>,
    ) -> Result<TriggerResponse, Rejection> {
        let response = TriggerResponse { request_id: trigger_id.clone() };
        // the same request again: it was heard
        if self.operations.get(&trigger_id).is_some() {
            return Ok(response);
        }
        self.check_running()?;
        if self.config.checkpoint.storage.is_none() {
            return Err(Rejection::conflict(
                "the job has no checkpoint storage: set checkpoint.storage (--checkpoints DIR)",
            ));
        }
        if let (SnapshotKind::Stop { .. }, Some(o)) = (kind, self.operations.exclusive()) {
            return Err(Rejection::conflict(&format!("{:?} {} is under way", o.kind, o.trigger_id)));
        }
        let operation = if kind == SnapshotKind::Savepoint { OperationKind::Savepoint } else { OperationKind::Stop };
        tracing::info!(%trigger_id, ?kind, "savepoint requested");
        self.operations.begin(&trigger_id, operation);
        match target {
            // a wrong path costs nothing yet: once the barrier is on its way, a stop that drains cannot be taken back
            Some(target) => self.out.push(Action::Io(Io::CheckTarget { trigger_id, kind, target })),
            None => self.coordinate(coordinator::Event::Request { trigger_id, kind, target: None }),
        }
        Ok(response)
    }

    pub(super) fn target_checked(&mut self, trigger_id: String, kind: SnapshotKind, result: Result<String, Error>) {
        if self.operations.get(&trigger_id).is_none_or(|o| o.state != OperationState::InProgress) {
            return;
        }
        match result {
            Ok(target) => self.coordinate(coordinator::Event::Request { trigger_id, kind, target: Some(target) }),
            Err(e) => self.resolved(&trigger_id, kind, Err(e.message)),
        }
    }

    fn check_running(&self) -> Result<(), Rejection> {
        match &self.phase {
            Phase::Active(Stage::Running(e)) if e.all_running && !e.is_ending() => Ok(()),
            _ => {
                let state = self.lifecycle.state();
                let why = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
                Err(Rejection::conflict(&format!("the job's tasks are not all running (job state {state}){why}")))
            }
        }
    }

    /// `GET /jobs/:id/savepoints/:trigger`
    pub fn savepoint_result(&self, trigger_id: &str) -> Option<AsyncOperationResult> {
        self.operations.result(trigger_id)
    }

    /// `PATCH /jobs/:id?mode=cancel`. Safe to repeat.
    pub fn cancel(&mut self, trigger_id: String, now: Now) -> (Result<(), Rejection>, Vec<Action>) {
        self.now = now;
        let then = Then::End { status: TerminalStatus::Canceled, reason: "cancelled by request".into() };
        let answer = match (&self.phase, self.lifecycle.state()) {
            (_, JobState::Cancelling | JobState::Canceled) => Ok(()),
            (Phase::Active(_), JobState::Failing | JobState::Suspended) => {
                Err(Rejection::conflict(&format!("the job is {} already", self.lifecycle.state())))
            }
            (Phase::Active(Stage::Running(e)), _) if e.stop_is_complete() => {
                Err(Rejection::conflict("the job was stopped with a savepoint and is ending"))
            }
            (Phase::Active(Stage::Ending { .. } | Stage::Stopping { then: Then::End { .. }, .. }), _) => {
                Err(Rejection::conflict("the job is ending"))
            }
            (Phase::Active(_), _) => {
                tracing::info!("cancelled by request");
                self.operations.begin(&trigger_id, OperationKind::Cancel);
                self.reason = "cancelled by request".into();
                self.go(JobState::Cancelling);
                match &self.phase {
                    Phase::Active(Stage::Claiming) => self.after_claim = Some(then),
                    // nothing was claimed in this process yet: an end can only be recorded by the holder
                    Phase::Active(Stage::Backoff { .. }) if self.claims == 0 => {
                        self.after_claim = Some(then);
                        self.claim();
                    }
                    _ => self.stop_tasks(then),
                }
                Ok(())
            }
            _ => Err(Rejection::conflict(&format!(
                "the job does not run here: the jobmanager is {:?}",
                self.manager_phase()
            ))),
        };
        (answer, std::mem::take(&mut self.out))
    }

    /// `PUT /weir/v1/parallelism`
    pub fn rescale(&mut self, r: RescaleRequest, now: Now) -> (Result<TriggerResponse, Rejection>, Vec<Action>) {
        self.now = now;
        let answer = self.try_rescale(r);
        (answer, std::mem::take(&mut self.out))
    }

    fn try_rescale(&mut self, r: RescaleRequest) -> Result<TriggerResponse, Rejection> {
        check_trigger("triggerId", Some(&r.trigger_id))?;
        self.check_parallelism(r.parallelism)?;
        let response = TriggerResponse { request_id: r.trigger_id.clone() };
        if self.operations.get(&r.trigger_id).is_some() {
            return Ok(response);
        }
        self.check_running()?;
        if self.config.checkpoint.storage.is_none() {
            return Err(Rejection::conflict("a rescale needs a checkpoint storage: set checkpoint.storage"));
        }
        if let Some(o) = self.operations.exclusive() {
            return Err(Rejection::conflict(&format!("{:?} {} is under way", o.kind, o.trigger_id)));
        }
        let needed = JobGraph::new(&self.graph, r.parallelism, self.config.max_parallelism).slots();
        let registered = self.registry.slots();
        if needed > registered {
            let m = format!("parallelism {} needs {needed} slots and {registered} are registered", r.parallelism);
            return Err(Rejection::conflict(&m));
        }
        self.operations.begin(&r.trigger_id, OperationKind::Rescale);
        if r.parallelism == self.parallelism {
            self.operations.complete(&r.trigger_id, "the job runs at this parallelism already", None);
            return Ok(response);
        }
        tracing::info!(from = self.parallelism, to = r.parallelism, "rescaling");
        self.next_parallelism = Some(r.parallelism);
        let kind = SnapshotKind::Rescale;
        self.coordinate(coordinator::Event::Request { trigger_id: r.trigger_id, kind, target: None });
        Ok(response)
    }

    pub fn manager_phase(&self) -> JobManagerPhase {
        match self.phase {
            Phase::Preparing => JobManagerPhase::Preparing,
            Phase::Waiting => JobManagerPhase::Waiting,
            Phase::Refused => JobManagerPhase::Refused,
            Phase::Ended => JobManagerPhase::Ended,
            Phase::Fenced | Phase::Active(Stage::Stopping { then: Then::Fenced, .. }) => JobManagerPhase::Fenced,
            // it is not known yet whether the first claim will be granted
            Phase::Active(Stage::Claiming) if self.claims == 0 => JobManagerPhase::Preparing,
            Phase::Active(_) => JobManagerPhase::Active,
        }
    }
}
