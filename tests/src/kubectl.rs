//! A thin wrapper of the kubectl program: typed where it helps, bounded in time everywhere.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::api;
use crate::cmd::Cmd;
use crate::local::http::Answer;
use crate::poll::{wait_for, wait_until};

/// kubectl with one kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// kubectl with the given arguments, not yet run; a request that gets no answer ends after 30 s.
    pub fn cmd<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Cmd {
        Cmd::new(&self.program).arg("--kubeconfig").arg(&self.kubeconfig).arg("--request-timeout=30s").args(args)
    }

    /// Runs kubectl and returns its stdout.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.cmd(args).stdout()
    }

    /// GET of a path of the API server.
    pub fn raw(&self, path: &str) -> Result<String> {
        match self.read(path) {
            Some(answer) if answer.status == 200 => Ok(answer.body),
            _ => self.run(&["get", "--raw", path]),
        }
    }

    /// The API server's answer without a program of its own for it; `None`: ask with one.
    fn read(&self, path: &str) -> Option<Answer> {
        api::get(&self.program, &self.kubeconfig, path)
    }

    /// One object.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Value> {
        self.get_opt(namespace, kind, name)?.with_context(|| format!("{kind} {name} not found in {namespace}"))
    }

    /// One object, `None` when it does not exist.
    pub fn get_opt(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        if let Some(answer) = api::path(namespace, kind).and_then(|path| self.read(&format!("{path}/{name}"))) {
            return if answer.status == 404 { Ok(None) } else { answer.json().map(Some) };
        }
        let text = self.run(&["-n", namespace, "get", kind, name, "-o", "json", "--ignore-not-found"])?;
        if text.trim().is_empty() { Ok(None) } else { json(&text).map(Some) }
    }

    /// The objects of a kind, by label selector (empty: all).
    pub fn list(&self, namespace: &str, kind: &str, selector: &str) -> Result<Vec<Value>> {
        self.items(namespace, kind, ["labelSelector", "-l"], selector)
    }

    /// The objects of a kind, by a selector: the names of its parameter and of its flag.
    fn items(&self, namespace: &str, kind: &str, [name, flag]: [&str; 2], selector: &str) -> Result<Vec<Value>> {
        let path = api::path(namespace, kind).map(|path| format!("{path}?{name}={}", api::quoted(selector)));
        let list = match path.and_then(|path| self.read(&path)) {
            Some(answer) => answer.success()?,
            None => json(&self.run(&["-n", namespace, "get", kind, flag, selector, "-o", "json"])?)?,
        };
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Applies a manifest (YAML or JSON); returns kubectl's words.
    pub fn apply(&self, namespace: &str, manifest: &str) -> Result<String> {
        self.cmd(["-n", namespace, "apply", "-f", "-"]).input(manifest).stdout()
    }

    /// Applies a manifest that must be refused; returns the words of the refusal.
    pub fn apply_refused(&self, namespace: &str, manifest: &str) -> Result<String> {
        let output = self.cmd(["-n", namespace, "apply", "-f", "-"]).input(manifest).output()?;
        if output.status.success() {
            bail!("the manifest was taken: {}", String::from_utf8_lossy(&output.stdout).trim());
        }
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Deletes an object and waits until it is gone; none there is fine.
    pub fn delete(&self, namespace: &str, kind: &str, name: &str) -> Result<()> {
        self.run(&["-n", namespace, "delete", kind, name, "--ignore-not-found", "--timeout=90s"]).map(drop)
    }

    /// Changes an object by a JSON merge patch.
    pub fn patch(&self, namespace: &str, kind: &str, name: &str, patch: &Value) -> Result<()> {
        self.run(&["-n", namespace, "patch", kind, name, "--type=merge", "-p", &patch.to_string()]).map(drop)
    }

    /// `kubectl scale`, as a user types it.
    pub fn scale(&self, namespace: &str, kind: &str, name: &str, replicas: u32) -> Result<()> {
        self.run(&["-n", namespace, "scale", kind, name, &format!("--replicas={replicas}")]).map(drop)
    }

    /// `kubectl wait --for=...`: the server pushes, so the answer comes without a poll's delay.
    pub fn wait(&self, namespace: &str, object: &str, condition: &str, limit: Duration) -> Result<()> {
        // The wait itself may last longer than a single request may.
        Cmd::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["-n", namespace, "wait", object])
            .arg(format!("--for={condition}"))
            .arg(format!("--timeout={}s", limit.as_secs().max(1)))
            .run()
    }

    /// Polls one object until `test` finds in it what it looks for.
    pub fn wait_object<T>(
        &self,
        what: &str,
        (namespace, kind, name): (&str, &str, &str),
        limit: Duration,
        mut test: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        wait_for(what, limit, Duration::from_millis(200), || Ok(test(&self.get(namespace, kind, name)?)))
    }

    /// Waits until a deployment runs its newest template on all replicas.
    pub fn wait_rollout(&self, namespace: &str, deployment: &str, limit: Duration) -> Result<()> {
        Cmd::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["-n", namespace, "rollout", "status", "deployment", deployment])
            .arg(format!("--timeout={}s", limit.as_secs().max(1)))
            .run()
    }

    /// A pod's log; `previous`: that of the container's run before this one.
    pub fn logs(&self, namespace: &str, pod: &str, previous: bool) -> Result<String> {
        self.run(&["-n", namespace, "logs", pod, "--all-containers", &format!("--previous={previous}")])
    }

    /// The last line of a container's log.
    pub fn last_line(&self, namespace: &str, pod: &str, container: &str) -> Result<String> {
        self.raw(&format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines=1"))
    }

    /// (reason, message) of the events about one object, oldest first; an empty name means all objects of the namespace.
    pub fn events(&self, namespace: &str, name: &str) -> Result<Vec<(String, String)>> {
        let selector = if name.is_empty() { String::new() } else { format!("involvedObject.name={name}") };
        let mut events = self.items(namespace, "events", ["fieldSelector", "--field-selector"], &selector)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        events.sort_by_key(|event| text(&event["metadata"]["creationTimestamp"]));
        Ok(events.iter().map(|event| (text(&event["reason"]), text(&event["message"]))).collect())
    }

    /// Runs a program in a pod's first container; returns its stdout.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let mut args = vec!["-n", namespace, "exec", pod, "--"];
        args.extend(command);
        self.run(&args)
    }

    /// Opens a way from a free port of 127.0.0.1 to a port of a pod or service (`pod/x`, `service/x`).
    pub fn port_forward(&self, namespace: &str, object: &str, port: u16) -> Result<PortForward> {
        let mut child = Command::new(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["-n", namespace, "port-forward", "--address=127.0.0.1", object, &format!(":{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start kubectl port-forward")?;
        let stdout = child.stdout.take().context("kubectl has no stdout")?;
        let mut forward = PortForward { child, stdout: BufReader::new(stdout), port: 0 };
        let mut line = String::new();
        forward.stdout.read_line(&mut line)?;
        // "Forwarding from 127.0.0.1:40001 -> 8080"
        forward.port = line
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok())
            .with_context(|| format!("no way to {object} port {port} in {namespace} opened: {line:?}"))?;
        Ok(forward)
    }

    /// The memory of a pod's containers in bytes (working set, as `kubectl top` shows it), as its kubelet last measured it;
    /// `None` before the first measurement.
    pub fn pod_memory(&self, namespace: &str, pod: &str) -> Result<Option<u64>> {
        let object = self.get(namespace, "pod", pod)?;
        let node = object["spec"]["nodeName"].as_str().with_context(|| format!("pod {pod} is on no node yet"))?;
        let summary = json(&self.raw(&format!("/api/v1/nodes/{node}/proxy/stats/summary"))?)?;
        let uid = &object["metadata"]["uid"];
        let pods = summary["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(found) = pods.iter().find(|pod| pod["podRef"]["uid"] == *uid) else {
            return Ok(None);
        };
        let containers = found["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(containers.iter().map(|container| container["memory"]["workingSetBytes"].as_u64()).sum())
    }

    /// How many nodes are ready.
    pub fn ready_nodes(&self) -> Result<usize> {
        let nodes = self.list("default", "nodes", "")?;
        Ok(nodes.iter().filter(|node| condition(node, "Ready") == Some("True")).count())
    }

    /// Waits until every pod of the selector is ready and there are `count` of them; returns their names.
    pub fn wait_pods(&self, namespace: &str, selector: &str, count: usize, limit: Duration) -> Result<Vec<String>> {
        let mut names = Vec::new();
        wait_until(
            &format!("{count} ready pods of {selector} in {namespace}"),
            limit,
            Duration::from_millis(200),
            || {
                let pods = self.list(namespace, "pods", selector)?;
                names = pods
                    .iter()
                    .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
                    .filter(|pod| condition(pod, "Ready") == Some("True"))
                    .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
                    .collect();
                Ok(names.len() == count && pods.len() == count)
            },
        )?;
        Ok(names)
    }
}

/// A running `kubectl port-forward`; ends when dropped.
#[derive(Debug)]
pub struct PortForward {
    child: Child,
    /// Held open: kubectl prints a line for each connection, and would die of a closed pipe.
    stdout: BufReader<ChildStdout>,
    /// The port on 127.0.0.1.
    pub port: u16,
}

impl Drop for PortForward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The status (`True`, `False`, `Unknown`) of one condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
        .and_then(|condition| condition["status"].as_str())
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).context("kubectl printed no JSON")
}
