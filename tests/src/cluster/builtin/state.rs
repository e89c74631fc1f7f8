//! What is recorded about a built-in cluster, its lock, and its names: all that a later `up` or `down` needs to find it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::process::Process;

const STATE_ROOT: &str = "/var/lib/weir-cluster";
const RUN_ROOT: &str = "/run/weir-cluster";

/// Names and places of one cluster, all from its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub id: String,
}

impl Names {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned() }
    }

    /// Files that last: `/var/lib/weir-cluster/<id>`.
    pub fn dir(&self) -> PathBuf {
        Path::new(STATE_ROOT).join(&self.id)
    }

    /// Sockets and what dies with a node: `/run/weir-cluster/<id>`.
    pub fn run(&self) -> PathBuf {
        Path::new(RUN_ROOT).join(&self.id)
    }

    /// The folder that pods on every node see at this same path.
    pub fn shared(&self) -> PathBuf {
        self.dir().join("shared")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    pub fn logs(&self) -> PathBuf {
        self.dir().join("logs")
    }

    /// A network namespace of the cluster: `which` is `cp` or a node's name.
    pub fn netns(&self, which: &str) -> String {
        format!("weir-{}-{which}", self.id)
    }

    pub fn netns_path(&self, which: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns(which))
    }

    /// The cgroup that holds all of the cluster.
    pub fn cgroup(&self) -> String {
        format!("weir-{}", self.id)
    }

    /// The cgroup of the programs of the control plane or of a node.
    pub fn daemons_cgroup(&self, which: &str) -> String {
        format!("{}/{which}-daemons", self.cgroup())
    }

    /// The cgroup under which a node's kubelet runs its pods.
    pub fn pods_cgroup(&self, node: &str) -> String {
        format!("{}/{node}", self.cgroup())
    }

    fn state_file(&self) -> PathBuf {
        self.dir().join("cluster.json")
    }

    /// Ids of every cluster that left a folder on this machine.
    pub fn all() -> Vec<Self> {
        let mut ids: Vec<String> = [STATE_ROOT, RUN_ROOT]
            .iter()
            .flat_map(|root| fs::read_dir(root).into_iter().flatten().flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|id| valid_id(id))
            .collect();
        ids.sort();
        ids.dedup();
        ids.iter().map(|id| Self::new(id)).collect()
    }

    /// The cluster that a kubeconfig of this harness belongs to.
    pub fn of_kubeconfig(kubeconfig: &Path) -> Option<Self> {
        let rest = kubeconfig.strip_prefix(STATE_ROOT).ok()?;
        let mut parts = rest.iter();
        let names = Self::new(parts.next()?.to_str()?);
        (valid_id(&names.id) && kubeconfig == names.kubeconfig()).then_some(names)
    }
}

/// An id is part of names of interfaces, cgroups, sockets and folders.
pub fn valid_id(id: &str) -> bool {
    (1..=20).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !id.starts_with('-')
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Being brought up or taken down by the process that holds the lock; once that is gone, garbage.
    Unfinished,
    /// Running on its own.
    Ready,
}

/// The record of one cluster, in `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    /// The checkout that it belongs to: when that is gone, so is the cluster's reason to be.
    pub checkout: PathBuf,
    /// The boot in which it was started; after another boot only its folders are left.
    pub boot: String,
    /// The API server's port on 127.0.0.1.
    pub port: u16,
    pub daemons: Vec<DaemonRecord>,
    /// Nodes that a fault stopped and did not start again.
    #[serde(default)]
    pub stopped: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DaemonRecord {
    /// As its log is named: `apiserver`, `kubelet-n1`.
    pub name: String,
    pub process: Process,
}

impl State {
    /// `None` when there is none, or one that cannot be understood (then the cluster is garbage as well).
    pub fn load(names: &Names) -> Option<Self> {
        serde_json::from_slice(&fs::read(names.state_file()).ok()?).ok()
    }

