//! Chaos on one machine: runs of a job (the flights example, or one with every kind of function) as separate processes that
//! are killed at random, seeded moments; the committed output must be exact every time.

mod campaign;
mod run;
mod schedule;

pub use self::campaign::{Campaign, Job, Summary};
pub use self::run::{Outcome, Run, Work};
pub use self::schedule::{Blow, Moment, Schedule, Step};
