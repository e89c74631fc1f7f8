//! The blows that matter most, each on its own and aimed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use weir_tests::local::{self, JobSpec, LocalJob, PATIENCE, code};
use weir_tests::oracle::{self, Expected, Order, OutputFiles};
use weir_tests::poll::wait_until;

/// Records a second: so one reading of the input lasts long enough, and the scenarios run beside each other.
const RATE: u64 = 30_000;
pub const END: Duration = Duration::from_secs(180);
pub const OFTEN: Duration = Duration::from_millis(5);

pub struct Scenario {
    pub dir: tempfile::TempDir,
    pub spec: JobSpec,
    pub expected: Expected,
}

impl Scenario {
    /// The job reads its input once, within about ten seconds.
    pub fn new() -> Result<Self> {
        let scenario = Self::unthrottled()?;
        Ok(Self { spec: scenario.spec.clone().argument("--rate", RATE), ..scenario })
    }

    fn unthrottled() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weir-scenario-").tempdir()?;
        let input = local::input()?;
        let spec = JobSpec::flights(dir.path(), &input, 1)?;
        Ok(Self { spec, expected: Expected::from_file(&input, 1)?, dir })
    }

    /// Runs the test's body; keeps the folder when it fails.
    pub fn play(self, body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        match body(&self) {
            Ok(()) => Ok(()),
            Err(error) => {
                let kept = self.dir.keep();
                Err(error.context(format!("everything is in {}", kept.display())))
            }
        }
    }

    fn check_end(&self, job: &mut LocalJob) -> Result<()> {
        let end = job.wait_end(END)?;
        ensure!(end == "Finished", "the job ended {end}");
        for tm in &mut job.taskmanagers {
            tm.signal(Signal::TERM)?;
            tm.wait(Duration::from_secs(20))?;
        }
        let output = self.dir.path().join("output");
        oracle::check(&output, &self.expected, Order::Kept)?.must_be_exact()?;
        let files = OutputFiles::of(&output)?;
        ensure!(files.hidden.is_empty(), "left over: {:?}", files.hidden);
        Ok(())
    }
}

/// The checkpoint is in the log, its files are not yet visible: who restores it commits them.
pub fn jobmanager_killed_between_completion_and_commit() -> Result<()> {
    Scenario::new()?.play(|s| {
        // a long heartbeat: the taskmanager's own end of the connection is what ends its tasks
        let mut job = LocalJob::start(s.spec.clone(), 2, 2, 1)?;
        job.wait_checkpoint()?;
        let log = s.spec.log()?;
        let mut open = 0;
        for _ in 0..6 {
            let before = log.head()?;
            wait_until("another completed checkpoint", PATIENCE, Duration::from_micros(100), || {
                let Some(head) = log.head()?.filter(|h| before.is_none_or(|b| *h > b)) else { return Ok(false) };
                Ok(log.entry(head)?.is_some_and(|e| e.kind == "completed"))
            })?;
            job.jobmanager()?.kill()?;
            let files = OutputFiles::of(&s.dir.path().join("output"))?;
            open += files.hidden.iter().filter(|f| f.extension().is_some_and(|e| e == "pending")).count();
            job.start_jobmanager(Some("latest"))?;
            job.wait_running()?;
        }
        println!("{open} files waited for their commit when the jobmanager was killed");
        s.check_end(&mut job)
    })
}

pub fn sigterm_neither_cancels_nor_deletes() -> Result<()> {
    Scenario::new()?.play(|s| {
        let mut job = LocalJob::start(s.spec.clone(), 2, 2, 1)?;
        job.wait_checkpoint()?;
        let log = s.spec.log()?;

        let jm = job.jobmanager()?;
        jm.signal(Signal::TERM)?;
        let exit = jm.wait(Duration::from_secs(20))?;
        ensure!(code(exit) == 0, "the jobmanager ended with {exit}:\n{}", jm.tail());
        ensure!(log.terminal()?.is_none(), "SIGTERM ended the job: {:?}", log.last()?);
        let completed = log.completed()?;
        let last = completed.last().context("the checkpoint is gone from the log")?;
        let path = last.body["path"].as_str().context("a path")?;
        ensure!(log.root().join(path).is_dir(), "{path} is gone");

        job.start_jobmanager(Some("latest"))?;
        let status = job.wait_running()?;
        let restored = &status["restoredFrom"]["id"];
        ensure!(*restored == last.body["id"], "restored {restored}, the last one was {}", last.body["id"]);

        let tm = &mut job.taskmanagers[0];
        tm.signal(Signal::TERM)?;
        let exit = tm.wait(Duration::from_secs(20))?;
        ensure!(code(exit) == 0, "the taskmanager ended with {exit}:\n{}", tm.tail());
        ensure!(log.terminal()?.is_none(), "SIGTERM ended the job: {:?}", log.last()?);
        job.start_taskmanager(0)?;
        s.check_end(&mut job)
    })
}

