//! The built-in cluster's life: killed half-way through its start, brought up again, used twice, taken down without a trace.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use weir_tests::poll::wait_until;
use weir_tests::suite::CannotRun;

const ID: &str = "harness-life";

pub fn a_killed_start_is_no_obstacle_and_down_leaves_nothing() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(CannotRun("the built-in cluster needs root".into()));
    }
    // The start is killed when it has come to these files: before anything runs, and with half of it running.
    for reached in ["pki/ca.crt", "logs/kubelet-n1.log"] {
        let mut up = command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let file = Path::new("/var/lib/weir-cluster").join(ID).join(reached);
        let came = wait_until(
            &format!("{} of a cluster that comes up", file.display()),
            Duration::from_secs(600),
            Duration::from_millis(1),
            || Ok(file.exists()),
        );
        up.kill()?;
        up.wait()?;
        came?;
    }
    run(&["up"])?;
    let first = processes()?;
    ensure!(!first.is_empty(), "a running cluster has processes");
    run(&["up"])?;
    ensure!(processes()? == first, "a second up leaves the cluster as it is");
    run(&["status"])?;
    run(&["down"])?;
    let left = leftovers()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    run(&["down"])
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-cluster"));
    command.args(args).env_remove("KUBECONFIG").env("WEIR_PROVIDER", "built-in").env("WEIR_CLUSTER", ID);
    command
}

fn run(args: &[&str]) -> Result<()> {
    let output = command(args).output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "weir-cluster {args:?}: {words}");
    Ok(())
}

/// The pids that the cluster recorded.
fn processes() -> Result<Vec<u64>> {
    let record = fs::read(format!("/var/lib/weir-cluster/{ID}/cluster.json"))?;
    let record: serde_json::Value = serde_json::from_slice(&record)?;
    let daemons = record["daemons"].as_array().context("the record lists its programs")?;
    Ok(daemons.iter().filter_map(|daemon| daemon["process"]["pid"].as_u64()).collect())
}

/// Everything on this machine that carries the cluster's id.
fn leftovers() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for dir in ["/var/lib/weir-cluster", "/run/weir-cluster", "/run/netns", "/run/containerd/s"] {
        for entry in fs::read_dir(dir).into_iter().flatten() {
            left.push(entry?.path().display().to_string());
        }
    }
    let mut dirs = vec!["/sys/fs/cgroup".into()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path().display().to_string());
                dirs.push(entry.path());
            }
        }
    }
    left.extend(fs::read_to_string("/proc/self/mounts")?.lines().map(str::to_owned));
    for entry in fs::read_dir("/proc")? {
        let cmdline = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        left.push(String::from_utf8_lossy(&cmdline).replace('\0', " "));
    }
    left.retain(|what| what.contains(ID));
    Ok(left)
}
