//! The traits behind the closures: functions with a life cycle, key selectors, the runtime context.
use super::list_state::AnyListState;
use super::timers::{Timer, Timers};
use crate::data::{Data, Key};
use crate::dataflow::{AnySideOutput, Clock, Output};
use crate::error::Result;
use crate::exchange::Rehash;
use crate::observe::TaskMetrics;
use crate::state::{KeyRef, KeyedTable, RawState};
use std::sync::Arc;

/// What a function may know about its place.
#[derive(Debug, Clone)]
pub struct RuntimeContext {
    /// The operator's name.
    pub operator: String,
    pub subtask: u32,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// Number of this execution of the job.
    pub attempt: u64,
    pub metrics: TaskMetrics,
    /// Processing time.
    pub clock: Clock,
}

/// A function without keyed state. Made anew for each subtask and attempt.
pub trait ProcessFunction: Send + 'static {
    type In: Data;
    type Out: Data;
    /// Before the first record.
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// The record's event time is `out.timestamp()`; what is pushed carries it.
    fn process(&mut self, record: Self::In, out: &mut Output<Self::Out>) -> Result<()>;
    /// All operator list states, each with a name of its own; restored before `open`. An operator that has some needs a name.
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        Vec::new()
    }
    /// All raw states, each with a name of its own; restored before `open`. An operator that has some needs a name.
    fn raw_states(&mut self) -> Vec<&mut RawState> {
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
    /// The input has ended, or the job is drained: emit what is held back.
    ///
    /// It comes as soon as this function's own input is at its end, behind its last record and the last watermark
    /// (`i64::MAX`), even if other sources of the job go on, and before the final checkpoint. What is pushed carries the event
    /// time of the last record, unless [`Output::push_at`] says another. Checkpoints and timers of processing time may follow.
    ///
    /// It comes once for each subtask, over restores, too: the checkpoint knows that the function was told, and holds its
    /// state from after that. It comes again only if records do: a job that was drained goes on, or its source has more by
    /// then. After a restore at another parallelism it comes unless all of the old subtasks were told before the checkpoint.
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// The task ends.
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A function with keyed state: the trait form of `KeyedStream::process`.
///
/// The function owns its states as fields and lists them in [`Self::states`], which is how they are restored before `open`
/// and put into snapshots.
///
/// What was said last about each key, after five seconds of silence:
/// ```
/// use weir::prelude::*;
/// use weir::testing::OperatorHarness;
///
/// struct Last {
///     last: ValueState<Str, (i64, u64)>,
///     timers: Timers<Str>,
/// }
///
/// impl KeyedProcessFunction for Last {
///     type Key = Str;
///     type In = (Str, u64);
///     type Out = (Str, u64);
///     fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
///         vec![&mut self.last, &mut self.timers]
///     }
///     fn timers(&mut self) -> Option<&mut Timers<Str>> {
///         Some(&mut self.timers)
///     }
///     fn process(&mut self, key: &KeyRef<'_, Str>, said: &(Str, u64), _: &mut Output<(Str, u64)>) -> Result<()> {
///         let due = self.timers.processing_time() + 5_000;
///         if let Some((old, _)) = self.last.get(key) {
///             self.timers.delete_processing_time(key, *old);
///         }
///         self.last.update(key, (due, said.1));
///         self.timers.register_processing_time(key, due);
///         Ok(())
///     }
///     fn on_timer(&mut self, key: &KeyRef<'_, Str>, _: &Timer, out: &mut Output<(Str, u64)>) -> Result<()> {
///         if let Some(&(_, said)) = self.last.get(key) {
///             out.push((key.key.clone(), said));
///         }
///         self.last.clear(key);
///         Ok(())
///     }
/// }
///
/// let mut h = OperatorHarness::new(|said: Stream<(Str, u64)>| {
///     let make = || Last { last: ValueState::new("last"), timers: Timers::new("timers") };
///     said.key_by(|s| &s.0).process_function("last", make)
/// })?;
/// h.push(("ann".into(), 1))?;
/// h.set_processing_time(4_000)?;
/// h.push(("ann".into(), 2))?;
/// h.set_processing_time(5_000)?;
/// assert!(h.output()?.is_empty());
/// h.set_processing_time(9_000)?;
/// assert_eq!(h.output()?, [("ann".into(), 2)]);
/// # Ok::<(), weir::Error>(())
/// ```
pub trait KeyedProcessFunction: Send + 'static {
    type Key: Key;
    type In: Data;
    type Out: Data;
    /// All keyed states, each with a name of its own.
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<Self::Key>>;
    /// A snapshot is taken: the last moment to bring list states and raw states up to date.
    fn snapshot(&mut self) -> Result<()> {
        Ok(())
    }
    /// What belongs to a subtask and to no key: operator list states, each with a name of its own; restored before `open`.
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        Vec::new()
    }
    /// Before the first record; the states are restored already.
    fn open(&mut self, _cx: &RuntimeContext) -> Result<()> {
        Ok(())
    }
    /// All side outputs, each with a name of its own.
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        Vec::new()
    }
    /// `key` is borrowed from `record`; its hash was computed once, where the stream was keyed. The record's event time is
    /// `out.timestamp()`; what is pushed carries it.
    fn process(&mut self, key: &KeyRef<'_, Self::Key>, record: &Self::In, out: &mut Output<Self::Out>) -> Result<()>;
    /// The function's timers, if it has any; they must be among its `states`, too.
    fn timers(&mut self) -> Option<&mut Timers<Self::Key>> {
        None
    }
    /// A timer of this key has come. What is pushed carries the time of an event-time timer; that of a processing-time timer
    /// has no event time.
    fn on_timer(&mut self, _key: &KeyRef<'_, Self::Key>, _timer: &Timer, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    /// As [`ProcessFunction::end_of_input`]: the input has ended, or the job is drained.
    fn end_of_input(&mut self, _out: &mut Output<Self::Out>) -> Result<()> {
        Ok(())
    }
    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Finds the key of a record: borrowed from it, or computed.
pub trait KeySelector<T>: Clone + Send + Sync + 'static {
    type Key: Key;
    fn with_key<R>(&self, record: &T, f: impl FnOnce(&Self::Key) -> R) -> R;
    /// What computes the hashes of a batch anew, if that is cheap.
    fn rehash(&self) -> Option<Rehash<T>> {
        None
    }
}

/// A key that lies in the record.
pub struct Borrowed<F, K>(pub F, pub std::marker::PhantomData<fn() -> K>);
/// A key that is computed from the record.
pub struct Computed<F, K>(pub F, pub std::marker::PhantomData<fn() -> K>);

impl<F: Clone, K> Clone for Borrowed<F, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1)
    }
}
impl<F: Clone, K> Clone for Computed<F, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1)
    }
}

impl<T, K: Key, F: Fn(&T) -> &K + Clone + Send + Sync + 'static> KeySelector<T> for Borrowed<F, K> {
    type Key = K;
    #[inline(always)]
    fn with_key<R>(&self, record: &T, f: impl FnOnce(&K) -> R) -> R {
        f((self.0)(record))
    }
    fn rehash(&self) -> Option<Rehash<T>> {
        let key = self.0.clone();
        Some(Arc::new(move |records, hashes| hashes.extend(records.iter().map(|r| key(r).key_hash()))))
    }
}
impl<T, K: Key, F: Fn(&T) -> K + Clone + Send + Sync + 'static> KeySelector<T> for Computed<F, K> {
    type Key = K;
    #[inline(always)]
    fn with_key<R>(&self, record: &T, f: impl FnOnce(&K) -> R) -> R {
        f(&(self.0)(record))
    }
}
