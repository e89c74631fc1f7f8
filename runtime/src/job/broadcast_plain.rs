//! A stream without keys with a broadcast one: as [`KeyedBroadcastProcessFunction`](super::KeyedBroadcastProcessFunction), without keyed state and timers.
use super::broadcast::{BroadcastState, broadcast_rows};
use super::co_stages::CoOperator;
use super::connect::add;
use super::function::RuntimeContext;
use super::list_state::AnyListState;
use super::stream::Stream;
use crate::data::{Data, Key};
use crate::dataflow::{AnySideOutput, Batch, Output};
use crate::error::Result;
use crate::graph::Partition;
use crate::state::{KeyedTable, RawState};

/// A function over a stream and a broadcast one. The first side reads the broadcast state, the other writes it.
///
/// Lets through what is on the list:
/// ```
/// use weir::prelude::*;
/// use weir::testing::TwoInputHarness;
///
/// struct Allowed;
///
/// impl BroadcastProcessFunction for Allowed {
///     type In = Str;
///     type Broadcast = Str;
///     type Out = Str;
///     type BroadcastKey = Str;
///     type BroadcastValue = ();
///     fn process(&mut self, word: Str, list: &BroadcastState<Str, ()>, out: &mut Output<Str>) -> Result<()> {
///         if list.contains(&word) {
///             out.push(word);
///         }
///         Ok(())
///     }
///     fn process_broadcast(
///         &mut self,
///         word: &Str,
///         list: &mut BroadcastState<Str, ()>,
///         _: &mut Output<Str>,
///     ) -> Result<()> {
///         list.put(word.clone(), ());
///         Ok(())
///     }
/// }
///
/// let mut h = TwoInputHarness::with_parallelism(2, |words: Stream<Str>, list: Stream<Str>| {
///     words.connect_broadcast(&list).process_function("allowed", || Allowed)
/// })?;
/// h.push2("a".into())?;
/// h.push1("a".into())?;
/// h.push1("b".into())?;
/// assert_eq!(h.output()?, ["a"]);
/// # Ok::<(), weir::Error>(())
/// ```
pub trait BroadcastProcessFunction: Send + 'static {
    type In: Data;
    type Broadcast: Data;
    type Out: Data;
    /// Keys and values of the broadcast state.
    type BroadcastKey: Key;
    type BroadcastValue: Data;
    /// All side outputs, each with a name of its own.
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    /// All operator list states, each with a name of its own; restored before `open`.
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        Vec::new()
    }
    /// All raw states, each with a name of its own; restored before `open`.
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        Vec::new()
    }
    /// A snapshot is taken: the last moment to bring list states and raw states up to date.
    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }
    /// Before the first record; the states are restored already.
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// A record of the first stream.
    fn process(
        &mut self,
        record: Self::In,
        broadcast: &BroadcastState<Self::BroadcastKey, Self::BroadcastValue>,
        out: &mut Output<Self::Out>,
    ) -> Result<()>;
    /// A record of the broadcast stream, in every subtask. What it changes must depend on the record and the broadcast state
    /// only; what it emits is emitted once by each subtask.
    fn process_broadcast(
        &mut self,
        record: &Self::Broadcast,
        broadcast: &mut BroadcastState<Self::BroadcastKey, Self::BroadcastValue>,
        out: &mut Output<Self::Out>,
    ) -> Result<()>;
    /// The first stream has ended, the broadcast one may go on. When and how often: as
    /// [`KeyedCoProcessFunction::end_of_input1`](super::KeyedCoProcessFunction::end_of_input1).
    fn end_of_main_input(
        &mut self,
        _broadcast: &BroadcastState<Self::BroadcastKey, Self::BroadcastValue>,
        _out: &mut Output<Self::Out>,
    ) -> Result<()> {
        Ok(())
    }
    /// The broadcast stream has ended: the rules are complete. In every subtask, which may change the broadcast state still,
    /// all in the same way.
    fn end_of_broadcast(
        &mut self,
        _broadcast: &mut BroadcastState<Self::BroadcastKey, Self::BroadcastValue>,
        _out: &mut Output<Self::Out>,
    ) -> Result<()> {
        Ok(())
    }
    /// Both streams have ended, or the job is drained: emit what is held back. Comes behind the two above.
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A stream and one that goes to every subtask.
pub struct BroadcastConnectedPlain<A, B> {
    first: Stream<A>,
    second: Stream<B>,
}

impl<A: Data> Stream<A> {
    /// Brings this stream into a function that gets every record of the other in all of its subtasks. For one with keyed state
    /// and timers, key the stream first.
    pub fn connect_broadcast<B: Data>(&self, second: &Stream<B>) -> BroadcastConnectedPlain<A, B> {
        BroadcastConnectedPlain { first: self.clone(), second: second.partitioned(Partition::Broadcast) }
    }
}

impl<A: Data, B: Data> BroadcastConnectedPlain<A, B> {
    /// `make` makes one function for each subtask. `name` is the operator's identity in snapshots.
    pub fn process_function<P>(
        &self,
        name: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Stream<P::Out>
    where
        P: BroadcastProcessFunction<In = A, Broadcast = B>,
    {
        let make = move || Plain { function: make(), state: BroadcastState::default() };
        add(name, &self.first, &self.second, make)
    }
}

/// `BroadcastConnectedPlain::process_function`
struct Plain<P: BroadcastProcessFunction> {
    function: P,
    state: BroadcastState<P::BroadcastKey, P::BroadcastValue>,
}

impl<P: BroadcastProcessFunction> CoOperator<P::In, P::Broadcast> for Plain<P> {
    /// It has no keyed state.
    type Key = u64;
    type Out = P::Out;
    const TOLD_ONCE: bool = true;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        self.function.raw_states().into_iter().map(|s| s as &mut dyn KeyedTable<u64>).collect()
    }
    fn snapshot(&mut self) -> Result<()> {
        self.function.snapshot()
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.function.side_outputs()
    }
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        let mut all = self.function.list_states();
        all.push(&mut self.state);
        all
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.function.open(cx)
    }
    fn run1(&mut self, batch: &mut Batch<P::In>, out: &mut Output<P::Out>) -> Result<()> {
        let Self { function, state } = self;
        if batch.timestamps.is_empty() {
            return batch.records.drain(..).try_for_each(|r| function.process(r, state, out));
        }
        batch.records.drain(..).zip(&batch.timestamps).try_for_each(|(r, &t)| {
            out.set_timestamp(t);
            function.process(r, state, out)
        })
    }
    fn run2(&mut self, batch: &mut Batch<P::Broadcast>, out: &mut Output<P::Out>) -> Result<()> {
        let Self { function, state } = self;
        broadcast_rows(batch, out, |record, out| function.process_broadcast(record, state, out))
    }
    fn end_of_input1(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_main_input(&self.state, out)
    }
    fn end_of_input2(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_broadcast(&mut self.state, out)
    }
    fn end_of_input(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_input(out)
    }
    fn close(&mut self) -> Result<()> {
        self.function.close()
    }
}
