//! Metrics of the job: Flink's names at `/jobs/:id/metrics`, Prometheus' text at `/metrics`. Pure.
use super::bodies::vertex_counters;
use crate::control::TaskCounters;
use crate::jobmanager::master::Master;
use crate::observe::exposition::{Exposition, Kind};
use weir_api::rest::Millis;
use weir_api::rest::details::MetricValue;
use weir_api::status::JobState;

/// Name and value of each metric of the job. Times in milliseconds, sizes in bytes.
fn values(m: &Master, now: Millis) -> Vec<(&'static str, String)> {
    let s = m.checkpoints();
    let last = s.latest_completed.as_ref();
    let running = m.lifecycle().entered(JobState::Running);
    let up = if m.state() == JobState::Running { now - running } else { 0 };
    let down =
        if matches!(m.state(), JobState::Restarting | JobState::Failing) { now - m.lifecycle().since() } else { 0 };
    vec![
        ("numRestarts", m.restarts().to_string()),
        ("fullRestarts", m.restarts().to_string()),
        ("uptime", up.to_string()),
        ("downtime", down.to_string()),
        ("totalNumberOfCheckpoints", s.counts.total.to_string()),
        ("numberOfInProgressCheckpoints", s.counts.in_progress.to_string()),
        ("numberOfCompletedCheckpoints", s.counts.completed.to_string()),
        ("numberOfFailedCheckpoints", s.counts.failed.to_string()),
        ("lastCheckpointSize", last.map_or(-1, |c| c.size_bytes as i64).to_string()),
        ("lastCheckpointDuration", last.map_or(-1, |c| c.duration_ms as i64).to_string()),
        ("lastCompletedCheckpointId", last.map_or(-1, |c| c.id.0 as i64).to_string()),
        (
            "lastCheckpointCompletedTimestamp",
            last.map_or(-1, |c| c.triggered_at + i64::try_from(c.duration_ms).unwrap_or(0)).to_string(),
        ),
        (
            "lastCheckpointExternalPath",
            last.and_then(|c| c.path.as_deref()).map_or("n/a".into(), |p| m.snapshot_name(p)),
        ),
        ("lastCheckpointRestoreTimestamp", s.restored.as_ref().map_or(-1, |r| r.at).to_string()),
    ]
}

/// All names, or those of `get` (separated by commas) with their values.
pub fn job_metrics(m: &Master, now: Millis, get: Option<&str>) -> Vec<MetricValue> {
    let all = values(m, now).into_iter();
    match get {
        None => all.map(|(id, _)| MetricValue { id: id.into(), value: None }).collect(),
        Some(names) => all
            .filter(|(id, _)| names.split(',').any(|n| n.trim() == *id))
            .map(|(id, v)| MetricValue { id: id.into(), value: Some(v) })
            .collect(),
    }
}

/// The page of `/metrics`.
pub fn exposition(m: &Master, now: Millis) -> String {
    let mut e = Exposition::default();
    let job = &m.config().job;
    let labels = [("namespace", job.namespace.as_str()), ("job", job.name.as_str())];
    let mut one = |name: &str, kind, help: &str, value: f64| {
        e.metric(name, kind, help).sample(&labels, value);
    };
    let s = m.checkpoints();
    let last = s.latest_completed.as_ref();
    let running = m.state() == JobState::Running;
    let counters = [
        ("weir_job_restarts_total", "Restarts since this process started the job.", m.restarts()),
        ("weir_checkpoints_completed_total", "Completed checkpoints and savepoints.", s.counts.completed),
        ("weir_checkpoints_failed_total", "Failed checkpoints and savepoints.", s.counts.failed),
    ];
    for (name, help, value) in counters {
        one(name, Kind::Counter, help, value as f64);
    }
    let gauges = [
        ("weir_job_running", "1 while the job's state is RUNNING.", f64::from(u8::from(running))),
        ("weir_job_attempt", "Number of the current attempt.", m.attempt().0 as f64),
        ("weir_job_parallelism", "Parallelism of the current attempt.", f64::from(m.status().parallelism)),
        ("weir_taskmanagers", "Registered taskmanagers.", m.registry().len() as f64),
        ("weir_slots", "Registered slots.", f64::from(m.registry().slots())),
        (
            "weir_checkpoint_last_duration_seconds",
            "Of the last completed one.",
            last.map_or(0.0, |c| c.duration_ms as f64 / 1e3),
        ),
        ("weir_checkpoint_last_size_bytes", "Of the last completed one.", last.map_or(0.0, |c| c.size_bytes as f64)),
        (
            "weir_checkpoint_last_age_seconds",
            "Since the last completed one was triggered.",
            last.map_or(0.0, |c| (now - c.triggered_at) as f64 / 1e3),
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory of the jobmanager.",
            crate::observe::resident_bytes() as f64,
        ),
    ];
    for (name, help, value) in gauges {
        one(name, Kind::Gauge, help, value);
    }
    let per_vertex: [(&str, &str, fn(TaskCounters) -> f64); 9] = [
        ("weir_task_records_in_total", "Records taken.", |c| c.records_in as f64),
        ("weir_task_records_out_total", "Records emitted.", |c| c.records_out as f64),
        ("weir_task_bytes_in_total", "Bytes read from files and received from other taskmanagers.", |c| {
            c.bytes_in as f64
        }),
        ("weir_task_bytes_out_total", "Bytes written to files and sent to other taskmanagers.", |c| c.bytes_out as f64),
        ("weir_task_bad_records_total", "Bad records skipped.", |c| c.bad_records as f64),
        ("weir_task_dropped_records_total", "Late or filtered records dropped.", |c| c.dropped_records as f64),
        ("weir_task_busy_seconds_total", "Time at work.", |c| c.busy_micros as f64 / 1e6),
        ("weir_task_idle_seconds_total", "Time without input.", |c| c.idle_micros as f64 / 1e6),
        ("weir_task_backpressured_seconds_total", "Time waiting for room behind.", |c| {
            c.backpressured_micros as f64 / 1e6
        }),
    ];
    for (name, help, value) in per_vertex {
        let mut metric = e.metric(name, Kind::Counter, help);
        for v in &m.plan().vertices {
            let labels = [labels[0], labels[1], ("vertex", v.name.as_str())];
            metric.sample(&labels, value(vertex_counters(m, v)));
        }
    }
    let mut metric =
        e.metric("weir_task_watermark_seconds", Kind::Gauge, "Event time of the slowest subtask, since the epoch.");
    for v in &m.plan().vertices {
        if let Some(w) = vertex_counters(m, v).watermark {
            let labels = [labels[0], labels[1], ("vertex", v.name.as_str())];
            metric.sample(&labels, w as f64 / 1e3);
        }
    }
    e.finish()
}
