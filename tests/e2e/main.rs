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
mod runner;
mod security;
mod suspension;
mod upgrade;

use std::process::ExitCode;

use self::runner::{Case, alone, beside};

/// Every test, longest first: what runs beside others ends about together.
const CASES: &[Case] = &[
    beside("kills::jobmanager_three_times_in_a_row", kills::jobmanager_three_times_in_a_row),
    beside(
        "kills::jobmanager_with_its_standby_three_times_in_a_row",
        kills::jobmanager_with_its_standby_three_times_in_a_row,
    ),
    beside("upgrade::savepoint_fails_and_the_old_job_runs_on", upgrade::savepoint_fails_and_the_old_job_runs_on),
    beside(
        "upgrade::bad_image_leaves_the_old_generation_running",
        upgrade::bad_image_leaves_the_old_generation_running,
    ),
    beside(
        "upgrade::job_that_does_not_start_leaves_the_old_generation_running",
        upgrade::job_that_does_not_start_leaves_the_old_generation_running,
    ),
    beside("upgrade::incompatible_state_is_refused", upgrade::incompatible_state_is_refused),
    beside("upgrade::savepoint_with_changed_argument", upgrade::savepoint_with_changed_argument),
    beside("upgrade::savepoint_with_changed_image", upgrade::savepoint_with_changed_image),
    beside("upgrade::last_state", upgrade::last_state),
    beside("upgrade::stateless_starts_new", upgrade::stateless_starts_new),
    beside("upgrade::redeploy_goes_back_to_a_savepoint", upgrade::redeploy_goes_back_to_a_savepoint),
    beside("upgrade::ready_never_means_the_old_generation", upgrade::ready_never_means_the_old_generation),
    beside("upgrade::ignored_change_touches_nothing", upgrade::ignored_change_touches_nothing),
    beside("rescale::by_kubectl_scale", rescale::by_kubectl_scale),
    beside("rescale::by_spec_up_and_down", rescale::by_spec_up_and_down),
    beside("suspension::suspend_and_resume", suspension::suspend_and_resume),
    beside("deletion::retained_checkpoint_is_resumed", deletion::retained_checkpoint_is_resumed),
    beside("deletion::delete_on_cancellation_starts_new", deletion::delete_on_cancellation_starts_new),
    beside("kills::taskmanager", kills::taskmanager),
    beside("kills::jobmanager_and_taskmanagers_at_once", kills::jobmanager_and_taskmanagers_at_once),
    beside("kills::pods_deleted", kills::pods_deleted),
    beside("launch::runs_to_its_end", launch::runs_to_its_end),
    beside("failures::image_that_cannot_be_pulled", failures::image_that_cannot_be_pulled),
    beside("failures::crash_loop", failures::crash_loop),
    beside("failures::out_of_memory", failures::out_of_memory),
    beside("failures::unschedulable", failures::unschedulable),
    beside("security::pods_and_operator_have_least_rights", security::pods_and_operator_have_least_rights),
    beside("manifests::bad_manifests_are_refused", manifests::bad_manifests_are_refused),
    alone("operator::paused", operator::paused),
    alone("operator::crashes_at_each_step_of_an_upgrade", operator::crashes_at_each_step_of_an_upgrade),
    alone(
        "operator::crashes_while_it_rescales_suspends_and_deletes",
        operator::crashes_while_it_rescales_suspends_and_deletes,
    ),
    alone("operator::kills_in_the_middle_of_an_upgrade", operator::kills_in_the_middle_of_an_upgrade),
    alone("nodes::node_of_the_whole_job_is_cut_off", nodes::node_of_the_whole_job_is_cut_off),
    alone("nodes::node_of_a_taskmanager_is_stopped", nodes::node_of_a_taskmanager_is_stopped),
    alone("nodes::node_is_cut_off_in_the_middle_of_an_upgrade", nodes::node_is_cut_off_in_the_middle_of_an_upgrade),
    alone("chart::upgrade_and_uninstall_leave_jobs_untouched", chart::upgrade_and_uninstall_leave_jobs_untouched),
];

fn main() -> ExitCode {
    runner::main(CASES)
}
