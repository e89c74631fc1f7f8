//! Snapshot files that are read in ranges.
use super::{Root, Storage, is_absolute, local_path};
use crate::checkpoint::handles::FileHandle;
use crate::error::{Error, ErrorCode, Result};
use crate::state::file::ReadAt;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::runtime::Handle;

const RESTORE_OLDER: &str = "restore an older snapshot by its path, with a new restore nonce";

impl Storage {
    /// Opens a snapshot file: missing and truncated are errors that name it. Its contents are checked where they are read.
    pub async fn open_file(&self, file: &FileHandle) -> Result<Arc<dyn ReadAt>> {
        let name = self.name(&file.path);
        let bad = |what: String| Error::external(ErrorCode::Snapshot, format!("snapshot file {name} {what}"));
        let missing = || bad(format!("is missing: was it deleted? {RESTORE_OLDER}"));
        let (root, at) = match self.resolve(&file.path, false) {
            Ok(r) => r,
            // the folder of an absolute path does not exist
            Err(_) if is_absolute(&file.path) && local_path(&file.path).is_ok_and(|p| !p.exists()) => {
                return Err(missing());
            }
            Err(e) => return Err(e),
        };
        let size;
        let open: Arc<dyn ReadAt> = match &root.fs {
            Some(fs) => {
                let opened = File::open(fs.join(at.as_ref())).and_then(|f| Ok((f.metadata()?.len(), f)));
                let (len, opened) = match opened {
                    Ok(o) => o,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                    Err(e) => return Err(root.failed("open", at.as_ref(), e)),
                };
                size = len;
                Arc::new(Local { name: name.clone(), size, file: opened })
            }
            None => {
                size = match root.store.head(&at).await {
                    Ok(meta) => meta.size,
                    Err(object_store::Error::NotFound { .. }) => return Err(missing()),
                    Err(e) => return Err(root.failed("open", at.as_ref(), e)),
                };
                Arc::new(Remote { name: name.clone(), size, root, at, runtime: Handle::current() })
            }
        };
        if size != file.size {
            let how = if size < file.size { "truncated" } else { "too long" };
            return Err(bad(format!(
                "is {how}: it has {size} bytes, its manifest says {}; {RESTORE_OLDER}",
                file.size
            )));
        }
        Ok(open)
    }
}

struct Local {
    name: String,
    size: u64,
    file: File,
}

impl ReadAt for Local {
    fn name(&self) -> &str {
        &self.name
    }
    fn size(&self) -> u64 {
        self.size
    }
    /// Little enough to be still in the cache when it is decoded.
    fn fetch(&self) -> u64 {
        1 << 20
    }
    fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // the disk works on what comes next while this is decoded; a file system that cannot tell reads it when it comes
        if let Some(next) = NonZeroU64::new(self.fetch().min(self.size.saturating_sub(range.end))) {
            let _ = rustix::fs::fadvise(&self.file, range.end, Some(next), rustix::fs::Advice::WillNeed);
        }
        match self.file.read_exact_at(&mut bytes, range.start) {
            Ok(()) => Ok(bytes.into()),
            Err(e) => Err(Error::external(ErrorCode::Storage, format!("cannot read {}: {e}", self.name))),
        }
    }
}

struct Remote {
    name: String,
    size: u64,
    root: Arc<Root>,
    at: Path,
    runtime: Handle,
}

impl ReadAt for Remote {
    fn name(&self) -> &str {
        &self.name
    }
    fn size(&self) -> u64 {
        self.size
    }
    /// Blocks: for threads that may.
    fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        let read = self.runtime.block_on(self.root.store.get_range(&self.at, range));
        read.map_err(|e| self.root.failed("read", self.at.as_ref(), e))
    }
}
