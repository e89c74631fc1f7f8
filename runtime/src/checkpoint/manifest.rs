//! The manifest of a checkpoint or savepoint: what it holds, of which job, and which files. Published last.
use super::envelope;
use super::handles::{ENDED, KeyedHandle, OperatorSubtaskState, SnapshotKind, StateDescriptor, TaskSnapshot};
use super::storage::{Storage, is_absolute};
use crate::data::HASH_VERSION;
use crate::dataflow::task::TaskId;
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{JobGraph, LogicalGraph, NodeKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use weir_api::ids::{Attempt, CheckpointId, JobName};

/// Name of the manifest in a snapshot's directory.
pub const FILE: &str = "_metadata.json";

/// Folder below the job's root with the state files of checkpoints: later checkpoints refer to files of earlier ones. A
/// file's name begins with the name of the directory of the checkpoint that it was written for, and a dot.
pub const SHARED: &str = "shared";

/// The path of a state file of a checkpoint or savepoint that is written to `directory`.
pub fn state_file(directory: &str, kind: SnapshotKind, name: &str) -> String {
    match kind.is_savepoint() {
        // a savepoint is all in its own directory
        true => format!("{directory}/{name}"),
        false => format!("{SHARED}/{directory}.{name}"),
    }
}

/// An operator of the job as far as snapshots are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorSpec {
    pub name: String,
    pub kind: OperatorKind,
    pub vertex: u32,
    pub parallelism: u32,
    /// Keyed states.
    pub states: Vec<StateDescriptor>,
    /// Keeps list state (splits, pending commits).
    pub has_lists: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OperatorKind {
    Source,
    Operator,
    Sink,
}

/// The job as far as snapshots are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    pub job: JobName,
    pub fingerprint: String,
    pub parallelism: u32,
    pub max_parallelism: u32,
    pub operators: Vec<OperatorSpec>,
}

impl JobSpec {
    /// `parallelism` is the one that `plan` was made with.
    pub fn new(job: &JobName, graph: &LogicalGraph, plan: &JobGraph, parallelism: u32) -> Self {
        let of_vertex = |v: &crate::graph::Vertex| -> Vec<OperatorSpec> {
            let spec = |id: &usize| {
                let n = &graph.nodes[*id];
                OperatorSpec {
                    name: n.name.clone(),
                    kind: match n.kind {
                        NodeKind::Source => OperatorKind::Source,
                        NodeKind::Operator => OperatorKind::Operator,
                        NodeKind::Sink => OperatorKind::Sink,
                    },
                    vertex: v.id,
                    parallelism: v.parallelism,
                    states: n.states.clone(),
                    has_lists: n.has_lists,
                }
            };
            v.nodes.iter().map(spec).collect()
        };
        Self {
            job: job.clone(),
            fingerprint: graph.fingerprint(),
            parallelism,
            max_parallelism: plan.max_parallelism,
            operators: plan.vertices.iter().flat_map(of_vertex).collect(),
        }
    }
    /// All tasks: subtasks of all vertices.
    pub fn tasks(&self) -> Vec<TaskId> {
        let mut tasks: Vec<TaskId> = self
            .operators
            .iter()
            .flat_map(|o| (0..o.parallelism).map(|subtask| TaskId { vertex: o.vertex, subtask }))
            .collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub weir_version: String,
    /// Version of the key hash: key groups mean nothing under another one.
    pub hash_version: u32,
    pub job: JobName,
    pub id: CheckpointId,
    pub attempt: Attempt,
    pub kind: SnapshotKind,
    /// Directory that it was written to, relative to the job's root or an absolute URL.
    pub directory: String,
    pub fingerprint: String,
    pub parallelism: u32,
    pub max_parallelism: u32,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    pub operators: Vec<OperatorManifest>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorManifest {
    pub name: String,
    pub kind: OperatorKind,
    /// Keyed states that it declared.
    pub states: Vec<StateDescriptor>,
    pub parallelism: u32,
    /// By subtask.
    pub subtasks: Vec<OperatorSubtaskState>,
}

impl OperatorManifest {
    /// Holds something that a restore would lose without the operator.
    pub fn holds_state(&self) -> bool {
        self.holds_lists() || self.subtasks.iter().any(|s| s.keyed.iter().any(|k| k.entries > 0))
    }
    /// Some list has elements. That an input has ended is no state of an operator's own.
    pub fn holds_lists(&self) -> bool {
        let lists = self.subtasks.iter().flat_map(|s| &s.lists);
        lists.filter(|(name, _)| *name != ENDED).any(|(_, elements)| !elements.is_empty())
    }
    /// Entries in keyed state.
    pub fn entries(&self) -> u64 {
        self.subtasks.iter().flat_map(|s| &s.keyed).map(|k| k.entries).sum()
    }
}

/// What identifies a snapshot within its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHead {
    pub id: CheckpointId,
    pub attempt: Attempt,
    pub kind: SnapshotKind,
    pub directory: String,
    pub created_at: i64,
}

impl Manifest {
    /// Puts the tasks' snapshots together. Each task must be among them.
    pub fn build(spec: &JobSpec, head: &SnapshotHead, snapshots: &BTreeMap<TaskId, TaskSnapshot>) -> Result<Self> {
        let operator = |o: &OperatorSpec| -> Result<OperatorManifest> {
            let subtask = |subtask| {
                let task = TaskId { vertex: o.vertex, subtask };
                let snapshot = snapshots.get(&task).ok_or_else(|| {
                    Error::internal(format!(
                        "checkpoint {}: subtask {subtask} of {} did not acknowledge",
                        head.id, o.name
                    ))
                })?;
                Ok(snapshot.operators.get(&o.name).cloned().unwrap_or_default())
            };
            Ok(OperatorManifest {
                name: o.name.clone(),
                kind: o.kind,
                states: o.states.clone(),
                parallelism: o.parallelism,
                subtasks: (0..o.parallelism).map(subtask).collect::<Result<_>>()?,
            })
        };
        Ok(Self {
            weir_version: env!("CARGO_PKG_VERSION").into(),
            hash_version: HASH_VERSION,
            job: spec.job.clone(),
            id: head.id,
            attempt: head.attempt,
            kind: head.kind,
            directory: head.directory.clone(),
            fingerprint: spec.fingerprint.clone(),
            parallelism: spec.parallelism,
            max_parallelism: spec.max_parallelism,
            created_at: head.created_at,
            operators: spec.operators.iter().map(operator).collect::<Result<_>>()?,
        })
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        envelope::seal(self)
    }
    /// Parses and checks; `file` is named in errors.
    pub fn from_bytes(bytes: &[u8], file: &str) -> Result<Self> {
        let m: Self = envelope::open(bytes, file)?;
        let bad = |what: String| Err(Error::external(ErrorCode::Snapshot, format!("{file} is corrupt: {what}")));
        for o in &m.operators {
            if o.subtasks.len() != o.parallelism as usize {
                return bad(format!(
                    "operator {} has parallelism {} and {} subtasks",
                    o.name,
                    o.parallelism,
                    o.subtasks.len()
                ));
            }
            for k in o.subtasks.iter().flat_map(|s| &s.keyed) {
                if k.key_groups.start > k.key_groups.end || k.key_groups.end > m.max_parallelism {
                    return bad(format!(
                        "operator {} has key groups {:?} of {}",
                        o.name, k.key_groups, m.max_parallelism
                    ));
                }
            }
        }
        Ok(m)
    }

