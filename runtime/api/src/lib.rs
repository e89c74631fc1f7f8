//! The types that Weir's operator and runtime share. The operator imports this crate and nothing else of the runtime.
//!
//! - [`ids`]: job, attempt, checkpoint and deployment identities
//! - [`config`]: the typed configuration of a job and of the two processes; the custom resource is generated from it
//! - [`rest`]: bodies of the jobmanager's REST interface (Flink's v1 paths, and ours beside them under `/weir/v1`)
//! - [`status`]: life-cycle states of a job and of a task
pub mod config;
pub mod duration;
pub mod ids;
pub mod rest;
pub mod status;

pub use duration::HumanDuration;
