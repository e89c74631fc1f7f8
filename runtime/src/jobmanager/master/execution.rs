//! One deployed attempt: where its tasks are, what state they are in, and what their events mean for the job.
use super::{Action, Error, FailureSource, Io, Master, Phase, Stage, Then, absolute};
use crate::checkpoint::coordinator;
use crate::checkpoint::handles::SnapshotKind;
use crate::control::{ToTaskManager, frame};
use crate::dataflow::deploy::{Deployment, TaskManagerAddress};
use crate::dataflow::task::{TaskCommand, TaskEvent, TaskId};
use crate::error::ErrorCode;
use crate::jobmanager::registry::ConnectionId;
use crate::jobmanager::schedule::{self, Offer};
use std::collections::BTreeMap;
use std::time::Duration;
use weir_api::rest::{Millis, OperationKind};
use weir_api::status::{JobState, TaskState, TerminalStatus};

/// How long to wait for the cause of a broken channel.
const CAUSE: Duration = Duration::from_millis(50);

/// A task as REST shows it.
#[derive(Debug, Clone)]
pub struct TaskView {
    pub state: TaskState,
    pub since: Millis,
    pub started: Millis,
    pub connection: ConnectionId,
    pub taskmanager: String,
    pub endpoint: String,
    ended_source: bool,
}

#[derive(Debug)]
pub struct Execution {
    pub tasks: BTreeMap<TaskId, TaskView>,
    /// All tasks run, or have run.
    pub all_running: bool,
    /// The snapshot by which the tasks commit and end.
    ends: Option<SnapshotKind>,
    finishes_stop: bool,
    /// A task whose channel broke: most likely the consequence of another failure that is about to be heard of. Until when to
    /// wait for that.
    pub consequence: Option<(Duration, Error, FailureSource)>,
}

impl Execution {
    pub fn uses(&self, c: ConnectionId) -> bool {
        self.tasks.values().any(|t| t.connection == c)
    }
    /// The stop savepoint is in the log; the tasks commit and end.
    pub fn stop_is_complete(&self) -> bool {
        self.finishes_stop || matches!(self.ends, Some(SnapshotKind::Stop { .. }))
    }
    pub fn is_ending(&self) -> bool {
        self.ends.is_some() || self.finishes_stop
    }
}

impl Master {
    /// Deploys the claimed attempt as soon as enough slots are registered.
    pub(super) fn deploy_if_possible(&mut self) {
        let Phase::Active(Stage::Slots(claimed)) = &mut self.phase else { return };
        if self.registry.highest_followed() >= claimed.attempt {
            // without storage, or with one that was deleted, attempts start over: a taskmanager that lives on would drop them
            tracing::info!(attempt = %claimed.attempt, "taskmanagers have followed a higher attempt: claiming one above it");
            return self.claim();
        }
        let members: Vec<_> = self.registry.by_id().into_iter().filter(|(_, t)| !t.leaving).collect();
        let offers: Vec<Offer> = members.iter().map(|(_, t)| Offer { slots: t.hello.slots }).collect();
        let placed = match schedule::place(claimed.plan.slots(), &offers) {
            Ok(p) => p,
            Err(too_few) => {
                self.reason = too_few.to_string();
                return;
            }
        };
        // only those that got a slot take part
        let mut used: Vec<u32> = placed.clone();
        used.dedup();
        let position = |member: u32| used.iter().position(|&u| u == member).unwrap_or(0) as u32;
        let slots: Vec<u32> = placed.iter().map(|&m| position(m)).collect();
        let chosen: Vec<_> =
            used.iter().map(|&m| (members[m as usize].0, members[m as usize].1.hello.clone())).collect();
        let deployment = Deployment {
            attempt: claimed.attempt,
            parallelism: claimed.parallelism,
            max_parallelism: self.config.max_parallelism,
            buffer_timeout_ms: self.config.buffer_timeout.as_millis(),
            taskmanagers: chosen
                .iter()
                .map(|(_, h)| TaskManagerAddress { id: h.id.clone(), data_address: h.data_address.clone() })
                .collect(),
            slots: slots.clone(),
            state: self.config.state.clone(),
            restore: Vec::new(),
        };
        let mut assignment = std::mem::take(&mut claimed.assignment);
        let mut tasks = BTreeMap::new();
        let mut restores: Vec<Vec<_>> = vec![Vec::new(); chosen.len()];
        for v in &claimed.plan.vertices {
            for subtask in 0..v.parallelism {
                let id = TaskId { vertex: v.id, subtask };
                let at = slots[subtask as usize] as usize;
                let (connection, hello) = &chosen[at];
                if let Some(r) = assignment.remove(&id).filter(|r| !r.operators.is_empty()) {
                    restores[at].push((id, r));
                }
                tasks.insert(
                    id,
                    TaskView {
                        state: TaskState::Deploying,
                        since: self.now.wall,
                        started: self.now.wall,
                        connection: *connection,
                        taskmanager: hello.id.clone(),
                        endpoint: hello.data_address.clone(),
                        ended_source: false,
                    },
                );
            }
        }
        let (attempt, nonce, next) = (claimed.attempt, claimed.nonce, claimed.next);
        let finishes_stop = claimed.finishes_stop;
        let mut messages = Vec::new();
        let mut unsendable = None;
        for (me, ((c, hello), restores)) in (0u32..).zip(chosen.iter().zip(restores)) {
            for (task, restore) in restores {
                let message = ToTaskManager::Restore { attempt, task, restore };
                if let (None, Some(why)) = (&unsendable, self.too_long(&message)) {
                    unsendable = Some((task, hello.clone(), why));
                }
                messages.push(Action::Send(*c, message));
            }
            let deployment = Box::new(deployment.clone());
            messages.push(Action::Send(*c, ToTaskManager::Deploy { me, deployment }));
        }
        if unsendable.is_none() {
            chosen.iter().for_each(|(c, _)| self.registry.deployed(*c, attempt));
            self.out.extend(messages);
        }
        tracing::info!(%attempt, tasks = tasks.len(), taskmanagers = chosen.len(), "deploying");
        self.counters.clear();
        self.reason = "starting the tasks".into();
        let ids = tasks.keys().copied().collect();
        let execution = Execution { tasks, all_running: false, ends: None, finishes_stop, consequence: None };
        self.phase = Phase::Active(Stage::Running(Box::new(execution)));
        self.coordinate(coordinator::Event::Begin { attempt, nonce, next, tasks: ids });
        if let Some((id, hello, why)) = unsendable {
            let task = self.task_name(id);
            let error = Error::external(ErrorCode::Incompatible, format!("task {task} cannot be restored: {why}"));
            self.fail(error, FailureSource { task, taskmanager: hello.id, endpoint: hello.data_address });
        }
    }