    /// Reads the manifest of a snapshot's directory (as [`Storage::normalize`] gives it) and turns its file names into ones
    /// that hold from here: a snapshot that was moved, or is another job's, reads from where it lies now.
    pub async fn read(storage: &Storage, directory: &str) -> Result<Self> {
        let file = format!("{directory}/{FILE}");
        let name = storage.name(&file);
        let Some(bytes) = storage.get(&file).await? else {
            return Err(Error::user(
                ErrorCode::Snapshot,
                format!(
                    "there is no snapshot at {}: {FILE} is missing (deleted, never completed, or a wrong path)",
                    storage.name(directory)
                ),
            ));
        };
        let mut m = Self::from_bytes(&bytes, &name)?;
        m.rebase(directory);
        Ok(m)
    }

    /// Makes files that lie in the snapshot's own directory lie in `directory`.
    fn rebase(&mut self, directory: &str) {
        if self.directory == directory {
            return;
        }
        let own = format!("{}/", self.directory);
        // of another job: the shared folder lies beside the snapshot's directory
        let root = directory.rsplit_once('/').filter(|_| is_absolute(directory));
        let root = root.map_or(String::new(), |(root, _)| format!("{root}/"));
        for k in self.operators.iter_mut().flat_map(|o| &mut o.subtasks).flat_map(|s| &mut s.keyed) {
            for file in [&mut k.file].into_iter().chain(&mut k.deltas) {
                if let Some(below) = file.path.strip_prefix(&own) {
                    file.path = format!("{directory}/{below}");
                } else if is_shared(&file.path) {
                    file.path = format!("{root}{}", file.path);
                }
            }
        }
        self.directory = directory.to_owned();
    }

    /// Bytes of its files and of what lies in the manifest itself.
    pub fn size_bytes(&self) -> u64 {
        self.operators.iter().flat_map(|o| &o.subtasks).map(state_bytes).sum()
    }
    /// Number of files, without the manifest.
    pub fn files(&self) -> usize {
        self.operators.iter().flat_map(|o| &o.subtasks).flat_map(|s| &s.keyed).map(|k| 1 + k.deltas.len()).sum()
    }
    /// Paths of its files.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let keyed = self.operators.iter().flat_map(|o| &o.subtasks).flat_map(|s| &s.keyed);
        keyed.flat_map(KeyedHandle::files).map(|f| f.path.as_str())
    }
    /// Paths of its files in the job's shared folder.
    pub fn shared_files(&self) -> impl Iterator<Item = &str> {
        self.paths().filter(|p| is_shared(p))
    }
    /// Files that lie outside the snapshot's own directory.
    pub fn foreign_files(&self) -> impl Iterator<Item = &str> {
        let own = format!("{}/", self.directory);
        self.paths().filter(move |p| !p.starts_with(&own) || (is_absolute(p) && !is_absolute(&own)))
    }
}

/// Lies in the job's shared folder.
pub fn is_shared(path: &str) -> bool {
    path.strip_prefix(SHARED).is_some_and(|p| p.starts_with('/'))
}

/// Bytes of one operator subtask's state.
pub fn state_bytes(s: &OperatorSubtaskState) -> u64 {
    let files: u64 = s.keyed.iter().map(KeyedHandle::size).sum();
    files + s.lists.values().flatten().map(|b| b.0.len() as u64).sum::<u64>()
}
