//! Weir's operator: reconciles StreamJob resources.
//!
//! What decides is pure and lives in [`reconcile`] (`plan`, `diff`, `pods`, `status`), [`build`], [`crd`] and [`lease::decide`]; around it are the shells:
//! [`controller`] (one look at a job), [`children`] and [`watch`] (what is observed), [`reconcile::apply`] and [`job_client`] (what is done).
pub mod build;
pub mod children;
pub mod clock;
pub mod controller;
pub mod crd;
pub mod events;
pub mod job_client;
pub mod lease;
pub mod metrics;
pub mod reconcile;
pub mod watch;
pub mod web;
pub mod yaml;
