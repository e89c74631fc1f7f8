//! The file sink: records become lines of part files, each visible exactly once, when its checkpoint is complete.
use super::parts::{Folder, Names, Pending};
use crate::connectors::sink::{Committable, Sink, SinkContext, SinkWriter};
use crate::data::Data;
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use weir_api::ids::CheckpointId;

/// Bytes collected before they are written to the file.
const BUFFER: usize = 256 << 10;

/// Writes records to files named `part-*` in a folder, exactly once.
///
/// Files appear when the checkpoint that holds their records is complete: each checkpoint with records gives one file per
/// subtask, or several by [`max_part_bytes`](Self::max_part_bytes). What is not committed has a name that starts with a dot;
/// what a failure left behind is gone after the next start, but for files `.weir-*.savepoint`: output that no checkpoint has
/// committed and that savepoints may name; they may go with the savepoints. To restore such a one repeats what was written since it was
/// taken, its own output included if the job has failed in between. Sorted by name, files are in the order of the checkpoints. All
/// taskmanagers must see the same folder. A folder may serve several sinks of one job, but not several jobs.
#[derive(Debug, Clone)]
pub struct FileSink {
    folder: Folder,
    format: Format,
    max_part_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    JsonLines,
    Csv,
}

impl FileSink {
    /// Each record as a line of JSON, in `part-*.jsonl`.
    pub fn json_lines(folder: impl Into<PathBuf>) -> Self {
        Self::new(folder.into(), Format::JsonLines)
    }
    /// Each record as a row of CSV, in `part-*.csv`. A struct's field names are the header of each file.
    pub fn csv(folder: impl Into<PathBuf>) -> Self {
        Self::new(folder.into(), Format::Csv)
    }
    fn new(folder: PathBuf, format: Format) -> Self {
        Self { folder: Folder::new(folder), format, max_part_bytes: u64::MAX }
    }
    /// Starts another file when one has reached this many bytes.
    pub fn max_part_bytes(mut self, bytes: u64) -> Self {
        self.max_part_bytes = bytes;
        self
    }
    fn names(&self, cx: &SinkContext) -> Names {
        Names::new(cx, if self.format == Format::Csv { "csv" } else { "jsonl" })
    }
}

impl<T: Data + Serialize> Sink<T> for FileSink {
    type Writer = FileWriter;

    fn recover(&self, cx: &SinkContext, pending: Vec<Committable>) -> Result<()> {
        self.folder.prepare(&self.names(cx))?;
        let pending = pending.iter().map(|p| Pending::decode(p)).collect::<Result<Vec<_>>>()?;
        for p in &pending {
            self.folder.of(p).commit(p)?;
        }
        let mut folders: Vec<_> = pending.iter().map(|p| &p.folder).zip(&pending).collect();
        folders.dedup_by_key(|(folder, _)| *folder);
        for (_, p) in folders {
            self.folder.of(p).sync()?;
        }
        self.folder.sweep(&cx.operator, cx.attempt)
    }

    fn writer(&self, cx: &SinkContext) -> Result<FileWriter> {
        let names = self.names(cx);
        self.folder.prepare(&names)?;
        Ok(FileWriter {
            folder: self.folder.clone(),
            names,
            format: self.format,
            max_part_bytes: self.max_part_bytes.max(1),
            next: 0,
            open: None,
            full: Vec::new(),
            pending: Vec::new(),
            savepoints: BTreeSet::new(),
            metrics: cx.metrics.clone(),
        })
    }
}

/// The writer of [`FileSink`].
pub struct FileWriter {
    folder: Folder,
    names: Names,
    format: Format,
    max_part_bytes: u64,
    /// Number of the next file.
    next: u64,
    open: Option<Open>,
    /// Files of this checkpoint that are written, durable and closed: there may be more than a process may have open.
    full: Vec<Full>,
    pending: Vec<Pending>,
    /// Those that hold some of what is pending.
    savepoints: BTreeSet<CheckpointId>,
    metrics: TaskMetrics,
}

