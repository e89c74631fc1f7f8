//! From the files of a checkpoint to a database with the key groups of one subtask.
//!
//! One checkpoint: its files are fetched and opened as they are, and other subtasks' key groups are removed. Several (fewer
//! subtasks than before): that of which most is wanted is opened, and the entries of the others are copied into it, each by a
//! thread of its own.
use super::checkpoint::Head;
use super::directory::{Folder, Root};
use super::failed;
use super::options::{Columns, Shared};
use super::sorted::SortedFiles;
use super::store::{About, RocksStore, scan};
use crate::data::HASH_VERSION;
use crate::error::{Error, ErrorCode, Result};
use crate::state::file::{self, ReadAt};
use crate::state::store::{Column, StoreSubtask, StoredSnapshot};
use rocksdb::{ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are fetched at once, and files that are fetched side by side.
const FETCH: u64 = 8 << 20;
const FETCHERS: usize = 4;

/// A checkpoint of which key groups are wanted.
struct Source<'a> {
    head: Head,
    files: &'a [Arc<dyn ReadAt>],
    wanted: Range<u32>,
}

pub fn open(
    shared: &Shared,
    root: &Root,
    subtask: &StoreSubtask<'_>,
    snapshots: &[StoredSnapshot<'_>],
) -> Result<RocksStore> {
    let mut sources = snapshots.iter().map(|s| source(subtask, s)).collect::<Result<Vec<_>>>()?;
    // the largest first: the others are copied into it
    sources.sort_by_key(|s| std::cmp::Reverse((s.wanted.len(), s.files.iter().map(|f| f.size()).sum::<u64>())));
    let folder = root.folder(subtask.operator)?;
    let path = folder.path().join("db");
    if let Some(first) = sources.first() {
        fetch(first, &path)?;
    }
    let about = About {
        operator: subtask.operator.to_owned(),
        key_groups: subtask.key_groups.clone(),
        max_parallelism: subtask.max_parallelism,
    };
    let columns = Columns::default();
    let options = shared.database(Some(columns.clone()));
    // named, for reads of many keys at once want its handle
    let family = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, shared.database(Some(columns.clone())));
    let opened = DB::open_cf_descriptors(&options, &path, [family]);
    let db = opened.map_err(|e| failed("open the database", &path, e))?;
    let store = RocksStore::new(db, options, shared.clone(), folder.clone(), columns, about);
    let Some((first, others)) = sources.split_first() else { return Ok(store) };
    let wanted: BTreeSet<&str> = subtask.states.iter().map(|s| s.name.as_str()).collect();
    for state in &first.head.states {
        let all = 0..subtask.max_parallelism;
        let keeps = wanted.contains(state.name.as_str());
        let keep = if keeps { first.wanted.clone() } else { all.end..all.end };
        let held = &first.head.key_groups;
        let foreign = [held.start..keep.start.min(held.end), keep.end.max(held.start)..held.end];
        let ranges = foreign.iter().map(|groups| store.ranges(&store.db, &path, state, groups));
        store.remove(ranges.collect::<Result<Vec<_>>>()?.concat())?;
    }
    copy(&store, root, others, &wanted)?;
    Ok(store)
}

/// Reads the head of a checkpoint and checks that it is the operator's.
fn source<'a>(subtask: &StoreSubtask<'_>, snapshot: &StoredSnapshot<'a>) -> Result<Source<'a>> {
    let Some((head, files)) = snapshot.files.split_first() else {
        return Err(Error::internal("a stored snapshot has no files"));
    };
    let name = head.name();
    let head = Head::parse(&head.read_at(0..head.size())?, name, files.len())?;
    let wrong = |what: String| Err(Error::user(ErrorCode::Snapshot, format!("snapshot file {name} {what}")));
    if head.operator != subtask.operator {
        return wrong(format!("holds state of the operator {:?}, not of {:?}", head.operator, subtask.operator));
    }
    if head.max_parallelism != subtask.max_parallelism {
        let (was, is) = (head.max_parallelism, subtask.max_parallelism);
        return wrong(format!(
            "was written with maxParallelism {was}, the job has {is}: it is fixed for the job's life, set it back"
        ));
    }
    if head.hash_version != HASH_VERSION {
        let was = head.hash_version;
        return wrong(format!(
            "has keys hashed by version {was}, this build has version {HASH_VERSION}: use the Weir that wrote it"
        ));
    }
    for stored in &head.states {
        match subtask.states.iter().find(|d| d.name == stored.name) {
            Some(declared) => file::check_types(subtask.operator, name, stored, declared)?,
            None if subtask.drop_others => {}
            None => {
                return wrong(format!(
                    "holds the state {:?}, which the job does not declare: declare it, or set allowNonRestoredState to drop it",
                    stored.name
                ));
            }
        }
    }
    let groups = &head.key_groups;
    let wanted = groups.start.max(subtask.key_groups.start)..groups.end.min(subtask.key_groups.end);
    Ok(Source { head, files, wanted })
}

