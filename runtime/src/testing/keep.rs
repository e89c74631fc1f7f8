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

/// How many records each output had emitted, by name.
pub type Marks = BTreeMap<String, usize>;

struct Kept {
    /// `Vec<(T, Option<i64>)>`
    records: Box<dyn Records>,
    /// Records that were taken out before them.
    taken: usize,
    /// By subtask: `i64::MIN` before the first one.
    watermarks: BTreeMap<u32, i64>,
}

/// Records of a type that only the output's stage and its reader know.
trait Records: Any + Send {
    fn len(&self) -> usize;
    fn truncate(&mut self, to: usize);
}

impl<T: Data> Records for Vec<(T, Option<i64>)> {
    fn len(&self) -> usize {
        self.len()
    }
    fn truncate(&mut self, to: usize) {
        self.truncate(to);
    }
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
        let new = || Kept { records: Box::new(Vec::<(T, Option<i64>)>::new()), taken: 0, watermarks: BTreeMap::new() };
        let kept = all.entry(name.to_owned()).or_insert_with(new);
        let records: &mut dyn Any = &mut *kept.records;
        Some(f(records.downcast_mut()?, &mut kept.watermarks))
    }

    /// Takes what an output has emitted since the last call. None: its records are of another type.
    pub fn take<T: Data>(&self, name: &str) -> Option<Vec<(T, Option<i64>)>> {
        let records = self.with(name, |records, _| std::mem::take(records))?;
        if let Some(kept) = self.lock().get_mut(name) {
            kept.taken += records.len();
        }
        Some(records)
    }

    /// How many records there are to take.
    pub fn len<T: Data>(&self, name: &str) -> usize {
        self.with::<T, _>(name, |records, _| records.len()).unwrap_or_default()
    }

    /// The least of the subtasks' watermarks at this output; none before each has sent one.
    pub fn watermark(&self, name: &str) -> Option<i64> {
        self.lock().get(name)?.watermarks.values().copied().min().filter(|w| *w > i64::MIN)
    }

    /// How many records each output has emitted so far.
    pub fn marks(&self) -> Marks {
        self.lock().iter().map(|(name, kept)| (name.clone(), kept.taken + kept.records.len())).collect()
    }

    /// Goes back to where the marks were made: what was emitted since comes again, and what was emitted before does not.
    pub fn back_to(&self, marks: &Marks) {
        for (name, kept) in &mut *self.lock() {
            kept.records.truncate(marks.get(name).map_or(0, |mark| mark.saturating_sub(kept.taken)));
            kept.watermarks.clear();
        }
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
