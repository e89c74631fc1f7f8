//! The file source as the user declares it.
use super::bad::{BadRecord, BadRecords};
use super::csv::Csv;
use super::format::{Format, Lines, ParseLines};
use super::paths::Paths;
use super::reader::FileReader;
use super::split::{FileId, FileSplit, Ranges, plan};
use crate::connectors::rate::{Throttle, check_rate};
use crate::connectors::source::{Source, SourceContext, Split};
use crate::data::Data;
use crate::dataflow::Output;
use crate::error::{Error, ErrorCode, Result};
use serde::de::DeserializeOwned;

/// Reads files of text to their end: lines or CSV; plain, gzip or zstd (told by their first bytes); one, several, or a pattern.
///
/// The text is UTF-8. Every process of the job must see the files under the same paths. Plain files of lines are read in
/// ranges by several subtasks; compressed ones by one each, and so are CSV files unless
/// [`one_record_per_line`](FileSource::one_record_per_line) is declared. Within a subtask files come in the order given.
///
/// # Event time
/// Each file, or range of one, has a watermark of its own where [`Stream::watermarks`](crate::job::Stream::watermarks) follows
/// directly; that of the subtask is the least of those being read. One that is read to its end, or not begun, does not count.
/// By default they are read one after the other, so records of a file that begins earlier in event time than the one before
/// it ended are late: right for files in the order of their time. Files that cover the same time (one for each machine, say)
/// are read by turns with [`side_by_side`](Self::side_by_side), and none makes the others late. If subtasks have more of them
/// than that, give them in the order of their time. How far apart files of the same time come is bounded by their sizes only:
/// state of windows that are open in all of them is kept meanwhile.
///
/// Positions are in the snapshot, so no record is read twice or left out over failures and rescales, as long as the files do
/// not change; if one did, the job says so and stops.
#[derive(Debug, Clone)]
pub struct FileSource<F> {
    paths: Paths,
    format: F,
    repeat: u64,
    rate: Option<f64>,
    on_bad_record: BadRecord,
    range_bytes: Option<u64>,
    side_by_side: usize,
}

impl FileSource<Lines> {
    /// Each line as a [`Str`](crate::data::Str), without its line break.
    pub fn lines(paths: impl Into<Paths>) -> Self {
        Self::with(paths, Lines)
    }

    /// Each row as a `T`, its fields named by the header line; see [`Csv`].
    pub fn csv<T: Data + DeserializeOwned>(paths: impl Into<Paths>) -> FileSource<Csv<T>> {
        FileSource::with(paths, Csv::default())
    }

    /// Each line is lent to `parse`, which emits any number of records of it: no string is made where none is needed. An
    /// error makes it a bad record; return it before the first record is emitted.
    pub fn parse_lines<T, P>(paths: impl Into<Paths>, parse: P) -> FileSource<ParseLines<T, P>>
    where
        T: Data,
        P: Fn(&str, &mut Output<T>) -> anyhow::Result<()> + Send + Sync + 'static,
    {
        FileSource::with(paths, ParseLines::new(parse))
    }
}

impl<F> FileSource<F> {
    fn with(paths: impl Into<Paths>, format: F) -> Self {
        Self {
            paths: paths.into(),
            format,
            repeat: 1,
            rate: None,
            on_bad_record: BadRecord::Fail,
            range_bytes: None,
            side_by_side: 1,
        }
    }
    /// Reads the whole input this many times over, as if it were that long.
    pub fn repeat(mut self, times: u64) -> Self {
        self.repeat = times;
        self
    }
    /// Records per second of all subtasks together, shared by those that have something to read at the start; `None`: as
    /// fast as they are taken.
    pub fn rate(mut self, records_per_second: impl Into<Option<f64>>) -> Self {
        self.rate = records_per_second.into();
        self
    }
    /// What to do with a record that cannot be read; by default the job fails.
    pub fn on_bad_record(mut self, policy: BadRecord) -> Self {
        self.on_bad_record = policy;
        self
    }
    /// Files that each subtask reads by turns, a batch from each; 1 by default. Of a file that is read in ranges, a subtask reads
    /// one after the other. Each takes a file handle and up to some MiB of buffers.
    pub fn side_by_side(mut self, files: usize) -> Self {
        self.side_by_side = files;
        self
    }
    /// Size in bytes of the ranges that plain files are cut into; by default at least 4 MiB, and four for each subtask.
    pub fn range_bytes(mut self, bytes: u64) -> Self {
        self.range_bytes = Some(bytes);
        self
    }
}

