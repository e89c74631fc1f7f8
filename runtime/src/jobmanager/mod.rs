//! The jobmanager: life cycle, scheduling and recovery of one job (pure), the driver around them, the REST interface.
mod driver;
pub mod io;
pub mod lifecycle;
pub mod master;
pub mod registry;
pub mod rest;
pub mod restart;
mod rpc;
pub mod schedule;

pub use driver::{Ending, Handle, JobManager, wall_clock};
