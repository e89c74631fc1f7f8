//! observe -> validate -> diff -> plan -> apply -> status.
mod actions;
pub mod apply;
pub mod deletion;
pub mod diff;
pub mod plan;
pub mod pods;
pub mod rescale;
pub mod rollout;
pub mod status;
pub mod unreadable;
pub mod validate;
pub mod world;
