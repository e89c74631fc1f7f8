//! The network of a built-in cluster: namespaces joined by one bridge, with no route out of the machine.

use std::path::Path;

use anyhow::{Context, Result};

use super::NODES;
use super::state::Names;
use crate::cmd::Cmd;

/// The control plane on the bridge; every cluster has namespaces of its own, so the addresses never collide.
pub const CONTROL_PLANE: &str = "10.89.0.1";
pub const SERVICES: &str = "10.96.0.0/16";
pub const API_SERVICE: &str = "10.96.0.1";
pub const PODS: &str = "10.244.0.0/16";

fn number(node: &str) -> usize {
    NODES.iter().position(|known| *known == node).map_or(0, |index| index + 1)
}

pub fn node_address(node: &str) -> String {
    format!("10.89.0.{}", 10 + number(node))
}

/// The addresses of a node's pods.
pub fn pod_subnet(node: &str) -> String {
    format!("10.244.{}.0/24", number(node))
}

/// Makes the namespaces, links and routes.
pub fn create(names: &Names) -> Result<()> {
    let cp = names.netns("cp");
    ip(&["netns", "add", &cp])?;
    for node in NODES {
        ip(&["netns", "add", &names.netns(node)])?;
    }
    batch(
        &cp,
        &format!("link set lo up\nlink add br0 type bridge\naddress add {CONTROL_PLANE}/24 dev br0\nlink set br0 up\n"),
    )?;
    for node in NODES {
        let ns = names.netns(node);
        ip(&["link", "add", node, "netns", &cp, "type", "veth", "peer", "name", "eth0", "netns", &ns])?;
        let mut routes = String::new();
        for other in NODES.iter().filter(|other| **other != node) {
            routes += &format!("route add {} via {}\n", pod_subnet(other), node_address(other));
        }
        // Service addresses need some route: kube-proxy rewrites them before they leave.
        batch(
            &ns,
            &format!(
                "link set lo up\naddress add {}/24 dev eth0\nlink set eth0 up\n{routes}route add {SERVICES} dev eth0\n",
                node_address(node)
            ),
        )?;
        batch(
            &cp,
            &format!("link set {node} master br0 up\nroute add {} via {}\n", pod_subnet(node), node_address(node)),
        )?;
    }
    for which in NODES.iter().chain(&["cp"]) {
        Cmd::in_netns(&names.netns_path(which), "sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).run()?;
    }
    Ok(())
}

/// Removes the namespaces; links, routes and rules go with them.
pub fn remove(names: &Names) -> Result<()> {
    for which in NODES.iter().chain(&["cp"]) {
        if names.netns_path(which).exists() {
            ip(&["netns", "delete", &names.netns(which)])?;
        }
    }
    Ok(())
}

/// The two rules that drop all traffic of a node with the rest of the cluster, in tables that kube-proxy leaves alone.
///
/// Taking the link down instead would lose its routes.
const CUT: [[&str; 6]; 2] =
    [["raw", "PREROUTING", "-i", "eth0", "-j", "DROP"], ["mangle", "POSTROUTING", "-o", "eth0", "-j", "DROP"]];

/// Cuts a node off, or heals it; doing it twice changes nothing.
pub fn set_cut(netns: &Path, cut: bool) -> Result<()> {
    for [table, chain, rule @ ..] in CUT {
        let iptables =
            |action: &str| Cmd::in_netns(netns, "iptables").args(["-w", "5", "-t", table, action, chain]).args(rule);
        let present = iptables("-C").succeeds();
        if cut && !present {
            iptables("-I").run()?;
        } else if !cut && present {
            iptables("-D").run()?;
        }
    }
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    Cmd::new("ip").args(args).run()
}

fn batch(netns: &str, commands: &str) -> Result<()> {
    Cmd::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .input(commands)
        .run()
        .with_context(|| format!("while laying the network of {netns}:\n{commands}"))
}
