//! The cluster's own cgroups, on version 1 and version 2 machines: made, emptied, removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::poll::wait_until;
use crate::process::Process;

/// Where this machine's cgroups are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    /// One tree for each mounted controller, often with a version 2 tree without controllers beside them, which some programs
    /// enter as well.
    V1 { mounts: Vec<PathBuf>, unified: Option<PathBuf> },
    /// One tree for all.
    V2 { mount: PathBuf },
}

impl Cgroups {
    pub fn detect() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        Self::from_mounts(&mounts).context("no cgroups are mounted under /sys/fs/cgroup: a kubelet cannot run here")
    }

    fn from_mounts(mounts: &str) -> Option<Self> {
        let of_type = |wanted: &str| -> Vec<PathBuf> {
            mounts
                .lines()
                .filter_map(|line| {
                    let mut words = line.split(' ');
                    let (_, dir, kind) = (words.next()?, words.next()?, words.next()?);
                    (kind == wanted && dir.starts_with("/sys/fs/cgroup")).then(|| dir.into())
                })
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect()
        };
        let v1 = of_type("cgroup");
        let v2 = of_type("cgroup2").into_iter().next();
        if v1.is_empty() { v2.map(|mount| Self::V2 { mount }) } else { Some(Self::V1 { mounts: v1, unified: v2 }) }
    }

    fn mounts(&self) -> &[PathBuf] {
        match self {
            Self::V1 { mounts, .. } => mounts,
            Self::V2 { mount } => std::slice::from_ref(mount),
        }
    }

    /// Every tree that a group of the cluster may be in.
    fn all_mounts(&self) -> impl Iterator<Item = &PathBuf> {
        let unified = match self {
            Self::V1 { unified, .. } => unified.as_ref(),
            Self::V2 { .. } => None,
        };
        self.mounts().iter().chain(unified)
    }

    /// The tree in which processes are tracked: every container and daemon of a cluster is in it exactly once.
    fn tracking(&self) -> &Path {
        let mounts = self.mounts();
        // The pids controller sets no limit and accounts no memory, so entering it changes nothing for a process.
        mounts.iter().find(|mount| mount.ends_with("pids")).unwrap_or(&mounts[0])
    }

    /// Makes the cgroup `name` (a relative path) and its parents in every tree, usable by a kubelet.
    pub fn create(&self, name: &str) -> Result<()> {
        for mount in self.mounts() {
            let mut dir = mount.clone();
            for part in Path::new(name) {
                if let Self::V2 { .. } = self {
                    enable_controllers(&dir);
                }
                let parent = dir.clone();
                dir.push(part);
                match fs::create_dir(&dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(error).with_context(|| format!("cannot make {}", dir.display()));
                    }
                    _ => {}
                }
                // A version 1 cpuset starts with nothing in it and then takes no process.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if matches!(self, Self::V1 { .. }) && dir.join(file).is_file() {
                        let value = fs::read(parent.join(file))?;
                        fs::write(dir.join(file), value)
                            .with_context(|| format!("cannot set {file} of {}", dir.display()))?;
                    }
                }
            }
            if let Self::V2 { .. } = self {
                // Daemons' own groups hold processes and so must not hand controllers down; a kubelet's root must.
                if !name.ends_with("-daemons") {
                    enable_controllers(&dir);
                }
            }
        }
        Ok(())
    }

    /// The file that a daemon writes its pid to in order to be tracked under `name`.
    pub fn procs_file(&self, name: &str) -> PathBuf {
        self.tracking().join(name).join("cgroup.procs")
    }

    /// Every process in `name` and below.
    pub fn processes(&self, name: &str) -> Vec<Process> {
        let mut found = Vec::new();
        walk(&self.tracking().join(name), &mut |dir| {
            let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(procs.lines().filter_map(|pid| Process::of(pid.parse().ok()?)));
        });
        found
    }

    /// The folder named `leaf` below `name`, as a container's cgroup is named by its id.
    pub fn find(&self, name: &str, leaf: &str) -> Option<PathBuf> {
        let mut found = None;
        walk(&self.tracking().join(name), &mut |dir| {
            if dir.file_name().is_some_and(|file| file.to_string_lossy().contains(leaf)) {
                found = Some(dir.to_path_buf());
            }
        });
        found
    }

    /// Kills every process in `name` and below and waits until none is left.
    pub fn kill(&self, name: &str) -> Result<()> {
        wait_until(
            &format!("the processes in cgroup {name} to end"),
            Duration::from_secs(15),
            Duration::from_millis(10),
            || {
                let all = self.processes(name);
                for process in &all {
                    process.signal(Signal::KILL)?;
                }
                Ok(all.is_empty())
            },
        )
    }

    /// Removes `name` and everything below from every tree; it must hold no process.
    pub fn remove(&self, name: &str) -> Result<()> {
        for mount in self.all_mounts() {
            let mut dirs = Vec::new();
            walk(&mount.join(name), &mut |dir| dirs.push(dir.to_path_buf()));
            // Deepest first. The kernel lets go of a group a moment after its last process.
            for dir in dirs.iter().rev() {
                wait_until(
                    &format!("cgroup {} to be removable", dir.display()),
                    Duration::from_secs(5),
                    Duration::from_millis(10),
                    || match fs::remove_dir(dir) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            bail!("{error}")
                        }
                        _ => Ok(true),
                    },
                )?;
            }
        }
        Ok(())
    }
}

fn enable_controllers(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for controller in available.split_whitespace() {
        // One that cannot be handed down here is missed by the kubelet, which says which one it needs.
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Visits `dir` and every folder below, parents first.
fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    if !dir.is_dir() {
        return;
    }
    visit(dir);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_trees_are_taken_even_beside_an_unused_version_2_tree() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let cgroups = Cgroups::from_mounts(mounts).expect("cgroups");
        assert_eq!(cgroups.mounts().len(), 2);
        assert_eq!(cgroups.tracking(), Path::new("/sys/fs/cgroup/pids"));
    }

    #[test]
    fn version_2_alone_is_one_tree() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let cgroups = Cgroups::from_mounts(mounts).expect("cgroups");
        assert_eq!(cgroups, Cgroups::V2 { mount: "/sys/fs/cgroup".into() });
    }

    #[test]
    fn no_cgroups_is_no_answer() {
        assert_eq!(Cgroups::from_mounts("proc /proc proc rw 0 0\n"), None);
    }
}
