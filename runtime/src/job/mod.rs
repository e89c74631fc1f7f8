//! What a user writes against: the job, streams, keyed streams, functions.
pub mod alignment;
mod async_io;
mod broadcast;
mod broadcast_plain;
mod co_stages;
mod connect;
mod function;
mod interval_join;
mod keyed;
mod keyed_stages;
mod list_state;
mod stages;
mod stored;
mod stream;
mod timers;
mod watermarks;
pub mod window;

pub use async_io::AsyncOptions;
pub use broadcast::{BroadcastState, KeyedBroadcastProcessFunction};
pub use broadcast_plain::{BroadcastConnectedPlain, BroadcastProcessFunction};
pub use connect::{BroadcastConnectedStream, ConnectedStreams, KeyedCoProcessFunction};
pub use function::{KeySelector, KeyedProcessFunction, ProcessFunction, RuntimeContext};
pub use interval_join::IntervalJoin;
pub use keyed::KeyedStream;
pub use list_state::{AnyListState, OperatorListState};
pub use stream::{Job, Stream};
pub use timers::{Due, TimeDomain, Timer, Timers};
pub use watermarks::{GeneratorFactory, TimestampAssigner, WatermarkGenerator, WatermarkStrategy};
pub use window::{CountWindowedStream, WindowedStream};

#[cfg(test)]
mod bad_input_tests;
