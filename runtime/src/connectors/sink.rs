//! The contract of a sink in two phases (`protocols.md` §4).
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::Result;
use crate::observe::TaskMetrics;
use crate::state::RawState;
use weir_api::ids::CheckpointId;

/// Something pre-committed and not yet known to be committed, encoded; held in snapshots until it is.
pub type Committable = Vec<u8>;

/// A sink as the user declares it.
///
/// One whose records are visible as soon as they are written has nothing to commit: it has `writer`, and its writer `write`. After
/// a failure its records come again.
pub trait Sink<T: Data>: Send + Sync + 'static {
    type Writer: SinkWriter<T>;

    /// Called once per attempt, by subtask 0 before any record, with everything pending in the restored snapshot (of all
    /// subtasks; empty when the job starts new): first commits all of it again, then aborts what other attempts left open.
    /// Both are idempotent.
    fn recover(&self, _cx: &SinkContext, _pending: Vec<Committable>) -> Result<()> {
        Ok(())
    }
    fn writer(&self, cx: &SinkContext) -> Result<Self::Writer>;
}

/// Writes the records of one subtask.
pub trait SinkWriter<T>: Send + 'static {
    /// Takes all records of the batch.
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()>;
    /// Pre-commit, at the barrier: makes everything written so far durable and invisible, and returns all that is pending:
    /// this checkpoint's and that of earlier ones whose completion is not known yet.
    fn prepare_commit(&mut self, _checkpoint: CheckpointId) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }
    /// Pre-commit for a savepoint beside which the job runs on: as [`Self::prepare_commit`], but what it returns must be there to
    /// be committed as long as the savepoint is kept, also when an attempt that restored an earlier checkpoint has aborted, by
    /// [`Sink::recover`], what this one left.
    fn prepare_savepoint(&mut self, savepoint: CheckpointId) -> Result<Vec<Committable>> {
        self.prepare_commit(savepoint)
    }
    /// Bytes of its own in checkpoints, beside what is pending: restored behind [`Sink::writer`], before the first `write`; asked
    /// for behind each [`Self::prepare_commit`].
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        Vec::new()
    }
    /// The checkpoint is complete: makes everything pre-committed up to it visible. Idempotent.
    fn commit(&mut self, _checkpoint: CheckpointId) -> Result<()> {
        Ok(())
    }
    /// The checkpoint will never complete. What it holds stays pending and goes with a later one.
    fn aborted(&mut self, _checkpoint: CheckpointId) -> Result<()> {
        Ok(())
    }
    /// The task ends without a commit of what is open.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a writer may know about its place.
#[derive(Debug, Clone)]
pub struct SinkContext {
    pub operator: String,
    pub subtask: u32,
    pub parallelism: u32,
    pub attempt: u64,
    pub metrics: TaskMetrics,
}
