//! How records and barriers move through a task: batches, stages, outputs, alignment.
pub mod batch;
pub mod output;
pub mod stage;

pub use batch::{BATCH_RECORDS, Batch};
pub use output::Output;
pub use stage::{Signal, Stage};
