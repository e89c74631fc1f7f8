//! Kills and worse on one machine: the flights example, and a job with every kind of function, as separate processes whose
//! committed output is judged at the end.
//!
//! The default run does about 30 kills of the first and 6 of the second; `WEIR_CHAOS_KILLS=200` and `WEIR_CHAOS_FUNCTIONS=200` do more, `WEIR_CHAOS_SEED` chooses the schedule.
//! The same as a program with more options: `cargo run -p weir-tests --bin weir-chaos`.

mod interrupts;
mod scenarios;

use std::process::ExitCode;

use anyhow::{Context, Result};
use weir_tests::chaos::{Campaign, Job};
use weir_tests::suite::{self, trial};
use weir_tests::trials;

fn main() -> ExitCode {
    let trials = trials!(
        trial:
        kills_at_random_moments_leave_the_output_exact,
        kills_of_every_kind_of_function_leave_the_output_exact,
        scenarios::jobmanager_killed_between_completion_and_commit,
        scenarios::sigterm_neither_cancels_nor_deletes,
        scenarios::two_jobmanagers_the_older_one_is_fenced,
        scenarios::frozen_taskmanager_commits_nothing_when_it_thaws,
        scenarios::stop_and_restart_at_another_parallelism,
        scenarios::frozen_cluster_is_harmless_when_it_thaws,
        scenarios::jobmanager_killed_while_the_job_ends,
        scenarios::job_without_storage_starts_anew_with_its_taskmanagers,
        scenarios::storage_that_was_deleted_is_a_new_start,
        scenarios::finished_job_is_not_run_again_by_a_restart,
        interrupts::interrupted_once_it_stops_with_a_savepoint_that_the_next_run_goes_on_from,
        interrupts::interrupted_twice_it_quits_although_the_savepoint_waits,
        interrupts::taskmanager_whose_code_does_not_return_makes_room_for_another,
    );
    suite::main(trials.into(), 3)
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is not a number")),
        Err(_) => Ok(default),
    }
}

fn kills_of_every_kind_of_function_leave_the_output_exact() -> Result<()> {
    let campaign = Campaign {
        seed: number("WEIR_CHAOS_SEED", 20_261)?,
        kills: number("WEIR_CHAOS_FUNCTIONS", 6)?,
        kills_per_run: 6,
        job: Job::Functions { seconds: 3 },
        only_kills: false,
        dir: None,
        verbose: false,
    };
    println!("{}", campaign.execute()?);
    Ok(())
}

fn kills_at_random_moments_leave_the_output_exact() -> Result<()> {
    let campaign = Campaign {
        seed: number("WEIR_CHAOS_SEED", 20_260)?,
        kills: number("WEIR_CHAOS_KILLS", 30)?,
        kills_per_run: 10,
        job: Job::Flights { repeat: 2 },
        only_kills: false,
        dir: None,
        verbose: false,
    };
    println!("{}", campaign.execute()?);
    Ok(())
}
