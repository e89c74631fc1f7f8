//! `JOB local`: a whole cluster in one process, with a progress line, Ctrl-C = stop with a savepoint, and a summary.
use super::run::{bind, no_signals};
use crate::control::TaskCounters;
use crate::dataflow::Workers;
use crate::dataflow::task::TaskId;
use crate::error::Result;
use crate::graph::{JobGraph, LogicalGraph};
use crate::jobmanager::master::{Exit, Master};
use crate::jobmanager::{Handle, JobManager};
use crate::taskmanager::{self, Health, TaskManager};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use weir_api::config::{JobConfig, TaskManagerConfig};
use weir_api::rest::StopRequest;
use weir_api::status::{JobState, TerminalStatus};

/// Pause between two progress lines.
const PROGRESS: Duration = Duration::from_millis(500);

/// Runs the job to its end.
pub async fn run(config: JobConfig, graph: Arc<LogicalGraph>, data: Workers) -> Result<ExitCode> {
    let started = Instant::now();
    let slots = JobGraph::new(&graph, config.parallelism, config.max_parallelism).slots();
    let name = config.job.name.clone();
    let has_storage = config.checkpoint.storage.is_some();
    let rpc = bind("127.0.0.1:0", "the taskmanager").await?;
    let jobmanager = rpc.local_addr().map(|a| a.to_string()).unwrap_or_default();
    let jm = JobManager::new(config, graph.clone(), rpc, Duration::ZERO)?;
    let handle = jm.handle();

    let config = TaskManagerConfig {
        id: "local".into(),
        jobmanager,
        slots,
        data_address: String::new(),
        advertised_host: String::new(),
        http_address: None,
    };
    // code that does not return holds up the job, not a process that others could replace: it is left to the user
    let tm = TaskManager { config, graph, data, exchange: None, health: Health::default(), patience: None };
    let (leave, shutdown) = watch::channel(false);
    let taskmanager = tokio::spawn(taskmanager::run(tm, "in-process".into(), shutdown));

    let interrupts = tokio::spawn(interrupted(handle.clone(), has_storage));
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let on_term = handle.clone();
    let terminate = tokio::spawn(async move {
        terminated.recv().await;
        on_term.leave();
    });
    let progress = std::io::stderr().is_terminal().then(|| tokio::spawn(progress(handle, started)));

    let (exit, master) = jm.run().await;
    for t in [Some(interrupts), Some(terminate), progress].into_iter().flatten() {
        t.abort();
    }
    let _ = leave.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(2), taskmanager).await;
    clear_line();
    eprintln!("{}", summary(&name, exit, &master, started.elapsed()));
    Ok(ExitCode::from(exit.code()))
}

/// Ctrl-C once: stop with a savepoint (without storage: cancel). Twice: quit.
async fn interrupted(handle: Handle, has_storage: bool) {
    let Ok(mut signals) = signal(SignalKind::interrupt()) else { return };
    signals.recv().await;
    clear_line();
    if has_storage {
        eprintln!("stopping with a savepoint; Ctrl-C again quits at once");
        let request = StopRequest::default();
        let answer = handle.change(move |m, now| m.stop(request, "ctrl-c".into(), now)).await;
        if let Ok(Err(rejection)) = answer {
            eprintln!("no savepoint: {}; the job goes on, Ctrl-C again quits", rejection.message);
        }
    } else {
        eprintln!("ending the job; it has no checkpoint storage (--checkpoints DIR), so nothing is kept");
        let _ = handle.change(|m, now| m.cancel("ctrl-c".into(), now)).await;
    }
    signals.recv().await;
    std::process::exit(130);
}

/// Writes one line over and over.
async fn progress(handle: Handle, started: Instant) {
    let (mut last, mut at) = (0u64, started);
    loop {
        tokio::time::sleep(PROGRESS).await;
        let Ok((records, mut line)) = handle.query(|m, now| (records_read(m), describe(m, now.wall))).await else {
            return;
        };
        let now = Instant::now();
        // after a restart the counters start over
        let rate = records.saturating_sub(last) as f64 / now.duration_since(at).as_secs_f64();
        (last, at) = (records, now);
        line = format!(
            "{:>5.0} s  {} records  {}/s  {line}",
            started.elapsed().as_secs_f64(),
            group(records),
            group(rate as u64)
        );
        let mut err = std::io::stderr();
        let _ = write!(err, "\r\x1b[2K{line}");
        let _ = err.flush();
    }
}

