//! One run of the job from its start to its end, with blows in between, and the verdict on its output.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::schedule::{Blow, Moment, Schedule, Step};
use crate::local::{Answer, JobSpec, LocalJob, Proc, code};
use crate::oracle::{self, Expected, Order, OutputFiles};

const OFTEN: Duration = Duration::from_millis(5);
/// A moment that does not come is waited for no longer.
const MOMENT: Duration = Duration::from_secs(4);
/// Time that a job may take to end once nobody disturbs it.
const END: Duration = Duration::from_secs(180);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(1200);

/// The job, and what it must have committed in the end.
#[derive(Debug, Clone)]
pub enum Work {
    /// The flights example on this input, read so many times.
    Flights { input: PathBuf, repeat: u64, expected: Arc<Expected> },
    /// The functions job with so many orders and so many a second.
    Functions { records: u64, rate: f64 },
}

impl Work {
    fn spec(&self, dir: &Path) -> Result<JobSpec> {
        match self {
            Self::Flights { input, repeat, .. } => JobSpec::flights(dir, input, *repeat),
            Self::Functions { records, rate } => JobSpec::functions(dir, *records, *rate),
        }
    }

    /// Judges the committed output; the number of rows.
    fn check(&self, output: &Path) -> Result<u64> {
        match self {
            Self::Flights { expected, .. } => {
                let report = oracle::check(output, expected, Order::Kept)?;
                report.must_be_exact()?;
                Ok(report.rows)
            }
            Self::Functions { records, .. } => oracle::functions::check(output, *records),
        }
    }
}

/// What is run.
#[derive(Debug, Clone)]
pub struct Run {
    pub seed: u64,
    pub parallelism: u32,
    pub taskmanagers: usize,
    pub slots: u32,
    pub interval: Duration,
    pub work: Work,
    /// SIGKILLs at the most.
    pub kills: u64,
    pub only_kills: bool,
    /// Output, checkpoints and logs go below it.
    pub dir: PathBuf,
    /// Print every step.
    pub verbose: bool,
}

/// What became of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub kills: u64,
    /// Steps carried out, also those that kill nothing.
    pub steps: Vec<String>,
    pub rows: u64,
    pub attempts: u64,
    pub took: Duration,
}

struct Chaos<'a> {
    run: &'a Run,
    job: LocalJob,
    outcome: Outcome,
    generation: u32,
    /// The largest parallelism so far.
    most: u32,
    /// Processes of a fenced generation that may still run.
    old: Vec<Proc>,
    began: Instant,
}

/// Whether a process ended as SIGTERM asks for; one that had not come far enough to take signals just ends.
fn is_end(proc: &Proc, exit: std::process::ExitStatus) -> bool {
    code(exit) == 0 || (exit.signal() == Some(15) && !proc.text().contains("manager starts"))
}

/// Whether the job goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    On,
    Ended,
}

impl Run {
    /// Runs it. An error names the seed and the folder, which is kept by the caller.
    pub fn execute(&self) -> Result<Outcome> {
        let mut steps = Vec::new();
        self.try_execute(&mut steps).with_context(|| {
            format!(
                "chaos run with seed {} failed after {} steps\n  {}\n  parallelism {}, {} taskmanagers with {} slots, checkpoint interval {:?}; everything is in {}",
                self.seed,
                steps.len(),
                steps.join("\n  "),
                self.parallelism,
                self.taskmanagers,
                self.slots,
                self.interval,
                self.dir.display()
            )
        })
    }

    fn try_execute(&self, steps: &mut Vec<String>) -> Result<Outcome> {
        let spec = self
            .work
            .spec(&self.dir)?
            .option("--checkpoint-interval", format!("{}ms", self.interval.as_millis()))
            .option("--heartbeat-timeout", format!("{}ms", HEARTBEAT_TIMEOUT.as_millis()));
        let began = Instant::now();
        let job = LocalJob::start(spec, self.parallelism, self.taskmanagers, self.slots)?;
        let outcome = Outcome::default();
        let mut chaos =
            Chaos { run: self, job, outcome, generation: 0, most: self.parallelism, old: Vec::new(), began };
        let mut life = Life::On;
        for step in Schedule::new(self.seed, self.only_kills) {
            if chaos.outcome.kills >= self.kills {
                break;
            }
            life = chaos.wait_moment(step.moment)?;
            if life == Life::Ended {
                break;
            }
            let line = format!("{:6.2}s {step}", chaos.began.elapsed().as_secs_f64());
            if self.verbose {
                eprintln!("  {line}");
            }
            steps.push(line);
            life = chaos.strike(step)?;
            chaos.outcome.kills += step.blow.kills();
            if life == Life::Ended {
                break;
            }
        }
        if life == Life::On {
            chaos.wait_end()?;
        }
        let mut outcome = chaos.judge()?;
        outcome.steps = steps.clone();
        Ok(outcome)
    }
}

