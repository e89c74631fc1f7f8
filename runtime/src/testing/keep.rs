//! The end of a chain under test: keeps what an output emits, with its event time, where the test can see it at once.
use crate::data::Data;
use crate::dataflow::factory::{AnyStage, BuildContext, Consumers, NodeFactory, RecordType};
use crate::dataflow::{Batch, Signal, Stage};
use crate::error::Result;
use crate::graph::{Input, LogicalGraph, Node, NodeKind, Partition};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

/// What the outputs have emitted, by name; clones share it.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<BTreeMap<String, Kept>>>);

struct Kept {
    /// `Vec<(T, Option<i64>)>`
    records: Box<dyn Any + Send>,
    /// By subtask: `i64::MIN` before the first one.
    watermarks: BTreeMap<u32, i64>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        // a panic elsewhere cannot leave a push half done
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Data, R>(
        &self,
        name: &str,
        f: impl FnOnce(&mut Vec<(T, Option<i64>)>, &mut BTreeMap<u32, i64>) -> R,
    ) -> Option<R> {
        let mut all = self.lock();
        let new = || Kept { records: Box::new(Vec::<(T, Option<i64>)>::new()), watermarks: BTreeMap::new() };
        let kept = all.entry(name.to_owned()).or_insert_with(new);
        Some(f(kept.records.downcast_mut()?, &mut kept.watermarks))
    }

    /// Takes what an output has emitted since the last call. None: its records are of another type.
    pub fn take<T: Data>(&self, name: &str) -> Option<Vec<(T, Option<i64>)>> {
        self.with(name, |records, _| std::mem::take(records))
    }

    /// How many records there are to take.
    pub fn len<T: Data>(&self, name: &str) -> usize {
        self.with::<T, _>(name, |records, _| records.len()).unwrap_or_default()
    }

    /// The least of the subtasks' watermarks at this output; none before each has sent one.
    pub fn watermark(&self, name: &str) -> Option<i64> {
        self.lock().get(name)?.watermarks.values().copied().min().filter(|w| *w > i64::MIN)
    }

    /// Everything begins anew.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// A stage that keeps what it gets.
    pub fn stage<T: Data>(&self, name: &str, subtask: u32) -> AnyStage {
        self.with::<T, _>(name, |_, watermarks| watermarks.insert(subtask, i64::MIN));
        AnyStage::new::<T>(Box::new(KeepStage { shelf: self.clone(), name: name.to_owned(), subtask }))
    }

    /// Keeps an output of a node of the graph: 0 the main output, `i + 1` side output `i`.
    pub fn keep(&self, graph: &mut LogicalGraph, name: &str, node: usize, output: u16, ty: Arc<dyn RecordType>) {
        let factory = KeepFactory { shelf: self.clone(), ty: ty.clone() };
        graph.nodes.push(Node {
            named: true,
            inputs: vec![Input { output, ..Input::of(node, Partition::Forward) }],
            input_type: Some(ty),
            ..Node::new(name, NodeKind::Sink, Arc::new(factory))
        });
    }
}

struct KeepFactory {
    shelf: Shelf,
    ty: Arc<dyn RecordType>,
}

impl NodeFactory for KeepFactory {
    fn stage(&self, cx: &BuildContext<'_>, _: Consumers) -> Result<AnyStage> {
        Ok(self.ty.keep(&self.shelf, cx.operator, cx.subtask))
    }
}

struct KeepStage {
    shelf: Shelf,
    name: String,
    subtask: u32,
}

impl<T: Data> Stage<T> for KeepStage {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let mut times = batch.timestamps.iter().copied();
        let records = batch.records.drain(..).map(|r| (r, times.next()));
        self.shelf.with(&self.name, |kept, _| kept.extend(records));
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        if let Signal::Watermark(w) = signal {
            let (subtask, w) = (self.subtask, *w);
            self.shelf.with::<T, _>(&self.name, |_, watermarks| watermarks.insert(subtask, w));
        }
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}
