//! The checkpoint storage of one job: files and directories under its root, and snapshots elsewhere by URL.
mod local;
mod ranges;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::FileWriter;

use super::handles::FileHandle;
use crate::error::{Error, ErrorCode, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::collections::BTreeMap;
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use weir_api::ids::JobName;

/// Storage of one job. Cheap to clone. Paths are relative to the job's root (`<storage>/<namespace>/<job>/`), or absolute
/// (`file:///...` or `/...`).
///
/// Nothing is ever overwritten. On a local file system a file is written beside its place, flushed to the disk, linked to
/// its name (which fails if the name exists, atomically) and the directory is flushed: what was put survives a power cut.
/// (`object_store` alone flushes nothing.)
#[derive(Debug, Clone)]
pub struct Storage {
    root: Arc<Root>,
}

/// A folder that paths are relative to.
#[derive(Debug)]
struct Root {
    /// As it is named to people.
    url: String,
    store: Arc<dyn ObjectStore>,
    /// On a local file system: the folder.
    fs: Option<PathBuf>,
}

/// What became of a put.
#[derive(Debug)]
pub enum Put {
    Created,
    /// Nothing was put: the name is taken.
    Exists,
    /// Certainly not put.
    Refused(Error),
    /// Perhaps put: the reply was lost.
    Unknown(Error),
}

fn config(message: String) -> Error {
    Error::user(ErrorCode::Config, message)
}

/// Stores of `memory:NAME`, shared by all that open them in this process.
static MEMORY: Mutex<BTreeMap<String, Arc<object_store::memory::InMemory>>> = Mutex::new(BTreeMap::new());

/// The folder of a `file:` URL or an absolute path.
fn local_path(url: &str) -> Result<PathBuf> {
    let path = match url.strip_prefix("file:") {
        // file:///path, file://localhost/path and file:/path
        Some(rest) => match rest.strip_prefix("//") {
            Some(p) if p.starts_with('/') => p,
            Some(p) if p.starts_with("localhost/") => &p["localhost".len()..],
            Some(_) => {
                return Err(config(format!(
                    "{url:?} names a host: write file:///PATH (three slashes), for example file:///checkpoints"
                )));
            }
            None => rest,
        },
        None => url,
    };
    let path = FsPath::new(path);
    if !path.is_absolute() {
        return Err(config(format!("{url:?} is not absolute: write file:///PATH or /PATH")));
    }
    if path.components().any(|c| matches!(c, std::path::Component::ParentDir)) {
        return Err(config(format!("{url:?} contains `..`: write the path itself")));
    }
    Ok(path.components().collect())
}

impl Root {
    fn local(folder: &FsPath) -> Result<Self> {
        let url = format!("file://{}", folder.display());
        let store = object_store::local::LocalFileSystem::new_with_prefix(folder)
            .map_err(|e| Error::external(ErrorCode::Storage, format!("cannot open {url}: {e}")))?;
        Ok(Self { url, store: Arc::new(store), fs: Some(folder.to_owned()) })
    }
    fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }
    fn failed(&self, what: &str, path: &str, e: impl std::fmt::Display) -> Error {
        Error::external(ErrorCode::Storage, format!("cannot {what} {}: {e}", self.name(path)))
    }
}

impl Storage {
    /// Opens the storage for a job and creates its folder. Knows `file:///PATH`, `/PATH` and, within one process, `memory:NAME`.
    pub fn open(url: &str, job: &JobName) -> Result<Self> {
        Self::at(url, job, true)
    }
    /// As [`Self::open`], for reading: a folder that is not there is an error.
    pub fn open_existing(url: &str, job: &JobName) -> Result<Self> {
        Self::at(url, job, false)
    }

