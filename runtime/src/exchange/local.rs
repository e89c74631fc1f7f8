//! The channel between two tasks of one process: batches move by ownership, and empty ones go back to be filled again.
use super::Element;
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Makes a channel. Its sender stops being ready when `capacity` batches lie in it, and is ready again when half of them
/// are gone. Watermarks, barriers and the end of input take no room.
///
/// `near`: both ends run on one thread. See [`LocalSender::pack`].
pub fn channel<T>(capacity: usize, near: bool) -> (LocalSender<T>, LocalReceiver<T>) {
    let capacity = capacity.max(1);
    let state = State {
        queue: VecDeque::with_capacity(capacity + 4),
        batches: 0,
        spare: Vec::with_capacity(capacity + 4),
        receiver: None,
        sender: None,
        sender_gone: false,
        receiver_gone: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), stopped: AtomicBool::new(false), capacity, near });
    let receiver = LocalReceiver { shared: shared.clone(), emptied: Vec::with_capacity(4) };
    (LocalSender { shared, spare: None }, receiver)
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// The sender must look closer before it goes on: the channel is full, or its receiver is gone.
    stopped: AtomicBool,
    capacity: usize,
    near: bool,
}

struct State<T> {
    queue: VecDeque<Element<T>>,
    /// Batches in `queue`.
    batches: usize,
    /// Empty batches on their way back; never more than fit without growing.
    spare: Vec<Batch<T>>,
    /// Set while an end waits.
    receiver: Option<Waker>,
    sender: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // nothing that runs under the lock can leave it half done, so a panic elsewhere in the holder does no harm
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The producer's end. Dropping it ends the channel behind what was sent.
pub struct LocalSender<T> {
    shared: Arc<Shared<T>>,
    spare: Option<Batch<T>>,
}

impl<T> LocalSender<T> {
    /// Ready when there is room for another batch. An error when the receiver is gone.
    #[inline]
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.shared.stopped.load(Ordering::Acquire) { self.poll_stopped(cx) } else { Poll::Ready(Ok(())) }
    }

    #[cold]
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Poll::Ready(Err(consumer_gone()));
        }
        // the flag goes down under the lock only, so a wake-up cannot fall between this look and the waker's placing
        if !self.shared.stopped.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        if !state.sender.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            state.sender = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Sends without waiting; the channel may hold more than its capacity when [`Self::poll_ready`] was not asked before.
    pub fn send(&mut self, element: Element<T>) -> Result<()> {
        let mut state = self.shared.lock();
        if state.receiver_gone {
            return Err(consumer_gone());
        }
        match element {
            Element::Batch(batch) if batch.is_empty() => {
                drop(state);
                self.spare.get_or_insert(batch);
                return Ok(());
            }
            Element::Batch(_) => {
                state.batches += 1;
                if state.batches >= self.shared.capacity {
                    self.shared.stopped.store(true, Ordering::Release);
                }
                state.queue.push_back(element);
            }
            Element::Watermark(_) | Element::Idle(_)
                if matches!(state.queue.back(), Some(Element::Watermark(_) | Element::Idle(_))) =>
            {
                // what an idle or blocked consumer has to keep stays bounded
                state.queue.pop_back();
                state.queue.push_back(element);
            }
            _ => state.queue.push_back(element),
        }
        if self.spare.is_none() {
            self.spare = state.spare.pop();
        }
        let waiting = state.receiver.take();
        drop(state);
        if let Some(waker) = waiting {
            waker.wake();
        }
        Ok(())
    }

    /// An empty batch with room, if possible one that the receiver is done with.
    #[inline]
    pub fn empty_batch(&mut self) -> Batch<T> {
        // `send` brings one along; when none had come back by then, some may have since
        let spare = self.spare.take().or_else(|| self.shared.lock().spare.pop());
        spare.unwrap_or_else(Batch::with_room)
    }

    /// Takes the records out of `batch`, to be sent; it is empty then and has room.
    ///
    /// A batch that comes back lies in the cache of the processor that has read it. Filled record by record it would cost one
    /// round trip between the processors for each line of memory, one after the other: several times the work on a record of few
    /// bytes. Copied at one go the lines come together. So a producer collects in a batch that never leaves it, unless the
    /// consumer is near.
    #[inline]
    pub fn pack(&mut self, batch: &mut Batch<T>) -> Batch<T> {
        let mut out = self.empty_batch();
        if self.shared.near {
            std::mem::swap(batch, &mut out);
        } else {
            out.records.append(&mut batch.records);
            out.hashes.append(&mut batch.hashes);
            out.timestamps.append(&mut batch.timestamps);
        }
        out
    }
}

impl<T> Drop for LocalSender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.sender_gone = true;
        let waiting = state.receiver.take();
        drop(state);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

/// The consumer's end. Dropping it drops what lies in the channel and stops the sender.
pub struct LocalReceiver<T> {
    shared: Arc<Shared<T>>,
    /// Goes back to the sender with the next look into the channel: one lock for both.
    emptied: Vec<Batch<T>>,
}

impl<T> LocalReceiver<T> {
    /// The next element; none when the sender is gone and everything it sent was taken.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Element<T>>>> {
        let mut state = self.shared.lock();
        while let Some(batch) = self.emptied.pop() {
            if state.spare.len() == state.spare.capacity() {
                // more than ever lay in the channel: let go of them
                break;
            }
            state.spare.push(batch);
        }
        let Some(element) = state.queue.pop_front() else {
            if state.sender_gone {
                return Poll::Ready(Ok(None));
            }
            if !state.receiver.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                state.receiver = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let mut waiting = None;
        if matches!(element, Element::Batch(_)) {
            state.batches -= 1;
            // half, not one less: a waiting sender is then woken for several batches, not for each
            if state.batches <= self.shared.capacity / 2 && self.shared.stopped.load(Ordering::Relaxed) {
                self.shared.stopped.store(false, Ordering::Release);
                waiting = state.sender.take();
            }
        }
        drop(state);
        if let Some(waker) = waiting {
            waker.wake();
        }
        Poll::Ready(Ok(Some(element)))
    }

    /// Gives a batch back for reuse; what is left in it is dropped.
    #[inline]
    pub fn recycle(&mut self, mut batch: Batch<T>) {
        batch.clear();
        if self.emptied.len() < self.emptied.capacity() {
            self.emptied.push(batch);
        }
    }
}

impl<T> Drop for LocalReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.receiver_gone = true;
        self.shared.stopped.store(true, Ordering::Release);
        let rest = std::mem::take(&mut state.queue);
        let waiting = state.sender.take();
        drop(state);
        // user types drop outside the lock
        drop(rest);
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

fn consumer_gone() -> Error {
    Error::external(ErrorCode::Exchange, "the consumer of the channel has ended")
}

#[cfg(test)]
mod tests;
