//! Faults, each a call: kill, delete, cut off, stop, pause, crash at a step.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Cluster, OPERATOR_NAMESPACE, Provider};
use crate::poll::wait_for;
use crate::suite::CannotRun;

/// The annotation on a `StreamJob` that makes the operator abort right after it stored the named step, once. Obeyed only by an
/// operator that was installed with the value [`CRASH_INJECTION`].
pub const CRASH_AT: &str = "weir.dev/crash-at";
/// The chart's value that makes the operator obey [`CRASH_AT`].
pub const CRASH_INJECTION: (&str, &str) = ("testing.crashInjection", "true");

const OPERATOR_SELECTOR: &str = "app.kubernetes.io/name=weir-operator";

/// How long the status of a pod may lag behind what runs.
const KNOWN: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(50);

/// One run of one container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub node: String,
    /// Its id without the runtime's prefix.
    pub id: String,
}

impl Cluster {
    /// An error, [`CannotRun`], where processes cannot be signalled and nodes not harmed: for tests that do much before they do that.
    pub fn takes_faults(&self) -> Result<()> {
        match &self.provider {
            Provider::Given => unsupported("harm to processes and nodes"),
            Provider::Kind(_) | Provider::BuiltIn(_) => Ok(()),
        }
    }

    /// Where a pod's container runs now; an empty name means the pod's first container.
    pub fn container(&self, namespace: &str, pod: &str, container: &str) -> Result<Container> {
        let object = self.kubectl()?.get(namespace, "pod", pod)?;
        find_container(&object, container)
            .with_context(|| format!("pod {pod} in {namespace} has no running container {container:?}"))
    }

    /// Where the process of a job's pod runs that works: of its two containers one stands by, and says so in the last line of its log.
    pub fn working_container(&self, namespace: &str, pod: &str) -> Result<Container> {
        let kubectl = self.kubectl()?;
        // the kubelet says that a container runs a moment after its process is heard of
        wait_for(&format!("a container of pod {pod} in {namespace} that works"), KNOWN, OFTEN, || {
            let object = kubectl.get(namespace, "pod", pod)?;
            for name in ["weir", "weir-standby"] {
                let Some(found) = find_container(&object, name) else { continue };
                if !kubectl.last_line(namespace, pod, name)?.contains("\"standing by\"") {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    /// SIGKILLs a container's first process, as the kernel's OOM killer does.
    pub fn kill_container(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        self.signal(&self.container(namespace, pod, container)?, Signal::KILL)
    }

    /// SIGKILLs the first process of a container that was looked up before: nothing delays the kill.
    pub fn kill(&self, container: &Container) -> Result<()> {
        self.signal(container, Signal::KILL)
    }

    fn signal(&self, container: &Container, signal: Signal) -> Result<()> {
        match &self.provider {
            Provider::BuiltIn(cluster) => {
                let only_first = signal == Signal::KILL;
                cluster.signal_container(&container.node, &container.id, signal, only_first)
            }
            Provider::Kind(kind) => kind.signal_container(&container.node, &container.id, signal),
            Provider::Given => unsupported("signals to a container's process"),
        }
    }

    /// Deletes a pod; `force`: without a grace period. Does not wait until it is gone.
    pub fn delete_pod(&self, namespace: &str, pod: &str, force: bool) -> Result<()> {
        let mut args = vec!["-n", namespace, "delete", "pod", pod, "--wait=false"];
        if force {
            args.extend(["--grace-period=0", "--force"]);
        }
        self.kubectl()?.run(&args).map(drop)
    }

    /// Cuts a node off: every packet between it and the rest is dropped. The shared folder stays reachable from it, so that
    /// only fencing keeps its pods from writing.
    pub fn cut_off(&self, node: &str) -> Result<()> {
        self.set_cut(node, true)
    }

    /// Heals a node that was cut off.
    pub fn heal(&self, node: &str) -> Result<()> {
        self.set_cut(node, false)
    }

    fn set_cut(&self, node: &str, cut: bool) -> Result<()> {
        match &self.provider {
            Provider::BuiltIn(cluster) => cluster.set_cut(node, cut),
            Provider::Kind(kind) => kind.set_cut(node, cut),
            Provider::Given => unsupported("cutting a node off"),
        }
    }

    /// Ends all that runs on a node at once, as when its power is cut.
    pub fn stop_node(&self, node: &str) -> Result<()> {
        match &self.provider {
            Provider::BuiltIn(cluster) => cluster.stop_node(node),
            Provider::Kind(kind) => kind.stop_node(node),
            Provider::Given => unsupported("stopping a node"),
        }
    }

    /// Starts a stopped node again; returns when it is ready.
    pub fn start_node(&self, node: &str) -> Result<()> {
        match &self.provider {
            Provider::BuiltIn(cluster) => cluster.start_node(node)?,
            Provider::Kind(kind) => kind.start_node(node)?,
            Provider::Given => return unsupported("starting a node"),
        }
        self.wait_node_ready(node, Duration::from_secs(90))
    }

    /// Waits until a node reports to be ready.
    pub fn wait_node_ready(&self, node: &str, limit: Duration) -> Result<()> {
        self.kubectl()?.wait("default", &format!("node/{node}"), "condition=Ready", limit)
    }

    /// Waits until the control plane has noticed that a node is lost.
    pub fn wait_node_lost(&self, node: &str, limit: Duration) -> Result<()> {
        self.kubectl()?.wait("default", &format!("node/{node}"), "condition=Ready=Unknown", limit)
    }

    /// The pods of the operator that are not about to go, by the name label of the chart.
    pub fn operator_pods(&self) -> Result<Vec<String>> {
        let pods = self.kubectl()?.list(OPERATOR_NAMESPACE, "pods", OPERATOR_SELECTOR)?;
        Ok(pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    }

    /// Freezes a container (SIGSTOP to all of its processes) until the guard is dropped.
    pub fn pause(&self, container: Container) -> Result<Paused<'_>> {
        let mut paused = Paused { cluster: self, containers: Vec::new() };
        paused.add(container)?;
        Ok(paused)
    }

    /// Freezes the operator, all of its pods, until the guard is dropped.
    pub fn pause_operator(&self) -> Result<Paused<'_>> {
        let mut paused = Paused { cluster: self, containers: Vec::new() };
        for pod in self.operator_pods()? {
            paused.add(self.container(OPERATOR_NAMESPACE, &pod, "")?)?;
        }
        if paused.containers.is_empty() {
            bail!("no operator runs in namespace {OPERATOR_NAMESPACE}");
        }
        Ok(paused)
    }

    /// Makes the operator crash once, when it has stored the named step of this job.
    pub fn crash_operator_at(&self, namespace: &str, job: &str, step: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {CRASH_AT: step}}});
        self.kubectl()?.patch(namespace, "streamjob", job, &patch)
    }

    /// How often the operator's containers have been started again, of the pods that there are now.
    pub fn operator_restarts(&self) -> Result<u64> {
        let pods = self.kubectl()?.list(OPERATOR_NAMESPACE, "pods", OPERATOR_SELECTOR)?;
        let counts = pods.iter().map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0));
        Ok(counts.sum())
    }

    /// Sets (or with `None` removes) a variable of the operator and waits for the new pod.
    pub fn set_operator_env(&self, name: &str, value: Option<&str>) -> Result<()> {
        let kubectl = self.kubectl()?;
        let deployments = kubectl.list(OPERATOR_NAMESPACE, "deployments", OPERATOR_SELECTOR)?;
        let deployment = deployments
            .first()
            .and_then(|deployment| deployment["metadata"]["name"].as_str())
            .with_context(|| format!("no operator is installed in namespace {OPERATOR_NAMESPACE}"))?;
        let setting = match value {
            Some(value) => format!("{name}={value}"),
            None => format!("{name}-"),
        };
        kubectl.run(&["-n", OPERATOR_NAMESPACE, "set", "env", &format!("deployment/{deployment}"), &setting])?;
        kubectl.wait_rollout(OPERATOR_NAMESPACE, deployment, Duration::from_secs(60))
    }

    /// Keeps new pods off a node (or lets them on again), to steer where a pod starts.
    pub fn cordon(&self, node: &str, cordoned: bool) -> Result<()> {
        let patch = json!({"spec": {"unschedulable": cordoned}});
        self.kubectl()?.patch("default", "node", node, &patch)
    }
}

