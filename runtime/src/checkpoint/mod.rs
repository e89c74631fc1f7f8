//! Checkpoints: the log, manifests, storage, the coordinator, restore assignment, retention.
//!
//! What decides is pure ([`log::machine`], [`coordinator`], [`restore`], [`retention`]); [`log::Log`], [`storage::Storage`]
//! and [`shell`] carry it out.
pub mod coordinator;
pub mod envelope;
pub mod handles;
pub mod increments;
pub mod inspect;
pub mod log;
pub mod manifest;
pub mod restore;
pub mod retention;
pub mod shell;
pub mod stats;
pub mod storage;
pub mod stored;
