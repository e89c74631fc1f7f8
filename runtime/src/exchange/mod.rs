//! Channels between tasks: in-process ones that move batches, and framed TCP with credit between processes.
pub mod batch_codec;
pub mod channels;
pub mod credit;
pub mod element;
pub mod frame;
pub mod local;
pub mod remote;

pub use batch_codec::Rehash;
pub use channels::Channels;
pub use element::{ChannelId, Element};
pub use local::{LocalReceiver, LocalSender};
pub use remote::{Exchange, Identity, PeerAddress, RemoteReceiver, RemoteSender};

use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::Result;
use crate::observe::TaskMetrics;
use std::task::{Context, Poll};

/// The producer's end of a channel.
pub enum Sender<T> {
    Local(LocalSender<T>),
    Remote(RemoteSender<T>),
}

impl<T: Data> Sender<T> {
    /// The consumer has a [`Rehash`]: batches to another process may travel without hashes.
    pub fn rehashed(self) -> Self {
        match self {
            Self::Remote(s) => Self::Remote(s.rehashed()),
            local => local,
        }
    }
    /// Frames to another process are added to the bytes that this task has sent. Within a process there are none.
    pub fn counted(self, metrics: &TaskMetrics) -> Self {
        match self {
            Self::Remote(s) => Self::Remote(s.counted(metrics)),
            local => local,
        }
    }
    /// Ready when the channel takes another batch; the producer asks between batches of its own input. An error when the
    /// consumer or the connection to it is gone.
    #[inline]
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match self {
            Self::Local(s) => s.poll_ready(cx),
            Self::Remote(s) => s.poll_ready(cx),
        }
    }
    /// Sends without waiting. What exceeds the channel's room since the last [`Self::poll_ready`] is kept until there is
    /// room; barriers, watermarks and the end of input need none, but stay in order behind it.
    pub fn send(&mut self, element: Element<T>) -> Result<()> {
        match self {
            Self::Local(s) => s.send(element),
            Self::Remote(s) => s.send(element),
        }
    }
    /// An empty batch with room, if possible a used one.
    #[inline]
    pub fn empty_batch(&mut self) -> Batch<T> {
        match self {
            Self::Local(s) => s.empty_batch(),
            Self::Remote(s) => s.empty_batch(),
        }
    }
    /// Takes the records out of `batch`, to be sent; it is empty then and has room.
    #[inline]
    pub fn pack(&mut self, batch: &mut Batch<T>) -> Batch<T> {
        match self {
            Self::Local(s) => s.pack(batch),
            Self::Remote(s) => std::mem::replace(batch, s.empty_batch()),
        }
    }
}

/// The consumer's end of a channel.
pub enum Receiver<T> {
    Local(LocalReceiver<T>),
    Remote(RemoteReceiver<T>),
}

impl<T: Data> Receiver<T> {
    /// Batches that come from another process without hashes get them from this.
    pub fn rehashing(self, rehash: Rehash<T>) -> Self {
        match self {
            Self::Remote(r) => Self::Remote(r.rehashing(rehash)),
            local => local,
        }
    }
    /// Frames from another process are added to the bytes that this task has received. Within a process there are none.
    pub fn counted(self, metrics: &TaskMetrics) -> Self {
        match self {
            Self::Remote(r) => Self::Remote(r.counted(metrics)),
            local => local,
        }
    }
    /// The next element. None when the producer dropped its end and everything it sent was taken: a producer that ends
    /// well sends `EndOfInput` or a barrier that ends tasks before that, so anything else means that it failed (with an
    /// error of its own). An error when the connection broke or what arrived is malformed.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Element<T>>>> {
        match self {
            Self::Local(r) => r.poll_recv(cx),
            Self::Remote(r) => r.poll_recv(cx),
        }
    }
    /// Gives a batch back for reuse; what is left in it is dropped.
    #[inline]
    pub fn recycle(&mut self, batch: Batch<T>) {
        match self {
            Self::Local(r) => r.recycle(batch),
            Self::Remote(r) => r.recycle(batch),
        }
    }
}
