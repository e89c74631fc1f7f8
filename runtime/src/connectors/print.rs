//! A sink that writes each record to standard output as a line.
use super::sink::{Sink, SinkContext, SinkWriter};
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use std::fmt::{Debug, Display};
use std::io::Write;
use std::marker::PhantomData;

/// Prints records, one a line. For looking at a stream: after a failure, records since the last checkpoint are printed again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Print<F = AsDebug> {
    prefix: bool,
    form: PhantomData<F>,
}

/// How a record is printed.
pub trait Form<T>: Send + Sync + 'static {
    fn line(record: &T, to: &mut Vec<u8>) -> std::io::Result<()>;
}
/// In the `Debug` form.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsDebug;
impl<T: Debug> Form<T> for AsDebug {
    fn line(record: &T, to: &mut Vec<u8>) -> std::io::Result<()> {
        writeln!(to, "{record:?}")
    }
}
/// In the `Display` form.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsText;
impl<T: Display> Form<T> for AsText {
    fn line(record: &T, to: &mut Vec<u8>) -> std::io::Result<()> {
        writeln!(to, "{record}")
    }
}

impl Print {
    /// In the `Debug` form.
    pub fn new() -> Self {
        Self::default()
    }
    /// In the `Display` form: strings without quotes.
    pub fn text() -> Print<AsText> {
        Print::default()
    }
}

impl<F> Print<F> {
    /// Puts `SUBTASK> ` (counted from 1) in front of each line when the sink runs in parallel.
    pub fn prefix(mut self) -> Self {
        self.prefix = true;
        self
    }
}

impl<T: Data, F: Form<T>> Sink<T> for Print<F> {
    type Writer = PrintWriter<F>;

    fn writer(&self, cx: &SinkContext) -> Result<PrintWriter<F>> {
        let prefix = if self.prefix && cx.parallelism > 1 { format!("{}> ", cx.subtask + 1) } else { String::new() };
        Ok(PrintWriter { form: PhantomData, prefix, text: Vec::new(), metrics: cx.metrics.clone() })
    }
}

/// The writer of [`Print`].
#[derive(Debug)]
pub struct PrintWriter<F> {
    form: PhantomData<F>,
    prefix: String,
    text: Vec<u8>,
    metrics: TaskMetrics,
}

impl<F> PrintWriter<F> {
    /// The batch as lines in the reused buffer; one write per batch keeps lines whole and takes the lock once.
    fn render<T>(&mut self, batch: &Batch<T>) -> std::io::Result<()>
    where
        F: Form<T>,
    {
        self.text.clear();
        batch.records.iter().try_for_each(|r| {
            self.text.extend_from_slice(self.prefix.as_bytes());
            F::line(r, &mut self.text)
        })
    }
}

impl<T, F: Form<T>> SinkWriter<T> for PrintWriter<F> {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<T: Data, F: Form<T>>(sink: Print<F>, parallelism: u32, records: &[T]) -> String {
        let cx = crate::connectors::testing::sink_cx(1, parallelism, 1);
        let mut w = Sink::<T>::writer(&sink, &cx).unwrap();
        let batch = Batch { records: records.to_vec(), ..Batch::default() };
        w.render(&batch).unwrap();
        w.render(&batch).unwrap(); // the buffer starts anew with each batch
        String::from_utf8(w.text).unwrap()
    }

    #[test]
    fn one_line_per_record_with_the_subtask_when_asked() {
        let pairs = [("to".to_string(), 1u64), ("be".to_string(), 2)];
        assert_eq!(lines(Print::new(), 2, &pairs), "(\"to\", 1)\n(\"be\", 2)\n");
        assert_eq!(lines(Print::new().prefix(), 2, &pairs), "2> (\"to\", 1)\n2> (\"be\", 2)\n");
        assert_eq!(lines(Print::new().prefix(), 1, &pairs), "(\"to\", 1)\n(\"be\", 2)\n");
        assert_eq!(lines(Print::text(), 1, &["to be".to_string()]), "to be\n");
    }
}
