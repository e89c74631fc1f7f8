//! Carries out what the coordinator, restore and retention decide: reads manifests, publishes checkpoints, deletes files.
#[cfg(test)]
mod tests;

use super::coordinator::Publish;
use super::log::{AppendError, Appended, Body, Log, LogView, LogWriter, Snapshot, SnapshotRef, Terminal};
use super::manifest::{FILE, JobSpec, Manifest, SnapshotHead};
use super::restore::{Compatible, Start, check};
use super::retention;
use super::storage::Storage;
use crate::error::Result;
use weir_api::config::Retention;
use weir_api::status::TerminalStatus;

/// A start that was compared with its snapshot.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub manifest: Option<Manifest>,
    pub restores: Option<SnapshotRef>,
    pub compatible: Compatible,
    /// What the job starts from, in a sentence.
    pub message: String,
}

/// Reads the snapshot of a start and compares it with the job. Changes nothing.
pub async fn prepare(
    storage: &Storage,
    start: &Start,
    spec: &JobSpec,
    allow_non_restored_state: bool,
) -> Result<Prepared> {
    let Some(from) = &start.from else {
        return Ok(Prepared {
            manifest: None,
            restores: None,
            compatible: Compatible::default(),
            message: start.message.clone(),
        });
    };
    let manifest = Manifest::read(storage, from.path()).await?;
    let compatible = check(&manifest, spec, allow_non_restored_state)?;
    let message = format!("{}{}", start.message, compatible.notes());
    Ok(Prepared { restores: Some(from.snapshot(&manifest)), manifest: Some(manifest), compatible, message })
}

/// Outcome of [`publish`].
#[derive(Debug)]
pub struct Published {
    pub appended: Appended,
    /// Directories that the entry dropped; delete them with [`delete`].
    pub dropped: Vec<String>,
}

/// Writes the manifest and appends the entry. `Refused`: no entry was written, the checkpoint is to be aborted
/// ([`super::coordinator::Event::PublishFailed`]); other errors end the jobmanager's part.
pub async fn publish(
    storage: &Storage,
    writer: &LogWriter,
    spec: &JobSpec,
    p: &Publish,
    retained: u32,
    at: i64,
) -> Result<Published, AppendError> {
    let head =
        SnapshotHead { id: p.id, attempt: p.attempt, kind: p.kind, directory: p.directory.clone(), created_at: at };
    let bytes = Manifest::build(spec, &head, &p.snapshots).and_then(|m| m.to_bytes()).map_err(AppendError::Refused)?;
    storage.write(&format!("{}/{FILE}", p.directory), bytes).await.map_err(AppendError::Refused)?;
    let before = writer.view().await;
    let snapshot = Snapshot {
        id: p.id,
        path: p.directory.clone(),
        kind: p.kind,
        size_bytes: p.size_bytes,
        duration_ms: u64::try_from(at - p.triggered_at).unwrap_or(p.duration_ms),
        retains_from: 0,
    };
    let body = move |view: &LogView, index: u64| match snapshot.kind.is_savepoint() {
        true => Body::Savepoint(snapshot),
        false => Body::Completed(Snapshot { retains_from: retention::retains_from(view, index, retained), ..snapshot }),
    };
    let appended = writer.append(body, at).await?;
    let dropped = retention::dropped(&before, &appended.view);
    Ok(Published { appended, dropped })
}

/// Records the job's end and returns the entry with the directories to delete afterwards.
pub async fn terminate(
    writer: &LogWriter,
    policy: Retention,
    status: TerminalStatus,
    reason: String,
    at: i64,
) -> Result<(Appended, Terminal, Vec<String>), AppendError> {
    let end = retention::at_end(&writer.view().await, policy, status);
    let terminal = Terminal { status, kept: end.kept, reason };
    let body = Body::Terminal(terminal.clone());
    let appended = writer.append(move |_, _| body, at).await?;
    Ok((appended, terminal, end.delete))
}

/// Deletes snapshot directories. What cannot be deleted is logged, and swept by a later attempt.
pub async fn delete(storage: &Storage, directories: &[String]) {
    for d in directories {
        if let Err(e) = storage.delete_folder(d).await {
            tracing::warn!(directory = %d, error = %e, "a checkpoint directory was not deleted");
        }
    }
}

/// Deletes what attempts before the writer's left behind.
pub async fn sweep(storage: &Storage, writer: &LogWriter) -> Result<Vec<String>> {
    let folders = storage.list_folders("").await?;
    let left = retention::sweep(&writer.view().await, writer.attempt, &folders);
    delete(storage, &left).await;
    storage.sweep_staged("log").await?;
    Ok(left)
}

/// The log of a job in a storage.
pub async fn read_log(storage: &Storage) -> Result<LogView> {
    Log::new(storage.clone()).read().await
}