impl<T> FileSource<Csv<T>> {
    /// The byte between fields, ASCII; a comma by default.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.format.set_delimiter(delimiter);
        self
    }
    /// The files have no header line: fields go to the type's fields by their order.
    pub fn without_header(mut self) -> Self {
        self.format.set_no_header();
        self
    }
    /// Declares that no quoted field holds a line break, so that large plain files can be read by several subtasks. Where
    /// one does nevertheless, it is a bad record.
    pub fn one_record_per_line(mut self) -> Self {
        self.format.set_by_line();
        self
    }
}

impl<F: Format> FileSource<F> {
    fn reader_of(
        &self,
        splits: Vec<FileSplit>,
        throttle: Option<Throttle>,
        bad: BadRecords,
        cx: &SourceContext,
    ) -> FileReader<F> {
        let (format, metrics) = (self.format.clone(), cx.metrics.clone());
        FileReader::new(format, splits, self.side_by_side, self.repeat, throttle, bad, metrics)
    }

    fn check(&self) -> Result<()> {
        check_rate(self.rate)?;
        self.format.check().map_err(|e| Error::user(ErrorCode::Config, e))?;
        if self.side_by_side == 0 {
            return Err(Error::user(
                ErrorCode::Config,
                "a file source that reads 0 files side by side reads nothing; 1 reads them one after the other",
            ));
        }
        if self.repeat == 0 {
            return Err(Error::user(
                ErrorCode::Config,
                "a file source that repeats its input 0 times reads nothing; 1 reads it once",
            ));
        }
        Ok(())
    }
}

impl<F: Format> Source for FileSource<F> {
    type Record = F::Record;
    type Reader = FileReader<F>;

    fn enumerate(&self, parallelism: u32) -> Result<Vec<Split>> {
        self.check()?;
        let files = self.paths.expand()?.iter().map(|path| FileId::of(path)).collect::<Result<Vec<_>>>()?;
        let ranges = match self.range_bytes {
            _ if !self.format.by_line() => Ranges::None,
            Some(bytes) => Ranges::Bytes(bytes),
            None => Ranges::For { parallelism },
        };
        plan(files, ranges).iter().map(FileSplit::encode).collect()
    }

    fn reader(&self, cx: &SourceContext, splits: Vec<Split>) -> Result<FileReader<F>> {
        self.check()?;
        let splits = splits.iter().map(FileSplit::decode).collect::<Result<Vec<_>>>()?;
        if let Some(first) = splits.first() {
            let declared = self.paths.expand()?;
            if let Some(s) = splits.iter().find(|s| !declared.contains(&s.file.path)) {
                return Err(Error::user(
                    ErrorCode::Incompatible,
                    format!(
                        "the snapshot is in the middle of {}, which is not among the files that the job reads now ({}): \
                         name it again, or start the job anew to read other files",
                        s.file.path,
                        declared.join(", ")
                    ),
                ));
            }
            // splits are dealt out evenly, so with fewer than subtasks each has at most one
            let readers = first.of.min(cx.parallelism) as usize;
            let throttle = Throttle::share(self.rate, readers)?;
            let bad = BadRecords::new(self.on_bad_record, &cx.operator);
            return Ok(self.reader_of(splits, throttle, bad, cx));
        }
        let bad = BadRecords::new(self.on_bad_record, &cx.operator);
        Ok(self.reader_of(splits, None, bad, cx))
    }
}

#[cfg(test)]
mod tests;
