//! Checkpoints: the log, manifests, storage, the coordinator, restore assignment, retention.
pub mod handles;
