//! A sink that counts its records and drops them.
use super::sink::{Sink, SinkContext, SinkWriter};
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::Result;
use crate::observe::TaskMetrics;

/// Drops every record; how many there were is in the task's `records_out`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Blackhole;

impl<T: Data> Sink<T> for Blackhole {
    type Writer = BlackholeWriter;

    fn writer(&self, cx: &SinkContext) -> Result<BlackholeWriter> {
        Ok(BlackholeWriter(cx.metrics.clone()))
    }
}

/// The writer of [`Blackhole`].
#[derive(Debug)]
pub struct BlackholeWriter(TaskMetrics);

impl<T> SinkWriter<T> for BlackholeWriter {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        self.0.add_records_out(batch.len() as u64);
        batch.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_and_gone() {
        let cx = crate::connectors::testing::sink_cx(0, 1, 1);
        let mut w = Sink::<u64>::writer(&Blackhole, &cx).unwrap();
        let mut batch = Batch { records: vec![1u64, 2, 3], ..Batch::default() };
        w.write(&mut batch).unwrap();
        assert!(batch.is_empty());
        assert_eq!(cx.metrics.records_out(), 3);
        let nothing = SinkWriter::<u64>::prepare_commit(&mut w, weir_api::ids::CheckpointId(1)).unwrap();
        assert!(nothing.is_empty());
    }
}