    pub fn save(&self, names: &Names) -> Result<()> {
        let file = names.state_file();
        let new = file.with_extension("json.new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&new, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Records that `name` runs as `process`, in place of an earlier one of that name.
    pub fn record(&mut self, name: &str, process: Process) {
        self.daemons.retain(|daemon| daemon.name != name);
        self.daemons.push(DaemonRecord { name: name.to_owned(), process });
    }

    pub fn daemon(&self, name: &str) -> Option<Process> {
        self.daemons.iter().find(|daemon| daemon.name == name).map(|daemon| daemon.process)
    }

    /// Why nobody needs this cluster any more; `None` while somebody may. Call it with the lock held.
    pub fn abandoned(&self) -> Option<&'static str> {
        if self.phase != Phase::Ready {
            Some("whoever started or stopped it ended half-way")
        } else if Some(&self.boot) != boot_id().as_ref().ok() {
            Some("the machine was started anew since")
        } else if !self.checkout.join("tests/cluster").is_dir() {
            Some("its checkout is gone")
        } else if !self.daemons.iter().any(|daemon| daemon.process.is_alive()) {
            Some("none of its programs runs any more")
        } else {
            None
        }
    }
}

pub fn boot_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("cannot read the boot id")?;
    Ok(id.trim().to_owned())
}

/// The exclusive right to change one cluster; the kernel gives it back when the holder dies.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: fs::File,
}

impl Lock {
    fn path(names: &Names) -> PathBuf {
        Path::new(RUN_ROOT).join(format!("{}.lock", names.id))
    }

    /// Waits for it; `waiting` is called once when it is held by another process.
    pub fn take(names: &Names, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            let (path, file) = open_lock(names)?;
            if file.try_lock().is_err() {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                file.lock().context("cannot lock the cluster")?;
            }
            if same_file(&path, &file) {
                return Ok(Self { path, file });
            }
        }
    }

    /// `None` when another process holds it.
    pub fn try_take(names: &Names) -> Result<Option<Self>> {
        let (path, file) = open_lock(names)?;
        let taken = file.try_lock().is_ok() && same_file(&path, &file);
        Ok(taken.then_some(Self { path, file }))
    }

    /// Gives it back and leaves no file; whoever waits for the removed file notices and opens a new one.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
        // Only when nothing else is in it.
        let _ = fs::remove_dir(RUN_ROOT);
        let _ = fs::remove_dir(STATE_ROOT);
    }
}

fn open_lock(names: &Names) -> Result<(PathBuf, fs::File)> {
    let path = Lock::path(names);
    fs::create_dir_all(RUN_ROOT).with_context(|| format!("cannot make {RUN_ROOT}"))?;
    let file = fs::File::options().create(true).truncate(false).write(true).open(&path);
    match file {
        // The folder may go between the two calls when another cluster's `down` ends.
        Err(error) if error.kind() == ErrorKind::NotFound => open_lock(names),
        other => other.map(|file| (path.clone(), file)).with_context(|| format!("cannot open {}", path.display())),
    }
}

fn same_file(path: &Path, file: &fs::File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_harnesss_own_kubeconfigs_name_a_cluster() {
        let names = Names::of_kubeconfig(Path::new("/var/lib/weir-cluster/ab12/kubeconfig"));
        assert_eq!(names, Some(Names::new("ab12")));
        for other in ["/root/.kube/config", "/var/lib/weir-cluster/ab12/other", "/var/lib/weir-cluster/../kubeconfig"] {
            assert_eq!(Names::of_kubeconfig(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn an_id_cannot_leave_the_clusters_folder() {
        for bad in ["", "..", "a/b", "A", "-a", "a_b", "aaaaaaaaaaaaaaaaaaaaa"] {
            assert!(!valid_id(bad), "{bad:?}");
        }
        assert!(valid_id("0f3a9c"));
    }

    fn state() -> State {
        State {
            phase: Phase::Ready,
            checkout: crate::checkout(),
            boot: boot_id().expect("boot id"),
            port: 1,
            daemons: vec![DaemonRecord { name: "apiserver".into(), process: Process::this().expect("this") }],
            stopped: vec![],
        }
    }

    #[test]
    fn a_running_cluster_of_a_present_checkout_is_left_alone() {
        assert_eq!(state().abandoned(), None);
    }

    #[test]
    fn a_cluster_is_abandoned_when_its_starter_checkout_boot_or_programs_are_gone() {
        let unfinished = State { phase: Phase::Unfinished, ..state() };
        let moved = State { checkout: "/nonexistent".into(), ..state() };
        let rebooted = State { boot: "another".into(), ..state() };
        let mut dead = state();
        // The same pid with another start time is another process.
        dead.daemons[0].process.start += 1;
        for state in [unfinished, moved, rebooted, dead] {
            assert!(state.abandoned().is_some(), "{state:?}");
        }
    }
}
