//! The job under declaration and its streams: each method adds a node to the logical graph.
use super::function::{Borrowed, Computed, KeySelector, ProcessFunction};
use super::keyed::KeyedStream;
use super::stages::{
    Filter, FlatMap, Inspect, KeyBy, Map, Process, SinkFactory, SourceFactory, Transform, TransformFactory,
    runtime_context,
};
use super::watermarks::{GeneratorFactory, TimestampAssigner, WatermarkFactory, WatermarkStrategy};
use crate::connectors::sink::Sink;
use crate::connectors::source::Source;
use crate::data::{Data, Key};
use crate::dataflow::factory::{BuildContext, NodeFactory, TypeOf};
use crate::dataflow::{Output, OutputTag};
use crate::error::Result;
use crate::graph::{Input, LogicalGraph, Node, NodeKind, Partition};
use crate::state::KeyedTable;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

/// A job under declaration. Declaring runs nothing: every process of the job builds the same graph.
#[derive(Default)]
pub struct Job {
    graph: Rc<RefCell<LogicalGraph>>,
}

impl Job {
    /// Adds a source. The name is its identity in snapshots: positions in the input are found again by it.
    pub fn source<S: Source>(&mut self, name: impl Into<String>, source: S) -> Stream<S::Record> {
        let node = Node {
            named: true,
            has_lists: true,
            output_type: Some(TypeOf::<S::Record>::shared()),
            ..Node::new(name, NodeKind::Source, Arc::new(SourceFactory(source)))
        };
        Stream::of(&self.graph, node)
    }

    /// The declared graph; streams still held keep an empty one.
    pub fn into_graph(self) -> LogicalGraph {
        std::mem::take(&mut *self.graph.borrow_mut())
    }
}

/// A stream of records. Cloning it lets several operators consume the same records.
pub struct Stream<T> {
    pub(super) graph: Rc<RefCell<LogicalGraph>>,
    /// The outputs that it consists of (several after a union), each with how its records travel to the next operator.
    pub(super) inputs: Vec<Input>,
    records: PhantomData<fn() -> T>,
}

impl<T> Clone for Stream<T> {
    fn clone(&self) -> Self {
        Self { graph: self.graph.clone(), inputs: self.inputs.clone(), records: PhantomData }
    }
}

impl<T: Data> Stream<T> {
    fn of(graph: &Rc<RefCell<LogicalGraph>>, node: Node) -> Self {
        let mut g = graph.borrow_mut();
        g.nodes.push(node);
        let id = g.nodes.len() - 1;
        drop(g);
        Self { graph: graph.clone(), inputs: vec![Input::of(id, Partition::Forward)], records: PhantomData }
    }

    /// Adds an operator that consumes this stream.
    pub(super) fn add<U: Data>(&self, kind: &str, factory: Arc<dyn NodeFactory>) -> Stream<U> {
        let name = format!("{kind}-{}", self.graph.borrow().nodes.len());
        let node = Node {
            inputs: self.inputs.clone(),
            input_type: Some(TypeOf::<T>::shared()),
            output_type: Some(TypeOf::<U>::shared()),
            ..Node::new(name, NodeKind::Operator, factory)
        };
        Stream::of(&self.graph, node)
    }

