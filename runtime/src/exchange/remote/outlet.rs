//! The producer's side of a channel to another process: batches are encoded in the producer's task and leave as the
//! consumer's credit allows.
use super::lock;
use super::outbox::Outbox;
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::{Error, Result};
use crate::exchange::batch_codec::Encoder;
use crate::exchange::credit::{Grant, SendQueue};
use crate::exchange::frame::{self, FrameError, Kind, MAX_CONTROL_BODY};
use crate::exchange::{ChannelId, Element};
use crate::observe::TaskMetrics;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use weir_api::ids::Attempt;

/// Ninth byte of a watermark frame of an idle producer; otherwise there is none.
pub const IDLE: u8 = 1;

/// What producer and network task share. Untyped.
pub struct Outlet {
    attempt: Attempt,
    channel: ChannelId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: SendQueue<Vec<u8>>,
    sequence: u64,
    producer: Option<Waker>,
    /// The connection, as soon as it stands.
    connection: Option<Arc<Outbox>>,
    failed: Option<Error>,
}

impl Outlet {
    pub fn new(attempt: Attempt, channel: ChannelId) -> Self {
        Self { attempt, channel, state: Mutex::default() }
    }

    /// The connection stands: asks the consumer for credit.
    pub fn connect(&self, outbox: Arc<Outbox>) {
        let mut open = Vec::new();
        frame::start(&mut open);
        frame::seal(&mut open, Kind::Open, self.attempt, self.channel, 0);
        outbox.push(open);
        let mut state = lock(&self.state);
        state.connection = Some(outbox);
        self.pump(&mut state);
    }

    /// Sends what may leave. Returns a used buffer.
    fn pump(&self, state: &mut State) -> Option<Vec<u8>> {
        let connection = state.connection.as_ref()?;
        let mut spare = None;
        while let Some((kind, mut frame)) = state.queue.pop() {
            frame::seal(&mut frame, kind, self.attempt, self.channel, state.sequence);
            state.sequence += 1;
            spare = connection.push(frame).or(spare);
        }
        spare
    }

    fn push(&self, kind: Kind, frame: Vec<u8>) -> Result<Option<Vec<u8>>> {
        let mut state = lock(&self.state);
        if let Some(e) = &state.failed {
            return Err(e.clone());
        }
        let replaced = state.queue.push(kind, frame);
        Ok(self.pump(&mut state).or(replaced))
    }

    /// The consumer has granted credit.
    pub fn grant(&self, grant: Grant) -> Result<(), FrameError> {
        let mut state = lock(&self.state);
        state.queue.grant(grant)?;
        self.pump(&mut state);
        if state.queue.is_ready()
            && let Some(producer) = state.producer.take()
        {
            drop(state);
            producer.wake();
        }
        Ok(())
    }

    /// The connection broke, the consumer is gone or the attempt ended. The first reason counts.
    pub fn fail(&self, error: &Error) {
        let mut state = lock(&self.state);
        if state.failed.is_none() {
            state.failed = Some(error.clone());
            state.queue = SendQueue::default();
            state.connection = None;
            if let Some(producer) = state.producer.take() {
                drop(state);
                producer.wake();
            }
        }
    }
}

/// The producer's end. Dropping it closes the channel behind what was sent.
pub struct RemoteSender<T> {
    outlet: Arc<Outlet>,
    encoder: Encoder,
    /// A used buffer, and an emptied batch.
    buffer: Vec<u8>,
    spare: Option<Batch<T>>,
    metrics: TaskMetrics,
}

impl<T: Data> RemoteSender<T> {
    pub(in crate::exchange) fn new(outlet: Arc<Outlet>) -> Self {
        let metrics = TaskMetrics::default();
        Self { outlet, encoder: Encoder::new(false), buffer: Vec::new(), spare: None, metrics }
    }

    /// The consumer computes hashes where that costs less than sending them.
    pub(in crate::exchange) fn rehashed(mut self) -> Self {
        self.encoder = Encoder::new(true);
        self
    }

    /// Frames are added to the bytes sent of this task.
    pub(in crate::exchange) fn counted(mut self, metrics: &TaskMetrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// Frames that wait for credit.
    pub fn waiting(&self) -> usize {
        lock(&self.outlet.state).queue.waiting()
    }

    /// Ready when the consumer has room for another batch.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = lock(&self.outlet.state);
        if let Some(e) = &state.failed {
            return Poll::Ready(Err(e.clone()));
        }
        if state.queue.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !state.producer.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            state.producer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Sends without waiting; what has no credit is kept until there is some.
    pub fn send(&mut self, element: Element<T>) -> Result<()> {
        match element {
            Element::Batch(mut batch) => {
                let mut from = 0;
                while from < batch.len() {
                    from = self.frame(Kind::Batch, |encoder, out| encoder.encode(&batch, from, out))?;
                }
                batch.clear();
                self.spare = Some(batch);
                Ok(())
            }
            Element::Watermark(time) => self.frame(Kind::Watermark, |_, out| {
                out.extend_from_slice(&time.to_le_bytes());
                Ok(())
            }),
            // the same kind of frame, so that one replaces the other while it waits for credit
            Element::Idle(time) => self.frame(Kind::Watermark, |_, out| {
                out.extend_from_slice(&time.to_le_bytes());
                out.push(IDLE);
                Ok(())
            }),
            Element::Barrier(barrier) => self.frame(Kind::Barrier, |_, out| {
                let body = serde_json::to_vec(&barrier).map_err(Error::internal)?;
                if body.len() > MAX_CONTROL_BODY {
                    return Err(Error::internal(format_args!(
                        "a barrier of {} bytes: its directory is too long",
                        body.len()
                    )));
                }
                out.extend_from_slice(&body);
                Ok(())
            }),
            Element::EndOfInput => self.frame(Kind::EndOfInput, |_, _| Ok(())),
        }
    }

    fn frame<R>(&mut self, kind: Kind, body: impl FnOnce(&mut Encoder, &mut Vec<u8>) -> Result<R>) -> Result<R> {
        let mut frame = std::mem::take(&mut self.buffer);
        frame::start(&mut frame);
        let result = body(&mut self.encoder, &mut frame).map_err(|e| e.at(self.outlet.channel))?;
        self.metrics.add_bytes_out(frame.len() as u64);
        self.buffer = self.outlet.push(kind, frame)?.unwrap_or_default();
        Ok(result)
    }

    /// An empty batch with room, if possible a used one.
    #[inline]
    pub fn empty_batch(&mut self) -> Batch<T> {
        self.spare.take().unwrap_or_else(Batch::with_room)
    }
}

impl<T> Drop for RemoteSender<T> {
    fn drop(&mut self) {
        let mut close = Vec::new();
        frame::start(&mut close);
        // an error means that the channel is gone already
        let _ = self.outlet.push(Kind::Close, close);
    }
}
