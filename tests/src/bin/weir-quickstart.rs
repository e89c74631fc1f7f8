//! The tour: a cluster, Weir on it, the flights job through kills, a rescale and an upgrade, and the proof that its output is exact.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::{Value, json};
use weir_tests::checkout;
use weir_tests::cluster::Cluster;
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};
use weir_tests::oracle::{Expected, OutputFiles};
use weir_tests::weir_images::{self, flights_input};

const NAMESPACE: &str = "flights";
const SOON: Duration = Duration::from_secs(120);

/// Brings a cluster up, installs Weir, runs the flights job through a kill, a rescale and an upgrade, and checks its output.
///
/// Uses the cluster of KUBECONFIG when that is set, kind when Docker and kind are at hand, and else runs two Kubernetes nodes of
/// its own on this machine (as root). The cluster stays up at the end.
#[derive(Parser)]
#[command(name = "weir-quickstart", version)]
struct Args {
    /// Take the cluster down at the end
    #[arg(long)]
    down: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut tour = Tour { begun: Instant::now(), steps: Vec::new() };
    match run(&args, &mut tour) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe quickstart stopped after {:.0} s: {error:#}", tour.begun.elapsed().as_secs_f64());
            eprintln!(
                "What it made is still there, to look at; `cargo run -p weir-tests --bin weir-cluster -- down` removes it."
            );
            ExitCode::FAILURE
        }
    }
}

/// The steps so far, with their times.
struct Tour {
    begun: Instant,
    steps: Vec<(String, Duration, String)>,
}

impl Tour {
    /// Announces a step, does it, notes how long it took and what came out.
    fn step<T>(&mut self, what: &str, command: &str, act: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        println!("\n[{:>3.0} s] {what}", self.begun.elapsed().as_secs_f64());
        if !command.is_empty() {
            println!("        $ {command}");
        }
        let begun = Instant::now();
        let (value, outcome) = act().with_context(|| what.to_owned())?;
        for line in outcome.lines() {
            println!("        {line}");
        }
        self.steps.push((what.to_owned(), begun.elapsed(), outcome.lines().last().unwrap_or_default().to_owned()));
        Ok(value)
    }

    fn summary(&self) {
        println!("\nSummary");
        let width = self.steps.iter().map(|(what, ..)| what.chars().count()).max().unwrap_or(0);
        for (what, took, outcome) in &self.steps {
            println!("  {what:<width$}  {:>6.1} s  {outcome}", took.as_secs_f64());
        }
        println!("  {:<width$}  {:>6.1} s", "in all", self.begun.elapsed().as_secs_f64());
    }
}

