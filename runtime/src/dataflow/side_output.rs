//! Second outputs of an operator, of any type: for late records, alerts, what a function wants to keep apart.
use super::factory::{AnyStage, RecordType, TypeOf};
use super::{Output, Signal};
use crate::data::Data;
use crate::error::Result;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Names a side output and the type of its records. The function makes a [`SideOutput`] of it; the stream behind is got
/// with [`Stream::side_output`](crate::job::Stream::side_output).
pub struct OutputTag<T> {
    name: &'static str,
    records: PhantomData<fn() -> T>,
}

impl<T> Clone for OutputTag<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for OutputTag<T> {}

impl<T> OutputTag<T> {
    /// The name must be unique among the outputs of the operator.
    pub const fn new(name: &'static str) -> Self {
        Self { name, records: PhantomData }
    }
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A side output as a field of a function, which lists it in its `side_outputs`.
pub struct SideOutput<T> {
    tag: OutputTag<T>,
    out: Output<T>,
}

impl<T: Clone> SideOutput<T> {
    pub fn new(tag: OutputTag<T>) -> Self {
        Self { tag, out: Output::new(Vec::new()) }
    }
    /// Emits one record without a timestamp; [`Output::push_to`] gives it that of the record being processed.
    #[inline]
    pub fn push(&mut self, record: T) {
        self.out.begin(false);
        self.out.push(record);
    }
    /// Emits one record with this event time (ms since the Unix epoch).
    #[inline]
    pub fn push_at(&mut self, record: T, timestamp: i64) {
        self.out.push_at(record, timestamp);
    }
}

/// What the operator's stage does with a side output whose type it does not know.
pub trait AnySideOutput: Send {
    fn name(&self) -> &'static str;
    fn record_type(&self) -> Arc<dyn RecordType>;
    /// Connects it with the stages that consume it.
    fn connect(&mut self, next: Vec<AnyStage>) -> Result<()>;
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()>;
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
    /// The error that a stage behind had since the last call.
    fn check(&mut self) -> Result<()>;
    fn next_timer(&mut self) -> Option<i64>;
}

impl<T: Data> AnySideOutput for SideOutput<T> {
    fn name(&self) -> &'static str {
        self.tag.name
    }
    fn record_type(&self) -> Arc<dyn RecordType> {
        TypeOf::<T>::shared()
    }
    fn connect(&mut self, next: Vec<AnyStage>) -> Result<()> {
        self.out = Output::new(next.into_iter().map(AnyStage::typed::<T>).collect::<Result<_>>()?);
        Ok(())
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        self.out.signal(signal)
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.out.poll_ready(cx)
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.out.poll_drained(cx)
    }
    fn check(&mut self) -> Result<()> {
        self.out.check()
    }
    fn next_timer(&mut self) -> Option<i64> {
        self.out.next_timer()
    }
}
