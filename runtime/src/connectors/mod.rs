//! Sources and sinks. [`source::Source`] and [`sink::Sink`] are the contracts.
pub mod sink;
pub mod source;