pub fn two_jobmanagers_the_older_one_is_fenced() -> Result<()> {
    Scenario::new()?.play(|s| {
        let mut older = LocalJob::start(s.spec.clone(), 2, 2, 1)?;
        older.wait_checkpoint()?;
        let mut newer = LocalJob::tagged(s.spec.clone(), 2, "newer-")?;
        newer.start_all(2, 1, Some("latest"))?;
        let jm = older.jobmanager()?;
        let exit = jm.wait(Duration::from_secs(30))?;
        ensure!(code(exit) == 3, "the older jobmanager ended with {exit}:\n{}", jm.tail());
        // it met the claim at its next append, or at a claim of its own
        let why = ["has claimed the log", "holds the log"];
        ensure!(why.iter().any(|w| jm.text().contains(w)), "it does not say why:\n{}", jm.tail());
        // its taskmanagers run no task any more; they look for their jobmanager
        s.check_end(&mut newer)?;
        for tm in &mut older.taskmanagers {
            ensure!(tm.is_running(), "{} ended by itself:\n{}", tm.name, tm.tail());
        }
        Ok(())
    })
}

pub fn frozen_taskmanager_commits_nothing_when_it_thaws() -> Result<()> {
    Scenario::new()?.play(|s| {
        let spec = s.spec.clone().option("--heartbeat-timeout", "600ms");
        // a spare slot: the job goes on without the frozen one
        let mut job = LocalJob::start(spec, 2, 3, 1)?;
        job.wait_checkpoint()?;
        for n in 0..2 {
            job.taskmanagers[n].signal(Signal::STOP)?;
            let attempts = |job: &LocalJob| Ok(job.status()?["attempt"].as_u64());
            let before = job.wait("the attempt", attempts)?;
            job.wait("the frozen taskmanager to be given up, if it had a task", |job| {
                let status = job.status()?;
                let moved = status["attempt"].as_u64() > Some(before) && status["allTasksRunning"] == true;
                Ok((moved || status["taskmanagers"] == 2).then_some(()))
            })?;
            // the next attempt commits something of its own, then the old one goes on where it was
            job.wait_checkpoint()?;
            job.taskmanagers[n].signal(Signal::CONT)?;
            job.wait_checkpoint()?;
        }
        s.check_end(&mut job)
    })
}

pub fn stop_and_restart_at_another_parallelism() -> Result<()> {
    Scenario::new()?.play(|s| {
        let mut job = LocalJob::start(s.spec.clone(), 1, 3, 1)?;
        for parallelism in [3, 2] {
            job.wait_checkpoint()?;
            let location = job.stop_with_savepoint()?;
            let end = job.wait_end(Duration::from_secs(30))?;
            ensure!(end == "Stopped", "the job ended {end}");
            let hidden = OutputFiles::of(&s.dir.path().join("output"))?.hidden;
            ensure!(hidden.is_empty(), "a stop commits everything: {hidden:?}");
            job.parallelism = parallelism;
            job.start_jobmanager(Some(&location))?;
            job.revive_taskmanagers(3)?;
            let status = job.wait_running()?;
            ensure!(status["parallelism"] == parallelism, "{status}");
            job.taskmanagers[0].kill()?;
            job.start_taskmanager(0)?;
        }
        s.check_end(&mut job)
    })
}

/// Whoever supervises the jobmanager starts it again with the same words, also when it had just ended the job.
pub fn finished_job_is_not_run_again_by_a_restart() -> Result<()> {
    Scenario::unthrottled()?.play(|s| {
        let mut job = LocalJob::new(s.spec.clone(), 1)?;
        job.start_all(1, 1, None)?;
        let log = s.spec.log()?;
        let begin = Instant::now();
        wait_until("the end of the job in the log", END, OFTEN, || Ok(log.terminal()?.is_some()))?;
        println!("finished after {:.1} s", begin.elapsed().as_secs_f64());
        job.jobmanager()?.kill()?;
        job.start_jobmanager(Some("latest"))?;
        job.revive_taskmanagers(1)?;
        s.check_end(&mut job)?;
        let text = job.jobmanager()?.text();
        ensure!(text.contains("Finished") || text.contains("finished"), "it does not say why it ends:\n{text}");
        Ok(())
    })
}

