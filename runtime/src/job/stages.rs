//! Stages of operators without keyed state, of `key_by` and of sinks; the factories that make them.
use super::ended::{self, Ended};
use super::function::{KeySelector, ProcessFunction, RuntimeContext};
use super::stored::open_states;
use crate::checkpoint::handles::{Bytes64, PENDING, SPLITS};
use crate::connectors::sink::{Sink, SinkContext, SinkWriter};
use crate::connectors::source::{Source, SourceContext, SourceReader, Split};
use crate::data::{Data, Key};
use crate::dataflow::factory::{AnyStage, BuildContext, Consumers, NodeFactory};
use crate::dataflow::source_task::SourceTask;
use crate::dataflow::task::TaskBody;
use crate::dataflow::{AnySideOutput, Batch, Output, Signal, Stage};
use crate::error::{Error, Result};
use crate::observe::TaskMetrics;
use crate::state::snapshot::SnapshotParts;
use crate::state::{KeyedTable, RawState};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

/// Types the stages behind a node.
pub(super) fn output<T: Data>(next: Vec<AnyStage>) -> Result<Output<T>> {
    Ok(Output::new(next.into_iter().map(AnyStage::typed::<T>).collect::<Result<_>>()?))
}

pub(super) fn runtime_context(cx: &BuildContext<'_>) -> RuntimeContext {
    RuntimeContext {
        operator: cx.operator.to_owned(),
        subtask: cx.subtask,
        parallelism: cx.parallelism,
        max_parallelism: cx.max_parallelism,
        attempt: cx.attempt,
        metrics: cx.metrics.clone(),
        clock: cx.clock.clone(),
    }
}

/// What an operator without state does with a batch; the loop is inside, so that it is monomorphized.
pub(super) trait Transform<T, U>: Send + 'static {
    /// It is told of the end of its input once, restores included; what it emits then must not come again.
    const TOLD_ONCE: bool = false;
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<U>) -> Result<()>;
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    /// Raw states, as they are behind [`Self::snapshot`].
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        Vec::new()
    }
    /// Adds list states to the operator's part of a snapshot.
    fn snapshot(&mut self, _lists: &mut BTreeMap<String, Vec<Bytes64>>) -> Result<()> {
        Ok(())
    }
    fn end_of_input(&mut self, _out: &mut Output<U>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A transform in a chain.
struct TransformStage<T, U, X> {
    name: String,
    transform: X,
    out: Output<U>,
    ended: Ended,
    input: PhantomData<fn(T)>,
}

impl<T: Data, U: Data, X: Transform<T, U>> Stage<T> for TransformStage<T, U, X> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.ended.records(ended::FIRST);
        self.out.begin(!batch.timestamps.is_empty());
        self.transform.run(batch, &mut self.out)?;
        batch.clear();
        check_sides(self.transform.side_outputs())?;
        self.out.check()
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            Signal::EndOfInput if self.ended.tell(X::TOLD_ONCE, ended::FIRST) => {
                self.transform.end_of_input(&mut self.out)?;
            }
            Signal::Close => self.transform.close()?,
            Signal::Barrier { parts, .. } => {
                let mut lists = BTreeMap::new();
                self.transform.snapshot(&mut lists)?;
                self.ended.snapshot(X::TOLD_ONCE, &mut lists);
                if !lists.is_empty() {
                    parts.lists.entry(self.name.clone()).or_default().extend(lists);
                }
                freeze_raw(&self.name, self.transform.raw_states(), parts);
            }
            Signal::Split(_) => return Ok(()),
            _ => {}
        }
        signal_sides(self.transform.side_outputs(), signal)?;
        self.out.signal(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(poll_sides(self.transform.side_outputs(), cx))?;
        self.out.poll_ready(cx)
    }
    fn is_paused(&self) -> bool {
        self.out.is_paused()
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(drain_sides(self.transform.side_outputs(), cx))?;
        self.out.poll_drained(cx)
    }
    fn next_timer(&mut self) -> Option<i64> {
        next_timer(self.transform.side_outputs(), None, &mut self.out)
    }
}

/// Adds raw states to an operator's part of a snapshot.
pub(crate) fn freeze_raw(operator: &str, states: Vec<&mut RawState>, parts: &mut SnapshotParts) {
    if !states.is_empty() {
        let frozen = states.into_iter().map(KeyedTable::<u64>::freeze).collect();
        parts.keyed.insert(operator.to_owned(), frozen);
    }
}

/// Restores the raw states of an operator without keys.
pub(super) fn restore_raw(cx: &BuildContext<'_>, states: Vec<&mut RawState>) -> Result<()> {
    if states.is_empty() {
        return Ok(());
    }
    let mut states: Vec<&mut dyn KeyedTable<u64>> = states.into_iter().map(|s| s as _).collect();
    open_states(cx, false, 0, &mut states).map(drop)
}

