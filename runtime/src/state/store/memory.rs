//! The memory of live objects on a taskmanager: what tables may take before entries leave, and what cannot leave.
use super::StateStore;
use crate::error::{Error, ErrorCode, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What tables of live objects may take together, and take by their own estimates; bytes.
#[derive(Debug, Default)]
pub struct ObjectMemory {
    limit: usize,
    used: AtomicUsize,
    tables: AtomicUsize,
    /// What cannot leave memory may take so much, and takes so much; it is part of `used`.
    fixed_limit: usize,
    fixed: AtomicUsize,
}

/// One table's part of [`ObjectMemory`].
pub struct ObjectShare {
    memory: Arc<ObjectMemory>,
    used: usize,
}

static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// For tests: tables of this process may take no more than so many bytes together, whatever their memory is.
#[doc(hidden)]
pub fn limit_objects(bytes: usize) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

impl ObjectMemory {
    pub fn new(limit: usize) -> Arc<Self> {
        let for_tables = limit.min(LIMIT.load(Ordering::Relaxed));
        Arc::new(Self { limit: for_tables, fixed_limit: limit, ..Self::default() })
    }
    /// Tables may take so much, what cannot leave memory any amount.
    #[cfg(test)]
    pub fn for_tables(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, fixed_limit: usize::MAX, ..Self::default() })
    }
    pub fn share(self: &Arc<Self>) -> ObjectShare {
        self.tables.fetch_add(1, Ordering::Relaxed);
        ObjectShare { memory: self.clone(), used: 0 }
    }
}

impl ObjectShare {
    /// The table takes so many bytes now. Returns how many it may, if that is too much: all together are over the limit, and it
    /// is over its part.
    pub fn set(&mut self, bytes: usize) -> Option<usize> {
        let m = &self.memory;
        let all = m.used.fetch_add(bytes.wrapping_sub(self.used), Ordering::Relaxed);
        let all = all.wrapping_add(bytes.wrapping_sub(self.used));
        self.used = bytes;
        // what cannot leave comes first, and a quarter is left to tables
        let rest = m.limit.saturating_sub(m.fixed.load(Ordering::Relaxed)).max(m.limit / 4);
        let fair = rest / m.tables.load(Ordering::Relaxed).max(1);
        (all > m.limit && bytes > fair).then_some(fair)
    }
}

impl Drop for ObjectShare {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.used, Ordering::Relaxed);
        self.memory.tables.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The part of [`ObjectMemory`] that something takes which cannot leave memory. When all of that together takes more than there is,
/// its task fails, before the whole process is killed for its memory.
pub struct FixedShare {
    memory: Arc<ObjectMemory>,
    used: usize,
    operator: String,
    what: String,
}

impl FixedShare {
    /// `what`: for the message, as in "the timers".
    pub fn new(store: &dyn StateStore, what: impl Into<String>) -> Self {
        Self::of(store.memory(), store.operator(), what)
    }
    pub(super) fn of(memory: &Arc<ObjectMemory>, operator: &str, what: impl Into<String>) -> Self {
        Self { memory: memory.clone(), used: 0, operator: operator.to_owned(), what: what.into() }
    }

    /// It takes so many bytes now.
    ///
    /// # Errors
    /// `config`: that is too much.
    #[inline]
    pub fn set(&mut self, bytes: usize) -> Result<()> {
        if bytes == self.used {
            return Ok(());
        }
        let (m, more) = (&self.memory, bytes.wrapping_sub(self.used));
        self.used = bytes;
        m.used.fetch_add(more, Ordering::Relaxed);
        let all = m.fixed.fetch_add(more, Ordering::Relaxed).wrapping_add(more);
        if all > m.fixed_limit && bytes > 0 { Err(self.too_much(all)) } else { Ok(()) }
    }

    #[cold]
    fn too_much(&self, all: usize) -> Error {
        let mib = |bytes: usize| bytes.div_ceil(1 << 20);
        let (limit, need) = (self.memory.fixed_limit, all.saturating_mul(3));
        Error::user(
            ErrorCode::Config,
            format!(
                "operator {:?}: {} take about {} MiB, and the state backend RocksDb keeps them in memory: with what else it cannot bring to disk that is {} MiB in this taskmanager, of the {} MiB that live objects have. Set the state's memoryMib (--state-memory-mib) to {} or more and give the taskmanager that memory, or raise the job's parallelism over more taskmanagers",
                self.operator,
                self.what,
                mib(self.used),
                mib(all),
                mib(limit),
                mib(need)
            ),
        )
    }
}

impl Drop for FixedShare {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.used, Ordering::Relaxed);
        self.memory.fixed.fetch_sub(self.used, Ordering::Relaxed);
    }
}
