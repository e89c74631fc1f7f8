//! Window functions with a life cycle: states per window, states per key, side outputs, errors.
use super::assigner::{Aligned, TimeWindow};
use super::function::WindowFunction;
use crate::data::{Data, Key};
use crate::dataflow::{AnySideOutput, Output};
use crate::error::{Error, Result};
use crate::job::function::RuntimeContext;
use crate::state::{AggregateFunction, AnyNamespaces, KeyRef, KeyedTable, NamespacedState};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

/// A function that sees a window when it fires, with states of its own: the trait form of `WindowedStream::process`,
/// `aggregate_with` and `reduce_with`. Made anew for each subtask and attempt.
///
/// Orders by customer and hour; a window that fires again for a late order says by how much its sum has changed, and each
/// customer's best hour is known:
/// ```
/// # use std::time::Duration;
/// use weir::prelude::*;
/// use weir::testing::OperatorHarness;
///
/// struct Changes {
///     said: NamespacedState<u64, u64>, // per customer and window
///     best: ValueState<u64, u64>,      // per customer
/// }
///
/// impl ProcessWindowFunction for Changes {
///     type Key = u64;
///     type In = (u64, u64);
///     type Out = (u64, i64, u64);
///     fn states(&mut self) -> WindowStates<'_, u64> {
///         WindowStates::default().per_window(&mut self.said).per_key(&mut self.best)
///     }
///     fn process(
///         &mut self,
///         customer: &KeyRef<'_, u64>,
///         hour: &TimeWindow,
///         sum: &(u64, u64),
///         out: &mut Output<(u64, i64, u64)>,
///     ) -> Result<()> {
///         let said = self.said.get_mut_or_default(hour.start, customer);
///         out.push((*customer.key, hour.start, sum.1 - *said));
///         *said = sum.1;
///         let best = self.best.get_mut_or_default(customer);
///         *best = (*best).max(sum.1);
///         Ok(())
///     }
/// }
///
/// let mut h = OperatorHarness::new(|orders: Stream<(u64, u64)>| {
///     let make = || Changes { said: NamespacedState::new("said"), best: ValueState::new("best") };
///     orders
///         .key_by(|o| &o.0)
///         .window(Tumbling::of(Duration::from_millis(10)))
///         .allowed_lateness(Duration::from_millis(10))
///         .reduce_function("sums", |sum, o| sum.1 += o.1, make)
/// })?;
/// h.push_at((7, 100), 3)?;
/// h.watermark(9)?;
/// h.push_at((7, 20), 4)?; // late
/// assert_eq!(h.output()?, [(7, 0, 100), (7, 0, 20)]);
/// h.watermark(19)?;
/// assert!(h.state("sums", NamespacedState::<u64, u64>::new("said"))?.is_empty());
/// assert_eq!(h.state("sums", ValueState::<u64, u64>::new("best"))?.get(&KeyRef::of(&7)), Some(&120));
/// # Ok::<(), weir::Error>(())
/// ```
pub trait ProcessWindowFunction: Send + 'static {
    type Key: Key;
    /// What it sees of a window: with `process_function` all records (`[T]`), with `aggregate_function` the aggregate's
    /// result, with `reduce_function` the combined record.
    type In: ?Sized;
    type Out: Data;
    /// All states, each with a name of its own (`windows` and `reached` are taken).
    fn states(&mut self) -> WindowStates<'_, Self::Key> {
        WindowStates::default()
    }
    /// All side outputs, each with a name of its own.
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    /// Before the first record; the states are restored already.
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// The window has fired for this key, the first time or again. What is pushed carries the window's last millisecond.
    fn process(
        &mut self,
        key: &KeyRef<'_, Self::Key>,
        window: &TimeWindow,
        input: &Self::In,
        out: &mut Output<Self::Out>,
    ) -> Result<()>;
    /// The window is over, and its states per window are about to be cleared: once for each window in which some of them has
    /// something, in the order of time; its keys are in [`NamespacedState::entries`].
    fn clear(&mut self, _window: &TimeWindow) -> Result<()> {
        Ok(())
    }
    /// The task ends.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The states of a [`ProcessWindowFunction`].
pub struct WindowStates<'a, K> {
    windows: Vec<&'a mut dyn AnyNamespaces<K>>,
    keys: Vec<&'a mut dyn KeyedTable<K>>,
}

impl<K> Default for WindowStates<'_, K> {
    fn default() -> Self {
        Self { windows: Vec::new(), keys: Vec::new() }
    }
}

impl<'a, K: Key> WindowStates<'a, K> {
    /// A state per key and window: the namespace to use is the window's `start`. A window that is over (past its end and its
    /// allowed lateness) takes its namespace along, for all keys at once; a trigger that purges clears the window's records
    /// only. Not for sessions, which merge, and count windows, which have no place in time: the job is refused then.
    #[must_use]
    pub fn per_window<V: Data>(mut self, state: &'a mut NamespacedState<K, V>) -> Self {
        self.windows.push(state);
        self
    }
    /// A state per key, over all of its windows.
    #[must_use]
    pub fn per_key(mut self, state: &'a mut dyn KeyedTable<K>) -> Self {
        self.keys.push(state);
        self
    }
    pub(super) fn has_per_window(&self) -> bool {
        !self.windows.is_empty()
    }
    pub(super) fn all(self) -> Vec<&'a mut dyn KeyedTable<K>> {
        self.windows.into_iter().map(|s| s as &mut dyn KeyedTable<K>).chain(self.keys).collect()
    }
}

