//! Two streams into one function: keyed with keyed, keyed with broadcast.
use super::broadcast::{Broadcasting, KeyedBroadcastProcessFunction};
use super::co_stages::{CoFactory, CoOperator};
use super::firing::{AT_ONCE, Firing};
use super::function::{KeySelector, RuntimeContext};
use super::keyed::KeyedStream;
use super::keyed_stages::check_timers;
use super::list_state::AnyListState;
use super::stored::{want, want_due};
use super::stream::Stream;
use super::timers::{Timer, Timers};
use crate::data::{Data, Key};
use crate::dataflow::factory::TypeOf;
use crate::dataflow::{AnySideOutput, Batch, Output};
use crate::error::Result;
use crate::graph::Partition;
use crate::state::{KeyRef, KeyedTable};
use std::marker::PhantomData;
use std::sync::Arc;

/// A function over two keyed streams whose records with equal keys share its state.
///
/// Records come in their order within each stream; between the streams there is none.
///
/// Each word is let through once it was allowed:
/// ```
/// use weir::prelude::*;
/// use weir::testing::TwoInputHarness;
///
/// struct Gate(ValueState<Str, bool>);
///
/// impl KeyedCoProcessFunction for Gate {
///     type Key = Str;
///     type In1 = Str;
///     type In2 = Str;
///     type Out = Str;
///     fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
///         vec![&mut self.0]
///     }
///     fn process1(&mut self, key: &KeyRef<'_, Str>, word: &Str, out: &mut Output<Str>) -> Result<()> {
///         if self.0.get(key).is_some() {
///             out.push(word.clone());
///         }
///         Ok(())
///     }
///     fn process2(&mut self, key: &KeyRef<'_, Str>, _: &Str, _: &mut Output<Str>) -> Result<()> {
///         self.0.update(key, true);
///         Ok(())
///     }
/// }
///
/// let mut h = TwoInputHarness::new(|words: Stream<Str>, allowed: Stream<Str>| {
///     let (words, allowed) = (words.key_by(|w| w), allowed.key_by(|w| w));
///     words.connect(&allowed).process_function("gate", || Gate(ValueState::new("allowed")))
/// })?;
/// h.push1("a".into())?;
/// h.push2("a".into())?;
/// h.push1("a".into())?;
/// h.push1("b".into())?;
/// assert_eq!(h.output()?, ["a"]);
/// # Ok::<(), weir::Error>(())
/// ```
pub trait KeyedCoProcessFunction: Send + 'static {
    type Key: Key;
    type In1: Data;
    type In2: Data;
    type Out: Data;
    /// All keyed states, each with a name of its own.
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>>;
    /// A snapshot is taken: the last moment to bring list states and raw states up to date.
    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }
    /// All side outputs, each with a name of its own.
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    /// All operator list states, each with a name of its own; restored before `open`.
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        Vec::new()
    }
    /// Before the first record; the states are restored already.
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// A record of the first stream.
    fn process1(&mut self, key: &KeyRef<'_, Self::Key>, record: &Self::In1, out: &mut Output<Self::Out>) -> Result<()>;
    /// A record of the second stream.
    fn process2(&mut self, key: &KeyRef<'_, Self::Key>, record: &Self::In2, out: &mut Output<Self::Out>) -> Result<()>;
    /// The function's timers, if it has any; they must be among its `states`, too. Event time is that of both streams: the
    /// lesser watermark.
    fn timers(&mut self) -> Option<&mut Timers<Self::Key>> {
        None
    }
    fn on_timer(&mut self, _key: &KeyRef<'_, Self::Key>, _timer: &Timer, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// The first stream has ended: all of its records and its last watermark (`i64::MAX`, which the other stream still holds
    /// back) came before, and no record of it follows; the other one may go on. Told once, also over restores: see
    /// [`ProcessFunction::end_of_input`](super::ProcessFunction::end_of_input).
    fn end_of_input1(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// As [`Self::end_of_input1`], of the second stream.
    fn end_of_input2(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// Both streams have ended, or the job is drained, and event time with them; comes behind [`Self::end_of_input1`] and
    /// [`Self::end_of_input2`].
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Two keyed streams with keys of the same type.
pub struct ConnectedStreams<A, SA, B, SB> {
    first: KeyedStream<A, SA>,
    second: KeyedStream<B, SB>,
}

/// A keyed stream and one that goes to every subtask.
pub struct BroadcastConnectedStream<A, SA, B> {
    first: KeyedStream<A, SA>,
    second: Stream<B>,
}

impl<A: Data, SA: KeySelector<A>> KeyedStream<A, SA> {
    /// Brings this stream and another one with the same keys into one function.
    pub fn connect<B: Data, SB: KeySelector<B, Key = SA::Key>>(
        &self,
        second: &KeyedStream<B, SB>,
    ) -> ConnectedStreams<A, SA, B, SB> {
        ConnectedStreams { first: self.clone(), second: second.clone() }
    }

    /// Brings this stream into a function that gets every record of the other in all of its subtasks: rules, configuration.
    pub fn connect_broadcast<B: Data>(&self, second: &Stream<B>) -> BroadcastConnectedStream<A, SA, B> {
        BroadcastConnectedStream { first: self.clone(), second: second.partitioned(Partition::Broadcast) }
    }
}

impl<A: Data, SA: KeySelector<A>, B: Data, SB: KeySelector<B, Key = SA::Key>> ConnectedStreams<A, SA, B, SB> {
    /// `make` makes one function for each subtask. `name` is the operator's identity in snapshots.
    pub fn process_function<P>(
        &self,
        name: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Stream<P::Out>
    where
        P: KeyedCoProcessFunction<Key = SA::Key, In1 = A, In2 = B>,
    {
        let (s1, s2) = self.selectors();
        self.co_process(name, move || CoFunction {
            first: s1.clone(),
            second: s2.clone(),
            function: make(),
            firing: Firing::default(),
        })
    }

    pub(super) fn selectors(&self) -> (SA, SB) {
        (self.first.selector.clone(), self.second.selector.clone())
    }

    pub(super) fn co_process<O: CoOperator<A, B>>(
        &self,
        name: impl Into<String>,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> Stream<O::Out> {
        add(name, &self.first.stream, &self.second.stream, make)
    }
}

impl<A: Data, SA: KeySelector<A>, B: Data> BroadcastConnectedStream<A, SA, B> {
    /// `make` makes one function for each subtask. `name` is the operator's identity in snapshots.
    pub fn process_function<P>(
        &self,
        name: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Stream<P::Out>
    where
        P: KeyedBroadcastProcessFunction<Key = SA::Key, In = A, Broadcast = B>,
    {
        let selector = self.first.selector.clone();
        add(name, &self.first.stream, &self.second, move || Broadcasting::new(selector.clone(), make()))
    }
}

/// Adds an operator with two inputs.
pub(super) fn add<A: Data, B: Data, O: CoOperator<A, B>>(
    name: impl Into<String>,
    first: &Stream<A>,
    second: &Stream<B>,
    make: impl Fn() -> O + Send + Sync + 'static,
) -> Stream<O::Out> {
    let mut sample = make();
    let states = sample.states().iter_mut().map(|s| s.descriptor().clone()).collect();
    let has_lists = !sample.list_states().is_empty();
    let sides = sample.side_outputs().iter().map(|s| (s.name(), s.record_type())).collect();
    let stream = first.add("connected", Arc::new(CoFactory { make, inputs: PhantomData::<fn(A, B)> }));
    stream.last(|n| {
        n.inputs.extend(second.inputs.iter().map(|i| crate::graph::Input { port: 1, ..*i }));
        n.second_input_type = Some(TypeOf::<B>::shared());
        n.states = states;
        n.has_lists = has_lists;
        n.side_outputs = sides;
    });
    stream.name(name)
}

/// `ConnectedStreams::process_function`
pub(super) struct CoFunction<SA, SB, P> {
    pub first: SA,
    pub second: SB,
    pub function: P,
    pub firing: Firing,
}

impl<SA, SB, P> CoOperator<P::In1, P::In2> for CoFunction<SA, SB, P>
where
    P: KeyedCoProcessFunction,
    SA: KeySelector<P::In1, Key = P::Key>,
    SB: KeySelector<P::In2, Key = P::Key>,
{
    type Key = P::Key;
    type Out = P::Out;
    const PREPARES: bool = true;
    const TOLD_ONCE: bool = true;
    fn prepare1(&mut self, batch: &Batch<P::In1>) -> Result<()> {
        want(batch, &self.first, &mut self.function.states())
    }
    fn prepare2(&mut self, batch: &Batch<P::In2>) -> Result<()> {
        want(batch, &self.second, &mut self.function.states())
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<P::Key>> {
        self.function.states()
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.function.side_outputs()
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
    fn run1(&mut self, batch: &mut Batch<P::In1>, out: &mut Output<P::Out>) -> Result<()> {
        let Self { first, function, .. } = self;
        rows(batch, first, out, |key, record, out| function.process1(key, record, out))
    }
    fn run2(&mut self, batch: &mut Batch<P::In2>, out: &mut Output<P::Out>) -> Result<()> {
        let Self { second, function, .. } = self;
        rows(batch, second, out, |key, record, out| function.process2(key, record, out))
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
    fn end_of_input1(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_input1(out)
    }
    fn end_of_input2(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_input2(out)
    }
    fn end_of_input(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_input(out)
    }
    fn close(&mut self) -> Result<()> {
        self.function.close()
    }
}

/// Calls `f` for each record of a keyed batch, with the record's timestamp on the output.
#[inline]
pub(super) fn rows<T: Data, S: KeySelector<T>, U: Data>(
    batch: &Batch<T>,
    selector: &S,
    out: &mut Output<U>,
    mut f: impl FnMut(&KeyRef<'_, S::Key>, &T, &mut Output<U>) -> Result<()>,
) -> Result<()> {
    let timed = !batch.timestamps.is_empty();
    for (i, (record, &hash)) in batch.records.iter().zip(&batch.hashes).enumerate() {
        if timed {
            out.set_timestamp(batch.timestamps[i]);
        }
        selector.with_key(record, |key| f(&KeyRef { hash, key }, record, out))?;
    }
    Ok(())
}
