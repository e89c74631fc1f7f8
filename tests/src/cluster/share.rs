//! Storage that pods on every node and this machine share, and namespaces for one test each.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::builtin::open_to_pods;
use super::{Cluster, Provider, given, kind};
use crate::kubectl::Kubectl;

/// The claim that [`Cluster::namespace`] makes in each namespace.
pub const CLAIM: &str = "shared";

/// A folder that this machine and every node see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Its path on this machine.
    pub here: PathBuf,
    /// Its path on the nodes, for `hostPath`.
    pub on_nodes: PathBuf,
}

/// A namespace of its own under the restricted pod-security standard; deleted when dropped, unless `WEIR_KEEP` is set.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    /// The folder behind the claim [`Namespace::claim`], as this machine sees it.
    pub shared: PathBuf,
    kubectl: Kubectl,
}

impl Cluster {
    /// The shared folder. A cluster that was given has one when `WEIR_SHARED` names a path that is the same here and there.
    pub fn shared(&self) -> Result<Shared> {
        match &self.provider {
            Provider::BuiltIn(cluster) => {
                let path = cluster.names.shared();
                Ok(Shared { here: path.clone(), on_nodes: path })
            }
            Provider::Kind(kind) => Ok(Shared { here: kind.shared(), on_nodes: kind::SHARED_INSIDE.into() }),
            Provider::Given => {
                let path = given::shared()?;
                Ok(Shared { here: path.clone(), on_nodes: path })
            }
        }
    }

    /// Makes a namespace with a bound claim on a folder of its own in the shared folder.
    ///
    /// The restricted standard forbids `hostPath` in pods; a claim is allowed. What was left of an earlier namespace of this
    /// name is removed first.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        let kubectl = self.kubectl()?;
        let shared = self.shared()?;
        kubectl.delete("default", "namespace", name)?;
        let volume = format!("shared-{name}");
        kubectl.delete("default", "persistentvolume", &volume)?;
        let here = shared.here.join(name);
        if here.exists() {
            fs::remove_dir_all(&here).with_context(|| format!("cannot empty {}", here.display()))?;
        }
        fs::create_dir_all(&here).with_context(|| format!("cannot make {}", here.display()))?;
        if rustix::process::geteuid().is_root() {
            open_to_pods(&here)?;
        } else {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&here, fs::Permissions::from_mode(0o777))?;
        }
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "List",
            "items": [
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {
                        "name": name,
                        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
                    },
                },
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": volume},
                    "spec": {
                        "capacity": {"storage": "10Gi"},
                        "accessModes": ["ReadWriteMany"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": "",
                        "hostPath": {"path": shared.on_nodes.join(name), "type": "Directory"},
                        "claimRef": {"namespace": name, "name": CLAIM},
                    },
                },
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "metadata": {"namespace": name, "name": CLAIM},
                    "spec": {
                        "accessModes": ["ReadWriteMany"],
                        "storageClassName": "",
                        "volumeName": volume,
                        "resources": {"requests": {"storage": "10Gi"}},
                    },
                },
            ],
        });
        kubectl.cmd(["apply", "-f", "-"]).input(manifest.to_string()).run()?;
        let namespace = Namespace { name: name.to_owned(), shared: here, kubectl };
        namespace.kubectl.wait_object(
            &format!("the claim {CLAIM} of namespace {name} to be bound"),
            (name, "persistentvolumeclaim", CLAIM),
            Duration::from_secs(30),
            |claim| (claim["status"]["phase"] == "Bound").then_some(()),
        )?;
        namespace.kubectl.wait_object(
            &format!("the service account of namespace {name}"),
            (name, "serviceaccount", "default"),
            Duration::from_secs(30),
            |_| Some(()),
        )?;
        Ok(namespace)
    }
}

impl Namespace {
    /// The persistent volume claim on the shared folder, for the pod template of a job.
    pub fn claim(&self) -> &'static str {
        CLAIM
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::env::var_os("WEIR_KEEP").is_some() || std::thread::panicking() {
            // Whoever looks into a failure needs what is there; the next namespace of this name removes it.
            return;
        }
        let _ = self.kubectl.run(&["delete", "namespace", &self.name, "--wait=false"]);
        let _ = self.kubectl.run(&["delete", "persistentvolume", &format!("shared-{}", self.name), "--wait=false"]);
    }
}
