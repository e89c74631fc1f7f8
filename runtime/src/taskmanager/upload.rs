//! Writes the state files of a checkpoint, as changes since the last completed one, and reads those of a restore.
mod stored;

use crate::checkpoint::handles::{Barrier, FileFormat, FileHandle, KeyedHandle, TaskRestore, TaskSnapshot};
use crate::checkpoint::increments::{Increments, Plan, Told};
use crate::checkpoint::log::Nonce;
use crate::checkpoint::manifest::state_file;
use crate::checkpoint::storage::Storage;
use crate::checkpoint::stored::StoredFiles;
use crate::control::frame::{self, MAX_FRAME};
use crate::data::HASH_VERSION;
use crate::dataflow::deploy::FileReader;
use crate::dataflow::task::{TaskId, Uploader};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{JobGraph, key_group_range};
use crate::state::file::{Compression, Piece, ReadAt, SnapshotMeta, WriteOptions, write};
use crate::state::snapshot::{FrozenTable, SnapshotParts};
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use weir_api::ids::CheckpointId;

type Chains = Arc<Mutex<BTreeMap<(TaskId, String), Increments>>>;
/// The same of states that a store keeps.
type Stored = Arc<Mutex<BTreeMap<(TaskId, String), StoredFiles>>>;

/// [`Uploader`] into the job's checkpoint storage, for the tasks of one attempt.
pub struct StorageUploader {
    /// None: the job keeps no checkpoints; only what commits at its end is asked for.
    storage: Option<Storage>,
    plan: Arc<JobGraph>,
    nonce: Nonce,
    chains: Chains,
    stored: Stored,
    /// By checkpoint under way: set when it was aborted, so that nobody writes on for nothing.
    given_up: Mutex<BTreeMap<CheckpointId, Arc<AtomicBool>>>,
    /// Longest message to the jobmanager, in bytes.
    frame_limit: u32,
    /// Each upload holds it for reading.
    under_way: Arc<tokio::sync::RwLock<()>>,
}

impl StorageUploader {
    /// `restore`: what the tasks start from.
    pub fn new(storage: Option<Storage>, plan: Arc<JobGraph>, restore: &[(TaskId, TaskRestore)]) -> Self {
        let stored = Arc::new(Mutex::new(stored::restored(restore)));
        Self {
            storage,
            plan,
            nonce: Nonce::random(),
            chains: Chains::default(),
            stored,
            given_up: Mutex::default(),
            frame_limit: MAX_FRAME,
            under_way: Arc::default(),
        }
    }
}

impl StorageUploader {
    fn given_up(&self) -> MutexGuard<'_, BTreeMap<CheckpointId, Arc<AtomicBool>>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploader for StorageUploader {
    fn upload(&self, task: TaskId, barrier: Barrier, parts: SnapshotParts) -> BoxFuture<'static, Result<TaskSnapshot>> {
        let parallelism = self.plan.vertices.get(task.vertex as usize).map_or(1, |v| v.parallelism);
        let max_parallelism = self.plan.max_parallelism;
        let key_groups = key_group_range(task.subtask, parallelism, max_parallelism);
        let (storage, nonce, chains) = (self.storage.clone(), self.nonce, self.chains.clone());
        let all_stored = self.stored.clone();
        let given_up = self.given_up().entry(barrier.id).or_default().clone();
        let under_way = self.under_way.clone();
        let limit = self.frame_limit;
        let written = async move {
            let _under_way = under_way.read_owned().await;
            let mut snapshot = TaskSnapshot::default();
            for (operator, lists) in parts.lists {
                snapshot.operators.entry(operator).or_default().lists = lists;
            }
            let Some(storage) = storage else { return Ok(snapshot) };
            let savepoint = barrier.kind.is_savepoint();
            // what stores have to take comes first: until then they can take nothing else
            let mut operators = Vec::with_capacity(parts.keyed.len());
            for (operator, tables) in parts.keyed {
                let (backed, mut tables): (Vec<_>, Vec<_>) = tables.into_iter().partition(|t| t.store().is_some());
                let taken = match backed.first().and_then(|t| t.store().cloned()) {
                    Some(store) => {
                        let given_up = given_up.clone();
                        blocking(move || stored::take(&*store, backed, savepoint, &given_up)).await?
                    }
                    None => stored::Taken::default(),
                };
                tables.extend(taken.whole);
                operators.push((operator, tables, taken.files));
            }
            for (n, (operator, tables, files)) in operators.into_iter().enumerate() {
                // the attempt and a nonce are in the name: nobody else ever writes to it
                let (v, s, a) = (task.vertex, task.subtask, barrier.attempt);
                let name = format!("{v}-{s}-{n}-a{a}-{nonce}");
                let of = |name: &str| state_file(&barrier.directory, barrier.kind, name);
                let key_groups = key_groups.clone();
                // savepoints stand alone
                let checkpoint = (!savepoint).then_some(barrier.id);
                let chain = (task, operator.clone());
                let done = &mut snapshot.operators.entry(operator.clone()).or_default().keyed;
                if !tables.is_empty() {
                    let meta = SnapshotMeta {
                        operator,
                        hash_version: HASH_VERSION,
                        max_parallelism,
                        key_groups: key_groups.clone(),
                        compression: Compression::default(),
                        states: Vec::new(),
                        changes_only: BTreeSet::new(),
                    };
                    let (storage, given_up, path) = (storage.clone(), given_up.clone(), of(&format!("{name}.state")));
                    let keyed = Keyed { storage, given_up, path, meta, chain: chain.clone(), checkpoint };
                    let chains = chains.clone();
                    let written = blocking(move || keyed.write(tables, &chains)).await?;
                    snapshot.stats.bytes += written.bytes;
                    done.extend(written.handle);
                }
                if let (Some(files), Some(checkpoint)) = (files, checkpoint) {
                    let (storage, given_up, path) = (storage.clone(), given_up.clone(), of(&name));
                    let upload = stored::Upload { storage, given_up, path, key_groups, chain, checkpoint };
                    let known = all_stored.clone();
                    let written = blocking(move || upload.write(files, &known)).await?;
                    snapshot.stats.bytes += written.bytes;
                    done.extend(written.handle);
                }
            }
            Ok(snapshot)
        };
        Box::pin(async move { written.await.and_then(|snapshot| fitting(snapshot, limit)) })
    }

    fn completed(&self, id: CheckpointId) {
        lock(&self.chains).values_mut().for_each(|c| c.completed(id));
        lock(&self.stored).values_mut().for_each(|s| s.completed(id));
        self.given_up().retain(|i, _| *i > id);
    }

    fn aborted(&self, id: CheckpointId) {
        if let Some(flag) = self.given_up().remove(&id) {
            flag.store(true, Ordering::Relaxed);
        }
        lock(&self.chains).values_mut().for_each(|c| c.aborted(id));
        lock(&self.stored).values_mut().for_each(|s| s.aborted(id));
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.given_up().values().for_each(|flag| flag.store(true, Ordering::Relaxed));
        Box::pin(async { drop(self.under_way.write().await) })
    }
}

