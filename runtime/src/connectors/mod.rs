//! Sources and sinks. [`source::Source`] and [`sink::Sink`] are the contracts.
mod blackhole;
mod collect;
pub mod file;
mod generator;
mod print;
mod rate;
pub mod sink;
pub mod source;
#[cfg(test)]
pub(crate) mod testing;

pub use blackhole::Blackhole;
pub use collect::Collect;
pub use file::{BadRecord, FileSink, FileSource};
pub use generator::{Generator, random};
pub use print::Print;
