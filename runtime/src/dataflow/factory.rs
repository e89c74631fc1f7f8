//! The seams where types are erased: how a node of the graph becomes a running stage, how an edge becomes typed channels.
//!
//! Erased values are checked when a task is built (`Box<dyn Any>`), never while records flow.
use crate::checkpoint::handles::OperatorRestore;
use crate::dataflow::{Stage, task::TaskBody};
use crate::error::{Error, Result};
use crate::observe::TaskMetrics;
use std::any::Any;
use std::ops::Range;

/// A `Box<dyn Stage<T>>` for a `T` that only the neighbours know.
pub struct AnyStage(Box<dyn Any + Send>);

impl AnyStage {
    pub fn new<T: 'static>(stage: Box<dyn Stage<T>>) -> Self {
        Self(Box::new(stage))
    }
    /// The stage, if it takes records of type `T`.
    pub fn typed<T: 'static>(self) -> Result<Box<dyn Stage<T>>> {
        match self.0.downcast::<Box<dyn Stage<T>>>() {
            Ok(s) => Ok(*s),
            Err(_) => {
                Err(Error::internal(format!("a stage does not take records of type {}", std::any::type_name::<T>())))
            }
        }
    }
}

/// Makes the running part of a node, once per subtask.
pub trait NodeFactory: Send + Sync {
    /// The stage of an operator or sink, in front of the stages that consume its output. Restores its state.
    fn stage(&self, cx: &BuildContext<'_>, next: Vec<AnyStage>) -> Result<AnyStage>;
    /// The task of a source with what is chained behind it.
    fn source(&self, cx: &BuildContext<'_>, _next: Vec<AnyStage>) -> Result<Box<dyn TaskBody>> {
        Err(Error::internal(format!("{} is not a source", cx.operator)))
    }
    /// Splits of a source that starts new.
    fn enumerate(&self, _parallelism: u32) -> Result<Vec<crate::connectors::source::Split>> {
        Ok(Vec::new())
    }
}

/// What a factory may know about the subtask that it builds for.
pub struct BuildContext<'a> {
    pub operator: &'a str,
    pub subtask: u32,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// Key groups that the subtask owns.
    pub key_groups: Range<u32>,
    pub attempt: u64,
    pub metrics: TaskMetrics,
    /// What the snapshot holds for this operator's subtask; none when the job starts new or the operator is new in it.
    pub restore: Option<&'a OperatorRestore>,
    /// Contents of the files that `restore` names, checked against their checksums, in the same order.
    pub files: &'a [bytes::Bytes],
}

/// Makes channels, writers and tasks for a record type that is known only at the place where the graph was declared.
pub trait RecordType: Send + Sync {
    /// The type, for the fingerprint and messages.
    fn describe(&self) -> String;
}
