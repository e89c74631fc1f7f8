//! The loop of a task with inputs: take an element, run the chain, align barriers, flush when the input runs dry.
use super::aligner::{Aligned, Aligner};
use super::gate::InputGate;
use super::task::{TaskBody, TaskCommand, TaskEvent, TaskIo};
use super::timing::Timing;
use super::{Signal, Stage};
use crate::checkpoint::handles::Barrier;
use crate::data::Data;
use crate::error::{Error, ErrorCode, Result};
use crate::exchange::Element;
use crate::state::snapshot::SnapshotParts;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};
use weir_api::ids::CheckpointId;

/// Elements between two yields to the other tasks of the worker thread.
const ELEMENTS_PER_YIELD: u32 = 16;

/// The inputs and the chain behind them.
pub struct InputTask<T> {
    pub gate: InputGate<T>,
    pub head: Box<dyn Stage<T>>,
}

struct Running<T> {
    gate: InputGate<T>,
    head: Box<dyn Stage<T>>,
    io: TaskIo,
    aligner: Aligner,
    /// When the first barrier of the alignment under way arrived.
    aligning_since: Option<Instant>,
    /// The snapshot that ends tasks, acknowledged and not complete yet.
    ending: Option<CheckpointId>,
    /// The chain may hold records in unfilled batches.
    dirty: bool,
    /// The chain takes another batch (not asked again until one was handed to it).
    ready: bool,
    timing: Timing,
}

enum Wake<T> {
    Command(TaskCommand),
    Cancelled,
    Element(usize, Element<T>),
    /// Nothing to take now, and the chain may hold something back.
    Dry,
}

impl<T: Data> TaskBody for InputTask<T> {
    fn run(self: Box<Self>, io: TaskIo) -> BoxFuture<'static, Result<()>> {
        let aligner = Aligner::new(self.gate.len());
        let timing = Timing::new(io.metrics.clone(), Instant::now());
        let Self { gate, head } = *self;
        Running { gate, head, io, aligner, aligning_since: None, ending: None, dirty: false, ready: false, timing }
            .run()
            .boxed()
    }
}

impl<T: Data> Running<T> {
    async fn run(mut self) -> Result<()> {
        let _ = self.io.events.send((self.io.id, TaskEvent::Running));
        let mut elements = 0;
        loop {
            match self.next_wake().await? {
                Wake::Cancelled => return Ok(()),
                Wake::Command(c) => {
                    if self.command(c)? {
                        self.head.signal(&mut Signal::Close)?;
                        let _ = self.io.events.send((self.io.id, TaskEvent::Finished));
                        return Ok(());
                    }
                }
                Wake::Dry => {
                    self.dirty = false;
                    self.head.signal(&mut Signal::Flush)?;
                    self.timing.busy_until(Instant::now());
                }
                Wake::Element(input, element) => {
                    self.element(input, element)?;
                    elements += 1;
                    if elements % ELEMENTS_PER_YIELD == 0 {
                        self.timing.busy_until(Instant::now());
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    async fn next_wake(&mut self) -> Result<Wake<T>> {
        let mut waited = None;
        let wake = poll_fn(|cx| {
            match self.io.commands.poll_recv(cx) {
                Poll::Ready(Some(c)) => return Poll::Ready(Ok(Wake::Command(c))),
                Poll::Ready(None) => return Poll::Ready(Ok(Wake::Cancelled)),
                Poll::Pending => {}
            }
            if !self.ready {
                if self.head.poll_ready(cx)?.is_pending() {
                    waited = Some(Timing::BACKPRESSURED);
                    return Poll::Pending;
                }
                self.ready = true;
            }
            match self.gate.poll_next(cx, &self.aligner) {
                Poll::Ready(r) => Poll::Ready(r.map(|(i, e)| Wake::Element(i, e))),
                Poll::Pending if self.dirty => Poll::Ready(Ok(Wake::Dry)),
                Poll::Pending => {
                    waited = Some(Timing::IDLE);
                    Poll::Pending
                }
            }
        })
        .await;
        if let Some(add) = waited {
            self.timing.waited(Instant::now(), add);
        }
        wake
    }

    fn element(&mut self, input: usize, element: Element<T>) -> Result<()> {
        match element {
            Element::Batch(mut batch) => {
                self.io.metrics.add_records_in(batch.len() as u64);
                self.dirty = true;
                self.ready = false;
                self.head.process(&mut batch)?;
                self.gate.recycle(input, batch);
            }
            Element::Watermark(w) => {
                if let Some(w) = self.gate.watermark(input, w) {
                    self.dirty = true;
                    self.ready = false;
                    self.head.signal(&mut Signal::Watermark(w))?;
                }
            }
            Element::EndOfInput => {
                if self.gate.end(input) {
                    self.ready = false;
                    self.head.signal(&mut Signal::EndOfInput)?;
                }
            }
            Element::Barrier(barrier) => {
                let since = *self.aligning_since.get_or_insert_with(Instant::now);
                match self.aligner.barrier(input, barrier) {
                    Aligned::Waiting => {}
                    Aligned::Ignored if self.aligner.is_aligning() => {}
                    Aligned::Ignored => self.aligning_since = None,
                    Aligned::Complete(barrier) => {
                        self.aligning_since = None;
                        self.barrier(barrier, since)?;
                    }
                }
                for checkpoint in self.aligner.take_given_up() {
                    let reason =
                        Error::internal("a newer barrier arrived first").at(format!("checkpoint {checkpoint}"));
                    let reason = Error { code: ErrorCode::Checkpoint, ..reason };
                    let _ = self.io.events.send((self.io.id, TaskEvent::Declined { checkpoint, reason }));
                }
            }
        }
        Ok(())
    }

    fn barrier(&mut self, barrier: Barrier, since: Instant) -> Result<()> {
        let started = Instant::now();
        if barrier.kind.ends_tasks() {
            self.ending = Some(barrier.id);
        }
        let mut parts = SnapshotParts::default();
        self.head.signal(&mut Signal::Barrier { barrier: barrier.clone(), parts: &mut parts })?;
        let alignment: Duration = started.duration_since(since);
        super::snapshot::send(&self.io, barrier, parts, alignment, started.elapsed());
        Ok(())
    }

    /// True when the task ends.
    fn command(&mut self, command: TaskCommand) -> Result<bool> {
        match command {
            TaskCommand::Trigger(_) => {}
            TaskCommand::Complete(id) => {
                self.head.signal(&mut Signal::Complete(id))?;
                return Ok(self.ending == Some(id));
            }
            TaskCommand::Aborted(id) => {
                self.aligner.abort(id);
                if !self.aligner.is_aligning() {
                    self.aligning_since = None;
                }
                self.head.signal(&mut Signal::Aborted(id))?;
                if self.ending == Some(id) {
                    self.ending = None;
                }
            }
        }
        Ok(false)
    }
}
