//! Weir's runtime: stateful stream jobs with exactly-once state.
extern crate self as weir; // the derive macros write `::weir::` paths, here too

pub mod checkpoint;
pub mod connectors;
pub mod control;
pub mod data;
pub mod dataflow;
pub mod error;
pub mod exchange;
pub mod graph;
pub mod job;
pub mod jobmanager;
pub mod observe;
pub mod state;
