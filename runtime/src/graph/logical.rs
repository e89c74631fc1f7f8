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

/// What a node takes records from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Input {
    pub node: NodeId,
    /// 0: the node's main output; `i + 1`: its side output `i`.
    pub output: u16,
    pub partition: Partition,
    /// Which of the consumer's inputs they go to: 1 is the second one of an operator that has two.
    pub port: u8,
}

impl Input {
    /// The main output of `node`, into the first input.
    pub const fn of(node: NodeId, partition: Partition) -> Self {
        Self { node, output: 0, partition, port: 0 }
    }
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
    pub inputs: Vec<Input>,
    /// Keyed states, for the compatibility check.
    pub states: Vec<StateDescriptor>,
    /// Keeps operator list state (splits, pending commits).
    pub has_lists: bool,
    pub factory: Arc<dyn NodeFactory>,
    /// Type of the records that it takes; none for a source.
    pub input_type: Option<Arc<dyn RecordType>>,
    /// Type of the records of its second input, if it has two.
    pub second_input_type: Option<Arc<dyn RecordType>>,
    /// Type of the records that it emits; none for a sink.
    pub output_type: Option<Arc<dyn RecordType>>,
    /// Names and types of its side outputs.
    pub side_outputs: Vec<(&'static str, Arc<dyn RecordType>)>,
}

impl Node {
    /// A node without inputs, outputs and state.
    pub fn new(name: impl Into<String>, kind: NodeKind, factory: Arc<dyn NodeFactory>) -> Self {
        Self {
            name: name.into(),
            named: false,
            kind,
            parallelism: None,
            inputs: Vec::new(),
            states: Vec::new(),
            has_lists: false,
            factory,
            input_type: None,
            second_input_type: None,
            output_type: None,
            side_outputs: Vec::new(),
        }
    }

    /// Type of the records of an output (see [`Input::output`]).
    pub fn type_of_output(&self, output: u16) -> Option<&Arc<dyn RecordType>> {
        match usize::from(output).checked_sub(1) {
            None => self.output_type.as_ref(),
            Some(side) => self.side_outputs.get(side).map(|s| &s.1),
        }
    }

    /// Whether snapshots hold something of it, so that its name matters.
    pub fn is_stateful(&self) -> bool {
        !self.states.is_empty() || self.has_lists
    }
}

/// All nodes of a job, producers before consumers.
#[derive(Default)]
pub struct LogicalGraph {
    pub nodes: Vec<Node>,
    /// What was wrong with a declaration, kept until [`Self::validate`]: declaring has no result.
    pub mistakes: Vec<String>,
}

impl LogicalGraph {
    /// Checks what the types cannot: names, presence of sources and sinks, fixed parallelisms.
    pub fn validate(&self, max_parallelism: u32) -> Result<()> {
        let bad = |m: String| Err(Error::user(ErrorCode::Graph, m));
        if let Some(mistake) = self.mistakes.first() {
            return bad(mistake.clone());
        }
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
            let consumed = self.nodes.iter().any(|m| m.inputs.iter().any(|i| i.node == id));
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
                "{:?}|{:?}|{:?}|{:?}|{:?}|{:?}|{:?}|{:?}\n",
                n.name,
                n.kind,
                n.inputs,
                n.states,
                ty(&n.input_type),
                ty(&n.second_input_type),
                ty(&n.output_type),
                n.side_outputs.iter().map(|(name, t)| (name, t.describe())).collect::<Vec<_>>()
            ));
        }
        format!("{:016x}", hash_bytes(text.as_bytes()))
    }
}
