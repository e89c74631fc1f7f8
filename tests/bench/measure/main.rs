//! Measures what a user of the cluster feels: times to readiness, gaps in the committed output, memory, sizes; prints one table.

mod gaps;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use weir_tests::cluster::{Cluster, Namespace, OPERATOR_NAMESPACE, Weir};
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};
use weir_tests::kubectl::Kubectl;
use weir_tests::oracle::Expected;
use weir_tests::poll::wait_for;
use weir_tests::weir_images::{WeirImages, flights_input};

use self::table::{Row, Series};

/// Often enough that the job never ends while it is measured.
const REPEAT: u32 = 1_000;
/// Records per second, as in the baseline.
const RATE: u32 = 10_000;
const SOON: Duration = Duration::from_secs(60);

/// Times, gaps, memory and sizes of Weir on the cluster of the tests.
#[derive(Parser)]
struct Args {
    /// How often each time is measured
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only the measurements whose name contains one of these
    filters: Vec<String>,
    /// Time between two checkpoints: committed output becomes visible once per checkpoint
    #[arg(long, default_value = "100ms")]
    checkpoint_interval: String,
}

/// What the measurements share.
struct Bench {
    args: Args,
    cluster: &'static Cluster,
    images: &'static WeirImages,
    kubectl: Kubectl,
    namespace: Namespace,
    expected: Expected,
}

impl Bench {
    /// A job that runs for ever, not yet applied; its output folder has its name.
    fn job(&self, name: &str) -> Result<FlightsJob<'static>> {
        let mut job = FlightsJob::new(self.cluster, &self.namespace, name, &self.images.flights.reference, Some(RATE))?;
        job.set_args(Some(RATE), REPEAT, name);
        job.spec()["checkpoint"]["interval"] = self.args.checkpoint_interval.clone().into();
        Ok(job)
    }

    fn running(&self, name: &str) -> Result<FlightsJob<'static>> {
        let job = self.job(name)?;
        job.apply()?;
        job.wait_ready(SOON)?;
        job.wait_output(SOON)?;
        Ok(job)
    }

    /// Judges what a job has committed and removes it.
    fn done(&self, job: &FlightsJob<'_>) -> Result<()> {
        let report = job.check_so_far(&self.expected)?;
        eprintln!(
            "  {}: output so far exact: {} rows, holes {}, double {}, wrong {}",
            job.name, report.rows, report.holes, report.double, report.wrong
        );
        job.delete()?;
        job.wait_no_pods(SOON)?;
        std::fs::remove_dir_all(job.output()?).context("cannot remove the output")
    }
}

type Measurement = fn(&Bench) -> Result<Vec<Row>>;

const MEASUREMENTS: &[(&str, Measurement)] = &[
    ("launch", gaps::launch),
    ("steady", gaps::steady),
    ("upgrade-argument", gaps::upgrade_argument),
    ("upgrade-image", gaps::upgrade_image),
    ("rescale", gaps::rescale),
    ("taskmanager-kill", gaps::taskmanager_kill),
    ("jobmanager-kill", gaps::jobmanager_kill),
    ("bad-image", gaps::bad_image),
    ("recreate", gaps::recreate),
    ("memory", memory),
    ("images", images),
];

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weir-measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<bool> {
    let weir = Weir::shared()?;
    let bench = Bench {
        cluster: &weir.cluster,
        images: &weir.images,
        kubectl: weir.cluster.kubectl()?,
        namespace: weir.cluster.namespace("measure")?,
        expected: Expected::from_file(&flights_input(), u64::from(REPEAT))?,
        args,
    };
    let (mut rows, mut well) = (Vec::new(), true);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    for (name, measure) in MEASUREMENTS {
        let filters = &bench.args.filters;
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        eprintln!("{name}");
        match measure(&bench) {
            Ok(found) => rows.extend(found),
            Err(error) => {
                well = false;
                rows.push(Row::failed(name, &format!("{error:#}")));
            }
        }
    }
    table::print(
        &rows,
        &format!(
            "{}. Checkpoint interval {}: committed output becomes visible once per checkpoint, so every gap contains up to one interval \
             (the Flink job wrote without commits). {} records/s, parallelism 2. Median (min-max, n). Load of the machine before and after: {} / {}.",
            bench.cluster.describe(),
            bench.args.checkpoint_interval,
            RATE,
            load.split(' ').next().unwrap_or_default(),
            std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or_default(),
        ),
    );
    Ok(well)
}

const MIB: f64 = 1024.0 * 1024.0;

/// Working sets of the operator and of a small job that has run for a minute.
fn memory(bench: &Bench) -> Result<Vec<Row>> {
    let job = bench.running("memory")?;
    std::thread::sleep(Duration::from_secs(60));
    let of = |namespace: &str, pod: &str| {
        wait_for("a measurement of memory", SOON, Duration::from_secs(1), || bench.kubectl.pod_memory(namespace, pod))
    };
    let operator = bench.cluster.operator_pods()?;
    let operator = operator.first().context("an operator runs")?;
    let operator = of(OPERATOR_NAMESPACE, operator)? as f64 / MIB;
    let mut parts = vec![of(&bench.namespace.name, &job.pod(JOB_MANAGER)?.name)? as f64 / MIB];
    for pod in job.pods(TASK_MANAGER)? {
        parts.push(of(&bench.namespace.name, &pod.name)? as f64 / MIB);
    }
    bench.done(&job)?;
    let each: Vec<String> = parts.iter().map(|part| format!("{part:.0}")).collect();
    Ok(vec![
        Row::new("memory (working set): operator", "347 MiB", "40 MiB", "20 MiB", format!("{operator:.0} MiB")),
        Row::new(
            "memory: jobmanager + 2 taskmanagers",
            "1.6 GiB",
            "120 MiB",
            "60 MiB",
            format!("{:.0} MiB ({})", parts.iter().sum::<f64>(), each.join(" + ")),
        ),
    ])
}

fn images(bench: &Bench) -> Result<Vec<Row>> {
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let input = std::fs::metadata(flights_input())?.len();
    Ok(vec![
        Row::new(
            "image: runtime with job (without its input data)",
            "641 MB",
            "60 MB",
            "30 MB",
            megabytes(bench.images.flights.size.saturating_sub(input)),
        ),
        Row::new("image: operator", "424 MB", "40 MB", "20 MB", megabytes(bench.images.operator.size)),
    ])
}
