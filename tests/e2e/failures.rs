//! What keeps a job from starting is named in a condition within ten seconds; mended, the job runs; deleted, it goes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weir_tests::job::FlightsJob;
use weir_tests::poll::wait_until;

use crate::env::{Env, LONG, NAMED, RATE, SOON};

const OFTEN: Duration = Duration::from_millis(50);

/// Applies a job that cannot run, expects the reason in time, mends it and expects exact output.
fn named(env: &Env, spoil: impl Fn(&mut FlightsJob<'_>), reasons: &[&str], says: &[&str]) -> Result<()> {
    named_once(env, spoil, |_| Ok(true), reasons, says)
}

/// The same, where it takes the job a while until it cannot run: the time counts from there.
fn named_once(
    env: &Env,
    spoil: impl Fn(&mut FlightsJob<'_>),
    happened: impl Fn(&FlightsJob<'_>) -> Result<bool>,
    reasons: &[&str],
    says: &[&str],
) -> Result<()> {
    let mut job = env.job(RATE * 2)?;
    let good = job.manifest.clone();
    spoil(&mut job);
    job.apply()?;
    let applied = Instant::now();
    wait_until("what the condition is to name", SOON, OFTEN, || happened(&job))?;
    let begun = Instant::now();
    let (reason, message) = job.wait_condition("Degraded", reasons, NAMED)?;
    env.note(format!(
        "{reason} after {:.1} s ({:.1} s after it was applied): {message}",
        begun.elapsed().as_secs_f64(),
        applied.elapsed().as_secs_f64()
    ));
    for part in says {
        ensure!(message.contains(part), "{part:?} is not in {message:?}");
    }
    ensure!(job.status()?["reason"] == reason.as_str(), "the column shows it as well");
    ensure!(job.events()?.iter().any(|(found, _)| *found == reason), "an event tells it: {:?}", job.events()?);
    job.manifest = good;
    job.apply()?;
    job.wait_ready(SOON)?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());

    // A job that never ran can be deleted at any time.
    spoil(&mut job);
    job.name = "never-ran".to_owned();
    job.manifest["metadata"]["name"] = json!(job.name);
    job.apply()?;
    job.wait_condition("Degraded", reasons, SOON)?;
    job.delete()?;
    job.wait_no_pods(SOON)
}

pub fn image_that_cannot_be_pulled(env: &Env) -> Result<()> {
    let image = "registry.invalid/no-such-image:1";
    named(env, |job| job.spec()["image"] = json!(image), &["ErrImagePull", "ImagePullBackOff"], &[image])
}

pub fn crash_loop(env: &Env) -> Result<()> {
    let spoil = |job: &mut FlightsJob<'_>| job.spec()["args"] = json!(["--no-such-option"]);
    named(env, spoil, &["CrashLoopBackOff"], &["--no-such-option"])
}

pub fn out_of_memory(env: &Env) -> Result<()> {
    let spoil = |job: &mut FlightsJob<'_>| {
        job.spec()["taskManager"]["resources"] = json!({"requests": {"cpu": "10m"}, "limits": {"memory": "9Mi"}});
    };
    // it starts, and grows with what it reads
    let killed = |job: &FlightsJob<'_>| {
        let pods = job.kubectl.list(&job.namespace, "pods", "weir.dev/role=taskmanager")?;
        let containers = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"].as_array()).flatten();
        let ends = containers.flat_map(|c| [&c["state"]["terminated"], &c["lastState"]["terminated"]]);
        Ok(ends.into_iter().any(|end| end["reason"] == "OOMKilled"))
    };
    named_once(env, spoil, killed, &["OOMKilled"], &["spec.taskManager.resources.limits.memory"])
}

pub fn unschedulable(env: &Env) -> Result<()> {
    let spoil = |job: &mut FlightsJob<'_>| {
        job.spec()["taskManager"]["resources"] = json!({"requests": {"cpu": "1000"}});
    };
    named(env, spoil, &["Unschedulable"], &["Insufficient cpu"])
}
