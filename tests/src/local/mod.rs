//! A job as separate processes on this machine: one jobmanager, some taskmanagers, folders of its own, loopback only.

mod child;
pub mod http;
pub mod log;
mod ports;
mod program;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

pub use self::child::{Proc, code};
pub use self::http::Answer;
pub use self::log::JobLog;
pub use self::ports::free_address;
pub use self::program::{flights, functions, input, stuck};

use crate::poll::wait_for;

/// How often waits look.
const OFTEN: Duration = Duration::from_millis(10);
/// How long a job may take to get somewhere on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a job is made of; every process of it gets the same.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// The program (the flights example, or one with its command line).
    pub program: PathBuf,
    /// `input`, `output`, `repeat` as the example takes them.
    pub arguments: Vec<String>,
    /// Options of `jobmanager` besides addresses, parallelism and `--restore`.
    pub options: Vec<String>,
    /// Folder of the checkpoint storage; none: no `--checkpoints`.
    pub checkpoints: Option<PathBuf>,
    /// Where the processes' logs go.
    pub logs: PathBuf,
}

impl JobSpec {
    /// The flights example on `input`, with its folders `output`, `checkpoints` and `logs` below `root`.
    pub fn flights(root: &Path, input: &Path, repeat: u64) -> Result<Self> {
        let logs = root.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        Ok(Self {
            program: flights()?,
            arguments: words(&[
                "--input",
                &input.display().to_string(),
                "--output",
                &root.join("output").display().to_string(),
                "--repeat",
                &repeat.to_string(),
            ]),
            options: words(&[
                "--name",
                "flights",
                "--checkpoint-interval",
                "100ms",
                "--heartbeat-interval",
                "100ms",
                "--heartbeat-timeout",
                "2s",
            ]),
            checkpoints: Some(root.join("checkpoints")),
            logs,
        })
    }

    /// The functions job on that many orders, so many a second, with its folders `output`, `checkpoints` and `logs` below `root`.
    pub fn functions(root: &Path, records: u64, rate: f64) -> Result<Self> {
        let output = root.join("output").display().to_string();
        let arguments = vec!["--output".to_owned(), output];
        let spec = Self { program: functions()?, arguments, ..Self::flights(root, Path::new(""), 1)? };
        Ok(spec.argument("--records", records).argument("--rate", rate).option("--name", "functions"))
    }

    /// The job that is stuck while `hold` exists, with its folders `checkpoints` and `logs` below `root`.
    pub fn stuck(root: &Path, hold: &Path) -> Result<Self> {
        let arguments = vec!["--hold".to_owned(), hold.display().to_string()];
        let spec = Self { program: stuck()?, arguments, ..Self::flights(root, Path::new(""), 1)? };
        Ok(spec.option("--name", "stuck"))
    }

    /// Further arguments of the job itself.
    #[must_use]
    pub fn argument(mut self, name: &str, value: impl ToString) -> Self {
        self.arguments.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// A further option of the jobmanager; the last one of a name counts.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl ToString) -> Self {
        if let Some(at) = self.options.iter().position(|o| o == name) {
            self.options.drain(at..at + 2);
        }
        self.options.extend([name.to_owned(), value.to_string()]);
        self
    }

    /// The job's log in its storage.
    pub fn log(&self) -> Result<JobLog> {
        let storage = self.checkpoints.as_ref().context("the job has no checkpoint storage")?;
        let name = self.options.iter().position(|o| o == "--name").and_then(|at| self.options.get(at + 1));
        Ok(JobLog::new(storage, "default", name.context("the job has no name")?))
    }

    /// The command line of a jobmanager.
    pub fn jobmanager(&self, rest: SocketAddr, rpc: SocketAddr, parallelism: u32, restore: Option<&str>) -> Command {
        let mut command = self.whole("jobmanager", parallelism, restore);
        command.args(["--rest-address", &rest.to_string(), "--rpc-address", &rpc.to_string()]);
        command
    }

    /// The command line of the whole job in one process.
    pub fn local(&self, parallelism: u32, restore: Option<&str>) -> Command {
        self.whole("local", parallelism, restore)
    }

