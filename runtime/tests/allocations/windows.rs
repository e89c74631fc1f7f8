//! Windows: a new pane takes the room of one that was dropped.
use super::counting::allocations_here;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use weir::connectors::{Blackhole, Generator};
use weir::dataflow::harness::Harness;
use weir::job::window::Tumbling;
use weir::job::{Job, WatermarkStrategy};

const RECORDS: u64 = 600_000;
const WARM: u64 = 200_000;
const KEYS: u64 = 10_000;

#[test]
fn windows_come_and_go_without_allocations() {
    let (warm, last) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (w, l) = (warm.clone(), last.clone());
    // 100 records a ms, in windows of 500 ms: 50,000 records and nearly all keys in each
    let record = move |i: u64| {
        match i {
            WARM => w.store(allocations_here(), Relaxed),
            i if i == RECORDS - 1 => l.store(allocations_here(), Relaxed),
            _ => {}
        }
        (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % KEYS, i)
    };
    let mut job = Job::default();
    let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(50));
    job.source("records", Generator::new(RECORDS, record))
        .watermarks(strategy.timestamps(|r: &(u64, u64)| (r.1 / 100) as i64))
        .key_by(|r| &r.0)
        .window(Tumbling::of(Duration::from_millis(500)))
        .reduce("sum", |sum, r| sum.1 = sum.1.wrapping_add(r.1))
        .sink("out", Blackhole);
    // one thread: nothing but the job runs while it counts
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Harness::start(job.into_graph(), 1).await.unwrap().finish().await.unwrap() });
    let during = last.load(Relaxed) - warm.load(Relaxed);
    assert!(warm.load(Relaxed) > 0 && during <= 10, "{during} allocations for {} records", RECORDS - WARM);
}
