//! The seams where types are erased: how a node of the graph becomes a running stage, how an edge becomes typed channels.
//!
//! Erased values are checked when a task is built (`Box<dyn Any>`), never while records flow.
use super::gate::InputGate;
use super::inlet::{One, Two, TwoInputStage};
use super::input_task::InputTask;
use super::task::TaskBody;
use super::writer::ExchangeWriter;
use crate::checkpoint::handles::OperatorRestore;
use crate::data::Data;
use crate::dataflow::{Clock, Stage};
use crate::error::{Error, Result};
use crate::exchange::{ChannelId, Channels, PeerAddress, Receiver, Rehash, Sender};
use crate::graph::Partition;
use crate::job::alignment::AlignmentGroups;
use crate::observe::TaskMetrics;
use crate::state::file::ReadAt;
use crate::state::store::Stores;
use crate::testing::Shelf;
use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

/// A `Box<dyn Stage<T>>` for a `T` that only the neighbours know.
pub struct AnyStage(Box<dyn Any + Send>);

impl AnyStage {
    pub fn new<T: 'static>(stage: Box<dyn Stage<T>>) -> Self {
        Self(Box::new(stage))
    }
    /// The stage, if it takes records of type `T`.
    pub fn typed<T: 'static>(self) -> Result<Box<dyn Stage<T>>> {
        match self.0.downcast::<Box<dyn Stage<T>>>() {
            Ok(s) => Ok(*s),
            Err(_) => {
                Err(Error::internal(format!("a stage does not take records of type {}", std::any::type_name::<T>())))
            }
        }
    }
}

/// The stages that consume the outputs of a node: of the main output, then of each side output.
#[derive(Default)]
pub struct Consumers(Vec<Vec<AnyStage>>);

impl Consumers {
    pub(super) fn push(&mut self, output: u16, stage: AnyStage) {
        let output = usize::from(output);
        if self.0.len() <= output {
            self.0.resize_with(output + 1, Vec::new);
        }
        self.0[output].push(stage);
    }
    /// Takes those of an output; 0 is the main output, side output `i` is `i + 1`.
    pub fn take(&mut self, output: usize) -> Vec<AnyStage> {
        self.0.get_mut(output).map(std::mem::take).unwrap_or_default()
    }
    /// Those of the main output.
    pub fn main(mut self) -> Vec<AnyStage> {
        self.take(0)
    }
}

/// Makes the running part of a node, once per subtask.
pub trait NodeFactory: Send + Sync {
    /// The stage of an operator or sink, in front of the stages that consume its outputs. Restores its state.
    fn stage(&self, cx: &BuildContext<'_>, next: Consumers) -> Result<AnyStage>;
    /// The task of a source with what is chained behind it.
    fn source(&self, cx: &BuildContext<'_>, _next: Consumers) -> Result<Box<dyn TaskBody>> {
        Err(Error::internal(format!("{} is not a source", cx.operator)))
    }
    /// The task of an operator with two inputs, with what is chained behind it. Restores its state.
    fn two_input_task(
        &self,
        cx: &BuildContext<'_>,
        _inputs: [Vec<AnyReceiver>; 2],
        _next: Consumers,
    ) -> Result<Box<dyn TaskBody>> {
        Err(Error::internal(format!("{} does not have two inputs", cx.operator)))
    }
    /// Splits of a source that starts new.
    fn enumerate(&self, _parallelism: u32) -> Result<Vec<crate::connectors::source::Split>> {
        Ok(Vec::new())
    }
}

/// What a factory may know about the subtask that it builds for.
pub struct BuildContext<'a> {
    pub operator: &'a str,
    /// It is in the chain of a source.
    pub in_source: bool,
    pub subtask: u32,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// Key groups that the subtask owns.
    pub key_groups: Range<u32>,
    pub attempt: u64,
    pub metrics: TaskMetrics,
    pub clock: Clock,
    /// Sources of the attempt that wait for each other.
    pub alignment: AlignmentGroups,
    /// Where keyed state is kept.
    pub stores: &'a Stores,
    /// What the snapshot holds for this operator's subtask; none when the job starts new or the operator is new in it.
    pub restore: Option<&'a OperatorRestore>,
    /// The files of each handle of `restore`, in the same order.
    pub files: &'a [Vec<Arc<dyn ReadAt>>],
}

