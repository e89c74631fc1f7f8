//! In the steady state the record path allocates nothing. Each test counts what its own thread allocates.
mod channels;
#[path = "../../../tests/bench/engine/alloc.rs"]
mod counting;
mod windows;
