//! Stages of keyed operators: reduce, one value per key, functions with any states; restore and snapshot of their states.
use super::ended::{self, Ended};
use super::firing::{AT_ONCE, Firing};
use super::function::{KeySelector, KeyedProcessFunction, RuntimeContext};
use super::list_state::{self, AnyListState};
use super::stages::{
    check_sides, connect_sides, drain_sides, next_timer, output, poll_sides, runtime_context, signal_sides,
};
use super::stored::{open_states, settle, want, want_due};
use crate::data::{Data, Key};
use crate::dataflow::factory::{AnyStage, BuildContext, Consumers, NodeFactory};
use crate::dataflow::{AnySideOutput, Batch, Clock, Output, Signal, Stage};
use crate::error::{Error, ErrorCode, Result};
use crate::state::table::Single;
use crate::state::{KeyRef, KeyedTable, ValueState};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::task::{Context, Poll, ready};

/// Name of the state of operators that have just one.
const VALUE: &str = "value";

/// An operator with keyed state; works on whole batches, so that its loop is monomorphized.
pub trait KeyedOperator<T>: Send + 'static {
    type Key: Key;
    type Out: Data;
    /// It implements [`Self::prepare`], and prepares its timers: a store may keep its states.
    const PREPARES: bool = false;
    /// It is told of the end of its input once, restores included; what it emits then must not come again.
    const TOLD_ONCE: bool = false;
    /// The batch's keys are about to be used: makes them available where a store keeps the states.
    fn prepare(&mut self, _batch: &Batch<T>) -> Result<()> {
        Ok(())
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>>;
    /// So many of the states, the first ones, are read ahead where the operator does that; the others stay in memory.
    fn storable(&self) -> usize {
        usize::MAX
    }
    /// A snapshot is taken.
    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }
    /// Operator list states.
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        Vec::new()
    }
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// Takes all records; the batch has its hash column. Where it has timestamps, what is pushed for a record must carry
    /// one: [`Output::set_timestamp`] before, or [`Output::push_at`].
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<Self::Out>) -> Result<()>;
    /// Side outputs, always the same in the same order.
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    /// Event time has reached this (ms since the Unix epoch; `i64::MAX` at the end of the input). Never less than before;
    /// may repeat. It is handed on afterwards.
    fn on_watermark(&mut self, _watermark: i64, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// It has not done all that a watermark or the clock means, as the results might not fit into memory: [`Self::go_on`] is called
    /// until it has, whenever there is room behind it, and before anything else is asked of it.
    fn is_busy(&self) -> bool {
        false
    }
    /// Does more of it.
    fn go_on(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// When [`Self::on_processing_time`] is wanted next; ms since the Unix epoch. Asked about once in sixteen batches and
    /// before the task sleeps.
    fn next_processing_time(&mut self) -> Option<i64> {
        None
    }
    /// The clock has reached this, which may be earlier than asked for (others in the chain ask, too) or later. The output has
    /// no timestamp until one is set.
    fn on_processing_time(&mut self, _now: i64, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `KeyedStream::reduce`
pub struct Reduce<T, S: KeySelector<T>, F> {
    selector: S,
    f: F,
    state: ValueState<S::Key, T>,
}

impl<T: Data, S: KeySelector<T>, F> Reduce<T, S, F> {
    pub fn new(selector: S, f: F) -> Self {
        Self { selector, f, state: ValueState::new(VALUE) }
    }
}

impl<T: Data, S: KeySelector<T>, F: Fn(&mut T, T) + Send + 'static> KeyedOperator<T> for Reduce<T, S, F> {
    type Key = S::Key;
    type Out = T;
    const PREPARES: bool = true;
    fn prepare(&mut self, batch: &Batch<T>) -> Result<()> {
        want(batch, &self.selector, &mut [&mut self.state])
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<S::Key>> {
        vec![&mut self.state]
    }
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<T>) -> Result<()> {
        let Self { selector, f, state } = self;
        match state.single(batch.len()) {
            Some(mut single) => reduce(batch, selector, f, &mut single),
            None => {
                state.prefetch(&batch.hashes);
                reduce(batch, selector, f, state);
            }
        }
        out.forward(batch)
    }
}

/// Where a loop over a batch finds the values of its keys.
trait Values<K, V> {
    fn value(&mut self, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V;
}

impl<K: Key, V: Data> Values<K, V> for ValueState<K, V> {
    #[inline(always)]
    fn value(&mut self, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V {
        self.get_mut_or_insert_with(key, new)
    }
}

impl<K: Key, V: Data> Values<K, V> for Single<'_, K, V> {
    #[inline(always)]
    fn value(&mut self, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V {
        self.upsert_with(key.hash, key.key, new)
    }
}

/// Puts each result in the place of its record, beside its timestamp.
fn reduce<T: Data, S: KeySelector<T>>(
    batch: &mut Batch<T>,
    selector: &S,
    f: &impl Fn(&mut T, T),
    values: &mut impl Values<S::Key, T>,
) {
    if std::mem::needs_drop::<T>() {
        reduce_in_place(batch, selector, f, values);
    } else {
        reduce_in_registers(batch, selector, f, values);
    }
    batch.hashes.clear();
}

/// For records that may own strings. Their keys are compared where they lie in the batch: a record that was moved has just been
/// stored word by word, and reading a string there again by other words would make the processor wait. So a record leaves
/// its place after that, and until its result comes there, one that is not in use holds the place.
fn reduce_in_place<T: Data, S: KeySelector<T>>(
    batch: &mut Batch<T>,
    selector: &S,
    f: &impl Fn(&mut T, T),
    values: &mut impl Values<S::Key, T>,
) {
    let Some(mut unused) = batch.records.first().cloned() else { return };
    for (place, &hash) in batch.records.iter_mut().zip(&batch.hashes) {
        let mut first = false;
        let reduced = selector.with_key(place, |key| {
            let first = &mut first;
            values.value(&KeyRef { hash, key }, || {
                *first = true;
                place.clone()
            })
        });
        if !first {
            let record = std::mem::replace(place, unused);
            f(reduced, record);
            unused = std::mem::replace(place, reduced.clone());
        }
    }
}

/// For plain records.
fn reduce_in_registers<T: Data, S: KeySelector<T>>(
    batch: &mut Batch<T>,
    selector: &S,
    f: &impl Fn(&mut T, T),
    values: &mut impl Values<S::Key, T>,
) {
    let mut hashes = batch.hashes.iter();
    // collecting a vector's own records allocates nothing
    let reduced = std::mem::take(&mut batch.records).into_iter().map(|record| {
        let hash = hashes.next().copied().unwrap_or_default();
        let mut first = false;
        let reduced = selector.with_key(&record, |key| {
            let first = &mut first;
            values.value(&KeyRef { hash, key }, || {
                *first = true;
                record.clone()
            })
        });
        if first {
            return record;
        }
        f(reduced, record);
        reduced.clone()
    });
    batch.records = reduced.collect();
}

/// `KeyedStream::process`: a closure over one value per key.
pub struct Closure<S: KeySelector<T>, V, F, T, U> {
    selector: S,
    f: F,
    state: ValueState<S::Key, V>,
    types: PhantomData<fn(T) -> U>,
}

impl<S: KeySelector<T>, V: Data + Default, F, T, U> Closure<S, V, F, T, U> {
    pub fn new(selector: S, f: F) -> Self {
        Self { selector, f, state: ValueState::new(VALUE), types: PhantomData }
    }
}

impl<T, U, V, S, F> KeyedOperator<T> for Closure<S, V, F, T, U>
where
    T: Data,
    U: Data,
    V: Data + Default,
    S: KeySelector<T>,
    F: Fn(&mut V, T, &mut Output<U>) + Send + 'static,
{
    type Key = S::Key;
    type Out = U;
    const PREPARES: bool = true;
    fn prepare(&mut self, batch: &Batch<T>) -> Result<()> {
        want(batch, &self.selector, &mut [&mut self.state])
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<S::Key>> {
        vec![&mut self.state]
    }
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<U>) -> Result<()> {
        let Self { selector, f, state, .. } = self;
        match (state.single(batch.len()), batch.timestamps.is_empty()) {
            (Some(mut single), true) => rows::<false, T, U, V, S>(batch, selector, f, &mut single, out),
            (Some(mut single), false) => rows::<true, T, U, V, S>(batch, selector, f, &mut single, out),
            (None, untimed) => {
                state.prefetch(&batch.hashes);
                match untimed {
                    true => rows::<false, T, U, V, S>(batch, selector, f, state, out),
                    false => rows::<true, T, U, V, S>(batch, selector, f, state, out),
                }
            }
        }
        Ok(())
    }
}

fn rows<const TIMED: bool, T, U: Data, V: Data + Default, S: KeySelector<T>>(
    batch: &mut Batch<T>,
    selector: &S,
    f: &impl Fn(&mut V, T, &mut Output<U>),
    values: &mut impl Values<S::Key, V>,
    out: &mut Output<U>,
) {
    let (hashes, timestamps) = (std::mem::take(&mut batch.hashes), std::mem::take(&mut batch.timestamps));
    let mut columns = (hashes.iter(), timestamps.iter());
    batch.take_each(|record| {
        let hash = columns.0.next().copied().unwrap_or_default();
        if TIMED && let Some(&timestamp) = columns.1.next() {
            out.set_timestamp(timestamp);
        }
        let value = selector.with_key(&record, |key| values.value(&KeyRef { hash, key }, V::default));
        f(value, record, out);
    });
    (batch.hashes, batch.timestamps) = (hashes, timestamps);
}

/// `KeyedStream::process_function`
pub struct Function<S, P> {
    selector: S,
    function: P,
    firing: Firing,
    batches: u32,
    /// Some state may be too large for a cache.
    large: bool,
}

/// Batches between two looks at how large the states are, and the entries that they may have before a look is worth its while.
const LOOK_EVERY: u32 = 64;
const LARGE: usize = 4096;

impl<S, P: KeyedProcessFunction> Function<S, P> {
    pub fn new(selector: S, function: P) -> Self {
        Self { selector, function, firing: Firing::default(), batches: 0, large: false }
    }

    fn prefetch(&mut self, hashes: &[u64]) {
        if self.batches.is_multiple_of(LOOK_EVERY) {
            self.large = self.function.states().iter().any(|s| s.len() >= LARGE);
        }
        self.batches = self.batches.wrapping_add(1);
        if self.large {
            self.function.states().iter().for_each(|s| s.prefetch(hashes));
        }
    }
}

impl<S, P> KeyedOperator<P::In> for Function<S, P>
where
    P: KeyedProcessFunction,
    S: KeySelector<P::In, Key = P::Key>,
{
    type Key = P::Key;
    type Out = P::Out;
    const PREPARES: bool = true;
    const TOLD_ONCE: bool = true;
    fn prepare(&mut self, batch: &Batch<P::In>) -> Result<()> {
        want(batch, &self.selector, &mut self.function.states())
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<P::Key>> {
        self.function.states()
    }
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        self.function.list_states()
    }
    fn snapshot(&mut self) -> Result<()> {
        self.function.snapshot()
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        let timers = self.function.timers().map(|t| t.opened(cx));
        check_timers(timers, self.function.states())?;
        self.function.open(cx)
    }
    fn on_watermark(&mut self, watermark: i64, out: &mut Output<P::Out>) -> Result<()> {
        let Some(timers) = self.function.timers() else { return Ok(()) };
        timers.advance(watermark);
        self.firing = Firing::Event;
        self.go_on(out)
    }
    fn is_busy(&self) -> bool {
        self.firing.is_busy()
    }
    fn go_on(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        for _ in 0..AT_ONCE {
            let Some(due) = self.firing.next(self.function.timers(), out) else { break };
            if due.stored {
                want_due(&due, self.function.states())?;
            }
            self.function.on_timer(&KeyRef { hash: due.hash, key: &due.key }, &due.timer, out)?;
        }
        Ok(())
    }
    fn next_processing_time(&mut self) -> Option<i64> {
        self.function.timers()?.next_processing_time()
    }
    fn on_processing_time(&mut self, now: i64, out: &mut Output<P::Out>) -> Result<()> {
        self.firing = Firing::Processing(now);
        self.go_on(out)
    }
    fn run(&mut self, batch: &mut Batch<P::In>, out: &mut Output<P::Out>) -> Result<()> {
        self.prefetch(&batch.hashes);
        let timed = !batch.timestamps.is_empty();
        for (i, (record, &hash)) in batch.records.iter().zip(&batch.hashes).enumerate() {
            if timed {
                out.set_timestamp(batch.timestamps[i]);
            }
            self.selector.with_key(record, |key| self.function.process(&KeyRef { hash, key }, record, out))?;
        }
        Ok(())
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.function.side_outputs()
    }
    fn end_of_input(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_input(out)
    }
    fn close(&mut self) -> Result<()> {
        self.function.close()
    }
}

/// Timers that are not among the states would be lost with the first restore.
pub(super) fn check_timers<K: Key>(timers: Option<String>, states: Vec<&mut dyn KeyedTable<K>>) -> Result<()> {
    match timers {
        Some(name) if !states.iter().any(|s| s.descriptor().name == name) => Err(Error::user(
            ErrorCode::Graph,
            format!("the timers {name:?} are not among the function's states(): list them there, or they are lost"),
        )),
        _ => Ok(()),
    }
}

/// The clock, for operators with states whose entries expire: read once for a batch.
pub(super) struct TtlClock(Option<Clock>);

impl TtlClock {
    /// Also tells the time for the first time.
    pub fn start<K: Key>(clock: &Clock, states: Vec<&mut dyn KeyedTable<K>>) -> Self {
        let this = Self(states.iter().any(|s| s.ages()).then(|| clock.clone()));
        this.tell(states);
        this
    }
    /// Some state wants to know.
    pub fn is_wanted(&self) -> bool {
        self.0.is_some()
    }
    pub fn tell<K: Key>(&self, states: Vec<&mut dyn KeyedTable<K>>) {
        if let Some(clock) = &self.0 {
            let now = clock.now_ms();
            states.into_iter().for_each(|s| s.tick(now));
        }
    }
    /// Before this signal functions may read their states, or the states are frozen.
    pub fn precedes(&self, signal: &Signal<'_>) -> bool {
        use Signal::{Barrier, EndOfInput, ProcessingTime, Watermark};
        self.is_wanted() && matches!(signal, Watermark(_) | ProcessingTime(_) | EndOfInput | Barrier { .. })
    }
}

struct KeyedStage<T, O: KeyedOperator<T>> {
    name: String,
    operator: O,
    out: Output<O::Out>,
    ttl: TtlClock,
    ended: Ended,
    /// A store keeps the states.
    stored: bool,
    /// To be handed on when the operator has done what it means.
    held: Option<i64>,
    /// The operator has more to do.
    busy: bool,
    /// It has gone on since the last flush: results of its may lie around while the task waits.
    unflushed: bool,
}

impl<T: Data, O: KeyedOperator<T>> KeyedStage<T, O> {
    /// Has the operator do the rest of what it has begun, room or not.
    #[cold]
    fn finish(&mut self) -> Result<()> {
        while self.operator.is_busy() {
            self.operator.go_on(&mut self.out)?;
        }
        self.finished()
    }

    fn finished(&mut self) -> Result<()> {
        self.busy = false;
        match self.held.take() {
            Some(watermark) => self.pass(&mut Signal::Watermark(watermark)),
            None => Ok(()),
        }
    }

    fn pass(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        signal_sides(self.operator.side_outputs(), signal)?;
        self.out.signal(signal)
    }
}

impl<T: Data, O: KeyedOperator<T>> Stage<T> for KeyedStage<T, O> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        debug_assert_eq!(batch.records.len(), batch.hashes.len());
        if self.busy {
            self.finish()?;
        }
        self.ended.records(ended::FIRST);
        self.out.begin(!batch.timestamps.is_empty());
        if self.ttl.is_wanted() {
            self.ttl.tell(self.operator.states());
        }
        if self.stored {
            self.operator.prepare(batch)?;
        }
        self.operator.run(batch, &mut self.out)?;
        batch.clear();
        if self.stored {
            settle(self.operator.states())?;
        }
        check_sides(self.operator.side_outputs())?;
        self.out.check()
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        // these have no place among records and watermarks
        if self.busy && !matches!(signal, Signal::Flush | Signal::Complete(_) | Signal::Aborted(_)) {
            self.finish()?;
        }
        if self.ttl.precedes(signal) {
            self.ttl.tell(self.operator.states());
        }
        match signal {
            Signal::Watermark(w) => {
                self.operator.on_watermark(*w, &mut self.out)?;
                self.busy = self.operator.is_busy();
                if self.busy {
                    self.held = Some(*w);
                    return Ok(());
                }
            }
            Signal::ProcessingTime(now) => {
                self.out.erase_timestamp();
                self.operator.on_processing_time(*now, &mut self.out)?;
                self.busy = self.operator.is_busy();
            }
            Signal::Split(_) => return Ok(()),
            Signal::EndOfInput if self.ended.tell(O::TOLD_ONCE, ended::FIRST) => {
                self.operator.end_of_input(&mut self.out)?;
            }
            Signal::Flush => self.unflushed = false,
            Signal::Close => self.operator.close()?,
            Signal::Barrier { parts, .. } => {
                self.operator.snapshot()?;
                let frozen = self.operator.states().into_iter().map(|s| s.freeze()).collect();
                parts.keyed.insert(self.name.clone(), frozen);
                let mut lists = BTreeMap::new();
                list_state::snapshot(self.operator.list_states(), &mut lists);
                self.ended.snapshot(O::TOLD_ONCE, &mut lists);
                if !lists.is_empty() {
                    parts.lists.entry(self.name.clone()).or_default().extend(lists);
                }
            }
            _ => {}
        }
        self.pass(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(poll_sides(self.operator.side_outputs(), cx))?;
        if self.busy {
            ready!(self.out.poll_ready(cx))?;
            if self.ttl.is_wanted() {
                self.ttl.tell(self.operator.states());
            }
            self.operator.go_on(&mut self.out)?;
            self.unflushed = true;
            check_sides(self.operator.side_outputs())?;
            self.out.check()?;
            if self.operator.is_busy() {
                // the task looks for commands between
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.finished()?;
            // the watermark that was held may give those behind side outputs more to do
            ready!(poll_sides(self.operator.side_outputs(), cx))?;
        }
        self.out.poll_ready(cx)
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(drain_sides(self.operator.side_outputs(), cx))?;
        self.out.poll_drained(cx)
    }
    fn next_timer(&mut self) -> Option<i64> {
        if self.busy {
            // the clock would have it do the rest at once
            return None;
        }
        let flush = self.unflushed.then_some(i64::MIN);
        let own = flush.into_iter().chain(self.operator.next_processing_time()).min();
        next_timer(self.operator.side_outputs(), own, &mut self.out)
    }
}

/// Makes the stage of a keyed operator and restores its states.
pub(super) struct KeyedFactory<T, M> {
    pub make: M,
    pub input: PhantomData<fn(T)>,
}

impl<T: Data, O: KeyedOperator<T>, M: Fn() -> O + Send + Sync> NodeFactory for KeyedFactory<T, M> {
    fn stage(&self, cx: &BuildContext<'_>, mut next: Consumers) -> Result<AnyStage> {
        let mut operator = (self.make)();
        let storable = operator.storable();
        let stored = open_states(cx, O::PREPARES, storable, &mut operator.states())?;
        list_state::restore(cx.operator, operator.list_states(), cx.restore)?;
        let ttl = TtlClock::start(&cx.clock, operator.states());
        operator.open(&runtime_context(cx)).map_err(|e| e.at(cx.operator))?;
        connect_sides(operator.side_outputs(), &mut next)?;
        let (name, out) = (cx.operator.to_owned(), output(next.main())?);
        let ended = Ended::restored(O::TOLD_ONCE, cx.restore);
        let (held, busy, unflushed) = (None, false, false);
        let stage = KeyedStage::<T, O> { name, operator, out, ttl, ended, stored, held, busy, unflushed };
        Ok(AnyStage::new::<T>(Box::new(stage)))
    }
}

#[cfg(test)]
mod tests;