/// What a window accumulates, and what its function sees of it.
pub(super) trait Accumulate: Send + 'static {
    type In: Data;
    type Acc: Data;
    type Seen: ?Sized;
    fn create(&self) -> Self::Acc;
    fn add(&self, acc: &mut Self::Acc, record: Self::In);
    fn merge(&self, acc: &mut Self::Acc, other: Self::Acc);
    fn see(&self, acc: &Self::Acc, f: impl FnOnce(&Self::Seen));
}

/// All records.
pub(super) struct All<T>(pub PhantomData<fn(T)>);
impl<T: Data> Accumulate for All<T> {
    type In = T;
    type Acc = Vec<T>;
    type Seen = [T];
    fn create(&self) -> Vec<T> {
        Vec::new()
    }
    #[inline]
    fn add(&self, acc: &mut Vec<T>, record: T) {
        acc.push(record);
    }
    fn merge(&self, acc: &mut Vec<T>, mut other: Vec<T>) {
        acc.append(&mut other);
    }
    fn see(&self, acc: &Vec<T>, f: impl FnOnce(&[T])) {
        f(acc);
    }
}

/// An aggregate.
pub(super) struct Aggregated<A>(pub A);
impl<A: AggregateFunction<In: Data>> Accumulate for Aggregated<A> {
    type In = A::In;
    type Acc = A::Acc;
    type Seen = A::Out;
    #[inline]
    fn create(&self) -> A::Acc {
        self.0.create()
    }
    #[inline]
    fn add(&self, acc: &mut A::Acc, record: A::In) {
        self.0.add(acc, record);
    }
    fn merge(&self, acc: &mut A::Acc, other: A::Acc) {
        self.0.merge(acc, other);
    }
    fn see(&self, acc: &A::Acc, f: impl FnOnce(&A::Out)) {
        f(&self.0.result(acc));
    }
}

/// Records combined into one.
pub(super) struct Reduced<T, R>(pub R, pub PhantomData<fn(T)>);
impl<T: Data, R: Fn(&mut T, T) + Send + 'static> Accumulate for Reduced<T, R> {
    type In = T;
    /// None only until the first record is added.
    type Acc = Option<T>;
    type Seen = T;
    fn create(&self) -> Option<T> {
        None
    }
    #[inline]
    fn add(&self, acc: &mut Option<T>, record: T) {
        match acc {
            Some(reduced) => (self.0)(reduced, record),
            None => *acc = Some(record),
        }
    }
    fn merge(&self, acc: &mut Option<T>, other: Option<T>) {
        if let Some(other) = other {
            self.add(acc, other);
        }
    }
    fn see(&self, acc: &Option<T>, f: impl FnOnce(&T)) {
        if let Some(reduced) = acc {
            f(reduced);
        }
    }
}

/// A [`ProcessWindowFunction`] over what is accumulated. Engines share it while they walk their tables, so that the function
/// lies in a cell: one flag per window that fires, nothing per record.
pub(super) struct Stateful<A, P> {
    accumulate: A,
    function: RefCell<P>,
    failed: Cell<Option<Error>>,
    /// How long windows live; none: for ever.
    expiry: Option<(Aligned, i64)>,
    /// No window is over before this time.
    due: Cell<i64>,
}

impl<A, P> Stateful<A, P> {
    pub fn new(accumulate: A, function: P) -> Self {
        let function = RefCell::new(function);
        // what was restored is not known here: the first look is early
        Self { accumulate, function, failed: Cell::new(None), expiry: None, due: Cell::new(i64::MIN) }
    }
}

fn over(windows: Aligned, lateness: i64, start: i64) -> i64 {
    windows.window(start).max_timestamp().saturating_add(lateness)
}

impl<A, P> WindowFunction for Stateful<A, P>
where
    A: Accumulate,
    P: ProcessWindowFunction<In = A::Seen>,
{
    type Key = P::Key;
    type In = A::In;
    type Acc = A::Acc;
    type Out = P::Out;
    #[inline]
    fn create(&self) -> A::Acc {
        self.accumulate.create()
    }
    #[inline]
    fn add(&self, acc: &mut A::Acc, record: A::In) {
        self.accumulate.add(acc, record);
    }
    fn merge(&self, acc: &mut A::Acc, other: A::Acc) {
        self.accumulate.merge(acc, other);
    }
    fn emit(&self, key: &P::Key, window: &TimeWindow, acc: &A::Acc, out: &mut Output<P::Out>) {
        if let Some((windows, lateness)) = self.expiry {
            self.due.set(self.due.get().min(over(windows, lateness, window.start)));
        }
        self.accumulate.see(acc, |seen| {
            if let Err(e) = self.function.borrow_mut().process(&KeyRef::of(key), window, seen, out) {
                let first = self.failed.take().unwrap_or(e);
                self.failed.set(Some(first));
            }
        });
    }
    fn lives(&mut self, windows: Aligned, lateness: i64) {
        self.expiry = Some((windows, lateness));
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<P::Key>> {
        self.function.get_mut().states().all()
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.function.get_mut().side_outputs()
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.function.get_mut().open(cx)
    }
    fn expire(&mut self, now: i64) -> Result<()> {
        let Some((windows, lateness)) = self.expiry else { return Ok(()) };
        if now < self.due.get() {
            return Ok(());
        }
        let function = self.function.get_mut();
        let due = loop {
            let first = function.states().windows.iter().filter_map(|s| s.first_namespace()).min();
            let Some(start) = first else { break i64::MAX };
            let over = over(windows, lateness, start);
            if over > now {
                break over;
            }
            function.clear(&windows.window(start))?;
            function.states().windows.into_iter().for_each(|s| s.clear_namespace(start));
        };
        self.due.set(due);
        Ok(())
    }
    fn check(&mut self) -> Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
    fn close(&mut self) -> Result<()> {
        self.function.get_mut().close()
    }
}