pub(super) fn check_sides(sides: Vec<&mut dyn AnySideOutput>) -> Result<()> {
    sides.into_iter().try_for_each(|s| s.check())
}

pub(super) fn signal_sides(sides: Vec<&mut dyn AnySideOutput>, signal: &mut Signal<'_>) -> Result<()> {
    sides.into_iter().try_for_each(|s| s.signal(signal))
}

pub(super) fn poll_sides(sides: Vec<&mut dyn AnySideOutput>, cx: &mut Context<'_>) -> Poll<Result<()>> {
    for side in sides {
        ready!(side.poll_ready(cx))?;
    }
    Poll::Ready(Ok(()))
}

pub(super) fn drain_sides(sides: Vec<&mut dyn AnySideOutput>, cx: &mut Context<'_>) -> Poll<Result<()>> {
    for side in sides {
        ready!(side.poll_drained(cx))?;
    }
    Poll::Ready(Ok(()))
}

/// The earliest timer of an operator and of what lies behind its outputs.
pub(super) fn next_timer<T: Data>(
    sides: Vec<&mut dyn AnySideOutput>,
    own: Option<i64>,
    out: &mut Output<T>,
) -> Option<i64> {
    let sides = sides.into_iter().filter_map(|s| s.next_timer());
    sides.chain(own).chain(out.next_timer()).min()
}

/// Connects the side outputs with their consumers, in the order in which the node lists them.
pub(super) fn connect_sides(sides: Vec<&mut dyn AnySideOutput>, next: &mut Consumers) -> Result<()> {
    (1..).zip(sides).try_for_each(|(i, side)| side.connect(next.take(i)))
}

/// Makes a transform for each subtask.
pub(super) struct TransformFactory<T, U, M> {
    pub make: M,
    pub types: PhantomData<fn(T) -> U>,
}

impl<T: Data, U: Data, X: Transform<T, U>, M> NodeFactory for TransformFactory<T, U, M>
where
    M: Fn(&BuildContext<'_>) -> Result<X> + Send + Sync,
{
    fn stage(&self, cx: &BuildContext<'_>, mut next: Consumers) -> Result<AnyStage> {
        let mut transform = (self.make)(cx)?;
        connect_sides(transform.side_outputs(), &mut next)?;
        let (name, out) = (cx.operator.to_owned(), output(next.main())?);
        let ended = Ended::restored(X::TOLD_ONCE, cx.restore);
        let stage = TransformStage::<T, U, X> { name, transform, out, ended, input: PhantomData };
        Ok(AnyStage::new::<T>(Box::new(stage)))
    }
}

pub(super) struct Map<F>(pub F);
impl<T: Data, U: Data, F: FnMut(T) -> U + Send + 'static> Transform<T, U> for Map<F> {
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<U>) -> Result<()> {
        if batch.timestamps.is_empty() {
            batch.records.drain(..).for_each(|r| out.push((self.0)(r)));
        } else {
            for (r, &t) in batch.records.drain(..).zip(&batch.timestamps) {
                out.push_at((self.0)(r), t);
            }
        }
        Ok(())
    }
}

pub(super) struct Filter<F>(pub F, pub TaskMetrics);
impl<T: Data, F: FnMut(&T) -> bool + Send + 'static> Transform<T, T> for Filter<F> {
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<T>) -> Result<()> {
        let before = batch.len();
        let mut kept = 0;
        if batch.timestamps.is_empty() {
            for r in batch.records.drain(..) {
                if (self.0)(&r) {
                    kept += 1;
                    out.push(r);
                }
            }
        } else {
            for (r, &t) in batch.records.drain(..).zip(&batch.timestamps) {
                if (self.0)(&r) {
                    kept += 1;
                    out.push_at(r, t);
                }
            }
        }
        if kept < before {
            self.1.add_dropped_records((before - kept) as u64);
        }
        Ok(())
    }
}

pub(super) struct FlatMap<F>(pub F);
impl<T: Data, U: Data, F: FnMut(T, &mut Output<U>) + Send + 'static> Transform<T, U> for FlatMap<F> {
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<U>) -> Result<()> {
        if batch.timestamps.is_empty() {
            batch.records.drain(..).for_each(|r| (self.0)(r, out));
        } else {
            for (r, &t) in batch.records.drain(..).zip(&batch.timestamps) {
                out.set_timestamp(t);
                (self.0)(r, out);
            }
        }
        Ok(())
    }
}

pub(super) struct Inspect<F>(pub F);
impl<T: Data, F: FnMut(&T) + Send + 'static> Transform<T, T> for Inspect<F> {
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<T>) -> Result<()> {
        batch.records.iter().for_each(&mut self.0);
        out.forward(batch)
    }
}

