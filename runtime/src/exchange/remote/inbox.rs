//! The consumer's side of a channel from another process: frames as they came, decoded in the consumer's task.
use super::lock;
use super::outbox::Outbox;
use super::outlet::IDLE;
use crate::checkpoint::handles::Barrier;
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};
use crate::exchange::batch_codec::{self, Rehash};
use crate::exchange::credit::{Arrivals, Grant, Returns};
use crate::exchange::frame::{self, FrameError, Header, Kind};
use crate::exchange::{ChannelId, Element};
use crate::observe::TaskMetrics;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use weir_api::ids::Attempt;

/// A body up to this is copied, so that an unread small frame does not hold a whole chunk.
const COPY: usize = 1 << 10;

/// Where the network task puts the frames of one channel. Untyped.
pub struct Inbox {
    attempt: Attempt,
    channel: ChannelId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Kind, Bytes)>,
    arrivals: Arrivals,
    sequence: u64,
    consumer: Option<Waker>,
    /// The producer's connection, for credit; set by its `Open`.
    producer: Option<Arc<Outbox>>,
    /// What the consumer grants at first; set when its task registers.
    first: Option<Grant>,
    /// The producer has closed its end: what is queued is all.
    closed: bool,
    failed: Option<Error>,
    consumer_gone: bool,
    /// For the next frame to the producer.
    buffer: Vec<u8>,
}

impl Inbox {
    pub fn new(attempt: Attempt, channel: ChannelId) -> Self {
        Self { attempt, channel, state: Mutex::default() }
    }

    fn grant(&self, state: &mut State, grant: Grant) {
        state.arrivals.grant(grant);
        self.tell(state, Kind::Credit, |out| grant.encode(out));
    }

    /// Sends a frame to the producer, if it has opened the channel.
    fn tell(&self, state: &mut State, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        let Some(producer) = &state.producer else { return };
        let mut bytes = std::mem::take(&mut state.buffer);
        frame::start(&mut bytes);
        body(&mut bytes);
        frame::seal(&mut bytes, kind, self.attempt, self.channel, 0);
        state.buffer = producer.push(bytes).unwrap_or_default();
    }

    /// The producer has opened the channel over the connection with this outbox.
    pub fn open(&self, outbox: Arc<Outbox>) {
        let mut state = lock(&self.state);
        state.producer = Some(outbox);
        if state.consumer_gone {
            self.tell(&mut state, Kind::Cancel, |_| ());
        } else if let Some(first) = state.first {
            self.grant(&mut state, first);
        }
    }

    /// The consumer's task is there.
    pub fn register(&self, first: Grant) {
        let mut state = lock(&self.state);
        state.first = Some(first);
        if state.producer.is_some() {
            self.grant(&mut state, first);
        }
    }

    /// Takes a frame from the network.
    pub fn arrived(&self, header: &Header, body: Bytes) -> Result<(), FrameError> {
        let (kind, channel) = (header.kind, self.channel);
        let mut state = lock(&self.state);
        if header.sequence != state.sequence {
            return Err(FrameError::Sequence { channel, expected: state.sequence, found: header.sequence });
        }
        state.sequence += 1;
        if state.closed {
            return Err(FrameError::Unexpected { kind });
        }
        if state.consumer_gone {
            return Ok(());
        }
        if !state.arrivals.arrived(kind) {
            return Err(FrameError::Credit { kind, channel });
        }
        match kind {
            Kind::Close => state.closed = true,
            _ if body.len() <= COPY => state.queue.push_back((kind, Bytes::copy_from_slice(&body))),
            _ => state.queue.push_back((kind, body)),
        }
        wake(state);
        Ok(())
    }

    /// The connection broke or the attempt ended; no effect when the producer had closed the channel before.
    pub fn fail(&self, error: &Error) {
        let mut state = lock(&self.state);
        if !state.closed && state.failed.is_none() {
            state.failed = Some(error.clone());
            state.queue.clear();
            state.producer = None;
            wake(state);
        }
    }
}

fn wake(mut state: std::sync::MutexGuard<'_, State>) {
    if let Some(consumer) = state.consumer.take() {
        drop(state);
        consumer.wake();
    }
}

