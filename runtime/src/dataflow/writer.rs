//! The end of a chain that leads to another vertex: spreads batches over the channels of an edge.
use super::{BATCH_RECORDS, Batch, Signal, Stage};
use crate::data::Data;
use crate::error::Result;
use crate::exchange::{Element, Sender};
use crate::graph::Partition;
use crate::graph::key_group::{key_group, subtask_of};
use crate::observe::TaskMetrics;
use std::task::{Context, Poll, ready};

/// Writes into the channels of one producer subtask along one edge.
pub struct ExchangeWriter<T> {
    senders: Vec<Sender<T>>,
    route: Route<T>,
    /// The latest watermark, and the one that each sender has sent. A watermark goes behind the next batch of its channel or
    /// with the next flush: if each one flushed, batches would leave nearly empty.
    watermark: i64,
    sent: Vec<i64>,
    metrics: TaskMetrics,
}

enum Route<T> {
    /// Whole batches to the senders in turn (forward: there is one).
    Turns(usize),
    Broadcast,
    /// `target[key group]` is the sender; a batch is collected for each.
    Hash {
        target: Vec<u16>,
        collected: Vec<Batch<T>>,
    },
}

impl<T: Data> ExchangeWriter<T> {
    /// `senders` in the order of the consumer subtasks (for a forward edge the one that it leads to).
    pub fn new(
        partition: Partition,
        senders: Vec<Sender<T>>,
        producer: u32,
        max_parallelism: u32,
        metrics: TaskMetrics,
    ) -> Self {
        let n = senders.len();
        let route = match partition {
            Partition::Hash if n > 1 => Route::Hash {
                target: (0..max_parallelism).map(|g| subtask_of(g, n as u32, max_parallelism) as u16).collect(),
                collected: (0..n).map(|_| Batch::with_room()).collect(),
            },
            Partition::Broadcast => Route::Broadcast,
            // producers start at different places, so that few batches still reach all consumers
            _ => Route::Turns(producer as usize % n.max(1)),
        };
        let sent = vec![i64::MIN; senders.len()];
        Self { senders, route, watermark: i64::MIN, sent, metrics }
    }

    fn send(&mut self, to: usize, batch: Batch<T>) -> Result<()> {
        self.metrics.add_records_out(batch.len() as u64);
        self.senders[to].send(Element::Batch(batch))?;
        catch_up(self.watermark, &mut self.sent[to], &mut self.senders[to])
    }

    /// Sends what is collected, and the watermark.
    fn flush(&mut self) -> Result<()> {
        if let Route::Hash { collected, .. } = &mut self.route {
            for (batch, sender) in collected.iter_mut().zip(&mut self.senders) {
                send_collected(batch, sender, &self.metrics)?;
            }
        }
        for (sent, sender) in self.sent.iter_mut().zip(&mut self.senders) {
            catch_up(self.watermark, sent, sender)?;
        }
        Ok(())
    }

    fn send_all(&mut self, make: impl Fn() -> Element<T>) -> Result<()> {
        self.flush()?;
        self.senders.iter_mut().try_for_each(|s| s.send(make()))
    }
}

/// Sends the latest watermark if the channel does not know it.
#[inline]
fn catch_up<T: Data>(watermark: i64, sent: &mut i64, sender: &mut Sender<T>) -> Result<()> {
    if *sent < watermark {
        *sent = watermark;
        sender.send(Element::Watermark(watermark))?;
    }
    Ok(())
}

fn send_collected<T: Data>(batch: &mut Batch<T>, sender: &mut Sender<T>, metrics: &TaskMetrics) -> Result<()> {
    if !batch.is_empty() {
        metrics.add_records_out(batch.len() as u64);
        let full = sender.pack(batch);
        sender.send(Element::Batch(full))?;
    }
    Ok(())
}

