//! First launch: from `kubectl apply` to the end of a bounded job.

use anyhow::{Result, ensure};
use serde_json::json;
use weir_tests::job::{JOB_MANAGER, TASK_MANAGER};
use weir_tests::kubectl::condition;

use crate::env::{Env, LONG, RATE, SOON};

pub fn runs_to_its_end(env: &Env) -> Result<()> {
    let mut job = env.job(RATE)?;
    let generation = job.apply()?;
    job.wait_ready(SOON)?;
    let object = job.get()?;
    let status = &object["status"];
    ensure!(status["observedGeneration"] == generation, "{status}");
    ensure!((&status["phase"], &status["parallelism"]) == (&json!("Running"), &json!(2)), "{status}");
    ensure!(status["taskManagers"] == 2, "{status}");
    ensure!(status["restoredFrom"].is_null(), "a first launch restores nothing: {status}");
    for (kind, wanted) in [("Ready", "True"), ("Degraded", "False"), ("Suspended", "False")] {
        ensure!(condition(&object, kind) == Some(wanted), "{kind} is not {wanted}: {}", job.in_short()?);
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        ensure!(condition["observedGeneration"] == generation, "{condition}");
    }
    ensure!(
        job.pods(JOB_MANAGER)?.len() == 1 && job.pods(TASK_MANAGER)?.len() == 2,
        "one jobmanager, two taskmanagers"
    );
    let started = job.wait_event("Started", SOON)?;
    ensure!(started.contains("started new"), "{started}");

    job.wait("the checkpoint column", SOON, |object| object["status"]["lastCheckpoint"]["time"].as_str().map(drop))?;
    let table = env.kubectl.run(&["-n", &env.namespace.name, "get", "sj"])?;
    env.note(format!("\n{}", table.trim_end()));
    for column in ["PHASE", "PARALLELISM", "CHECKPOINT", "RESTARTS", "REASON", "AGE", "Running"] {
        ensure!(table.contains(column), "no {column} in {table}");
    }
    let words = env.kubectl.run(&["explain", "streamjob.spec.parallelism"])?;
    ensure!(words.contains("kubectl scale"), "kubectl explain teaches: {words}");

    let report = job.finish(env.expected()?, LONG)?;
    env.note(report.to_string());
    let object = job.get()?;
    ensure!(
        condition(&object, "Ready") == Some("False") && condition(&object, "Degraded") == Some("False"),
        "{object}"
    );
    ensure!(job.events()?.iter().any(|(reason, _)| reason == "Finished"), "an event says that it finished");
    job.wait_no_pods(SOON)?;

    // A job that is done stays done: its owner must not get the output twice.
    job.set_rate(1_000)?;
    let generation = job.apply()?;
    job.wait("the hint how to run it again", SOON, |object| {
        let status = &object["status"];
        let hint = status["message"].as_str()?.contains("restartNonce");
        (hint && status["observedGeneration"] == generation && status["phase"] == "Finished").then_some(())
    })?;
    ensure!(job.pods(JOB_MANAGER)?.is_empty(), "nothing was started again");
    job.check_output(env.expected()?)?;
    job.delete()
}
