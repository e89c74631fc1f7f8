//! Weir's runtime: stateful stream jobs with exactly-once state.
extern crate self as weir; // the derive macros write `::weir::` paths, here too

pub mod checkpoint;
pub mod cli;
pub mod connectors;
pub mod control;
pub mod data;
pub mod dataflow;
pub mod error;
pub mod exchange;
pub mod graph;
pub mod job;
pub mod jobmanager;
pub mod observe;
pub mod prelude;
pub mod state;

pub use cli::main;
pub use error::{Error, Result};

/// `format!` that makes a [`data::Str`]: no allocation up to 24 bytes.
#[macro_export]
macro_rules! format_str {
    ($($arg:tt)*) => { $crate::__compact_str::format_compact!($($arg)*) };
}
#[doc(hidden)]
pub use compact_str as __compact_str;
