//! From what the user declared to what runs: logical graph, chains, subtasks, key groups. Pure.
pub mod key_group;
pub mod logical;
pub mod physical;

pub use key_group::{key_group, key_group_range};
pub use logical::{Input, LogicalGraph, Node, NodeId, NodeKind, Partition};
pub use physical::{ChannelId, Edge, JobGraph, Vertex};
