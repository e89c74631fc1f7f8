//! Deleting a job honours its retention policy and says what it kept; the same name finds it again.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_tests::job::FlightsJob;
use weir_tests::oracle::{self, Order};

use crate::env::{Env, LONG, RATE, SOON};

pub fn retained_checkpoint_is_resumed(env: &Env) -> Result<()> {
    let job = env.running(RATE)?;
    let message = deleted(&job)?;
    env.note(&message);
    let kept = message.split("kept: ").nth(1).with_context(|| format!("no path in {message:?}"))?.to_owned();
    ensure!(job.checkpoints().is_dir(), "the checkpoints are there");
    job.check_so_far(env.expected()?)?;

    job.apply()?;
    job.wait_ready(SOON)?;
    let status = job.status()?;
    let from = status["restoredFrom"].as_str().with_context(|| format!("nothing was restored: {status}"))?;
    ensure!(kept.contains(from), "resumed from {from}, kept was {kept}");
    let started = job.wait_event("Started", SOON)?;
    env.note(&started);
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn delete_on_cancellation_starts_new(env: &Env) -> Result<()> {
    let mut job = env.job(RATE)?;
    job.spec()["checkpoint"]["retention"] = json!("DeleteOnCancellation");
    job.apply()?;
    job.wait_ready(SOON)?;
    job.wait_output(SOON)?;
    let first = job.output()?;
    let message = deleted(&job)?;
    env.note(&message);
    ensure!(message.contains("no snapshot was kept"), "{message}");
    let left = weir_tests::cmd::Cmd::new("find").arg(job.checkpoints()).args(["-name", "chk-*"]).stdout()?;
    ensure!(left.trim().is_empty(), "no checkpoint is left: {left}");
    oracle::check(&first, env.expected()?, Order::Kept)?.must_be_exact_so_far()?;

    job.set_args(Some(RATE), 1, "second");
    job.apply()?;
    job.wait_ready(SOON)?;
    ensure!(job.status()?["restoredFrom"].is_null(), "nothing to restore: {}", job.status()?);
    let started = job.wait_event("Started", SOON)?;
    env.note(&started);
    ensure!(started.contains("started new"), "{started}");
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn job_that_cannot_be_read_is_named_and_deleted(env: &Env) -> Result<()> {
    let job = env.running(RATE)?;
    job.wait("a completed checkpoint", SOON, |object| object["status"]["lastCheckpoint"]["id"].as_i64())?;
    let pods = job.pod_uids()?;
    // the one part of a StreamJob that the API server does not check
    let patch = json!({"status": {"deployed": {"spec": {"parallelism": "two"}}}}).to_string();
    let status = ["--subresource=status", "--type=merge", "-p", patch.as_str()];
    env.kubectl
        .run(&[&["-n", job.namespace.as_str(), "patch", "streamjob", job.name.as_str()][..], &status].concat())?;
    // a status wakes nobody
    env.kubectl.patch(
        &job.namespace,
        "streamjob",
        &job.name,
        &json!({"metadata": {"annotations": {"look": "now"}}}),
    )?;
    let (_, message) = job.wait_condition("Degraded", &["Unreadable"], SOON)?;
    env.note(&message);
    ensure!(message.contains("status.deployed.spec.parallelism"), "it says what cannot be read: {message}");
    ensure!(job.pod_uids()? == pods, "what runs is left alone");

    job.delete()?;
    let message = job.wait_event("Deleted", SOON)?;
    env.note(&message);
    ensure!(message.contains("kept: "), "its jobmanager has cancelled it: {message}");
    job.wait_no_pods(SOON)?;
    job.check_so_far(env.expected()?)?;
    job.apply()?;
    job.wait_ready(SOON)?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

/// Deletes the job; returns what the last event says about its checkpoints.
fn deleted(job: &FlightsJob<'_>) -> Result<String> {
    job.wait("a completed checkpoint", SOON, |object| object["status"]["lastCheckpoint"]["id"].as_i64())?;
    job.delete()?;
    let message = job.wait_event("Deleted", SOON)?;
    job.wait_no_pods(SOON)?;
    Ok(message)
}
