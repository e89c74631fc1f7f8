//! The loop of a task with inputs: take an element, run the chain, align barriers, merge watermarks, fire timers, flush when
//! the input runs dry or the deadline has passed.
use super::Signal;
use super::aligner::{Aligned, Aligner};
use super::flusher::Flusher;
use super::inlet::{Control, Inlet, Taken};
use super::task::{TaskBody, TaskCommand, TaskEvent, TaskIo};
use super::timing::Timing;
use super::valve::{Advance, Valve};
use super::wakeup::Wakeup;
use crate::checkpoint::handles::Barrier;
use crate::error::{Error, ErrorCode, Result};
use crate::state::snapshot::SnapshotParts;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use weir_api::ids::CheckpointId;

/// Elements between two yields to the other tasks of the worker thread, and between two looks at the clock while there is
/// always something to take.
const ELEMENTS_PER_YIELD: u32 = 16;

/// The inputs and the chain behind them.
pub struct InputTask<I>(pub I);

struct Running<I> {
    inlet: I,
    io: TaskIo,
    aligner: Aligner,
    valve: Valve,
    /// Inputs that have not ended.
    open: Vec<bool>,
    /// All inputs have ended: what follows waits while the chain holds something back. Checkpoints do not: what is held back
    /// is part of them.
    draining: Option<Draining>,
    /// The barrier of a snapshot that drains, aligned; waits, too. And when its first one arrived.
    held: Option<(Barrier, Instant)>,
    /// When the first barrier of the alignment under way arrived.
    aligning_since: Option<Instant>,
    /// The snapshot that ends tasks, acknowledged and not complete yet.
    ending: Option<CheckpointId>,
    /// The chain may hold records in unfilled batches.
    dirty: bool,
    flusher: Flusher,
    /// The chain takes another batch (not asked again until one was handed to it).
    ready: bool,
    wakeup: Wakeup,
    timing: Timing,
}

/// What the chain holds back comes before what follows, in two steps.
#[derive(Clone, Copy)]
enum Draining {
    /// Before the chain hears of the end of its input.
    BeforeEnd,
    /// Before the barrier behind it: an operator may have emitted what it kept into one that makes calls.
    AfterEnd,
}

enum Wake<E> {
    Command(TaskCommand),
    Cancelled,
    Element(usize, E),
    /// Nothing to take now, and the chain may hold something back.
    Dry,
    /// No room behind, and what the chain holds back has waited for long enough.
    Overdue,
    /// A processing-time timer is due.
    Time(i64),
    /// All inputs have ended, and nothing is held back any more.
    Drained,
}

impl<I: Inlet> TaskBody for InputTask<I> {
    fn run(self: Box<Self>, io: TaskIo) -> BoxFuture<'static, Result<()>> {
        let (channels, now) = (self.0.channels(), Instant::now());
        let timing = Timing::new(io.metrics.clone(), now);
        let (wakeup, flusher) = (Wakeup::new(io.clock.clone()), Flusher::new(io.buffer_timeout, now));
        let running = Running {
            inlet: self.0,
            io,
            aligner: Aligner::new(channels),
            valve: Valve::new(channels),
            open: vec![true; channels],
            draining: None,
            held: None,
            aligning_since: None,
            ending: None,
            dirty: false,
            flusher,
            ready: false,
            wakeup,
            timing,
        };
        running.run().boxed()
    }
}

