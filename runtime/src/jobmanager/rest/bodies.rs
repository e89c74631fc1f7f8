//! Builds the bodies from the master. Pure.
use crate::checkpoint::handles::SnapshotKind;
use crate::checkpoint::stats::{CheckpointStat, CheckpointStatus, Summary};
use crate::control::TaskCounters;
use crate::dataflow::task::TaskId;
use crate::graph::{Partition, Vertex};
use crate::jobmanager::master::Master;
use std::collections::BTreeMap;
use std::time::Duration;
use weir_api::config::{CheckpointMode, Retention};
use weir_api::ids::CheckpointId;
use weir_api::rest::details::*;
use weir_api::rest::{JobIdStatus, JobIds, JobOverview, JobsOverview, Millis, Overview};
use weir_api::status::{JobState, TaskState};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const JOB_TYPE: &str = "STREAMING";
/// Flink's name for one that deploys all tasks at the parallelism that was asked for.
const SCHEDULER: &str = "Default";
const JOB_STATES: [JobState; 9] = [
    JobState::Created,
    JobState::Running,
    JobState::Restarting,
    JobState::Suspended,
    JobState::Failing,
    JobState::Failed,
    JobState::Cancelling,
    JobState::Canceled,
    JobState::Finished,
];
const TASK_STATES: [TaskState; 9] = [
    TaskState::Created,
    TaskState::Scheduled,
    TaskState::Deploying,
    TaskState::Initializing,
    TaskState::Running,
    TaskState::Finished,
    TaskState::Canceling,
    TaskState::Canceled,
    TaskState::Failed,
];

pub fn overview(m: &Master) -> Overview {
    let (state, slots) = (m.state(), m.registry().slots());
    let used = if m.tasks().is_some() { m.plan().slots() } else { 0 };
    let one = |yes: bool| u32::from(yes);
    Overview {
        taskmanagers: m.registry().len() as u32,
        slots_total: slots,
        slots_available: slots.saturating_sub(used),
        jobs_running: one(!state.is_terminal() && state != JobState::Suspended),
        jobs_finished: one(state == JobState::Finished),
        jobs_cancelled: one(state == JobState::Canceled),
        jobs_failed: one(state == JobState::Failed),
        flink_version: format!("weir-{VERSION}"),
        flink_commit: String::new(),
    }
}

pub fn dashboard_config() -> DashboardConfig {
    DashboardConfig {
        refresh_interval: 3000,
        timezone_name: "UTC".into(),
        timezone_offset: 0,
        flink_version: format!("weir-{VERSION}"),
        flink_revision: String::new(),
        features: Features { web_cancel: true, ..Default::default() },
    }
}

pub fn job_ids(m: &Master) -> JobIds {
    JobIds { jobs: vec![JobIdStatus { id: m.config().job.job_id(), status: m.state() }] }
}

/// All tasks of the plan.
fn tasks(m: &Master) -> impl Iterator<Item = TaskId> {
    m.plan().vertices.iter().flat_map(subtasks)
}

fn subtasks(v: &Vertex) -> impl Iterator<Item = TaskId> + use<> {
    let vertex = v.id;
    (0..v.parallelism).map(move |subtask| TaskId { vertex, subtask })
}

fn count_states(m: &Master, tasks: impl Iterator<Item = TaskId>) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<String, u32> = TASK_STATES.iter().map(|s| (s.as_str().to_owned(), 0)).collect();
    for t in tasks {
        *counts.entry(m.task_state(t).as_str().to_owned()).or_default() += 1;
    }
    counts
}

fn duration(start: Millis, end: Millis, now: Millis) -> Millis {
    if start <= 0 { -1 } else { (if end > 0 { end } else { now }) - start }
}

