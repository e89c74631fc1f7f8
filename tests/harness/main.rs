//! The cluster itself, tested for real: both nodes run pods that find each other, and every fault does what it says.
//!
//! One at a time: the faults hit whole nodes, so nothing else may run on the cluster meanwhile.

mod lifecycle;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weir_tests::cluster::{Cluster, Namespace};
use weir_tests::image::{ImageSpec, build_image, own_binary};
use weir_tests::kubectl::Kubectl;
use weir_tests::poll::wait_until;
use weir_tests::suite::{self, trial};
use weir_tests::trials;

const PODS: usize = 4;
const SOON: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let trials = trials!(
        trial:
        pods_on_both_nodes_work_together,
        faults_hit_what_they_name,
        lifecycle::a_killed_start_is_no_obstacle_and_down_leaves_nothing,
    );
    suite::main(trials.into(), 1)
}

fn pods_on_both_nodes_work_together() -> Result<()> {
    Cluster::can_run_jobs()?;
    let cluster = Cluster::up()?;
    let kubectl = cluster.kubectl()?;
    let nodes = cluster.nodes()?;
    ensure!(nodes.len() >= 2, "two nodes run pods: {nodes:?}");
    let namespace = cluster.namespace("harness")?;
    let (image, pods) = deploy(&cluster, &namespace)?;
    service_is_reached_by_name_from_all_pods(&kubectl, &namespace, &pods)?;
    pods_and_this_machine_share_a_folder(&kubectl, &namespace, &pods)?;
    port_forward_reaches_a_pod(&kubectl, &namespace, &pods[0])?;
    bare_pods_are_refused(&kubectl, &namespace, &image)?;
    memory_is_measured(&kubectl, &namespace, &pods[0])
}

fn faults_hit_what_they_name() -> Result<()> {
    Cluster::can_run_jobs()?;
    let cluster = Cluster::up()?;
    cluster.takes_faults()?;
    let nodes = cluster.nodes()?;
    let namespace = cluster.namespace("harness-faults")?;
    let (_, pods) = deploy(&cluster, &namespace)?;
    a_frozen_container_answers_once_it_thaws(&cluster, &namespace, &pods)?;
    a_killed_container_starts_again(&cluster, &namespace, &pods[0])?;
    a_node_that_is_cut_off_is_lost_until_it_is_healed(&cluster, &nodes[1])?;
    a_stopped_node_comes_back(&cluster, &namespace, &nodes[1])
}

/// Pods on all nodes that answer HTTP; returns their image and their names.
fn deploy(cluster: &Cluster, namespace: &Namespace) -> Result<(String, Vec<String>)> {
    let dir = tempfile::tempdir()?;
    let probe = own_binary("weir-probe")?;
    let image = build_image(&ImageSpec::new("weir.test/probe", &probe).args(["serve", "8080"]), dir.path())?;
    cluster.load(&[&image.archive])?;
    let kubectl = cluster.kubectl()?;
    kubectl.apply(&namespace.name, &web(&image.reference, namespace).to_string())?;
    let pods = kubectl.wait_pods(&namespace.name, "app=web", PODS, SOON)?;
    Ok((image.reference, pods))
}

fn service_is_reached_by_name_from_all_pods(kubectl: &Kubectl, namespace: &Namespace, pods: &[String]) -> Result<()> {
    let url = format!("http://web.{}.svc.cluster.local/", namespace.name);
    for pod in pods {
        // Every pod answers in the end, also on the caller's own node and the caller itself.
        let mut seen = std::collections::BTreeSet::new();
        wait_until("every pod to answer by the service's name", SOON, Duration::ZERO, || {
            seen.insert(kubectl.exec(&namespace.name, pod, &["/weir-probe", "get", &url])?.trim().to_owned());
            Ok(seen.len() == PODS)
        })?;
        ensure!(pods.iter().all(|pod| seen.contains(pod)), "{seen:?} answered, not {pods:?}");
    }
    let log = kubectl.logs(&namespace.name, &pods[0], false)?;
    ensure!(log.contains("answered"), "the log of a pod: {log:?}");
    Ok(())
}

fn pods_and_this_machine_share_a_folder(kubectl: &Kubectl, namespace: &Namespace, pods: &[String]) -> Result<()> {
    for pod in pods {
        kubectl.exec(&namespace.name, pod, &["/weir-probe", "write", &format!("/shared/{pod}"), pod])?;
        let here = std::fs::read_to_string(namespace.shared.join(pod)).context("what a pod wrote")?;
        ensure!(&here == pod, "{here:?} is what {pod} wrote");
    }
    Ok(())
}

