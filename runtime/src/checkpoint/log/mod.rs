//! The one log of a job (`protocols.md` §1): claims, completed checkpoints, savepoints and terminal states, as numbered
//! entries that are each created with put-if-absent. This file carries out what [`machine`] decides.
pub mod entry;
pub mod machine;
#[cfg(test)]
mod tests;
pub mod view;

pub use entry::{Body, Claim, LogEntry, Nonce, Snapshot, SnapshotRef, Terminal};
pub use view::LogView;

use super::storage::{Put, Storage};
use crate::error::{Error, ErrorCode, Result};
use machine::{ReadStep, Reader, StoreOp, StoreReply, WriteStep, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use weir_api::ids::Attempt;

/// The log in its storage.
#[derive(Debug, Clone)]
pub struct Log {
    storage: Storage,
}

/// Outcome of [`Log::claim`].
#[derive(Debug)]
pub enum Claimed {
    Won(LogWriter),
    /// Something was appended since the view was read: read again, decide again.
    Raced,
}

/// Why an entry was not appended.
#[derive(Debug, Clone, PartialEq)]
pub enum AppendError {
    /// Another attempt holds the log: stop everything, send no notification, delete nothing.
    Fenced(Error),
    /// The storage refused; nothing was written and the log is as before: abort the checkpoint, go on.
    Refused(Error),
    /// The log is not as the rules say: stop everything.
    Fault(Error),
}

impl AppendError {
    pub fn error(&self) -> &Error {
        let (Self::Fenced(e) | Self::Refused(e) | Self::Fault(e)) = self;
        e
    }
}

/// What was appended.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    pub index: u64,
    /// The log behind it.
    pub view: LogView,
}

const FOLDER: &str = "log";

impl Log {
    pub fn new(storage: Storage) -> Self {
        Self { storage }
    }

    /// Reads the log. Errors name the entry that is corrupt or of another version.
    pub async fn read(&self) -> Result<LogView> {
        let (mut reader, mut op) = Reader::start();
        loop {
            match reader.on(self.read_op(&op).await?) {
                ReadStep::Do(next) => op = next,
                ReadStep::Done(view) => return Ok(view),
                ReadStep::Damaged(e) => return Err(e.at(self.storage.name(FOLDER))),
            }
        }
    }

    /// Appends a claim right behind `view`: whatever was decided by the view still holds when it is won. `at` is wall-clock
    /// milliseconds. The attempt is `view.next_attempt()`.
    pub async fn claim(&self, view: LogView, nonce: Nonce, claim: Claim, at: i64) -> Result<Claimed, AppendError> {
        self.claim_after(Attempt(0), view, nonce, claim, at).await
    }

    /// As [`Self::claim`], with an attempt above `after` as well: one that is known although the log does not have it (the
    /// log's folder was deleted, and taskmanagers live on).
    pub async fn claim_after(
        &self,
        after: Attempt,
        view: LogView,
        nonce: Nonce,
        claim: Claim,
        at: i64,
    ) -> Result<Claimed, AppendError> {
        let attempt = view.next_attempt().max(Attempt(after.0.saturating_add(1)));
        let entry = LogEntry { attempt, nonce, at, body: Body::Claim(claim) };
        let mut writer = Writer::new(&view);
        let step = writer.claim(entry.clone());
        let mut holder = Holder { log: self.clone(), writer, view, attempt, nonce };
        match holder.run(step).await? {
            Some(index) => {
                holder.view.push(index, entry);
                Ok(Claimed::Won(LogWriter { attempt, nonce, holder: Arc::new(Mutex::new(holder)) }))
            }
            None => Ok(Claimed::Raced),
        }
    }

    async fn read_op(&self, op: &StoreOp) -> Result<StoreReply> {
        match op {
            StoreOp::List => {
                let names = self.storage.list_files(FOLDER).await?;
                Ok(StoreReply::Listed(names.iter().filter_map(|n| entry::index_of(n)).collect()))
            }
            StoreOp::Get(index) => {
                let path = path(*index);
                let Some(bytes) = self.storage.get(&path).await? else { return Ok(StoreReply::Got(None)) };
                LogEntry::from_bytes(&bytes, &self.storage.name(&path)).map(|e| StoreReply::Got(Some(Box::new(e))))
            }
            StoreOp::Put(..) | StoreOp::Delete(_) => Err(Error::internal("a reader of the log does not write")),
        }
    }
}

fn path(index: u64) -> String {
    format!("{FOLDER}/{}", entry::file_name(index))
}

/// Appends for the attempt that holds the claim. Cheap to clone; writes are done one after another.
#[derive(Debug, Clone)]
pub struct LogWriter {
    pub attempt: Attempt,
    pub nonce: Nonce,
    holder: Arc<Mutex<Holder>>,
}

#[derive(Debug)]
struct Holder {
    log: Log,
    writer: Writer,
    view: LogView,
    attempt: Attempt,
    nonce: Nonce,
}

impl LogWriter {
    /// The log as this attempt knows it.
    pub async fn view(&self) -> LogView {
        self.holder.lock().await.view.clone()
    }

