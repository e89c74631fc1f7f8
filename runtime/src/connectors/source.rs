//! The contract of a source: splits that can be moved between subtasks, positions that make replay exact.
use crate::data::Data;
use crate::dataflow::Output;
use crate::error::Result;
use crate::observe::TaskMetrics;
use crate::state::RawState;
use std::task::{Context, Poll};
use std::time::Instant;

/// A part of the input with the position reached in it, encoded: what a snapshot holds of a source, and the unit that is
/// assigned to subtasks, at the start and after a rescale.
pub type Split = Vec<u8>;

/// A source as the user declares it: immutable, cloned into every process, asked by the jobmanager for its splits once, when
/// the job starts new; after that the splits come out of snapshots.
pub trait Source: Send + Sync + 'static {
    type Record: Data;
    type Reader: SourceReader<Record = Self::Record>;

    /// Checks the declaration (files exist, pattern matches) and lists the splits. `parallelism` is a hint for how many make sense.
    fn enumerate(&self, parallelism: u32) -> Result<Vec<Split>>;
    /// A reader for the splits of one subtask (possibly none).
    fn reader(&self, cx: &SourceContext, splits: Vec<Split>) -> Result<Self::Reader>;
}

/// Reads the splits of one subtask.
pub trait SourceReader: Send + 'static {
    type Record: Data;
    /// Emits at most about one batch into `out` and says how to go on. May block briefly on local files, never on the network.
    /// `now` is read once per call by the task.
    fn read(&mut self, out: &mut Output<Self::Record>, now: Instant) -> Result<ReadStatus>;
    /// For sources that wait for something else than a time: wakes the task when there is more to read.
    fn poll_wake(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
    /// The splits with their positions behind the last record emitted.
    fn snapshot(&mut self) -> Result<Vec<Split>>;
    /// Bytes of its own in checkpoints, beside the splits: restored behind [`Source::reader`], before the first `read`; asked for
    /// behind each [`Self::snapshot`].
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        Vec::new()
    }
    /// The checkpoint is complete (for sources that acknowledge to somebody).
    fn complete(&mut self, _checkpoint: weir_api::ids::CheckpointId) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadStatus {
    /// Call again as soon as the chain is ready.
    More,
    /// Nothing now: call again at this time (or when `poll_wake` says so).
    Wait(Option<Instant>),
    /// All splits are read to their end, for good.
    End,
}

/// What a reader may know about its place.
#[derive(Debug, Clone)]
pub struct SourceContext {
    pub operator: String,
    pub subtask: u32,
    pub parallelism: u32,
    pub attempt: u64,
    pub metrics: TaskMetrics,
}