impl<I: Inlet> Running<I> {
    async fn run(mut self) -> Result<()> {
        let _ = self.io.events.send((self.io.id, TaskEvent::Running));
        let mut elements = 0;
        loop {
            match self.next_wake().await? {
                Wake::Cancelled => return Ok(()),
                Wake::Command(c) => {
                    if self.command(c)? {
                        self.inlet.signal(&mut Signal::Close)?;
                        let _ = self.io.events.send((self.io.id, TaskEvent::Finished));
                        return Ok(());
                    }
                }
                Wake::Dry | Wake::Overdue => {
                    let now = Instant::now();
                    self.flush(now)?;
                    self.timing.busy_until(now);
                }
                Wake::Time(now) => self.signal(&mut Signal::ProcessingTime(now))?,
                Wake::Drained => match self.draining.take() {
                    Some(Draining::BeforeEnd) => {
                        self.draining = Some(Draining::AfterEnd);
                        self.signal(&mut Signal::EndOfInput)?;
                    }
                    Some(Draining::AfterEnd) | None => {
                        if let Some((barrier, since)) = self.held.take() {
                            self.barrier(barrier, since)?;
                        }
                    }
                },
                Wake::Element(input, element) => {
                    self.element(input, element)?;
                    elements += 1;
                    if elements % ELEMENTS_PER_YIELD == 0 {
                        self.look_at_the_clock()?;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// What must not wait for the input to run dry.
    fn look_at_the_clock(&mut self) -> Result<()> {
        let now = Instant::now();
        let due = self.next_timer();
        if let Some(time) = self.wakeup.due(due) {
            self.signal(&mut Signal::ProcessingTime(time))?;
        }
        if self.dirty && self.flusher.is_due(now) {
            self.flush(now)?;
        }
        self.timing.busy_until(now);
        Ok(())
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.dirty = false;
        self.flusher.flushed(now);
        self.inlet.signal(&mut Signal::Flush)
    }

    /// A signal behind which the chain may hold records.
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        self.dirty = true;
        self.ready = false;
        self.inlet.signal(signal)
    }

    /// What is emitted behind a barrier that ends tasks would be lost: timers wait for the restore. While one is held none
    /// begins what it would have to wait for.
    fn next_timer(&mut self) -> Option<i64> {
        if self.ending.is_some() || self.held.is_some() { None } else { self.inlet.next_timer() }
    }

    /// A newer barrier arrived first.
    fn decline(&self, checkpoint: CheckpointId) {
        let reason = Error::internal("a newer barrier arrived first").at(format!("checkpoint {checkpoint}"));
        let reason = Error { code: ErrorCode::Checkpoint, ..reason };
        let _ = self.io.events.send((self.io.id, TaskEvent::Declined { checkpoint, reason }));
    }

    async fn next_wake(&mut self) -> Result<Wake<I::Element>> {
        poll_fn(|cx| {
            let resumed = self.timing.resume();
            let wake = self.poll_wake(cx);
            if wake.is_pending() {
                let add = if self.ready { Timing::IDLE } else { Timing::BACKPRESSURED };
                self.timing.wait(Instant::now(), add);
            } else if let (Some(now), Poll::Ready(Ok(Wake::Element(..)))) = (resumed, &wake)
                && self.dirty
                && self.flusher.is_due(now)
            {
                // the next look at the clock is some elements away, and so may be the next wait
                self.flush(now)?;
            }
            wake
        })
        .await
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake<I::Element>>> {
        match self.io.commands.poll_recv(cx) {
            Poll::Ready(Some(c)) => return Poll::Ready(Ok(Wake::Command(c))),
            Poll::Ready(None) => return Poll::Ready(Ok(Wake::Cancelled)),
            Poll::Pending => {}
        }
        if !self.ready {
            if self.inlet.poll_ready(cx)?.is_pending() {
                // one full channel must not keep what lies in the batches of others; a stage may have put more there just now
                return self.flusher.poll(cx).map(|()| Ok(Wake::Overdue));
            }
            self.ready = true;
            // a stage may have gone on with what it had begun
            self.dirty = true;
        }
        // what would be emitted behind a barrier that ends tasks would be lost: the end of the input waits for the restore
        if self.draining.is_some() && self.ending.is_none() && self.inlet.poll_drained(cx)?.is_ready() {
            return Poll::Ready(Ok(Wake::Drained));
        }
        match self.inlet.poll_next(cx, &self.aligner) {
            Poll::Ready(r) => Poll::Ready(r.map(|(i, e)| Wake::Element(i, e))),
            Poll::Pending if self.dirty => Poll::Ready(Ok(Wake::Dry)),
            Poll::Pending => {
                let due = self.next_timer();
                self.wakeup.poll(cx, due).map(|now| Ok(Wake::Time(now)))
            }
        }
    }

    fn element(&mut self, input: usize, element: I::Element) -> Result<()> {
        let control = match self.inlet.take(input, element)? {
            Taken::Records(n) => {
                self.io.metrics.add_records_in(n);
                self.dirty = true;
                self.ready = false;
                return Ok(());
            }
            Taken::Control(c) => c,
        };
        match control {
            Control::Watermark(w) => {
                let advance = self.valve.watermark(input, w);
                self.advance(advance)?;
            }
            Control::Idle(w) => {
                let advance = self.valve.idle(input, w);
                self.advance(advance)?;
            }
            Control::EndOfInput => {
                let was_open = std::mem::replace(&mut self.open[input], false);
                if was_open {
                    // a function may emit something
                    (self.dirty, self.ready) = (true, false);
                    if self.inlet.ended(input)? {
                        self.draining = Some(Draining::BeforeEnd);
                    }
                }
            }
            Control::Barrier(barrier) => {
                let since = *self.aligning_since.get_or_insert_with(Instant::now);
                match self.aligner.barrier(input, barrier) {
                    Aligned::Waiting => {}
                    Aligned::Ignored if self.aligner.is_aligning() => {}
                    Aligned::Ignored => self.aligning_since = None,
                    Aligned::Complete(barrier) => {
                        self.aligning_since = None;
                        if barrier.kind.drains() {
                            // also where all was drained once: a timer behind the end of the input may have begun a call
                            self.draining.get_or_insert(Draining::AfterEnd);
                            if let Some((older, _)) = self.held.replace((barrier, since)) {
                                self.decline(older.id);
                            }
                        } else {
                            self.barrier(barrier, since)?;
                        }
                    }
                }
                self.aligner.take_given_up().into_iter().for_each(|c| self.decline(c));
            }
        }
        Ok(())
    }

    fn advance(&mut self, advance: Option<Advance>) -> Result<()> {
        match advance {
            None => Ok(()),
            Some(Advance::Watermark(w)) => {
                self.io.metrics.set_watermark(w);
                self.signal(&mut Signal::Watermark(w))
            }
            // event time may advance with idleness, and operators look at watermarks only
            Some(Advance::Idle(w)) => {
                self.io.metrics.set_watermark(w);
                if w > i64::MIN {
                    self.signal(&mut Signal::Watermark(w))?;
                }
                self.signal(&mut Signal::Idle(w))
            }
        }
    }

    fn barrier(&mut self, barrier: Barrier, since: Instant) -> Result<()> {
        let started = Instant::now();
        // behind this one it would commit what is part of neither
        if let Some((older, _)) = self.held.take_if(|(held, _)| held.id < barrier.id) {
            self.decline(older.id);
        }
        if barrier.kind.ends_tasks() {
            self.ending = Some(barrier.id);
        }
        let mut parts = SnapshotParts::default();
        self.inlet.signal(&mut Signal::Barrier { barrier: barrier.clone(), parts: &mut parts })?;
        let alignment: Duration = started.duration_since(since);
        super::snapshot::send(&self.io, barrier, parts, alignment, started.elapsed());
        Ok(())
    }

    /// True when the task ends.
    fn command(&mut self, command: TaskCommand) -> Result<bool> {
        match command {
            TaskCommand::Trigger(_) => {}
            TaskCommand::Complete(id) => {
                self.inlet.signal(&mut Signal::Complete(id))?;
                return Ok(self.ending == Some(id));
            }
            TaskCommand::Aborted(id) => {
                self.aligner.abort(id);
                self.held.take_if(|(b, _)| b.id == id);
                if !self.aligner.is_aligning() {
                    self.aligning_since = None;
                }
                self.inlet.signal(&mut Signal::Aborted(id))?;
                if self.ending == Some(id) {
                    self.ending = None;
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
