//! What `weir checkpoint list` and `show` print, read from the storage alone: no cluster is needed.
use super::handles::SnapshotKind;
use super::log::{Body, Log, LogView, SnapshotRef};
use super::manifest::Manifest;
use super::storage::Storage;
use crate::error::{Error, ErrorCode, Result};
use std::fmt::Write;
use weir_api::ids::JobName;

/// `weir checkpoint list`: the log of one job, or of every job in the storage when `job` is absent.
pub async fn list(url: &str, job: Option<&JobName>) -> Result<String> {
    let jobs = match job {
        Some(j) => vec![j.clone()],
        None => Storage::jobs(url)?,
    };
    if jobs.is_empty() {
        return Err(Error::user(
            ErrorCode::Storage,
            format!("{url} holds no checkpoints: there is no <namespace>/<job>/log in it"),
        ));
    }
    let mut text = String::new();
    for job in jobs {
        let storage = Storage::open_existing(url, &job)?;
        let view = Log::new(storage.clone()).read().await?;
        let _ = writeln!(text, "{job}  ({})", storage.url());
        text.push_str(&log_table(&view));
        text.push('\n');
    }
    Ok(text)
}

/// `weir checkpoint show`: the manifest of one snapshot: `latest`, an id, or a path.
pub async fn show(url: &str, job: &JobName, which: &str) -> Result<String> {
    let storage = Storage::open_existing(url, job)?;
    let view = Log::new(storage.clone()).read().await?;
    let none = |what: String| {
        Error::user(ErrorCode::Storage, format!("{what}; `weir checkpoint list --storage {url}` shows what there is"))
    };
    let path = if which == "latest" {
        view.latest().ok_or_else(|| none(format!("the job {job} has no completed checkpoint")))?.path
    } else if let Ok(id) = which.parse::<u64>() {
        let found = view.snapshots().into_iter().rfind(|s| s.id.0 == id);
        found.ok_or_else(|| none(format!("the log of {job} has no checkpoint {id}")))?.path
    } else {
        storage.normalize(which)?
    };
    Ok(manifest_text(&Manifest::read(&storage, &path).await?, &storage))
}

/// The entries of a log, one a line, oldest first.
pub fn log_table(view: &LogView) -> String {
    let alive: Vec<Option<u64>> = view.snapshots().iter().map(|s| s.index).collect();
    let latest = view.latest().and_then(|l| l.index);
    let mut rows = vec![["INDEX", "TIME", "ATTEMPT", "ENTRY", "ID", "SIZE", "TOOK", "WHAT"].map(str::to_owned)];
    for (index, e) in view.entries() {
        let mut row = [
            index.to_string(),
            time(e.at),
            e.attempt.to_string(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ];
        match &e.body {
            Body::Claim(c) => {
                row[3] = "claim".into();
                let from = c.restores.as_ref().map_or("starts new".into(), |r| format!("restores {r}"));
                let by = c.deployment.as_ref().map_or(String::new(), |d| format!(", generation {}", d.generation));
                row[7] = format!("{from}, parallelism {}{by}", c.parallelism);
            }
            Body::Completed(s) | Body::Savepoint(s) => {
                row[3] = entry_name(s.kind).into();
                row[4] = s.id.to_string();
                row[5] = bytes(s.size_bytes);
                row[6] = format!("{} ms", s.duration_ms);
                let state = match (alive.contains(&Some(*index)), latest == Some(*index)) {
                    (_, true) => "  <- latest",
                    (true, _) => "",
                    (false, _) => "  (dropped)",
                };
                row[7] = format!("{}{state}", s.path);
            }
            Body::Terminal(t) => {
                row[3] = format!("{:?}", t.status).to_lowercase();
                let kept =
                    if t.kept.is_empty() { "kept nothing".into() } else { format!("kept {}", t.kept.join(", ")) };
                row[7] = if t.reason.is_empty() { kept } else { format!("{kept}; {}", t.reason) };
            }
        }
        rows.push(row);
    }
    table(&rows)
}

fn entry_name(kind: SnapshotKind) -> &'static str {
    match kind {
        SnapshotKind::Checkpoint => "checkpoint",
        SnapshotKind::Savepoint => "savepoint",
        SnapshotKind::Stop { drain: false } => "stop",
        SnapshotKind::Stop { drain: true } => "stop, drained",
        SnapshotKind::Rescale => "rescale",
        SnapshotKind::Final => "final",
    }
}

/// A manifest for people: head, then operators with their states.
pub fn manifest_text(m: &Manifest, storage: &Storage) -> String {
    let mut t = String::new();
    let _ = writeln!(t, "{} {} of {}", entry_name(m.kind), m.id, m.job);
    let _ = writeln!(t, "  path             {}", storage.name(&m.directory));
    let _ = writeln!(t, "  created          {}", time(m.created_at));
    let _ = writeln!(t, "  attempt          {}", m.attempt);
    let _ = writeln!(t, "  parallelism      {} (max {})", m.parallelism, m.max_parallelism);
    let _ = writeln!(t, "  size             {} in {} files", bytes(m.size_bytes()), m.files());
    let _ = writeln!(t, "  written by       Weir {}, graph {}", m.weir_version, m.fingerprint);
    for o in &m.operators {
        let _ = writeln!(t, "  operator {:?} (parallelism {})", o.name, o.parallelism);
        for s in &o.states {
            let _ = writeln!(t, "    {:?} state {:?}: {} -> {}", s.kind, s.name, s.key, s.value);
        }
        if !o.states.is_empty() {
            let _ = writeln!(
                t,
                "    {} entries in {} files",
                o.entries(),
                o.subtasks.iter().map(|s| s.keyed.len()).sum::<usize>()
            );
        }
        let mut lists: Vec<(&str, usize)> = Vec::new();
        for (name, elements) in o.subtasks.iter().flat_map(|s| &s.lists) {
            match lists.iter_mut().find(|l| l.0 == name) {
                Some(l) => l.1 += elements.len(),
                None => lists.push((name, elements.len())),
            }
        }
        for (name, n) in lists {
            let _ = writeln!(t, "    list {name:?}: {n} elements");
        }
    }
    t
}

/// One line on a snapshot, for progress lines and logs.
pub fn snapshot_line(s: &SnapshotRef) -> String {
    format!("{s}, {} in {} ms", bytes(s.size_bytes), s.duration_ms)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for r in rows {
        let mut line = String::new();
        for (cell, w) in r.iter().zip(&widths) {
            let _ = write!(line, "{cell:w$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// UTC, to the second.
fn time(millis: i64) -> String {
    let t = std::time::UNIX_EPOCH + std::time::Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    humantime::format_rfc3339_seconds(t).to_string()
}
