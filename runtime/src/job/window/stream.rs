//! What a user writes: `keyed.window(...)`, its settings, and the functions over a window's records.
use super::assigner::{CountSpec, TimeWindow, Windows};
use super::function::{Aggregate, Elements, ReduceWindow, WindowFunction};
use super::operator::{REACHED, Spec, WINDOWS, WindowOperator};
use super::process::{Accumulate, Aggregated, All, ProcessWindowFunction, Reduced, Stateful};
use super::trigger::{DefaultTrigger, Trigger};
use crate::data::Data;
use crate::dataflow::{Output, OutputTag};
use crate::job::function::KeySelector;
use crate::job::{KeyedStream, Stream};
use crate::state::AggregateFunction;
use std::marker::PhantomData;
use std::time::Duration;

/// A keyed stream cut into windows; ends in `aggregate`, `reduce` or `process`.
pub struct WindowedStream<T, S, G> {
    keyed: KeyedStream<T, S>,
    windows: Windows,
    trigger: G,
    /// ms
    lateness: i64,
    late: Option<OutputTag<T>>,
}

/// A keyed stream cut into windows of so many records.
pub struct CountWindowedStream<T, S> {
    keyed: KeyedStream<T, S>,
    count: CountSpec,
}

impl<T: Data, S: KeySelector<T>> KeyedStream<T, S> {
    /// Cuts the stream into windows per key: `Tumbling`, `Sliding`, `Session` or `Global`.
    pub fn window(&self, windows: impl Into<Windows>) -> WindowedStream<T, S, DefaultTrigger> {
        let windows = windows.into();
        let trigger = DefaultTrigger(windows.time());
        WindowedStream { keyed: self.clone(), windows, trigger, lateness: 0, late: None }
    }

    /// A window for each `size` records of a key (at least 1).
    pub fn count_window(&self, size: u64) -> CountWindowedStream<T, S> {
        self.sliding_count_window(size, size)
    }

    /// After each `slide` records of a key, a window of its last `size` (fewer at the beginning).
    pub fn sliding_count_window(&self, size: u64, slide: u64) -> CountWindowedStream<T, S> {
        CountWindowedStream { keyed: self.clone(), count: CountSpec::new(size, slide) }
    }
}

impl<T: Data, S: KeySelector<T>, G: Trigger<T>> WindowedStream<T, S, G> {
    /// Decides when windows fire; without it they fire at their end.
    pub fn trigger<H: Trigger<T>>(self, trigger: H) -> WindowedStream<T, S, H> {
        WindowedStream { keyed: self.keyed, windows: self.windows, trigger, lateness: self.lateness, late: self.late }
    }

    /// Windows stay for so long after the watermark has passed their end, and fire again for each record that comes
    /// meanwhile. Has no meaning in processing time.
    #[must_use]
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// Records whose windows are all gone go to this side output, with their timestamps. Without it they are dropped and
    /// counted in the metric `dropped_records`.
    #[must_use]
    pub fn late_output(mut self, tag: OutputTag<T>) -> Self {
        self.late = Some(tag);
        self
    }

    /// The windows of all keys are the same.
    fn has_place(&self) -> bool {
        !matches!(self.windows, Windows::Session { .. })
    }

    fn add<W>(self, name: impl Into<String>, make: impl Fn() -> W + Send + Sync + 'static) -> Stream<W::Out>
    where
        W: WindowFunction<Key = S::Key, In = T>,
    {
        let Self { keyed, windows, trigger, lateness, late } = self;
        let lateness = if windows.time() == super::TimeDomain::EventTime { lateness } else { 0 };
        let (selector, spec) = (keyed.selector.clone(), Spec::Time(windows, lateness));
        keyed.add(name, move || WindowOperator::new(selector.clone(), make(), trigger.clone(), &spec, late))
    }
}

impl<T: Data, S: KeySelector<T>> CountWindowedStream<T, S> {
    fn has_place(&self) -> bool {
        false
    }

