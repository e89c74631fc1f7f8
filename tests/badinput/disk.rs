//! Disks that are full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use weir_tests::cmd::Cmd;
use weir_tests::local::{self, JobSpec, LocalJob};
use weir_tests::suite::CannotRun;

use crate::fixture::{endless, exceptions, in_folder};

/// A small file system in memory; unmounted when dropped.
struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    fn mount(path: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(path)?;
        let options = format!("size={size},mode=0777");
        let mount = Cmd::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path);
        mount.run().map_err(|error| CannotRun(format!("a tmpfs cannot be mounted (are you root?): {error:#}")))?;
        Ok(Self { path: path.to_path_buf() })
    }

    /// Writes until nothing fits any more.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.path.join("ballast");
        let mut file = fs::File::create(&path)?;
        for block in [vec![0u8; 64 << 10], vec![0; 1 << 10], vec![0; 1]] {
            while file.write_all(&block).is_ok() {}
        }
        Ok(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg("-l").arg(&self.path).run();
    }
}

/// The same, in a folder of its own; ignored where a tmpfs cannot be mounted.
fn with_small_disk(name: &str, size: &str, body: impl FnOnce(&Path, &Tmpfs) -> Result<()>) -> Result<()> {
    in_folder(|dir| body(dir, &Tmpfs::mount(&dir.join(name), size)?))
}

pub fn full_disk_for_checkpoints() -> Result<()> {
    with_small_disk("checkpoints", "16m", |dir, disk| {
        let mut job = LocalJob::start(endless(dir)?, 2, 2, 1)?;
        job.wait_running()?;
        job.wait_checkpoint()?;
        let ballast = disk.fill()?;
        let status = job.wait("a failed checkpoint", |job| {
            let status = job.status()?;
            let said = status["checkpointFailure"].as_str().unwrap_or_default();
            Ok(said.contains("No space left").then_some(status))
        })?;
        let said = status["checkpointFailure"].as_str().unwrap_or_default().to_owned();
        ensure!(
            said.contains("cannot write") && said.contains("/checkpoints/") && said.contains("free some space"),
            "it does not say what, where and what to do: {said}"
        );
        // some more fail: the job goes on all the same, and writes records
        let failed = |status: &serde_json::Value| status["failedCheckpoints"].as_u64().unwrap_or(0);
        let first = failed(&status);
        let status = job.wait("more failed checkpoints", |job| {
            let status = job.status()?;
            Ok((failed(&status) >= first + 3).then_some(status))
        })?;
        ensure!(status["attempt"] == 1 && status["jobState"] == "RUNNING", "the job did not go on: {status}");
        let path = job.job_path()?;
        let statistics = job.get(&format!("{path}/checkpoints"))?;
        let history = statistics["history"].to_string();
        ensure!(history.contains("FAILED") && history.contains("No space left"), "{history}");

        fs::remove_file(&ballast)?;
        let status = job.wait_checkpoint()?;
        ensure!(status["attempt"] == 1 && status["restarts"] == 0, "the job was restarted: {status}");
        ensure!(status["checkpointFailure"] == "", "the failure is over: {status}");
        // what the failed ones left is gone
        let log = job.spec.log()?;
        job.wait("the remains of failed checkpoints to go", |_| {
            let named = log.completed()?;
            let folders = log.snapshot_folders()?;
            Ok((folders.len() <= named.len() + 2).then_some(()))
        })
    })
}

/// The job fails and is restarted while its output does not fit; with room again it ends, and nothing is lost or double.
pub fn full_disk_for_output() -> Result<()> {
    with_small_disk("output", "200m", |dir, disk| {
        let input = local::input()?;
        // about 43 MB of output
        let spec = JobSpec::flights(dir, &input, 1)?.argument("--rate", 100_000);
        let mut job = LocalJob::start(spec, 2, 2, 1)?;
        job.wait_running()?;
        job.wait_checkpoint()?;
        let ballast = disk.fill()?;
        let text = job.wait("an exception", |job| {
            let text = exceptions(job)?;
            Ok(text.contains("No space left").then_some(text))
        })?;
        ensure!(text.contains("cannot write") && text.contains("/output/"), "it does not say what and where: {text}");
        fs::remove_file(&ballast)?;
        let end = job.wait_end(std::time::Duration::from_secs(120))?;
        ensure!(end == "Finished", "the job ended {end}");
        let expected = weir_tests::oracle::Expected::from_file(&input, 1)?;
        let report = weir_tests::oracle::check(&dir.join("output"), &expected, weir_tests::oracle::Order::Kept)?;
        report.must_be_exact().context("after a full disk")?;
        ensure!(report.hidden == 0, "left over: {report}");
        Ok(())
    })
}