    /// Why a task's restore cannot be sent, if it cannot.
    fn too_long(&self, message: &ToTaskManager) -> Option<String> {
        let ToTaskManager::Restore { restore, .. } = message else { return None };
        frame::too_long(message, restore.operators.iter().map(|(name, o)| (name, &o.lists)), self.frame_limit)
    }

    /// As people know it: `name (1/4)`.
    fn task_name(&self, id: TaskId) -> String {
        let vertex = self.plan.vertices.get(id.vertex as usize);
        vertex.map_or(String::new(), |v| format!("{} ({}/{})", v.name, id.subtask + 1, v.parallelism))
    }

    pub(super) fn task_event(&mut self, c: ConnectionId, id: TaskId, event: TaskEvent) {
        let now = self.now.wall;
        let Phase::Active(Stage::Running(execution)) = &mut self.phase else { return };
        let Some(task) = execution.tasks.get_mut(&id).filter(|t| t.connection == c) else { return };
        let mut enter = |state| (task.state, task.since) = (state, now);
        match event {
            TaskEvent::Running => {
                enter(TaskState::Running);
                self.all_running_if_so();
            }
            TaskEvent::SourceEnded => {
                task.ended_source = true;
                let is_source = |t: &TaskId| self.plan.vertices.get(t.vertex as usize).is_some_and(|v| v.is_source);
                if execution.tasks.iter().all(|(t, v)| v.ended_source || !is_source(t)) {
                    tracing::info!(attempt = %self.attempt, "all sources have ended");
                    self.coordinate(coordinator::Event::Request {
                        trigger_id: String::new(),
                        kind: SnapshotKind::Final,
                        target: None,
                    });
                }
            }
            TaskEvent::Snapshot { checkpoint, snapshot } => {
                let attempt = self.attempt;
                self.coordinate(coordinator::Event::Acknowledged { attempt, id: checkpoint, task: id, snapshot });
            }
            TaskEvent::Declined { checkpoint, reason } => {
                let attempt = self.attempt;
                let reason = reason.message;
                self.coordinate(coordinator::Event::Declined { attempt, id: checkpoint, task: id, reason });
            }
            TaskEvent::Finished => {
                enter(TaskState::Finished);
                self.finished_if_so();
            }
            TaskEvent::Failed(error) => {
                enter(TaskState::Failed);
                let (taskmanager, endpoint) = (task.taskmanager.clone(), task.endpoint.clone());
                let is_first = execution.consequence.is_none();
                let source = FailureSource { task: self.task_name(id), taskmanager, endpoint };
                if !matches!(error.code, ErrorCode::Exchange | ErrorCode::Connection) {
                    self.fail(error, source);
                } else if let (true, Phase::Active(Stage::Running(execution))) = (is_first, &mut self.phase) {
                    execution.consequence = Some((self.now.mono + CAUSE, error, source));
                }
            }
        }
    }

