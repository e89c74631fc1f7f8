//! A job under seeded kills: what a campaign that looks for lost and doubled records repeats.
use super::cluster::{Cluster, ClusterOptions};
use crate::connectors::random;
use crate::error::Result;
use crate::job::Job;
use std::ops::Range;
use std::time::Duration;

/// Seeds of a campaign: so many, or as many as the environment variable `WEIR_SEEDS` says.
pub fn seeds(default: u64) -> Range<u64> {
    0..std::env::var("WEIR_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// What is done to a running job, of which it must not know afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    TaskManager,
    JobManager,
    Task,
    /// Everything at once; it starts again at another parallelism.
    Crash,
    Rescale,
    Savepoint,
}

const BLOWS: [Blow; 8] = [
    Blow::TaskManager,
    Blow::TaskManager,
    Blow::JobManager,
    Blow::Task,
    Blow::Crash,
    Blow::Crash,
    Blow::Rescale,
    Blow::Savepoint,
];

/// Runs the job to its end, which its bounded sources should reach in some tenths of a second if nobody disturbs it: at a
/// random parallelism up to 3, in one taskmanager or two, with one to four blows: kills of any member or of all, failures of
/// a task, rescales, savepoints; each behind a checkpoint or in the middle of one. `declare` is called for each restart.
///
/// # Errors
/// The job failed for good, or does not get on.
pub fn run(seed: u64, declare: impl Fn(&mut Job) + 'static) -> Result<()> {
    let mut dice = 0;
    let mut roll = |n: u64| {
        dice += 1;
        random(seed, dice) % n
    };
    let options = ClusterOptions::new(1 + roll(3) as u32).taskmanagers(1 + roll(2) as u32);
    let mut cluster = options.checkpoint_interval(Duration::from_millis(10)).start(declare)?;
    for _ in 0..1 + seed % 4 {
        let blow = BLOWS[roll(BLOWS.len() as u64) as usize];
        let (checkpoints, target, parallelism) = (roll(3), roll(2) as u32, 1 + roll(3) as u32);
        for _ in 0..checkpoints {
            // the job may have finished before
            if cluster.checkpoint().is_err() {
                return cluster.finish();
            }
        }
        if let Err(e) = strike(&mut cluster, blow, target, parallelism) {
            // it may have been about to finish, and refuses then
            return cluster.finish().map_err(|_| e.at(format!("seed {seed}, {blow:?}")));
        }
    }
    cluster.finish()
}

fn strike(cluster: &mut Cluster, blow: Blow, target: u32, parallelism: u32) -> Result<()> {
    match blow {
        Blow::TaskManager => cluster.kill_taskmanager(target % cluster.taskmanagers()),
        Blow::JobManager => cluster.kill_jobmanager(),
        Blow::Task => {
            let operators = cluster.operators();
            let operator = &operators[target as usize * (operators.len() - 1)];
            cluster.fail_task(operator, 0)
        }
        Blow::Crash => {
            cluster.crash();
            cluster.restart(parallelism)
        }
        Blow::Rescale => cluster.rescale(parallelism),
        Blow::Savepoint => cluster.savepoint().map(drop),
    }
}
