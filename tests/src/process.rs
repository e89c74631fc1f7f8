//! Processes by identity (pid and start time), so that a reused pid is never signalled.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// One process of this machine since its last boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
}

impl Process {
    /// The process with this pid, unless it has ended (a zombie has).
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and parentheses: fields are counted from the last ')'.
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (state != "Z" && state != "X").then_some(Self { pid, start })
    }

    pub fn this() -> Result<Self> {
        let pid = i32::try_from(std::process::id())?;
        Self::of(pid).context("cannot read /proc/self: is /proc mounted?")
    }

    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal; `false` when the process is gone already.
    pub fn signal(self, signal: Signal) -> Result<bool> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(false);
        };
        // The descriptor pins the process; only then is its identity checked.
        let Ok(fd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(false);
        };
        if !self.is_alive() {
            return Ok(false);
        }
        match rustix::process::pidfd_send_signal(&fd, signal) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::SRCH) => Ok(false),
            Err(error) => bail!("cannot send {signal:?} to process {}: {error}", self.pid),
        }
    }

    /// The pid that it has in its innermost pid namespace: 1 for a container's first process.
    pub fn pid_inside(self) -> Option<i32> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        line.split_whitespace().last()?.parse().ok()
    }
}

/// A program that outlives this one.
pub struct Daemon<'a> {
    /// Where its stdout and stderr go, appended.
    pub log: &'a Path,
    /// A `cgroup.procs` file that it enters before it does anything else: so it is found even when nobody recorded its pid.
    pub cgroup_procs: &'a Path,
    /// Program and arguments, with whatever enters namespaces in front.
    pub argv: Vec<String>,
}

impl Daemon<'_> {
    /// Starts it in a session of its own.
    pub fn spawn(&self) -> Result<Process> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log)
            .with_context(|| format!("cannot open {}", self.log.display()))?;
        // Every link of the chain replaces itself by exec, so the pid stays.
        let child = Command::new("setsid")
            .args(["sh", "-c", "echo $$ >\"$0\" && exec \"$@\""])
            .arg(self.cgroup_procs)
            .args(&self.argv)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {:?}", self.argv))?;
        let pid = i32::try_from(child.id())?;
        Process::of(pid).with_context(|| format!("{:?} ended at once: see {}", self.argv, self.log.display()))
    }
}

/// The last `lines` lines of a log, for error messages.
pub fn log_tail(log: &Path, lines: usize) -> String {
    let Ok(bytes) = fs::read(log) else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
