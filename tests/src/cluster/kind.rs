//! The kind provider: Kubernetes in Docker containers, where both are at hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;

use super::works;
use crate::cmd::{Cmd, on_path};
use crate::kubectl::Kubectl;
use crate::poll::wait_until;
use crate::{cache_dir, say};

/// Where the nodes see the folder that they share with this machine.
pub const SHARED_INSIDE: &str = "/var/lib/weir-shared";

/// A kind cluster of one control plane and two workers.
#[derive(Debug)]
pub struct Kind {
    id: String,
    dir: PathBuf,
}

impl Kind {
    /// Whether kind is installed and a Docker daemon answers.
    pub fn available() -> bool {
        on_path("kind") && on_path("docker") && works("docker", &["info"])
    }

    fn new(id: &str) -> Result<Self> {
        Ok(Self { id: id.to_owned(), dir: cache_dir()?.join("kind").join(id) })
    }

    pub fn name(&self) -> String {
        format!("weir-{}", self.id)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The shared folder, as this machine sees it.
    pub fn shared(&self) -> PathBuf {
        self.dir.join("shared")
    }

    pub fn up(id: &str) -> Result<Self> {
        let kind = Self::new(id)?;
        fs::create_dir_all(&kind.dir).with_context(|| format!("cannot make {}", kind.dir.display()))?;
        // The kernel gives it back when this process dies.
        let lock = fs::File::create(kind.dir.join("lock")).context("cannot make the lock")?;
        lock.lock().context("cannot take the lock")?;
        if kind.runs()? {
            return Ok(kind);
        }
        kind.delete()?;
        say(format!("starting kind cluster {}", kind.name()));
        fs::create_dir_all(kind.shared())?;
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(kind.shared(), fs::Permissions::from_mode(0o777))?;
        let mounts = json!([{"hostPath": kind.shared(), "containerPath": SHARED_INSIDE}]);
        let node = |role: &str| json!({"role": role, "extraMounts": mounts});
        let config = json!({
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [node("control-plane"), node("worker"), node("worker")],
        });
        let made = Cmd::new("kind")
            .args(["create", "cluster", "--wait", "120s", "--config", "-", "--name", &kind.name()])
            .arg("--kubeconfig")
            .arg(kind.kubeconfig())
            .input(config.to_string())
            .run();
        if made.is_err() {
            kind.delete()?;
        }
        made.map(|()| kind)
    }

    pub fn attach(id: &str) -> Result<Option<Self>> {
        let kind = Self::new(id)?;
        Ok(kind.runs()?.then_some(kind))
    }

    pub fn down(id: &str) -> Result<()> {
        let kind = Self::new(id)?;
        kind.delete()?;
        if kind.dir.exists() {
            fs::remove_dir_all(&kind.dir).with_context(|| format!("cannot remove {}", kind.dir.display()))?;
        }
        Ok(())
    }

    fn delete(&self) -> Result<()> {
        Cmd::new("kind").args(["delete", "cluster", "--name", &self.name()]).run()
    }

    fn runs(&self) -> Result<bool> {
        let clusters = Cmd::new("kind").args(["get", "clusters"]).stdout()?;
        Ok(clusters.lines().any(|line| line == self.name())
            && self.kubeconfig().is_file()
            && self.kubectl()?.raw("/readyz").is_ok()
            && self.kubectl()?.ready_nodes()? == 3)
    }

    fn kubectl(&self) -> Result<Kubectl> {
        let program = super::parts::program("kubectl", super::Part::Kube)?;
        Ok(Kubectl::new(program, self.kubeconfig()))
    }

    pub fn load(&self, archive: &Path) -> Result<()> {
        Cmd::new("kind").args(["load", "image-archive", "--name", &self.name()]).arg(archive).run()
    }

    pub fn signal_container(&self, node: &str, container: &str, signal: Signal) -> Result<()> {
        // The node's own pid namespace: its crictl knows the pid there.
        let script = "pid=$(crictl inspect -o go-template --template '{{.info.pid}}' \"$0\") && kill -\"$1\" \"$pid\"";
        let number = signal.as_raw().to_string();
        in_node(node, &["sh", "-c", script, container, &number])
    }

    pub fn set_cut(&self, node: &str, cut: bool) -> Result<()> {
        let script = "for rule in 'raw PREROUTING -i' 'mangle POSTROUTING -o'; do set -- $rule; \
                      if [ $0 = cut ]; then iptables -w 5 -t $1 -C $2 $3 eth0 -j DROP 2>/dev/null || iptables -w 5 -t $1 -I $2 $3 eth0 -j DROP; \
                      else iptables -w 5 -t $1 -D $2 $3 eth0 -j DROP 2>/dev/null || true; fi; done";
        in_node(node, &["sh", "-c", script, if cut { "cut" } else { "heal" }])
    }

    pub fn stop_node(&self, node: &str) -> Result<()> {
        Cmd::new("docker").args(["kill", node]).run()
    }

    pub fn start_node(&self, node: &str) -> Result<()> {
        Cmd::new("docker").args(["start", node]).run()?;
        let kubectl = self.kubectl()?;
        wait_until("all nodes to be ready", Duration::from_secs(90), Duration::from_millis(500), || {
            Ok(kubectl.ready_nodes()? == 3)
        })
    }
}

fn in_node(node: &str, command: &[&str]) -> Result<()> {
    Cmd::new("docker").args(["exec", node]).args(command).run()
}