pub fn jobs_overview(m: &Master, now: Millis) -> JobsOverview {
    let (start, end) = (m.lifecycle().entered(JobState::Created), m.lifecycle().ended());
    let mut counts: BTreeMap<String, u32> =
        count_states(m, tasks(m)).into_iter().map(|(s, n)| (s.to_ascii_lowercase(), n)).collect();
    counts.insert("total".into(), m.plan().tasks());
    JobsOverview {
        jobs: vec![JobOverview {
            jid: m.config().job.job_id(),
            name: m.config().job.name.clone(),
            start_time: start,
            end_time: end,
            duration: duration(start, end, now),
            state: m.state(),
            last_modification: m.lifecycle().since(),
            tasks: counts,
            job_type: JOB_TYPE.into(),
            scheduler_type: SCHEDULER.into(),
            pending_operators: 0,
        }],
    }
}

fn io_metrics(c: TaskCounters) -> IoMetrics {
    IoMetrics {
        read_bytes: c.bytes_in,
        read_bytes_complete: true,
        write_bytes: c.bytes_out,
        write_bytes_complete: true,
        read_records: c.records_in,
        read_records_complete: true,
        write_records: c.records_out,
        write_records_complete: true,
        accumulated_backpressured_time: c.backpressured_micros / 1000,
        accumulated_idle_time: c.idle_micros / 1000,
        accumulated_busy_time: c.busy_micros / 1000,
    }
}

/// Sum over the subtasks of a vertex.
pub fn vertex_counters(m: &Master, v: &Vertex) -> TaskCounters {
    subtasks(v).map(|t| m.counters(t)).fold(TaskCounters::default(), |a, b| a + b)
}

/// One state for a vertex: the one that is furthest from running well.
fn vertex_state(m: &Master, v: &Vertex) -> TaskState {
    let states: Vec<TaskState> = subtasks(v).map(|t| m.task_state(t)).collect();
    let worst = [
        TaskState::Failed,
        TaskState::Canceling,
        TaskState::Canceled,
        TaskState::Created,
        TaskState::Scheduled,
        TaskState::Deploying,
        TaskState::Initializing,
        TaskState::Running,
    ];
    worst.into_iter().find(|s| states.contains(s)).unwrap_or(TaskState::Finished)
}

fn started(m: &Master, v: &Vertex) -> Millis {
    let all = m.tasks().into_iter().flatten().filter(|(t, _)| t.vertex == v.id);
    all.map(|(_, t)| t.started).min().unwrap_or(-1)
}

pub fn job(m: &Master, now: Millis) -> JobDetails {
    let job = &m.config().job;
    let (start, end) = (m.lifecycle().entered(JobState::Created), m.lifecycle().ended());
    let vertex = |v: &Vertex| {
        let start = started(m, v);
        JobVertex {
            id: v.rest_id(job),
            slot_sharing_group_id: job.job_id(),
            name: v.name.clone(),
            max_parallelism: m.plan().max_parallelism,
            parallelism: v.parallelism,
            status: vertex_state(m, v),
            start_time: start,
            end_time: -1,
            duration: duration(start, -1, now),
            tasks: count_states(m, subtasks(v)),
            metrics: io_metrics(vertex_counters(m, v)),
        }
    };
    let vertices: Vec<JobVertex> = m.plan().vertices.iter().map(vertex).collect();
    let mut status_counts: BTreeMap<String, u32> = TASK_STATES.iter().map(|s| (s.as_str().to_owned(), 0)).collect();
    for v in &vertices {
        *status_counts.entry(v.status.as_str().to_owned()).or_default() += 1;
    }
    JobDetails {
        jid: job.job_id(),
        name: job.name.clone(),
        is_stoppable: true,
        state: m.state(),
        job_type: JOB_TYPE.into(),
        scheduler_type: SCHEDULER.into(),
        application_id: job.job_id(),
        start_time: start,
        end_time: end,
        duration: duration(start, end, now),
        max_parallelism: m.config().max_parallelism,
        now,
        timestamps: JOB_STATES.iter().map(|s| (s.as_str().to_owned(), m.lifecycle().entered(*s))).collect(),
        vertices,
        status_counts,
        plan: plan(m),
        stream_graph: None,
    }
}

