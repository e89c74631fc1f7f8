//! The wall clock as operators see it: the system's, or one that a test sets.
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Processing time in ms since the Unix epoch.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

impl Clock {
    /// The system's clock.
    pub const fn system() -> Self {
        Self(None)
    }
    /// A clock that stands still until it is set; clones are the same clock.
    pub fn manual(now_ms: i64) -> Self {
        Self(Some(Arc::new(AtomicI64::new(now_ms))))
    }
    /// It is set by hand.
    pub const fn is_manual(&self) -> bool {
        self.0.is_some()
    }
    /// Sets a manual clock; the system's clock stays as it is.
    pub fn set(&self, now_ms: i64) {
        if let Some(c) = &self.0 {
            c.store(now_ms, SeqCst);
        }
    }
    /// Reads the clock: not for every record.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Some(c) => c.load(SeqCst),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }
        }
    }
}
