//! The loop of a source task: read a batch, hand it on, answer triggers with barriers.
use super::flusher::Flusher;
use super::pause::Pause;
use super::task::{TaskBody, TaskCommand, TaskEvent, TaskIo};
use super::timing::Timing;
use super::wakeup::Wakeup;
use super::{Output, Signal};
use crate::checkpoint::handles::{Barrier, Bytes64, SPLITS};
use crate::connectors::source::{ReadStatus, SourceReader};
use crate::error::Result;
use crate::state::snapshot::SnapshotParts;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;
use weir_api::ids::CheckpointId;

/// Batches between two yields to the other tasks of the worker thread: a yield polls the I/O driver, about a microsecond.
const BATCHES_PER_YIELD: u32 = 16;

/// A reader and the chain behind it.
pub struct SourceTask<R: SourceReader> {
    pub operator: String,
    pub reader: R,
    pub out: Output<R::Record>,
}

/// What ended a wait.
enum Wake {
    Command(TaskCommand),
    /// The taskmanager dropped the task.
    Cancelled,
    /// A processing-time timer is due.
    Time(i64),
    /// Nothing is held back any more.
    Drained,
    /// No room behind, and what the chain holds back has waited for long enough.
    Overdue,
    Ready(Result<()>),
}

struct Running<R: SourceReader> {
    task: SourceTask<R>,
    io: TaskIo,
    /// All splits are read.
    ended: bool,
    /// The snapshot that ends tasks and is under way: nothing is read meanwhile.
    paused: Option<CheckpointId>,
    /// The end of the input, and what follows it, wait for what the chain holds back.
    draining: bool,
    /// A barrier before which the job is drained; waits, too.
    held: Option<Barrier>,
    /// The end of the input was signalled: at the end, or for a snapshot that drains.
    end_signalled: bool,
    flusher: Flusher,
    wakeup: Wakeup,
    pause: Pause,
    timing: Timing,
}

impl<R: SourceReader> TaskBody for SourceTask<R> {
    fn run(self: Box<Self>, io: TaskIo) -> BoxFuture<'static, Result<()>> {
        let now = Instant::now();
        let timing = Timing::new(io.metrics.clone(), now);
        let (wakeup, flusher) = (Wakeup::new(io.clock.clone()), Flusher::new(io.buffer_timeout, now));
        let running = Running {
            task: *self,
            io,
            ended: false,
            paused: None,
            draining: false,
            held: None,
            end_signalled: false,
            flusher,
            wakeup,
            pause: Pause::default(),
            timing,
        };
        running.run().boxed()
    }
}

impl<R: SourceReader> Running<R> {
    async fn run(mut self) -> Result<()> {
        let _ = self.io.events.send((self.io.id, TaskEvent::Running));
        let mut batches = 0;
        loop {
            match self.next_wake().await {
                Wake::Cancelled => return Ok(()),
                Wake::Command(c) => {
                    if self.command(c)? {
                        self.task.out.signal(&mut Signal::Close)?;
                        let _ = self.io.events.send((self.io.id, TaskEvent::Finished));
                        return Ok(());
                    }
                    continue;
                }
                Wake::Time(now) => {
                    self.processing_time(now)?;
                    continue;
                }
                Wake::Overdue => {
                    self.flush(Instant::now())?;
                    continue;
                }
                Wake::Drained => {
                    // first the chain hears of the end; an operator may emit what it kept into one that makes calls, so what is
                    // held back is waited for again
                    if !std::mem::replace(&mut self.end_signalled, true) {
                        self.task.out.signal(&mut Signal::EndOfInput)?;
                        self.flush(Instant::now())?;
                        if self.ended {
                            let _ = self.io.events.send((self.io.id, TaskEvent::SourceEnded));
                        }
                    } else {
                        self.draining = false;
                        if let Some(barrier) = self.held.take() {
                            self.barrier(barrier)?;
                        }
                    }
                    continue;
                }
                Wake::Ready(r) => r?,
            }
            let now = Instant::now();
            self.timing.busy_until(now);
            let before = self.task.out.pending();
            let status = self.task.reader.read(&mut self.task.out, now)?;
            self.task.out.check()?;
            match status {
                ReadStatus::More => {
                    batches += 1;
                    if self.flusher.is_due(now) {
                        self.flush(now)?;
                    } else if self.task.out.pending() > before {
                        self.task.out.emit();
                        self.task.out.check()?;
                    }
                    if batches % BATCHES_PER_YIELD == 0 {
                        let due = self.task.out.next_timer();
                        if let Some(now) = self.wakeup.due(due) {
                            self.task.out.signal(&mut Signal::ProcessingTime(now))?;
                        }
                        tokio::task::yield_now().await;
                    }
                }
                ReadStatus::Wait(until) => {
                    self.flush(now)?;
                    self.wait(until).await?;
                }
                ReadStatus::End => {
                    self.ended = true;
                    self.end_of_event_time()?;
                    self.flush(now)?;
                    self.draining = true;
                }
            }
        }
    }

    fn flush(&mut self, now: Instant) -> Result<()> {
        self.flusher.flushed(now);
        self.task.out.signal(&mut Signal::Flush)
    }

    /// A timer came up while nothing else is done: what it emits goes out at once.
    fn processing_time(&mut self, now: i64) -> Result<()> {
        self.task.out.signal(&mut Signal::ProcessingTime(now))?;
        self.task.out.signal(&mut Signal::Flush)
    }

