//! The cluster's programs: built from pinned Go modules into a cache, or installed as Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cmd::{Cmd, on_path};
use crate::{cache_dir, checkout, say};

const VERSION: &str = "k8s.io/component-base/version";

/// A Go module under `tests/cluster/` whose `tool` lines name the programs to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl, and etcd as `server`.
    Kube,
    /// coredns.
    Dns,
    /// helm and kubeconform.
    Tools,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Kube, Self::Dns, Self::Tools];

    fn folder(self) -> &'static str {
        match self {
            Self::Kube => "kube",
            Self::Dns => "dns",
            Self::Tools => "tools",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Kube => "Kubernetes and etcd (about 5 minutes on 2 cores)",
            Self::Dns => "CoreDNS (about 2 minutes on 2 cores)",
            Self::Tools => "helm and kubeconform (about 2 minutes on 2 cores)",
        }
    }

    /// The API server reports no version unless it is linked in.
    fn ldflags(self, go_mod: &str) -> Result<String> {
        if self != Self::Kube {
            return Ok("-s -w".into());
        }
        let version = go_mod
            .lines()
            .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
            .and_then(|rest| rest.split_whitespace().next())
            .context("tests/cluster/kube/go.mod requires no k8s.io/kubernetes")?;
        let mut numbers = version.trim_start_matches('v').split('.');
        let (major, minor) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("0"));
        Ok(format!(
            "-s -w -X {VERSION}.gitVersion={version} -X {VERSION}.gitMajor={major} \
             -X {VERSION}.gitMinor={minor} -X {VERSION}.gitTreeState=clean"
        ))
    }

    /// The folder with the part's programs; builds them when they are not in the cache.
    pub fn ready(self) -> Result<PathBuf> {
        let module = checkout().join("tests/cluster").join(self.folder());
        let go_mod = read(&module.join("go.mod"))?;
        let ldflags = self.ldflags(&go_mod)?;
        let mut hash = Sha256::new();
        for text in [&go_mod, &read(&module.join("go.sum"))?, &ldflags] {
            hash.update(text.as_bytes());
            hash.update([0]);
        }
        let key = hex(&hash.finalize()[..8]);
        let cache = cache_dir()?.join("cluster");
        let ready = cache.join(format!("{}-{key}", self.folder()));
        if ready.is_dir() {
            return Ok(ready);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        // One build at a time: two would only slow each other down, and each other's result is what they want.
        let lock = fs::File::create(cache.join("lock")).context("cannot make the build lock")?;
        if lock.try_lock().is_err() {
            say("waiting for another build of the cluster's parts");
            lock.lock().context("cannot take the build lock")?;
        }
        if ready.is_dir() {
            return Ok(ready);
        }
        build(self, &module, &ldflags, &cache, &ready)?;
        Ok(ready)
    }
}

fn build(part: Part, module: &Path, ldflags: &str, cache: &Path, ready: &Path) -> Result<()> {
    if !on_path("go") {
        bail!(
            "building {} needs Go 1.26 or newer, and there is no `go` on the PATH: install it (https://go.dev/dl), \
             or point KUBECONFIG at a cluster of your own",
            part.about()
        );
    }
    say(format!("building {}, once", part.about()));
    let begun = Instant::now();
    // With the lock held, what lies there is of a build that was killed.
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".tmp") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let work = tempfile::tempdir_in(cache).context("cannot make a build folder")?;
    let out = work.path().join("bin");
    // With a trailing slash, Go takes it as a folder to put several programs into.
    let out_arg = format!("{}/", out.display());
    Cmd::new("go")
        .args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", ldflags, "-o", &out_arg, "tool"])
        .env("CGO_ENABLED", "0")
        .dir(module)
        .run_visibly()?;
    // The rename makes it whole or absent.
    fs::rename(&out, ready).with_context(|| format!("cannot move the build to {}", ready.display()))?;
    say(format!("built {} in {:.0} s", part.folder(), begun.elapsed().as_secs_f64()));
    Ok(())
}

/// A program from `PATH`, else from the parts.
pub fn program(name: &str, part: Part) -> Result<PathBuf> {
    if on_path(name) { Ok(name.into()) } else { Ok(part.ready()?.join(name)) }
}

/// What the built-in cluster takes from the machine: (program or file, Debian package).
const PACKAGES: [(&str, &str); 12] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("mount", "mount"),
];

/// Folders where distributions put the CNI plugins.
const CNI_DIRS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The folder of the CNI plugins, if they are installed.
pub fn cni_dir() -> Option<&'static str> {
    CNI_DIRS
        .into_iter()
        .find(|dir| ["ptp", "host-local", "loopback"].iter().all(|plugin| Path::new(dir).join(plugin).is_file()))
}

/// Installs the missing Debian packages, saying so first; where it cannot, says what to install.
pub fn ensure_packages() -> Result<()> {
    let mut missing: Vec<&str> =
        PACKAGES.iter().filter(|(program, _)| !on_path(program)).map(|(_, package)| *package).collect();
    if cni_dir().is_none() {
        missing.push("containernetworking-plugins");
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if !on_path("apt-get") {
        bail!("the built-in cluster needs what Debian calls {}: install them", missing.join(", "));
    }
    say(format!("installing the Debian packages {}", missing.join(" ")));
    let apt = |args: &[&str]| Cmd::new("apt-get").arg("-qq").args(args).env("DEBIAN_FRONTEND", "noninteractive").run();
    apt(&["update"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_that_go_mod_requires_is_linked_in() {
        let flags = Part::Kube.ldflags("require (\n\tk8s.io/kubernetes v1.34.4 // indirect\n)\n").expect("flags");
        assert!(flags.contains(".gitVersion=v1.34.4 "), "{flags}");
        assert!(flags.contains(".gitMinor=34 "), "{flags}");
        assert!(Part::Kube.ldflags("module x\n").is_err());
    }
}
