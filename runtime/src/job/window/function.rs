//! What is accumulated per window, and what a fired window emits.
use super::assigner::{Aligned, TimeWindow};
use crate::data::{Data, Key};
use crate::dataflow::{AnySideOutput, Output};
use crate::error::Result;
use crate::job::function::RuntimeContext;
use crate::state::{AggregateFunction, KeyedTable};
use std::marker::PhantomData;

/// The accumulator of a window and its results: what the three forms (aggregate, reduce, all elements) have in common.
pub trait WindowFunction: Send + 'static {
    type Key: Key;
    type In: Data;
    type Acc: Data;
    type Out: Data;
    fn create(&self) -> Self::Acc;
    fn add(&self, acc: &mut Self::Acc, record: Self::In);
    fn merge(&self, acc: &mut Self::Acc, other: Self::Acc);
    /// The window has fired for this key; the output's timestamp is set.
    fn emit(&self, key: &Self::Key, window: &TimeWindow, acc: &Self::Acc, out: &mut Output<Self::Out>);
    /// Windows are these, and stay for so many ms behind their end. Not called where that is not so.
    fn lives(&mut self, _windows: Aligned, _lateness: i64) {}
    /// States of its own.
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>> {
        Vec::new()
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// Time has come so far, in the domain that the windows go by: windows whose states are done with.
    fn expire(&mut self, _now: i64) -> Result<()> {
        Ok(())
    }
    /// The first error since the last call: [`Self::emit`] has no result.
    fn check(&mut self) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `aggregate`: the aggregate's result goes through `f(key, window, result, out)`.
pub struct Aggregate<A, K, U, F>(pub A, pub F, pub PhantomData<fn(K) -> U>);

impl<A, K, U, F> WindowFunction for Aggregate<A, K, U, F>
where
    A: AggregateFunction<In: Data>,
    K: Key,
    U: Data,
    F: Fn(&K, &TimeWindow, A::Out, &mut Output<U>) + Send + 'static,
{
    type Key = K;
    type In = A::In;
    type Acc = A::Acc;
    type Out = U;
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
    #[inline]
    fn emit(&self, key: &K, window: &TimeWindow, acc: &A::Acc, out: &mut Output<U>) {
        (self.1)(key, window, self.0.result(acc), out);
    }
}

/// `reduce`: records are merged into the first one, which then goes through `f(key, window, reduced, out)`.
pub struct ReduceWindow<T, K, U, R, F> {
    pub reduce: R,
    pub f: F,
    pub types: PhantomData<fn(T, K) -> U>,
}

impl<T, K, U, R, F> WindowFunction for ReduceWindow<T, K, U, R, F>
where
    T: Data,
    K: Key,
    U: Data,
    R: Fn(&mut T, T) + Send + 'static,
    F: Fn(&K, &TimeWindow, &T, &mut Output<U>) + Send + 'static,
{
    type Key = K;
    type In = T;
    /// None only until the first record is added.
    type Acc = Option<T>;
    type Out = U;
    #[inline]
    fn create(&self) -> Option<T> {
        None
    }
    #[inline]
    fn add(&self, acc: &mut Option<T>, record: T) {
        match acc {
            Some(reduced) => (self.reduce)(reduced, record),
            None => *acc = Some(record),
        }
    }
    fn merge(&self, acc: &mut Option<T>, other: Option<T>) {
        if let Some(other) = other {
            self.add(acc, other);
        }
    }
    #[inline]
    fn emit(&self, key: &K, window: &TimeWindow, acc: &Option<T>, out: &mut Output<U>) {
        if let Some(reduced) = acc {
            (self.f)(key, window, reduced, out);
        }
    }
}

/// `process`: all elements of the window, in the order of their coming within a pane.
pub struct Elements<T, K, U, F>(pub F, pub PhantomData<fn(T, K) -> U>);

impl<T, K, U, F> WindowFunction for Elements<T, K, U, F>
where
    T: Data,
    K: Key,
    U: Data,
    F: Fn(&K, &TimeWindow, &[T], &mut Output<U>) + Send + 'static,
{
    type Key = K;
    type In = T;
    type Acc = Vec<T>;
    type Out = U;
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
    fn emit(&self, key: &K, window: &TimeWindow, acc: &Vec<T>, out: &mut Output<U>) {
        (self.0)(key, window, acc, out);
    }
}
