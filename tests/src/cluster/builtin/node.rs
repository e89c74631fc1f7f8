//! A node of a built-in cluster: containerd, kubelet and kube-proxy, in a network and a mount namespace of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;

use super::cgroup::Cgroups;
use super::state::Names;
use super::{BuiltIn, NODES, PAUSE_IMAGE, control_plane, net};
use crate::cluster::parts::cni_dir;
use crate::cmd::Cmd;
use crate::poll::wait_until;
use crate::process::{Process, log_tail};

/// Folders that the node's programs write to whatever their configuration says. Each node has its own mounted over them,
/// in its own mount namespace, so that two nodes never meet there and nothing of the machine's own is touched.
const PRIVATE: [&str; 5] =
    ["/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/var/log/pods", "/run/containerd"];

/// Makes a node's cgroups and configuration files.
pub fn prepare(cluster: &BuiltIn, node: &str) -> Result<()> {
    let names = &cluster.names;
    cluster.cgroups.create(&names.pods_cgroup(node))?;
    cluster.cgroups.create(&names.daemons_cgroup(node))?;
    let dir = names.dir().join(node);
    for folder in ["containerd", "kubelet", "cni", "private"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let write = |file: &str, text: String| -> Result<()> {
        let path = dir.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("cni/10-weir.conflist", serde_json::to_string_pretty(&cni(names, node))?)?;
    write("containerd.toml", containerd(names, node)?)?;
    write("kubelet.yaml", serde_json::to_string_pretty(&kubelet(cluster, node))?)?;
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": control_plane::kubeconfig(cluster, "proxy")?},
        "mode": "iptables",
        "clusterCIDR": net::PODS,
        "hostnameOverride": node,
        // The machine's limit of tracked connections is not ours to set.
        "conntrack": {"maxPerCore": 0},
    });
    write("proxy.yaml", serde_json::to_string_pretty(&proxy)?)?;
    control_plane::kubeconfig(cluster, node)?;
    Ok(())
}

/// Starts the node's containerd; returns before it answers.
pub fn start_containerd(cluster: &mut BuiltIn, node: &str) -> Result<()> {
    let names = cluster.names.clone();
    let dir = names.dir().join(node);
    fs::create_dir_all(run_dir(&names, node).join("private"))?;
    let mut script = String::from("set -e\n");
    for private in PRIVATE {
        let base = if private.starts_with("/run") { run_dir(&names, node) } else { dir.clone() };
        let own = base.join("private").join(private.trim_start_matches('/').replace('/', "-"));
        fs::create_dir_all(&own)?;
        fs::create_dir_all(private).with_context(|| format!("cannot make the mount point {private}"))?;
        script += &format!("mount --bind '{}' '{private}'\n", own.display());
    }
    script += &format!("exec containerd --config '{}'\n", dir.join("containerd.toml").display());
    // Mounts of the machine still come in, but none of the node's goes out: they end with its last process.
    let argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", &script];
    cluster.start(&format!("containerd-{node}"), node, argv.map(String::from).to_vec())
}

/// Waits for the node's containerd and gives it the pause image.
pub fn finish_containerd(cluster: &BuiltIn, node: &str, pause: &Path) -> Result<()> {
    let name = format!("containerd-{node}");
    wait_until(&format!("{name} to answer"), Duration::from_secs(30), Duration::from_millis(30), || {
        cluster.check_daemons()?;
        Ok(ctr(&cluster.names, node).arg("version").succeeds())
    })
    .with_context(|| log_tail(&cluster.names.logs().join(format!("{name}.log")), 5))?;
    import(&cluster.names, node, pause)
}

/// Starts kubelet and kube-proxy, once the API server answers.
pub fn start_kubelet(cluster: &mut BuiltIn, node: &str) -> Result<()> {
    let names = cluster.names.clone();
    let dir = names.dir().join(node);
    let containerd = cluster
        .state
        .daemon(&format!("containerd-{node}"))
        .with_context(|| format!("containerd of {node} is not recorded"))?;
    let config = names.dir().join(format!("{node}.kubeconfig"));
    let mut argv = vec!["nsenter".into(), format!("--mount=/proc/{}/ns/mnt", containerd.pid), "--".into()];
    argv.extend(cluster.kube("kubelet"));
    argv.extend([
        format!("--config={}", dir.join("kubelet.yaml").display()),
        format!("--kubeconfig={}", config.display()),
        format!("--hostname-override={node}"),
        format!("--node-ip={}", net::node_address(node)),
        format!("--root-dir={}", dir.join("kubelet").display()),
    ]);
    cluster.start(&format!("kubelet-{node}"), node, argv)?;
    let mut proxy = cluster.kube("kube-proxy");
    proxy.push(format!("--config={}", dir.join("proxy.yaml").display()));
    cluster.start(&format!("proxy-{node}"), node, proxy)
}

