//! The built-in provider: a real two-node Kubernetes on this machine, without Docker.

pub mod cgroup;
pub mod cleanup;
pub mod control_plane;
pub mod net;
pub mod node;
pub mod pki;
pub mod state;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use self::cgroup::Cgroups;
use self::pki::Pki;
use self::state::{Lock, Names, Phase, State, boot_id};
use super::parts::{self, Part};
use crate::image::{self, ImageSpec};
use crate::kubectl::Kubectl;
use crate::poll::wait_until;
use crate::process::{Daemon, log_tail};
use crate::{checkout, say};

pub const NODES: [&str; 2] = ["n1", "n2"];
/// The image that holds a pod's namespaces; nodes have it before the first pod.
pub const PAUSE_IMAGE: &str = "weir.test/pause:1";
/// The user that images run as, and so the one that must be able to write to the shared folder.
const POD_USER: u32 = 65532;

/// A cluster of this provider that is up.
#[derive(Debug)]
pub struct BuiltIn {
    pub names: Names,
    pub state: State,
    pub cgroups: Cgroups,
    kube_dir: PathBuf,
    dns_dir: PathBuf,
}

impl BuiltIn {
    /// The cluster of this id: as it runs, else brought up anew.
    pub fn up(id: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            bail!(
                "the built-in cluster needs root (network namespaces, containers). Run this as root, install Docker \
                 and kind, or point KUBECONFIG at a cluster of your own"
            );
        }
        let names = Names::new(id);
        let _lock = Lock::take(&names, || say("waiting for another process that works on this cluster"))?;
        cleanup::sweep(&names);
        if let Some(state) = State::load(&names) {
            let unfit = match state.abandoned() {
                Some(why) => why.to_owned(),
                None => {
                    let cluster = Self::with_state(names.clone(), state)?;
                    match cluster.check() {
                        Ok(()) => return Ok(cluster),
                        Err(error) => format!("{error:#}"),
                    }
                }
            };
            say(format!("taking down the old cluster {id}: {unfit}"));
        }
        parts::ensure_packages()?;
        cleanup::remove(&names)?;
        Self::create(names)
    }

    /// The running cluster of this id, if there is one.
    pub fn attach(id: &str) -> Result<Option<Self>> {
        let names = Names::new(id);
        match State::load(&names) {
            Some(state) if state.abandoned().is_none() => Self::with_state(names, state).map(Some),
            _ => Ok(None),
        }
    }

    /// Takes the cluster of this id down, whatever is left of it.
    pub fn down(id: &str) -> Result<()> {
        let names = Names::new(id);
        let lock = Lock::take(&names, || say("waiting for another process that works on this cluster"))?;
        cleanup::remove(&names)?;
        lock.remove();
        Ok(())
    }

    fn with_state(names: Names, state: State) -> Result<Self> {
        Ok(Self {
            names,
            state,
            cgroups: Cgroups::detect()?,
            kube_dir: Part::Kube.ready()?,
            dns_dir: Part::Dns.ready()?,
        })
    }

    fn create(names: Names) -> Result<Self> {
        let [kube_dir, dns_dir] = [Part::Kube.ready()?, Part::Dns.ready()?];
        let begun = Instant::now();
        let mut cluster = Self {
            state: State {
                phase: Phase::Unfinished,
                checkout: checkout(),
                boot: boot_id()?,
                port: free_port(&names.id)?,
                daemons: Vec::new(),
                stopped: Vec::new(),
            },
            cgroups: Cgroups::detect()?,
            names,
            kube_dir,
            dns_dir,
        };
        let names = cluster.names.clone();
        for dir in [names.dir(), names.run(), names.logs(), names.shared()] {
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        cluster.state.save(&names)?;
        open_to_pods(&names.shared())?;
        Pki::create(&names.dir().join("pki"))?;
        let server = format!("https://127.0.0.1:{}", cluster.state.port);
        cluster.pki().kubeconfig("admin", &server, &format!("weir-{}", names.id), &names.kubeconfig())?;
        net::create(&names)?;
        cluster.cgroups.create(&names.daemons_cgroup("cp"))?;
        control_plane::start_api(&mut cluster)?;
        for node in NODES {
            node::prepare(&cluster, node)?;
            node::start_containerd(&mut cluster, node)?;
        }
        let pause = cluster.pause_image()?;
        for node in NODES {
            node::finish_containerd(&cluster, node, &pause)?;
        }
        control_plane::wait_for_api(&cluster)?;
        control_plane::start_rest(&mut cluster)?;
        for node in NODES {
            node::start_kubelet(&mut cluster, node)?;
        }
        let kubectl = cluster.kubectl();
        wait_until("both nodes to be ready", Duration::from_secs(60), Duration::from_millis(200), || {
            cluster.check_daemons()?;
            // Pods are refused until their namespace has its service account.
            Ok(kubectl.get_opt("default", "serviceaccount", "default")?.is_some()
                && kubectl.ready_nodes()? == NODES.len())
        })
        .with_context(|| {
            let log = |node| log_tail(&names.logs().join(format!("kubelet-{node}.log")), 5);
            format!("the kubelets' logs end with\n{}\n{}", log(NODES[0]), log(NODES[1]))
        })?;
        // The node authorizer's picture of which node needs which claim lags behind the scheduler on a busy machine; the kubelet is
        // refused then, and tries again only after 15 s.
        let binding =
            ["create", "clusterrolebinding", "weir-nodes", "--clusterrole=system:node", "--group=system:nodes"];
        kubectl.run(&binding)?;
        cluster.state.phase = Phase::Ready;
        cluster.state.save(&names)?;
        say(format!("cluster {} is up after {:.1} s", names.id, begun.elapsed().as_secs_f64()));
        Ok(cluster)
    }

    /// An error that says what is wrong when the cluster is not fit for use.
    pub fn check(&self) -> Result<()> {
        // As it is recorded now: another process, or a fault, may have started programs anew.
        let state = State::load(&self.names).context("the cluster is gone")?;
        if let Some(node) = state.stopped.first() {
            bail!("node {node} was stopped and not started again");
        }
        check_daemons(&self.names, &state)?;
        self.kubectl().raw("/readyz").context("its API server does not answer")?;
        let ready = self.kubectl().ready_nodes()?;
        if ready != NODES.len() {
            bail!("{ready} of {} nodes are ready", NODES.len());
        }
        Ok(())
    }

    /// An error with the end of its log when one of the programs started so far has ended.
    fn check_daemons(&self) -> Result<()> {
        check_daemons(&self.names, &self.state)
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.kube_dir.join("kubectl"), self.names.kubeconfig())
    }

    /// Loads an image archive into both nodes.
    pub fn load(&self, archive: &Path) -> Result<()> {
        std::thread::scope(|scope| {
            let loads = NODES.map(|node| scope.spawn(move || node::import(&self.names, node, archive)));
            for load in loads {
                match load.join() {
                    Ok(result) => result?,
                    Err(_) => bail!("loading {} panicked", archive.display()),
                }
            }
            Ok(())
        })
    }

    pub fn signal_container(&self, node: &str, container: &str, signal: Signal, only_first: bool) -> Result<()> {
        node::signal(&self.cgroups, &self.names, node::known(node)?, container, signal, only_first)
    }

    pub fn set_cut(&self, node: &str, cut: bool) -> Result<()> {
        net::set_cut(&self.names.netns_path(node::known(node)?), cut)
    }

    pub fn stop_node(&self, node: &str) -> Result<()> {
        let (_lock, mut current) = self.locked()?;
        node::stop(&mut current, node::known(node)?)
    }

    pub fn start_node(&self, node: &str) -> Result<()> {
        let (_lock, mut current) = self.locked()?;
        let pause = self.pause_image()?;
        node::start(&mut current, node::known(node)?, &pause)
    }

    /// The cluster as it is recorded now (another process may have changed it), with the right to change it.
    fn locked(&self) -> Result<(Lock, Self)> {
        let lock = Lock::take(&self.names, || ())?;
        let state = State::load(&self.names).context("the cluster is gone")?;
        Ok((lock, Self::with_state(self.names.clone(), state)?))
    }

    fn pki(&self) -> Pki {
        Pki { dir: self.names.dir().join("pki") }
    }

    /// The first word of a command line: a program of the Kubernetes part.
    fn kube(&self, program: &str) -> Vec<String> {
        vec![self.kube_dir.join(program).display().to_string()]
    }

    /// Starts one of the cluster's programs in the network of `which` (`cp` or a node) and records it.
    fn start(&mut self, name: &str, which: &str, argv: Vec<String>) -> Result<()> {
        let mut command =
            vec!["nsenter".into(), format!("--net={}", self.names.netns_path(which).display()), "--".into()];
        command.extend(argv);
        self.spawn(name, which, command)
    }

    /// As `start`, in the machine's own network.
    fn start_outside(&mut self, name: &str, argv: Vec<String>) -> Result<()> {
        self.spawn(name, "cp", argv)
    }

    fn spawn(&mut self, name: &str, which: &str, argv: Vec<String>) -> Result<()> {
        let log = self.names.logs().join(format!("{name}.log"));
        let cgroup_procs = self.cgroups.procs_file(&self.names.daemons_cgroup(which));
        let process = Daemon { log: &log, cgroup_procs: &cgroup_procs, argv }.spawn()?;
        self.state.record(name, process);
        self.state.save(&self.names)
    }

    fn pause_image(&self) -> Result<PathBuf> {
        let binary = image::own_binary("weir-pause")?;
        let spec = ImageSpec::new(PAUSE_IMAGE, &binary);
        Ok(image::build_image(&spec, &self.names.dir().join("images"))?.archive)
    }
}

fn check_daemons(names: &Names, state: &State) -> Result<()> {
    for daemon in &state.daemons {
        if !daemon.process.is_alive() {
            let log = names.logs().join(format!("{}.log", daemon.name));
            bail!("{} has ended; {} ends with\n{}", daemon.name, log.display(), log_tail(&log, 8));
        }
    }
    Ok(())
}

/// A port that is free on 127.0.0.1, the same one each time where possible, below the range that the kernel hands out.
fn free_port(id: &str) -> Result<u16> {
    const FIRST: u16 = 16443;
    const COUNT: u16 = 2000;
    let mut hash: u16 = 0;
    for byte in id.bytes() {
        hash = hash.wrapping_mul(31).wrapping_add(u16::from(byte));
    }
    (0..COUNT)
        .map(|step| FIRST + (hash % COUNT + step) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .with_context(|| format!("no free port on 127.0.0.1 from {FIRST} to {}", FIRST + COUNT - 1))
}

/// Lets pods, which do not run as root, write to a folder.
pub fn open_to_pods(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::os::unix::fs::chown(dir, Some(POD_USER), Some(POD_USER))
        .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o777)))
        .with_context(|| format!("cannot open {} to pods", dir.display()))
}
