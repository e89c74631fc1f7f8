//! A keyed stream with a broadcast one: every subtask holds the same map, written from the broadcast side only.
use super::co_stages::CoOperator;
use super::connect::rows;
use super::firing::{AT_ONCE, Firing};
use super::function::{KeySelector, RuntimeContext};
use super::keyed_stages::check_timers;
use super::list_state::AnyListState;
use super::stored::{want, want_due};
use super::timers::{Timer, Timers};
use crate::checkpoint::handles::{BROADCAST, Bytes64};
use crate::data::{Data, DecodeError, Key};
use crate::dataflow::{AnySideOutput, Batch, Output};
use crate::error::Result;
use crate::state::{KeyMap, KeyRef, KeyedTable};

/// The map that a function with a broadcast input keeps, the same in each of its subtasks: they see the same broadcast
/// records, so they must do the same with them. Each subtask's snapshot holds it; at another parallelism, new subtasks get
/// a copy of an old one's.
#[derive(Debug, Clone)]
pub struct BroadcastState<K, V>(KeyMap<K, V>);

impl<K: Key, V: Data> BroadcastState<K, V> {
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains(key)
    }
    /// Entries in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter()
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Sets an entry and returns the value before.
    pub fn put(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key)
    }
    pub fn clear(&mut self) {
        self.0 = KeyMap::default();
    }
}

impl<K: Key, V: Data> AnyListState for BroadcastState<K, V> {
    fn name(&self) -> &str {
        BROADCAST
    }
    fn snapshot(&self) -> Vec<Bytes64> {
        let entry = |(k, v): (&K, &V)| {
            let mut bytes = Vec::new();
            k.encode(&mut bytes);
            v.encode(&mut bytes);
            Bytes64(bytes)
        };
        self.iter().map(entry).collect()
    }
    fn restore(&mut self, elements: &[Bytes64]) -> Result<(), DecodeError> {
        self.clear();
        for bytes in elements {
            let (key, value) = decode(&bytes.0)?;
            self.put(key, value);
        }
        Ok(())
    }
}

impl<K: Key, V: Data> Default for BroadcastState<K, V> {
    fn default() -> Self {
        Self(KeyMap::default())
    }
}

