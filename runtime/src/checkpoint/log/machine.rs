//! The log's rules as state machines: store answers in, store operations out. Pure; the model test explores these.
use super::entry::LogEntry;
use super::view::{LogView, live};
use crate::error::Error;
use weir_api::ids::Attempt;

/// An operation on the log's folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreOp {
    /// Indices of all entries.
    List,
    Get(u64),
    /// Create, unless it exists.
    Put(u64, Box<LogEntry>),
    Delete(u64),
}

/// What the store answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StoreReply {
    Listed(Vec<u64>),
    /// None: there is no such entry.
    Got(Option<Box<LogEntry>>),
    Created,
    /// Nothing was put: an entry is there.
    Exists,
    /// The put may or may not have taken place.
    Unknown,
    /// The put has certainly not taken place.
    Refused,
    /// Deleted, or was not there.
    Deleted,
}

/// How a read goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadStep {
    Do(StoreOp),
    Done(LogView),
    Damaged(Error),
}

/// Reads the whole log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reader {
    /// Still to be read, next one last.
    todo: Vec<u64>,
    got: Vec<(u64, LogEntry)>,
    lists: u32,
}

/// How often a reader lists again because entries vanish under its hands.
const MAX_LISTS: u32 = 1000;

impl Reader {
    pub fn start() -> (Self, StoreOp) {
        (Self { lists: 1, ..Self::default() }, StoreOp::List)
    }

    pub fn on(&mut self, reply: StoreReply) -> ReadStep {
        match reply {
            StoreReply::Listed(indices) => {
                let live = live(indices);
                // entries never change: what was read before a second listing need not be read again
                self.got.retain(|(i, _)| live.contains(i));
                self.todo = live.into_iter().filter(|i| !self.got.iter().any(|g| g.0 == *i)).rev().collect();
            }
            StoreReply::Got(Some(entry)) => {
                if let Some(i) = self.todo.pop() {
                    self.got.push((i, *entry));
                }
            }
            // cleaned up since it was listed
            StoreReply::Got(None) => {
                self.lists += 1;
                if self.lists > MAX_LISTS {
                    let e = super::entry::damaged(
                        "the log's entries vanish while they are read: is the folder being deleted?",
                    );
                    return ReadStep::Damaged(e);
                }
                return ReadStep::Do(StoreOp::List);
            }
            r => return ReadStep::Damaged(Error::internal(format!("a reader of the log got {r:?}"))),
        }
        match self.todo.last() {
            Some(&i) => ReadStep::Do(StoreOp::Get(i)),
            None => {
                let mut entries = std::mem::take(&mut self.got);
                entries.sort_by_key(|e| e.0);
                LogView::new(entries).map_or_else(ReadStep::Damaged, ReadStep::Done)
            }
        }
    }
}

/// How a write goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum WriteStep {
    Do(StoreOp),
    /// Do it after a pause: the store did not answer.
    Again(StoreOp),
    /// The entry is in the log and nobody has claimed the log since: act on it.
    Appended(u64),
    /// A claim that came too late and was not written: read the log anew.
    Raced,
    /// Nothing was written, the store refused; the log is as before.
    Refused,
    /// Another attempt holds the log: stop everything, delete nothing.
    Fenced,
    /// Deleted everything below the floor.
    CleanedUp,
    /// The log is not as the rules say: stop.
    Fault(Error),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    /// `unsure`: an earlier put of the same entry may have taken place.
    Putting {
        entry: Box<LogEntry>,
        claim: bool,
        unsure: bool,
    },
    /// Somebody's entry is at our index: whose?
    Reading {
        entry: Box<LogEntry>,
        claim: bool,
    },
    /// Ours is there: is there anything above?
    Checking,
    Listing {
        floor: u64,
    },
    /// Indices to delete, next one last.
    Deleting(Vec<u64>),
    Fenced,
}

/// Claims the log and appends to it, one entry at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Index of the last entry that is known.
    head: Option<u64>,
    phase: Phase,
}

impl Writer {
    /// A writer behind a log as it was read; its first entry is a claim.
    pub fn new(view: &LogView) -> Self {
        Self { head: view.head(), phase: Phase::Idle }
    }
    fn next(&self) -> u64 {
        self.head.map_or(0, |h| h + 1)
    }
    pub fn head(&self) -> Option<u64> {
        self.head
    }
    pub fn is_fenced(&self) -> bool {
        self.phase == Phase::Fenced
    }

    /// Appends a claim. If anything else got there first: [`WriteStep::Raced`].
    pub fn claim(&mut self, entry: LogEntry) -> WriteStep {
        self.put(entry, true)
    }
    /// Appends an entry of the attempt that holds the claim.
    pub fn append(&mut self, entry: LogEntry) -> WriteStep {
        self.put(entry, false)
    }
    fn put(&mut self, entry: LogEntry, claim: bool) -> WriteStep {
        match self.phase {
            Phase::Idle => {
                let entry = Box::new(entry);
                self.phase = Phase::Putting { entry: entry.clone(), claim, unsure: false };
                WriteStep::Do(StoreOp::Put(self.next(), entry))
            }
            Phase::Fenced => WriteStep::Fenced,
            _ => WriteStep::Fault(Error::internal("two writes of the log at once")),
        }
    }
    /// Deletes all entries below `floor`; never the head.
    pub fn clean_up(&mut self, floor: u64) -> WriteStep {
        match self.phase {
            Phase::Idle => {
                self.phase = Phase::Listing { floor };
                WriteStep::Do(StoreOp::List)
            }
            Phase::Fenced => WriteStep::Fenced,
            _ => WriteStep::Fault(Error::internal("two writes of the log at once")),
        }
    }

