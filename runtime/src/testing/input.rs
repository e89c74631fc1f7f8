//! A source that a test feeds by hand, record by record.
use crate::connectors::source::{ReadStatus, Source, SourceContext, SourceReader, Split};
use crate::data::Data;
use crate::dataflow::{BATCH_RECORDS, Output, Signal};
use crate::error::{Error, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long [`TestSource::wait_until_read`] waits.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
enum Item<T> {
    Record(T, Option<i64>),
    Watermark(i64),
    Idle(i64),
}

/// A source that emits what a test puts into it, also while the job runs; clones share it. It has one split, and remembers
/// all that it was given: a restored job reads again from the position in its snapshot.
///
/// Records may carry their event time, and watermarks may be put between them, so that no
/// [`WatermarkStrategy`](crate::job::WatermarkStrategy) is needed.
#[derive(Debug)]
pub struct TestSource<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    items: Mutex<Items<T>>,
    read: Condvar,
}

#[derive(Debug)]
struct Items<T> {
    all: Vec<Item<T>>,
    ended: bool,
    /// Position of the reader.
    position: usize,
    /// A restored reader begins at the front, whatever its snapshot says.
    from_now: bool,
    wakers: Vec<Waker>,
}

impl<T> Clone for TestSource<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for TestSource<T> {
    fn default() -> Self {
        let items = Items { all: Vec::new(), ended: false, position: 0, from_now: false, wakers: Vec::new() };
        Self(Arc::new(Shared { items: Mutex::new(items), read: Condvar::new() }))
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Items<T>> {
        // a panic elsewhere cannot leave a push half done
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Data> TestSource<T> {
    pub fn new() -> Self {
        Self::default()
    }
    /// One that a restored job reads from the front: only what is put in from now on comes.
    pub(super) fn from_now() -> Self {
        let this = Self::default();
        this.0.lock().from_now = true;
        this
    }
    /// A record without event time.
    pub fn push(&self, record: T) {
        self.put(Item::Record(record, None));
    }
    /// A record with this event time; ms since the Unix epoch.
    pub fn push_at(&self, record: T, timestamp: i64) {
        self.put(Item::Record(record, Some(timestamp)));
    }
    /// Event time has come so far; ms since the Unix epoch. At the end there is one with `i64::MAX` by itself.
    pub fn watermark(&self, watermark: i64) {
        self.put(Item::Watermark(watermark));
    }
    /// Nothing comes for now, and nobody waits for it: event time, which has come so far, goes on without this source.
    pub fn idle(&self, watermark: i64) {
        self.put(Item::Idle(watermark));
    }
    /// Nothing more comes.
    pub fn end(&self) {
        let mut items = self.0.lock();
        items.ended = true;
        items.wakers.drain(..).for_each(Waker::wake);
    }
    /// Waits until the job has read all that was put in so far. An error if that takes two minutes.
    pub fn wait_until_read(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut items = self.0.lock();
        let wanted = items.all.len();
        while items.position < wanted {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let m = format!("the job has read {} of {wanted} within {PATIENCE:?}", items.position);
                return Err(Error::internal(m));
            }
            items = self.0.read.wait_timeout(items, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
    fn put(&self, item: Item<T>) {
        let mut items = self.0.lock();
        items.all.push(item);
        items.wakers.drain(..).for_each(Waker::wake);
    }
}

impl<T: Data> Source for TestSource<T> {
    type Record = T;
    type Reader = TestReader<T>;

    fn enumerate(&self, _: u32) -> Result<Vec<Split>> {
        Ok(vec![0u64.to_le_bytes().to_vec()])
    }
    fn reader(&self, cx: &SourceContext, splits: Vec<Split>) -> Result<TestReader<T>> {
        let position = match splits.as_slice() {
            [] => None,
            [split] => {
                let bytes = split.as_slice().try_into();
                let bytes = bytes.map_err(|_| Error::internal("the position of a test source is corrupt"))?;
                Some(u64::from_le_bytes(bytes) as usize)
            }
            _ => return Err(Error::internal("a test source has one split")),
        };
        let mut items = self.0.lock();
        let position = position.map(|p| if items.from_now { 0 } else { p });
        items.position = position.unwrap_or(items.position);
        drop(items);
        Ok(TestReader { source: self.clone(), position, cx: cx.clone() })
    }
}

/// The reader of [`TestSource`].
#[derive(Debug)]
pub struct TestReader<T> {
    source: TestSource<T>,
    /// None: another subtask has the split.
    position: Option<usize>,
    cx: SourceContext,
}

impl<T: Data> SourceReader for TestReader<T> {
    type Record = T;

    fn read(&mut self, out: &mut Output<T>, _: Instant) -> Result<ReadStatus> {
        let Some(position) = &mut self.position else { return Ok(ReadStatus::End) };
        let (some, last) = {
            let items = self.source.0.lock();
            let rest = items.all.get(*position..).unwrap_or_default();
            let some = rest[..rest.len().min(BATCH_RECORDS)].to_vec();
            let last = items.ended && some.len() == rest.len();
            (some, last)
        };
        if some.is_empty() {
            return Ok(if last { ReadStatus::End } else { ReadStatus::Wait(None) });
        }
        *position += some.len();
        for item in some {
            match item {
                Item::Record(record, Some(t)) => out.push_at(record, t),
                Item::Record(record, None) => {
                    out.erase_timestamp();
                    out.push(record);
                }
                Item::Watermark(w) => out.signal(&mut Signal::Watermark(w))?,
                Item::Idle(w) => out.signal(&mut Signal::Idle(w))?,
            }
            self.cx.metrics.add_records_in(1);
        }
        let mut items = self.source.0.lock();
        items.position = *position;
        self.source.0.read.notify_all();
        Ok(ReadStatus::More)
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(position) = self.position else { return Poll::Pending };
        let mut items = self.source.0.lock();
        if position < items.all.len() || items.ended {
            return Poll::Ready(());
        }
        if !items.wakers.iter().any(|w| w.will_wake(cx.waker())) {
            items.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn snapshot(&mut self) -> Result<Vec<Split>> {
        Ok(self.position.iter().map(|p| (*p as u64).to_le_bytes().to_vec()).collect())
    }
}
