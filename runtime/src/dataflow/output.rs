//! Where an operator puts its results: a batch that goes to the next stages when it is full.
use super::{BATCH_RECORDS, Batch, SideOutput, Signal, Stage};
use crate::error::Result;
use std::task::{Context, Poll, ready};

/// Collects results and hands full batches to the stages behind.
///
/// Where the stream has event time, each result carries a timestamp: by default that of the record being processed, which
/// the operator's loop sets once per record. The column is filled in stretches when the timestamp changes, so [`Self::push`]
/// is the same for streams with and without event time.
pub struct Output<T> {
    batch: Batch<T>,
    next: Vec<Box<dyn Stage<T>>>,
    /// Results carry `timestamp`.
    timed: bool,
    timestamp: i64,
    /// The first error of a stage behind: `push` has no result, so that user code stays simple; the operator's caller asks.
    failed: Option<crate::error::Error>,
}

impl<T: Clone> Output<T> {
    /// `next` may be empty (records are dropped then) or hold several stages (each gets every record).
    pub fn new(next: Vec<Box<dyn Stage<T>>>) -> Self {
        Self { batch: Batch::with_room(), next, timed: false, timestamp: i64::MIN, failed: None }
    }

    /// Emits one record, with the timestamp of the record being processed if that has one.
    #[inline]
    pub fn push(&mut self, record: T) {
        self.batch.records.push(record);
        if self.batch.records.len() >= BATCH_RECORDS {
            self.emit();
        }
    }

    /// Emits one record with this event time (ms since the Unix epoch); so are those pushed after it, until the next record
    /// is processed.
    #[inline]
    pub fn push_at(&mut self, record: T, timestamp: i64) {
        self.set_timestamp(timestamp);
        self.push(record);
    }

    /// Emits one record to a side output, with the timestamp of the record being processed if that has one.
    #[inline]
    pub fn push_to<S: Clone>(&self, side: &mut SideOutput<S>, record: S) {
        match self.timestamp() {
            Some(t) => side.push_at(record, t),
            None => side.push(record),
        }
    }

    /// Event time of the record being processed in ms since the Unix epoch; none where the stream has no event time.
    #[inline]
    pub fn timestamp(&self) -> Option<i64> {
        self.timed.then_some(self.timestamp)
    }

    /// What is pushed from now on has this event time (ms since the Unix epoch).
    #[inline]
    pub fn set_timestamp(&mut self, timestamp: i64) {
        if self.timed {
            self.fill();
        } else {
            self.begin(true);
        }
        self.timestamp = timestamp;
    }

    /// What is pushed from now on has no event time.
    pub fn erase_timestamp(&mut self) {
        self.begin(false);
    }

    /// Says whether the records processed next have event time. A batch holds only records of one kind.
    #[inline]
    pub fn begin(&mut self, timed: bool) {
        if self.timed != timed {
            self.emit();
            self.timed = timed;
        }
    }

    #[inline]
    fn fill(&mut self) {
        let n = self.batch.records.len();
        if self.batch.timestamps.len() < n {
            self.batch.timestamps.resize(n, self.timestamp);
        }
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
        if self.timed {
            self.fill();
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
        if !batch.is_empty() {
            Self::deliver(&mut self.next, batch)?;
        }
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

    /// As [`Stage::is_paused`], of any stage behind.
    pub fn is_paused(&self) -> bool {
        self.next.iter().any(|s| s.is_paused())
    }

    /// As [`Stage::poll_drained`], of all stages behind.
    pub fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.batch.is_empty() {
            self.emit();
            self.check()?;
        }
        for stage in &mut self.next {
            ready!(stage.poll_drained(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The earliest time at which a stage behind wants [`Signal::ProcessingTime`]; ms since the Unix epoch.
    pub fn next_timer(&mut self) -> Option<i64> {
        self.next.iter_mut().filter_map(|s| s.next_timer()).min()
    }
}
