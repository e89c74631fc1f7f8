//! The operator is frozen or dies: jobs run on without it, and it takes up where its record says.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_tests::cluster::faults::CRASH_AT;
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};
use weir_tests::poll::wait_until;

use crate::env::{Env, LONG, RATE, SLOW, SOON, VERY_SLOW};

const OFTEN: Duration = Duration::from_millis(100);

pub fn paused(env: &Env) -> Result<()> {
    env.cluster().takes_faults()?;
    let mut job = env.running(SLOW)?;
    let paused = env.cluster().pause_operator()?;
    // The job needs no operator to survive a lost process.
    job.kill(&job.pod(TASK_MANAGER)?)?;
    job.wait_output(SOON)?;
    job.kill(&job.pod(JOB_MANAGER)?)?;
    job.wait_output(SOON)?;
    job.set_rate(RATE)?;
    let generation = job.apply()?;
    ensure!(job.wait_ready(Duration::from_secs(3)).is_err(), "Ready of the old generation counts for the new one");
    drop(paused);
    job.wait_ready(SOON)?;
    ensure!(job.status()?["deployed"]["generation"] == generation, "{}", job.status()?);
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

/// An operator whose container has not been started again yet: the kubelet starts it at once after its next end.
fn fresh_operator(env: &Env) -> Result<()> {
    if env.cluster().operator_restarts()? == 0 {
        return Ok(());
    }
    let namespace = weir_tests::cluster::OPERATOR_NAMESPACE;
    for pod in env.cluster().operator_pods()? {
        env.cluster().delete_pod(namespace, &pod, false)?;
    }
    wait_until("a fresh operator", SOON, OFTEN, || {
        let pods = env.kubectl.list(namespace, "pods", "app.kubernetes.io/name=weir-operator")?;
        let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        Ok(pods.len() == 1 && pods.iter().all(ready) && env.cluster().operator_restarts()? == 0)
    })
}

/// Applies the manifest so that the operator dies right after it recorded the named step; returns when it has died.
fn apply_with_crash(env: &Env, job: &mut FlightsJob<'_>, step: &str) -> Result<()> {
    fresh_operator(env)?;
    job.manifest["metadata"]["annotations"] = json!({CRASH_AT: step});
    job.apply()?;
    died(env, job, step)
}

fn died(env: &Env, job: &mut FlightsJob<'_>, step: &str) -> Result<()> {
    // The annotation goes right before the end, the container's count rises when it is started again.
    job.wait(&format!("the operator to die at {step}"), SOON, |object| {
        object["metadata"]["annotations"][CRASH_AT].is_null().then_some(())
    })?;
    if let Some(metadata) = job.manifest["metadata"].as_object_mut() {
        metadata.remove("annotations");
    }
    wait_until("the operator to be started again", SOON, OFTEN, || Ok(env.cluster().operator_restarts()? > 0))
}

pub fn crashes_at_each_step_of_an_upgrade(env: &Env) -> Result<()> {
    let mut job = env.running(VERY_SLOW)?;
    for (index, step) in ["Preparing", "Warming", "Savepointing", "Starting", "Proving", "Done"].iter().enumerate() {
        job.set_rate(VERY_SLOW + 1 + u32::try_from(index)?)?;
        apply_with_crash(env, &mut job, step)?;
        settled(env, &job)?;
        env.note(format!("died at {step}: done by the next operator"));
    }
    env.note(hurried(env, &mut job)?);
    Ok(())
}

/// Waits until the job runs as the manifest has it, with nothing left of other generations, and its output goes on.
fn settled(env: &Env, job: &FlightsJob<'_>) -> Result<()> {
    job.wait_ready(SOON)?;
    let status = job.status()?;
    let (runs, wanted) = (&status["deployed"]["spec"], &job.manifest["spec"]);
    ensure!(runs["args"] == wanted["args"], "{runs} runs, {wanted} is wanted");
    ensure!(status["parallelism"] == wanted["parallelism"], "{status}");
    let generation = status["deployed"]["generation"].as_i64();
    job.wait("nothing left of other generations", SOON, |_| {
        let pods = [job.pods(JOB_MANAGER).ok()?, job.pods(TASK_MANAGER).ok()?].concat();
        pods.iter().all(|pod| Some(pod.generation) == generation).then_some(())
    })?;
    job.wait_output(SOON)?;
    job.check_so_far(env.expected()?).map(drop)
}

/// Takes the brake off and waits for the end.
fn hurried(env: &Env, job: &mut FlightsJob<'_>) -> Result<String> {
    job.set_args(None, 1, "out");
    job.apply()?;
    Ok(job.finish(env.expected()?, LONG)?.to_string())
}

pub fn crashes_while_it_rescales_suspends_and_deletes(env: &Env) -> Result<()> {
    let mut job = env.running(VERY_SLOW)?;
    for (step, parallelism) in [("RescaleSlots", 3), ("Rescaling", 1)] {
        job.spec()["parallelism"] = json!(parallelism);
        apply_with_crash(env, &mut job, step)?;
        settled(env, &job)?;
        env.note(format!("died at {step}: done by the next operator"));
    }
    for step in ["Preparing", "Savepointing", "Stopping"] {
        job.spec()["state"] = json!("Suspended");
        apply_with_crash(env, &mut job, step)?;
        job.wait_phase("Suspended", SOON)?;
        job.wait_no_pods(SOON)?;
        job.spec()["state"] = json!("Running");
        job.apply()?;
        settled(env, &job)?;
        env.note(format!("died at {step} of a suspension: done by the next operator"));
    }
    fresh_operator(env)?;
    let patch = json!({"metadata": {"annotations": {CRASH_AT: "Deleting"}}});
    env.kubectl.patch(&env.namespace.name, "streamjob", &job.name, &patch)?;
    job.delete()?;
    job.wait_no_pods(SOON)?;
    wait_until("the operator to be started again", SOON, OFTEN, || Ok(env.cluster().operator_restarts()? > 0))?;
    env.note(job.wait_event("Deleted", SOON)?);

    // and what was kept is found again
    job.apply()?;
    job.wait_ready(SOON)?;
    env.note(hurried(env, &mut job)?);
    Ok(())
}

pub fn kills_in_the_middle_of_an_upgrade(env: &Env) -> Result<()> {
    env.cluster().takes_faults()?;
    let mut job = env.running(VERY_SLOW)?;
    // While the operator is away the step stands still, so that the victim is hit exactly there.
    let victims = [
        ("Preparing", JOB_MANAGER, Side::Old),
        ("Warming", TASK_MANAGER, Side::Old),
        ("Warming", JOB_MANAGER, Side::New),
        ("Savepointing", JOB_MANAGER, Side::Old),
        ("Savepointing", JOB_MANAGER, Side::New),
        ("Starting", JOB_MANAGER, Side::New),
        ("Starting", TASK_MANAGER, Side::New),
        ("Proving", JOB_MANAGER, Side::New),
    ];
    for (index, (step, role, side)) in victims.into_iter().enumerate() {
        let old = job.status()?["deployed"]["generation"].as_i64();
        job.set_rate(VERY_SLOW + 1 + u32::try_from(index)?)?;
        fresh_operator(env)?;
        job.manifest["metadata"]["annotations"] = json!({CRASH_AT: step});
        job.apply()?;
        job.wait(&format!("the operator to die at {step}"), SOON, |object| {
            object["metadata"]["annotations"][CRASH_AT].is_null().then_some(())
        })?;
        let pods = job.pods(role)?;
        let victim = pods.iter().find(|pod| (Some(pod.generation) == old) == (side == Side::Old));
        let hit = victim.map(|pod| job.kill(pod));
        env.note(match &hit {
            Some(Ok(())) => format!("{step}: killed the {side:?} {role}"),
            Some(Err(error)) => format!("{step}: the {side:?} {role} was not running: {error:#}"),
            None => format!("{step}: there is no {side:?} {role}"),
        });
        died(env, &mut job, step)?;
        settled(env, &job)?;
    }
    env.note(hurried(env, &mut job)?);
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}
