//! Keyed streams: reduce, process with one state value per key, process with any states.
use super::function::{KeySelector, KeyedProcessFunction};
use super::keyed_stages::{Closure, KeyedFactory, Reduce};
use super::stream::Stream;
use crate::data::Data;
use crate::dataflow::Output;
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream whose records with equal keys go to the same subtask, in order, where they share state.
pub struct KeyedStream<T, S> {
    pub(super) stream: Stream<T>,
    pub(super) selector: S,
}

impl<T, S: Clone> Clone for KeyedStream<T, S> {
    fn clone(&self) -> Self {
        Self { stream: self.stream.clone(), selector: self.selector.clone() }
    }
}

impl<T: Data, S: KeySelector<T>> KeyedStream<T, S> {
    /// Combines the records of each key into one; emits the combination after each record, as Flink's reduce does.
    ///
    /// `name` is the operator's identity in snapshots.
    pub fn reduce(&self, name: impl Into<String>, f: impl Fn(&mut T, T) + Clone + Send + Sync + 'static) -> Stream<T> {
        let selector = self.selector.clone();
        self.add(name, move || Reduce::new(selector.clone(), f.clone()))
    }

    /// One state value per key, made by `Default` and changed in place.
    ///
    /// `name` is the operator's identity in snapshots, and the name of its state.
    pub fn process<V: Data + Default, U: Data>(
        &self,
        name: impl Into<String>,
        f: impl Fn(&mut V, T, &mut Output<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        let selector = self.selector.clone();
        self.add(name, move || Closure::<_, V, _, T, U>::new(selector.clone(), f.clone()))
    }

    /// A function with named states of any kind; `make` makes one for each subtask.
    pub fn process_function<P>(
        &self,
        name: impl Into<String>,
        make: impl Fn() -> P + Send + Sync + 'static,
    ) -> Stream<P::Out>
    where
        P: KeyedProcessFunction<In = T, Key = S::Key>,
    {
        let selector = self.selector.clone();
        self.add(name, move || super::keyed_stages::Function::new(selector.clone(), make()))
    }

    pub(super) fn add<O: super::keyed_stages::KeyedOperator<T>>(
        &self,
        name: impl Into<String>,
        make: impl Fn() -> O + Send + Sync + 'static,
    ) -> Stream<O::Out> {
        let mut sample = make();
        let states = sample.states().iter_mut().map(|s| s.descriptor().clone()).collect();
        let has_lists = !sample.list_states().is_empty();
        let sides = sample.side_outputs().iter().map(|s| (s.name(), s.record_type())).collect();
        let stream = self.stream.add("keyed", Arc::new(KeyedFactory { make, input: PhantomData::<fn(T)> }));
        stream.last(|n| {
            n.states = states;
            n.has_lists = has_lists;
            n.side_outputs = sides;
        });
        stream.name(name)
    }
}