    /// The next command, a timer (while nothing is read), or readiness to read (never while paused or at the end).
    async fn next_wake(&mut self) -> Wake {
        let reading = !self.ended && self.paused.is_none() && !self.draining;
        let add = if reading { Timing::BACKPRESSURED } else { Timing::IDLE };
        poll_fn(|cx| {
            self.timing.resume();
            let wake = self.poll_wake(cx, reading);
            if wake.is_pending() {
                self.timing.wait(Instant::now(), add);
            }
            wake
        })
        .await
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>, reading: bool) -> Poll<Wake> {
        match self.io.commands.poll_recv(cx) {
            Poll::Ready(Some(c)) => return Poll::Ready(Wake::Command(c)),
            Poll::Ready(None) => return Poll::Ready(Wake::Cancelled),
            Poll::Pending => {}
        }
        match reading {
            true => match self.task.out.poll_ready(cx) {
                Poll::Pending if self.task.out.is_paused() => {
                    let due = self.task.out.next_timer();
                    self.wakeup.poll(cx, due).map(Wake::Time)
                }
                // one full channel must not keep what lies in the batches of others
                Poll::Pending => self.flusher.poll(cx).map(|()| Wake::Overdue),
                ready => ready.map(Wake::Ready),
            },
            // what is emitted behind a barrier that ends tasks would be lost: timers wait for the restore
            false if self.paused.is_some() => Poll::Pending,
            false => {
                // what the chain holds back wakes the task that has asked; what it has to do yet needs room
                let ready = match self.task.out.poll_ready(cx) {
                    Poll::Ready(Err(e)) => return Poll::Ready(Wake::Ready(Err(e))),
                    ready => ready.is_ready(),
                };
                if self.draining
                    && ready
                    && let Poll::Ready(drained) = self.task.out.poll_drained(cx)
                {
                    return Poll::Ready(drained.map_or_else(|e| Wake::Ready(Err(e)), |()| Wake::Drained));
                }
                let due = self.task.out.next_timer();
                self.wakeup.poll(cx, due).map(Wake::Time)
            }
        }
    }

    /// Waits for the time, the reader's own wake, or a command (which the caller's next turn takes).
    async fn wait(&mut self, until: Option<Instant>) -> Result<()> {
        self.pause.arm(until);
        let (mut command, mut time, mut chain) = (None, None, Ok(()));
        poll_fn(|cx| {
            self.timing.resume();
            if let Poll::Ready(c) = self.io.commands.poll_recv(cx) {
                command = Some(c);
                return Poll::Ready(());
            }
            // what the chain holds back wakes the task that has asked
            if let Poll::Ready(Err(e)) = self.task.out.poll_ready(cx) {
                chain = Err(e);
                return Poll::Ready(());
            }
            let due = self.task.out.next_timer();
            if let Poll::Ready(now) = self.wakeup.poll(cx, due) {
                time = Some(now);
                return Poll::Ready(());
            }
            if self.pause.poll(cx).is_ready() || self.task.reader.poll_wake(cx).is_ready() {
                return Poll::Ready(());
            }
            self.timing.wait(Instant::now(), Timing::IDLE);
            Poll::Pending
        })
        .await;
        chain?;
        if let Some(now) = time {
            self.processing_time(now)?;
        }
        match command {
            Some(Some(c)) => self.command(c).map(drop),
            _ => Ok(()),
        }
    }

    /// True when the task ends.
    fn command(&mut self, command: TaskCommand) -> Result<bool> {
        match command {
            TaskCommand::Trigger(barrier) if barrier.kind.drains() => {
                if !self.ended {
                    self.end_of_event_time()?;
                }
                (self.draining, self.held) = (true, Some(barrier));
            }
            TaskCommand::Trigger(barrier) => self.barrier(barrier)?,
            TaskCommand::Complete(id) => {
                self.task.reader.complete(id)?;
                self.task.out.signal(&mut Signal::Complete(id))?;
                return Ok(self.paused == Some(id));
            }
            TaskCommand::Aborted(id) => {
                self.task.out.signal(&mut Signal::Aborted(id))?;
                let draining = self.held.take_if(|b| b.id == id).is_some();
                if draining {
                    self.draining = self.ended;
                }
                if draining || self.paused == Some(id) {
                    // event time has ended behind a source that was drained, and records that followed would all be late: it waits
                    // for the jobmanager to replace the attempt
                    let drained = !self.ended && (draining || self.end_signalled);
                    self.paused = drained.then_some(id);
                }
            }
        }
        Ok(false)
    }

    fn end_of_event_time(&mut self) -> Result<()> {
        self.task.out.signal(&mut Signal::Watermark(i64::MAX))
    }

    fn barrier(&mut self, barrier: Barrier) -> Result<()> {
        let started = Instant::now();
        if barrier.kind.ends_tasks() {
            self.paused = Some(barrier.id);
        }
        let mut parts = SnapshotParts::default();
        self.task.out.emit();
        self.task.out.check()?;
        let splits = self.task.reader.snapshot()?.into_iter().map(Bytes64).collect();
        parts.lists.entry(self.task.operator.clone()).or_default().insert(SPLITS.into(), splits);
        crate::job::freeze_raw(&self.task.operator, self.task.reader.raw_states(), &mut parts);
        self.task.out.signal(&mut Signal::Barrier { barrier: barrier.clone(), parts: &mut parts })?;
        super::snapshot::send(&self.io, barrier, parts, std::time::Duration::ZERO, started.elapsed());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