/// A file being written.
enum Open {
    JsonLines(Target),
    Csv(Box<csv::Writer<Target>>),
}

/// A file that is written.
struct Full {
    n: u64,
    bytes: u64,
}

/// The bytes of a file on their way.
struct Target {
    n: u64,
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Those in the file; the buffer's come on top.
    written: u64,
    /// Those that the disk was asked for before the barrier.
    ahead: u64,
}

/// Bytes written between two requests to put them on the disk: at the barrier only the rest has to be waited for.
const AHEAD: u64 = 8 << 20;

/// Asks the disk for what was written to a file, on a thread of its own. Nothing depends on it: who closes the file makes sure,
/// with the handle that wrote it, which sees every error.
fn sync_ahead(path: PathBuf) {
    static SYNCER: OnceLock<Option<SyncSender<PathBuf>>> = OnceLock::new();
    let start = || {
        let (send, receive) = sync_channel::<PathBuf>(64);
        let run = move || receive.iter().for_each(|path| drop(File::open(path).and_then(|f| f.sync_data())));
        std::thread::Builder::new().name("weir-file-sync".into()).spawn(run).ok().map(|_| send)
    };
    if let Some(syncer) = SYNCER.get_or_init(start) {
        let _ = syncer.try_send(path); // when it lags behind, the barrier waits longer
    }
}

impl Target {
    fn push_out(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if self.written - self.ahead >= AHEAD {
            self.ahead = self.written;
            sync_ahead(self.path.clone());
        }
        Ok(())
    }
    /// Makes what is written durable and closes the file. The handle that wrote it is the one that hears of every error.
    fn close(mut self) -> Result<Full> {
        self.push_out().and_then(|()| self.file.sync_data()).map_err(|e| self.failed(&e))?;
        Ok(Full { n: self.n, bytes: self.written })
    }
    fn bytes(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }
    fn failed(&self, e: &io::Error) -> Error {
        Error::external(ErrorCode::Io, format!("cannot write {}: {e}", self.path.display()))
    }
}

impl Write for Target {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER {
            self.push_out()?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // the buffer goes out when it is full, or before the commit
    }
}

fn refuse_record(format: &str, e: &dyn std::fmt::Display) -> Error {
    Error::user(ErrorCode::BadRecord, format!("cannot write a record as {format}: {e}"))
}

impl Open {
    fn target(&self) -> &Target {
        match self {
            Self::JsonLines(t) => t,
            Self::Csv(w) => w.get_ref(),
        }
    }

    /// Writes records until the file has reached `most` bytes; gives how many.
    fn write<T: Serialize>(&mut self, records: &[T], most: u64) -> Result<usize> {
        let mut done = 0;
        match self {
            Self::JsonLines(t) => {
                while done < records.len() && t.bytes() < most {
                    serde_json::to_writer(&mut t.buffer, &records[done]).map_err(|e| refuse_record("JSON", &e))?;
                    t.buffer.push(b'\n');
                    if t.buffer.len() >= BUFFER {
                        t.push_out().map_err(|e| t.failed(&e))?;
                    }
                    done += 1;
                }
            }
            Self::Csv(w) => {
                while done < records.len() && w.get_ref().bytes() < most {
                    w.serialize(&records[done]).map_err(|e| match e.kind() {
                        csv::ErrorKind::Io(e) => w.get_ref().failed(e),
                        _ => refuse_record("CSV", &e),
                    })?;
                    done += 1;
                }
                // what the csv writer holds back counts towards the size
                w.flush().map_err(|e| w.get_ref().failed(&e))?;
            }
        }
        Ok(done)
    }

    fn finish(self) -> Result<Full> {
        let target = match self {
            Self::JsonLines(t) => t,
            Self::Csv(w) => {
                let path = w.get_ref().path.display().to_string();
                w.into_inner()
                    .map_err(|e| Error::external(ErrorCode::Io, format!("cannot write {path}: {}", e.error())))?
            }
        };
        target.close()
    }
}