/// A function over a keyed stream and a broadcast one. The keyed side reads the broadcast state, the other writes it.
///
/// Prices by a currency's rate, which may change:
/// ```
/// use weir::prelude::*;
/// use weir::testing::TwoInputHarness;
///
/// struct Convert;
///
/// impl KeyedBroadcastProcessFunction for Convert {
///     type Key = u64;
///     type In = (u64, Str, u64); // customer, currency, price
///     type Broadcast = (Str, u64);
///     type Out = (u64, u64);
///     type BroadcastKey = Str;
///     type BroadcastValue = u64;
///     fn process(
///         &mut self,
///         _: &KeyRef<'_, u64>,
///         price: &Self::In,
///         rates: &BroadcastState<Str, u64>,
///         out: &mut Output<(u64, u64)>,
///     ) -> Result<()> {
///         if let Some(rate) = rates.get(&price.1) {
///             out.push((price.0, price.2 * rate));
///         }
///         Ok(())
///     }
///     fn process_broadcast(
///         &mut self,
///         rate: &(Str, u64),
///         rates: &mut BroadcastState<Str, u64>,
///         _: &mut Output<(u64, u64)>,
///     ) -> Result<()> {
///         rates.put(rate.0.clone(), rate.1);
///         Ok(())
///     }
/// }
///
/// let mut h = TwoInputHarness::with_parallelism(3, |prices: Stream<(u64, Str, u64)>, rates: Stream<(Str, u64)>| {
///     prices.key_by(|p| &p.0).connect_broadcast(&rates).process_function("convert", || Convert)
/// })?;
/// h.push2(("yen".into(), 6))?;
/// h.push1((1, "yen".into(), 100))?;
/// assert_eq!(h.output()?, [(1, 600)]);
/// # Ok::<(), weir::Error>(())
/// ```
pub trait KeyedBroadcastProcessFunction: Send + 'static {
    type Key: Key;
    type In: Data;
    type Broadcast: Data;
    type Out: Data;
    /// Keys and values of the broadcast state.
    type BroadcastKey: Key;
    type BroadcastValue: Data;
    /// All keyed states, each with a name of its own; used from the keyed side and by timers.
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>> {
        Vec::new()
    }
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
    /// A record of the keyed stream.
    fn process(
        &mut self,
        key: &KeyRef<'_, Self::Key>,
        record: &Self::In,
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
    /// The function's timers, if it has any; they must be among its `states`, too.
    fn timers(&mut self) -> Option<&mut Timers<Self::Key>> {
        None
    }
    fn on_timer(
        &mut self,
        _key: &KeyRef<'_, Self::Key>,
        _timer: &Timer,
        _broadcast: &BroadcastState<Self::BroadcastKey, Self::BroadcastValue>,
        _out: &mut Output<Self::Out>,
    ) -> Result<()> {
        Ok(())
    }
    /// The keyed stream has ended, the broadcast one may go on. When and how often: as
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
    /// Both streams have ended, or the job is drained; comes behind the two above.
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `BroadcastConnectedStream::process_function`
pub(super) struct Broadcasting<S, P: KeyedBroadcastProcessFunction> {
    selector: S,
    function: P,
    firing: Firing,
    state: BroadcastState<P::BroadcastKey, P::BroadcastValue>,
}

impl<S, P: KeyedBroadcastProcessFunction> Broadcasting<S, P> {
    pub fn new(selector: S, function: P) -> Self {
        Self { selector, function, firing: Firing::default(), state: BroadcastState::default() }
    }
}

impl<S: KeySelector<P::In, Key = P::Key>, P: KeyedBroadcastProcessFunction> CoOperator<P::In, P::Broadcast>
    for Broadcasting<S, P>
{
    type Key = P::Key;
    type Out = P::Out;
    const PREPARES: bool = true;
    const TOLD_ONCE: bool = true;
    fn prepare1(&mut self, batch: &Batch<P::In>) -> Result<()> {
        want(batch, &self.selector, &mut self.function.states())
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<P::Key>> {
        self.function.states()
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.function.side_outputs()
    }
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        let mut all = self.function.list_states();
        all.push(&mut self.state);
        all
    }
    fn snapshot(&mut self) -> Result<()> {
        self.function.snapshot()
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        let timers = self.function.timers().map(|t| t.opened(cx));
        check_timers(timers, self.function.states())?;
        self.function.open(cx)
    }
    fn run1(&mut self, batch: &mut Batch<P::In>, out: &mut Output<P::Out>) -> Result<()> {
        let Self { selector, function, state, .. } = self;
        rows(batch, selector, out, |key, record, out| function.process(key, record, state, out))
    }
    fn run2(&mut self, batch: &mut Batch<P::Broadcast>, out: &mut Output<P::Out>) -> Result<()> {
        let Self { function, state, .. } = self;
        broadcast_rows(batch, out, |record, out| function.process_broadcast(record, state, out))
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
            self.function.on_timer(&KeyRef { hash: due.hash, key: &due.key }, &due.timer, &self.state, out)?;
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

/// Calls `f` for each record of a broadcast batch, with the record's timestamp on the output.
pub(super) fn broadcast_rows<T: Data, U: Data>(
    batch: &Batch<T>,
    out: &mut Output<U>,
    mut f: impl FnMut(&T, &mut Output<U>) -> Result<()>,
) -> Result<()> {
    for (i, record) in batch.records.iter().enumerate() {
        if let Some(&t) = batch.timestamps.get(i) {
            out.set_timestamp(t);
        }
        f(record, out)?;
    }
    Ok(())
}

fn decode<K: Data, V: Data>(mut bytes: &[u8]) -> Result<(K, V), DecodeError> {
    let entry = (K::decode(&mut bytes)?, V::decode(&mut bytes)?);
    if bytes.is_empty() { Ok(entry) } else { Err(DecodeError::Invalid("bytes are left over")) }
}
