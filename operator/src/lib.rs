//! The operator.
pub mod crd;
pub mod yaml;