impl<T: Data> ExchangeWriter<T> {
    /// Moves the records into the batches of their targets; sends those that are full.
    fn scatter(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let Self { senders, route, watermark, sent, metrics } = self;
        let Route::Hash { target, collected } = route else { return Ok(()) };
        let timed = !batch.timestamps.is_empty();
        for (out, sender) in collected.iter_mut().zip(senders.iter_mut()) {
            // a batch has timestamps for all of its records or for none
            if timed == out.timestamps.is_empty() && !out.is_empty() {
                send_collected(out, sender, metrics)?;
            }
        }
        let (hashes, timestamps) = (std::mem::take(&mut batch.hashes), std::mem::take(&mut batch.timestamps));
        debug_assert_eq!(hashes.len(), batch.len());
        let mut spread = Spread {
            hashes: hashes.iter(),
            timestamps: timestamps.iter(),
            groups: target.len() as u32,
            target,
            collected,
            senders,
            sent,
            watermark: *watermark,
            metrics,
            result: Ok(()),
        };
        batch.take_each(|record| spread.take(record));
        let result = spread.result;
        (batch.hashes, batch.timestamps) = (hashes, timestamps);
        batch.clear();
        result
    }
}

/// A batch on its way into the batches of the targets.
struct Spread<'a, T> {
    /// Of the records that are left.
    hashes: std::slice::Iter<'a, u64>,
    timestamps: std::slice::Iter<'a, i64>,
    groups: u32,
    target: &'a [u16],
    collected: &'a mut [Batch<T>],
    senders: &'a mut [Sender<T>],
    sent: &'a mut [i64],
    watermark: i64,
    metrics: &'a TaskMetrics,
    result: Result<()>,
}

impl<T: Data> Spread<'_, T> {
    /// Puts the next record, and what lies beside it, where it belongs. All at one go: each push waits for the length that
    /// the push before it has stored, and so they wait at the same time.
    #[inline(always)]
    fn take(&mut self, record: T) {
        let Some(&hash) = self.hashes.next() else { return };
        let Some(&target) = self.target.get(key_group(hash, self.groups) as usize) else { return };
        let Some(out) = self.collected.get_mut(usize::from(target)) else { return };
        out.records.push(record);
        out.hashes.push(hash);
        if let Some(&timestamp) = self.timestamps.next() {
            out.timestamps.push(timestamp);
        }
        if out.records.len() >= BATCH_RECORDS {
            self.full(usize::from(target));
        }
    }

    #[cold]
    #[inline(never)]
    fn full(&mut self, target: usize) {
        let sender = &mut self.senders[target];
        let sent_full = send_collected(&mut self.collected[target], sender, self.metrics)
            .and_then(|()| catch_up(self.watermark, &mut self.sent[target], sender));
        if let Err(e) = sent_full {
            // the task ends with this: what is still collected is never sent
            self.result = Err(e);
        }
    }
}

impl<T: Data> Stage<T> for ExchangeWriter<T> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        match &mut self.route {
            Route::Hash { .. } => self.scatter(batch),
            Route::Turns(next) => {
                let to = *next;
                *next = (to + 1) % self.senders.len();
                let packed = self.senders[to].pack(batch);
                self.send(to, packed)
            }
            Route::Broadcast => {
                let Some(last) = self.senders.len().checked_sub(1) else { return Ok(()) };
                for to in 0..last {
                    self.send(to, batch.clone())?;
                }
                let packed = self.senders[last].pack(batch);
                self.send(last, packed)
            }
        }
    }

    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            Signal::Flush => self.flush(),
            // the end of event time, and the end of idleness, are said at once
            Signal::Watermark(w) if *w == i64::MAX || *w == self.watermark => {
                self.watermark = *w;
                self.sent.fill(*w);
                self.send_all(|| Element::Watermark(*w))
            }
            Signal::Watermark(w) => {
                self.watermark = *w;
                Ok(())
            }
            Signal::Idle(w) => {
                self.watermark = self.watermark.max(*w);
                self.send_all(|| Element::Idle(*w))
            }
            Signal::EndOfInput => self.send_all(|| Element::EndOfInput),
            Signal::Barrier { barrier, .. } => self.send_all(|| Element::Barrier(barrier.clone())),
            // every task hears of these from the jobmanager, and has a clock of its own
            Signal::Complete(_) | Signal::Aborted(_) | Signal::Close => Ok(()),
            Signal::ProcessingTime(_) | Signal::Split(_) => Ok(()),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for s in &mut self.senders {
            ready!(s.poll_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}
