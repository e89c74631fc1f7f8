//! What tests of jobs need.
//!
//! - [`OperatorHarness`] and [`TwoInputHarness`] run an operator, or several in a row, step by step on the test's own thread:
//!   push records, watermarks and processing time; look at outputs, side outputs and state; snapshot, and restore at another
//!   parallelism. For the logic of functions, timers and windows: what happens is the same in every run.
//! - [`Cluster`] runs a whole job in a jobmanager and taskmanagers within the test's process, which it can kill, rescale and
//!   restart. For what must hold whatever happens. [`run`] is the short form: a bounded job, to its end.
//! - [`TestSource`] and [`records`] are sources, [`Collect`](crate::connectors::Collect) is a sink, for either.
//!
//! A function with a timer, tested without waiting for it:
//!
//! ```
//! use weir::prelude::*;
//! use weir::testing::OperatorHarness;
//!
//! /// Emits a key that was silent for a minute.
//! struct Silent {
//!     since: ValueState<Str, i64>,
//!     timers: Timers<Str>,
//! }
//!
//! impl KeyedProcessFunction for Silent {
//!     type Key = Str;
//!     type In = Str;
//!     type Out = Str;
//!     fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
//!         vec![&mut self.since, &mut self.timers]
//!     }
//!     fn timers(&mut self) -> Option<&mut Timers<Str>> {
//!         Some(&mut self.timers)
//!     }
//!     fn process(&mut self, key: &KeyRef<'_, Str>, _: &Str, out: &mut Output<Str>) -> Result<()> {
//!         let now = out.timestamp().unwrap_or_default();
//!         self.since.update(key, now);
//!         self.timers.register_event_time(key, now + 60_000);
//!         Ok(())
//!     }
//!     fn on_timer(&mut self, key: &KeyRef<'_, Str>, timer: &Timer, out: &mut Output<Str>) -> Result<()> {
//!         if self.since.get(key) == Some(&(timer.timestamp - 60_000)) {
//!             self.since.clear(key);
//!             out.push(key.key.clone());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let mut silent = OperatorHarness::new(|names: Stream<Str>| {
//!     let make = || Silent { since: ValueState::new("since"), timers: Timers::new("timers") };
//!     names.key_by(|name| name).process_function("silent", make)
//! })?;
//! silent.push_at("ann".into(), 0)?;
//! silent.push_at("ann".into(), 30_000)?;
//! silent.watermark(60_000)?;
//! assert_eq!(silent.output()?, [""; 0]);
//! silent.watermark(90_000)?;
//! assert_eq!(silent.timed_output()?, [("ann".into(), Some(90_000))]);
//! assert!(silent.state("silent", ValueState::<Str, i64>::new("since"))?.is_empty());
//! # Ok::<(), weir::Error>(())
//! ```
mod activity;
mod cluster;
mod folder;
mod input;
mod keep;
mod members;
mod operator;

pub use cluster::{Cluster, ClusterOptions, records, run};
pub use folder::Folder;
pub use input::{TestReader, TestSource};
pub use operator::{OperatorHarness, Operators, TestSnapshot, TwoInputHarness};

#[doc(hidden)]
pub use activity::Activity;
#[doc(hidden)]
pub use keep::Shelf;

/// How many seeds a randomized test of this repository tries: `WEIR_SEEDS`, else its own number.
#[doc(hidden)]
pub fn seeds(own: u64) -> u64 {
    let given = std::env::var("WEIR_SEEDS").ok().map(|n| n.parse());
    given.map_or(own, |n| n.unwrap_or_else(|e| panic!("WEIR_SEEDS is no number of seeds: {e}")))
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod operator_tests;
