//! The graph that the user's program declares: nodes with names, inputs, states, and a factory that makes the running part.
use crate::checkpoint::handles::StateDescriptor;
use crate::data::hash_bytes;
use crate::dataflow::factory::{NodeFactory, RecordType};
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeSet;
use std::sync::Arc;

pub type NodeId = usize;

/// How records get from a node to one of its consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Partition {
    /// Subtask i to subtask i; becomes a rebalance where the parallelisms differ.
    Forward,
    /// By the key's hash.
    Hash,
    /// Batches in turn.
    Rebalance,
    /// Every record to every subtask.
    Broadcast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    Source,
    Operator,
    Sink,
}

pub struct Node {
    /// The operator's identity in snapshots; unique in the job.
    pub name: String,
    /// The user gave the name (must hold for nodes that keep state).
    pub named: bool,
    pub kind: NodeKind,
    /// Fixed parallelism, or the job's.
    pub parallelism: Option<u32>,
    pub inputs: Vec<(NodeId, Partition)>,
    /// Keyed states, for the compatibility check.
    pub states: Vec<StateDescriptor>,
    /// Keeps operator list state (splits, pending commits).
    pub has_lists: bool,
    pub factory: Arc<dyn NodeFactory>,
    /// Type of the records that it takes; none for a source.
    pub input_type: Option<Arc<dyn RecordType>>,
    /// Type of the records that it emits; none for a sink.
    pub output_type: Option<Arc<dyn RecordType>>,
}

impl Node {
    /// Whether snapshots hold something of it, so that its name matters.
    pub fn is_stateful(&self) -> bool {
        !self.states.is_empty() || self.has_lists
    }
}

/// All nodes of a job, producers before consumers.
#[derive(Default)]
pub struct LogicalGraph {
    pub nodes: Vec<Node>,
}

impl LogicalGraph {
    /// Checks what the types cannot: names, presence of sources and sinks, fixed parallelisms.
    pub fn validate(&self, max_parallelism: u32) -> Result<()> {
        let bad = |m: String| Err(Error::user(ErrorCode::Graph, m));
        if !self.nodes.iter().any(|n| n.kind == NodeKind::Source) {
            return bad("the job has no source: declare one with job.source(name, ...)".into());
        }
        let mut names = BTreeSet::new();
        for (id, n) in self.nodes.iter().enumerate() {
            if !names.insert(n.name.as_str()) {
                return bad(format!(
                    "two operators are named {:?}: a name is an operator's identity in snapshots, give each its own",
                    n.name
                ));
            }
            if n.name.is_empty() || n.name.len() > 200 || n.name.chars().any(char::is_control) {
                return bad(format!(
                    "the operator name {:?} is empty, longer than 200 bytes or has control characters",
                    n.name
                ));
            }
            if n.is_stateful() && !n.named {
                return bad(format!(
                    "{} keeps state and has no name: give it one, it is its identity in snapshots",
                    n.name
                ));
            }
            if let Some(p) = n.parallelism
                && (p == 0 || p > max_parallelism)
            {
                return bad(format!(
                    "{} has parallelism {p}: it must lie between 1 and maxParallelism ({max_parallelism})",
                    n.name
                ));
            }
            let consumed = self.nodes.iter().any(|m| m.inputs.iter().any(|i| i.0 == id));
            if n.kind == NodeKind::Source && !consumed {
                return bad(format!("nothing consumes the source {}: end each stream with a sink", n.name));
            }
        }
        Ok(())
    }

    /// Equal for equal programs: names, kinds, edges, states and record types; not the parallelism. A taskmanager with
    /// another fingerprint than the jobmanager's is refused.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for n in &self.nodes {
            let ty = |t: &Option<Arc<dyn RecordType>>| t.as_ref().map(|t| t.describe());
            text.push_str(&format!(
                "{:?}|{:?}|{:?}|{:?}|{:?}|{:?}\n",
                n.name,
                n.kind,
                n.inputs,
                n.states,
                ty(&n.input_type),
                ty(&n.output_type)
            ));
        }
        format!("{:016x}", hash_bytes(text.as_bytes()))
    }
}