    fn whole(&self, what: &str, parallelism: u32, restore: Option<&str>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(what).args(&self.arguments).args(&self.options);
        command.args(["--parallelism", &parallelism.to_string()]);
        if let Some(storage) = &self.checkpoints {
            command.arg("--checkpoints").arg(storage);
        }
        if let Some(from) = restore {
            command.args(["--restore", from]);
        }
        environment(&mut command);
        command
    }

    /// The command line of a taskmanager.
    pub fn taskmanager(&self, rpc: SocketAddr, id: &str, slots: u32) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("taskmanager").args(&self.arguments);
        command.args(["--jobmanager", &rpc.to_string(), "--id", id, "--slots", &slots.to_string()]);
        environment(&mut command);
        command
    }
}

/// What is set outside must not decide what is tested.
fn environment(command: &mut Command) {
    for name in ["WEIR_CONFIG", "WEIR_TASKMANAGER_ID", "WEIR_ADVERTISED_HOST"] {
        command.env_remove(name);
    }
    command.env("RUST_BACKTRACE", "1");
}

/// Jobmanager and taskmanagers of one job. All of them are killed when it is dropped.
#[derive(Debug)]
pub struct LocalJob {
    pub spec: JobSpec,
    pub rest: SocketAddr,
    pub rpc: SocketAddr,
    pub parallelism: u32,
    pub jobmanager: Option<Proc>,
    pub taskmanagers: Vec<Proc>,
    slots: u32,
    started: u32,
    /// In the names of this job's taskmanagers and logs.
    tag: String,
}

impl LocalJob {
    /// Finds addresses; starts nothing.
    pub fn new(spec: JobSpec, parallelism: u32) -> Result<Self> {
        Self::tagged(spec, parallelism, "")
    }

    /// The same for a second job beside the first: `tag` keeps the names apart.
    pub fn tagged(spec: JobSpec, parallelism: u32, tag: &str) -> Result<Self> {
        Ok(Self {
            spec,
            rest: free_address()?,
            rpc: free_address()?,
            parallelism,
            jobmanager: None,
            taskmanagers: Vec::new(),
            slots: 1,
            started: 0,
            tag: tag.to_owned(),
        })
    }

    /// Starts a jobmanager and taskmanagers with that many slots each.
    pub fn start(spec: JobSpec, parallelism: u32, taskmanagers: usize, slots: u32) -> Result<Self> {
        let mut job = Self::new(spec, parallelism)?;
        job.start_all(taskmanagers, slots, None)?;
        Ok(job)
    }

    pub fn start_all(&mut self, taskmanagers: usize, slots: u32, restore: Option<&str>) -> Result<()> {
        self.start_jobmanager(restore)?;
        self.slots = slots;
        for n in 0..taskmanagers {
            self.start_taskmanager(n)?;
        }
        Ok(())
    }

    /// Starts the jobmanager (again), on the same ports.
    pub fn start_jobmanager(&mut self, restore: Option<&str>) -> Result<()> {
        self.started += 1;
        let log = self.spec.logs.join(format!("{}jobmanager-{:04}.log", self.tag, self.started));
        let mut command = self.spec.jobmanager(self.rest, self.rpc, self.parallelism, restore);
        let name = format!("{}jobmanager #{}", self.tag, self.started);
        self.jobmanager = Some(Proc::spawn(&name, &mut command, &log)?);
        Ok(())
    }

    /// Starts taskmanager `n` (again), under the same name.
    pub fn start_taskmanager(&mut self, n: usize) -> Result<()> {
        self.started += 1;
        let id = format!("{}tm-{n}", self.tag);
        let log = self.spec.logs.join(format!("{id}-{:04}.log", self.started));
        let mut command = self.spec.taskmanager(self.rpc, &id, self.slots);
        let proc = Proc::spawn(&format!("{id} #{}", self.started), &mut command, &log)?;
        match self.taskmanagers.get_mut(n) {
            Some(old) => *old = proc,
            None => self.taskmanagers.push(proc),
        }
        Ok(())
    }