/// The consumer's end.
pub struct RemoteReceiver<T> {
    inbox: Arc<Inbox>,
    /// Taken out of the inbox, not yet looked at.
    frames: VecDeque<(Kind, Bytes)>,
    returns: Returns,
    rehash: Option<Rehash<T>>,
    spare: Vec<Batch<T>>,
    metrics: TaskMetrics,
}

impl<T: Data> RemoteReceiver<T> {
    pub(in crate::exchange) fn new(inbox: Arc<Inbox>, window: u32) -> Self {
        let returns = Returns::new(window);
        inbox.register(returns.first());
        let (frames, spare, metrics) = (VecDeque::new(), Vec::with_capacity(4), TaskMetrics::default());
        Self { inbox, frames, returns, rehash: None, spare, metrics }
    }

    /// Computes hashes that the producer leaves to this end.
    pub(in crate::exchange) fn rehashing(mut self, rehash: Rehash<T>) -> Self {
        self.rehash = Some(rehash);
        self
    }

    /// Frames are added to the bytes received of this task.
    pub(in crate::exchange) fn counted(mut self, metrics: &TaskMetrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// The next element; none when the producer has closed the channel and everything it sent was taken.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Element<T>>>> {
        if let Some((kind, body)) = self.frames.pop_front() {
            return Poll::Ready(self.element(kind, body).map(Some));
        }
        let mut state = lock(&self.inbox.state);
        if let Some(e) = &state.failed {
            return Poll::Ready(Err(e.clone()));
        }
        std::mem::swap(&mut state.queue, &mut self.frames);
        match self.frames.pop_front() {
            Some((kind, body)) => {
                drop(state);
                Poll::Ready(self.element(kind, body).map(Some))
            }
            None if state.closed => Poll::Ready(Ok(None)),
            None => {
                if !state.consumer.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    state.consumer = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn element(&mut self, kind: Kind, body: Bytes) -> Result<Element<T>> {
        let length = body.len();
        self.metrics.add_bytes_in((frame::HEADER_BYTES + length) as u64);
        let element = self.decode(kind, &body).map_err(|why| {
            let e = FrameError::body(kind, why);
            Error::external(ErrorCode::Exchange, format_args!("{}: {e}", self.inbox.channel))
        })?;
        // the chunk is free before the producer hears that it may send more
        drop(body);
        if let Some(grant) = self.returns.taken(kind, length) {
            self.inbox.grant(&mut lock(&self.inbox.state), grant);
        }
        Ok(element)
    }

    fn decode(&mut self, kind: Kind, body: &[u8]) -> Result<Element<T>, String> {
        match kind {
            Kind::Batch => {
                let mut batch = self.spare.pop().unwrap_or_else(Batch::with_room);
                batch_codec::decode(body, &mut batch, self.rehash.as_ref()).map_err(|e| e.to_string())?;
                Ok(Element::Batch(batch))
            }
            Kind::Watermark => match *body {
                [a, b, c, d, e, f, g, h, ref idle @ ..] if matches!(idle, [] | [IDLE]) => {
                    let time = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
                    Ok(if idle.is_empty() { Element::Watermark(time) } else { Element::Idle(time) })
                }
                _ => Err(format!("{} bytes instead of 8", body.len())),
            },
            Kind::Barrier => {
                let barrier: Barrier = serde_json::from_slice(body).map_err(|e| e.to_string())?;
                if barrier.attempt != self.inbox.attempt {
                    return Err(format!("the barrier is of attempt {}", barrier.attempt));
                }
                Ok(Element::Barrier(barrier))
            }
            Kind::EndOfInput if body.is_empty() => Ok(Element::EndOfInput),
            _ => Err("it does not belong into a channel".into()),
        }
    }

    /// Gives a batch back for reuse; what is left in it is dropped.
    #[inline]
    pub fn recycle(&mut self, mut batch: Batch<T>) {
        batch.clear();
        if self.spare.len() < self.spare.capacity() {
            self.spare.push(batch);
        }
    }
}

impl<T> Drop for RemoteReceiver<T> {
    fn drop(&mut self) {
        let inbox = &self.inbox;
        let mut state = lock(&inbox.state);
        state.consumer_gone = true;
        state.queue = VecDeque::new();
        if !state.closed {
            inbox.tell(&mut state, Kind::Cancel, |_| ());
        }
    }
}
