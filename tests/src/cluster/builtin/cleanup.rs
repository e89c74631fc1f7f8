//! Takes down what a cluster left on this machine, and only that; also clusters that nobody needs any more.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::cgroup::Cgroups;
use super::net;
use super::state::{Lock, Names, Phase, State};
use crate::cmd::Cmd;
use crate::say;

/// Removes everything of the cluster. Safe to repeat, after any crash. Call it with the lock held.
pub fn remove(names: &Names) -> Result<()> {
    let state = State::load(names);
    if let Some(mut state) = state.clone() {
        state.phase = Phase::Unfinished;
        state.save(names)?;
    }
    let cgroups = Cgroups::detect()?;
    // The first kill ends what starts others; a shim may still report to a containerd that is gone.
    cgroups.kill(&names.cgroup())?;
    for daemon in state.iter().flat_map(|state| &state.daemons) {
        daemon.process.signal(Signal::KILL)?;
    }
    unmount_below(&names.run())?;
    unmount_below(&names.dir())?;
    net::remove(names)?;
    cgroups.remove(&names.cgroup())?;
    for dir in [names.run(), names.dir()] {
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
    }
    Ok(())
}

/// Takes down every other cluster that nobody needs any more; one that cannot be removed is only reported.
pub fn sweep(own: &Names) {
    for names in Names::all().into_iter().filter(|names| names != own) {
        if let Err(error) = sweep_one(&names) {
            say(format!("cannot take down the abandoned cluster {}: {error:#}", names.id));
        }
    }
}

fn sweep_one(names: &Names) -> Result<()> {
    // Held by a living process: it is at work on the cluster.
    let Some(lock) = Lock::try_take(names)? else {
        return Ok(());
    };
    let why = match State::load(names) {
        Some(state) => state.abandoned(),
        None => Some("it has no record"),
    };
    if let Some(why) = why {
        say(format!("taking down cluster {}: {why}", names.id));
        remove(names)?;
        lock.remove();
    }
    Ok(())
}

/// Lazily unmounts all that is mounted below `dir` in this mount namespace.
fn unmount_below(dir: &Path) -> Result<()> {
    let mut below = mounts_below(dir)?;
    // Deepest first.
    below.sort();
    for mount in below.iter().rev() {
        Cmd::new("umount").arg("-l").arg(mount).run()?;
    }
    // Else removing the folder would reach into what is mounted.
    if !mounts_below(dir)?.is_empty() {
        bail!("there are still mounts below {}", dir.display());
    }
    Ok(())
}

fn mounts_below(dir: &Path) -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let point = |line: &str| line.split(' ').nth(1).map(|point| point.replace("\\040", " "));
    Ok(mounts.lines().filter_map(point).filter(|point| Path::new(point).starts_with(dir)).collect())
}
