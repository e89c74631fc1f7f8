//! A process that a test started: its log, signals, exit. It is killed when it is dropped.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::poll::wait_for;
use crate::process::log_tail;

/// A child of this process. Its pid is not given to another one before it was waited for, so signals always reach it.
#[derive(Debug)]
pub struct Proc {
    pub name: String,
    /// Where its stdout and stderr go.
    pub log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Starts it; stdout and stderr are appended to `log`.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = fs::File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { name: name.to_owned(), log: log.to_path_buf(), child, ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; none while it runs.
    pub fn exit(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.exit(), Ok(None))
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exit()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        if self.exit()?.is_none() {
            self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
            self.ended = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// Waits for its end by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let found = wait_for(&format!("the end of {name}"), limit, Duration::from_millis(10), || self.exit());
        found.with_context(|| format!("log of {name}:\n{}", self.tail()))
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        log_tail(&self.log, 40)
    }

    /// All of its log, with quotes and line ends as they were before they became JSON.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        text.replace("\\n", "\n").replace("\\\"", "\"")
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // a stopped process dies of it too
        let _ = self.kill();
    }
}

/// Exit code, or 128 + signal as a shell says it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
