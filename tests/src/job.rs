//! The flights example as a `StreamJob` on a cluster: its manifest, waiting for what its status says, its pods and its output.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cluster::faults::Container;
use crate::cluster::{Cluster, Namespace};
use crate::kubectl::Kubectl;
use crate::oracle::{self, Expected, Order, OutputWatch, Report};
use crate::poll::{wait_for, wait_until};
use crate::weir_images::FLIGHTS_INPUT;

/// Where the shared folder of the namespace is mounted in the job's pods.
const MOUNT: &str = "/shared";
const OFTEN: Duration = Duration::from_millis(100);

/// The two kinds of process of a job, as their pods are labelled.
pub const JOB_MANAGER: &str = "jobmanager";
pub const TASK_MANAGER: &str = "taskmanager";

/// A pod of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPod {
    pub name: String,
    pub uid: String,
    pub node: String,
    /// Which generation of the spec it belongs to.
    pub generation: i64,
}

/// A flights job in a namespace.
///
/// [`FlightsJob::manifest`] is what the user holds in his file: change it, then apply it.
#[derive(Debug)]
pub struct FlightsJob<'a> {
    pub cluster: &'a Cluster,
    pub kubectl: Kubectl,
    pub namespace: String,
    pub name: String,
    pub manifest: Value,
    shared: PathBuf,
}