pub(super) struct Process<P>(pub P);
impl<P: ProcessFunction> Transform<P::In, P::Out> for Process<P> {
    const TOLD_ONCE: bool = true;
    fn run(&mut self, batch: &mut Batch<P::In>, out: &mut Output<P::Out>) -> Result<()> {
        if batch.timestamps.is_empty() {
            return batch.records.drain(..).try_for_each(|r| self.0.process(r, out));
        }
        batch.records.drain(..).zip(&batch.timestamps).try_for_each(|(r, &t)| {
            out.set_timestamp(t);
            self.0.process(r, out)
        })
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.0.side_outputs()
    }
    fn snapshot(&mut self, lists: &mut BTreeMap<String, Vec<Bytes64>>) -> Result<()> {
        self.0.snapshot()?;
        super::list_state::snapshot(self.0.list_states(), lists);
        Ok(())
    }
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        self.0.raw_states()
    }
    fn end_of_input(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.0.end_of_input(out)
    }
    fn close(&mut self) -> Result<()> {
        self.0.close()
    }
}

/// Computes the hash column: the one place where a key is hashed.
pub(super) struct KeyBy<S>(pub S);
impl<T: Data, S: KeySelector<T>> Transform<T, T> for KeyBy<S> {
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<T>) -> Result<()> {
        batch.hashes.clear();
        batch.hashes.extend(batch.records.iter().map(|r| self.0.with_key(r, Key::key_hash)));
        out.forward(batch)
    }
}

/// Makes the task of a source.
pub(super) struct SourceFactory<S>(pub S);

impl<S: Source> NodeFactory for SourceFactory<S> {
    fn stage(&self, cx: &BuildContext<'_>, _next: Consumers) -> Result<AnyStage> {
        Err(Error::internal(format!("{} is a source", cx.operator)))
    }
    fn source(&self, cx: &BuildContext<'_>, next: Consumers) -> Result<Box<dyn TaskBody>> {
        let source_cx = SourceContext {
            operator: cx.operator.to_owned(),
            subtask: cx.subtask,
            parallelism: cx.parallelism,
            attempt: cx.attempt,
            metrics: cx.metrics.clone(),
        };
        let splits = list(cx, SPLITS);
        let mut reader = self.0.reader(&source_cx, splits)?;
        restore_raw(cx, reader.raw_states())?;
        Ok(Box::new(SourceTask { operator: cx.operator.to_owned(), reader, out: output(next.main())? }))
    }
    fn enumerate(&self, parallelism: u32) -> Result<Vec<Split>> {
        self.0.enumerate(parallelism)
    }
}

fn list(cx: &BuildContext<'_>, name: &str) -> Vec<Vec<u8>> {
    let elements = cx.restore.and_then(|r| r.lists.get(name));
    elements.into_iter().flatten().map(|b| b.0.clone()).collect()
}

/// A sink's writer at the end of a chain.
struct SinkStage<T, W> {
    operator: String,
    writer: W,
    records: PhantomData<fn(T)>,
}

impl<T: Data, W: SinkWriter<T>> Stage<T> for SinkStage<T, W> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.writer.write(batch)?;
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            Signal::Barrier { barrier, parts } => {
                let pending = match barrier.kind.commits() {
                    true => self.writer.prepare_commit(barrier.id)?,
                    false => self.writer.prepare_savepoint(barrier.id)?,
                };
                let lists = parts.lists.entry(self.operator.clone()).or_default();
                lists.insert(PENDING.into(), pending.into_iter().map(Bytes64).collect());
                freeze_raw(&self.operator, self.writer.raw_states(), parts);
                Ok(())
            }
            Signal::Complete(id) => self.writer.commit(*id),
            Signal::Aborted(id) => self.writer.aborted(*id),
            Signal::Close => self.writer.close(),
            _ => Ok(()),
        }
    }
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Makes the stage of a sink; subtask 0 recovers what earlier attempts left.
pub(super) struct SinkFactory<T, S>(pub S, pub PhantomData<fn(T)>);

impl<T: Data, S: Sink<T>> NodeFactory for SinkFactory<T, S> {
    fn stage(&self, cx: &BuildContext<'_>, _next: Consumers) -> Result<AnyStage> {
        let sink_cx = SinkContext {
            operator: cx.operator.to_owned(),
            subtask: cx.subtask,
            parallelism: cx.parallelism,
            attempt: cx.attempt,
            metrics: cx.metrics.clone(),
        };
        if cx.subtask == 0 {
            self.0.recover(&sink_cx, list(cx, PENDING))?;
        }
        let mut writer = self.0.writer(&sink_cx)?;
        restore_raw(cx, writer.raw_states())?;
        let stage = SinkStage::<T, S::Writer> { operator: cx.operator.to_owned(), writer, records: PhantomData };
        Ok(AnyStage::new::<T>(Box::new(stage)))
    }
}
