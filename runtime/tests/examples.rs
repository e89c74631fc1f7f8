//! The examples' own tests, in one program: `cargo test` alone builds examples and does not test them. Without those of
//! flights, which read a third of a million rows unoptimized: other suites look at its output.
#![allow(dead_code)] // each has a `main`

#[path = "../examples/async-enrichment/main.rs"]
mod async_enrichment;
#[path = "../examples/broadcast-rules/main.rs"]
mod broadcast_rules;
#[path = "../examples/sessionization/main.rs"]
mod sessionization;
#[path = "../examples/state-machine/main.rs"]
mod state_machine;
#[path = "../examples/top-n/main.rs"]
mod top_n;
#[path = "../examples/unpaid-orders/main.rs"]
mod unpaid_orders;
#[path = "../examples/wordcount/main.rs"]
mod wordcount;
