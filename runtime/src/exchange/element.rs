//! What travels over one channel: from one producer subtask to one consumer subtask along one edge.
use crate::checkpoint::handles::Barrier;
use crate::dataflow::Batch;
pub use crate::graph::ChannelId;

/// One thing in a channel. All of them arrive in the order in which they were sent.
#[derive(Debug, Clone)]
pub enum Element<T> {
    /// Records; never empty.
    Batch(Batch<T>),
    /// Event time has reached this; ms since the Unix epoch. What says this or the next and directly follows such an
    /// element replaces it.
    Watermark(i64),
    /// The producer has nothing to send for now: event time, which has reached this, goes on without it.
    Idle(i64),
    /// Everything before it belongs to the checkpoint. Never held up by a full channel.
    Barrier(Barrier),
    /// No records follow; a barrier may.
    EndOfInput,
}
