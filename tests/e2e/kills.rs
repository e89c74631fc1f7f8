//! Processes and pods of a running job are lost: it goes on by itself, and the output stays exact.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};

use crate::env::{Env, LONG, RATE, SLOW, SOON};

/// A job that waited in the kubelet's back-off would be longer away, from the second kill on.
const BACK_OFF: Duration = Duration::from_secs(10);

/// Does something bad, waits until the next attempt runs and commits; returns how long the output paused.
fn survives(env: &Env, job: &FlightsJob<'_>, harm: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let before = job.status()?["attempt"].as_i64().unwrap_or_default();
    let watch = job.watch()?;
    let begun = Instant::now();
    harm()?;
    job.wait("the next attempt", SOON, |object| {
        (object["status"]["attempt"].as_i64()? > before && object["status"]["phase"] == "Running").then_some(())
    })?;
    job.wait_ready(SOON)?;
    watch.wait_after(Instant::now(), SOON)?;
    let gap = watch.longest_gap(begun, Instant::now());
    env.note(format!("longest gap {:.2} s", gap.as_secs_f64()));
    job.check_so_far(env.expected()?)?;
    Ok(gap)
}

pub fn taskmanager(env: &Env) -> Result<()> {
    let job = env.running(RATE)?;
    let victim = job.pod(TASK_MANAGER)?;
    survives(env, &job, || job.kill(&victim))?;
    let status = job.status()?;
    ensure!(status["restarts"].as_i64() >= Some(1), "a restart is counted: {status}");
    ensure!(status["restoredFrom"].as_str().is_some_and(|path| path.contains("chk-")), "{status}");
    let told = job.wait_event("Restarted", SOON)?;
    env.note(told);
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn jobmanager_three_times_in_a_row(env: &Env) -> Result<()> {
    let job = env.running(SLOW)?;
    for kill in 1..=3 {
        let victim = job.pod(JOB_MANAGER)?;
        let gap = survives(env, &job, || job.kill(&victim))?;
        ensure!(gap < BACK_OFF, "kill {kill}: {gap:?} without output, as long as the kubelet's back-off");
    }
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn jobmanager_and_taskmanagers_at_once(env: &Env) -> Result<()> {
    let job = env.running(RATE)?;
    let mut victims = job.pods(TASK_MANAGER)?;
    victims.push(job.pod(JOB_MANAGER)?);
    let containers: Vec<_> = victims
        .iter()
        .map(|pod| env.cluster().working_container(&env.namespace.name, &pod.name))
        .collect::<Result<_>>()?;
    survives(env, &job, || containers.iter().try_for_each(|container| env.cluster().kill(container)))?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn pods_deleted(env: &Env) -> Result<()> {
    let job = env.running(SLOW)?;
    for (role, force) in [(TASK_MANAGER, false), (JOB_MANAGER, false), (TASK_MANAGER, true), (JOB_MANAGER, true)] {
        let victim = job.pod(role)?;
        survives(env, &job, || env.cluster().delete_pod(&env.namespace.name, &victim.name, force))?;
    }
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}
