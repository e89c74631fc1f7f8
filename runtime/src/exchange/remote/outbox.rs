//! Frames on their way into one connection: many tasks append, one task writes.
use super::lock;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Poll, Waker};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Frames handed to the kernel in one call.
const SLICES: usize = 64;
/// Written buffers kept for reuse, and the largest one worth keeping.
const SPARES: usize = 64;
const SPARE_BYTES: usize = 512 << 10;

#[derive(Default)]
pub struct Outbox {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    writer: Option<Waker>,
    closed: bool,
}

impl Outbox {
    /// Appends a sealed frame. Returns a used buffer for the next one. Credit bounds what can lie here.
    pub fn push(&self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Some(frame);
        }
        state.frames.push_back(frame);
        let spare = state.spare.pop();
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
        spare
    }

    /// Takes no more frames; [`write_frames`] ends when those taken so far are written.
    pub fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        if let Some(writer) = state.writer.take() {
            drop(state);
            writer.wake();
        }
    }

    /// Waits until there is something to write and moves all of it into `frames`. False: closed, nothing is left.
    async fn take(&self, frames: &mut VecDeque<Vec<u8>>, written: &mut Vec<Vec<u8>>) -> bool {
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            while let Some(buffer) = written.pop() {
                if state.spare.len() < SPARES && buffer.capacity() <= SPARE_BYTES {
                    state.spare.push(buffer);
                }
            }
            if !state.frames.is_empty() {
                std::mem::swap(&mut state.frames, frames);
                return Poll::Ready(true);
            }
            if state.closed {
                return Poll::Ready(false);
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Writes frames as they come, as many at once as there are, until the connection breaks or the outbox is closed; then
/// says that nothing follows.
pub async fn write_frames<W: AsyncWrite + Unpin>(outbox: &Outbox, stream: &mut W) -> io::Result<()> {
    let (mut frames, mut written) = (VecDeque::new(), Vec::new());
    while outbox.take(&mut frames, &mut written).await {
        let mut offset = 0;
        while !frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut n = 0;
            for (slice, frame) in slices.iter_mut().zip(&frames) {
                *slice = IoSlice::new(frame.get(if n == 0 { offset } else { 0 }..).unwrap_or_default());
                n += 1;
            }
            let mut done = poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, &slices[..n])).await?;
            if done == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += offset;
            while let Some(front) = frames.front()
                && done >= front.len()
            {
                done -= front.len();
                written.extend(frames.pop_front());
            }
            offset = done;
        }
    }
    stream.shutdown().await
}
