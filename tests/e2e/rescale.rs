//! Another parallelism, through a snapshot taken for it, by the same jobmanager.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};

use crate::env::{Env, LONG, RATE, SLOW, SOON};

pub fn by_kubectl_scale(env: &Env) -> Result<()> {
    let job = env.running(RATE)?;
    let jobmanager = job.pod(JOB_MANAGER)?;
    let watch = job.watch()?;
    let begun = Instant::now();
    env.kubectl.scale(&env.namespace.name, "sj", &job.name, 3)?;
    reached(&job, 3)?;
    watch.wait_after(Instant::now(), SOON)?;
    env.note(format!("2 -> 3: longest gap {:.2} s", watch.longest_gap(begun, Instant::now()).as_secs_f64()));
    ensure!(job.pod(JOB_MANAGER)? == jobmanager, "the jobmanager is the same");
    // what an autoscaler reads
    let scale = env
        .kubectl
        .raw(&format!("/apis/weir.dev/v1alpha1/namespaces/{}/streamjobs/{}/scale", env.namespace.name, job.name))?;
    ensure!(scale.contains("\"replicas\":3") && scale.contains("weir.dev/role=taskmanager"), "{scale}");
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn by_spec_up_and_down(env: &Env) -> Result<()> {
    let mut job = env.running(SLOW)?;
    let jobmanager = job.pod(JOB_MANAGER)?;
    for parallelism in [3, 1, 2] {
        job.spec()["parallelism"] = json!(parallelism);
        job.apply()?;
        reached(&job, parallelism)?;
        job.wait_output(SOON)?;
        job.check_so_far(env.expected()?)?;
    }
    ensure!(job.pod(JOB_MANAGER)? == jobmanager, "the jobmanager is the same");
    ensure!(job.status()?["restarts"] == 0, "a rescale is no restart: {}", job.status()?);
    job.set_rate(RATE * 2)?;
    job.apply()?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

/// Waits until the job runs at a parallelism, restored from a snapshot, with as many taskmanagers and no more.
fn reached(job: &FlightsJob<'_>, parallelism: usize) -> Result<()> {
    job.wait_ready(SOON)?;
    let status = job.status()?;
    ensure!(status["parallelism"] == parallelism, "{status}");
    ensure!(status["restoredFrom"].is_string(), "restored from a snapshot: {status}");
    job.wait(&format!("{parallelism} taskmanagers"), SOON, |_| {
        (job.pods(TASK_MANAGER).ok()?.len() == parallelism).then_some(())
    })
}