fn clear_line() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[2K");
    }
}

/// State, last checkpoint, restarts.
fn describe(m: &Master, now: i64) -> String {
    let mut text = m.state().to_string();
    if m.state() != JobState::Running && !m.reason().is_empty() {
        text = format!("{text}: {}", first_line(m.reason()));
    }
    if let Some(c) = &m.checkpoints().latest_completed {
        let age = (now - c.triggered_at).max(0) as f64 / 1e3;
        text.push_str(&format!("  checkpoint {} ({}, {} ms) {age:.1} s ago", c.id, bytes(c.size_bytes), c.duration_ms));
    }
    if let Some(t) = event_time(m) {
        text.push_str(&format!("  event time {t}"));
    }
    if m.restarts() > 0 {
        text.push_str(&format!("  {} restarts", m.restarts()));
    }
    text
}

/// The watermark of the slowest vertex that has one; none where the job has no event time, or after its end.
fn event_time(m: &Master) -> Option<String> {
    let tasks = m.plan().vertices.iter().flat_map(|v| (0..v.parallelism).map(|s| TaskId { vertex: v.id, subtask: s }));
    let least = tasks.filter_map(|t| m.counters(t).watermark).min().filter(|w| *w < i64::MAX)?;
    // humantime writes the years 1970 to 9999
    match u64::try_from(least) {
        Ok(ms) if ms < 253_402_300_800_000 => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
            Some(humantime::format_rfc3339_seconds(time).to_string())
        }
        _ => Some(format!("{least} ms")),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(80).collect()
}

/// Records that the sources of the current attempt have read.
fn records_read(m: &Master) -> u64 {
    let sources = m.plan().vertices.iter().filter(|v| v.is_source);
    let tasks = sources.flat_map(|v| (0..v.parallelism).map(|subtask| TaskId { vertex: v.id, subtask }));
    // a reader that counts nothing is known by what comes out of its chain
    let read = |c: TaskCounters| if c.records_in > 0 { c.records_in } else { c.records_out };
    tasks.map(|t| read(m.counters(t))).sum()
}

fn summary(name: &str, exit: Exit, m: &Master, took: Duration) -> String {
    if let (Exit::Ended(status), 0) = (exit, m.attempt().0) {
        return format!(
            "{name}: the job had ended before ({status:?}: {}); to run it anew, give another folder with --checkpoints",
            m.reason()
        );
    }
    let seconds = took.as_secs_f64();
    let records = records_read(m);
    let what = match exit {
        Exit::Ended(TerminalStatus::Finished) => "finished".to_owned(),
        Exit::Ended(TerminalStatus::Stopped) => "stopped with a savepoint".to_owned(),
        Exit::Ended(TerminalStatus::Canceled) => "cancelled".to_owned(),
        Exit::Ended(TerminalStatus::Failed) => "FAILED".to_owned(),
        Exit::Suspended => "ended by a signal".to_owned(),
        Exit::Fenced => "gave up".to_owned(),
        // nothing ran
        Exit::Refused => return format!("{name}: {}", m.reason()),
    };
    let mut text = format!(
        "{name}: {what} after {seconds:.1} s, {} records read ({}/s)",
        group(records),
        group((records as f64 / seconds.max(1e-3)) as u64)
    );
    let s = m.checkpoints();
    if s.counts.total > 0 {
        text.push_str(&format!(", {} checkpoints completed", s.counts.completed));
        if s.counts.failed > 0 {
            text.push_str(&format!(", {} failed", s.counts.failed));
        }
    }
    if m.restarts() > 0 {
        text.push_str(&format!(", {} restarts", m.restarts()));
    }
    if matches!(exit, Exit::Ended(TerminalStatus::Failed) | Exit::Fenced) {
        text.push_str(&format!("\n  {}", m.reason()));
    }
    if let Some(s) = m.checkpoints().latest_savepoint.as_ref().and_then(|s| s.path.as_deref()) {
        text.push_str(&format!("\n  savepoint {}; `--restore latest` goes on from it", m.snapshot_name(s)));
    }
    text
}

/// 1234567 as 1,234,567.
fn group(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

fn bytes(n: u64) -> String {
    match n {
        0..=9_999 => format!("{n} B"),
        10_000..=9_999_999 => format!("{} kB", n / 1000),
        _ => format!("{} MB", n / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(group), ["0", "999", "1,000", "1,234,567"]);
    }
}
