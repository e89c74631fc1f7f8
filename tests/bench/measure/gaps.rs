//! Times to readiness and gaps in the committed output.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use weir_tests::job::{FlightsJob, JOB_MANAGER, TASK_MANAGER};
use weir_tests::oracle::OutputWatch;

use super::{Bench, Row, SOON, Series};

/// Between two disturbances: what the one before left (pods that end) must not weigh on the next.
const REST: Duration = Duration::from_secs(4);
/// How long the output is watched once all is well again.
const AFTER: Duration = Duration::from_secs(2);

/// The longest gap from `begun` until the output flows again.
fn gap(watch: &OutputWatch, begun: Instant) -> Result<Duration> {
    watch.wait_after(Instant::now(), SOON)?;
    std::thread::sleep(AFTER);
    Ok(watch.longest_gap(begun, Instant::now()))
}

pub fn launch(bench: &Bench) -> Result<Vec<Row>> {
    let (mut ready, mut record) = (Series::default(), Series::default());
    for run in 0..bench.args.runs {
        let job = bench.job(&format!("launch-{run}"))?;
        let watch = job.watch()?;
        let begun = Instant::now();
        job.kubectl.apply(&job.namespace, &job.manifest.to_string())?;
        job.wait_ready(SOON)?;
        ready.push(begun.elapsed());
        record.push(watch.wait_after(begun, SOON)?);
        bench.done(&job)?;
        std::thread::sleep(REST);
    }
    Ok(vec![
        Row::new("kubectl apply -> Ready", "38 s", "5 s", "3 s", ready),
        Row::new("kubectl apply -> first committed record", "19 s", "5 s", "3 s", record),
    ])
}

/// What the others must be compared with: the longest gap of a job that nothing happens to.
pub fn steady(bench: &Bench) -> Result<Vec<Row>> {
    let job = bench.running("steady")?;
    let mut gaps = Series::default();
    for _ in 0..bench.args.runs {
        let watch = job.watch()?;
        let begun = Instant::now();
        std::thread::sleep(Duration::from_secs(5));
        gaps.push(watch.longest_gap(begun, Instant::now()));
    }
    bench.done(&job)?;
    Ok(vec![Row::new("no disturbance: longest gap in 5 s", "", "", "", gaps)])
}

