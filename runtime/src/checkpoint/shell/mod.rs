//! Carries out what the coordinator, restore and retention decide: reads manifests, publishes checkpoints, deletes files.
#[cfg(test)]
mod tests;

use super::coordinator::Publish;
use super::log::{AppendError, Appended, Body, Log, LogView, LogWriter, Nonce, Snapshot, SnapshotRef, Terminal};
use super::manifest::{FILE, JobSpec, Manifest, SHARED, SnapshotHead};
use super::restore::{Compatible, Start, check};
use super::retention;
use super::storage::{Put, Storage};
use crate::error::{Error, ErrorCode, Result};
use std::collections::BTreeSet;
use weir_api::config::Retention;
use weir_api::ids::Attempt;
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
    /// Directories that the entry dropped; delete them with [`delete_dropped`].
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
    let manifest = Manifest::build(spec, &head, &p.snapshots).map_err(AppendError::Refused)?;
    let before = writer.view().await;
    check_shared(storage, &before, &manifest).await.map_err(AppendError::Refused)?;
    let bytes = manifest.to_bytes().map_err(AppendError::Refused)?;
    storage.write(&format!("{}/{FILE}", p.directory), bytes).await.map_err(AppendError::Refused)?;
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

/// A checkpoint may refer to files of earlier ones as long as the log holds one that does: once it has dropped the last one
/// they are deleted.
async fn check_shared(storage: &Storage, view: &LogView, m: &Manifest) -> Result<()> {
    let own = format!("{SHARED}/{}.", m.directory);
    let earlier: BTreeSet<&str> = m.shared_files().filter(|f| !f.starts_with(&own)).collect();
    if earlier.is_empty() {
        return Ok(());
    }
    let live = live_files(storage, view).await?;
    match earlier.into_iter().find(|f| !live.contains(*f)) {
        None => Ok(()),
        Some(file) => Err(Error::external(
            ErrorCode::Checkpoint,
            format!("checkpoint {} builds on {file}, which no checkpoint of the log refers to any more", m.id),
        )),
    }
}

/// Shared files that the checkpoints name which must stay. Paths.
async fn live_files(storage: &Storage, view: &LogView) -> Result<BTreeSet<String>> {
    let mut live = BTreeSet::new();
    for directory in retention::checkpoints_that_stay(view) {
        let m = Manifest::read(storage, &directory).await?;
        live.extend(m.shared_files().map(str::to_owned));
    }
    Ok(live)
}

/// Deletes checkpoints that the log has dropped, and the shared files that none refers to which stays. `view`: the log with
/// the entry that dropped them. What a crash leaves over is swept by a later attempt.
pub async fn delete_dropped(storage: &Storage, view: &LogView, dropped: &[String]) {
    let mut files = BTreeSet::new();
    for directory in dropped {
        match Manifest::read(storage, directory).await {
            Ok(m) => files.extend(m.shared_files().map(str::to_owned)),
            Err(e) => tracing::warn!(%directory, error = %e, "shared files of a dropped checkpoint stay until a sweep"),
        }
    }
    // the manifests first: a checkpoint that can be read is whole
    delete(storage, dropped).await;
    if files.is_empty() {
        return;
    }
    match live_files(storage, view).await {
        Ok(live) => delete_files(storage, retention::unreferenced(files, &live)).await,
        Err(e) => tracing::warn!(error = %e, "shared files of dropped checkpoints stay until a sweep"),
    }
}

async fn delete_files(storage: &Storage, paths: Vec<String>) {
    for path in paths {
        if let Err(e) = storage.delete(&path).await {
            tracing::warn!(file = %path, error = %e, "a shared file was not deleted");
        }
    }
}

/// Deletes what was written for a snapshot that will never complete.
pub async fn discard(storage: &Storage, directory: &str) {
    match storage.list_files(SHARED).await {
        Ok(names) => {
            let own = retention::written_for(directory, names);
            delete_files(storage, own.into_iter().map(|n| format!("{SHARED}/{n}")).collect()).await;
        }
        Err(e) => tracing::warn!(%directory, error = %e, "shared files of an aborted checkpoint stay until a sweep"),
    }
    delete(storage, &[directory.to_owned()]).await;
}

/// Records the job's end and returns the entry with the directories to delete afterwards, by [`delete_dropped`].
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

/// Deletes what the job's terminal entry dropped, if the process that wrote it was killed before it had.
pub async fn delete_left_at_end(storage: &Storage, view: &LogView) {
    match storage.list_folders("").await {
        Ok(folders) => {
            let left = retention::left_at_end(view, &folders);
            if !left.is_empty() {
                delete_dropped(storage, view, &left).await;
            }
        }
        Err(e) => tracing::warn!(error = %e, "it is not known what the job's end has left behind"),
    }
}

/// Whether a file can be written into a folder that savepoints are to go to; the folder is made. Returns the folder as entries
/// of the log name it.
pub async fn check_target(storage: &Storage, target: &str) -> Result<String> {
    let target = storage.normalize(target)?;
    let file = format!("{target}/.weir-{}", Nonce::random());
    match storage.put(&file, Vec::new()).await {
        Put::Created => storage.delete(&file).await.map(|()| target),
        Put::Exists => Ok(target),
        Put::Refused(e) | Put::Unknown(e) => Err(e),
    }
}

/// Deletes snapshot directories. What cannot be deleted is logged, and swept by a later attempt.
pub async fn delete(storage: &Storage, directories: &[String]) {
    for d in directories {
        if let Err(e) = storage.delete_folder(d).await {
            tracing::warn!(directory = %d, error = %e, "a checkpoint directory was not deleted");
        }
    }
}

/// Deletes what attempts before the writer's left behind, and the writer's own. Only when none of its tasks is there any more.
/// Returns directories and shared files.
pub async fn sweep_own(storage: &Storage, writer: &LogWriter) -> Result<Vec<String>> {
    sweep(storage, writer, Attempt(writer.attempt.0.saturating_add(1))).await
}

/// Deletes what attempts before `current` left behind. Returns directories and shared files.
pub async fn sweep(storage: &Storage, writer: &LogWriter, current: Attempt) -> Result<Vec<String>> {
    let folders = storage.list_folders("").await?;
    let view = writer.view().await;
    let mut left = retention::sweep(&view, current, &folders);
    for savepoint in retention::unnamed_savepoints(&view, current, &folders) {
        // its manifest is written last: one that has it is a user's, whether its entry was cleaned up or never came
        if storage.get(&format!("{savepoint}/{FILE}")).await?.is_none() {
            left.push(savepoint);
        }
    }
    delete(storage, &left).await;
    let names = storage.list_files(SHARED).await?;
    if !names.is_empty() {
        let live = live_files(storage, &view).await?;
        let live = live.iter().filter_map(|f| f.strip_prefix(SHARED)?.strip_prefix('/')).collect();
        let files = retention::sweep_shared(&live, current, names);
        let files: Vec<String> = files.into_iter().map(|n| format!("{SHARED}/{n}")).collect();
        delete_files(storage, files.clone()).await;
        left.extend(files);
    }
    storage.sweep_staged("log", |_| true).await?;
    // taskmanagers of the current attempt are other processes that live
    storage.sweep_staged(SHARED, move |name| retention::is_before(name, current)).await?;
    Ok(left)
}

/// The log of a job in a storage.
pub async fn read_log(storage: &Storage) -> Result<LogView> {
    Log::new(storage.clone()).read().await
}
