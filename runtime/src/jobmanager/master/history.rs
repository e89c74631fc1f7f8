//! The exceptions of the job, newest first, as `/jobs/:id/exceptions` shows them.
use crate::error::Error;
use std::collections::VecDeque;
use weir_api::rest::Millis;

/// Exceptions that are remembered, as in Flink.
const CAPACITY: usize = 16;

/// Where a failure came from; empty where it does not apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailureSource {
    /// Name and subtask of the task.
    pub task: String,
    pub taskmanager: String,
    /// Data address of the taskmanager.
    pub endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionEntry {
    pub name: String,
    pub message: String,
    pub at: Millis,
    pub source: FailureSource,
}

#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<ExceptionEntry>,
    truncated: bool,
}

impl History {
    pub fn add(&mut self, error: &Error, source: FailureSource, at: Millis) {
        if self.entries.len() == CAPACITY {
            self.entries.pop_back();
            self.truncated = true;
        }
        let name = format!("{:?}/{}", error.domain, error.code);
        self.entries.push_front(ExceptionEntry { name, message: error.message.clone(), at, source });
    }
    /// Newest first.
    pub fn entries(&self) -> impl Iterator<Item = &ExceptionEntry> {
        self.entries.iter()
    }
    /// Older ones were forgotten.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }
}
