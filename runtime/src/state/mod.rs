//! Keyed state: backends, handles, snapshot files.
pub mod snapshot;
