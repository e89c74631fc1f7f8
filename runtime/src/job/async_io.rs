//! Calls to other systems for each record, many at a time; those under way are part of every snapshot.
use super::stages::output;
use super::stream::Stream;
use crate::checkpoint::handles::Bytes64;
use crate::data::{Data, DecodeError};
use crate::dataflow::factory::{AnyStage, BuildContext, Consumers, NodeFactory};
use crate::dataflow::{Batch, Output, Signal, Stage};
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use futures::FutureExt;
use queue::{Queue, Released};
use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;

mod queue;
#[cfg(test)]
mod tests;

/// How an operator makes its calls.
#[derive(Debug, Clone)]
pub struct AsyncOptions {
    ordered: bool,
    capacity: usize,
    timeout: Duration,
    retries: u32,
    backoff: Duration,
    skip_failures: bool,
}

impl AsyncOptions {
    fn new(ordered: bool, capacity: usize, timeout: Duration) -> Self {
        let capacity = capacity.max(1);
        Self { ordered, capacity, timeout, retries: 0, backoff: Duration::ZERO, skip_failures: false }
    }
    /// Results come in the order of their records. At most `capacity` calls are under way in each subtask, and it takes no
    /// further records while so many have not been answered or have answers that wait for an earlier one's. A call that takes
    /// longer than `timeout`, with its retries, has failed.
    pub fn ordered(capacity: usize, timeout: Duration) -> Self {
        Self::new(true, capacity, timeout)
    }
    /// Results come as they are there, but none passes a watermark. `capacity` and `timeout` as in [`Self::ordered`].
    pub fn unordered(capacity: usize, timeout: Duration) -> Self {
        Self::new(false, capacity, timeout)
    }
    /// A call that fails is made again up to so many times: after `backoff`, then after twice that, and so on.
    #[must_use]
    pub fn retry(mut self, times: u32, backoff: Duration) -> Self {
        (self.retries, self.backoff) = (times, backoff);
        self
    }
    /// A record whose call fails, or does not answer in time, is left out and counted as dropped. Without this the job fails,
    /// and goes on from its last checkpoint.
    #[must_use]
    pub fn skip_failures(mut self) -> Self {
        self.skip_failures = true;
        self
    }
}

impl<T: Data> Stream<T> {
    /// Makes a call for each record, on the data runtime, and emits what it returns, with the record's event time. `name` is
    /// the operator's identity in snapshots, which hold the records whose results are not out yet: their calls are made
    /// again after a restore, so a call may be made more than once.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use weir::prelude::*;
    /// # use weir::testing::OperatorHarness;
    /// async fn ask(id: u64) -> anyhow::Result<Str> {
    ///     tokio::time::sleep(Duration::from_millis(1)).await; // a database, say
    ///     Ok(format_str!("customer {id}"))
    /// }
    ///
    /// let mut h = OperatorHarness::new(|ids: Stream<u64>| {
    ///     let options = AsyncOptions::ordered(100, Duration::from_secs(5)).retry(2, Duration::from_millis(100));
    ///     ids.async_io("names", options, |id| async move { Ok(vec![(id, ask(id).await?)]) })
    /// })?;
    /// h.push_all([1, 2])?;
    /// h.wait_for_output(2)?;
    /// assert_eq!(h.output()?, [(1, "customer 1".into()), (2, "customer 2".into())]);
    /// # Ok::<(), weir::Error>(())
    /// ```
    pub fn async_io<U: Data, F, C>(&self, name: impl Into<String>, options: AsyncOptions, call: F) -> Stream<U>
    where
        F: Fn(T) -> C + Send + Sync + 'static,
        C: Future<Output = anyhow::Result<Vec<U>>> + Send + 'static,
    {
        let factory = AsyncFactory { options, call: Arc::new(call), types: PhantomData::<fn(T) -> U> };
        let stream = self.add("async", Arc::new(factory));
        stream.last(|n| n.has_lists = true);
        stream.name(name)
    }
}

/// Name of the list state with the records whose results are not out yet.
const IN_FLIGHT: &str = "weir.in-flight";

/// A record that waits for its call or its result.
#[derive(Clone)]
struct Waiting<T> {
    record: T,
    timestamp: Option<i64>,
}

type Answer<U> = (u64, anyhow::Result<Vec<U>>);

