//! Runs the processes: runtimes, signals, exit codes.
use crate::error::{Error, Result};
use crate::graph::LogicalGraph;
use std::process::ExitCode;
use weir_api::config::{JobConfig, JobManagerConfig, TaskManagerConfig};

/// A whole cluster in this process.
pub fn local(_config: JobConfig, _graph: LogicalGraph) -> Result<ExitCode> {
    Err(Error::internal("not built yet"))
}

pub fn jobmanager(_config: JobManagerConfig, _graph: LogicalGraph) -> Result<ExitCode> {
    Err(Error::internal("not built yet"))
}

pub fn taskmanager(_config: TaskManagerConfig, _graph: LogicalGraph) -> Result<ExitCode> {
    Err(Error::internal("not built yet"))
}
