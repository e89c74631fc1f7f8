//! A job that a person runs in one process and ends by Ctrl-C; and processes whose code does not let itself be interrupted.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use weir_tests::local::{JobLog, JobSpec, LocalJob, PATIENCE, Proc, code};
use weir_tests::oracle::{self, Order, OutputFiles};
use weir_tests::poll::wait_until;

use crate::scenarios::{END, OFTEN, Scenario};

fn start(spec: &JobSpec, name: &str, restore: Option<&str>) -> Result<Proc> {
    Proc::spawn(name, &mut spec.local(2, restore), &spec.logs.join(format!("{name}.log")))
}

fn says(job: &Proc, words: &[&str]) -> Result<()> {
    let text = job.text();
    for word in words {
        ensure!(text.contains(word), "it does not say {word:?}:\n{text}");
    }
    Ok(())
}

/// Waits for a checkpoint above `after` that the process completed.
fn wait_checkpoint(job: &mut Proc, log: &JobLog, after: u64) -> Result<()> {
    wait_until("a completed checkpoint", PATIENCE, OFTEN, || {
        ensure!(job.is_running(), "it ended:\n{}", job.tail());
        Ok(log.completed()?.iter().any(|e| e.index > after))
    })
}

/// Folder of the savepoint that the log names last.
fn savepoint(log: &JobLog) -> Result<PathBuf> {
    let entry = log.entries()?.into_iter().rfind(|e| e.kind == "savepoint").context("no savepoint in the log")?;
    let folder = log.root().join(entry.body["path"].as_str().context("an entry without a path")?);
    ensure!(folder.join("_metadata.json").is_file(), "{} holds no manifest", folder.display());
    Ok(folder)
}

pub fn interrupted_once_it_stops_with_a_savepoint_that_the_next_run_goes_on_from() -> Result<()> {
    Scenario::new()?.play(|s| {
        let (log, output) = (s.spec.log()?, s.dir.path().join("output"));
        let mut job = start(&s.spec, "first", None)?;
        wait_checkpoint(&mut job, &log, 0)?;
        job.signal(Signal::INT)?;
        let exit = job.wait(PATIENCE)?;
        ensure!(code(exit) == 0, "it ended with {exit}:\n{}", job.tail());
        ensure!(log.terminal()?.as_deref() == Some("Stopped"), "{:?}", log.last()?);
        let folder = savepoint(&log)?.display().to_string();
        let stopped = "stopping with a savepoint; Ctrl-C again quits at once";
        let next = "`--restore latest` goes on from it";
        says(&job, &[stopped, "flights: stopped with a savepoint after", " records read", &folder, next])?;
        let hidden = OutputFiles::of(&output)?.hidden;
        ensure!(hidden.is_empty(), "a stop commits everything: {hidden:?}");
        let part = oracle::check(&output, &s.expected, Order::Kept)?;
        part.must_be_exact_so_far()?;
        ensure!(part.rows > 0 && part.must_be_exact().is_err(), "it was not stopped in the middle: {} rows", part.rows);

        let mut job = start(&s.spec, "second", Some("latest"))?;
        let exit = job.wait(END)?;
        ensure!(code(exit) == 0, "it ended with {exit}:\n{}", job.tail());
        ensure!(log.terminal()?.as_deref() == Some("Finished"), "{:?}", log.last()?);
        says(&job, &["flights: finished after", " checkpoints completed"])?;
        oracle::check(&output, &s.expected, Order::Kept)?.must_be_exact()?;
        let hidden = OutputFiles::of(&output)?.hidden;
        ensure!(hidden.is_empty(), "left over: {hidden:?}");
        Ok(())
    })
}

/// A job whose records wait while this file exists, and the file that says that one waits.
struct Stuck {
    dir: tempfile::TempDir,
    spec: JobSpec,
    hold: PathBuf,
}

impl Stuck {
    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weir-stuck-").tempdir()?;
        let hold = dir.path().join("hold");
        Ok(Self { spec: JobSpec::stuck(dir.path(), &hold)?, hold, dir })
    }

    /// Returns when a record waits.
    fn hold(&self) -> Result<()> {
        fs::write(&self.hold, "")?;
        wait_until("a record to wait", PATIENCE, OFTEN, || Ok(self.hold.with_extension("entered").is_file()))
    }

    fn release(&self) -> Result<()> {
        Ok(fs::remove_file(&self.hold)?)
    }

    fn play(self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        body(&self).map_err(|error| error.context(format!("everything is in {}", self.dir.keep().display())))
    }
}

pub fn interrupted_twice_it_quits_although_the_savepoint_waits() -> Result<()> {
    Stuck::new()?.play(|s| {
        let log = s.spec.log()?;
        let mut job = start(&s.spec, "first", None)?;
        wait_checkpoint(&mut job, &log, 0)?;
        s.hold()?;
        job.signal(Signal::INT)?;
        wait_until("the word that it stops", PATIENCE, OFTEN, || Ok(job.text().contains("stopping with a savepoint")))?;
        ensure!(job.is_running(), "it ended before its savepoint:\n{}", job.tail());
        job.signal(Signal::INT)?;
        let exit = job.wait(PATIENCE)?;
        ensure!(code(exit) == 130, "it ended with {exit}:\n{}", job.tail());
        ensure!(!job.text().contains("no savepoint"), "the stop was refused:\n{}", job.tail());
        ensure!(log.terminal()?.is_none(), "nothing is recorded: {:?}", log.last()?);

        s.release()?;
        let before = log.head()?.context("an empty log")?;
        let mut job = start(&s.spec, "second", Some("latest"))?;
        wait_checkpoint(&mut job, &log, before)?;
        job.signal(Signal::INT)?;
        let exit = job.wait(PATIENCE)?;
        ensure!(code(exit) == 0, "it ended with {exit}:\n{}", job.tail());
        savepoint(&log)?;
        Ok(())
    })
}

pub fn taskmanager_whose_code_does_not_return_makes_room_for_another() -> Result<()> {
    Stuck::new()?.play(|s| {
        let mut job = LocalJob::start(s.spec.clone(), 1, 1, 1)?;
        job.wait_checkpoint()?;
        s.hold()?;
        job.jobmanager()?.kill()?;
        let tm = &mut job.taskmanagers[0];
        let exit = tm.wait(Duration::from_secs(120))?;
        ensure!(code(exit) == 1, "the taskmanager ended with {exit}:\n{}", tm.tail());
        says(tm, &["the job's code does not return"])?;
        s.release()?;
        job.start_jobmanager(Some("latest"))?;
        job.start_taskmanager(0)?;
        job.wait_checkpoint()?;
        Ok(())
    })
}
