//! Where an operator puts its results: a batch that goes to the next stages when it is full.
use super::{BATCH_RECORDS, Batch, Signal, Stage};
use crate::error::Result;
use std::task::{Context, Poll, ready};

/// Collects results and hands full batches to the stages behind.
pub struct Output<T> {
    batch: Batch<T>,
    next: Vec<Box<dyn Stage<T>>>,
    /// The first error of a stage behind: `push` has no result, so that user code stays simple; the operator's caller asks.
    failed: Option<crate::error::Error>,
}

impl<T: Clone> Output<T> {
    /// `next` may be empty (records are dropped then) or hold several stages (each gets every record).
    pub fn new(next: Vec<Box<dyn Stage<T>>>) -> Self {
        Self { batch: Batch::with_room(), next, failed: None }
    }

    /// Emits one record.
    #[inline]
    pub fn push(&mut self, record: T) {
        self.batch.records.push(record);
        if self.batch.records.len() >= BATCH_RECORDS {
            self.emit();
        }
    }

    /// Emits one record with its event time (ms since the Unix epoch). All records of a stream have one, or none has.
    #[inline]
    pub fn push_at(&mut self, record: T, timestamp: i64) {
        self.batch.timestamps.push(timestamp);
        self.push(record);
    }

    /// Records collected and not yet handed on.
    pub fn pending(&self) -> usize {
        self.batch.len()
    }

    /// The batch being filled, for operators that work on whole batches; call [`Self::emit`] when it is full.
    pub fn batch_mut(&mut self) -> &mut Batch<T> {
        &mut self.batch
    }

    /// Hands on what is collected. Errors of the stages behind are kept for [`Self::check`].
    #[inline(never)]
    pub fn emit(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.failed.is_none()
            && let Err(e) = Self::deliver(&mut self.next, &mut self.batch)
        {
            self.failed = Some(e);
        }
        self.batch.clear();
    }

    fn deliver(next: &mut [Box<dyn Stage<T>>], batch: &mut Batch<T>) -> Result<()> {
        let Some((last, others)) = next.split_last_mut() else { return Ok(()) };
        for stage in others {
            stage.process(&mut batch.clone())?;
        }
        last.process(batch)
    }

    /// The error that a stage behind had since the last call.
    #[inline]
    pub fn check(&mut self) -> Result<()> {
        match self.failed.take() {
            None => Ok(()),
            Some(e) => Err(e),
        }
    }

    /// Hands a whole batch on without copying, after what was collected before it.
    pub fn forward(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.emit();
        self.check()?;
        Self::deliver(&mut self.next, batch)?;
        batch.clear();
        Ok(())
    }

    /// Hands on what is collected, then the signal.
    pub fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        self.emit();
        self.check()?;
        self.next.iter_mut().try_for_each(|s| s.signal(signal))
    }

    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for stage in &mut self.next {
            ready!(stage.poll_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}
