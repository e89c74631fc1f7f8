//! Identities that appear in messages, object paths, REST bodies and logs.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of one execution of the job; grows by one with each claim of the log (`protocols.md` §1). The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Attempt(pub u64);

/// Number of a checkpoint or savepoint; grows across attempts. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct CheckpointId(pub u64);

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A job's name within its namespace: both are Kubernetes names, and folders of the checkpoint storage.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobName {
    pub namespace: String,
    pub name: String,
}

impl JobName {
    /// The id in REST paths: 32 hex digits, as in Flink, derived from the name, so that it survives restarts.
    pub fn job_id(&self) -> String {
        // FNV-1a, 128 bits: no secrecy needed, only a stable spread
        let mut h: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        for b in self.namespace.bytes().chain([b'/']).chain(self.name.bytes()) {
            h = (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        format!("{h:032x}")
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which deployment of the job a jobmanager belongs to: the resource's uid and its spec generation.
/// A claim of the log records it, so that a restarted jobmanager knows whether it resumes (same deployment),
/// waits (a later one), or was superseded (an earlier one).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Deployment {
    pub uid: String,
    pub generation: i64,
    /// `spec.restartNonce`: only with a new one does a later generation run a job that has finished once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_nonce: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_ids_are_32_hex_digits_and_differ_by_namespace() {
        let id = |ns: &str, n: &str| JobName { namespace: ns.into(), name: n.into() }.job_id();
        assert_eq!(id("a", "bc").len(), 32);
        assert_ne!(id("a", "bc"), id("ab", "c"));
        assert_eq!(id("default", "flights"), id("default", "flights"));
    }
}
