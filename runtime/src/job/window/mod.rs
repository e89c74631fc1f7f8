//! Windows over keyed streams: tumbling, sliding, session, global, count.
//!
//! ```
//! # use std::time::Duration;
//! # use weir::prelude::*;
//! # fn declare(taxis: Stream<(Str, f64)>) {
//! taxis
//!     .key_by(|ride| &ride.0)
//!     .window(Tumbling::of(Duration::from_secs(3600)))
//!     .allowed_lateness(Duration::from_secs(600))
//!     .reduce("fares per hour", |sum, ride| sum.1 += ride.1);
//! # }
//! ```
//! A window fires when the watermark reaches its last millisecond, and, within the allowed lateness, again for each record
//! that comes later, with all that was accumulated. What comes later still goes to the side output for late records.
//!
//! Ten milliseconds, and five more for late ones:
//! ```
//! # use std::time::Duration;
//! # use weir::prelude::*;
//! # use weir::testing::OperatorHarness;
//! const LATE: OutputTag<(Str, u64)> = OutputTag::new("late");
//! let mut h = OperatorHarness::new(|fares: Stream<(Str, u64)>| {
//!     fares
//!         .key_by(|fare| &fare.0)
//!         .window(Tumbling::of(Duration::from_millis(10)))
//!         .allowed_lateness(Duration::from_millis(5))
//!         .late_output(LATE)
//!         .reduce_with("fares", |sum, fare| sum.1 += fare.1, |taxi, window, sum, out| {
//!             out.push((taxi.clone(), window.start, sum.1));
//!         })
//! })?;
//! h.push_at(("t1".into(), 7), 3)?;
//! h.watermark(9)?;
//! assert_eq!(h.output()?, [("t1".into(), 0, 7)]);
//! h.push_at(("t1".into(), 1), 8)?; // late, and counted
//! assert_eq!(h.output()?, [("t1".into(), 0, 8)]);
//! h.watermark(14)?;
//! h.push_at(("t1".into(), 2), 8)?; // too late
//! assert_eq!(h.side_output(LATE)?, [("t1".into(), 2)]);
//! # Ok::<(), weir::Error>(())
//! ```
//!
//! A function with states of its own, per window or per key, sees windows as a [`ProcessWindowFunction`].
//!
//! Windows over two keyed streams are the same windows with the records of both:
//! [`KeyedStream::join`](crate::job::KeyedStream::join) and [`KeyedStream::co_group`](crate::job::KeyedStream::co_group).
//!
//! # How it is kept
//! State is a table per pane, not a timer per key: a record costs one look-up in one table, a window that fires walks the
//! tables of its panes, and what is done with is dropped as a whole. Windows that slide share their panes. Triggers other
//! than the end of the window keep a slot per key and window, with at most one timer in each time domain; sessions
//! keep a short sorted list per key.
//!
//! # After a restore
//! How far event time had come is part of the snapshot: a window that fired before does not fire again, and a record that
//! was late before is late again.
mod aligned;
mod assigner;
mod co_group;
mod count;
mod function;
mod late;
mod operator;
mod process;
mod schedule;
mod session;
mod slot;
mod stream;
mod trigger;
mod triggered;

pub use assigner::{Global, Session, Sliding, TimeDomain, TimeWindow, Tumbling, Windows};
pub use co_group::{CoGroup, CombinedStreams, Join, TaggedUnion, WindowedStreams};
pub use process::{ProcessWindowFunction, WindowStates};
pub use stream::{CountWindowedStream, WindowedStream};
pub use trigger::{
    ContinuousEventTime, ContinuousProcessingTime, Count, DefaultTrigger, EventTime, ProcessingTime, Purging, Trigger,
    TriggerContext, TriggerResult, TriggerTimers,
};

#[cfg(test)]
mod tests;
