//! Counters of one subtask: written by its task, read by REST, `/metrics` and the progress line.
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Shared counters of one subtask. Add per batch, never per record.
#[derive(Debug, Clone, Default)]
pub struct TaskMetrics(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    records_in: AtomicU64,
    records_out: AtomicU64,
    /// Of files, and of frames from and to other processes, headers included. Batches within a process have no bytes.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    bad_records: AtomicU64,
    dropped_records: AtomicU64,
    busy_micros: AtomicU64,
    idle_micros: AtomicU64,
    backpressured_micros: AtomicU64,
    /// The watermark with its sign bit turned over, so that 0 is none.
    watermark: AtomicU64,
}

impl TaskMetrics {
    /// Event time that the subtask has reached; ms since the Unix epoch, `i64::MIN` before the first watermark.
    pub fn watermark(&self) -> i64 {
        (self.0.watermark.load(Relaxed) ^ SIGN) as i64
    }
    pub fn set_watermark(&self, ms: i64) {
        self.0.watermark.store(ms as u64 ^ SIGN, Relaxed);
    }
}

const SIGN: u64 = 1 << 63;

macro_rules! counters {
    ($($name:ident $add:ident),* $(,)?) => {
        impl TaskMetrics {
            $(
                pub fn $name(&self) -> u64 { self.0.$name.load(Relaxed) }
                pub fn $add(&self, n: u64) { self.0.$name.fetch_add(n, Relaxed); }
            )*
        }
    };
}
counters! {
    records_in add_records_in, records_out add_records_out, bytes_in add_bytes_in, bytes_out add_bytes_out,
    bad_records add_bad_records, dropped_records add_dropped_records,
    busy_micros add_busy_micros, idle_micros add_idle_micros, backpressured_micros add_backpressured_micros,
}