    /// Appends an entry. When it returns `Ok`, nobody had claimed the log up to then: act on it. Retries for as long as the
    /// storage does not answer; goes on even when the caller drops the future, because half an append is none.
    /// `body` sees the log and the index that the entry will have.
    pub async fn append(
        &self,
        body: impl FnOnce(&LogView, u64) -> Body + Send + 'static,
        at: i64,
    ) -> Result<Appended, AppendError> {
        let holder = self.holder.clone();
        let task = async move {
            let mut h = holder.lock().await;
            let index = h.writer.head().map_or(0, |i| i + 1);
            let body = body(&h.view, index);
            h.append(body, at).await
        };
        tokio::spawn(task)
            .await
            .unwrap_or_else(|e| Err(AppendError::Fault(Error::internal(format!("append to the log: {e}")))))
    }

    /// Deletes the entries that nothing needs any more; from time to time repeats the claim, so that there are some.
    pub async fn clean_up(&self, at: i64) -> Result<(), AppendError> {
        let holder = self.holder.clone();
        let task = async move {
            let mut h = holder.lock().await;
            if let Some(claim) = machine::renewal(&h.view, machine::RENEW_AFTER) {
                h.append(Body::Claim(claim), at).await?;
            }
            let floor = machine::floor(&h.view);
            if h.view.entries().first().is_none_or(|e| e.0 >= floor) {
                return Ok(());
            }
            let step = h.writer.clean_up(floor);
            h.run(step).await?;
            h.view.forget_below(floor);
            Ok(())
        };
        tokio::spawn(task)
            .await
            .unwrap_or_else(|e| Err(AppendError::Fault(Error::internal(format!("clean up the log: {e}")))))
    }
}

impl Holder {
    async fn append(&mut self, body: Body, at: i64) -> Result<Appended, AppendError> {
        let entry = LogEntry { attempt: self.attempt, nonce: self.nonce, at, body };
        let step = self.writer.append(entry.clone());
        match self.run(step).await? {
            Some(index) => {
                self.view.push(index, entry);
                Ok(Appended { index, view: self.view.clone() })
            }
            None => Err(AppendError::Fault(Error::internal("an append ended without an index"))),
        }
    }

    /// Carries out operations until the writer is done. `Some(index)`: appended; `None`: raced or cleaned up.
    async fn run(&mut self, mut step: WriteStep) -> Result<Option<u64>, AppendError> {
        let mut refused = None;
        let mut pause = Duration::from_millis(50);
        loop {
            let op = match step {
                WriteStep::Do(op) => op,
                WriteStep::Again(op) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                    op
                }
                WriteStep::Appended(index) => return Ok(Some(index)),
                WriteStep::Raced | WriteStep::CleanedUp => return Ok(None),
                WriteStep::Refused => {
                    let none = || Error::external(ErrorCode::Storage, "the storage refused the entry");
                    return Err(AppendError::Refused(refused.unwrap_or_else(none)));
                }
                WriteStep::Fenced => {
                    let m = format!(
                        "another jobmanager has claimed the log {} after attempt {}: this one stops",
                        self.log.storage.name(FOLDER),
                        self.attempt
                    );
                    return Err(AppendError::Fenced(Error::external(ErrorCode::Fenced, m)));
                }
                WriteStep::Fault(e) => return Err(AppendError::Fault(e.at(self.log.storage.name(FOLDER)))),
            };
            let reply = self.perform(&op, &mut refused, &mut pause).await?;
            step = self.writer.on(reply);
        }
    }

    /// One operation. Reads are repeated until the storage answers: an append that is half known cannot be left alone.
    async fn perform(
        &self,
        op: &StoreOp,
        refused: &mut Option<Error>,
        pause: &mut Duration,
    ) -> Result<StoreReply, AppendError> {
        match op {
            StoreOp::Put(index, entry) => {
                let path = path(*index);
                let bytes = entry.to_bytes().map_err(AppendError::Fault)?;
                Ok(match self.log.storage.put(&path, bytes).await {
                    Put::Created => StoreReply::Created,
                    Put::Exists => StoreReply::Exists,
                    Put::Refused(e) => {
                        *refused = Some(e);
                        StoreReply::Refused
                    }
                    Put::Unknown(e) => {
                        tracing::warn!(error = %e, "no answer to a put of the log; trying again");
                        StoreReply::Unknown
                    }
                })
            }
            // what cannot be deleted now will be with the next clean-up
            StoreOp::Delete(index) => {
                if let Err(e) = self.log.storage.delete(&path(*index)).await {
                    tracing::warn!(error = %e, "an old entry of the log was not deleted");
                }
                Ok(StoreReply::Deleted)
            }
            StoreOp::List | StoreOp::Get(_) => loop {
                match self.log.read_op(op).await {
                    Ok(reply) => return Ok(reply),
                    Err(e) if e.code == ErrorCode::Snapshot => return Err(AppendError::Fault(e)),
                    Err(e) => tracing::warn!(error = %e, "the log cannot be read; trying again"),
                }
                tokio::time::sleep(*pause).await;
                *pause = (*pause * 2).min(Duration::from_secs(5));
            },
        }
    }
}