impl FileWriter {
    fn remove_open(&mut self) -> Result<()> {
        let open = self.open.take().map(|o| o.target().n);
        let full = std::mem::take(&mut self.full).into_iter().map(|t| t.n);
        full.chain(open).try_for_each(|n| self.folder.remove(&self.names.open(n)))
    }

    fn start(&mut self) -> Result<Open> {
        let name = self.names.open(self.next);
        let file = self.folder.create(&name)?;
        let buffer = Vec::with_capacity(BUFFER + (16 << 10));
        let target = Target { n: self.next, path: self.folder.path().join(&name), file, buffer, written: 0, ahead: 0 };
        self.next += 1;
        Ok(match self.format {
            Format::JsonLines => Open::JsonLines(target),
            Format::Csv => Open::Csv(Box::new(csv::Writer::from_writer(target))),
        })
    }

    /// Closes the open file and gives all of this checkpoint's files, which are durable, their pending names.
    fn seal(&mut self, checkpoint: CheckpointId) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.full.push(open.finish()?);
        }
        if self.full.is_empty() {
            return Ok(());
        }
        for Full { n, bytes } in std::mem::take(&mut self.full) {
            let c = checkpoint.0;
            let pending = Pending {
                checkpoint: c,
                pending: self.names.pending(c, n),
                part: self.names.part(c, n),
                bytes,
                folder: self.folder.absolute(),
                kept: String::new(),
            };
            self.folder.rename(&self.names.open(n), &pending.pending)?;
            self.pending.push(pending);
        }
        self.folder.sync()
    }
}

impl<T: Serialize> SinkWriter<T> for FileWriter {
    fn write(&mut self, batch: &mut Batch<T>) -> Result<()> {
        let mut records = &batch.records[..];
        while !records.is_empty() {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.start()?,
            };
            let before = open.target().bytes();
            let n = open.write(records, self.max_part_bytes)?;
            records = &records[n..];
            let bytes = open.target().bytes();
            self.metrics.add_bytes_out(bytes - before);
            if bytes >= self.max_part_bytes {
                self.full.push(open.finish()?);
            } else {
                self.open = Some(open);
            }
        }
        self.metrics.add_records_out(batch.len() as u64);
        batch.clear();
        Ok(())
    }

    fn prepare_commit(&mut self, checkpoint: CheckpointId) -> Result<Vec<Committable>> {
        self.seal(checkpoint)?;
        self.pending.iter().map(Pending::encode).collect()
    }

    fn prepare_savepoint(&mut self, savepoint: CheckpointId) -> Result<Vec<Committable>> {
        self.seal(savepoint)?;
        for p in self.pending.iter_mut().filter(|p| p.kept.is_empty()) {
            p.kept = Names::kept(&p.pending);
            self.folder.keep(p)?;
        }
        if !self.pending.is_empty() {
            self.folder.sync()?;
            self.savepoints.insert(savepoint);
        }
        self.pending.iter().map(Pending::encode).collect()
    }

    fn aborted(&mut self, checkpoint: CheckpointId) -> Result<()> {
        if self.savepoints.remove(&checkpoint) && self.savepoints.is_empty() {
            for p in &mut self.pending {
                self.folder.remove(&std::mem::take(&mut p.kept))?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, checkpoint: CheckpointId) -> Result<()> {
        let due = |p: &Pending| p.checkpoint <= checkpoint.0;
        if !self.pending.iter().any(due) {
            return Ok(());
        }
        self.pending.iter().filter(|p| due(p)).try_for_each(|p| self.folder.commit(p))?;
        self.folder.sync()?;
        self.pending.retain(|p| !due(p));
        self.savepoints = self.savepoints.split_off(&checkpoint);
        Ok(())
    }

    /// Removes what is open. What is pending stays: a completed checkpoint may hold it.
    fn close(&mut self) -> Result<()> {
        self.remove_open()?;
        self.names.sweep(&self.folder)
    }
}

/// A task that is cancelled or fails is dropped as it is.
impl Drop for FileWriter {
    fn drop(&mut self) {
        // what cannot be removed now is swept by the next attempt
        let _ = self.remove_open();
    }
}

#[cfg(test)]
mod tests;
