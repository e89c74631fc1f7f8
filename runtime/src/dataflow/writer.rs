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
        Self { senders, route, metrics }
    }

    fn send(&mut self, to: usize, batch: Batch<T>) -> Result<()> {
        self.metrics.add_records_out(batch.len() as u64);
        self.senders[to].send(Element::Batch(batch))
    }

    fn flush(&mut self) -> Result<()> {
        let Route::Hash { collected, .. } = &mut self.route else { return Ok(()) };
        for (batch, sender) in collected.iter_mut().zip(&mut self.senders) {
            if !batch.is_empty() {
                self.metrics.add_records_out(batch.len() as u64);
                let full = std::mem::replace(batch, sender.empty_batch());
                sender.send(Element::Batch(full))?;
            }
        }
        Ok(())
    }

    fn send_all(&mut self, make: impl Fn() -> Element<T>) -> Result<()> {
        self.flush()?;
        self.senders.iter_mut().try_for_each(|s| s.send(make()))
    }
}

/// Moves the records into the batches of their targets; sends those that are full.
fn scatter<T: Data>(
    batch: &mut Batch<T>,
    target: &[u16],
    collected: &mut [Batch<T>],
    senders: &mut [Sender<T>],
    metrics: &TaskMetrics,
) -> Result<()> {
    let groups = target.len() as u32;
    let timed = !batch.timestamps.is_empty();
    for (i, (record, &hash)) in batch.records.drain(..).zip(&batch.hashes).enumerate() {
        let to = usize::from(target[key_group(hash, groups) as usize]);
        let out = &mut collected[to];
        out.records.push(record);
        out.hashes.push(hash);
        if timed {
            out.timestamps.push(batch.timestamps[i]);
        }
        if out.records.len() >= BATCH_RECORDS {
            metrics.add_records_out(out.len() as u64);
            let full = std::mem::replace(out, senders[to].empty_batch());
            senders[to].send(Element::Batch(full))?;
        }
    }
    batch.clear();
    Ok(())
}

impl<T: Data> Stage<T> for ExchangeWriter<T> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        match &mut self.route {
            Route::Hash { target, collected } => scatter(batch, target, collected, &mut self.senders, &self.metrics),
            Route::Turns(next) => {
                let to = *next;
                *next = (to + 1) % self.senders.len();
                let empty = self.senders[to].empty_batch();
                self.send(to, std::mem::replace(batch, empty))
            }
            Route::Broadcast => {
                let Some(last) = self.senders.len().checked_sub(1) else { return Ok(()) };
                for to in 0..last {
                    self.send(to, batch.clone())?;
                }
                let empty = self.senders[last].empty_batch();
                self.send(last, std::mem::replace(batch, empty))
            }
        }
    }

    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            Signal::Flush => self.flush(),
            Signal::Watermark(w) => self.send_all(|| Element::Watermark(*w)),
            Signal::EndOfInput => self.send_all(|| Element::EndOfInput),
            Signal::Barrier { barrier, .. } => self.send_all(|| Element::Barrier(barrier.clone())),
            // every task hears of these from the jobmanager
            Signal::Complete(_) | Signal::Aborted(_) | Signal::Close => Ok(()),
        }
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        for s in &mut self.senders {
            ready!(s.poll_ready(cx))?;
        }
        Poll::Ready(Ok(()))
    }
}