    /// Gives the memory of a storage in memory back; those who hold it still have it.
    pub(crate) fn forget(&self) {
        if let Some(key) = self.root.url.strip_prefix("memory:") {
            MEMORY.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }

    fn at(url: &str, job: &JobName, create: bool) -> Result<Self> {
        for part in [&job.namespace, &job.name] {
            if part.is_empty()
                || part.starts_with('.')
                || part.contains(['/', '\\', '#', '%', '\0'])
                || part.len() > 253
            {
                return Err(config(format!(
                    "{part:?} cannot be a folder of the checkpoint storage: use letters, digits and hyphens"
                )));
            }
        }
        if let Some(name) = url.strip_prefix("memory:") {
            let mut all = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
            let key = format!("{name}/{job}");
            let url = format!("memory:{key}");
            let store = all.entry(key).or_default().clone();
            return Ok(Self { root: Arc::new(Root { url, store, fs: None }) });
        }
        if let Some((scheme, _)) = url.split_once("://")
            && scheme != "file"
        {
            return Err(config(format!(
                "checkpoint storage {url:?}: {scheme}:// is not supported here, use file:///PATH (a volume that all pods mount)"
            )));
        }
        let folder = local_path(url)?.join(&job.namespace).join(&job.name);
        if create {
            local::create_dirs(&folder).map_err(|e| local::explain("create the checkpoint folder", &folder, &e))?;
        } else if !folder.is_dir() {
            return Err(Error::user(
                ErrorCode::Storage,
                format!("{} does not exist: nothing was ever stored for the job {job} there", folder.display()),
            ));
        }
        Ok(Self { root: Arc::new(Root::local(&folder)?) })
    }

    /// Jobs that have a folder in a storage.
    pub fn jobs(url: &str) -> Result<Vec<JobName>> {
        let folder = local_path(url)?;
        let list = |dir: &FsPath| -> Result<Vec<String>> {
            let failed = |e: std::io::Error| local::explain("list", dir, &e);
            let mut names = Vec::new();
            for entry in std::fs::read_dir(dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                if entry.path().is_dir()
                    && let Ok(name) = entry.file_name().into_string()
                {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        let mut jobs = Vec::new();
        for namespace in list(&folder)? {
            for name in list(&folder.join(&namespace))? {
                if folder.join(&namespace).join(&name).join("log").is_dir() {
                    jobs.push(JobName { namespace: namespace.clone(), name });
                }
            }
        }
        Ok(jobs)
    }

    /// The job's root as a URL.
    pub fn url(&self) -> &str {
        &self.root.url
    }
    /// How a path is named to people and to other jobs: its absolute URL.
    pub fn name(&self, path: &str) -> String {
        if is_absolute(path) { path.to_owned() } else { self.root.name(path) }
    }
    /// A path that a person gave, in the form that entries have: relative if it lies under the job's root, an absolute URL
    /// otherwise; without the manifest's file name and a trailing slash.
    pub fn normalize(&self, path: &str) -> Result<String> {
        let trimmed = path.trim_end_matches('/');
        let trimmed = trimmed.strip_suffix(super::manifest::FILE).map_or(trimmed, |p| p.trim_end_matches('/'));
        if !is_absolute(trimmed) {
            if trimmed.contains("://") {
                return Err(config(format!(
                    "{path:?}: only file:///PATH and paths below {} can be read",
                    self.root.url
                )));
            }
            let bad = trimmed.is_empty() || trimmed.split('/').any(|p| p.is_empty() || p == "." || p == "..");
            return match bad {
                true => Err(config(format!(
                    "{path:?} is not the path of a snapshot: give file:///PATH, or a directory below {}",
                    self.root.url
                ))),
                false => Ok(trimmed.to_owned()),
            };
        }
        let fs = local_path(trimmed)?;
        Ok(match self.root.fs.as_ref().and_then(|root| fs.strip_prefix(root).ok()) {
            Some(below) if below.components().next().is_some() => below.display().to_string(),
            _ => format!("file://{}", fs.display()),
        })
    }

    /// Store and path within it. With `create`, the folders of an absolute path are made.
    fn resolve(&self, path: &str, create: bool) -> Result<(Arc<Root>, Path)> {
        let parse = |p: &str| {
            Path::parse(p).map_err(|e| Error::external(ErrorCode::Storage, format!("{path:?} is not a path: {e}")))
        };
        if !is_absolute(path) {
            return Ok((self.root.clone(), parse(path)?));
        }
        let fs = local_path(path)?;
        let (Some(folder), Some(file)) = (fs.parent(), fs.file_name().and_then(|f| f.to_str())) else {
            return Err(config(format!("{path:?} is not the path of a file")));
        };
        if create {
            local::create_dirs(folder).map_err(|e| local::explain("create the folder", folder, &e))?;
        }
        Ok((Arc::new(Root::local(folder)?), parse(file)?))
    }

    /// Puts a file unless its name is taken. Durable when it returns `Created` (local file system).
    pub async fn put(&self, path: &str, payload: impl Into<PutPayload>) -> Put {
        let payload = payload.into();
        let (root, at) = match self.resolve(path, true) {
            Ok(r) => r,
            Err(e) => return Put::Refused(e),
        };
        if let Some(fs) = &root.fs {
            let file = fs.join(at.as_ref());
            return match tokio::task::spawn_blocking(move || local::put(&file, &payload)).await {
                Ok(put) => put,
                Err(e) => Put::Unknown(root.failed("write", at.as_ref(), e)),
            };
        }
        match root.store.put_opts(&at, payload, PutOptions::from(PutMode::Create)).await {
            Ok(_) => Put::Created,
            Err(object_store::Error::AlreadyExists { .. }) => Put::Exists,
            Err(e) => Put::Unknown(root.failed("write", at.as_ref(), e)),
        }
    }

    /// Writes a file of a snapshot under a name of its own and returns the handle with its size and checksum.
    pub async fn write(&self, path: &str, payload: impl Into<PutPayload>) -> Result<FileHandle> {
        let payload = payload.into();
        let size = payload.content_length() as u64;
        let crc32c = payload.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        match self.put(path, payload).await {
            Put::Created => Ok(FileHandle { path: path.to_owned(), size, crc32c }),
            Put::Exists => Err(Error::internal(format!("{} exists already: a name was used twice", self.name(path)))),
            Put::Refused(e) | Put::Unknown(e) => Err(e),
        }
    }

    /// A file's contents; none if there is no such file.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let (root, at) = match self.resolve(path, false) {
            Ok(r) => r,
            // the folder of an absolute path does not exist
            Err(_) if is_absolute(path) && local_path(path).is_ok_and(|p| !p.exists()) => return Ok(None),
            Err(e) => return Err(e),
        };
        let read = async { root.store.get(&at).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(root.failed("read", at.as_ref(), e)),
        }
    }

    /// A snapshot file's contents, checked against the handle: missing, truncated and corrupt are errors that name the file.
    pub async fn read(&self, file: &FileHandle) -> Result<Bytes> {
        let bad = |what: String| {
            Error::external(ErrorCode::Snapshot, format!("snapshot file {} {what}", self.name(&file.path)))
        };
        let restore_older = "restore an older snapshot by its path, with a new restore nonce";
        let Some(bytes) = self.get(&file.path).await? else {
            return Err(bad(format!("is missing: was it deleted? {restore_older}")));
        };
        if bytes.len() as u64 != file.size {
            let how = if (bytes.len() as u64) < file.size { "truncated" } else { "too long" };
            return Err(bad(format!(
                "is {how}: it has {} bytes, its manifest says {}; {restore_older}",
                bytes.len(),
                file.size
            )));
        }
        let crc32c = crc32c::crc32c(&bytes);
        if crc32c != file.crc32c {
            return Err(bad(format!(
                "is corrupt: its checksum is {crc32c:08x}, its manifest says {:08x}; {restore_older}",
                file.crc32c
            )));
        }
        Ok(bytes)
    }

    /// Names of the files in a folder below the root; empty if it does not exist.
    pub async fn list_files(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.list(folder).await?.0)
    }
    /// Names of the folders in a folder below the root (the root itself: an empty text).
    pub async fn list_folders(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.list(folder).await?.1)
    }
    async fn list(&self, folder: &str) -> Result<(Vec<String>, Vec<String>)> {
        let failed = |e: &dyn std::fmt::Display| self.root.failed("list", folder, e);
        // only a folder that is certainly not there is empty: a log that cannot be read is not one without entries
        if let Some(fs) = &self.root.fs {
            match std::fs::metadata(fs.join(folder)) {
                Ok(m) if m.is_dir() => {}
                Ok(_) => return Err(failed(&"it is not a folder")),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
                Err(e) => return Err(failed(&e)),
            }
        }
        let prefix = Path::parse(folder).map_err(|e| failed(&e))?;
        let found = self.root.store.list_with_delimiter(Some(&prefix)).await.map_err(|e| failed(&e))?;
        let name = |p: &Path| p.filename().map(str::to_owned);
        let files = found.objects.iter().filter_map(|o| name(&o.location)).collect();
        Ok((files, found.common_prefixes.iter().filter_map(name).collect()))
    }

