//! A node is cut off or stopped. What still runs on a node that is cut off reaches the storage: only fencing keeps it from writing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use weir_tests::cluster::Cluster;
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};

use crate::env::{Env, SOON, VERY_SLOW};

/// The control plane notices after 16 s that a node is lost, and moves its pods 2 s later.
const MOVED: Duration = Duration::from_secs(120);

/// Nodes that take no new pods, and nodes that are cut off or stopped: all is well again when it is dropped.
struct Nodes<'a> {
    cluster: &'a Cluster,
    names: Vec<String>,
    stopped: Option<String>,
}

impl<'a> Nodes<'a> {
    fn of(cluster: &'a Cluster) -> Result<Self> {
        cluster.takes_faults()?;
        let names = cluster.nodes()?;
        ensure!(names.len() >= 2, "a node can only be lost where there are two: {names:?}");
        Ok(Self { cluster, names, stopped: None })
    }

    /// New pods go to this node only, until the next call; `None`: to any.
    fn only(&self, node: Option<&str>) -> Result<()> {
        self.names.iter().try_for_each(|name| self.cluster.cordon(name, node.is_some_and(|node| node != name)))
    }

    fn cut_off(&self, node: &str) -> Result<()> {
        self.cluster.cut_off(node)
    }

    fn heal(&self, node: &str) -> Result<()> {
        self.cluster.heal(node)?;
        self.cluster.wait_node_ready(node, SOON)
    }

    fn stop(&mut self, node: &str) -> Result<()> {
        self.stopped = Some(node.to_owned());
        self.cluster.stop_node(node)
    }

    fn start(&mut self) -> Result<()> {
        self.stopped.take().map_or(Ok(()), |node| self.cluster.start_node(&node))
    }
}

impl Drop for Nodes<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.start() {
            eprintln!("a stopped node does not come back: {error:#}");
        }
        for name in &self.names {
            let _ = self.cluster.heal(name);
            let _ = self.cluster.wait_node_ready(name, SOON);
        }
        let _ = self.only(None);
    }
}

/// Waits until the job runs again on other nodes than the lost one, commits, and has lost and doubled nothing.
fn moved(env: &Env, job: &FlightsJob<'_>, lost: &str, attempt: i64, begun: Instant) -> Result<()> {
    job.wait("the job to run elsewhere", MOVED, |object| {
        let status = &object["status"];
        (status["attempt"].as_i64()? > attempt && status["phase"] == "Running").then_some(())
    })?;
    job.wait_output(SOON)?;
    env.note(format!("runs elsewhere {:.1} s after the loss", begun.elapsed().as_secs_f64()));
    let pods = [job.pods(JOB_MANAGER)?, job.pods(TASK_MANAGER)?].concat();
    ensure!(pods.iter().all(|pod| pod.node != lost), "{pods:?} are not on {lost}");
    job.check_so_far(env.expected()?).map(drop)
}

pub fn node_of_the_whole_job_is_cut_off(env: &Env) -> Result<()> {
    let nodes = Nodes::of(env.cluster())?;
    let lost = nodes.names[1].clone();
    nodes.only(Some(&lost))?;
    let mut job = env.running(VERY_SLOW)?;
    nodes.only(None)?;
    let attempt = job.status()?["attempt"].as_i64().unwrap_or_default();
    nodes.cut_off(&lost)?;
    let begun = Instant::now();
    moved(env, &job, &lost, attempt, begun)?;
    // The old jobmanager may still be alive over there: it is fenced, and stays so when it is heard again.
    nodes.heal(&lost)?;
    job.wait_ready(SOON)?;
    job.wait_output(SOON)?;
    job.check_so_far(env.expected()?)?;
    env.hurried(&mut job)
}

pub fn node_of_a_taskmanager_is_stopped(env: &Env) -> Result<()> {
    let mut nodes = Nodes::of(env.cluster())?;
    let (safe, lost) = (nodes.names[0].clone(), nodes.names[1].clone());
    nodes.only(Some(&safe))?;
    let mut job = env.job(VERY_SLOW)?;
    job.spec()["parallelism"] = json!(1);
    job.apply()?;
    job.wait_ready(SOON)?;
    nodes.only(Some(&lost))?;
    job.spec()["parallelism"] = json!(2);
    job.apply()?;
    job.wait_ready(SOON)?;
    nodes.only(None)?;
    ensure!(job.pods(TASK_MANAGER)?.iter().any(|pod| pod.node == lost), "a taskmanager is on {lost}");
    let jobmanager = job.pod(JOB_MANAGER)?;
    let attempt = job.status()?["attempt"].as_i64().unwrap_or_default();
    nodes.stop(&lost)?;
    let begun = Instant::now();
    moved(env, &job, &lost, attempt, begun)?;
    ensure!(job.pod(JOB_MANAGER)? == jobmanager, "the jobmanager is the same");
    nodes.start()?;
    job.wait_ready(SOON)?;
    env.hurried(&mut job)
}

pub fn node_is_cut_off_in_the_middle_of_an_upgrade(env: &Env) -> Result<()> {
    let nodes = Nodes::of(env.cluster())?;
    let (next, lost) = (nodes.names[0].clone(), nodes.names[1].clone());
    nodes.only(Some(&lost))?;
    let mut job = env.running(VERY_SLOW)?;
    // The new generation goes to the other node; the old one is lost while it is asked for its savepoint.
    nodes.only(Some(&next))?;
    job.set_rate(VERY_SLOW + 1)?;
    let generation = job.apply()?;
    job.wait("the next generation to be warmed up", SOON, |object| {
        let step = object["status"]["rollout"]["step"].as_str();
        (step != Some("Preparing")).then_some(())
    })?;
    nodes.cut_off(&lost)?;
    let begun = Instant::now();
    nodes.only(None)?;
    job.wait("the new generation to run", MOVED, |object| {
        let status = &object["status"];
        (status["deployed"]["generation"] == generation && status["phase"] == "Running").then_some(())
    })
    .context("the old generation's node is lost in an upgrade")?;
    job.wait_output(SOON)?;
    env.note(format!("the new generation runs {:.1} s after the loss", begun.elapsed().as_secs_f64()));
    job.check_so_far(env.expected()?)?;
    nodes.heal(&lost)?;
    job.wait_ready(SOON)?;
    job.check_so_far(env.expected()?)?;
    env.hurried(&mut job)
}
