//! Folders for databases: each process has one of its own, which the next process removes if this one is killed.
use super::failed;
use crate::error::Result;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Name of the folders of processes, followed by the id of one.
const NAME: &str = "weir-rocksdb-";
/// File in it that is locked while the process lives.
const LOCK: &str = "lock";

/// The folder of this process below a folder that was configured.
#[derive(Clone)]
pub struct Root {
    path: PathBuf,
    /// The process lives as long as this is locked.
    _lock: Arc<File>,
}

static ROOTS: Mutex<Vec<(PathBuf, Root)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Root {
    /// Makes the folder, and removes those of processes that are gone.
    pub fn open(below: Option<&str>) -> Result<Self> {
        let below = below.map_or_else(std::env::temp_dir, PathBuf::from);
        let mut roots = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, root)) = roots.iter().find(|r| r.0 == below) {
            return Ok(root.clone());
        }
        let fail = |e: std::io::Error| failed("make a folder", &below, e);
        fs::create_dir_all(&below).map_err(fail)?;
        sweep(&below);
        // another process may have had this id in another container
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{NAME}{}-{:x}", std::process::id(), since.as_nanos());
        // it has its name when it is locked, so that nobody takes it for one that was left behind
        let (unlocked, path) = (below.join(format!("new-{name}")), below.join(name));
        fs::create_dir(&unlocked).map_err(fail)?;
        let lock = File::create(unlocked.join(LOCK)).map_err(fail)?;
        lock.try_lock().map_err(|e| failed("lock a folder", &unlocked, e))?;
        fs::rename(&unlocked, &path).map_err(fail)?;
        let root = Self { path, _lock: Arc::new(lock) };
        roots.push((below, root.clone()));
        Ok(root)
    }

    /// A new folder, removed when the last of its owners is gone.
    pub fn folder(&self, name: &str) -> Result<Arc<Folder>> {
        let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(64).collect();
        let path = self.path.join(format!("{safe}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path).map_err(|e| failed("make a folder", &path, e))?;
        Ok(Arc::new(Folder { path, root: self.clone() }))
    }
}

/// A folder that is removed with all that is in it.
pub struct Folder {
    path: PathBuf,
    root: Root,
}

impl Folder {
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn root(&self) -> &Root {
        &self.root
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "a folder of the RocksDb state backend was not removed");
        }
    }
}

/// Removes the folders of processes that are gone. What cannot be removed stays.
fn sweep(below: &Path) {
    for entry in fs::read_dir(below).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(NAME) {
            continue;
        }
        // locked as long as it is being removed; without the lock file, somebody was killed while he removed it
        let lock = File::open(path.join(LOCK));
        let gone = match &lock {
            Ok(file) => file.try_lock().is_ok(),
            Err(e) => e.kind() == ErrorKind::NotFound,
        };
        if gone {
            tracing::info!(path = %path.display(), "removes the state of a process that is gone");
            let _ = fs::remove_dir_all(&path);
        }
    }
}
