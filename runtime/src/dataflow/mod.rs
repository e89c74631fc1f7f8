//! How records and barriers move through a task: batches, stages, outputs, alignment.
pub mod aligner;
pub mod batch;
pub mod deploy;
pub mod factory;
pub mod gate;
pub mod harness;
pub mod input_task;
pub mod output;
pub mod snapshot;
pub mod source_task;
pub mod stage;
pub mod task;
mod timing;
pub mod writer;

pub use batch::{BATCH_RECORDS, Batch};
pub use output::Output;
pub use stage::{Signal, Stage};

#[cfg(test)]
mod tests;