fn plan(m: &Master) -> JobPlan {
    let job = &m.config().job;
    let p = m.plan();
    let node = |v: &Vertex| PlanNode {
        id: v.rest_id(job),
        parallelism: v.parallelism,
        operator: String::new(),
        operator_strategy: String::new(),
        description: v.name.clone(),
        inputs: (0u32..)
            .zip(&v.inputs)
            .filter_map(|(num, e)| {
                let edge = p.edges.get(*e as usize)?;
                let from = p.vertices.get(edge.from_vertex as usize)?;
                let ship_strategy = match edge.partition {
                    Partition::Forward => "FORWARD",
                    Partition::Hash => "HASH",
                    Partition::Rebalance => "REBALANCE",
                    Partition::Broadcast => "BROADCAST",
                };
                let exchange = "pipelined_bounded".into();
                Some(PlanInput { num, id: from.rest_id(job), ship_strategy: ship_strategy.into(), exchange })
            })
            .collect(),
    };
    JobPlan {
        jid: job.job_id(),
        name: job.name.clone(),
        kind: JOB_TYPE.into(),
        nodes: p.vertices.iter().map(node).collect(),
    }
}

pub fn vertex(m: &Master, id: &str, now: Millis) -> Option<VertexDetails> {
    let job = &m.config().job;
    let v = m.plan().vertices.iter().find(|v| v.rest_id(job) == id)?;
    let subtask = |t: TaskId| {
        let task = m.tasks().and_then(|all| all.get(&t));
        let start = task.map_or(-1, |t| t.started);
        SubtaskDetails {
            subtask: t.subtask,
            status: m.task_state(t),
            attempt: m.attempt().0,
            endpoint: task.map_or_else(|| "(unassigned)".into(), |t| t.endpoint.clone()),
            start_time: start,
            end_time: -1,
            duration: duration(start, -1, now),
            metrics: io_metrics(m.counters(t)),
            taskmanager_id: task.map_or_else(|| "(unassigned)".into(), |t| t.taskmanager.clone()),
        }
    };
    Some(VertexDetails {
        id: id.to_owned(),
        name: v.name.clone(),
        parallelism: v.parallelism,
        max_parallelism: m.plan().max_parallelism,
        now,
        subtasks: subtasks(v).map(subtask).collect(),
    })
}

/// Event time of each subtask of a vertex with inputs, under Flink's names; ms since the Unix epoch.
pub fn watermarks(m: &Master, id: &str) -> Option<Vec<MetricValue>> {
    let v = m.plan().vertices.iter().find(|v| v.rest_id(&m.config().job) == id)?;
    let value = |t: TaskId| MetricValue {
        id: format!("{}.currentInputWatermark", t.subtask),
        value: Some(m.counters(t).watermark.unwrap_or(i64::MIN).to_string()),
    };
    Some(if v.is_source { Vec::new() } else { subtasks(v).map(value).collect() })
}

/// `most`: entries that are wanted; the newest ones are given.
pub fn exceptions(m: &Master, most: usize) -> JobExceptions {
    let some = |s: &String| (!s.is_empty()).then(|| s.clone());
    let truncated = m.exceptions_truncated() || m.exceptions().count() > most;
    let entries = m.exceptions().take(most).map(|e| ExceptionInfo {
        exception_name: e.name.clone(),
        stacktrace: e.message.clone(),
        timestamp: e.at,
        task_name: some(&e.source.task),
        endpoint: some(&e.source.endpoint),
        task_manager_id: some(&e.source.taskmanager),
        failure_labels: BTreeMap::new(),
        concurrent_exceptions: Vec::new(),
    });
    JobExceptions { exception_history: ExceptionHistory { entries: entries.collect(), truncated } }
}

