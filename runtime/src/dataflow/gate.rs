//! The channels of one input of a task: takes from each in turn, leaves blocked ones alone.
use super::aligner::Aligner;
use crate::error::Result;
use crate::exchange::{Element, Receiver};
use std::task::{Context, Poll};

/// All channels of one record type that end at one subtask.
pub struct InputGate<T> {
    inputs: Vec<Input<T>>,
    /// Number of the first channel among all of the task's.
    first: usize,
    next: usize,
}

struct Input<T> {
    receiver: Receiver<T>,
    /// The producer is gone: nothing more will come.
    closed: bool,
}

impl<T: crate::data::Data> InputGate<T> {
    pub fn new(receivers: Vec<Receiver<T>>) -> Self {
        Self::from(0, receivers)
    }

    /// A gate whose channels are numbered from `first` on.
    pub fn from(first: usize, receivers: Vec<Receiver<T>>) -> Self {
        let input = |receiver| Input { receiver, closed: false };
        Self { inputs: receivers.into_iter().map(input).collect(), first, next: 0 }
    }

    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The next element of an input that the aligner does not block, fairly, with the number of its channel.
    pub fn poll_next(&mut self, cx: &mut Context<'_>, aligner: &Aligner) -> Poll<Result<(usize, Element<T>)>> {
        let n = self.inputs.len();
        for step in 0..n {
            let i = (self.next + step) % n;
            let input = &mut self.inputs[i];
            if input.closed || aligner.is_blocked(self.first + i) {
                continue;
            }
            match input.receiver.poll_recv(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(None)) => input.closed = true,
                Poll::Ready(Ok(Some(element))) => {
                    self.next = (i + 1) % n;
                    return Poll::Ready(Ok((self.first + i, element)));
                }
            }
        }
        Poll::Pending
    }

    /// Gives an emptied batch back to the producer of the channel.
    #[inline]
    pub fn recycle(&mut self, channel: usize, batch: super::Batch<T>) {
        self.inputs[channel - self.first].receiver.recycle(batch);
    }
}