/// Makes channels, writers and tasks for a record type that is known only at the place where the graph was declared.
pub trait RecordType: Send + Sync {
    /// The type, for the fingerprint and messages.
    fn describe(&self) -> String;
    /// The producer's end of a channel, to a consumer in this process (`to` is none) or on another taskmanager.
    fn sender(&self, channels: &Channels, id: ChannelId, to: Option<&PeerAddress>) -> Result<AnySender>;
    /// The consumer's end of a channel, from a producer in this process or on another taskmanager; `metrics` of its task.
    fn receiver(&self, channels: &Channels, id: ChannelId, remote: bool, metrics: &TaskMetrics) -> Result<AnyReceiver>;
    /// The stage that spreads records over the channels of an edge.
    fn writer(&self, cx: &WriterContext, senders: Vec<AnySender>) -> Result<AnyStage>;
    /// The task that reads these channels into the chain.
    fn input_task(&self, receivers: Vec<AnyReceiver>, head: AnyStage) -> Result<Box<dyn TaskBody>>;
    /// The end of a chain under test.
    fn keep(&self, shelf: &Shelf, name: &str, subtask: u32) -> AnyStage;
}

/// What a writer knows about its edge.
pub struct WriterContext {
    pub partition: Partition,
    pub producer: u32,
    pub max_parallelism: u32,
    pub metrics: TaskMetrics,
}

/// A `Sender<T>` or `Receiver<T>` for a `T` that only the neighbours know.
pub struct AnySender(Box<dyn Any + Send>);
pub struct AnyReceiver(Box<dyn Any + Send>);

/// [`RecordType`] of `T`; behind a `key_by` with what computes the hashes, where that is cheap.
pub struct TypeOf<T>(Option<Rehash<T>>);

impl<T: Data> TypeOf<T> {
    pub fn shared() -> Arc<dyn RecordType> {
        Self::keyed(None)
    }
    pub fn keyed(rehash: Option<Rehash<T>>) -> Arc<dyn RecordType> {
        Arc::new(Self(rehash))
    }
}

fn foreign<T>() -> Error {
    Error::internal(format!("a channel does not carry records of type {}", std::any::type_name::<T>()))
}

impl<T: Data> RecordType for TypeOf<T> {
    fn describe(&self) -> String {
        T::type_of().to_string()
    }
    fn sender(&self, channels: &Channels, id: ChannelId, to: Option<&PeerAddress>) -> Result<AnySender> {
        let sender = channels.sender::<T>(id, to)?;
        Ok(AnySender(Box::new(if self.0.is_some() { sender.rehashed() } else { sender })))
    }
    fn receiver(&self, channels: &Channels, id: ChannelId, remote: bool, metrics: &TaskMetrics) -> Result<AnyReceiver> {
        let receiver = channels.receiver::<T>(id, remote)?.counted(metrics);
        Ok(AnyReceiver(Box::new(match &self.0 {
            Some(rehash) => receiver.rehashing(rehash.clone()),
            None => receiver,
        })))
    }
    fn writer(&self, cx: &WriterContext, senders: Vec<AnySender>) -> Result<AnyStage> {
        let counted = |s: Box<Sender<T>>| s.counted(&cx.metrics);
        let typed = |s: AnySender| s.0.downcast::<Sender<T>>().map(counted).map_err(|_| foreign::<T>());
        let senders = senders.into_iter().map(typed).collect::<Result<_>>()?;
        let writer = ExchangeWriter::new(cx.partition, senders, cx.producer, cx.max_parallelism, cx.metrics.clone());
        Ok(AnyStage::new::<T>(Box::new(writer)))
    }
    fn input_task(&self, receivers: Vec<AnyReceiver>, head: AnyStage) -> Result<Box<dyn TaskBody>> {
        Ok(Box::new(InputTask(One::new(InputGate::new(typed(receivers)?), head.typed::<T>()?))))
    }
    fn keep(&self, shelf: &Shelf, name: &str, subtask: u32) -> AnyStage {
        shelf.stage::<T>(name, subtask)
    }
}

fn typed<T: 'static>(receivers: Vec<AnyReceiver>) -> Result<Vec<Receiver<T>>> {
    let one = |r: AnyReceiver| r.0.downcast::<Receiver<T>>().map(|r| *r).map_err(|_| foreign::<T>());
    receivers.into_iter().map(one).collect()
}

/// The task of a stage with two inputs.
pub fn two_input_task<A: Data, B: Data>(
    [first, second]: [Vec<AnyReceiver>; 2],
    stage: impl TwoInputStage<A, B> + 'static,
) -> Result<Box<dyn TaskBody>> {
    let (first, second) = (InputGate::new(typed::<A>(first)?), typed::<B>(second)?);
    let second = InputGate::from(first.len(), second);
    Ok(Box::new(InputTask(Two::new(first, second, stage))))
}