pub fn taskmanagers(m: &Master, now: crate::checkpoint::coordinator::Now) -> TaskManagers {
    let info = |(c, t): (crate::jobmanager::registry::ConnectionId, &crate::jobmanager::registry::TaskManager)| {
        let mine: Vec<&TaskId> =
            m.tasks().into_iter().flatten().filter(|(_, v)| v.connection == c).map(|(id, _)| id).collect();
        // a slot holds one subtask of each vertex
        let mut used: Vec<u32> = mine.iter().map(|t| t.subtask).collect();
        used.sort_unstable();
        used.dedup();
        let silent = Millis::try_from(now.mono.saturating_sub(t.last_heard).as_millis()).unwrap_or(Millis::MAX);
        TaskManagerInfo {
            id: t.hello.id.clone(),
            path: t.hello.data_address.clone(),
            data_port: t.hello.data_address.rsplit_once(':').and_then(|(_, p)| p.parse().ok()).unwrap_or(0),
            jmx_port: -1,
            time_since_last_heartbeat: now.wall.saturating_sub(silent),
            slots_number: t.hello.slots,
            free_slots: t.hello.slots.saturating_sub(used.len() as u32),
            assigned_tasks: mine.len() as u32,
            total_resource: ResourceProfile::default(),
            free_resource: ResourceProfile::default(),
            hardware: Hardware::default(),
            memory_configuration: MemoryConfiguration::default(),
            blocked: t.leaving,
            resident_bytes: t.heartbeat.resident_bytes,
            pid: t.hello.pid,
        }
    };
    TaskManagers { taskmanagers: m.registry().by_id().into_iter().map(info).collect() }
}

/// `recent`: the values in the history.
fn statistics(s: Summary, recent: impl Iterator<Item = u64>) -> Statistics {
    let mut recent: Vec<u64> = recent.collect();
    recent.sort_unstable();
    // nearest rank
    let percentile = |per_mille: usize| {
        let rank = (recent.len() * per_mille).div_ceil(1000);
        recent.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    };
    let [p50, p90, p95, p99, p999] = [500, 900, 950, 990, 999].map(percentile);
    Statistics { min: s.min, max: s.max, avg: s.avg, p50, p90, p95, p99, p999 }
}

pub fn checkpoints(m: &Master) -> CheckpointStatistics {
    let s = m.checkpoints();
    let c = s.counts;
    let info = |c: &Option<CheckpointStat>| c.as_ref().map(|c| checkpoint(m, c));
    let completed = || s.history.iter().filter(|c| c.status == CheckpointStatus::Completed);
    let none = statistics(Summary::default(), std::iter::empty());
    CheckpointStatistics {
        counts: CheckpointCounts {
            restored: c.restored,
            total: c.total,
            in_progress: c.in_progress,
            completed: c.completed,
            failed: c.failed,
        },
        summary: CheckpointSummary {
            checkpointed_size: statistics(s.size, completed().map(|c| c.size_bytes)),
            state_size: statistics(s.size, completed().map(|c| c.size_bytes)),
            end_to_end_duration: statistics(s.duration, completed().map(|c| c.duration_ms)),
            alignment_buffered: none,
            processed_data: none,
            persisted_data: none,
        },
        latest: LatestCheckpoints {
            completed: info(&s.latest_completed),
            savepoint: info(&s.latest_savepoint),
            failed: info(&s.latest_failed),
            restored: s.restored.as_ref().map(|r| RestoredCheckpoint {
                id: r.snapshot.id.0,
                restore_timestamp: r.at,
                is_savepoint: r.snapshot.kind.is_savepoint(),
                external_path: m.snapshot_name(&r.snapshot.path),
            }),
        },
        history: s.history.iter().rev().map(|c| checkpoint(m, c)).collect(),
    }
}

