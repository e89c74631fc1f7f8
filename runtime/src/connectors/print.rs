//! A sink that writes each record to standard output as a line.
use super::sink::{Committable, Sink, SinkContext, SinkWriter};
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use std::fmt::Debug;
use std::io::Write;
use weir_api::ids::CheckpointId;

/// Prints records in their `Debug` form, one a line. For looking at a stream: after a failure, records since the last
/// checkpoint are printed again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Print {
    prefix: bool,
}

impl Print {
    pub fn new() -> Self {
        Self::default()
    }
    /// Puts `SUBTASK> ` (counted from 1) in front of each line when the sink runs in parallel.
    pub fn prefix(mut self) -> Self {
        self.prefix = true;
        self
    }
}

impl<T: Data + Debug> Sink<T> for Print {
    type Writer = PrintWriter;

    fn recover(&self, _: &SinkContext, _: Vec<Committable>) -> Result<()> {
        Ok(())
    }
    fn writer(&self, cx: &SinkContext) -> Result<PrintWriter> {
        let prefix = if self.prefix && cx.parallelism > 1 { format!("{}> ", cx.subtask + 1) } else { String::new() };
        Ok(PrintWriter { prefix, text: Vec::new(), metrics: cx.metrics.clone() })
    }
}

/// The writer of [`Print`].
#[derive(Debug)]
pub struct PrintWriter {
    prefix: String,
    text: Vec<u8>,
    metrics: TaskMetrics,
}

impl PrintWriter {
    /// The batch as lines in the reused buffer; one write per batch keeps lines whole and takes the lock once.
    fn render<T: Debug>(&mut self, batch: &Batch<T>) -> std::io::Result<()> {
        self.text.clear();
        batch.records.iter().try_for_each(|r| writeln!(self.text, "{}{r:?}", self.prefix))
    }
}

impl<T: Debug> SinkWriter<T> for PrintWriter {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let written = self.render(batch).and_then(|()| {
            let mut out = std::io::stdout().lock();
            out.write_all(&self.text)?;
            out.flush()
        });
        written.map_err(|e| Error::external(ErrorCode::Io, format!("cannot print to standard output: {e}")))?;
        self.metrics.add_records_out(batch.len() as u64);
        batch.clear();
        Ok(())
    }
    fn prepare_commit(&mut self, _: CheckpointId) -> Result<Vec<Committable>> {
        Ok(Vec::new())
    }
    fn commit(&mut self, _: CheckpointId) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(sink: Print, parallelism: u32) -> String {
        let cx = crate::connectors::testing::sink_cx(1, parallelism, 1);
        let mut w = Sink::<(String, u64)>::writer(&sink, &cx).unwrap();
        let batch = Batch { records: vec![("to".to_string(), 1u64), ("be".to_string(), 2)], ..Batch::default() };
        w.render(&batch).unwrap();
        w.render(&batch).unwrap(); // the buffer starts anew with each batch
        String::from_utf8(w.text).unwrap()
    }

    #[test]
    fn one_line_per_record_with_the_subtask_when_asked() {
        assert_eq!(lines(Print::new(), 2), "(\"to\", 1)\n(\"be\", 2)\n");
        assert_eq!(lines(Print::new().prefix(), 2), "2> (\"to\", 1)\n2> (\"be\", 2)\n");
        assert_eq!(lines(Print::new().prefix(), 1), "(\"to\", 1)\n(\"be\", 2)\n");
    }
}
