//! Whole-system tests on a real Kubernetes: the operator's behaviours, each judged by the job's committed output.
//!
//! One cluster and one operator serve all tests; each test has a namespace of its own. Most run beside each other; those that hit
//! the operator or a whole node run alone, after the others. `docs/e2e.md` says how to run and read them.

mod chart;
mod deletion;
mod env;
mod failures;
mod kills;
mod launch;
mod manifests;
mod nodes;
mod operator;
mod rescale;
mod security;
mod suspension;
mod upgrade;

use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

use anyhow::Result;
use libtest_mimic::Trial;
use weir_tests::cluster::Weir;
use weir_tests::suite::{self, trial};
use weir_tests::trials;

use self::env::Env;

fn main() -> ExitCode {
    // longest first: what runs beside others ends about together
    let beside = trials!(
        beside:
        kills::jobmanager_three_times_in_a_row,
        kills::jobmanager_with_its_standby_three_times_in_a_row,
        upgrade::savepoint_fails_and_the_old_job_runs_on,
        upgrade::bad_image_leaves_the_old_generation_running,
        upgrade::job_that_does_not_start_leaves_the_old_generation_running,
        upgrade::state_of_another_type_is_refused,
        upgrade::state_of_another_job_is_refused,
        upgrade::savepoint_with_changed_argument,
        upgrade::savepoint_with_changed_image,
        upgrade::last_state,
        upgrade::stateless_starts_new,
        upgrade::redeploy_goes_back_to_a_savepoint,
        upgrade::ready_never_means_the_old_generation,
        upgrade::ignored_change_touches_nothing,
        rescale::by_kubectl_scale,
        rescale::by_spec_up_and_down,
        suspension::suspend_and_resume,
        deletion::retained_checkpoint_is_resumed,
        deletion::delete_on_cancellation_starts_new,
        deletion::job_that_cannot_be_read_is_named_and_deleted,
        kills::taskmanager,
        kills::jobmanager_and_taskmanagers_at_once,
        kills::pods_deleted,
        kills::fenced_by_a_jobmanager_that_is_gone,
        launch::runs_to_its_end,
        failures::image_that_cannot_be_pulled,
        failures::crash_loop,
        failures::out_of_memory,
        failures::unschedulable,
        security::pods_and_operator_have_least_rights,
        manifests::bad_manifests_are_refused,
    );
    let alone = trials!(
        alone:
        operator::paused,
        operator::crashes_at_each_step_of_an_upgrade,
        operator::crashes_while_it_rescales_suspends_and_deletes,
        operator::kills_in_the_middle_of_an_upgrade,
        nodes::node_of_the_whole_job_is_cut_off,
        nodes::node_of_a_taskmanager_is_stopped,
        nodes::node_is_cut_off_in_the_middle_of_an_upgrade,
        chart::upgrade_and_uninstall_leave_jobs_untouched,
    );
    suite::main(beside.into_iter().chain(alone).collect(), 5)
}

/// Held by every test while it runs; by one that runs alone, because it hits what all share, for itself.
static CLUSTER: RwLock<()> = RwLock::new(());

fn beside(name: &'static str, test: fn(&Env) -> Result<()>) -> Trial {
    trial(name, move || {
        let _others_may_run = CLUSTER.read().unwrap_or_else(PoisonError::into_inner);
        run(name, test)
    })
}

fn alone(name: &'static str, test: fn(&Env) -> Result<()>) -> Trial {
    trial(name, move || {
        let _nothing_else_runs = CLUSTER.write().unwrap_or_else(PoisonError::into_inner);
        run(name, test)
    })
}

/// Prints the outcome at once, too: a run may be cut off before its summary.
fn run(name: &'static str, test: fn(&Env) -> Result<()>) -> Result<()> {
    let weir = Weir::shared()?;
    let begun = Instant::now();
    let env = Env::new(weir, name)?;
    let result = env.end(test(&env));
    let took = begun.elapsed().as_secs_f64();
    match &result {
        Ok(()) => env.note(format!("{took:.1} s")),
        Err(error) => env.note(format!("failed after {took:.1} s: {error:#}")),
    }
    result
}