/// A whole generation falls silent, another one takes over and ends the job; then the first wakes up and believes to be alone.
pub fn frozen_cluster_is_harmless_when_it_thaws() -> Result<()> {
    Scenario::new()?.play(|s| {
        let mut older = LocalJob::start(s.spec.clone(), 2, 2, 1)?;
        older.wait_checkpoint()?;
        older.jobmanager()?.signal(Signal::STOP)?;
        for tm in &mut older.taskmanagers {
            tm.signal(Signal::STOP)?;
        }
        let mut newer = LocalJob::tagged(s.spec.clone(), 3, "newer-")?;
        newer.start_all(3, 1, Some("latest"))?;
        let end = newer.wait_end(END)?;
        ensure!(end == "Finished", "the job ended {end}");
        drop(newer);
        let output = s.dir.path().join("output");
        let parts = OutputFiles::of(&output)?.parts;
        oracle::check(&output, &s.expected, Order::Kept)?.must_be_exact()?;
        let log = s.spec.log()?;
        let before = (log.indexes()?, log.snapshot_folders()?);

        for tm in &mut older.taskmanagers {
            tm.signal(Signal::CONT)?;
        }
        let jm = older.jobmanager()?;
        jm.signal(Signal::CONT)?;
        let exit = jm.wait(Duration::from_secs(30))?;
        ensure!(code(exit) == 3, "the older jobmanager ended with {exit}:\n{}", jm.tail());
        for tm in &mut older.taskmanagers {
            tm.signal(Signal::TERM)?;
            tm.wait(Duration::from_secs(20))?;
        }
        let files = OutputFiles::of(&output)?;
        ensure!(files.parts == parts, "it committed something: {:?}", files.parts);
        ensure!(log.indexes()? == before.0, "it wrote to the log: {:?}", log.indexes()?);
        let open: Vec<_> = files.hidden.iter().filter(|f| f.extension().is_some_and(|e| e != "pending")).collect();
        ensure!(open.is_empty(), "left over: {open:?}");
        println!("{} files of the fenced attempt wait for the next start's sweep", files.hidden.len());
        Ok(())
    })
}

/// Between the last checkpoint, by which the sinks commit all, and the entry that says that the job has ended.
pub fn jobmanager_killed_while_the_job_ends() -> Result<()> {
    Scenario::unthrottled()?.play(|s| {
        let mut job = LocalJob::start(s.spec.clone(), 2, 2, 1)?;
        let log = s.spec.log()?;
        let ending = |kinds: &[&str]| {
            wait_until("the end of the job", END, Duration::from_micros(200), || {
                let last = log.last()?;
                Ok(last.is_some_and(|e| e.kind == "terminal" || kinds.iter().any(|k| e.body["kind"] == *k)))
            })
        };
        ending(&["Final"])?;
        job.jobmanager()?.kill()?;
        println!("killed behind {:?}", log.last()?.map(|e| e.kind));
        for _ in 0..3 {
            job.start_jobmanager(Some("latest"))?;
            job.revive_taskmanagers(2)?;
            // again, at any moment of what remains to be done
            std::thread::sleep(Duration::from_millis(40));
            job.jobmanager()?.kill()?;
        }
        job.start_jobmanager(Some("latest"))?;
        job.revive_taskmanagers(2)?;
        s.check_end(&mut job)
    })
}

/// Nothing is kept, so nothing can be resumed: but the taskmanagers that live on serve the next jobmanager.
pub fn job_without_storage_starts_anew_with_its_taskmanagers() -> Result<()> {
    Scenario::new()?.play(|s| {
        let mut spec = s.spec.clone();
        spec.checkpoints = None;
        let mut job = LocalJob::start(spec, 2, 2, 1)?;
        job.wait_running()?;
        for _ in 0..2 {
            job.jobmanager()?.kill()?;
            job.start_jobmanager(None)?;
            job.wait_running()?;
        }
        Ok(())
    })
}

/// The taskmanagers have seen higher attempts than the new log has.
pub fn storage_that_was_deleted_is_a_new_start() -> Result<()> {
    Scenario::new()?.play(|s| {
        let mut job = LocalJob::start(s.spec.clone(), 2, 2, 1)?;
        job.wait_checkpoint()?;
        for _ in 0..2 {
            job.jobmanager()?.kill()?;
            job.start_jobmanager(Some("latest"))?;
            job.wait_checkpoint()?;
        }
        job.jobmanager()?.kill()?;
        std::fs::remove_dir_all(s.spec.checkpoints.as_ref().context("a storage")?)?;
        job.start_jobmanager(Some("latest"))?;
        job.wait_running()?;
        job.wait_checkpoint()?;
        Ok(())
    })
}