fn port_forward_reaches_a_pod(kubectl: &Kubectl, namespace: &Namespace, pod: &str) -> Result<()> {
    let way = kubectl.port_forward(&namespace.name, &format!("pod/{pod}"), 8080)?;
    let mut stream = TcpStream::connect(("127.0.0.1", way.port))?;
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    // The forwarder may end the connection hard once everything is through: read no further than the wanted line.
    let found = BufReader::new(stream).lines().map_while(|line| line.ok()).any(|line| line == pod);
    ensure!(found, "no answer from {pod} came through the forwarded port");
    Ok(())
}

fn bare_pods_are_refused(kubectl: &Kubectl, namespace: &Namespace, image: &str) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare"},
        "spec": {"containers": [{"name": "bare", "image": image}]},
    });
    let words = kubectl.apply_refused(&namespace.name, &pod.to_string())?;
    ensure!(words.contains("restricted"), "{words}");
    Ok(())
}

fn a_frozen_container_answers_once_it_thaws(cluster: &Cluster, namespace: &Namespace, pods: &[String]) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    let pod = kubectl.get(&namespace.name, "pod", &pods[0])?;
    let address = pod["status"]["podIP"].as_str().context("a running pod has an address")?;
    let url = format!("http://{address}:8080/");
    let get = || kubectl.exec(&namespace.name, &pods[1], &["/weir-probe", "get", &url]);
    let paused = cluster.pause(cluster.container(&namespace.name, &pods[0], "web")?)?;
    ensure!(get().is_err(), "a frozen container answers");
    drop(paused);
    ensure!(get()?.trim() == pods[0], "it answers again");
    Ok(())
}

fn memory_is_measured(kubectl: &Kubectl, namespace: &Namespace, pod: &str) -> Result<()> {
    wait_until("a measurement of a pod's memory", SOON, OFTEN, || {
        Ok(kubectl.pod_memory(&namespace.name, pod)?.is_some_and(|bytes| bytes > 0))
    })
}

fn a_killed_container_starts_again(cluster: &Cluster, namespace: &Namespace, pod: &str) -> Result<()> {
    let before = cluster.container(&namespace.name, pod, "web")?;
    cluster.kill(&before)?;
    wait_until("another container in place of the killed one", SOON, OFTEN, || {
        Ok(cluster.container(&namespace.name, pod, "web")? != before)
    })?;
    let object = cluster.kubectl()?.get(&namespace.name, "pod", pod)?;
    let ended = &object["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"];
    ensure!(ended == 137, "it ended by SIGKILL: {ended}");
    ensure!(cluster.kill(&before).is_err(), "the killed container is not there to be killed again");
    Ok(())
}

fn a_node_that_is_cut_off_is_lost_until_it_is_healed(cluster: &Cluster, node: &str) -> Result<()> {
    cluster.cut_off(node)?;
    cluster.wait_node_lost(node, SOON)?;
    cluster.heal(node)?;
    cluster.wait_node_ready(node, SOON)
}

fn a_stopped_node_comes_back(cluster: &Cluster, namespace: &Namespace, node: &str) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    let before = containers(&kubectl, namespace, node)?;
    ensure!(!before.is_empty(), "node {node} runs pods");
    cluster.stop_node(node)?;
    cluster.wait_node_lost(node, SOON)?;
    ensure!(cluster.check().is_err(), "a cluster with a stopped node is not fit for use");
    cluster.start_node(node)?;
    kubectl.wait_pods(&namespace.name, "app=web", PODS, SOON)?;
    wait_until("other containers on the node that was stopped", SOON, OFTEN, || {
        let now = containers(&kubectl, namespace, node)?;
        Ok(!now.is_empty() && now.iter().all(|id| !before.contains(id)))
    })?;
    kubectl.wait_pods(&namespace.name, "app=web", PODS, SOON)?;
    cluster.check()
}

fn containers(kubectl: &Kubectl, namespace: &Namespace, node: &str) -> Result<Vec<String>> {
    let pods = kubectl.list(&namespace.name, "pods", "app=web")?;
    Ok(pods
        .iter()
        .filter(|pod| pod["spec"]["nodeName"] == node)
        .filter_map(|pod| pod["status"]["containerStatuses"][0]["containerID"].as_str().map(str::to_owned))
        .collect())
}

/// A deployment that is spread over the nodes, under the restricted standard, with a service before it.
fn web(image: &str, namespace: &Namespace) -> Value {
    let pod = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}},
        }],
        "containers": [{
            "name": "web",
            "image": image,
            "imagePullPolicy": "Never",
            "resources": {"limits": {"memory": "64Mi", "cpu": "200m"}},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
        }],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": namespace.claim()}}],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {
                "replicas": PODS,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]})
}
