//! In the steady state windows allocate nothing: a new pane takes the room of one that was dropped.
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use weir::connectors::{Blackhole, Generator};
use weir::dataflow::harness::Harness;
use weir::job::window::Tumbling;
use weir::job::{Job, WatermarkStrategy};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system allocator
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

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
            WARM => w.store(ALLOCATIONS.load(Relaxed), Relaxed),
            i if i == RECORDS - 1 => l.store(ALLOCATIONS.load(Relaxed), Relaxed),
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
