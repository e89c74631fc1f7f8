//! Savepoints, stops, rescales and cancellations that somebody asked for, by trigger id, with their outcomes.
use std::collections::VecDeque;
use weir_api::rest::{
    AsyncOperationResult, FailureCause, OperationInfo, OperationKind, OperationState, QueueStatus, QueueStatusId,
    SavepointOutcome, TerminalInfo,
};
use weir_api::status::TerminalStatus;

/// Outcomes that are remembered.
const CAPACITY: usize = 64;

#[derive(Debug, Default)]
pub struct Operations {
    all: VecDeque<OperationInfo>,
}

impl Operations {
    pub fn get(&self, trigger_id: &str) -> Option<&OperationInfo> {
        self.all.iter().rev().find(|o| o.trigger_id == trigger_id)
    }
    /// The newest one that is to end or replace the attempt: whoever asked for it waits for its outcome. Savepoints are asked for by others,
    /// who ask by their trigger id.
    pub fn last(&self) -> Option<&OperationInfo> {
        self.all.iter().rfind(|o| o.kind != OperationKind::Savepoint)
    }
    /// One of those that end or replace the attempt, under way.
    pub fn exclusive(&self) -> Option<&OperationInfo> {
        self.all.iter().find(|o| o.state == OperationState::InProgress && o.kind != OperationKind::Savepoint)
    }
    pub fn begin(&mut self, trigger_id: &str, kind: OperationKind) {
        if self.all.len() == CAPACITY {
            self.all.pop_front();
        }
        self.all.push_back(OperationInfo {
            trigger_id: trigger_id.to_owned(),
            kind,
            state: OperationState::InProgress,
            message: String::new(),
            log_index: None,
        });
    }
    fn set(&mut self, trigger_id: &str, state: OperationState, message: &str, log_index: Option<u64>) {
        let open = |o: &&mut OperationInfo| o.trigger_id == trigger_id && o.state == OperationState::InProgress;
        if let Some(o) = self.all.iter_mut().rev().find(open) {
            o.state = state;
            o.message = message.to_owned();
            o.log_index = log_index.or(o.log_index);
        }
    }
    pub fn complete(&mut self, trigger_id: &str, message: &str, log_index: Option<u64>) {
        self.set(trigger_id, OperationState::Completed, message, log_index);
    }
    pub fn fail(&mut self, trigger_id: &str, why: &str) {
        self.set(trigger_id, OperationState::Failed, why, None);
    }
    /// Notes where the savepoint of an operation lies that is not over yet.
    pub fn note(&mut self, trigger_id: &str, message: &str, log_index: Option<u64>) {
        self.set(trigger_id, OperationState::InProgress, message, log_index);
    }
    /// Completes all of a kind that are under way.
    pub fn complete_kind(&mut self, kind: OperationKind) {
        for o in self.all.iter_mut().filter(|o| o.kind == kind && o.state == OperationState::InProgress) {
            o.state = OperationState::Completed;
        }
    }
    pub fn fail_all(&mut self, why: &str) {
        for o in self.all.iter_mut().filter(|o| o.state == OperationState::InProgress) {
            o.state = OperationState::Failed;
            o.message = why.to_owned();
        }
    }
    pub fn job_ended(&mut self, t: &TerminalInfo) {
        let done = match t.status {
            TerminalStatus::Stopped => Some(OperationKind::Stop),
            TerminalStatus::Canceled => Some(OperationKind::Cancel),
            TerminalStatus::Finished | TerminalStatus::Failed => None,
        };
        if let Some(kind) = done {
            self.complete_kind(kind);
        }
        self.fail_all(&format!("the job has ended: {:?}", t.status));
    }
    /// As Flink shows it.
    pub fn result(&self, trigger_id: &str) -> Option<AsyncOperationResult> {
        let o = self.get(trigger_id)?;
        let id = |id| QueueStatus { id };
        Some(match o.state {
            OperationState::InProgress => {
                AsyncOperationResult { status: id(QueueStatusId::InProgress), operation: None }
            }
            OperationState::Completed => AsyncOperationResult {
                status: id(QueueStatusId::Completed),
                operation: Some(SavepointOutcome {
                    location: Some(o.message.clone()),
                    log_index: o.log_index,
                    failure_cause: None,
                }),
            },
            OperationState::Failed => AsyncOperationResult {
                status: id(QueueStatusId::Completed),
                operation: Some(SavepointOutcome {
                    location: None,
                    log_index: None,
                    failure_cause: Some(FailureCause {
                        class: "weir.CheckpointException".into(),
                        stack_trace: o.message.clone(),
                    }),
                }),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_savepoint_does_not_hide_the_outcome_of_a_stop() {
        let mut all = Operations::default();
        all.begin("stop", OperationKind::Stop);
        all.begin("savepoint", OperationKind::Savepoint);
        all.fail("stop", "a taskmanager was lost");
        assert_eq!(all.last().map(|o| (&*o.trigger_id, o.state)), Some(("stop", OperationState::Failed)));
        all.begin("cancel", OperationKind::Cancel);
        assert_eq!(all.last().map(|o| &*o.trigger_id), Some("cancel"));
    }
}
