//! The one trait that everything in a chain implements: take a batch, take a signal.
use super::Batch;
use crate::checkpoint::handles::Barrier;
use crate::error::Result;
use crate::state::snapshot::SnapshotParts;
use std::task::{Context, Poll};
use weir_api::ids::CheckpointId;

/// A consumer of batches of `T`: an operator with what lies behind it in its chain, or the writer into an exchange.
///
/// One dynamic call per batch; the loops inside are monomorphized.
pub trait Stage<T>: Send {
    /// Takes all records of the batch and leaves it empty, with its room.
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()>;
    /// Handles the signal, then passes it on to the stages behind.
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()>;
    /// Ready when the exchanges behind this stage take another batch. The task asks before it feeds the chain again.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// [`Self::poll_ready`] was pending because event time must not go on for now, not for want of room: what the chain does by
    /// itself goes on. Only in the chain of a source.
    fn is_paused(&self) -> bool {
        false
    }
    /// Ready when nothing is held back that would be emitted later by itself (calls to other systems). The task asks before it
    /// passes the end of the input.
    fn poll_drained(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
    /// The earliest time at which this stage or one behind it wants [`Signal::ProcessingTime`]; ms since the Unix epoch.
    /// The task asks when it has nothing else to do, and every few batches.
    fn next_timer(&mut self) -> Option<i64> {
        None
    }
}

/// What travels along a chain besides batches, in order with them.
pub enum Signal<'a> {
    /// Send out what is buffered (the input ran dry or the deadline passed).
    Flush,
    /// Event time has reached this; ms since the Unix epoch. Never less than the one before; an equal one says that an idle
    /// stream is active again.
    Watermark(i64),
    /// No records for now: event time, which has reached this, goes on without this stream. Ends with the next watermark.
    Idle(i64),
    /// The clock has reached this; ms since the Unix epoch. Comes when [`Stage::next_timer`] asked for it.
    ProcessingTime(i64),
    /// From a source to what assigns watermarks; goes no further.
    Split(Split),
    /// The input has ended, or the job is drained: emit what is held back. Batches do not follow, barriers do.
    EndOfInput,
    /// Pass the barrier on, add this stage's state to the snapshot. Sources of the records before it are complete.
    Barrier { barrier: Barrier, parts: &'a mut SnapshotParts },
    /// The checkpoint is complete: side effects up to it may be committed.
    Complete(CheckpointId),
    /// The checkpoint will never complete.
    Aborted(CheckpointId),
    /// The task ends; release what is held. No more batches follow.
    Close,
}

/// What a reader of several splits side by side says about them: each has a watermark of its own, and the least counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Will be read; holds the watermark back from now on.
    Added(u32),
    /// The records that follow come from it.
    Reading(u32),
    /// Read to its end.
    Ended(u32),
}
