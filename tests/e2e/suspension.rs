//! Suspend and resume.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::env::{Env, LONG, RATE, SOON};

pub fn suspend_and_resume(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    job.spec()["state"] = json!("Suspended");
    job.apply()?;
    let (_, message) = job.wait_condition("Suspended", &[], SOON)?;
    env.note(&message);
    ensure!(message.contains("savepoint"), "it says what it will resume from: {message}");
    job.wait_no_pods(SOON)?;
    let status = job.status()?;
    ensure!((&status["phase"], &status["parallelism"]) == (&json!("Suspended"), &json!(0)), "{status}");
    let savepoint =
        status["deployed"]["suspended"]["path"].as_str().context("a suspended job has a savepoint")?.to_owned();
    job.check_so_far(env.expected()?)?;

    job.spec()["state"] = json!("Running");
    job.apply()?;
    job.wait_ready(SOON)?;
    ensure!(job.status()?["restoredFrom"] == savepoint.as_str(), "resumed where it stopped: {}", job.status()?);
    env.note(job.finish(env.expected()?, LONG)?.to_string());

    // Once more on a job that has ended: nothing to stop, nothing starts.
    job.spec()["state"] = json!("Suspended");
    job.apply()?;
    job.delete()
}
