//! Metrics, tracing, statistics.
pub mod exposition;
mod process;
mod task;
pub mod telemetry;

pub use process::resident_bytes;
pub use task::TaskMetrics;
