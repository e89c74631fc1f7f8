//! Writes the state files of a checkpoint and reads those of a restore.
use crate::checkpoint::handles::{Barrier, FileHandle, KeyedHandle, OperatorSubtaskState, TaskSnapshot};
use crate::checkpoint::log::Nonce;
use crate::checkpoint::storage::Storage;
use crate::data::HASH_VERSION;
use crate::dataflow::deploy::FileReader;
use crate::dataflow::task::{TaskId, Uploader};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{JobGraph, key_group_range};
use crate::state::file::{Compression, SnapshotMeta, WriteOptions, write};
use crate::state::snapshot::{FrozenTable, SnapshotParts};
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::PutPayload;
use std::ops::Range;
use std::sync::Arc;

/// [`Uploader`] into the job's checkpoint storage, for the tasks of one attempt.
pub struct StorageUploader {
    /// None: the job keeps no checkpoints; only what commits at its end is asked for.
    storage: Option<Storage>,
    plan: Arc<JobGraph>,
    nonce: Nonce,
}

impl StorageUploader {
    pub fn new(storage: Option<Storage>, plan: Arc<JobGraph>) -> Self {
        Self { storage, plan, nonce: Nonce::random() }
    }
}

impl Uploader for StorageUploader {
    fn upload(&self, task: TaskId, barrier: Barrier, parts: SnapshotParts) -> BoxFuture<'static, Result<TaskSnapshot>> {
        let parallelism = self.plan.vertices.get(task.vertex as usize).map_or(1, |v| v.parallelism);
        let max_parallelism = self.plan.max_parallelism;
        let key_groups = key_group_range(task.subtask, parallelism, max_parallelism);
        let (storage, nonce) = (self.storage.clone(), self.nonce);
        Box::pin(async move {
            let mut snapshot = TaskSnapshot::default();
            for (operator, lists) in parts.lists {
                snapshot.operators.entry(operator).or_default().lists = lists;
            }
            let Some(storage) = storage else { return Ok(snapshot) };
            for (n, (operator, tables)) in parts.keyed.into_iter().enumerate() {
                // the attempt and a nonce are in the name: nobody else ever writes to it
                let (v, s, a) = (task.vertex, task.subtask, barrier.attempt);
                let path = format!("{}/{v}-{s}-{n}-a{a}-{nonce}.state", barrier.directory);
                let state: &mut OperatorSubtaskState = snapshot.operators.entry(operator.clone()).or_default();
                if let Some(k) = keyed(&storage, path, operator, key_groups.clone(), max_parallelism, tables).await? {
                    snapshot.stats.bytes += k.file.size;
                    state.keyed.push(k);
                }
            }
            Ok(snapshot)
        })
    }
}

/// Encodes and writes one operator's tables; none if they are all empty.
async fn keyed(
    storage: &Storage,
    path: String,
    operator: String,
    key_groups: Range<u32>,
    max_parallelism: u32,
    tables: Vec<Box<dyn FrozenTable>>,
) -> Result<Option<KeyedHandle>> {
    if tables.iter().all(|t| t.entries() == 0) {
        return Ok(None);
    }
    let meta = SnapshotMeta {
        operator,
        hash_version: HASH_VERSION,
        max_parallelism,
        key_groups: key_groups.clone(),
        compression: Compression::default(),
        states: Vec::new(),
    };
    // encoding is work for the processor: not on the control plane's thread
    let encoded = tokio::task::spawn_blocking(move || {
        let mut chunks: Vec<Bytes> = Vec::new();
        let written = write(meta, tables, &WriteOptions::default(), &mut |chunk| {
            chunks.push(chunk.into());
            Ok(())
        })?;
        Ok::<_, Error>((written, PutPayload::from_iter(chunks)))
    });
    let (written, payload) =
        encoded.await.map_err(|e| Error::internal(format!("encoding the state panicked: {e}")))??;
    let file = storage.write(&path, payload).await?;
    if (file.size, file.crc32c) != (written.size, written.crc32c) {
        return Err(Error::internal(format!("{path} was not written as it was encoded")));
    }
    Ok(Some(KeyedHandle { file, key_groups, entries: written.entries }))
}

/// [`FileReader`] from the job's checkpoint storage.
pub struct StorageFiles(pub Option<Storage>);

impl FileReader for StorageFiles {
    fn read(&self, file: FileHandle) -> BoxFuture<'static, Result<Bytes>> {
        let storage = self.0.clone();
        Box::pin(async move {
            match storage {
                Some(s) => s.read(&file).await,
                None => {
                    let m = format!("state file {} cannot be read: the job has no checkpoint storage", file.path);
                    Err(Error::external(ErrorCode::Storage, m))
                }
            }
        })
    }
}