/// Frozen containers; they thaw when it is dropped.
#[derive(Debug)]
pub struct Paused<'a> {
    cluster: &'a Cluster,
    containers: Vec<Container>,
}

impl Paused<'_> {
    fn add(&mut self, container: Container) -> Result<()> {
        self.cluster.signal(&container, Signal::STOP)?;
        self.containers.push(container);
        Ok(())
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        for container in &self.containers {
            // It may have been killed meanwhile, by its probe or by the test.
            let _ = self.cluster.signal(container, Signal::CONT);
        }
    }
}

fn find_container(pod: &Value, name: &str) -> Option<Container> {
    let node = pod["spec"]["nodeName"].as_str()?;
    let status = pod["status"]["containerStatuses"]
        .as_array()?
        .iter()
        .find(|status| name.is_empty() || status["name"] == name)?;
    if status["state"]["running"].is_null() {
        return None;
    }
    let id = status["containerID"].as_str()?.split("://").nth(1)?;
    Some(Container { node: node.to_owned(), id: id.to_owned() })
}

fn unsupported<T>(what: &str) -> Result<T> {
    bail!(CannotRun(format!(
        "{what} wants a cluster of this harness, kind or the built-in one; this one was given by KUBECONFIG"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_container_is_found() {
        let pod = |state: &str| {
            json!({
                "spec": {"nodeName": "n1"},
                "status": {"containerStatuses": [
                    {"name": "job", "containerID": "containerd://abc", "state": {state: {}}},
                ]},
            })
        };
        let found = Container { node: "n1".into(), id: "abc".into() };
        assert_eq!(find_container(&pod("running"), ""), Some(found.clone()));
        assert_eq!(find_container(&pod("running"), "job"), Some(found));
        assert_eq!(find_container(&pod("running"), "other"), None);
        assert_eq!(find_container(&pod("terminated"), ""), None);
    }
}