struct AsyncStage<T, U, F> {
    name: String,
    options: AsyncOptions,
    call: Arc<F>,
    runtime: tokio::runtime::Handle,
    queue: Queue<Waiting<T>, Vec<U>>,
    under_way: usize,
    answers: (mpsc::UnboundedSender<Answer<U>>, mpsc::UnboundedReceiver<Answer<U>>),
    /// Results or watermarks were emitted since the last flush.
    unflushed: bool,
    metrics: TaskMetrics,
    out: Output<U>,
}

impl<T, U, F, C> AsyncStage<T, U, F>
where
    T: Data,
    U: Data,
    F: Fn(T) -> C + Send + Sync + 'static,
    C: Future<Output = anyhow::Result<Vec<U>>> + Send + 'static,
{
    /// Makes as many calls as there is room for.
    fn issue(&mut self) {
        while self.under_way < self.options.capacity
            && let Some((id, waiting)) = self.queue.next_call()
        {
            self.under_way += 1;
            let record = waiting.record.clone();
            let (call, options, answers) = (self.call.clone(), self.options.clone(), self.answers.0.clone());
            self.runtime.spawn(async move {
                let attempts = AssertUnwindSafe(attempts(&*call, record, &options)).catch_unwind();
                let answer = async {
                    match tokio::time::timeout(options.timeout, attempts).await {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(_)) => Err(anyhow::anyhow!("the call panicked")),
                        Err(_) => Err(anyhow::anyhow!("no answer within {:?}", options.timeout)),
                    }
                };
                // the task may be gone before the answer is there
                tokio::select! {
                    answer = answer => drop(answers.send((id, answer))),
                    () = answers.closed() => {}
                }
            });
        }
    }

    fn answered(&mut self, (id, answer): Answer<U>) -> Result<()> {
        self.under_way -= 1;
        let results = match answer {
            Ok(results) => results,
            Err(e) if self.options.skip_failures => {
                tracing::debug!(
                    operator = self.name,
                    error = format!("{e:#}"),
                    "a call failed, its record is left out"
                );
                self.metrics.add_dropped_records(1);
                Vec::new()
            }
            Err(e) => {
                let m = format!("{}: an asynchronous call failed: {e:#}", self.name);
                return Err(Error::external(ErrorCode::UserFunction, m));
            }
        };
        self.queue.complete(id, results);
        self.release()
    }

    /// Emits what may go out.
    fn release(&mut self) -> Result<()> {
        while let Some(released) = self.queue.release() {
            match released {
                Released::Result(waiting, results) => {
                    match waiting.timestamp {
                        Some(t) => self.out.set_timestamp(t),
                        None => self.out.erase_timestamp(),
                    }
                    self.unflushed |= !results.is_empty();
                    results.into_iter().for_each(|r| self.out.push(r));
                }
                // an exchange keeps it until the next batch or flush
                Released::Watermark(w) => {
                    self.unflushed = true;
                    self.out.signal(&mut Signal::Watermark(w))?;
                }
                Released::Idle(w) => self.out.signal(&mut Signal::Idle(w))?,
                Released::EndOfInput => self.out.signal(&mut Signal::EndOfInput)?,
            }
        }
        self.out.check()
    }

    /// Takes the answers that are there and makes further calls.
    fn progress(&mut self) -> Result<()> {
        while let Ok(answer) = self.answers.1.try_recv() {
            self.answered(answer)?;
        }
        self.issue();
        Ok(())
    }

    /// As [`Self::progress`]; the task is woken by the next answer.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Result<()> {
        self.issue();
        while let Poll::Ready(Some(answer)) = self.answers.1.poll_recv(cx) {
            self.answered(answer)?;
            self.issue();
        }
        Ok(())
    }

    /// What is emitted while the task waits must not lie around.
    fn flush(&mut self) -> Result<()> {
        if std::mem::take(&mut self.unflushed) { self.out.signal(&mut Signal::Flush) } else { Ok(()) }
    }
}

async fn attempts<T: Data, U, C>(call: impl Fn(T) -> C, record: T, options: &AsyncOptions) -> anyhow::Result<Vec<U>>
where
    C: Future<Output = anyhow::Result<Vec<U>>>,
{
    let mut backoff = options.backoff;
    for _ in 0..options.retries {
        match call(record.clone()).await {
            Ok(results) => return Ok(results),
            Err(_) => tokio::time::sleep(backoff).await,
        }
        backoff = backoff.saturating_mul(2);
    }
    call(record).await
}