    fn transform<U: Data, X: Transform<T, U>>(
        &self,
        kind: &str,
        make: impl Fn(&BuildContext<'_>) -> Result<X> + Send + Sync + 'static,
    ) -> Stream<U> {
        self.add(kind, Arc::new(TransformFactory { make, types: PhantomData::<fn(T) -> U> }))
    }

    /// Gives an operator that only looks at records the parallelism of the one before it: another one would deal the records
    /// out anew, and those of a key would lose their order.
    fn beside<U: Data>(&self, stream: Stream<U>) -> Stream<U> {
        let of = |i: &Input| (i.partition == Partition::Forward).then(|| self.graph.borrow().nodes[i.node].parallelism);
        let mut all = self.inputs.iter().map(of);
        if let Some(Some(first)) = all.next()
            && all.all(|other| other == Some(first))
        {
            stream.last(|n| n.parallelism = first);
        }
        stream
    }

    /// Changes the operator that was added last.
    pub(super) fn last(&self, change: impl FnOnce(&mut Node)) {
        if let [i] = self.inputs[..]
            && let Some(node) = self.graph.borrow_mut().nodes.get_mut(i.node)
        {
            change(node);
        }
    }

    /// The node and its output that the stream comes from; none if it has several (a union).
    pub(crate) fn origin(&self) -> Option<(usize, u16)> {
        match self.inputs[..] {
            [i] => Some((i.node, i.output)),
            _ => None,
        }
    }

    /// Notes something wrong with the declaration; the job is refused with it.
    pub(super) fn mistake(&self, message: String) {
        self.graph.borrow_mut().mistakes.push(message);
    }

    /// Names the operator that was added last. Operators with state take their name when they are declared.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.last(|n| {
            n.name = name.into();
            n.named = true;
        });
        self
    }

    /// Fixes the parallelism of the operator that was added last; without it the job's parallelism holds.
    #[must_use]
    pub fn parallelism(self, parallelism: u32) -> Self {
        self.last(|n| n.parallelism = Some(parallelism));
        self
    }

    /// One record for each.
    pub fn map<U: Data>(&self, f: impl Fn(T) -> U + Clone + Send + Sync + 'static) -> Stream<U> {
        self.transform("map", move |_| Ok(Map(f.clone())))
    }

    /// Keeps the records for which `f` is true; those left out are counted in the metric `dropped_records`.
    pub fn filter(&self, f: impl Fn(&T) -> bool + Clone + Send + Sync + 'static) -> Self {
        self.transform("filter", move |cx| Ok(Filter(f.clone(), cx.metrics.clone())))
    }

    /// Any number of records for each, pushed into the output.
    pub fn flat_map<U: Data>(&self, f: impl Fn(T, &mut Output<U>) + Clone + Send + Sync + 'static) -> Stream<U> {
        self.transform("flat_map", move |_| Ok(FlatMap(f.clone())))
    }

    /// Looks at each record and passes it on.
    pub fn inspect(&self, f: impl Fn(&T) + Clone + Send + Sync + 'static) -> Self {
        self.transform("inspect", move |_| Ok(Inspect(f.clone())))
    }

    /// A function with a life cycle; `make` makes one for each subtask.
    pub fn process<P: ProcessFunction<In = T>>(&self, make: impl Fn() -> P + Send + Sync + 'static) -> Stream<P::Out> {
        let mut sample = make();
        let sides = sample.side_outputs().iter().map(|s| (s.name(), s.record_type())).collect();
        let has_lists = !sample.list_states().is_empty();
        let states = sample.raw_states().into_iter().map(|s| KeyedTable::<u64>::descriptor(s).clone()).collect();
        let stream = self.transform("process", move |cx| {
            let mut function = make();
            super::list_state::restore(cx.operator, function.list_states(), cx.restore)?;
            super::stages::restore_raw(cx, function.raw_states())?;
            function.open(&runtime_context(cx)).map_err(|e| e.at(cx.operator))?;
            Ok(Process(function))
        });
        stream.last(|n| {
            n.states = states;
            n.side_outputs = sides;
            n.has_lists = has_lists;
        });
        stream
    }

    /// Gives the stream its event time. Best directly behind the source: where that reads several splits side by side, each
    /// then has a watermark of its own, and the least of them counts.
    ///
    /// Watermarks go out behind each batch, the last one (`i64::MAX`) at the end of the input. They never go back: one that
    /// a generator lowers is ignored. After a restore event time begins anew with the first records.
    pub fn watermarks<G: GeneratorFactory<T>, A: TimestampAssigner<T>>(
        &self,
        strategy: WatermarkStrategy<G, A>,
    ) -> Self {
        let stream = self.add("watermarks", Arc::new(WatermarkFactory { strategy, records: PhantomData::<fn(T)> }));
        self.beside(stream)
    }

    /// The side output with this tag of the operator that was added last.
    pub fn side_output<U: Data>(&self, tag: OutputTag<U>) -> Stream<U> {
        let mut graph = self.graph.borrow_mut();
        let found = match self.inputs[..] {
            [i] => graph.nodes[i.node].side_outputs.iter().position(|s| s.0 == tag.name()).map(|at| (i.node, at)),
            _ => None,
        };
        let input = match found {
            Some((node, at)) => {
                let (have, want) = (graph.nodes[node].side_outputs[at].1.describe(), U::type_of().to_string());
                if have != want {
                    let m = format!("the side output {:?} has records of type {have}, not {want}", tag.name());
                    graph.mistakes.push(m);
                }
                Input { output: at as u16 + 1, ..Input::of(node, Partition::Forward) }
            }
            None => {
                let m = format!(
                    "no side output {:?} there: ask the stream that the operator returned, and list the output in the \
                     function's side_outputs()",
                    tag.name()
                );
                graph.mistakes.push(m);
                Input::of(self.inputs.first().map_or(0, |i| i.node), Partition::Forward)
            }
        };
        drop(graph);
        Stream { graph: self.graph.clone(), inputs: vec![input], records: PhantomData }
    }

    /// The records of both streams, in any order between them.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.inputs.extend_from_slice(&other.inputs);
        all
    }

    pub(super) fn partitioned(&self, partition: Partition) -> Self {
        let mut s = self.clone();
        s.inputs.iter_mut().for_each(|i| i.partition = partition);
        s
    }

    /// Spreads the records evenly over the subtasks of the next operator.
    #[must_use]
    pub fn rebalance(&self) -> Self {
        self.partitioned(Partition::Rebalance)
    }

    /// Gives each record to every subtask of the next operator.
    #[must_use]
    pub fn broadcast(&self) -> Self {
        self.partitioned(Partition::Broadcast)
    }

    /// Keys the stream by something that lies in the record: `key_by(|d| &d.tail)`. The key is copied only when it is first
    /// stored.
    pub fn key_by<K: Key, F: Fn(&T) -> &K + Clone + Send + Sync + 'static>(
        &self,
        f: F,
    ) -> KeyedStream<T, Borrowed<F, K>> {
        self.keyed(Borrowed(f, PhantomData))
    }

    /// Keys the stream by something computed: `key_by_value(|d| (d.origin, d.day()))`.
    pub fn key_by_value<K: Key, F: Fn(&T) -> K + Clone + Send + Sync + 'static>(
        &self,
        f: F,
    ) -> KeyedStream<T, Computed<F, K>> {
        self.keyed(Computed(f, PhantomData))
    }

    fn keyed<S: KeySelector<T>>(&self, selector: S) -> KeyedStream<T, S> {
        let make = selector.clone();
        let stream: Self = self.beside(self.transform("key_by", move |_| Ok(KeyBy(make.clone()))));
        stream.last(|n| n.output_type = Some(TypeOf::keyed(selector.rehash())));
        KeyedStream { stream: stream.partitioned(Partition::Hash), selector }
    }

    /// Ends the stream in a sink. The name is its identity in snapshots: pending commits are found again by it.
    pub fn sink<S: Sink<T>>(&self, name: impl Into<String>, sink: S) {
        let node = Node {
            named: true,
            inputs: self.inputs.clone(),
            has_lists: true,
            input_type: Some(TypeOf::<T>::shared()),
            ..Node::new(name, NodeKind::Sink, Arc::new(SinkFactory(sink, PhantomData::<fn(T)>)))
        };
        self.graph.borrow_mut().nodes.push(node);
    }
}
