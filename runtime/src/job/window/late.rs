//! Records that come after their windows are gone: to a side output, or counted and dropped.
use crate::data::Data;
use crate::dataflow::{OutputTag, SideOutput};
use crate::observe::TaskMetrics;

pub(super) struct Late<T> {
    to: To<T>,
    /// Dropped and not counted yet.
    dropped: u64,
}

enum To<T> {
    Nowhere,
    Side(SideOutput<T>),
    /// For who asks: an operator with two inputs, whose late records are of two types.
    Kept(Vec<(T, i64)>),
}

impl<T: Data> Late<T> {
    pub fn new(tag: Option<OutputTag<T>>) -> Self {
        Self { to: tag.map_or(To::Nowhere, |t| To::Side(SideOutput::new(t))), dropped: 0 }
    }
    /// Late records wait for [`Self::kept`].
    pub fn keep() -> Self {
        Self { to: To::Kept(Vec::new()), dropped: 0 }
    }
    pub fn side_output(&mut self) -> Option<&mut SideOutput<T>> {
        match &mut self.to {
            To::Side(side) => Some(side),
            To::Nowhere | To::Kept(_) => None,
        }
    }
    /// Takes the late records that were kept, with their timestamps.
    pub fn kept(&mut self) -> impl Iterator<Item = (T, i64)> {
        match &mut self.to {
            To::Kept(late) => Some(late.drain(..)),
            To::Nowhere | To::Side(_) => None,
        }
        .into_iter()
        .flatten()
    }
    #[cold]
    pub fn push(&mut self, record: T, timestamp: i64) {
        match &mut self.to {
            To::Side(side) => side.push_at(record, timestamp),
            To::Kept(late) => late.push((record, timestamp)),
            To::Nowhere => self.dropped += 1,
        }
    }
    /// At the end of a batch.
    pub fn count(&mut self, metrics: &TaskMetrics) {
        if self.dropped > 0 {
            metrics.add_dropped_records(std::mem::take(&mut self.dropped));
        }
    }
}