fn checkpoint(m: &Master, c: &CheckpointStat) -> CheckpointInfo {
    let (class_name, status) = match c.status {
        CheckpointStatus::InProgress => ("in_progress", "IN_PROGRESS"),
        CheckpointStatus::Completed => ("completed", "COMPLETED"),
        CheckpointStatus::Failed => ("failed", "FAILED"),
    };
    let checkpoint_type = match c.kind {
        SnapshotKind::Savepoint => "SAVEPOINT",
        SnapshotKind::Stop { .. } => "SYNC_SAVEPOINT",
        SnapshotKind::Checkpoint | SnapshotKind::Rescale | SnapshotKind::Final => "CHECKPOINT",
    };
    CheckpointInfo {
        class_name: class_name.into(),
        id: c.id.0,
        status: status.into(),
        is_savepoint: c.kind.is_savepoint(),
        savepoint_format: c.kind.is_savepoint().then(|| "NATIVE".into()),
        trigger_timestamp: c.triggered_at,
        latest_ack_timestamp: c.latest_ack_at.unwrap_or(-1),
        checkpointed_size: c.size_bytes,
        state_size: c.size_bytes,
        end_to_end_duration: c.duration_ms,
        alignment_buffered: 0,
        processed_data: 0,
        persisted_data: 0,
        num_subtasks: c.num_tasks as u64,
        num_acknowledged_subtasks: c.tasks.len() as u64,
        checkpoint_type: checkpoint_type.into(),
        tasks: BTreeMap::new(),
        external_path: c.path.as_deref().map(|p| m.snapshot_name(p)),
        discarded: c.discarded,
        failure_timestamp: c.failed_at,
        failure_message: c.failure.clone(),
        log_index: c.log_index,
    }
}

pub fn checkpoint_details(m: &Master, id: u64) -> Option<CheckpointInfo> {
    let c = m.checkpoints().get(CheckpointId(id))?;
    let mut info = checkpoint(m, c);
    for v in &m.plan().vertices {
        let mut t = TaskCheckpoint {
            id,
            latest_ack_timestamp: -1,
            num_subtasks: u64::from(v.parallelism),
            ..Default::default()
        };
        for (_, s) in c.tasks.iter().filter(|(task, _)| task.vertex == v.id) {
            t.latest_ack_timestamp = t.latest_ack_timestamp.max(s.acked_at);
            t.state_size += s.stats.bytes;
            t.checkpointed_size += s.stats.bytes;
            t.num_acknowledged_subtasks += 1;
            t.alignment_duration = t.alignment_duration.max(s.stats.alignment_us / 1000);
            t.sync_duration = t.sync_duration.max(s.stats.sync_us / 1000);
            t.async_duration = t.async_duration.max(s.stats.async_us / 1000);
        }
        let whole = t.num_acknowledged_subtasks == t.num_subtasks;
        t.status = if whole { "COMPLETED".into() } else { info.status.clone() };
        t.end_to_end_duration = u64::try_from(t.latest_ack_timestamp - c.triggered_at).unwrap_or(0);
        info.tasks.insert(v.rest_id(&m.config().job), t);
    }
    Some(info)
}

pub fn checkpoint_settings(m: &Master) -> CheckpointSettings {
    let c = &m.config().checkpoint;
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    CheckpointSettings {
        mode: match c.mode {
            CheckpointMode::ExactlyOnce => "exactly_once",
            CheckpointMode::AtLeastOnce => "at_least_once",
        }
        .into(),
        interval: ms(c.interval.get()),
        timeout: ms(c.timeout.get()),
        min_pause: ms(c.min_pause.get()),
        max_concurrent: c.max_concurrent,
        externalization: Externalization {
            enabled: c.storage.is_some() && c.retention != Retention::NeverRetain,
            delete_on_cancellation: c.retention != Retention::RetainOnCancellation,
        },
        state_backend: "hashmap".into(),
        checkpoint_storage: c.storage.clone().unwrap_or_default(),
        unaligned_checkpoints: false,
        tolerable_failed_checkpoints: c.tolerable_failed.map_or(-1, i64::from),
        aligned_checkpoint_timeout: 0,
        checkpoints_after_tasks_finish: true,
        state_changelog_enabled: false,
        num_retained: c.retained,
    }
}