fn upgrade(
    bench: &Bench,
    name: &str,
    change: impl Fn(&mut FlightsJob<'_>, usize) -> Result<()>,
) -> Result<(Series, Series)> {
    let mut job = bench.running(name)?;
    let (mut gaps, mut ready) = (Series::default(), Series::default());
    for run in 0..bench.args.runs {
        change(&mut job, run)?;
        std::thread::sleep(REST);
        let watch = job.watch()?;
        let begun = Instant::now();
        let generation = job.apply()?;
        job.wait_ready(SOON)?;
        ready.push(begun.elapsed());
        gaps.push(gap(&watch, begun)?);
        ensure!(job.status()?["deployed"]["generation"] == generation, "{}", job.status()?);
        ensure!(
            job.status()?["restoredFrom"].as_str().is_some_and(|path| path.contains("savepoint")),
            "{}",
            job.status()?
        );
    }
    bench.done(&job)?;
    Ok((gaps, ready))
}

pub fn upgrade_argument(bench: &Bench) -> Result<Vec<Row>> {
    let (gaps, ready) = upgrade(bench, "argument", |job, run| job.set_rate(super::RATE + 1 + u32::try_from(run)?))?;
    Ok(vec![
        Row::new("savepoint upgrade, argument changed: longest gap", "24 s", "6 s", "2 s", gaps),
        Row::new("... kubectl apply -> Ready", "42 s", "", "", ready),
    ])
}

pub fn upgrade_image(bench: &Bench) -> Result<Vec<Row>> {
    let (gaps, _) = upgrade(bench, "image", |job, run| {
        let images = [&bench.images.flights_next, &bench.images.flights];
        job.spec()["image"] = json!(images[run % 2].reference);
        Ok(())
    })?;
    Ok(vec![Row::new("savepoint upgrade, image changed: longest gap", "24 s", "6 s", "2 s", gaps)])
}

pub fn rescale(bench: &Bench) -> Result<Vec<Row>> {
    let job = bench.running("rescale")?;
    let (mut up, mut down) = (Series::default(), Series::default());
    for _ in 0..bench.args.runs {
        for (replicas, series) in [(3, &mut up), (2, &mut down)] {
            std::thread::sleep(REST);
            let watch = job.watch()?;
            let begun = Instant::now();
            bench.kubectl.scale(&job.namespace, "sj", &job.name, replicas)?;
            job.wait_ready(SOON)?;
            series.push(gap(&watch, begun)?);
            ensure!(job.status()?["parallelism"] == replicas, "{}", job.status()?);
        }
    }
    bench.done(&job)?;
    Ok(vec![
        Row::new("kubectl scale 2 -> 3, through a checkpoint: gap", "29 s", "6 s", "2 s", up),
        Row::new("kubectl scale 3 -> 2: gap", "24.5 s", "", "", down),
    ])
}

/// Kills the first pod of a role; returns the longest gap until the next attempt runs and commits.
fn kill(bench: &Bench, job: &FlightsJob<'_>, role: &str) -> Result<Duration> {
    let before = job.status()?["attempt"].as_i64().unwrap_or_default();
    let victim = bench.cluster.working_container(&job.namespace, &job.pod(role)?.name)?;
    let watch = job.watch()?;
    let begun = Instant::now();
    bench.cluster.kill(&victim)?;
    job.wait("the next attempt", SOON, |object| {
        (object["status"]["attempt"].as_i64()? > before && object["status"]["phase"] == "Running").then_some(())
    })?;
    gap(&watch, begun)
}

pub fn taskmanager_kill(bench: &Bench) -> Result<Vec<Row>> {
    let job = bench.running("taskmanager")?;
    let mut gaps = Series::default();
    for _ in 0..bench.args.runs {
        std::thread::sleep(REST);
        gaps.push(kill(bench, &job, TASK_MANAGER)?);
        job.wait_ready(SOON)?;
    }
    bench.done(&job)?;
    Ok(vec![Row::new("taskmanager SIGKILL: gap until new records", "7.6 s", "3 s", "1 s", gaps)])
}

pub fn jobmanager_kill(bench: &Bench) -> Result<Vec<Row>> {
    let mut gaps = [Series::default(), Series::default(), Series::default()];
    for run in 0..bench.args.runs {
        let job = bench.running(&format!("jobmanager-{run}"))?;
        for series in &mut gaps {
            std::thread::sleep(REST);
            series.push(kill(bench, &job, JOB_MANAGER)?);
            job.wait_ready(SOON)?;
        }
        bench.done(&job)?;
    }
    let flink = ["1.3 s (4.3 s)", "1.3 s (18 s)", "1.7 s (31 s)"];
    let rows = gaps.iter().zip(flink).enumerate().map(|(index, (series, flink))| {
        let what = format!("jobmanager SIGKILL, number {} within minutes: gap", index + 1);
        Row::new(&what, flink, "3 s", "1 s", series)
    });
    Ok(rows.collect())
}

pub fn bad_image(bench: &Bench) -> Result<Vec<Row>> {
    let mut job = bench.running("bad-image")?;
    let good = job.manifest.clone();
    let (mut gaps, mut named) = (Series::default(), Series::default());
    let attempt = job.status()?["attempt"].clone();
    for run in 0..bench.args.runs {
        let watch = job.watch()?;
        let begun = Instant::now();
        job.spec()["image"] = json!(format!("registry.invalid/no-such-image:{run}"));
        job.apply()?;
        job.wait_condition("Degraded", &["ErrImagePull", "ImagePullBackOff"], SOON)?;
        named.push(begun.elapsed());
        std::thread::sleep(Duration::from_secs(10));
        gaps.push(watch.longest_gap(begun, Instant::now()));
        job.manifest = good.clone();
        job.apply()?;
        job.wait_ready(SOON)?;
    }
    ensure!(job.status()?["attempt"] == attempt, "the old generation was restarted");
    bench.done(&job)?;
    Ok(vec![
        Row::new(
            "bad image in an upgrade: longest gap (compare: no disturbance)",
            "for ever; 330 s with rollback on",
            "0",
            "0",
            gaps,
        ),
        Row::new("... kubectl apply -> named in a condition", "9 s", "10 s", "", named),
    ])
}

pub fn recreate(bench: &Bench) -> Result<Vec<Row>> {
    let mut resumed = 0;
    let job = bench.running("recreate")?;
    for _ in 0..bench.args.runs {
        job.wait("a checkpoint", SOON, |object| object["status"]["lastCheckpoint"]["id"].as_i64())?;
        job.delete()?;
        job.apply()?;
        job.wait_ready(SOON)?;
        job.wait_output(SOON)?;
        resumed += usize::from(job.status()?["restoredFrom"].is_string());
    }
    bench.done(&job)?;
    let measured = format!("resumes ({resumed} of {}, output exact)", bench.args.runs);
    Ok(vec![Row::new("delete and re-create with the same name", "starts empty", "resumes", "resumes", measured)])
}