    /// Deletes a file; one that is not there is deleted already.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let (root, at) = self.resolve(path, false)?;
        match root.store.delete(&at).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(root.failed("delete", at.as_ref(), e)),
        }
    }

    /// Deletes what processes that were killed while they wrote left in a folder, under names that no listing shows. Only local
    /// file systems have that. `left`: which names to take, of those that other processes staged.
    pub async fn sweep_staged(&self, folder: &str, left: impl Fn(&str) -> bool + Send + 'static) -> Result<()> {
        let Some(folder) = self.root.fs.as_ref().map(|fs| fs.join(folder)).filter(|f| f.is_dir()) else {
            return Ok(());
        };
        let swept = tokio::task::spawn_blocking(move || {
            local::sweep_staged(&folder, left).map_err(|e| local::explain("clean up", &folder, &e))
        });
        swept.await.unwrap_or_else(|e| Err(Error::internal(format!("cleaning up panicked: {e}"))))
    }

    /// Deletes a snapshot's folder with all that is in it: one below the root, or the savepoint folder that an absolute URL
    /// names (its last part must begin with `savepoint-`).
    pub async fn delete_folder(&self, path: &str) -> Result<()> {
        let (root, at) = match self.resolve(path, false) {
            Ok(r) => r,
            Err(_) if is_absolute(path) && local_path(path).is_ok_and(|p| !p.exists()) => return Ok(()),
            Err(e) => return Err(e),
        };
        let last = at.filename().unwrap_or_default();
        if !(last.starts_with("chk-") && !is_absolute(path) || last.starts_with("savepoint-")) {
            return Err(Error::internal(format!(
                "{} is not the folder of a snapshot: it is not deleted",
                self.name(path)
            )));
        }
        if let Some(fs) = &root.fs {
            let folder = fs.join(at.as_ref());
            return tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&folder) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(local::explain("delete", &folder, &e)),
                _ => Ok(()),
            })
            .await
            .unwrap_or_else(|e| Err(root.failed("delete", at.as_ref(), e)));
        }
        let files = root.store.list(Some(&at)).map_ok(|o| o.location).boxed();
        root.store
            .delete_stream(files)
            .try_collect::<Vec<_>>()
            .await
            .map_err(|e| root.failed("delete", at.as_ref(), e))?;
        Ok(())
    }
}

/// A URL or an absolute path, not one below the job's root.
pub fn is_absolute(path: &str) -> bool {
    path.starts_with('/') || path.starts_with("file:")
}