    /// Starts those taskmanagers (again) that have ended.
    pub fn revive_taskmanagers(&mut self, count: usize) -> Result<()> {
        for n in 0..count {
            if self.taskmanagers.get_mut(n).is_none_or(|tm| !tm.is_running()) {
                self.start_taskmanager(n)?;
            }
        }
        Ok(())
    }

    pub fn jobmanager(&mut self) -> Result<&mut Proc> {
        self.jobmanager.as_mut().context("no jobmanager was started")
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        http::request(self.rest, "GET", path, None)?.success().with_context(|| format!("GET {path}"))
    }

    /// Any request with a JSON body.
    pub fn send(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        http::request(self.rest, method, path, Some(("application/json", body.as_bytes())))
    }

    /// `GET /weir/v1/status`.
    pub fn status(&self) -> Result<Value> {
        self.get("/weir/v1/status")
    }

    /// `/jobs/:id` of the job.
    pub fn job_path(&self) -> Result<String> {
        let status = self.status()?;
        let id = status["jobId"].as_str().context("the status has no jobId")?;
        Ok(format!("/jobs/{id}"))
    }

    /// Asks until `probe` answers; fails at once when the jobmanager ends.
    pub fn wait<T>(&mut self, what: &str, mut probe: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        wait_for(what, PATIENCE, OFTEN, || {
            if let Some(jm) = &mut self.jobmanager
                && let Some(status) = jm.exit()?
            {
                return Ok(Some(Err(format!("the jobmanager ended with {status}:\n{}", jm.tail()))));
            }
            Ok(probe(self)?.map(Ok))
        })
        .and_then(|found| found.map_err(|e| anyhow::anyhow!("while waiting for {what}: {e}")))
        .with_context(|| match &self.jobmanager {
            Some(jm) => format!("log of the {}:\n{}", jm.name, jm.tail()),
            None => "no jobmanager".into(),
        })
    }

    /// Waits until all tasks run.
    pub fn wait_running(&mut self) -> Result<Value> {
        self.wait("all tasks to run", |job| {
            let status = job.status()?;
            Ok((status["allTasksRunning"] == true).then_some(status))
        })
    }

    /// Waits for a checkpoint completed after this call.
    pub fn wait_checkpoint(&mut self) -> Result<Value> {
        let last = |status: &Value| status["lastCheckpoint"]["id"].as_u64().unwrap_or(0);
        let before = self.wait("the status", |job| job.status().map(Some)).map(|s| last(&s))?;
        self.wait("another completed checkpoint", |job| {
            let status = job.status()?;
            Ok((last(&status) > before).then_some(status))
        })
    }

    /// Waits until the job has ended and its jobmanager with it; the terminal status as the log has it.
    pub fn wait_end(&mut self, limit: Duration) -> Result<String> {
        let jm = self.jobmanager()?;
        let exit = jm.wait(limit)?;
        ensure!(code(exit) == 0, "the jobmanager ended with {exit}:\n{}", jm.tail());
        let terminal = self.spec.log()?.terminal()?;
        terminal.with_context(|| {
            let tail = self.jobmanager.as_ref().map(Proc::tail).unwrap_or_default();
            format!("the jobmanager ended, but the log's last entry is no end of the job:\n{tail}")
        })
    }

    /// Stop-with-savepoint by REST; the savepoint's location once it is completed.
    pub fn stop_with_savepoint(&mut self) -> Result<String> {
        let path = self.wait("the job's id", |job| job.job_path().map(Some))?;
        let trigger = self.wait("the stop to be taken", |job| {
            let answer = job.send("POST", &format!("{path}/stop"), "{}")?;
            match answer.status {
                409 => bail!("{}", answer.body),
                _ => Ok(answer.success()?["request-id"].as_str().map(str::to_owned)),
            }
        })?;
        let result = self.wait("the savepoint", |job| {
            let result = job.get(&format!("{path}/savepoints/{trigger}"))?;
            Ok((result["status"]["id"] == "COMPLETED").then_some(result))
        })?;
        match result["operation"]["location"].as_str() {
            Some(location) => Ok(location.to_owned()),
            None => bail!("the stop failed: {}", result["operation"]),
        }
    }
}
