//! Durable put-if-absent on a local file system. `object_store`'s own is atomic (a hard link) but flushes nothing, so that a
//! power cut could leave an empty file behind a published name.
use super::Put;
use crate::error::{Error, ErrorCode};
use object_store::PutPayload;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
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
    match stage(file, payload) {
        Ok(staged) => publish(&staged, file),
        Err(e) => Put::Refused(explain("write", file, &e)),
    }
}

/// Gives a staged and flushed file its name.
fn publish(staged: &Path, file: &Path) -> Put {
    let linked = std::fs::hard_link(staged, file);
    let _ = std::fs::remove_file(staged);
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
pub fn sweep_staged(folder: &Path, left: impl Fn(&str) -> bool) -> io::Result<()> {
    let own = format!("#{:020}", mark());
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((name_of, tail)) = name.to_str().and_then(|n| n.split_once('#')) else { continue };
        if left(name_of) && tail.bytes().all(|b| b.is_ascii_digit()) && !name.to_string_lossy().contains(&own) {
            match std::fs::remove_file(entry.path()) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// A name beside a file's place. It ends in `#<digits>`, which `object_store` hides in listings.
fn staged_name(file: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = file.as_os_str().to_owned();
    name.push(format!("#{:020}{}", mark(), COUNT.fetch_add(1, Ordering::Relaxed)));
    PathBuf::from(name)
}

fn create_parent(file: &Path) -> io::Result<()> {
    create_dirs(file.parent().ok_or_else(|| io::Error::from(ErrorKind::NotFound))?)
}

/// Writes and flushes the contents beside their place.
fn stage(file: &Path, payload: &PutPayload) -> io::Result<PathBuf> {
    create_parent(file)?;
    let path = staged_name(file);
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

/// A file that is written beside its place piece by piece, and flushed and published whole.
///
/// A large one is written past the page cache where the file system allows it: nobody reads it soon, and copying it there
/// costs several times what the disk does.
pub struct Staging {
    place: PathBuf,
    staged: PathBuf,
    /// None until the first buffer is full.
    file: Option<File>,
    direct: bool,
    /// What is not written yet, behind `skip` bytes that put it at an aligned address.
    buffer: Vec<u8>,
    skip: usize,
    /// Bytes in the file.
    written: u64,
}

/// Addresses, offsets and lengths that go past the page cache are multiples of this.
const ALIGNED: usize = 4096;
/// Bytes of one write.
const BUFFER: usize = 4 << 20;

impl Staging {
    pub fn new(place: &Path) -> Self {
        let buffer = Vec::new();
        Self {
            place: place.to_owned(),
            staged: staged_name(place),
            file: None,
            direct: false,
            buffer,
            skip: 0,
            written: 0,
        }
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer.reserve_exact(BUFFER + ALIGNED);
                self.skip = self.buffer.as_ptr().align_offset(ALIGNED).min(ALIGNED);
                self.buffer.resize(self.skip, 0);
            }
            let room = self.skip + BUFFER - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.flush_buffer().map_err(|e| explain("write", &self.place, &e))?;
            }
        }
        Ok(())
    }

    fn flush_buffer(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            create_parent(&self.place)?;
            (self.file, self.direct) = match open(&self.staged, DIRECT) {
                Ok(f) => (Some(f), DIRECT != 0),
                Err(e) if e.kind() == ErrorKind::InvalidInput => (Some(open(&self.staged, 0)?), false),
                Err(e) => return Err(e),
            };
        }
        let len = self.buffer.len() - self.skip;
        if self.direct {
            // the last piece is cut to its length afterwards
            self.buffer.resize(self.skip + len.next_multiple_of(ALIGNED), 0);
        }
        if let Some(f) = &self.file {
            match f.write_all_at(&self.buffer[self.skip..], self.written) {
                Err(e) if self.direct && e.kind() == ErrorKind::InvalidInput => {
                    // the disk wants larger blocks
                    self.direct = false;
                    let f = self.file.insert(open(&self.staged, 0)?);
                    f.write_all_at(&self.buffer[self.skip..], self.written)?;
                }
                done => done?,
            }
        }
        self.written += len as u64;
        self.buffer.truncate(self.skip);
        Ok(())
    }

    /// Flushes the file and gives it its name, which may not exist yet.
    pub fn publish(mut self) -> Put {
        let mut end = || -> io::Result<()> {
            if self.file.is_none() {
                create_parent(&self.place)?;
                self.file = Some(open(&self.staged, 0)?);
            }
            if self.buffer.len() > self.skip {
                self.flush_buffer()?;
            }
            if let Some(f) = &self.file {
                f.set_len(self.written)?;
                f.sync_all()?;
            }
            Ok(())
        };
        match end() {
            Ok(()) => publish(&self.staged, &self.place),
            Err(e) => Put::Refused(explain("write", &self.place, &e)),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // gone already if it was published
            let _ = std::fs::remove_file(&self.staged);
        }
    }
}

#[cfg(target_os = "linux")]
const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
#[cfg(not(target_os = "linux"))]
const DIRECT: i32 = 0;

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(path)
}