fn run(args: &Args, tour: &mut Tour) -> Result<()> {
    println!(
        "Weir: stateful stream jobs on Kubernetes. This tour takes a few minutes; the first time it also builds what it needs."
    );
    let images = tour.step("Build the operator and the flights job, each alone in an image", "", || {
        let images = weir_images::build()?;
        let size = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
        let sizes =
            format!("operator {}, job {} with its input data", size(images.operator.size), size(images.flights.size));
        Ok((images, sizes))
    })?;
    let cluster = tour.step("Bring a Kubernetes up", "", || {
        let cluster = Cluster::up()?;
        let nodes = format!("{}: nodes {}", cluster.describe(), cluster.nodes()?.join(", "));
        Ok((cluster, nodes))
    })?;
    let kubectl = cluster.kubectl()?;
    tour.step("Install the chart", "helm upgrade --install weir charts/weir", || {
        cluster.install(&images, &[])?;
        Ok(((), "the operator is ready".into()))
    })?;

    // a namespace with a claim that all pods share; it outlives this program
    let namespace = std::mem::ManuallyDrop::new(cluster.namespace(NAMESPACE)?);
    let mut job = FlightsJob::new(&cluster, &namespace, "flights", &images.flights.reference, None)?;
    job.manifest = manifest(&images.flights.reference)?;
    let file = write_manifest(&images.flights.archive, &job.manifest)?;
    let show = || kubectl.run(&["-n", NAMESPACE, "get", "sj"]);
    let watch = job.watch()?;

    let apply = format!(
        "kubectl -n {NAMESPACE} apply -f {} && kubectl -n {NAMESPACE} wait --for=condition=Ready sj/flights",
        file.display()
    );
    tour.step("Apply the flights job and wait until it is ready", &apply, || {
        let begun = Instant::now();
        job.apply()?;
        job.wait_ready(SOON)?;
        let ready = begun.elapsed();
        let first = watch.wait_after(begun, SOON)?;
        Ok((
            (),
            format!(
                "ready after {:.1} s, first committed output after {:.1} s",
                ready.as_secs_f64(),
                first.as_secs_f64()
            ),
        ))
    })?;
    tour.step("Look at it", &format!("kubectl -n {NAMESPACE} get sj,pods"), || {
        std::thread::sleep(Duration::from_secs(3));
        let pods = kubectl.run(&["-n", NAMESPACE, "get", "pods"])?;
        let parts = OutputFiles::of(&job.output()?)?.parts.len();
        Ok(((), format!("{}\n{}\n{parts} output files are committed so far", show()?.trim_end(), pods.trim_end())))
    })?;
    let gap = |begun: Instant| -> Result<String> {
        watch.wait_after(Instant::now(), SOON)?;
        Ok(format!(
            "longest pause of the committed output: {:.1} s",
            watch.longest_gap(begun, Instant::now()).as_secs_f64()
        ))
    };

    tour.step("Kill a taskmanager (SIGKILL of its process)", "", || {
        let (begun, attempt) = (Instant::now(), attempt(&job)?);
        let victim = job.pod(TASK_MANAGER)?;
        job.kill(&victim)?;
        let from = restarted(&job, attempt)?;
        Ok((
            (),
            format!(
                "a process of {} was killed; attempt {} restored {from}\n{}",
                victim.name,
                attempt + 1,
                gap(begun)?
            ),
        ))
    })?;
    tour.step("Kill the jobmanager (SIGKILL of its process)", "", || {
        let (begun, attempt) = (Instant::now(), attempt(&job)?);
        let victim = job.pod(JOB_MANAGER)?;
        job.kill(&victim)?;
        let from = restarted(&job, attempt)?;
        Ok((
            (),
            format!(
                "the process of {} was killed; the one that stood by restored {from}\n{}",
                victim.name,
                gap(begun)?
            ),
        ))
    })?;
    tour.step("Rescale to 3", &format!("kubectl -n {NAMESPACE} scale sj/flights --replicas=3"), || {
        let begun = Instant::now();
        kubectl.scale(NAMESPACE, "sj", "flights", 3)?;
        job.wait_ready(SOON)?;
        let status = job.status()?;
        ensure!(status["parallelism"] == 3, "{status}");
        let from = status["restoredFrom"].as_str().unwrap_or_default().to_owned();
        Ok(((), format!("{}\nrestored {from}\n{}", show()?.trim_end(), gap(begun)?)))
    })?;
    job.manifest["spec"]["parallelism"] = json!(3);
    job.manifest["spec"]["image"] = json!(images.flights_next.reference);
    if let Some(args) = job.manifest["spec"]["args"].as_array_mut() {
        // without its brake the job reads the rest in a moment
        args.retain(|arg| arg != "--rate" && arg != "5000");
    }
    tour.step("Upgrade by savepoint: another image, and no brake any more", "kubectl apply -f ...", || {
        let begun = Instant::now();
        job.apply()?;
        let told = job.wait_event("SavepointCompleted", SOON)?;
        Ok(((), format!("{told}\n{}", gap(begun)?)))
    })?;
    tour.step(
        "Let it finish",
        &format!("kubectl -n {NAMESPACE} wait --for=jsonpath={{.status.phase}}=Finished sj/flights"),
        || {
            job.wait_phase("Finished", SOON)?;
            Ok(((), show()?.trim_end().to_owned()))
        },
    )?;
    tour.step("Check the output against the input, row by row", "", || {
        let expected = Expected::from_file(&flights_input(), 1)?;
        let report = job.check_output(&expected)?;
        Ok((
            (),
            format!("{} rows: lost {}, double {}, wrong {}", report.rows, report.lost, report.double, report.wrong),
        ))
    })?;
    tour.summary();
    if args.down {
        return Cluster::down();
    }
    next_steps(&cluster, &file)
}

fn attempt(job: &FlightsJob<'_>) -> Result<i64> {
    job.status()?["attempt"].as_i64().context("a running job has an attempt")
}

/// Waits until a later attempt runs; returns what it restored.
fn restarted(job: &FlightsJob<'_>, before: i64) -> Result<String> {
    job.wait("the next attempt", SOON, |object| {
        let status = &object["status"];
        (status["attempt"].as_i64()? > before && status["phase"] == "Running")
            .then(|| status["restoredFrom"].as_str().unwrap_or("nothing").to_owned())
    })
}

/// The example's manifest with the image that was built.
fn manifest(image: &str) -> Result<Value> {
    let path = checkout().join("runtime/examples/flights/streamjob.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut manifest: Value = serde_yaml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    manifest["spec"]["image"] = json!(image);
    Ok(manifest)
}

/// Writes the manifest beside the images, for the commands to try.
fn write_manifest(archive: &std::path::Path, manifest: &Value) -> Result<PathBuf> {
    let file = archive.with_file_name("streamjob.yaml");
    std::fs::write(&file, serde_yaml::to_string(manifest)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn next_steps(cluster: &Cluster, manifest: &std::path::Path) -> Result<()> {
    let kubectl = cluster.kubectl()?;
    println!("\nThe cluster stays up. To go on:");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  alias kubectl='{} -n {NAMESPACE}'", kubectl.program().display());
    println!("  kubectl describe sj/flights                     # conditions, and an event for each transition");
    println!("  kubectl delete sj/flights");
    println!(
        "  rm -r {}    # output of the tour; checkpoints of a finished job are gone",
        cluster.shared()?.here.join(NAMESPACE).join("output").display()
    );
    println!("  kubectl apply -f {}", manifest.display());
    println!("  kubectl wait --for=condition=Ready sj/flights && kubectl get sj,pods");
    println!(
        "  kubectl delete sj/flights; kubectl apply -f {}    # resumes from its last checkpoint",
        manifest.display()
    );
    println!("  kubectl patch sj/flights --type=merge -p '{{\"spec\":{{\"state\":\"Suspended\"}}}}'");
    println!("To remove it:");
    println!("  cargo run --release -p weir-tests --bin weir-cluster -- down");
    Ok(())
}
