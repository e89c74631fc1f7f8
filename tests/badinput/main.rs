//! Bad input, given to the flights example as real processes: each is refused with a sentence that says what, where and what to
//! do, and nothing is changed by it. (Bad manifests are tested where a Kubernetes is.)

mod disk;
mod fixture;
mod folders;
mod network;
mod records;
mod rest;
mod snapshots;

use std::process::ExitCode;

use weir_tests::suite::{self, trial};
use weir_tests::trials;

fn main() -> ExitCode {
    let trials = trials!(
        trial:
        records::a_bad_record_fails_the_job_and_is_named,
        records::bad_records_are_skipped_and_counted,
        snapshots::corrupt_state_file,
        snapshots::truncated_state_file,
        snapshots::missing_state_file,
        snapshots::corrupt_manifest,
        snapshots::truncated_manifest,
        snapshots::manifest_of_another_version,
        snapshots::corrupt_log_entry,
        snapshots::savepoint_of_another_job,
        snapshots::state_of_another_type,
        snapshots::another_max_parallelism,
        snapshots::folder_that_holds_checkpoints,
        snapshots::going_back_behind_what_was_committed,
        snapshots::no_snapshot_at_the_path,
        snapshots::latest_where_none_was_completed,
        network::strangers_on_the_control_port,
        network::strangers_on_the_data_port,
        network::ports_in_use,
        network::a_taskmanager_of_another_job_is_refused,
        rest::malformed_requests,
        disk::full_disk_for_checkpoints,
        disk::full_disk_for_output,
        folders::checkpoints_that_cannot_be_written,
        folders::output_that_cannot_be_written,
        folders::input_that_is_not_there,
        folders::checkpoint_urls_that_are_not_understood,
    );
    suite::main(trials.into(), 2)
}