impl<T, U, F, C> Stage<T> for AsyncStage<T, U, F>
where
    T: Data,
    U: Data,
    F: Fn(T) -> C + Send + Sync + 'static,
    C: Future<Output = anyhow::Result<Vec<U>>> + Send + 'static,
{
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        for (i, record) in batch.records.drain(..).enumerate() {
            self.queue.push(Waiting { record, timestamp: batch.timestamps.get(i).copied() });
        }
        batch.clear();
        self.progress()
    }

    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            // they wait behind the records before them
            Signal::Watermark(w) if !self.queue.is_empty() => {
                self.queue.watermark(*w);
                return Ok(());
            }
            Signal::Idle(w) if !self.queue.is_empty() => {
                self.queue.idle(*w);
                return Ok(());
            }
            // an operator before this one in the chain may have emitted what it held back
            Signal::EndOfInput if !self.queue.is_empty() => {
                self.queue.end_of_input();
                return Ok(());
            }
            Signal::Split(_) => return Ok(()),
            Signal::ProcessingTime(_) => self.progress()?,
            Signal::Flush => self.unflushed = false,
            Signal::Barrier { parts, .. } => {
                let elements = self.queue.waiting().map(encode).collect();
                parts.lists.entry(self.name.clone()).or_default().insert(IN_FLIGHT.into(), elements);
            }
            _ => {}
        }
        self.out.signal(signal)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.out.poll_ready(cx))?;
        self.poll_progress(cx)?;
        // what an answer lets go may give the stages behind more to do than they do at once
        ready!(self.out.poll_ready(cx))?;
        // also those that are answered and wait behind a slow call: they take room as those under way
        if self.queue.outstanding() < self.options.capacity {
            return Poll::Ready(Ok(()));
        }
        self.flush()?;
        Poll::Pending
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_progress(cx)?;
        let ready = self.out.poll_ready(cx)?;
        if !self.queue.is_empty() {
            self.flush()?;
            return Poll::Pending;
        }
        ready!(ready);
        self.out.poll_drained(cx)
    }

    fn next_timer(&mut self) -> Option<i64> {
        // an answer has woken the task, which has no other way to ask what for; or its results were emitted, and nobody knows
        let answered = (self.unflushed || !self.answers.1.is_empty()).then_some(i64::MIN);
        answered.into_iter().chain(self.out.next_timer()).min()
    }
}

fn encode<T: Data>(waiting: &Waiting<T>) -> Bytes64 {
    let mut bytes = Vec::new();
    waiting.timestamp.encode(&mut bytes);
    waiting.record.encode(&mut bytes);
    Bytes64(bytes)
}

fn decode<T: Data>(mut bytes: &[u8]) -> Result<Waiting<T>, DecodeError> {
    let waiting = Waiting { timestamp: Data::decode(&mut bytes)?, record: T::decode(&mut bytes)? };
    if bytes.is_empty() { Ok(waiting) } else { Err(DecodeError::Invalid("bytes are left over")) }
}

struct AsyncFactory<T, U, F> {
    options: AsyncOptions,
    call: Arc<F>,
    types: PhantomData<fn(T) -> U>,
}

impl<T, U, F, C> NodeFactory for AsyncFactory<T, U, F>
where
    T: Data,
    U: Data,
    F: Fn(T) -> C + Send + Sync + 'static,
    C: Future<Output = anyhow::Result<Vec<U>>> + Send + 'static,
{
    fn stage(&self, cx: &BuildContext<'_>, next: Consumers) -> Result<AnyStage> {
        let restored = cx.restore.and_then(|r| r.lists.get(IN_FLIGHT)).into_iter().flatten();
        let mut queue = Queue::new(self.options.ordered);
        for bytes in restored {
            let waiting = decode(&bytes.0).map_err(|e| {
                let m = format!("{}: a record in the snapshot is not one of the declared type: {e}", cx.operator);
                Error::user(ErrorCode::Incompatible, m)
            })?;
            queue.push(waiting);
        }
        let stage = AsyncStage {
            name: cx.operator.to_owned(),
            queue,
            options: self.options.clone(),
            call: self.call.clone(),
            runtime: tokio::runtime::Handle::current(),
            under_way: 0,
            answers: mpsc::unbounded_channel(),
            unflushed: false,
            metrics: cx.metrics.clone(),
            out: output::<U>(next.main())?,
        };
        Ok(AnyStage::new::<T>(Box::new(stage)))
    }
}
