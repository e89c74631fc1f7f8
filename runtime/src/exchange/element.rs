//! What travels over one channel: from one producer subtask to one consumer subtask along one edge.
use crate::checkpoint::handles::Barrier;
use crate::dataflow::Batch;
use std::fmt;

/// Names one channel within an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChannelId {
    /// Index of the edge in the job graph.
    pub edge: u32,
    /// Subtask of the vertex that the edge leaves.
    pub producer: u32,
    /// Subtask of the vertex that the edge enters.
    pub consumer: u32,
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "edge {} from subtask {} to subtask {}", self.edge, self.producer, self.consumer)
    }
}

/// One thing in a channel. All of them arrive in the order in which they were sent.
#[derive(Debug, Clone)]
pub enum Element<T> {
    /// Records; never empty.
    Batch(Batch<T>),
    /// Event time has reached this; ms since the Unix epoch. A watermark that directly follows another replaces it.
    Watermark(i64),
    /// Everything before it belongs to the checkpoint. Never held up by a full channel.
    Barrier(Barrier),
    /// No records follow; a barrier may.
    EndOfInput,
}
