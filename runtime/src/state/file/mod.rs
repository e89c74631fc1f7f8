//! Snapshot files of keyed state: one per operator subtask, written as a stream, read by key-group ranges.
//!
//! The layout is described in `docs/state-format.md`.
mod blocks;
mod format;
mod read;
mod restore;
mod write;

pub use blocks::BlockWriter;
pub use format::{Compression, FORMAT_VERSION, SnapshotMeta};
pub use read::{InMemory, ReadAt, SnapshotFile};
pub use restore::{Chain, NotDeclared, Restored, check_types, restore};
pub use write::{Piece, WriteOptions, Written, write};

#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod tests;
