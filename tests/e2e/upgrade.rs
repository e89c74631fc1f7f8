//! A changed spec: what it means, how the state is carried over, and that an upgrade which cannot work leaves the old generation running.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};
use weir_tests::oracle::{self, Order, OutputWatch};

use crate::env::{Env, LONG, NAMED, RATE, SLOW, SOON, VERY_SLOW};

pub fn savepoint_with_changed_argument(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    job.set_rate(RATE + 1)?;
    upgrade_through_savepoint(env, &job, "spec.args")
}

pub fn savepoint_with_changed_image(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    job.spec()["image"] = json!(env.images().flights_next.reference);
    upgrade_through_savepoint(env, &job, "spec.image")
}

/// Applies the manifest and expects a savepoint, a new generation from it, and nothing left of the old one.
fn upgrade_through_savepoint(env: &Env, job: &FlightsJob<'_>, because: &str) -> Result<()> {
    let watch = job.watch()?;
    let begun = Instant::now();
    let generation = job.apply()?;
    job.wait_ready(SOON)?;
    let status = job.status()?;
    ensure!(status["deployed"]["generation"] == generation, "Ready speaks of the new generation: {status}");
    let path = stopped_with_savepoint(job)?;
    ensure!(status["restoredFrom"] == path.as_str(), "restored from {path}: {status}");
    let upgrading = job.wait_event("Upgrading", SOON)?;
    ensure!(upgrading.contains(because), "the event names the field {because}: {upgrading}");
    watch.wait_after(Instant::now(), SOON)?;
    env.note(format!("longest gap {:.2} s", watch.longest_gap(begun, Instant::now()).as_secs_f64()));
    only_generation(job, generation)?;
    job.wait_event("UpgradeDone", SOON)?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    ensure!(job.status()?["restarts"] == 0, "an upgrade is no restart");
    Ok(())
}

/// The path that the event about the savepoint names.
fn stopped_with_savepoint(job: &FlightsJob<'_>) -> Result<String> {
    let message = job.wait_event("SavepointCompleted", SOON)?;
    let path = message.split("with savepoint ").nth(1).with_context(|| format!("no path in {message:?}"))?;
    Ok(path.trim().to_owned())
}

/// Waits until all pods are of one generation.
fn only_generation(job: &FlightsJob<'_>, generation: i64) -> Result<()> {
    job.wait(&format!("only pods of generation {generation}"), SOON, |_| {
        let pods = [job.pods(JOB_MANAGER).ok()?, job.pods(TASK_MANAGER).ok()?].concat();
        (!pods.is_empty() && pods.iter().all(|pod| pod.generation == generation)).then_some(())
    })
}

