//! A job that ran for a while and left checkpoints, a savepoint and output behind; each test gets a copy of its folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use weir_tests::local::{self, JobSpec, LocalJob, Proc, code};
use weir_tests::suite::CannotRun;

/// A folder for one test.
pub fn folder() -> Result<TempDir> {
    tempfile::Builder::new().prefix("weir-badinput-").tempdir().context("cannot create a folder for the test")
}

/// A test's folder, kept when the test fails.
pub fn in_folder(body: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let dir = folder()?;
    match body(dir.path()) {
        Ok(()) => Ok(()),
        Err(error) if CannotRun::reason(&error).is_some() => Err(error),
        Err(error) => {
            let kept = dir.keep();
            Err(error.context(format!("everything is in {}", kept.display())))
        }
    }
}

/// The flights example on so much input that it does not end during a test.
pub fn endless(dir: &Path) -> Result<JobSpec> {
    Ok(JobSpec::flights(dir, &local::input()?, 10_000)?.argument("--rate", 20_000))
}

/// What a job left behind.
pub struct Left {
    pub spec: JobSpec,
    /// Path of the savepoint.
    pub savepoint: PathBuf,
    /// Path of the last completed checkpoint.
    pub checkpoint: PathBuf,
    /// Number of that checkpoint.
    pub id: u64,
}

/// Runs the job once for all tests and copies what it left to `dir`.
pub fn left_behind(dir: &Path) -> Result<Left> {
    static ORIGINAL: Mutex<Option<TempDir>> = Mutex::new(None);
    let mut original = ORIGINAL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let from = match &*original {
        Some(made) => made.path().to_path_buf(),
        None => {
            let made = folder()?;
            make(made.path())?;
            let path = made.path().to_path_buf();
            *original = Some(made);
            path
        }
    };
    drop(original);
    copy(&from, dir)?;
    let spec = endless(dir)?;
    let log = spec.log()?;
    let path = |kind: &str| -> Result<(PathBuf, u64)> {
        let last = log.entries()?.into_iter().rfind(|e| e.kind == kind).with_context(|| format!("no {kind} entry"))?;
        let path = last.body["path"].as_str().context("an entry without a path")?;
        Ok((log.root().join(path), last.body["id"].as_u64().context("an entry without an id")?))
    };
    let ((savepoint, _), (checkpoint, id)) = (path("savepoint")?, path("completed")?);
    Ok(Left { savepoint, checkpoint, id, spec })
}

fn make(dir: &Path) -> Result<()> {
    let mut job = LocalJob::start(endless(dir)?, 2, 2, 1)?;
    job.wait_running()?;
    job.wait_checkpoint()?;
    let path = job.job_path()?;
    let trigger = job.send("POST", &format!("{path}/savepoints"), "{}")?.success()?;
    let trigger = trigger["request-id"].as_str().context("no request-id")?.to_owned();
    let result = job.wait("the savepoint", |job| {
        let result = job.get(&format!("{path}/savepoints/{trigger}"))?;
        Ok((result["status"]["id"] == "COMPLETED").then_some(result))
    })?;
    ensure!(result["operation"]["location"].is_string(), "the savepoint failed: {result}");
    job.wait_checkpoint()?;
    let jm = job.jobmanager()?;
    jm.signal(Signal::TERM)?;
    jm.wait(Duration::from_secs(20))?;
    Ok(())
}

pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Starts the jobmanager alone, which must end by itself with this exit code; what it said.
pub fn refused(spec: &JobSpec, parallelism: u32, restore: Option<&str>, wanted: i32) -> Result<String> {
    let (rest, rpc) = (local::free_address()?, local::free_address()?);
    let mut command = spec.jobmanager(rest, rpc, parallelism, restore);
    fs::create_dir_all(&spec.logs)?;
    let log = spec.logs.join(format!("refused-{}.log", rest.port()));
    let mut jm = Proc::spawn("jobmanager", &mut command, &log)?;
    let exit = jm.wait(local::PATIENCE).context("it was not refused")?;
    ensure!(code(exit) == wanted, "it ended with {exit}, not with {wanted}:\n{}", jm.tail());
    let text = jm.text();
    ensure!(!text.contains("panicked"), "it panicked:\n{text}");
    Ok(text)
}

/// Every one of `words` must be in `text`.
pub fn says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        if !text.contains(word) {
            bail!("the message does not say {word:?}:\n{text}");
        }
    }
    Ok(())
}

/// The sentences of the exception history.
pub fn exceptions(job: &LocalJob) -> Result<String> {
    let path = job.job_path()?;
    let body = job.get(&format!("{path}/exceptions"))?;
    fn texts(value: &Value, all: &mut Vec<String>) {
        match value {
            Value::String(text) => all.push(text.clone()),
            Value::Array(values) => values.iter().for_each(|v| texts(v, all)),
            Value::Object(fields) => fields.values().for_each(|v| texts(v, all)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    texts(&body, &mut all);
    Ok(all.join("\n"))
}

/// A value of the metric `name` (with labels as written) in the jobmanager's `/metrics`, summed over its samples.
pub fn metric(job: &LocalJob, name: &str) -> Result<f64> {
    let answer = local::http::request(job.rest, "GET", "/metrics", None)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    let samples = answer.body.lines().filter(|line| line.starts_with(name));
    Ok(samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