/// Ends everything on the node at once, as when its power is cut: its peers get no farewell.
pub fn stop(cluster: &mut BuiltIn, node: &str) -> Result<()> {
    let names = cluster.names.clone();
    // First the network: else the kernel would close the dying programs' connections politely.
    net::set_cut(&names.netns_path(node), true)?;
    cluster.state.stopped.push(node.to_owned());
    cluster.state.daemons.retain(|daemon| !daemon.name.ends_with(&format!("-{node}")));
    cluster.state.save(&names)?;
    cluster.cgroups.kill(&names.daemons_cgroup(node))?;
    cluster.cgroups.kill(&names.pods_cgroup(node))
}

/// Starts a stopped node again, as after a boot: images and pod folders are still there, containers are not.
pub fn start(cluster: &mut BuiltIn, node: &str, pause: &Path) -> Result<()> {
    let names = cluster.names.clone();
    let run = run_dir(&names, node);
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("cannot empty {}", run.display()))?;
    }
    fs::create_dir_all(&run)?;
    start_containerd(cluster, node)?;
    finish_containerd(cluster, node, pause)?;
    net::set_cut(&names.netns_path(node), false)?;
    start_kubelet(cluster, node)?;
    cluster.state.stopped.retain(|stopped| stopped != node);
    cluster.state.save(&names)
}

/// Loads an OCI archive into the node's image store.
pub fn import(names: &Names, node: &str, archive: &Path) -> Result<()> {
    ctr(names, node)
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .run()
        .with_context(|| format!("cannot load {} into node {node}", archive.display()))
}

/// The first process of a container (by its id).
pub fn first_process(cgroups: &Cgroups, names: &Names, node: &str, container: &str) -> Option<Process> {
    processes(cgroups, names, node, container).into_iter().find(|process| process.pid_inside() == Some(1))
}

/// Sends a signal to every process of a container, or only to its first one.
pub fn signal(
    cgroups: &Cgroups,
    names: &Names,
    node: &str,
    container: &str,
    signal: Signal,
    only_first: bool,
) -> Result<()> {
    let targets = if only_first {
        first_process(cgroups, names, node, container).into_iter().collect()
    } else {
        processes(cgroups, names, node, container)
    };
    anyhow::ensure!(!targets.is_empty(), "container {container} has no process on node {node}");
    for process in targets {
        process.signal(signal)?;
    }
    Ok(())
}

fn processes(cgroups: &Cgroups, names: &Names, node: &str, container: &str) -> Vec<Process> {
    let pods = names.pods_cgroup(node);
    let Some(dir) = cgroups.find(&pods, container) else {
        return Vec::new();
    };
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|pid| Process::of(pid.parse().ok()?)).collect()
}

fn run_dir(names: &Names, node: &str) -> PathBuf {
    names.run().join(node)
}

fn socket(names: &Names, node: &str) -> PathBuf {
    run_dir(names, node).join("containerd.sock")
}

fn ctr(names: &Names, node: &str) -> Cmd {
    Cmd::new("ctr").arg("--address").arg(socket(names, node))
}

fn cni(names: &Names, node: &str) -> serde_json::Value {
    // Point-to-point links, not a bridge: then also traffic between two pods of a node passes the node's own rules, and a
    // service that leads back to the same node works without the kernel's bridge filter.
    json!({
        "cniVersion": "1.0.0",
        "name": format!("weir-{}", names.id),
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": names.dir().join(node).join("ipam"),
                    "ranges": [[{"subnet": net::pod_subnet(node)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd(names: &Names, node: &str) -> Result<String> {
    let dir = names.dir().join(node);
    let run = run_dir(names, node);
    let (dir, run) = (dir.display(), run.display());
    let bin = cni_dir().context("the CNI plugins are not installed")?;
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower it, and dies.
    Ok(format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{run}/containerd"
[grpc]
  address = "{run}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "{dir}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "{run}/runc"
"#
    ))
}

fn kubelet(cluster: &BuiltIn, node: &str) -> serde_json::Value {
    let names = &cluster.names;
    let pki = cluster.pki();
    let dir = names.dir().join(node);
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.path("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        // A root of its own: else two kubelets kill each other's pods.
        "cgroupRoot": format!("/{}", names.pods_cgroup(node)),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": format!("unix://{}", socket(names, node).display()),
        "clusterDNS": [net::CONTROL_PLANE],
        "clusterDomain": "cluster.local",
        "failSwapOn": false,
        "resolvConf": "/dev/null",
        "podLogsDir": dir.join("podlogs"),
        "tlsCertFile": pki.path(&format!("{node}.crt")),
        "tlsPrivateKeyFile": pki.path(&format!("{node}.key")),
        // The disk is the machine's: its owner cleans it up, not this kubelet.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "nodeStatusUpdateFrequency": "4s",
        "maxPods": 110,
    })
}

/// The node's name, if it is one.
pub fn known(node: &str) -> Result<&'static str> {
    NODES
        .into_iter()
        .find(|known| *known == node)
        .with_context(|| format!("there is no node {node}: the cluster has {}", NODES.join(" and ")))
}