impl Chaos<'_> {
    /// Waits for the moment, or the end of the job.
    fn wait_moment(&mut self, moment: Moment) -> Result<Life> {
        let log = self.job.spec.log()?;
        let before = log.head()?;
        let newer = |kind: &str| -> Result<bool> {
            for index in log.indexes()?.into_iter().rev().take_while(|i| before.is_none_or(|b| *i > b)) {
                if log.entry(index)?.is_some_and(|e| e.kind == kind) {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let begin = Instant::now();
        let output = self.run.dir.join("output");
        let mut came = None;
        loop {
            if self.tend()? == Life::Ended {
                return Ok(Life::Ended);
            }
            let now = match moment {
                Moment::After(delay) => begin.elapsed() >= delay,
                Moment::CheckpointCompleted => newer("completed")?,
                Moment::OutputPending => OutputFiles::of(&output)
                    .is_ok_and(|files| files.hidden.iter().any(|f| f.extension().is_some_and(|e| e == "pending"))),
                Moment::Claimed(_) => newer("claim")?,
            };
            if now && came.is_none() {
                came = Some(Instant::now());
            }
            let delay = if let Moment::Claimed(delay) = moment { delay } else { Duration::ZERO };
            if came.is_some_and(|at| at.elapsed() >= delay) || begin.elapsed() >= MOMENT {
                return Ok(Life::On);
            }
            // the moments that the files show are short
            std::thread::sleep(if matches!(moment, Moment::After(_)) { OFTEN } else { Duration::from_micros(300) });
        }
    }

    /// Looks after the processes: none may end by itself, but for the end of the job.
    fn tend(&mut self) -> Result<Life> {
        if let Some(jm) = &mut self.job.jobmanager
            && let Some(exit) = jm.exit()?
        {
            let terminal = self.job.spec.log()?.terminal()?;
            return match (code(exit), terminal.as_deref()) {
                (0, Some("Finished")) => Ok(Life::Ended),
                _ => bail!("the {} ended with {exit}, the log says {terminal:?}:\n{}", jm.name, jm.tail()),
            };
        }
        for n in 0..self.job.taskmanagers.len() {
            let tm = &mut self.job.taskmanagers[n];
            let Some(exit) = tm.exit()? else { continue };
            ensure!(code(exit) == 0, "{} ended by itself with {exit}:\n{}", tm.name, tm.tail());
            // they end with a job that was stopped or cancelled, also a moment after the next jobmanager was started
            if self.job.spec.log()?.terminal()?.as_deref() != Some("Finished") {
                self.job.start_taskmanager(n)?;
            }
        }
        Ok(Life::On)
    }

    fn wait_end(&mut self) -> Result<()> {
        let begin = Instant::now();
        while self.tend()? == Life::On {
            if begin.elapsed() > END {
                let jm = self.job.jobmanager.as_ref().map(Proc::tail).unwrap_or_default();
                let status = self.job.status();
                bail!("the job did not end within {END:?} of quiet; status {status:?}; log of its jobmanager:\n{jm}");
            }
            std::thread::sleep(OFTEN);
        }
        Ok(())
    }

    fn strike(&mut self, step: Step) -> Result<Life> {
        match step.blow {
            Blow::KillTaskmanager(n) => self.kill_taskmanager(n)?,
            Blow::KillJobmanager => self.kill_jobmanager()?,
            Blow::KillBoth(n) => {
                if let Some(jm) = &mut self.job.jobmanager {
                    jm.kill()?;
                }
                self.kill_taskmanager(n)?;
                self.job.start_jobmanager(Some("latest"))?;
            }
            Blow::KillJobmanagerTwice(pause) => {
                self.kill_jobmanager()?;
                std::thread::sleep(pause);
                self.kill_jobmanager()?;
            }
            Blow::EndTaskmanager(n) => {
                let n = self.pick(n);
                let tm = &mut self.job.taskmanagers[n];
                tm.signal(Signal::TERM)?;
                let exit = tm.wait(Duration::from_secs(20))?;
                ensure!(is_end(tm, exit), "{} ended with {exit} after SIGTERM:\n{}", tm.name, tm.tail());
                self.job.start_taskmanager(n)?;
            }
            Blow::EndJobmanager => {
                let jm = self.job.jobmanager()?;
                jm.signal(Signal::TERM)?;
                let exit = jm.wait(Duration::from_secs(20))?;
                ensure!(is_end(jm, exit), "the jobmanager ended with {exit} after SIGTERM:\n{}", jm.tail());
                if let Some(end) = self.job.spec.log()?.terminal()? {
                    ensure!(end == "Finished", "SIGTERM ended the job: {end}");
                    return Ok(Life::Ended);
                }
                self.job.start_jobmanager(Some("latest"))?;
            }
            Blow::FreezeTaskmanager(n) => {
                let n = self.pick(n);
                self.job.taskmanagers[n].signal(Signal::STOP)?;
                let frozen = self.idle(HEARTBEAT_TIMEOUT + Duration::from_millis(800));
                self.job.taskmanagers[n].signal(Signal::CONT)?;
                return frozen;
            }
            Blow::FreezeJobmanager => {
                self.job.jobmanager()?.signal(Signal::STOP)?;
                std::thread::sleep(HEARTBEAT_TIMEOUT + Duration::from_millis(800));
                self.job.jobmanager()?.signal(Signal::CONT)?;
            }
            Blow::SecondCluster => return self.second_cluster(),
            Blow::StopAndRescale(parallelism) => return self.stop_and_rescale(parallelism),
            Blow::KillWhileStopping(delay) => {
                if let Ok(path) = self.job.job_path() {
                    // refused when the tasks do not run just now: then it is a plain kill
                    let _ = self.job.send("POST", &format!("{path}/stop"), "{}");
                }
                std::thread::sleep(delay);
                self.kill_jobmanager()?;
                self.job.revive_taskmanagers(self.needed())?;
            }
            Blow::Rescale(parallelism) => return self.rescale(parallelism),
            Blow::KillWhileRescaling(parallelism, delay) => {
                // refused when the tasks do not run just now: then it is a plain kill
                let _ = self.ask_for_parallelism(parallelism);
                std::thread::sleep(delay);
                self.kill_jobmanager()?;
            }
            Blow::CancelAndRestore => return self.cancel_and_restore(),
            Blow::Savepoint => {
                if let Ok(path) = self.job.job_path() {
                    let _ = self.job.send("POST", &format!("{path}/savepoints"), "{}");
                }
            }
        }
        Ok(Life::On)
    }

    fn ask_for_parallelism(&self, parallelism: u32) -> Result<Answer> {
        let trigger = format!("rescale-{}", self.began.elapsed().as_micros());
        let body = format!("{{\"parallelism\":{parallelism},\"triggerId\":\"{trigger}\"}}");
        self.job.send("PUT", "/weir/v1/parallelism", &body)
    }

    /// By REST, in the running job: the jobmanager stays.
    fn rescale(&mut self, parallelism: u32) -> Result<Life> {
        self.most = self.most.max(parallelism);
        self.job.revive_taskmanagers(self.needed())?;
        let begin = Instant::now();
        while begin.elapsed() < MOMENT {
            if self.tend()? == Life::Ended {
                return Ok(Life::Ended);
            }
            // refused while tasks do not run, or too few slots are registered
            let answer = self.ask_for_parallelism(parallelism);
            if answer.is_ok_and(|a| a.status == 202) {
                break;
            }
            std::thread::sleep(OFTEN * 4);
        }
        Ok(Life::On)
    }

    fn cancel_and_restore(&mut self) -> Result<Life> {
        let begin = Instant::now();
        loop {
            if self.tend()? == Life::Ended {
                return Ok(Life::Ended);
            }
            let cancelled =
                self.job.job_path().and_then(|path| self.job.send("PATCH", &format!("{path}?mode=cancel"), ""));
            if cancelled.is_ok_and(|a| a.status == 202) {
                break;
            }
            if begin.elapsed() > MOMENT {
                return Ok(Life::On);
            }
            std::thread::sleep(OFTEN * 4);
        }
        let jm = self.job.jobmanager()?;
        let exit = jm.wait(Duration::from_secs(30))?;
        ensure!(code(exit) == 0, "the jobmanager ended with {exit} after a cancel:\n{}", jm.tail());
        match self.job.spec.log()?.terminal()?.as_deref() {
            Some("Finished") => return Ok(Life::Ended),
            Some("Canceled") => {}
            other => bail!("after a cancel the log ends with {other:?}"),
        }
        self.job.start_jobmanager(Some("latest"))?;
        self.job.revive_taskmanagers(self.needed())?;
        Ok(Life::On)
    }

    /// Taskmanagers for the largest parallelism so far.
    fn needed(&self) -> usize {
        self.run.taskmanagers.max((self.most as usize).div_ceil(self.run.slots as usize))
    }

    fn pick(&self, n: u64) -> usize {
        usize::try_from(n).unwrap_or(0) % self.job.taskmanagers.len().max(1)
    }

    fn kill_taskmanager(&mut self, n: u64) -> Result<()> {
        let n = self.pick(n);
        self.job.taskmanagers[n].kill()?;
        self.job.start_taskmanager(n)
    }

    fn kill_jobmanager(&mut self) -> Result<()> {
        self.job.jobmanager()?.kill()?;
        self.job.start_jobmanager(Some("latest"))
    }

    fn idle(&mut self, time: Duration) -> Result<Life> {
        let begin = Instant::now();
        while begin.elapsed() < time {
            if self.tend()? == Life::Ended {
                return Ok(Life::Ended);
            }
            std::thread::sleep(OFTEN);
        }
        Ok(Life::On)
    }

    /// The older generation runs on until the log tells it that it is fenced.
    fn second_cluster(&mut self) -> Result<Life> {
        self.generation += 1;
        let parallelism = self.job.parallelism;
        let tag = format!("g{}-", self.generation);
        let mut next = LocalJob::tagged(self.job.spec.clone(), parallelism, &tag)?;
        next.start_all(self.needed(), self.run.slots, Some("latest"))?;
        let mut first = std::mem::replace(&mut self.job, next);
        let mut jm = first.jobmanager.take().context("no jobmanager runs")?;
        let exit = jm.wait(Duration::from_secs(30)).context("the older jobmanager was not fenced")?;
        // it may have ended the job before the claim of the second
        let finished = code(exit) == 0 && jm.text().contains("Finished");
        ensure!(finished || code(exit) == 3, "the older jobmanager ended with {exit}:\n{}", jm.tail());
        // its taskmanagers look for it in vain, for a while yet
        self.old.append(&mut first.taskmanagers);
        if self.old.len() > 4 {
            self.old.clear();
        }
        self.tend()
    }

    fn stop_and_rescale(&mut self, parallelism: u32) -> Result<Life> {
        let stopped = self.job.stop_with_savepoint();
        let jm = self.job.jobmanager()?;
        let location = match stopped {
            Ok(location) => Some(location),
            Err(error) => match jm.exit()? {
                // answered too late: the job was at its end, or the stop's end was faster than the question for it
                Some(_) => None,
                None => return Err(error),
            },
        };
        let exit = jm.wait(Duration::from_secs(30))?;
        ensure!(code(exit) == 0, "the jobmanager ended with {exit} after a stop:\n{}", jm.tail());
        let terminal = self.job.spec.log()?.terminal()?;
        match terminal.as_deref() {
            Some("Finished") => return Ok(Life::Ended),
            Some("Stopped") => {}
            other => bail!("after a stop the log ends with {other:?}"),
        }
        self.job.parallelism = parallelism;
        self.most = self.most.max(parallelism);
        self.job.start_jobmanager(Some(location.as_deref().unwrap_or("latest")))?;
        // taskmanagers end with the job, by hand
        self.job.revive_taskmanagers(self.needed())?;
        Ok(Life::On)
    }

    /// The job has ended: its output must be exact, and nothing else may be left.
    fn judge(&mut self) -> Result<Outcome> {
        self.outcome.took = self.began.elapsed();
        let log = self.job.spec.log()?;
        self.outcome.attempts = log.last()?.map_or(0, |e| e.attempt);
        // what still runs has no say any more; it gets the time to show that
        self.old.clear();
        for tm in &mut self.job.taskmanagers {
            tm.signal(Signal::TERM)?;
        }
        for tm in &mut self.job.taskmanagers {
            tm.wait(Duration::from_secs(20))?;
        }
        let output = self.run.dir.join("output");
        let rows = self.run.work.check(&output)?;
        let files = OutputFiles::of(&output)?;
        let OutputFiles { mut hidden, foreign, .. } = files;
        // as with the folders of savepoints below: one that was under way at a kill may have named its output already, and nobody
        // knows who else has heard of it
        hidden.retain(|path| path.extension().is_none_or(|e| e != "savepoint"));
        ensure!(hidden.is_empty() && foreign.is_empty(), "left over in the output: {hidden:?} {foreign:?}");
        let left = log.snapshot_folders()?;
        let left: Vec<_> = left.into_iter().filter(|name| !name.starts_with("savepoint-")).collect();
        ensure!(left.is_empty(), "left over in the checkpoint storage of a finished job: {left:?}");
        let strangers = log.strangers()?;
        ensure!(strangers.is_empty(), "left over in the log's folder: {strangers:?}");
        self.outcome.rows = rows;
        Ok(std::mem::take(&mut self.outcome))
    }
}
