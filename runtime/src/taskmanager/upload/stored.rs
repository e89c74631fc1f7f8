//! Uploads the files of a state store: each once, as long as a completed checkpoint has it.
use super::{Done, Stored, given_up, lock};
use crate::checkpoint::handles::{FileFormat, FileHandle, KeyedHandle, TaskRestore};
use crate::checkpoint::manifest::is_shared;
use crate::checkpoint::storage::Storage;
use crate::checkpoint::stored::StoredFiles;
use crate::dataflow::task::TaskId;
use crate::error::{Error, ErrorCode, Result};
use crate::state::snapshot::FrozenTable;
use crate::state::store::{LocalFile, LocalFiles, StateStore};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use weir_api::ids::CheckpointId;

/// Files that are uploaded side by side, and bytes that are read at once.
const UPLOADERS: usize = 2;
const PIECE: usize = 1 << 20;

/// What a store made of the tables that it keeps.
#[derive(Default)]
pub struct Taken {
    /// For a savepoint: tables to be written whole.
    pub whole: Vec<Box<dyn FrozenTable>>,
    /// For a checkpoint: the store's own files.
    pub files: Option<LocalFiles>,
}

/// Brings what has changed into the store. Blocks, but not long after `given_up` is set.
pub fn take(
    store: &dyn StateStore,
    tables: Vec<Box<dyn FrozenTable>>,
    savepoint: bool,
    given_up: &AtomicBool,
) -> Result<Taken> {
    match savepoint {
        true => Ok(Taken { whole: store.whole(tables, given_up)?, files: None }),
        false => Ok(Taken { whole: Vec::new(), files: Some(store.checkpoint(tables, given_up)?) }),
    }
}

/// The files that a restored store has from the beginning. Of several checkpoints in one, it is not known which files are still
/// as they were.
pub fn restored(restore: &[(TaskId, TaskRestore)]) -> BTreeMap<(TaskId, String), StoredFiles> {
    let mut all = BTreeMap::new();
    for (task, r) in restore {
        for (operator, r) in &r.operators {
            let mut stores = r.keyed.iter().filter(|k| k.format == FileFormat::RocksDb);
            // files of other jobs and of folders that users delete are not referred to
            if let (Some(one), None) = (stores.next(), stores.next()) {
                let own = one.deltas.iter().filter(|f| is_shared(&f.path));
                let files = own.filter_map(|f| Some((local_name(&f.path)?, f.clone()))).collect();
                all.insert((*task, operator.clone()), StoredFiles::restored(files));
            }
        }
    }
    all
}

/// A file in the storage: the store's name for it comes last.
fn path_of(path: &str, name: &str) -> String {
    format!("{path}.{name}")
}

/// The store's name in a path that [`path_of`] made.
fn local_name(path: &str) -> Option<String> {
    let (rest, extension) = path.rsplit_once('.')?;
    let (_, name) = rest.rsplit_once('.')?;
    Some(format!("{name}.{extension}"))
}

/// One operator subtask's store in a checkpoint.
pub struct Upload {
    pub storage: Storage,
    pub given_up: Arc<AtomicBool>,
    /// With what the paths of its files begin.
    pub path: String,
    pub key_groups: Range<u32>,
    pub chain: (TaskId, String),
    pub checkpoint: CheckpointId,
}

impl Upload {
    pub fn write(self, local: LocalFiles, known: &Stored) -> Result<Done> {
        if local.files.is_empty() {
            return Ok(Done { handle: None, bytes: 0 });
        }
        let mut files = BTreeMap::new();
        {
            let known = lock(known);
            for (at, f) in local.files.iter().enumerate() {
                if let Some(handle) = known.get(&self.chain).and_then(|s| s.known(&f.name, f.size)) {
                    files.insert(at, handle);
                }
            }
        }
        let new: Vec<_> = local.files.iter().enumerate().filter(|(at, _)| !files.contains_key(at)).collect();
        let mut bytes = local.head.len() as u64 + new.iter().map(|(_, f)| f.size).sum::<u64>();
        files.extend(self.files(&new)?);
        let mut head = self.storage.create(&path_of(&self.path, "rocksdb"))?;
        head.write(&local.head)?;
        let head = head.finish()?;
        bytes += head.size - local.head.len() as u64;
        let deltas: Vec<FileHandle> = files.into_values().collect();
        let by_name = local.files.iter().zip(&deltas).map(|(f, handle)| (f.name.clone(), handle.clone())).collect();
        lock(known).entry(self.chain).or_default().written(self.checkpoint, by_name);
        let (key_groups, entries) = (self.key_groups, local.entries);
        let handle = KeyedHandle { file: head, deltas, key_groups, entries, format: FileFormat::RocksDb };
        Ok(Done { handle: Some(handle), bytes })
    }

    /// Uploads files, several side by side.
    fn files(&self, new: &[(usize, &LocalFile)]) -> Result<Vec<(usize, FileHandle)>> {
        let (waiting, done) = (Mutex::new(new.iter()), Mutex::new(Vec::with_capacity(new.len())));
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let runtime = tokio::runtime::Handle::try_current().ok();
        let work = || -> Result<()> {
            let _entered = runtime.as_ref().map(|r| r.enter());
            while let Some((at, file)) = next() {
                let handle = self.file(file)?;
                done.lock().unwrap_or_else(PoisonError::into_inner).push((*at, handle));
            }
            Ok(())
        };
        if new.len() < 2 {
            work()?;
        } else {
            std::thread::scope(|scope| {
                let mut threads = Vec::new();
                for n in 0..UPLOADERS.min(new.len()) {
                    let spawned =
                        std::thread::Builder::new().name(format!("weir-upload-{n}")).spawn_scoped(scope, work);
                    let fail = |e| Error::internal(format!("cannot start a thread to upload state: {e}"));
                    threads.push(spawned.map_err(fail)?);
                }
                let joined = threads.into_iter().map(|t| match t.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                });
                joined.fold(Ok(()), Result::and)
            })?;
        }
        Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn file(&self, local: &LocalFile) -> Result<FileHandle> {
        let fail = |e| Error::external(ErrorCode::Io, format!("cannot read {}: {e}", local.path.display()));
        let mut from = File::open(&local.path).map_err(fail)?;
        let mut to = self.storage.create(&path_of(&self.path, &local.name))?;
        let mut piece = vec![0; PIECE.min(local.size.max(1) as usize)];
        loop {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(given_up());
            }
            match from.read(&mut piece).map_err(fail)? {
                0 => break,
                n => to.write(&piece[..n])?,
            }
        }
        let handle = to.finish()?;
        match handle.size == local.size {
            true => Ok(handle),
            false => Err(Error::internal(format!("{} changed while it was uploaded", local.path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_name_of_a_file_is_found_in_its_path() {
        let path = path_of("shared/chk-3-2-0a1b.4-0-1-a2-0c0d", "000012.sst");
        assert_eq!(local_name(&path).as_deref(), Some("000012.sst"));
        assert_eq!(local_name("shared/x"), None);
    }
}
