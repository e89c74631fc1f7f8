//! Metrics, tracing, statistics.
mod task;
pub use task::TaskMetrics;
