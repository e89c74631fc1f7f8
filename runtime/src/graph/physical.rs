//! From the logical graph to vertices (chains of operators) with a parallelism, and the edges between them. Pure: every
//! process derives the same plan from the same graph and parallelism.
use super::logical::{LogicalGraph, NodeId, NodeKind, Partition};
use std::fmt;
use weir_api::ids::JobName;
use weir_api::rest::SlotsNeeded;

/// A chain of operators that run in one task per subtask. The first node is the head; the others hang behind it as a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    pub id: u32,
    /// Names of the operators, joined with ` -> `.
    pub name: String,
    /// Producers before consumers.
    pub nodes: Vec<NodeId>,
    pub parallelism: u32,
    pub is_source: bool,
    /// Edges that end at the head.
    pub inputs: Vec<u32>,
    /// Edges that leave from any node of the chain.
    pub outputs: Vec<u32>,
}

/// Records that travel between two vertices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub id: u32,
    pub from_vertex: u32,
    pub from_node: NodeId,
    /// Which output of the node (see [`Input::output`](super::Input)).
    pub from_output: u16,
    pub to_vertex: u32,
    /// Which input of the consumer.
    pub to_port: u8,
    pub partition: Partition,
}

/// Names one channel within an attempt: one producer subtask to one consumer subtask along an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChannelId {
    pub edge: u32,
    pub producer: u32,
    pub consumer: u32,
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "edge {} from subtask {} to subtask {}", self.edge, self.producer, self.consumer)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobGraph {
    pub vertices: Vec<Vertex>,
    pub edges: Vec<Edge>,
    pub max_parallelism: u32,
}

impl Vertex {
    /// 32 hex digits, as in Flink's REST, derived from the job and the head's name.
    pub fn rest_id(&self, job: &JobName) -> String {
        JobName { namespace: job.to_string(), name: self.name.clone() }.job_id()
    }
}

impl JobGraph {
    /// Chains the graph's operators and fixes the parallelism of each vertex.
    ///
    /// A node is chained to its producer when it has that one input, both have the same parallelism and no record has to
    /// change its subtask: a forward edge, or any edge where the parallelism is 1.
    pub fn new(graph: &LogicalGraph, parallelism: u32, max_parallelism: u32) -> Self {
        let width = |id: NodeId| graph.nodes[id].parallelism.unwrap_or(parallelism).min(max_parallelism);
        let mut vertex_of: Vec<u32> = Vec::with_capacity(graph.nodes.len());
        let mut vertices: Vec<Vertex> = Vec::new();
        let mut edges: Vec<Edge> = Vec::new();
        for (id, node) in graph.nodes.iter().enumerate() {
            let chained = match node.inputs[..] {
                [i] => {
                    let same = width(i.node) == width(id);
                    (same && (i.partition == Partition::Forward || width(id) == 1)).then(|| vertex_of[i.node])
                }
                _ => None,
            };
            if let Some(v) = chained {
                vertex_of.push(v);
                let vertex = &mut vertices[v as usize];
                vertex.nodes.push(id);
                vertex.name.push_str(" -> ");
                vertex.name.push_str(&node.name);
                continue;
            }
            let v = vertices.len() as u32;
            vertex_of.push(v);
            let mut vertex = Vertex {
                id: v,
                name: node.name.clone(),
                nodes: vec![id],
                parallelism: width(id),
                is_source: node.kind == NodeKind::Source,
                inputs: Vec::new(),
                outputs: Vec::new(),
            };
            for i in &node.inputs {
                let partition = match i.partition {
                    Partition::Forward if width(i.node) != width(id) => Partition::Rebalance,
                    p => p,
                };
                let (e, from_vertex) = (edges.len() as u32, vertex_of[i.node]);
                edges.push(Edge {
                    id: e,
                    from_vertex,
                    from_node: i.node,
                    from_output: i.output,
                    to_vertex: v,
                    to_port: i.port,
                    partition,
                });
                vertex.inputs.push(e);
                vertices[from_vertex as usize].outputs.push(e);
            }
            vertices.push(vertex);
        }
        Self { vertices, edges, max_parallelism }
    }

    /// Slots that the job needs: a slot holds one subtask of each vertex.
    pub fn slots(&self) -> u32 {
        self.vertices.iter().map(|v| v.parallelism).max().unwrap_or(0)
    }

    /// The same before the job's parallelism is known.
    pub fn slots_needed(graph: &LogicalGraph, max_parallelism: u32) -> SlotsNeeded {
        let fixed = graph.nodes.iter().filter_map(|n| n.parallelism).max().unwrap_or(0);
        SlotsNeeded { fixed: fixed.min(max_parallelism), follows: graph.nodes.iter().any(|n| n.parallelism.is_none()) }
    }

    /// Subtasks over all vertices.
    pub fn tasks(&self) -> u32 {
        self.vertices.iter().map(|v| v.parallelism).sum()
    }

    /// Channels of an edge, by producer, then consumer.
    pub fn channels(&self, edge: &Edge) -> impl Iterator<Item = ChannelId> + use<> {
        let producers = self.vertices[edge.from_vertex as usize].parallelism;
        let consumers = self.vertices[edge.to_vertex as usize].parallelism;
        let (edge, forward) = (edge.id, edge.partition == Partition::Forward);
        (0..producers).flat_map(move |producer| {
            (0..consumers).filter(move |&c| !forward || c == producer).map(move |consumer| ChannelId {
                edge,
                producer,
                consumer,
            })
        })
    }
}
