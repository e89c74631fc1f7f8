//! Runs a job again and again, each time killed at other places.
use std::path::Path;
use weir::checkpoint::handles::SnapshotKind;
use weir::checkpoint::storage::Storage;
use weir::connectors::random;
use weir::dataflow::harness::{Harness, Setup, job};
use weir::job::Job;
use weir_api::config::{StateBackend, StateConfig};

/// Where the jobs keep their state.
#[derive(Clone, Copy, PartialEq)]
pub enum State {
    InMemory,
    /// In RocksDB, with tables that may hold hardly anything; every other seed changes the backend with each run.
    OnDisk,
}

impl State {
    /// That of a run of this seed.
    fn config(self, seed: u64, run: u64, folder: &Path) -> StateConfig {
        let on_disk = seed.is_multiple_of(2) || (seed + run).is_multiple_of(2);
        if self == Self::InMemory || !on_disk {
            return StateConfig::default();
        }
        StateConfig {
            backend: StateBackend::RocksDb,
            memory_mib: Some(512),
            directory: Some(folder.display().to_string()),
            ..StateConfig::default()
        }
    }
}

/// Runs the job with as many seeds as there are to be, and judges each run's output by `check`. Each run has sinks of its own,
/// which `declare` adds to a job.
pub fn campaign<S: Default>(state: State, seeds: u64, declare: impl Fn(&mut Job, &S), mut check: impl FnMut(u64, S)) {
    let threads = match state {
        State::InMemory => 2,
        // a task may wait for the uploader, which has a thread of its own in a taskmanager, and shares them here
        State::OnDisk => 12,
    };
    if state == State::OnDisk {
        weir::state::store::limit_objects(20_000);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap();
    for seed in 0..weir::testing::seeds(seeds) {
        let sinks = S::default();
        runtime.block_on(run(state, seed, |job| declare(job, &sinks)));
        check(seed, sinks);
    }
}

/// Runs the job to its end, killed once to four times.
async fn run(state: State, seed: u64, declare: impl Fn(&mut Job)) {
    let mut dice = 0;
    let mut roll = |n: u64| {
        dice += 1;
        random(seed, dice) % n
    };
    let graph = || {
        let mut job = Job::default();
        declare(&mut job);
        job.into_graph()
    };
    let (snapshots, tables) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let storage = Storage::open(&format!("file://{}", snapshots.path().display()), &job()).unwrap();
    let parallelism = 1 + roll(3) as u32;
    let config = |run| state.config(seed, run, tables.path());
    let setup = Setup { storage: Some(storage), state: config(0), ..Setup::new(parallelism) };
    let mut harness = Harness::start_with(graph(), setup).await.unwrap();
    for kill in 1..=1 + seed % 4 {
        let mut last = None;
        for _ in 0..=roll(4) {
            let snapshot = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
            match roll(4) {
                0 if last.is_some() => harness.abort(snapshot.0),
                // complete, but killed before anybody hears of it: the next attempt must commit
                1 => {
                    last = Some(snapshot);
                    break;
                }
                _ => {
                    harness.complete(snapshot.0);
                    last = Some(snapshot);
                }
            }
        }
        let parallelism = 1 + roll(3) as u32;
        harness.keep_state_in(config(kill));
        harness = harness.restore(&last.unwrap(), graph(), parallelism).await.unwrap();
    }
    harness.finish().await.unwrap();
}
