//! Processes and pods of a running job are lost: it goes on by itself, and the output stays exact.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::cluster::faults::Container;
use weir_tests::job::{FlightsJob, JOB_MANAGER, JobPod, TASK_MANAGER};
use weir_tests::local::log::JobLog;
use weir_tests::local::{Proc, flights, free_address};
use weir_tests::poll::{wait_for, wait_until};
use weir_tests::weir_images::flights_input;

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
    env.cluster().takes_faults()?;
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
    three_times(env, false)
}

/// Without the process that stands by, so that a process has to start each time.
pub fn jobmanager_with_its_standby_three_times_in_a_row(env: &Env) -> Result<()> {
    three_times(env, true)
}

fn three_times(env: &Env, all: bool) -> Result<()> {
    env.cluster().takes_faults()?;
    let job = env.running(SLOW)?;
    for number in 1..=3 {
        let before = job.pods(JOB_MANAGER)?;
        let victims = victims(env, &job, &before, all)?;
        let gap = survives(env, &job, || kill(env, &victims))?;
        // a fresh pod owes the kubelet nothing: on a busy machine its start may take as long all the same
        let fresh = job.pods(JOB_MANAGER)?.iter().all(|pod| before.iter().all(|old| old.name != pod.name));
        ensure!(gap < BACK_OFF || fresh, "kill {number}: {gap:?} without output, as long as the kubelet's back-off");
    }
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn jobmanager_and_taskmanagers_at_once(env: &Env) -> Result<()> {
    env.cluster().takes_faults()?;
    let job = env.running(SLOW)?;
    for all in [false, true] {
        let pods = [job.pods(TASK_MANAGER)?, job.pods(JOB_MANAGER)?].concat();
        let victims = victims(env, &job, &pods, all)?;
        survives(env, &job, || kill(env, &victims))?;
    }
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

/// The processes of pods that work, or with those that stand by; waits until they are there.
fn victims(env: &Env, job: &FlightsJob<'_>, pods: &[JobPod], all: bool) -> Result<Vec<Container>> {
    let of = |pod: &JobPod| -> Result<Vec<Container>> {
        let both = job.containers(pod)?;
        let working = env.cluster().working_container(&env.namespace.name, &pod.name)?;
        Ok(if all { both } else { vec![working] })
    };
    wait_for("both processes of each pod", SOON, Duration::from_millis(100), || {
        Ok(Some(pods.iter().map(of).collect::<Result<Vec<_>>>()?.concat()))
    })
}

fn kill(env: &Env, victims: &[Container]) -> Result<()> {
    victims.iter().try_for_each(|container| env.cluster().kill(container))
}

/// A pod that ends may claim the log once more and be gone: the jobmanager that followed it is fenced, and nobody is left to go on.
pub fn fenced_by_a_jobmanager_that_is_gone(env: &Env) -> Result<()> {
    let job = env.running(SLOW)?;
    let storage = env.namespace.shared.join("checkpoints");
    let log = JobLog::new(&storage, &env.namespace.name, &job.name);
    let pod = env.kubectl.get(&env.namespace.name, "pod", &job.pod(JOB_MANAGER)?.name)?;
    let variables = pod["spec"]["containers"][0]["env"].as_array().context("the jobmanager has an environment")?;
    let config = variables.iter().find(|v| v["name"] == "WEIR_CONFIG").context("WEIR_CONFIG is in it")?;
    let mut config: Value = serde_json::from_str(config["value"].as_str().unwrap_or_default())?;
    // the same deployment, as a process of this machine
    let here = &mut config["jobManager"];
    here["restAddress"] = json!(free_address()?);
    here["rpcAddress"] = json!(free_address()?);
    here["job"]["checkpoint"]["storage"] = json!(format!("file://{}", storage.display()));
    let mut command = Command::new(flights()?);
    command.args(["jobmanager", "--input"]).arg(flights_input()).arg("--output").arg(env.namespace.shared.join("out"));
    command.env("WEIR_CONFIG", config.to_string());
    survives(env, &job, || {
        let before = log.last()?.map_or(0, |entry| entry.attempt);
        let mut other = Proc::spawn("the other jobmanager", &mut command, &env.namespace.shared.join("other.log"))?;
        wait_until("the other jobmanager's claim", SOON, Duration::from_millis(20), || {
            ensure!(other.is_running(), "it ended: {}", other.tail());
            Ok(log.last()?.is_some_and(|entry| entry.attempt > before))
        })?;
        other.kill()
    })?;
    env.note(job.wait_event("Fenced", SOON)?);
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
