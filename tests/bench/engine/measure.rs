//! Runs loops and jobs, each in a process of its own (or several), and reads what they tell.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use weir_tests::local::{JobLog, JobSpec, LocalJob};
use weir_tests::poll::wait_for;

use crate::jobs;
use crate::outcome::{Outcome, memory};

/// Longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(300);
const NAME: &str = "bench";
const WINDOWS: &str = "windows";

/// Where a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deploy {
    /// All of it in one process, with this parallelism.
    Local(u32),
    /// A jobmanager and so many taskmanagers with a slot each.
    Processes(u32),
}

/// A job to run.
#[derive(Debug, Clone)]
pub struct Run {
    job: &'static str,
    records: u64,
    pub keys: u64,
    /// Size of the text to read.
    pub megabytes: Option<u64>,
    deploy: Deploy,
    checkpoints: Option<&'static str>,
    verify: bool,
}

impl Run {
    pub fn reduce(job: &'static str, records: u64, keys: u64, deploy: Deploy) -> Self {
        Self { job, records, keys, megabytes: None, deploy, checkpoints: None, verify: false }
    }
    pub fn words(megabytes: u64, deploy: Deploy) -> Self {
        // about eight bytes a word: only says when a run is half done
        let records = megabytes << 17;
        Self { megabytes: Some(megabytes), ..Self::reduce("word-count", records, 0, deploy) }
    }
    pub fn windows(records: u64, keys: u64, deploy: Deploy) -> Self {
        Self::reduce(WINDOWS, records, keys, deploy)
    }
    pub fn with_checkpoints(self, interval: &'static str) -> Self {
        Self { checkpoints: Some(interval), ..self }
    }
    pub fn without_checkpoints(&self) -> Self {
        Self { checkpoints: None, ..self.clone() }
    }
    /// The same with few records, of which the last result of each key is kept.
    pub fn verifying(&self, records: u64) -> Self {
        Self { records: records.min(self.records), verify: true, checkpoints: None, ..self.clone() }
    }
    pub fn records(&self) -> u64 {
        self.records
    }
    /// On one thread the order of the records, and with it every intermediate result, is that of the loop.
    pub fn is_ordered(&self) -> bool {
        self.deploy == Deploy::Local(1) && self.megabytes.is_none()
    }
    pub fn is_text(&self) -> bool {
        self.megabytes.is_some()
    }

    pub fn is_windowed(&self) -> bool {
        self.job == WINDOWS
    }

    fn parallelism(&self) -> u32 {
        match self.deploy {
            Deploy::Local(p) | Deploy::Processes(p) => p,
        }
    }

    fn arguments(&self, report: &Path, folder: &Path) -> Result<Vec<String>> {
        let mut all = vec!["--job".to_owned(), self.job.to_owned()];
        let shares = self.parallelism().to_string();
        let (records, keys, report) = (self.records.to_string(), self.keys.to_string(), report.display().to_string());
        for (name, value) in [("--records", records), ("--keys", keys), ("--shares", shares), ("--report", report)] {
            all.extend([name.to_owned(), value]);
        }
        if let Some(megabytes) = self.megabytes {
            all.extend(["--input".to_owned(), crate::words::file(folder, megabytes)?.display().to_string()]);
        }
        if self.verify {
            all.push("--verify".to_owned());
        }
        Ok(all)
    }

    fn options(&self) -> Vec<String> {
        let mut all = vec!["--name".to_owned(), NAME.to_owned()];
        if let Some(interval) = self.checkpoints {
            all.extend(["--checkpoint-interval".to_owned(), interval.to_owned()]);
        }
        all
    }

    /// Runs the job to its end. `folder` holds the inputs. Returns what it did, the fold of its last results, and the number
    /// of checkpoints that were completed.
    pub fn measure(&self, folder: &Path) -> Result<(Outcome, u64, usize)> {
        let scratch = TempDir::new_in(folder)?;
        let report = scratch.path().join("report");
        std::fs::create_dir(&report)?;
        let completed = self.execute(folder, scratch.path(), &report)?;
        let (outcome, finals) = jobs::collect(&report)?;
        Ok((outcome, finals, completed))
    }

    /// Runs the job to its end, with its checkpoints in `scratch`; its sink tells in `report` what it saw. Returns the number of
    /// completed checkpoints that the job's log still knows.
    pub fn execute(&self, folder: &Path, scratch: &Path, report: &Path) -> Result<usize> {
        let arguments = self.arguments(report, folder)?;
        let storage = self.checkpoints.map(|_| scratch.join("checkpoints"));
        match self.deploy {
            Deploy::Local(p) => {
                let mut command = Command::new(program()?);
                command.arg("local").args(&arguments).args(self.options()).args(["--parallelism", &p.to_string()]);
                if let Some(storage) = &storage {
                    command.arg("--checkpoints").arg(storage);
                }
                let output = command.output().context("cannot start the job")?;
                ensure!(output.status.success(), "the job failed: {}", String::from_utf8_lossy(&output.stderr));
            }
            Deploy::Processes(n) => {
                let spec = self.spec(arguments, storage.clone(), scratch)?;
                let mut job = LocalJob::start(spec, n, n as usize, 1)?;
                let jobmanager = job.jobmanager.as_mut().context("a jobmanager")?;
                let exit = jobmanager.wait(PATIENCE)?;
                ensure!(exit.success(), "the jobmanager ended with {exit}:\n{}", jobmanager.tail());
            }
        }
        let completed = storage.map(|s| JobLog::new(&s, "default", NAME).completed()).transpose()?;
        Ok(completed.map_or(0, |c| c.len()))
    }

    /// What its processes are started with.
    pub fn deployed(&self, folder: &Path, scratch: &Path, report: &Path) -> Result<JobSpec> {
        self.spec(self.arguments(report, folder)?, Some(scratch.join("checkpoints")), scratch)
    }

    fn spec(&self, arguments: Vec<String>, checkpoints: Option<PathBuf>, logs: &Path) -> Result<JobSpec> {
        let logs = logs.to_path_buf();
        Ok(JobSpec { program: program()?, arguments, options: self.options(), checkpoints, logs })
    }
}

fn program() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find this program")
}

/// Runs `engine limit ARGUMENTS` in a process of its own.
pub fn run_loop<T: serde::de::DeserializeOwned>(arguments: &[String]) -> Result<T> {
    let output = Command::new(program()?).arg("limit").args(arguments).output().context("cannot start a loop")?;
    ensure!(output.status.success(), "the loop failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("a loop told nothing")
}

/// A jobmanager and a taskmanager that wait for more slots: resident memory of both (MiB), and the time from the start of
/// the processes until the slots are registered (seconds).
pub fn idle(folder: &Path) -> Result<(f64, f64)> {
    let scratch = TempDir::new_in(folder)?;
    let run = Run::reduce("reduce-str", 1, 1, Deploy::Processes(2));
    let spec = run.spec(run.arguments(scratch.path(), folder)?, None, scratch.path())?;
    let started = Instant::now();
    let job = LocalJob::start(spec, 2, 1, 1)?;
    wait_for("the taskmanager's slot", PATIENCE, Duration::from_millis(1), || {
        let answer = job.get("/overview")?;
        Ok((answer["slots-total"].as_u64() == Some(1)).then_some(()))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    // what the start needed is given back by then, if ever
    std::thread::sleep(Duration::from_secs(2));
    let resident = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        memory(&status, "VmRSS:")
    };
    let all = job.jobmanager.iter().chain(&job.taskmanagers).map(|p| resident(p.pid())).sum();
    Ok((all, seconds))
}