impl<'a> FlightsJob<'a> {
    /// A job of parallelism 2 that reads `rate` records per second (`None`: as fast as they go) and checkpoints every 200 ms; not yet applied.
    pub fn new(
        cluster: &'a Cluster,
        namespace: &Namespace,
        name: &str,
        image: &str,
        rate: Option<u32>,
    ) -> Result<Self> {
        let pod = json!({
            "spec": {
                "containers": [{"name": "weir", "volumeMounts": [{"name": "shared", "mountPath": MOUNT}]}],
                "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": namespace.claim()}}],
            },
        });
        let process =
            |memory: &str| json!({"resources": {"requests": {"cpu": "10m", "memory": memory}}, "podTemplate": pod});
        let mut job = Self {
            cluster,
            kubectl: cluster.kubectl()?,
            namespace: namespace.name.clone(),
            name: name.to_owned(),
            manifest: json!({
                "apiVersion": "weir.dev/v1alpha1",
                "kind": "StreamJob",
                "metadata": {"name": name},
                "spec": {
                    "image": image,
                    "parallelism": 2,
                    "checkpoint": {"storage": format!("file://{MOUNT}/checkpoints"), "interval": "200ms"},
                    "jobManager": process("16Mi"),
                    "taskManager": process("24Mi"),
                },
            }),
            shared: namespace.shared.clone(),
        };
        job.set_args(rate, 1, "out");
        Ok(job)
    }

    /// Sets the job's arguments; `output` is a folder below the shared one.
    pub fn set_args(&mut self, rate: Option<u32>, repeat: u32, output: &str) {
        let mut args = vec![
            "--input".to_owned(),
            FLIGHTS_INPUT.to_owned(),
            "--output".to_owned(),
            format!("{MOUNT}/{output}"),
            "--repeat".to_owned(),
            repeat.to_string(),
        ];
        if let Some(rate) = rate {
            args.extend(["--rate".to_owned(), rate.to_string()]);
        }
        self.manifest["spec"]["args"] = json!(args);
    }

    /// Replaces the value of `--rate`, a change that needs an upgrade.
    pub fn set_rate(&mut self, rate: u32) -> Result<()> {
        let args = self.manifest["spec"]["args"].as_array_mut().context("the manifest has arguments")?;
        let at = args.iter().position(|arg| arg == "--rate").context("the arguments have a rate")?;
        args[at + 1] = json!(rate.to_string());
        Ok(())
    }

    pub fn spec(&mut self) -> &mut Value {
        &mut self.manifest["spec"]
    }

    /// `kubectl apply` of the manifest; returns the generation that it made.
    pub fn apply(&self) -> Result<i64> {
        self.kubectl.apply(&self.namespace, &self.manifest.to_string())?;
        self.get()?["metadata"]["generation"].as_i64().context("an applied object has a generation")
    }

    /// The resource as it is now.
    pub fn get(&self) -> Result<Value> {
        self.kubectl.get(&self.namespace, "streamjob", &self.name)
    }

    /// Its status as it is now.
    pub fn status(&self) -> Result<Value> {
        Ok(self.get()?["status"].clone())
    }

    /// `kubectl wait --for=condition=Ready`.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        self.kubectl_wait("condition=Ready", limit)
    }

    /// Waits for a phase.
    pub fn wait_phase(&self, phase: &str, limit: Duration) -> Result<()> {
        self.kubectl_wait(&format!("jsonpath={{.status.phase}}={phase}"), limit)
    }

    fn kubectl_wait(&self, what: &str, limit: Duration) -> Result<()> {
        self.kubectl
            .wait(&self.namespace, &format!("streamjob/{}", self.name), what, limit)
            .with_context(|| self.in_short().unwrap_or_default())
    }

    /// Polls the resource until `test` finds in it what it looks for.
    pub fn wait<T>(&self, what: &str, limit: Duration, mut test: impl FnMut(&Value) -> Option<T>) -> Result<T> {
        wait_for(what, limit, OFTEN, || Ok(test(&self.get()?))).with_context(|| self.in_short().unwrap_or_default())
    }

    /// Waits for a condition to be true with one of the given reasons (none given: any); returns reason and message.
    pub fn wait_condition(&self, kind: &str, reasons: &[&str], limit: Duration) -> Result<(String, String)> {
        self.wait(&format!("condition {kind} of {} for {reasons:?}", self.name), limit, |object| {
            let (reason, message) = true_condition(object, kind)?;
            (reasons.is_empty() || reasons.contains(&reason.as_str())).then_some((reason, message))
        })
    }

    /// Phase, reason and conditions in a few lines, for error messages.
    pub fn in_short(&self) -> Result<String> {
        let status = self.status()?;
        let mut text =
            format!("{}: phase {}, reason {}, {}", self.name, status["phase"], status["reason"], status["message"]);
        for condition in status["conditions"].as_array().into_iter().flatten() {
            let field = |name: &str| condition[name].as_str().unwrap_or_default();
            text += &format!(
                "\n  {}={} (generation {}) {}: {}",
                field("type"),
                field("status"),
                condition["observedGeneration"],
                field("reason"),
                field("message")
            );
        }
        Ok(text)
    }

    /// The pods of a role that are not about to go.
    pub fn pods(&self, role: &str) -> Result<Vec<JobPod>> {
        let selector = format!("weir.dev/job={},weir.dev/role={role}", self.name);
        let pods = self.kubectl.list(&self.namespace, "pods", &selector)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| JobPod {
                name: text(&pod["metadata"]["name"]),
                uid: text(&pod["metadata"]["uid"]),
                node: text(&pod["spec"]["nodeName"]),
                generation: text(&pod["metadata"]["labels"]["weir.dev/generation"]).parse().unwrap_or(-1),
            })
            .collect())
    }

    /// The first pod of a role.
    pub fn pod(&self, role: &str) -> Result<JobPod> {
        self.pods(role)?.into_iter().next().with_context(|| format!("{} has no {role} pod", self.name))
    }

    /// The uids of all pods, sorted: equal means that no pod was replaced.
    pub fn pod_uids(&self) -> Result<Vec<String>> {
        let mut uids: Vec<_> =
            self.pods(JOB_MANAGER)?.into_iter().chain(self.pods(TASK_MANAGER)?).map(|pod| pod.uid).collect();
        uids.sort();
        Ok(uids)
    }

    /// Waits until no pod of the job is left.
    pub fn wait_no_pods(&self, limit: Duration) -> Result<()> {
        let selector = format!("weir.dev/job={}", self.name);
        wait_until(&format!("the pods of {} to go", self.name), limit, OFTEN, || {
            Ok(self.kubectl.list(&self.namespace, "pods", &selector)?.is_empty())
        })
    }

    /// SIGKILLs the process of a pod that works; the one that stands by takes over.
    pub fn kill(&self, pod: &JobPod) -> Result<()> {
        self.cluster.kill(&self.cluster.working_container(&self.namespace, &pod.name)?)
    }

    /// The containers of a pod: the one that works and the one that stands by.
    pub fn containers(&self, pod: &JobPod) -> Result<Vec<Container>> {
        ["weir", "weir-standby"].iter().map(|name| self.cluster.container(&self.namespace, &pod.name, name)).collect()
    }

    /// Deletes the resource and waits until it is gone.
    pub fn delete(&self) -> Result<()> {
        self.kubectl.delete(&self.namespace, "streamjob", &self.name)
    }

    /// (reason, message) of the events of the resource, oldest first.
    pub fn events(&self) -> Result<Vec<(String, String)>> {
        self.kubectl.events(&self.namespace, &self.name)
    }

    /// Waits for an event; returns the message of the last one of that reason.
    pub fn wait_event(&self, reason: &str, limit: Duration) -> Result<String> {
        wait_for(&format!("event {reason} of {}", self.name), limit, OFTEN, || {
            Ok(self.events()?.into_iter().rev().find(|(found, _)| found == reason).map(|(_, message)| message))
        })
    }

    /// The shared folder of the namespace, as this machine sees it.
    pub fn shared(&self) -> &Path {
        &self.shared
    }

    /// The output folder, as this machine sees it.
    pub fn output(&self) -> Result<PathBuf> {
        let args = self.manifest["spec"]["args"].as_array().context("the manifest has arguments")?;
        let inside = args
            .iter()
            .skip_while(|arg| *arg != "--output")
            .nth(1)
            .and_then(Value::as_str)
            .context("the arguments have an output")?;
        let below = inside.strip_prefix(MOUNT).context("the output is in the shared folder")?;
        Ok(self.shared.join(below.trim_start_matches('/')))
    }

    /// The job's folder in the checkpoint storage, as this machine sees it.
    pub fn checkpoints(&self) -> PathBuf {
        self.shared.join("checkpoints").join(&self.namespace).join(&self.name)
    }

    pub fn watch(&self) -> Result<OutputWatch> {
        OutputWatch::start(&self.output()?)
    }

    /// Waits until output that was committed after this call is visible.
    pub fn wait_output(&self, limit: Duration) -> Result<Duration> {
        self.watch()?.wait_after(Instant::now(), limit)
    }

    /// Judges the output of a job that still runs.
    pub fn check_so_far(&self, expected: &Expected) -> Result<Report> {
        let report = oracle::check(&self.output()?, expected, Order::Kept)?;
        report.must_be_exact_so_far()?;
        Ok(report)
    }

    /// Waits until the job has finished and its output is complete and right; returns the verdict.
    pub fn finish(&self, expected: &Expected, limit: Duration) -> Result<Report> {
        self.wait_phase("Finished", limit)?;
        self.check_output(expected)
    }

    /// Judges the output of a job that has ended.
    pub fn check_output(&self, expected: &Expected) -> Result<Report> {
        let report = oracle::check(&self.output()?, expected, Order::Kept)?;
        report.must_be_exact()?;
        if report.hidden > 0 {
            bail!("a finished job left uncommitted files: {report}");
        }
        Ok(report)
    }
}

/// Reason and message of a condition of an object, if it is true.
pub fn true_condition(object: &Value, kind: &str) -> Option<(String, String)> {
    let found = object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind && condition["status"] == "True")?;
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    Some((text("reason"), text("message")))
}
