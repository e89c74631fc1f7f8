//! Windows, sessions, timers, two inputs, interval join, broadcast state, list state and asynchronous calls: the job that the
//! chaos tests run as processes.
#[path = "../../../tests/jobs/functions/input.rs"]
mod input;
#[path = "../../../tests/jobs/functions/job.rs"]
mod job;
#[path = "../../../tests/jobs/functions/verdict.rs"]
pub mod verdict;

use super::campaign::{State, campaign};
pub use input::{Rec, Row};
use weir::connectors::Collect;
use weir::job::Job;

const RECORDS: u64 = 20_000;
const RATE: f64 = 200_000.0;

#[derive(Default)]
struct Sinks {
    windows: Collect<Row>,
    late: Collect<Rec>,
    sessions: Collect<Row>,
    paid: Collect<u64>,
    unpaid: Collect<(u64, i64)>,
    joined: Collect<(u64, u64)>,
    called: Collect<u64>,
    ruled: Collect<(u64, u64)>,
    held: Collect<u64>,
}

fn declare(job: &mut Job, sinks: &Sinks) {
    let results = job::declare(job, RECORDS, RATE);
    results.windows.sink("windows-out", sinks.windows.clone());
    results.late.sink("late-out", sinks.late.clone());
    results.sessions.sink("sessions-out", sinks.sessions.clone());
    results.paid.sink("paid-out", sinks.paid.clone());
    results.unpaid.sink("unpaid-out", sinks.unpaid.clone());
    results.joined.sink("joined-out", sinks.joined.clone());
    results.called.sink("called-out", sinks.called.clone());
    results.ruled.sink("ruled-out", sinks.ruled.clone());
    results.held.sink("held-out", sinks.held.clone());
}

fn functions(state: State, seeds: u64) {
    let mut late = 0;
    campaign(state, seeds, declare, |seed, sinks: Sinks| {
        late += sinks.late.len();
        let results = verdict::Results {
            windows: sinks.windows.records(),
            late: sinks.late.records(),
            sessions: sinks.sessions.records(),
            paid: sinks.paid.records(),
            unpaid: sinks.unpaid.records(),
            joined: sinks.joined.records(),
            called: sinks.called.records(),
            ruled: sinks.ruled.records(),
            held: sinks.held.records(),
        };
        results.check(RECORDS).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    });
    assert!(late > 0, "the input has late records");
}

#[test]
fn functions_do_everything_once_whatever_was_killed() {
    functions(State::InMemory, 10);
}

#[cfg(feature = "rocksdb")]
#[test]
fn functions_with_their_state_on_disk_do_everything_once() {
    functions(State::OnDisk, 4);
}
