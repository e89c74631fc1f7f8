//! What a user writes against: the job, streams, keyed streams, functions.
mod function;
mod keyed;
mod keyed_stages;
mod stages;
mod stream;

pub use function::{KeySelector, KeyedProcessFunction, ProcessFunction, RuntimeContext};
pub use keyed::KeyedStream;
pub use stream::{Job, Stream};