    fn all_running_if_so(&mut self) {
        let Phase::Active(Stage::Running(execution)) = &mut self.phase else { return };
        let runs = |s: TaskState| matches!(s, TaskState::Running | TaskState::Finished);
        if execution.all_running || !execution.tasks.values().all(|t| runs(t.state)) {
            return;
        }
        execution.all_running = true;
        tracing::info!(attempt = %self.attempt, "all tasks are running");
        if execution.finishes_stop {
            // restoring has committed what was pending: nothing else was wanted
            let reason = "stopped with a savepoint".into();
            return self.stop_tasks(Then::End { status: TerminalStatus::Stopped, reason });
        }
        self.go(JobState::Running);
        self.reason = String::new();
        self.operations.complete_kind(OperationKind::Rescale);
        self.coordinate(coordinator::Event::AllTasksRunning);
    }

    /// After a complete snapshot that ends the tasks: goes on when the last one has ended.
    fn finished_if_so(&mut self) {
        let Phase::Active(Stage::Running(execution)) = &self.phase else { return };
        if !execution.tasks.values().all(|t| t.state == TaskState::Finished) {
            return;
        }
        let end = |status, reason: &str| Then::End { status, reason: reason.into() };
        let then = match execution.ends {
            Some(SnapshotKind::Final) => end(TerminalStatus::Finished, "all sources have ended"),
            Some(SnapshotKind::Stop { .. }) => end(TerminalStatus::Stopped, "stopped with a savepoint"),
            Some(SnapshotKind::Rescale) => {
                self.go(JobState::Restarting);
                self.reason = format!("rescaling to parallelism {}", self.next_parallelism.unwrap_or(self.parallelism));
                Then::Restart { at: Duration::ZERO }
            }
            _ => {
                let error = Error::internal("all tasks have ended without a snapshot that ends them");
                return self.fail(error, FailureSource::default());
            }
        };
        self.stop_tasks(then);
    }

    /// Hands an event to the coordinator and does what it says.
    pub(super) fn coordinate(&mut self, event: coordinator::Event) {
        use coordinator::Action as A;
        let actions = self.coordinator.on(event, self.now);
        for action in actions {
            match action {
                A::Command(command) => self.command(&command),
                A::Publish(p) => self.out.push(Action::Io(Io::Publish(p))),
                A::Discard(directory) => self.out.push(Action::Io(Io::Discard(directory))),
                A::Retain { .. } => self.out.push(Action::Io(Io::CleanUp)),
                A::Resolved { trigger_id, kind, outcome } => self.resolved(&trigger_id, kind, outcome),
                A::TasksEnd { kind, .. } => {
                    if let Phase::Active(Stage::Running(e)) = &mut self.phase {
                        e.ends = Some(kind);
                    }
                    self.finished_if_so();
                }
                A::FailJob { reason } => {
                    self.fail(Error::external(ErrorCode::Checkpoint, reason), FailureSource::default());
                }
                A::Replace { reason } => self.replace(&reason),
            }
        }
    }

    /// The tasks are of no more use although nothing of the job failed: no restart strategy is asked, and there is no delay.
    fn replace(&mut self, reason: &str) {
        let Phase::Active(Stage::Running(_)) = &self.phase else { return };
        let message = format!("the stop that drained the job failed: it goes on from its last checkpoint; {reason}");
        tracing::warn!(attempt = %self.attempt, %reason, "a stop with drain failed: going on from the last checkpoint");
        let error = Error::external(ErrorCode::Checkpoint, message);
        self.history.add(&error, FailureSource::default(), self.now.wall);
        self.reason = error.message;
        self.go(JobState::Restarting);
        self.stop_tasks(Then::Restart { at: self.now.mono });
    }

    fn command(&mut self, command: &TaskCommand) {
        let Phase::Active(Stage::Running(e)) = &self.phase else { return };
        let mut to: Vec<ConnectionId> = e.tasks.values().map(|t| t.connection).collect();
        to.sort_unstable();
        to.dedup();
        let attempt = self.attempt;
        let send = |c| Action::Send(c, ToTaskManager::Command { attempt, command: command.clone() });
        self.out.extend(to.into_iter().map(send));
    }

    pub(super) fn resolved(
        &mut self,
        trigger_id: &str,
        kind: SnapshotKind,
        outcome: Result<coordinator::Outcome, String>,
    ) {
        match (outcome, kind) {
            (Ok(o), SnapshotKind::Savepoint) => {
                self.operations.complete(trigger_id, &absolute(&self.storage_root, &o.directory), o.index);
            }
            // over when the job has ended, or runs at the new parallelism
            (Ok(o), _) => self.operations.note(trigger_id, &absolute(&self.storage_root, &o.directory), o.index),
            (Err(why), kind) => {
                tracing::warn!(%trigger_id, reason = %why, "the savepoint failed");
                if kind == SnapshotKind::Rescale {
                    self.next_parallelism = None;
                }
                self.operations.fail(trigger_id, &why);
            }
        }
    }
}
