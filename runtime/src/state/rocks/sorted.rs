//! Sorted files that the database takes over as they are: no log, no buffer of writes, no second copy in memory.
use super::failed;
use super::options::Shared;
use crate::error::{Error, Result};
use rocksdb::{Options, SstFileWriter};
use std::fs;
use std::path::{Path, PathBuf};

/// Writes entries, which come in the order of their keys, into files of a bounded size. Dropped before [`Self::finish`], it
/// leaves no file behind.
pub struct SortedFiles<'a> {
    options: &'a Options,
    folder: &'a Path,
    name: String,
    most: u64,
    writer: Option<SstFileWriter<'a>>,
    files: Vec<PathBuf>,
    finished: bool,
    /// Entries of the file so far: its size is asked for now and then.
    entries: u64,
}

const ASK: u64 = 1024;

impl<'a> SortedFiles<'a> {
    /// `name` is unique within the folder.
    pub fn new(shared: &Shared, options: &'a Options, folder: &'a Path, name: String) -> Self {
        let (most, files) = (shared.file_bytes(), Vec::new());
        Self { options, folder, name, most, writer: None, files, finished: false, entries: 0 }
    }

    fn writer(&mut self) -> Result<&mut SstFileWriter<'a>> {
        if self.writer.is_none() {
            let path = self.folder.join(format!("{}-{}.new", self.name, self.files.len()));
            let writer = SstFileWriter::create(self.options);
            self.files.push(path.clone());
            writer.open(&path).map_err(|e| failed("write changes", self.folder, e))?;
            self.writer = Some(writer);
        }
        self.writer.as_mut().ok_or_else(|| Error::internal("a file that was begun is not there"))
    }

    /// Adds an entry, or the removal of a key.
    pub fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let writer = self.writer()?;
        let done = match value {
            Some(v) => writer.put(key, v),
            None => writer.delete(key),
        };
        done.map_err(|e| failed("write changes", self.folder, e))?;
        self.entries += 1;
        if self.entries.is_multiple_of(ASK) && self.writer.as_ref().is_some_and(|w| w.file_size() >= self.most) {
            self.end_file()?;
        }
        Ok(())
    }

    /// Removes what is in a range of keys, from the first up to the second. Before the first [`Self::put`]: what is put later
    /// stays.
    pub fn remove_range(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let done = self.writer()?.delete_range(from, to);
        done.map_err(|e| failed("write changes", self.folder, e))
    }

    fn end_file(&mut self) -> Result<()> {
        match self.writer.take() {
            Some(mut w) => w.finish().map_err(|e| failed("write changes", self.folder, e)),
            None => Ok(()),
        }
    }

    /// The files, for the database to take over.
    pub fn finish(mut self) -> Result<Vec<PathBuf>> {
        self.end_file()?;
        self.finished = true;
        Ok(std::mem::take(&mut self.files))
    }
}

impl Drop for SortedFiles<'_> {
    fn drop(&mut self) {
        self.writer = None;
        if !self.finished {
            self.files.iter().for_each(|f| _ = fs::remove_file(f));
        }
    }
}
