//! What keeps a job from starting is named in a condition within ten seconds; mended, the job runs; deleted, it goes.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;
use weir_tests::job::FlightsJob;

use crate::env::{Env, LONG, NAMED, RATE, SOON};

/// Applies a job that cannot run, expects the reason in time, mends it and expects exact output.
fn named(env: &Env, spoil: impl Fn(&mut FlightsJob<'_>), reasons: &[&str], says: &[&str]) -> Result<()> {
    let mut job = env.job(RATE * 2)?;
    let good = job.manifest.clone();
    spoil(&mut job);
    job.apply()?;
    let begun = Instant::now();
    let (reason, message) = job.wait_condition("Degraded", reasons, NAMED)?;
    env.note(format!("{reason} after {:.1} s: {message}", begun.elapsed().as_secs_f64()));
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
    named(env, spoil, &["OOMKilled"], &["spec.taskManager.resources.limits.memory"])
}

pub fn unschedulable(env: &Env) -> Result<()> {
    let spoil = |job: &mut FlightsJob<'_>| {
        job.spec()["taskManager"]["resources"] = json!({"requests": {"cpu": "1000"}});
    };
    named(env, spoil, &["Unschedulable"], &["Insufficient cpu"])
}
