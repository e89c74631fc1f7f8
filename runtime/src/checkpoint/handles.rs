//! What tasks, jobmanager and manifests say about snapshots: barriers, state handles, acknowledgements.
use crate::data::Type;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use weir_api::ids::{Attempt, CheckpointId};

/// Travels in band with the records; everything before it belongs to the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    pub id: CheckpointId,
    pub attempt: Attempt,
    pub kind: SnapshotKind,
    /// Directory of the snapshot's files, relative to the job's root in the storage, or an absolute URL (savepoint elsewhere).
    pub directory: String,
    /// Aligned (exactly once) or only counted (at least once).
    pub aligned: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// Periodic; owned by the log.
    Checkpoint,
    /// On demand; owned by the user; commits no side effect.
    Savepoint,
    /// Sources pause at the barrier; when it is complete, side effects are committed and the tasks end.
    /// With `drain`, sources end as if their input had ended, before the barrier.
    Stop { drain: bool },
    /// As `Stop`, but a checkpoint that the log owns: the next attempt restores it at another parallelism.
    Rescale,
    /// After the last source has ended: commits what remains and ends the job.
    Final,
}

impl SnapshotKind {
    /// Sources pause at the barrier, and the tasks end when it is complete.
    pub const fn ends_tasks(self) -> bool {
        !matches!(self, Self::Checkpoint | Self::Savepoint)
    }
    /// Sinks commit when it is complete (an intermediate savepoint commits no side effect).
    pub const fn commits(self) -> bool {
        !matches!(self, Self::Savepoint)
    }
    /// End-of-input is signalled before the barrier.
    pub const fn drains(self) -> bool {
        matches!(self, Self::Final | Self::Stop { drain: true })
    }
    /// The snapshot is a user's savepoint, not a checkpoint that the log owns.
    pub const fn is_savepoint(self) -> bool {
        matches!(self, Self::Savepoint | Self::Stop { .. })
    }
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHandle {
    /// Relative to the job's root, or an absolute URL.
    pub path: String,
    pub size: u64,
    pub crc32c: u32,
}

/// Kind of a keyed state, part of its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateKind {
    Value,
    List,
    Map,
    Reducing,
    Aggregating,
    /// One value per pane and key. The key is `(pane, key)`; the key group is that of its second part.
    Panes,
    /// One value per key group. The key is the key group itself.
    KeyGroup,
    /// Bytes in a format of the operator's own. The key is `(key group, partition, chunk)`.
    Raw,
}

/// Name, kind and types of a keyed state: what compatibility is checked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDescriptor {
    pub name: String,
    pub kind: StateKind,
    pub key: Type,
    pub value: Type,
}

/// Keyed state of one operator subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedHandle {
    /// Holds all that there was when it was written.
    pub file: FileHandle,
    /// Hold what changed since, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deltas: Vec<FileHandle>,
    /// Key groups that the subtask owned when it was written.
    pub key_groups: Range<u32>,
    /// Number of entries over all states.
    pub entries: u64,
    #[serde(default, skip_serializing_if = "FileFormat::is_canonical")]
    pub format: FileFormat,
}

/// What the files of a [`KeyedHandle`] are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileFormat {
    /// Snapshot files of Weir: every state backend reads them.
    #[default]
    Canonical,
    /// A head, and the files of a RocksDB database.
    RocksDb,
}

impl FileFormat {
    pub fn is_canonical(&self) -> bool {
        *self == Self::Canonical
    }
}

impl KeyedHandle {
    /// All files, oldest first.
    pub fn files(&self) -> impl Iterator<Item = &FileHandle> {
        [&self.file].into_iter().chain(&self.deltas)
    }
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files().map(|f| f.size).sum()
    }
}

/// Everything that one operator subtask puts into a snapshot. Small things lie in the manifest itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorSubtaskState {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyed: Vec<KeyedHandle>,
    /// Operator list states by name (splits of a source, pending commits of a sink, user lists): elements, encoded.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lists: BTreeMap<String, Vec<Bytes64>>,
}

/// Name of the list state that holds a source's splits.
pub const SPLITS: &str = "weir.splits";
/// Name of the list state that holds a sink's pending commits.
pub const PENDING: &str = "weir.pending";

/// Name of the list state that holds a broadcast state: the same in every subtask, and copied to new ones.
pub const BROADCAST: &str = "weir.broadcast";
/// Name of the list state that says of which inputs an operator was told the end: one byte, a bit for each. At another
/// parallelism, only what all subtasks were told counts.
pub const ENDED: &str = "weir.ended";
/// Beginning of the names of list states of which every subtask gets all elements of all subtasks.
pub const UNION: &str = "weir.union.";

/// Bytes written as base64 in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bytes64(pub Vec<u8>);

impl Serialize for Bytes64 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use base64::Engine;
        s.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}
impl<'de> Deserialize<'de> for Bytes64 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        use base64::Engine;
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What one task (a chain's subtask) acknowledges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSnapshot {
    /// By operator name.
    pub operators: BTreeMap<String, OperatorSubtaskState>,
    pub stats: TaskSnapshotStats,
}

/// Where the time of one task's snapshot went; µs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSnapshotStats {
    pub alignment_us: u64,
    pub sync_us: u64,
    pub async_us: u64,
    pub bytes: u64,
}

/// What a task gets to start from: the pieces of a snapshot that concern it, by operator name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRestore {
    pub operators: BTreeMap<String, OperatorRestore>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRestore {
    /// Files that hold some of the subtask's key groups (the reader skips the others).
    pub keyed: Vec<KeyedHandle>,
    pub lists: BTreeMap<String, Vec<Bytes64>>,
}