/// What is in the acknowledgement beside the snapshot, in bytes at most.
const ACKNOWLEDGEMENT: u32 = 1 << 10;

/// Errors: the acknowledgement would be longer than the control connection takes, which would end.
fn fitting(snapshot: TaskSnapshot, limit: u32) -> Result<TaskSnapshot> {
    let lists = snapshot.operators.iter().map(|(name, o)| (name, &o.lists));
    match frame::too_long(&snapshot, lists, limit.saturating_sub(ACKNOWLEDGEMENT)) {
        Some(why) => Err(Error::external(ErrorCode::Checkpoint, why)),
        None => Ok(snapshot),
    }
}

/// Encoding is work for the processor, writing blocks: not on the control plane's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|e| Err(Error::internal(format!("writing the state panicked: {e}"))))
}

fn given_up() -> Error {
    let why = "the checkpoint was aborted before its state was written";
    Error { code: ErrorCode::Checkpoint, ..Error::internal(why) }
}

/// One operator subtask's share of a snapshot.
struct Keyed {
    storage: Storage,
    given_up: Arc<AtomicBool>,
    path: String,
    meta: SnapshotMeta,
    chain: (TaskId, String),
    checkpoint: Option<CheckpointId>,
}

struct Done {
    /// None if the tables are all empty.
    handle: Option<KeyedHandle>,
    /// That were written now.
    bytes: u64,
}

impl Keyed {
    fn write(self, tables: Vec<Box<dyn FrozenTable>>, chains: &Chains) -> Result<Done> {
        let entries = tables.iter().map(|t| t.entries()).sum();
        let told: Vec<Option<Told>> = tables
            .iter()
            .map(|t| t.history().map(|h| Told { epoch: h.epoch, complete_since: h.complete_since }))
            .collect();
        let mut plan = Plan::whole(tables.len());
        if let (Some(_), Some(chain)) = (self.checkpoint, lock(chains).get(&self.chain)) {
            plan = chain.plan(&told);
            for (table, floor) in tables.iter().zip(chain.floors()) {
                if let Some(history) = table.history() {
                    history.floor.store(*floor, Ordering::Relaxed);
                }
            }
        }
        let key_groups = self.meta.key_groups.clone();
        let mut file = None;
        if entries == 0 {
            plan = Plan::whole(tables.len());
        } else {
            file = self.file(tables, &plan)?;
        }
        let bytes = file.as_ref().map_or(0, |f| f.size);
        let handle = match self.checkpoint {
            Some(id) => {
                let mut chains = lock(chains);
                chains.entry(self.chain).or_default().written(id, plan, &told, file, key_groups, entries)
            }
            None => file.map(|file| KeyedHandle {
                file,
                deltas: Vec::new(),
                key_groups,
                entries,
                format: FileFormat::Canonical,
            }),
        };
        Ok(Done { handle, bytes })
    }

    /// None if nothing has changed.
    fn file(&self, tables: Vec<Box<dyn FrozenTable>>, plan: &Plan) -> Result<Option<FileHandle>> {
        let mut file = self.storage.create(&self.path)?;
        let pieces = tables.into_iter().zip(&plan.since).map(|(table, since)| Piece { table, since: *since }).collect();
        let written = write(self.meta.clone(), pieces, &WriteOptions::default(), &mut |bytes| {
            if self.given_up.load(Ordering::Relaxed) {
                return Err(given_up());
            }
            file.write(bytes)
        })?;
        if plan.may_be_empty() && written.entries == 0 && written.removals == 0 {
            return Ok(None);
        }
        let file = file.finish()?;
        if (file.size, file.crc32c) != (written.size, written.crc32c) {
            return Err(Error::internal(format!("{} was not written as it was encoded", self.path)));
        }
        Ok(Some(file))
    }
}

/// [`FileReader`] from the job's checkpoint storage.
pub struct StorageFiles(pub Option<Storage>);

impl FileReader for StorageFiles {
    fn open(&self, file: FileHandle) -> BoxFuture<'static, Result<Arc<dyn ReadAt>>> {
        let storage = self.0.clone();
        Box::pin(async move {
            match storage {
                Some(s) => s.open_file(&file).await,
                None => {
                    let m = format!("state file {} cannot be read: the job has no checkpoint storage", file.path);
                    Err(Error::external(ErrorCode::Storage, m))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