    fn add<W>(self, name: impl Into<String>, make: impl Fn() -> W + Send + Sync + 'static) -> Stream<W::Out>
    where
        W: WindowFunction<Key = S::Key, In = T>,
    {
        let (selector, spec) = (self.keyed.selector.clone(), Spec::Count(self.count));
        // the trigger is that of the count itself
        let trigger = DefaultTrigger(super::TimeDomain::EventTime);
        self.keyed.add(name, move || WindowOperator::new(selector.clone(), make(), trigger, &spec, None))
    }
}

/// What is wrong with the states of a function; `has_place`: windows are the same for all keys.
fn mistake<P: ProcessWindowFunction>(function: &mut P, has_place: bool) -> Option<String> {
    if function.states().has_per_window() && !has_place {
        let m = "a state per window is for tumbling, sliding and global windows: the windows of a key merge, or are counted, \
                 here: use a state per key";
        return Some(m.into());
    }
    let states = function.states().all();
    let names: Vec<&str> = states.iter().map(|s| s.descriptor().name.as_str()).collect();
    let taken = names.iter().enumerate().find(|(i, n)| [WINDOWS, REACHED].contains(n) || names[..*i].contains(n));
    taken.map(|(_, n)| {
        format!("the window function's state {n:?} has the name of another one: give it a name of its own")
    })
}

macro_rules! window_functions {
    ($stream:ident $(, $g:ident)?) => {
        impl<T: Data, S: KeySelector<T> $(, $g: Trigger<T>)?> $stream<T, S $(, $g)?> {
            /// Aggregates the records of each key and window as they come; emits the result when the window fires.
            ///
            /// `name` is the operator's identity in snapshots.
            pub fn aggregate<A>(self, name: impl Into<String>, aggregate: A) -> Stream<A::Out>
            where
                A: AggregateFunction<In = T, Out: Data> + Clone + Sync,
            {
                self.aggregate_with(name, aggregate, |_, _, result, out| out.push(result))
            }

            /// As [`Self::aggregate`], with a function that sees key, window and result, and emits what it likes.
            pub fn aggregate_with<A, U, F>(self, name: impl Into<String>, aggregate: A, f: F) -> Stream<U>
            where
                A: AggregateFunction<In = T> + Clone + Sync,
                U: Data,
                F: Fn(&S::Key, &TimeWindow, A::Out, &mut Output<U>) + Clone + Send + Sync + 'static,
            {
                self.add(name, move || Aggregate(aggregate.clone(), f.clone(), PhantomData))
            }

            /// Combines the records of each key and window into one as they come; emits it when the window fires.
            /// The function must be associative.
            ///
            /// `name` is the operator's identity in snapshots.
            pub fn reduce<R>(self, name: impl Into<String>, reduce: R) -> Stream<T>
            where
                R: Fn(&mut T, T) + Clone + Send + Sync + 'static,
            {
                self.reduce_with(name, reduce, |_, _, reduced, out| out.push(reduced.clone()))
            }

            /// As [`Self::reduce`], with a function that sees key, window and the combined record, and emits what it likes.
            pub fn reduce_with<U, R, F>(self, name: impl Into<String>, reduce: R, f: F) -> Stream<U>
            where
                U: Data,
                R: Fn(&mut T, T) + Clone + Send + Sync + 'static,
                F: Fn(&S::Key, &TimeWindow, &T, &mut Output<U>) + Clone + Send + Sync + 'static,
            {
                self.add(name, move || ReduceWindow { reduce: reduce.clone(), f: f.clone(), types: PhantomData })
            }

            /// Keeps all records of each key and window; when the window fires the function sees them together. Prefer
            /// `aggregate` where the result can be had step by step: it keeps one value instead of all records.
            ///
            /// `name` is the operator's identity in snapshots.
            pub fn process<U, F>(self, name: impl Into<String>, f: F) -> Stream<U>
            where
                U: Data,
                F: Fn(&S::Key, &TimeWindow, &[T], &mut Output<U>) + Clone + Send + Sync + 'static,
            {
                self.add(name, move || Elements(f.clone(), PhantomData))
            }

            /// As [`Self::aggregate_with`], with a function that has states of its own; `make` makes one for each subtask.
            pub fn aggregate_function<A, P>(
                self,
                name: impl Into<String>,
                aggregate: A,
                make: impl Fn() -> P + Send + Sync + 'static,
            ) -> Stream<P::Out>
            where
                A: AggregateFunction<In = T> + Clone + Sync,
                P: ProcessWindowFunction<Key = S::Key, In = A::Out>,
            {
                self.add_function(name, move || Aggregated(aggregate.clone()), make)
            }

            /// As [`Self::reduce_with`], with a function that has states of its own; `make` makes one for each subtask.
            pub fn reduce_function<R, P>(
                self,
                name: impl Into<String>,
                reduce: R,
                make: impl Fn() -> P + Send + Sync + 'static,
            ) -> Stream<P::Out>
            where
                R: Fn(&mut T, T) + Clone + Send + Sync + 'static,
                P: ProcessWindowFunction<Key = S::Key, In = T>,
            {
                self.add_function(name, move || Reduced(reduce.clone(), PhantomData), make)
            }

            /// As [`Self::process`], with a function that has states of its own; `make` makes one for each subtask.
            pub fn process_function<P>(
                self,
                name: impl Into<String>,
                make: impl Fn() -> P + Send + Sync + 'static,
            ) -> Stream<P::Out>
            where
                P: ProcessWindowFunction<Key = S::Key, In = [T]>,
            {
                self.add_function(name, || All(PhantomData), make)
            }

            fn add_function<A, P>(
                self,
                name: impl Into<String>,
                accumulate: impl Fn() -> A + Send + Sync + 'static,
                make: impl Fn() -> P + Send + Sync + 'static,
            ) -> Stream<P::Out>
            where
                A: Accumulate<In = T>,
                P: ProcessWindowFunction<Key = S::Key, In = A::Seen>,
            {
                let name = name.into();
                let mistake = mistake(&mut make(), self.has_place());
                let mistake = mistake.map(|m| format!("{name}: {m}"));
                let stream = self.add(name, move || Stateful::new(accumulate(), make()));
                mistake.into_iter().for_each(|m| stream.mistake(m));
                stream
            }
        }
    };
}
window_functions!(WindowedStream, G);
window_functions!(CountWindowedStream);
