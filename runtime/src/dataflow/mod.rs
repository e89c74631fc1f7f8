//! How records and barriers move through a task: batches, stages, outputs, alignment.
pub mod aligner;
pub mod batch;
pub mod clock;
pub mod deploy;
pub mod factory;
mod flusher;
pub mod gate;
pub mod harness;
pub mod inlet;
pub mod input_task;
pub mod output;
mod pause;
pub mod side_output;
pub mod snapshot;
pub mod source_task;
pub mod stage;
pub mod task;
mod timing;
pub mod valve;
mod wakeup;
pub mod workers;
pub mod writer;

pub use batch::{BATCH_RECORDS, Batch};
pub use clock::Clock;
pub use output::Output;
pub use side_output::{AnySideOutput, OutputTag, SideOutput};
pub use stage::{Signal, Split, Stage};
pub use workers::Workers;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod time_tests;
