//! The jobmanager: life cycle, scheduling and recovery of one job (pure), the driver around them, the REST interface.
pub mod lifecycle;
pub mod registry;
pub mod restart;
pub mod schedule;
