//! Records that come after their windows are gone: to a side output, or counted and dropped.
use crate::data::Data;
use crate::dataflow::{OutputTag, SideOutput};
use crate::observe::TaskMetrics;

pub(super) struct Late<T> {
    side: Option<SideOutput<T>>,
    /// Dropped and not counted yet.
    dropped: u64,
}

impl<T: Data> Late<T> {
    pub fn new(tag: Option<OutputTag<T>>) -> Self {
        Self { side: tag.map(SideOutput::new), dropped: 0 }
    }
    pub fn side_output(&mut self) -> Option<&mut SideOutput<T>> {
        self.side.as_mut()
    }
    #[cold]
    pub fn push(&mut self, record: T, timestamp: i64) {
        match &mut self.side {
            Some(side) => side.push_at(record, timestamp),
            None => self.dropped += 1,
        }
    }
    /// At the end of a batch.
    pub fn count(&mut self, metrics: &TaskMetrics) {
        if self.dropped > 0 {
            metrics.add_dropped_records(std::mem::take(&mut self.dropped));
        }
    }
}
