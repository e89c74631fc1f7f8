//! The control plane of a built-in cluster: etcd, API server, controller manager, scheduler, DNS, and the way in from 127.0.0.1.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{BuiltIn, net};
use crate::poll::wait_until;

const ETCD: &str = "http://127.0.0.1:2379";

/// How the API server is reached from inside the cluster's network.
pub fn inside_url() -> String {
    format!("https://{}:6443", net::CONTROL_PLANE)
}

/// Starts etcd, the API server and the way in; returns before they answer.
pub fn start_api(cluster: &mut BuiltIn) -> Result<()> {
    let names = cluster.names.clone();
    let pki = cluster.pki();
    let data = names.dir().join("etcd").display().to_string();
    let mut etcd = cluster.kube("server");
    etcd.extend(args(&[
        ("--data-dir", &data),
        ("--listen-client-urls", ETCD),
        ("--advertise-client-urls", ETCD),
        ("--listen-peer-urls", "http://127.0.0.1:2380"),
    ]));
    // The cluster does not outlive its machine's boot: its data need not.
    etcd.push("--unsafe-no-fsync".into());
    cluster.start("etcd", "cp", etcd)?;

    let mut api = cluster.kube("kube-apiserver");
    api.extend(args(&[
        ("--etcd-servers", ETCD),
        ("--advertise-address", net::CONTROL_PLANE),
        ("--bind-address", "0.0.0.0"),
        ("--secure-port", "6443"),
        ("--service-cluster-ip-range", net::SERVICES),
        ("--client-ca-file", &pki.arg("ca.crt")),
        ("--tls-cert-file", &pki.arg("apiserver.crt")),
        ("--tls-private-key-file", &pki.arg("apiserver.key")),
        ("--service-account-key-file", &pki.arg("sa.pub")),
        ("--service-account-signing-key-file", &pki.arg("sa.key")),
        ("--service-account-issuer", "https://kubernetes.default.svc"),
        ("--authorization-mode", "Node,RBAC"),
        ("--enable-admission-plugins", "NodeRestriction"),
        ("--kubelet-client-certificate", &pki.arg("admin.crt")),
        ("--kubelet-client-key", &pki.arg("admin.key")),
        ("--kubelet-preferred-address-types", "InternalIP"),
        ("--endpoint-reconciler-type", "lease"),
    ]));
    cluster.start("apiserver", "cp", api)?;

    // A unix socket crosses network namespaces: no packet of the machine's own namespace leaves the loopback.
    let socket = names.run().join("api.sock").display().to_string();
    cluster.start(
        "api-inside",
        "cp",
        vec!["socat".into(), format!("UNIX-LISTEN:{socket},fork,mode=600"), "TCP:127.0.0.1:6443".into()],
    )?;
    let port = cluster.state.port;
    cluster.start_outside(
        "api-outside",
        vec![
            "socat".into(),
            format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"),
            format!("UNIX-CONNECT:{socket}"),
        ],
    )
}

/// Waits until the API server answers through the way in.
pub fn wait_for_api(cluster: &BuiltIn) -> Result<()> {
    let kubectl = cluster.kubectl();
    wait_until("the API server to be ready", Duration::from_secs(60), Duration::from_millis(150), || {
        cluster.check_daemons()?;
        Ok(kubectl.raw("/readyz").is_ok())
    })
}

/// Starts what needs the API server.
pub fn start_rest(cluster: &mut BuiltIn) -> Result<()> {
    let names = cluster.names.clone();
    let pki = cluster.pki();
    let config = kubeconfig(cluster, "controller-manager")?;
    let mut manager = cluster.kube("kube-controller-manager");
    manager.extend(args(&[
        ("--kubeconfig", &config),
        ("--authentication-kubeconfig", &config),
        ("--authorization-kubeconfig", &config),
        ("--root-ca-file", &pki.arg("ca.crt")),
        ("--service-account-private-key-file", &pki.arg("sa.key")),
        ("--cluster-signing-cert-file", &pki.arg("ca.crt")),
        ("--cluster-signing-key-file", &pki.arg("ca.key")),
        ("--use-service-account-credentials", "true"),
        ("--node-monitor-grace-period", "16s"),
        ("--leader-elect", "false"),
    ]));
    cluster.start("controller-manager", "cp", manager)?;

    let config = kubeconfig(cluster, "scheduler")?;
    let mut scheduler = cluster.kube("kube-scheduler");
    scheduler.extend(args(&[
        ("--kubeconfig", &config),
        ("--authentication-kubeconfig", &config),
        ("--authorization-kubeconfig", &config),
        ("--leader-elect", "false"),
    ]));
    cluster.start("scheduler", "cp", scheduler)?;

    let inside = names.dir().join("admin-inside.kubeconfig");
    pki.kubeconfig("admin", &inside_url(), "weir", &inside)?;
    let corefile = names.dir().join("Corefile");
    fs::write(
        &corefile,
        format!(
            ".:53 {{\n    bind {}\n    errors\n    kubernetes cluster.local in-addr.arpa {{\n        kubeconfig {}\n        \
             pods insecure\n        ttl 1\n    }}\n    cache 1\n}}\n",
            net::CONTROL_PLANE,
            inside.display()
        ),
    )
    .context("cannot write the Corefile")?;
    let coredns = cluster.dns_dir.join("coredns").display().to_string();
    cluster.start("coredns", "cp", vec![coredns, "-conf".into(), corefile.display().to_string()])
}

/// A kubeconfig for a component inside the network; returns its path.
pub fn kubeconfig(cluster: &BuiltIn, user: &str) -> Result<String> {
    let path: PathBuf = cluster.names.dir().join(format!("{user}.kubeconfig"));
    cluster.pki().kubeconfig(user, &inside_url(), "weir", &path)?;
    Ok(path.display().to_string())
}

fn args(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(flag, value)| format!("{flag}={value}")).collect()
}
