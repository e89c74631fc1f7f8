//! The entries of the log: what each says, and its JSON.
use crate::checkpoint::envelope;
use crate::checkpoint::handles::SnapshotKind;
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use weir_api::ids::{Attempt, CheckpointId, Deployment};
use weir_api::rest::SnapshotInfo;
use weir_api::status::TerminalStatus;

/// Tells two processes apart that claim the same attempt. Written as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub u64);

impl Nonce {
    /// A fresh one, from the operating system's randomness.
    pub fn random() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // each RandomState is seeded by the operating system, once per thread, and differs from the last
        let mut h = std::collections::hash_map::RandomState::new().build_hasher();
        h.write_u32(std::process::id());
        if let Ok(t) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            h.write_u128(t.as_nanos());
        }
        Self(h.finish())
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
impl Serialize for Nonce {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        u64::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}

/// One entry. Its index is its file's name: `log/<index:020>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogEntry {
    /// Who wrote it: attempt and nonce of the claim that it belongs to.
    pub attempt: Attempt,
    pub nonce: Nonce,
    /// Milliseconds since the epoch, for people: no rule reads it.
    pub at: i64,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Body {
    /// From here on only this attempt may append. The same attempt repeats its claim from time to time, so that the entries
    /// below can be cleaned up.
    Claim(Claim),
    /// The checkpoint exists; its side effects may be committed.
    Completed(Snapshot),
    /// The savepoint exists; side effects only if its kind is a stop.
    Savepoint(Snapshot),
    /// The job ended.
    Terminal(Terminal),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    pub fingerprint: String,
    /// What the attempt starts from; absent: new.
    pub restores: Option<SnapshotRef>,
    /// Absent when started by hand.
    pub deployment: Option<Deployment>,
    /// Uids of earlier deployments, latest last, at most [`MAX_SUPERSEDED`].
    #[serde(default)]
    pub superseded: Vec<String>,
    /// Parallelism that the attempt runs with.
    pub parallelism: u32,
    /// Parallelism in the configuration of the process that claimed (a rescale by REST makes the two differ).
    pub configured_parallelism: u32,
    pub max_parallelism: u32,
    /// The restore section that was last carried out, handed on from claim to claim, so that it is not carried out again.
    pub restore_nonce: Option<i64>,
    pub restore_from: Option<String>,
    /// Ids below were or may have been used by earlier attempts.
    pub next_checkpoint: CheckpointId,
    /// The attempt only commits what a stop savepoint left pending, and records the end.
    #[serde(default)]
    pub finishes_stop: bool,
}

/// Bound of [`Claim::superseded`].
pub const MAX_SUPERSEDED: usize = 32;

/// A completed checkpoint or savepoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    pub id: CheckpointId,
    /// Directory of its files and manifest, relative to the job's root in the storage, or an absolute URL.
    pub path: String,
    pub kind: SnapshotKind,
    pub size_bytes: u64,
    pub duration_ms: u64,
    /// Of a checkpoint: with this entry the checkpoints of entries below this index are dropped.
    #[serde(default)]
    pub retains_from: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminal {
    pub status: TerminalStatus,
    /// Directories of the checkpoints and savepoints that are kept; all others of the log are gone or going.
    pub kept: Vec<String>,
    pub reason: String,
}

/// A snapshot as a claim, a decision or a status names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRef {
    /// Index of its entry; absent for one that was given by path and is not in the log.
    pub index: Option<u64>,
    pub id: CheckpointId,
    pub path: String,
    pub kind: SnapshotKind,
    pub size_bytes: u64,
    pub duration_ms: u64,
    pub completed_at: i64,
}

impl SnapshotRef {
    /// Triggered and logged after another snapshot of the same log.
    pub(super) fn goes_forward_from(&self, other: &Self) -> bool {
        self.index > other.index && self.id > other.id
    }
    pub fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id.0,
            path: self.path.clone(),
            log_index: self.index,
            is_savepoint: self.kind.is_savepoint(),
            is_stop: matches!(self.kind, SnapshotKind::Stop { .. }),
            completed_at: self.completed_at,
            size_bytes: self.size_bytes,
            duration_ms: self.duration_ms,
        }
    }
}

impl fmt::Display for SnapshotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.kind.is_savepoint() { "savepoint" } else { "checkpoint" };
        write!(f, "{what} {} ({})", self.id, self.path)
    }
}

impl LogEntry {
    pub fn claim(&self) -> Option<&Claim> {
        match &self.body {
            Body::Claim(c) => Some(c),
            _ => None,
        }
    }
    pub fn terminal(&self) -> Option<&Terminal> {
        match &self.body {
            Body::Terminal(t) => Some(t),
            _ => None,
        }
    }
    /// The snapshot that the entry records, of either kind.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        match &self.body {
            Body::Completed(s) | Body::Savepoint(s) => Some(s),
            _ => None,
        }
    }
    /// The snapshot at this index with all that a claim wants to know of it.
    pub fn snapshot_ref(&self, index: u64) -> Option<SnapshotRef> {
        self.snapshot().map(|s| SnapshotRef {
            index: Some(index),
            id: s.id,
            path: s.path.clone(),
            kind: s.kind,
            size_bytes: s.size_bytes,
            duration_ms: s.duration_ms,
            completed_at: self.at,
        })
    }
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        envelope::seal(self)
    }
    pub fn from_bytes(bytes: &[u8], file: &str) -> Result<Self> {
        envelope::open(bytes, file)
    }
}

/// File name of the entry at an index.
pub fn file_name(index: u64) -> String {
    format!("{index:020}.json")
}

/// Index of an entry's file name.
pub fn index_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// An error about the log as a whole.
pub(super) fn damaged(message: impl fmt::Display) -> Error {
    Error::external(ErrorCode::Storage, message)
}
