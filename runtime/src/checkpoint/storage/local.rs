//! Durable put-if-absent on a local file system. `object_store`'s own is atomic (a hard link) but flushes nothing, so that a
//! power cut could leave an empty file behind a published name.
use super::Put;
use crate::error::{Error, ErrorCode};
use object_store::PutPayload;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What an I/O error means to the one who runs the job.
pub fn explain(what: &str, path: &Path, e: &io::Error) -> Error {
    let hint = match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ": the storage is full; free some space, lower `retained`, or use a larger volume"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            ": the process may not write there; mount the volume writable for the pod's user (fsGroup)"
        }
        _ => "",
    };
    Error::external(ErrorCode::Storage, format!("cannot {what} {}: {e}{hint}", path.display()))
}

/// Makes a folder and its parents, each flushed into its own parent.
pub fn create_dirs(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    create_dirs(parent)?;
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists || !folder.is_dir() => Err(e),
        _ => File::open(parent)?.sync_all(),
    }
}

/// Writes a file under a name that may not exist yet; flushes file and folder.
pub fn put(file: &Path, payload: &PutPayload) -> Put {
    // refuse early: a store that is full must still answer whether an entry exists
    if file.exists() {
        return Put::Exists;
    }
    let staged = match stage(file, payload) {
        Ok(s) => s,
        Err(e) => return Put::Refused(explain("write", file, &e)),
    };
    let linked = std::fs::hard_link(&staged, file);
    let _ = std::fs::remove_file(&staged);
    match linked {
        Ok(()) => match file.parent().map(|p| File::open(p).and_then(|d| d.sync_all())) {
            Some(Err(e)) => Put::Unknown(explain("flush the folder of", file, &e)),
            _ => Put::Created,
        },
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Put::Exists,
        // network file systems may lose the reply
        Err(e) if file.exists() => Put::Unknown(explain("write", file, &e)),
        Err(e) => Put::Refused(explain("write", file, &e)),
    }
}

/// Begins the names of this process's staged files.
fn mark() -> u64 {
    static MARK: OnceLock<u64> = OnceLock::new();
    *MARK.get_or_init(|| crate::checkpoint::log::Nonce::random().0)
}

/// Deletes what other processes staged in a folder: they were killed before they could publish it. One that lives finds its
/// put refused, and tries again.
pub fn sweep_staged(folder: &Path) -> io::Result<()> {
    let own = format!("#{:020}", mark());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((_, tail)) = name.to_str().and_then(|n| n.split_once('#')) else { continue };
        if tail.bytes().all(|b| b.is_ascii_digit()) && !name.to_string_lossy().contains(&own) {
            match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Writes and flushes the contents beside their place. The name ends in `#<digits>`, which `object_store` hides in listings.
fn stage(file: &Path, payload: &PutPayload) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let folder = file.parent().ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    create_dirs(folder)?;
    let mut name = file.as_os_str().to_owned();
    name.push(format!("#{:020}{}", mark(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let path = PathBuf::from(name);
    let write = || {
        let mut f = OpenOptions::new().write(true).create_new(true).open(&path)?;
        payload.iter().try_for_each(|part| f.write_all(part))?;
        f.sync_all()
    };
    match write() {
        Ok(()) => Ok(path),
        Err(e) => {
            let _ = std::fs::remove_file(&path);
            Err(e)
        }
    }
}