    pub fn on(&mut self, reply: StoreReply) -> WriteStep {
        let index = self.next();
        match (std::mem::replace(&mut self.phase, Phase::Idle), reply) {
            (Phase::Putting { .. }, StoreReply::Created) => self.check(),
            (Phase::Putting { entry, claim, .. }, StoreReply::Exists) => {
                self.phase = Phase::Reading { entry, claim };
                WriteStep::Do(StoreOp::Get(index))
            }
            (Phase::Putting { unsure: false, .. }, StoreReply::Refused) => WriteStep::Refused,
            // until a put is known to have taken place or to have met another entry, nobody can say what the log holds
            (Phase::Putting { entry, claim, unsure }, r @ (StoreReply::Unknown | StoreReply::Refused)) => {
                let unsure = unsure || r == StoreReply::Unknown;
                self.phase = Phase::Putting { entry: entry.clone(), claim, unsure };
                WriteStep::Again(StoreOp::Put(index, entry))
            }
            (Phase::Reading { entry, claim }, StoreReply::Got(found)) => match found {
                // the reply to an earlier put was lost
                Some(f) if f == entry => self.check(),
                Some(_) if claim => WriteStep::Raced,
                Some(f) if f.attempt > entry.attempt => self.fenced(),
                Some(f) => WriteStep::Fault(stranger(index, &f, entry.attempt)),
                None if claim => WriteStep::Raced,
                // it was there and was cleaned up: somebody is far ahead
                None => self.fenced(),
            },
            // also for a claim: whoever came after it holds the log, and two that claim in turn would never end
            (Phase::Checking, StoreReply::Listed(indices)) => {
                if indices.iter().any(|&i| i > index) {
                    return self.fenced();
                }
                self.head = Some(index);
                WriteStep::Appended(index)
            }
            (Phase::Listing { floor }, StoreReply::Listed(mut indices)) => {
                if indices.iter().any(|&i| Some(i) > self.head) {
                    return self.fenced();
                }
                let floor = floor.min(self.head.unwrap_or(0));
                indices.retain(|&i| i < floor);
                indices.sort_unstable_by(|a, b| b.cmp(a));
                self.delete(indices)
            }
            (Phase::Deleting(todo), StoreReply::Deleted) => self.delete(todo),
            (Phase::Fenced, _) => self.fenced(),
            (p, r) => WriteStep::Fault(Error::internal(format!("a writer of the log got {r:?} in {p:?}"))),
        }
    }
    fn check(&mut self) -> WriteStep {
        self.phase = Phase::Checking;
        WriteStep::Do(StoreOp::List)
    }
    fn fenced(&mut self) -> WriteStep {
        self.phase = Phase::Fenced;
        WriteStep::Fenced
    }
    /// Oldest first, so that what remains after a crash has no gap.
    fn delete(&mut self, mut todo: Vec<u64>) -> WriteStep {
        match todo.pop() {
            Some(i) => {
                self.phase = Phase::Deleting(todo);
                WriteStep::Do(StoreOp::Delete(i))
            }
            None => WriteStep::CleanedUp,
        }
    }
}

fn stranger(index: u64, found: &LogEntry, me: Attempt) -> Error {
    super::entry::damaged(format!(
        "log/{} was written by attempt {} ({}) while attempt {me} held the log: the storage does not create files atomically, or \
         somebody edits the folder",
        super::entry::file_name(index),
        found.attempt,
        found.nonce
    ))
}

/// After so many entries the holder repeats its claim, so that the entries below it can be cleaned up.
pub const RENEW_AFTER: u64 = 16;

/// The claim to append again, if the last one is `after` entries behind the head ([`RENEW_AFTER`]).
pub fn renewal(view: &LogView, after: u64) -> Option<super::entry::Claim> {
    let (at, _, claim) = view.last_claim()?;
    let ending = view.terminal().is_some() || view.unfinished_stop().is_some();
    let due = view.head()? - at >= after && !ending;
    let (restores, next_checkpoint) = (view.resumable(), view.next_checkpoint());
    due.then(|| super::entry::Claim { restores, next_checkpoint, ..claim.clone() })
}

/// Lowest index that must stay: the last claim, all that is retained, what a restart would restore, the last committed one.
pub fn floor(view: &LogView) -> u64 {
    let Some((at, _, _)) = view.last_claim() else { return 0 };
    let needed = [
        view.checkpoints().first().and_then(|c| c.index),
        view.resumable().and_then(|r| r.index),
        view.latest().and_then(|r| r.index),
        view.last_committed().and_then(|r| r.index),
    ];
    needed.into_iter().flatten().fold(at, u64::min)
}
