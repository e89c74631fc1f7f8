//! The chart: install, upgrade and uninstall leave running jobs untouched.

use std::time::Duration;

use anyhow::{Result, ensure};
use weir_tests::cluster::{OPERATOR_NAMESPACE, RELEASE, Weir};
use weir_tests::job::FlightsJob;

use crate::env::{Env, LONG, SLOW, SOON};

pub fn upgrade_and_uninstall_leave_jobs_untouched(env: &Env) -> Result<()> {
    let mut job = env.running(SLOW)?;
    let before = state(&job)?;

    let values: Vec<_> = Weir::VALUES.iter().copied().chain([("operator.log", "debug")]).collect();
    env.cluster().install_chart(&env.images().operator, &values)?;
    unchanged(env, &job, &before, "upgrade of the chart")?;

    // Whatever comes next, the other tests find the operator again.
    let removed = env.cluster().helm()?.uninstall(OPERATOR_NAMESPACE, RELEASE);
    let without = removed.and_then(|()| {
        ensure!(env.cluster().operator_pods()?.is_empty(), "the operator is gone");
        unchanged(env, &job, &before, "removal of the chart")
    });
    env.cluster().install_chart(&env.images().operator, Weir::VALUES)?;
    without?;
    unchanged(env, &job, &before, "installation of the chart")?;

    // The new operator has taken the job over.
    job.set_args(None, 1, "out");
    job.apply()?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

/// What must not change: the pods, their restarts, the job's attempt.
fn state(job: &FlightsJob<'_>) -> Result<(Vec<String>, i64)> {
    let pods = job.kubectl.list(&job.namespace, "pods", "weir.dev/job")?;
    let restarts = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64()).sum();
    Ok((job.pod_uids()?, restarts))
}

fn unchanged(env: &Env, job: &FlightsJob<'_>, before: &(Vec<String>, i64), what: &str) -> Result<()> {
    let attempt = job.status()?["attempt"].clone();
    job.wait_output(SOON)?;
    // an operator that misread what it found would act within this time
    std::thread::sleep(Duration::from_secs(2));
    ensure!(state(job)? == *before, "{what}: pods were replaced or restarted");
    let status = job.status()?;
    ensure!(
        status["attempt"] == attempt && status["phase"] == "Running" && status["restarts"] == 0,
        "{what}: {status}"
    );
    job.check_so_far(env.expected()?)?;
    env.note(format!("{what}: the job ran on"));
    Ok(())
}
