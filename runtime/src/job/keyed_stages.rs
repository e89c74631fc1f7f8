//! Stages of keyed operators: reduce, one value per key, functions with any states; restore and snapshot of their states.
use super::function::{KeySelector, KeyedProcessFunction, RuntimeContext};
use super::stages::{output, runtime_context};
use crate::checkpoint::handles::OperatorRestore;
use crate::data::{Data, Key};
use crate::dataflow::factory::{AnyStage, BuildContext, NodeFactory};
use crate::dataflow::{Batch, Output, Signal, Stage};
use crate::error::Result;
use crate::state::file::{self, InMemory, NotDeclared, ReadAt};
use crate::state::{KeyRef, KeyedTable, ValueState};
use std::marker::PhantomData;
use std::task::{Context, Poll};

/// Name of the state of operators that have just one.
const VALUE: &str = "value";

/// An operator with keyed state; works on whole batches, so that its loop is monomorphized.
pub trait KeyedOperator<T>: Send + 'static {
    type Key: Key;
    type Out: Data;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>>;
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// Takes all records; the batch has its hash column.
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<Self::Out>) -> Result<()>;
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
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<S::Key>> {
        vec![&mut self.state]
    }
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<T>) -> Result<()> {
        let Self { selector, f, state } = self;
        for (record, &hash) in batch.records.drain(..).zip(&batch.hashes) {
            let mut first = false;
            let reduced = selector.with_key(&record, |key| {
                let first = &mut first;
                state.get_mut_or_insert_with(&KeyRef { hash, key }, || {
                    *first = true;
                    record.clone()
                })
            });
            if !first {
                f(reduced, record);
            }
            out.push(reduced.clone());
        }
        Ok(())
    }
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
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<S::Key>> {
        vec![&mut self.state]
    }
    fn run(&mut self, batch: &mut Batch<T>, out: &mut Output<U>) -> Result<()> {
        let Self { selector, f, state, .. } = self;
        for (record, &hash) in batch.records.drain(..).zip(&batch.hashes) {
            let value = selector.with_key(&record, |key| state.get_mut_or_default(&KeyRef { hash, key }));
            f(value, record, out);
        }
        Ok(())
    }
}

/// `KeyedStream::process_function`
pub struct Function<S, P> {
    pub selector: S,
    pub function: P,
}

impl<S, P> KeyedOperator<P::In> for Function<S, P>
where
    P: KeyedProcessFunction,
    S: KeySelector<P::In, Key = P::Key>,
{
    type Key = P::Key;
    type Out = P::Out;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<P::Key>> {
        self.function.states()
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.function.open(cx)
    }
    fn run(&mut self, batch: &mut Batch<P::In>, out: &mut Output<P::Out>) -> Result<()> {
        for (record, &hash) in batch.records.iter().zip(&batch.hashes) {
            self.selector.with_key(record, |key| self.function.process(&KeyRef { hash, key }, record, out))?;
        }
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<P::Out>) -> Result<()> {
        self.function.end_of_input(out)
    }
    fn close(&mut self) -> Result<()> {
        self.function.close()
    }
}

struct KeyedStage<T, O: KeyedOperator<T>> {
    name: String,
    operator: O,
    out: Output<O::Out>,
}

impl<T: Data, O: KeyedOperator<T>> Stage<T> for KeyedStage<T, O> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        debug_assert_eq!(batch.records.len(), batch.hashes.len());
        self.operator.run(batch, &mut self.out)?;
        batch.clear();
        self.out.check()
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            Signal::EndOfInput => self.operator.end_of_input(&mut self.out)?,
            Signal::Close => self.operator.close()?,
            Signal::Barrier { parts, .. } => {
                let frozen = self.operator.states().into_iter().map(|s| s.freeze()).collect();
                parts.keyed.insert(self.name.clone(), frozen);
            }
            _ => {}
        }
        self.out.signal(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.out.poll_ready(cx)
    }
}

/// Makes the stage of a keyed operator and restores its states.
pub(super) struct KeyedFactory<T, M> {
    pub make: M,
    pub input: PhantomData<fn(T)>,
}

impl<T: Data, O: KeyedOperator<T>, M: Fn() -> O + Send + Sync> NodeFactory for KeyedFactory<T, M> {
    fn stage(&self, cx: &BuildContext<'_>, next: Vec<AnyStage>) -> Result<AnyStage> {
        let mut operator = (self.make)();
        if let Some(restore) = cx.restore {
            restore_states(cx, restore, &mut operator.states())?;
        }
        operator.open(&runtime_context(cx)).map_err(|e| e.at(cx.operator))?;
        let stage = KeyedStage::<T, O> { name: cx.operator.to_owned(), operator, out: output(next)? };
        Ok(AnyStage::new::<T>(Box::new(stage)))
    }
}

fn restore_states<K: Key>(
    cx: &BuildContext<'_>,
    restore: &OperatorRestore,
    states: &mut [&mut dyn KeyedTable<K>],
) -> Result<()> {
    let named = restore.keyed.iter().map(|k| &k.file.path).zip(cx.files);
    let files: Vec<_> = named.map(|(n, b)| InMemory { name: n.clone(), bytes: b.clone() }).collect();
    let files: Vec<&dyn ReadAt> = files.iter().map(|f| f as &dyn ReadAt).collect();
    // what may be dropped was decided, and said, before the log was claimed
    let dropping = NotDeclared::Drop;
    let restored = file::restore(cx.operator, &cx.key_groups, cx.max_parallelism, dropping, &files, states)?;
    tracing::debug!(operator = cx.operator, subtask = cx.subtask, entries = restored.entries, "state restored");
    Ok(())
}