pub fn last_state(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    job.spec()["upgradeMode"] = json!("LastState");
    job.set_rate(RATE + 1)?;
    let generation = job.apply()?;
    job.wait_ready(SOON)?;
    let status = job.status()?;
    let from = status["restoredFrom"].as_str().with_context(|| format!("nothing was restored: {status}"))?;
    ensure!(!from.contains("savepoint"), "a checkpoint was restored: {from}");
    ensure!(!job.events()?.iter().any(|(reason, _)| reason.starts_with("Savepoint")), "no savepoint was taken");
    only_generation(&job, generation)?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn stateless_starts_new(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    let first = job.output()?;
    job.spec()["upgradeMode"] = json!("Stateless");
    job.set_args(Some(RATE + 1), 1, "second");
    let generation = job.apply()?;
    job.wait_ready(SOON)?;
    ensure!(job.status()?["restoredFrom"].is_null(), "nothing is restored: {}", job.status()?);
    let started = job.wait_event("Started", SOON)?;
    ensure!(started.contains("started new"), "{started}");
    only_generation(&job, generation)?;
    oracle::check(&first, env.expected()?, Order::Kept)?.must_be_exact_so_far()?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn redeploy_goes_back_to_a_savepoint(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    // The first upgrade leaves a savepoint and writes into the same folder.
    job.spec()["state"] = json!("Suspended");
    job.apply()?;
    job.wait_phase("Suspended", SOON)?;
    let path = stopped_with_savepoint(&job)?;
    // What was committed up to the savepoint, and what a job that goes back to it commits, is the whole.
    let whole = job.shared().join("whole");
    copy_parts(&job.output()?, &whole.join("before"))?;
    job.spec()["state"] = json!("Running");
    job.apply()?;
    job.wait_ready(SOON)?;
    job.wait_output(SOON)?;
    job.set_args(Some(RATE), 1, "again");
    job.spec()["restore"] = json!({"from": path, "nonce": 1});
    let generation = job.apply()?;
    job.wait_ready(SOON)?;
    let status = job.status()?;
    ensure!(status["restoredFrom"] == path.as_str() && status["deployed"]["generation"] == generation, "{status}");
    job.wait_phase("Finished", LONG)?;
    copy_parts(&job.output()?, &whole.join("after"))?;
    let report = oracle::check(&whole, env.expected()?, Order::Kept)?;
    env.note(report.to_string());
    report.must_be_exact()
}

fn copy_parts(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for (index, part) in oracle::OutputFiles::of(from)?.parts.iter().enumerate() {
        fs::copy(part, to.join(format!("part-{index}")))?;
    }
    Ok(())
}

pub fn ignored_change_touches_nothing(env: &Env) -> Result<()> {
    let mut job = env.running(RATE)?;
    let (uids, attempt) = (job.pod_uids()?, job.status()?["attempt"].clone());
    job.spec()["upgradeMode"] = json!("LastState");
    let generation = job.apply()?;
    job.wait_ready(SOON)?;
    let status = job.status()?;
    ensure!(status["observedGeneration"] == generation, "{status}");
    let adopted = job.wait_event("SpecAdopted", SOON)?;
    ensure!(adopted.contains("spec.upgradeMode"), "{adopted}");
    job.wait_output(SOON)?;
    ensure!(job.pod_uids()? == uids && job.status()?["attempt"] == attempt, "nothing was restarted");
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn ready_never_means_the_old_generation(env: &Env) -> Result<()> {
    let mut job = env.job(VERY_SLOW)?;
    for step in 0..4 {
        match step {
            0 => {}
            1 => job.spec()["restartNonce"] = json!(1),
            2 => job.spec()["parallelism"] = json!(1),
            _ => job.set_rate(VERY_SLOW + 1)?,
        }
        let generation = job.apply()?;
        job.wait_ready(SOON)?;
        let status = job.status()?;
        let runs = &status["deployed"]["spec"];
        ensure!(
            (&runs["args"], &runs["parallelism"], &runs["restartNonce"])
                == (
                    &job.manifest["spec"]["args"],
                    &job.manifest["spec"]["parallelism"],
                    &job.manifest["spec"]["restartNonce"]
                ),
            "Ready right after step {step} (generation {generation}), but what runs is {runs}"
        );
        ensure!(status["parallelism"] == runs["parallelism"], "{status}");
    }
    env.hurried(&mut job)
}

pub fn savepoint_fails_and_the_old_job_runs_on(env: &Env) -> Result<()> {
    let mut job = env.running(SLOW)?;
    let (generation, attempt) = (job.status()?["deployed"]["generation"].clone(), job.status()?["attempt"].clone());
    let guard = ReadOnly::new(job.checkpoints())?;
    job.set_rate(RATE)?;
    job.apply()?;
    let (reason, message) = job.wait_condition("Degraded", &["SavepointFailed"], SOON)?;
    env.note(format!("{reason}: {message}"));
    ensure!(message.contains("denied") && message.contains("runs on"), "the reason is told: {message}");
    let status = job.status()?;
    ensure!(
        (&status["deployed"]["generation"], &status["attempt"], &status["jobState"])
            == (&generation, &attempt, &json!("RUNNING")),
        "the old job runs on: {status}"
    );
    drop(guard);
    // The next try succeeds, and nothing was lost meanwhile.
    job.wait_ready(LONG)?;
    stopped_with_savepoint(&job)?;
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

/// Folders in which nothing can be made, until it is dropped.
struct ReadOnly(std::path::PathBuf);

impl ReadOnly {
    fn new(dir: std::path::PathBuf) -> Result<Self> {
        set_mode(&dir, 0o555)?;
        Ok(Self(dir))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = set_mode(&self.0, 0o755);
    }
}

/// Of a folder and all below it: the outer first, so that nothing new appears in those already done.
fn set_mode(dir: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).with_context(|| format!("chmod {}", dir.display()))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // checkpoints are removed while we look
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = set_mode(&entry.path(), mode);
        }
    }
    Ok(())
}

/// Watches an upgrade that cannot work: what runs is not touched.
struct Untouched {
    uids: Vec<String>,
    attempt: serde_json::Value,
    watch: OutputWatch,
    begun: Instant,
}

impl Untouched {
    fn begin(job: &FlightsJob<'_>) -> Result<Self> {
        let (uids, attempt) = (job.pod_uids()?, job.status()?["attempt"].clone());
        Ok(Self { uids, attempt, watch: job.watch()?, begun: Instant::now() })
    }

    fn end(self, env: &Env, job: &FlightsJob<'_>) -> Result<()> {
        self.watch.wait_after(Instant::now(), SOON)?;
        env.note(format!(
            "longest gap {:.2} s within {:.0} s",
            self.watch.longest_gap(self.begun, Instant::now()).as_secs_f64(),
            self.begun.elapsed().as_secs_f64()
        ));
        let (now, status) = (job.pod_uids()?, job.status()?);
        ensure!(self.uids.iter().all(|uid| now.contains(uid)), "pods of the old generation were replaced");
        ensure!(status["attempt"] == self.attempt && status["restarts"] == 0, "the old job was restarted: {status}");
        ensure!(status["jobState"] == "RUNNING", "{status}");
        job.check_so_far(env.expected()?).map(drop)
    }
}

/// Applies a change that cannot work, expects it to be named in time, then takes it back and lets the job end.
fn refused_upgrade(env: &Env, change: impl Fn(&mut FlightsJob<'_>), reasons: &[&str], says: &[&str]) -> Result<()> {
    let mut job = env.running(SLOW)?;
    let good = job.manifest.clone();
    let untouched = Untouched::begin(&job)?;
    change(&mut job);
    job.apply()?;
    let begun = Instant::now();
    let (reason, message) = job.wait_condition("Degraded", reasons, NAMED)?;
    env.note(format!("{reason} after {:.1} s: {message}", begun.elapsed().as_secs_f64()));
    for part in says {
        ensure!(message.contains(part), "{part:?} is not in {message:?}");
    }
    ensure!(message.contains("runs on"), "it says that the old generation runs on: {message}");
    // Whatever the operator tries next, the old generation stays.
    let waiting = job.wait_ready(Duration::from_secs(3));
    ensure!(waiting.is_err(), "a generation that cannot start is not ready");
    job.manifest = good;
    untouched.end(env, &job)?;

    job.set_rate(RATE)?;
    job.apply()?;
    job.wait_ready(SOON)?;
    ensure!(job.status()?["reason"] != json!(reason), "what is over is not told any more");
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}

pub fn bad_image_leaves_the_old_generation_running(env: &Env) -> Result<()> {
    let image = "registry.invalid/no-such-image:1";
    let reasons = ["ErrImagePull", "ImagePullBackOff"];
    refused_upgrade(env, |job| job.spec()["image"] = json!(image), &reasons, &[image])
}

pub fn job_that_does_not_start_leaves_the_old_generation_running(env: &Env) -> Result<()> {
    let change = |job: &mut FlightsJob<'_>| {
        if let Some(args) = job.spec()["args"].as_array_mut() {
            args.push(json!("--no-such-option"));
        }
    };
    refused_upgrade(env, change, &["CrashLoopBackOff"], &["--no-such-option"])
}

pub fn state_of_another_type_is_refused(env: &Env) -> Result<()> {
    let change = |job: &mut FlightsJob<'_>| {
        job.spec()["image"] = json!(env.weir.misfits.flights_narrow.reference);
    };
    let says = [
        "nothing was changed",
        "state \"value\" of operator \"legs\"",
        "late: u64",
        "late: u32",
        "field late: u64 and u32",
    ];
    refused_upgrade(env, change, &["Incompatible"], &says)
}

pub fn state_of_another_job_is_refused(env: &Env) -> Result<()> {
    let change = |job: &mut FlightsJob<'_>| {
        job.spec()["image"] = json!(env.weir.misfits.wordcount.reference);
        job.spec()["args"] = json!(["--input", weir_tests::weir_images::FLIGHTS_INPUT]);
    };
    refused_upgrade(env, change, &["Incompatible"], &["legs"])
}
