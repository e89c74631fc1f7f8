//! How records and barriers move through a task: batches, stages, outputs, alignment.
pub mod batch;
pub mod deploy;
pub mod factory;
pub mod output;
pub mod stage;
pub mod task;

pub use batch::{BATCH_RECORDS, Batch};
pub use output::Output;
pub use stage::{Signal, Stage};
