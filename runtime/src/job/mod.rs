//! What a user writes against: the job, streams, keyed streams, functions.
pub mod alignment;
mod function;
mod keyed;
mod keyed_stages;
mod stages;
mod stream;
mod timers;
mod watermarks;
pub mod window;

pub use function::{KeySelector, KeyedProcessFunction, ProcessFunction, RuntimeContext};
pub use keyed::KeyedStream;
pub use stream::{Job, Stream};
pub use timers::{Due, TimeDomain, Timer, Timers};
pub use watermarks::{WatermarkGenerator, WatermarkStrategy};
pub use window::{CountWindowedStream, WindowedStream};
