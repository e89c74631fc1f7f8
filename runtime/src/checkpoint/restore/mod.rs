//! What a job starts from: which snapshot (`choose`), whether it fits (`compat`), who gets which piece (`assign`). Pure.
pub mod assign;
pub mod choose;
pub mod compat;
#[cfg(test)]
mod tests;

pub use assign::{Assignment, assign};
pub use choose::{Decision, Refusal, Request, Start, choose};
pub use compat::{Compatible, check};
