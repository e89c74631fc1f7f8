//! Chaos on one machine: runs of the flights example as separate processes that are killed at random, seeded moments; the
//! committed output must be exact every time.

mod campaign;
mod run;
mod schedule;

pub use self::campaign::{Campaign, Summary};
pub use self::run::{Outcome, Run};
pub use self::schedule::{Blow, Moment, Schedule, Step};
