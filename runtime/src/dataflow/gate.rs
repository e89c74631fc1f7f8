//! The inputs of a task: takes from each in turn, leaves blocked ones alone, merges watermarks.
use super::aligner::Aligner;
use crate::error::Result;
use crate::exchange::{Element, Receiver};
use std::task::{Context, Poll};

/// All channels that end at one subtask.
pub struct InputGate<T> {
    inputs: Vec<Input<T>>,
    next: usize,
}

struct Input<T> {
    receiver: Receiver<T>,
    /// The producer is gone: nothing more will come.
    closed: bool,
    ended: bool,
    watermark: i64,
}

impl<T: crate::data::Data> InputGate<T> {
    pub fn new(receivers: Vec<Receiver<T>>) -> Self {
        let input = |receiver| Input { receiver, closed: false, ended: false, watermark: i64::MIN };
        Self { inputs: receivers.into_iter().map(input).collect(), next: 0 }
    }

    pub fn len(&self) -> usize {
        self.inputs.len()
    }

    pub fn is_empty(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The next element of an input that the aligner does not block, fairly.
    pub fn poll_next(&mut self, cx: &mut Context<'_>, aligner: &Aligner) -> Poll<Result<(usize, Element<T>)>> {
        let n = self.inputs.len();
        for step in 0..n {
            let i = (self.next + step) % n;
            let input = &mut self.inputs[i];
            if input.closed || aligner.is_blocked(i) {
                continue;
            }
            match input.receiver.poll_recv(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(None)) => input.closed = true,
                Poll::Ready(Ok(Some(element))) => {
                    self.next = (i + 1) % n;
                    return Poll::Ready(Ok((i, element)));
                }
            }
        }
        Poll::Pending
    }

    /// Gives an emptied batch back to the input's producer.
    #[inline]
    pub fn recycle(&mut self, input: usize, batch: super::Batch<T>) {
        self.inputs[input].receiver.recycle(batch);
    }

    /// Notes an input's watermark; the merged one, when it advanced.
    pub fn watermark(&mut self, input: usize, watermark: i64) -> Option<i64> {
        let merged = |g: &Self| g.inputs.iter().map(|i| i.watermark).min().unwrap_or(i64::MIN);
        let before = merged(self);
        let w = &mut self.inputs[input].watermark;
        *w = (*w).max(watermark);
        let after = merged(self);
        (after > before).then_some(after)
    }

    /// Notes that an input has ended; true when it was the last one.
    pub fn end(&mut self, input: usize) -> bool {
        let was = std::mem::replace(&mut self.inputs[input].ended, true);
        !was && self.inputs.iter().all(|i| i.ended)
    }
}