/// Makes a database's folder from the files of a checkpoint.
fn fetch(source: &Source<'_>, path: &Path) -> Result<()> {
    std::fs::create_dir(path).map_err(|e| failed("make a folder", path, e))?;
    for (name, bytes) in &source.head.others {
        std::fs::write(path.join(name), &bytes.0).map_err(|e| failed("write a file", path, e))?;
    }
    let waiting = Mutex::new(source.files.iter().zip(&source.head.sorted));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some((file, name)) = next() {
            fetch_file(&**file, &path.join(name))?;
        }
        Ok(())
    };
    on_threads(vec![&work as &(dyn Fn() -> Result<()> + Sync); FETCHERS.min(source.files.len())])
}

fn fetch_file(from: &dyn ReadAt, to: &Path) -> Result<()> {
    let fail = |e: std::io::Error| failed("fetch a file of the checkpoint", to, e);
    let mut file = File::create_new(to).map_err(fail)?;
    let mut at = 0;
    while at < from.size() {
        let end = from.size().min(at + FETCH);
        file.write_all(&from.read_at(at..end)?).map_err(fail)?;
        at = end;
    }
    Ok(())
}

/// Copies the wanted entries of these checkpoints into the store.
fn copy(store: &RocksStore, root: &Root, sources: &[Source<'_>], wanted: &BTreeSet<&str>) -> Result<()> {
    let files = Mutex::new(Vec::<PathBuf>::new());
    let one = |source: &Source<'_>| -> Result<()> {
        let folder: Arc<Folder> = root.folder("merge")?;
        let path = folder.path().join("db");
        fetch(source, &path)?;
        let opened = DB::open_for_read_only(&store.shared.database(None), &path, false);
        let db = opened.map_err(|e| failed("open a checkpoint", &path, e))?;
        let mut sorted = SortedFiles::new(&store.shared, &store.options, store.folder.path(), store.unique("merged"));
        let mut states: Vec<_> = source.head.states.iter().filter(|s| wanted.contains(s.name.as_str())).collect();
        states.sort_by_key(|s| Column::prefix_of(&s.name));
        for state in states {
            for (from, to) in store.ranges(&db, &path, state, &source.wanted)? {
                scan(&db, &path, from, to, &mut |key, value| sorted.put(key, Some(value)))?;
            }
        }
        let done = sorted.finish()?;
        files.lock().unwrap_or_else(PoisonError::into_inner).extend(done);
        Ok(())
    };
    let waiting = Mutex::new(sources.iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<()> {
        while let Some(source) = next() {
            one(source)?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(sources.len());
    on_threads(vec![&work as &(dyn Fn() -> Result<()> + Sync); threads])?;
    // one at a time: their ranges may overlap, not their keys
    for file in files.into_inner().unwrap_or_else(PoisonError::into_inner) {
        store.take_over(vec![file], &AtomicBool::new(false))?;
    }
    Ok(())
}

fn on_threads(work: Vec<&(dyn Fn() -> Result<()> + Sync)>) -> Result<()> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (n, work) in work.into_iter().enumerate() {
            let spawned = std::thread::Builder::new().name(format!("weir-fetch-{n}")).spawn_scoped(scope, work);
            threads.push(spawned.map_err(|e| Error::internal(format!("cannot start a thread to fetch state: {e}")))?);
        }
        let joined = threads.into_iter().map(|t| match t.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.fold(Ok(()), Result::and)
    })
}
