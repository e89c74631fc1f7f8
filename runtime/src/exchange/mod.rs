//! Channels between tasks: in-process ones that move batches, and framed TCP with credit between processes.
pub mod element;
pub mod local;

pub use element::{ChannelId, Element};
pub use local::{LocalReceiver, LocalSender};

use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::Result;
use std::task::{Context, Poll};

/// The producer's end of a channel.
pub enum Sender<T> {
    Local(LocalSender<T>),
}

impl<T: Data> Sender<T> {
    /// Ready when the channel takes another batch; the producer asks between batches of its own input. An error when the
    /// consumer or the connection to it is gone.
    #[inline]
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Local(s) => s.poll_ready(cx),
        }
    }
    /// Sends without waiting. What exceeds the channel's room since the last [`Self::poll_ready`] is kept until there is
    /// room; barriers, watermarks and the end of input need none, but stay in order behind it.
    pub fn send(&mut self, element: Element<T>) -> Result<()> {
        match self {
            Self::Local(s) => s.send(element),
        }
    }
    /// An empty batch with room, if possible a used one.
    #[inline]
    pub fn empty_batch(&mut self) -> Batch<T> {
        match self {
            Self::Local(s) => s.empty_batch(),
        }
    }
}

/// The consumer's end of a channel.
pub enum Receiver<T> {
    Local(LocalReceiver<T>),
}

impl<T: Data> Receiver<T> {
    /// The next element. None when the producer dropped its end and everything it sent was taken: a producer that ends
    /// well sends `EndOfInput` or a barrier that ends tasks before that, so anything else means that it failed (with an
    /// error of its own). An error when the connection broke or what arrived is malformed.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Element<T>>>> {
        match self {
            Self::Local(r) => r.poll_recv(cx),
        }
    }
    /// Gives a batch back for reuse; what is left in it is dropped.
    #[inline]
    pub fn recycle(&mut self, batch: Batch<T>) {
        match self {
            Self::Local(r) => r.recycle(batch),
        }
    }
}
