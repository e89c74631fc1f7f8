//! A file that is written piece by piece, as its contents come into being, and is there only when it is whole.
use super::{Put, Root, Storage, local};
use crate::checkpoint::handles::FileHandle;
use crate::error::{Error, Result};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions, WriteMultipart};
use std::sync::Arc;
use tokio::runtime::Handle;

/// Bytes of a part of a multipart upload; a smaller file goes up in one request.
const PART: usize = 8 << 20;
/// Parts that are on their way at most; they bound the memory.
const PARTS_UNDER_WAY: usize = 2;

/// Writes one file. Blocks: for threads that may. Dropped before [`Self::finish`], it leaves nothing behind.
pub struct FileWriter {
    /// As handles name it.
    path: String,
    /// As people read it.
    name: String,
    size: u64,
    crc32c: u32,
    sink: Sink,
}

enum Sink {
    Local(local::Staging),
    Remote(Remote),
}

struct Remote {
    root: Arc<Root>,
    at: Path,
    runtime: Handle,
    /// The file so far, as long as it is small.
    small: Vec<u8>,
    upload: Option<WriteMultipart>,
}

impl Storage {
    /// Begins a file of a snapshot, under a name of its own.
    ///
    /// # Panics
    /// Outside of a tokio runtime (a blocking thread of one will do), for other than local storage.
    pub fn create(&self, path: &str) -> Result<FileWriter> {
        let (root, at) = self.resolve(path, true)?;
        let sink = match &root.fs {
            Some(fs) => Sink::Local(local::Staging::new(&fs.join(at.as_ref()))),
            None => Sink::Remote(Remote { root, at, runtime: Handle::current(), small: Vec::new(), upload: None }),
        };
        Ok(FileWriter { path: path.to_owned(), name: self.name(path), size: 0, crc32c: 0, sink })
    }
}

impl FileWriter {
    /// Appends bytes; memory is bounded by a few MiB.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        match &mut self.sink {
            Sink::Local(staging) => staging.write(bytes),
            Sink::Remote(remote) => remote.write(bytes),
        }
    }

    /// Gives the file its name: from here on it is there, whole. On a local file system it is also flushed to the disk.
    pub fn finish(self) -> Result<FileHandle> {
        let put = match self.sink {
            Sink::Local(staging) => staging.publish(),
            Sink::Remote(remote) => remote.publish(),
        };
        match put {
            Put::Created => Ok(FileHandle { path: self.path, size: self.size, crc32c: self.crc32c }),
            Put::Exists => Err(Error::internal(format!("{} exists already: a name was used twice", self.name))),
            Put::Refused(e) | Put::Unknown(e) => Err(e),
        }
    }
}

impl Remote {
    fn failed(&self, e: impl std::fmt::Display) -> Error {
        self.root.failed("write", self.at.as_ref(), e)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.upload.is_none() {
            self.small.extend_from_slice(bytes);
            if self.small.len() < PART {
                return Ok(());
            }
            let upload = self.runtime.block_on(self.root.store.put_multipart(&self.at));
            let upload = upload.map_err(|e| self.failed(e))?;
            let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
            let _entered = self.runtime.enter();
            upload.write(&std::mem::take(&mut self.small));
            self.upload = Some(upload);
            return Ok(());
        }
        if let Some(upload) = &mut self.upload {
            match self.runtime.block_on(upload.wait_for_capacity(PARTS_UNDER_WAY)) {
                Ok(()) => {
                    let _entered = self.runtime.enter();
                    upload.write(bytes);
                }
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }

    fn publish(mut self) -> Put {
        let runtime = self.runtime.clone();
        let done = match self.upload.take() {
            Some(upload) => runtime.block_on(upload.finish()).map(drop),
            None => {
                let options = PutOptions::from(PutMode::Create);
                let small = std::mem::take(&mut self.small);
                runtime.block_on(self.root.store.put_opts(&self.at, small.into(), options)).map(drop)
            }
        };
        match done {
            Ok(()) => Put::Created,
            Err(object_store::Error::AlreadyExists { .. }) => Put::Exists,
            Err(e) => Put::Unknown(self.failed(e)),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take() {
            self.runtime.spawn(async move {
                if let Err(e) = upload.abort().await {
                    tracing::warn!(error = %e, "parts of a state file that was given up were not deleted");
                }
            });
        }
    }
}
