//! Event-time windows against a handwritten loop, in one process: `cargo bench --bench windows -- [N] [RUNS]`.
//!
//! Definition of the job: record number i has the key and the jitter that the splitmix64 of i gives it; 100,000 records make
//! a second of event time, out of order by up to 2,047 ms. Per key the records in tumbling windows of 10 s are counted;
//! watermarks are 2.5 s behind. The loop has a flat hash map per open window and looks at the watermark each 256 records.
use hashbrown::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use weir::connectors::{Blackhole, Generator};
use weir::dataflow::harness::Harness;
use weir::job::window::Tumbling;
use weir::job::{Job, WatermarkStrategy};
use weir::state::AggregateFunction;
use weir_derive::Record;

const PER_SECOND: u64 = 100_000;

#[inline(always)]
fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x0123_4567);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
#[inline(always)]
fn pick(h: u64, k: u64) -> u64 {
    ((h >> 32) * k) >> 32
}

#[derive(Clone, Record)]
struct Event {
    key: u64,
    at_ms: i64,
}

#[inline(always)]
fn event(i: u64, keys: u64) -> Event {
    let h = mix(i);
    Event { key: pick(h, keys), at_ms: 10_000 + (i * 1000 / PER_SECOND) as i64 - (h & 2047) as i64 }
}

#[derive(Clone)]
struct Count;
impl AggregateFunction for Count {
    type In = Event;
    type Acc = u64;
    type Out = u64;
    fn create(&self) -> u64 {
        0
    }
    #[inline(always)]
    fn add(&self, count: &mut u64, _: Event) {
        *count += 1;
    }
    fn result(&self, count: &u64) -> u64 {
        *count
    }
    fn merge(&self, count: &mut u64, other: u64) {
        *count += other;
    }
}

/// Records per second, number of results, sum of the counts (both only if `check`).
fn weir(n: u64, keys: u64, parallelism: u32, check: bool) -> (f64, u64, u64) {
    let (fired, sum) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut job = Job::default();
    let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(2_500));
    let counts = job
        .source("events", Generator::new(n, move |i| event(i, keys)))
        .watermarks(strategy.timestamps(|e: &Event| e.at_ms))
        .key_by(|e| &e.key)
        .window(Tumbling::of(Duration::from_secs(10)))
        .aggregate("count", Count);
    if check {
        let (fired, sum) = (fired.clone(), sum.clone());
        let look = move |count: &u64| {
            fired.fetch_add(1, Relaxed);
            sum.fetch_add(*count, Relaxed);
        };
        counts.inspect(look).sink("out", Blackhole);
    } else {
        counts.sink("out", Blackhole);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(parallelism as usize)
        .enable_all()
        .build()
        .expect("a runtime");
    let started = Instant::now();
    runtime.block_on(async {
        let harness = Harness::start(job.into_graph(), parallelism).await.expect("starts");
        harness.finish().await.expect("finishes");
    });
    (n as f64 / started.elapsed().as_secs_f64(), fired.load(Relaxed), sum.load(Relaxed))
}

/// Records per second, number of results, sum of the counts.
fn handwritten(n: u64, keys: u64) -> (f64, u64, u64) {
    type Counts = HashMap<u64, u64, foldhash::fast::RandomState>;
    let started = Instant::now();
    let mut open: VecDeque<(i64, Counts)> = VecDeque::new();
    let (mut newest, mut fired, mut sum, mut late) = (i64::MIN, 0u64, 0u64, 0u64);
    let mut watermark = i64::MIN;
    for i in 0..n {
        let e = event(i, keys);
        newest = newest.max(e.at_ms);
        let window = e.at_ms - e.at_ms.rem_euclid(10_000);
        if window + 10_000 - 1 <= watermark {
            late += 1;
        } else {
            let slot = open.iter().position(|x| x.0 == window).unwrap_or_else(|| {
                open.push_back((window, HashMap::default()));
                open.len() - 1
            });
            *open[slot].1.entry(e.key).or_insert(0) += 1;
        }
        if i & 255 == 0 {
            watermark = newest - 2_500 - 1;
            while let Some((_, counts)) =
                open.iter().position(|x| x.0 + 10_000 - 1 <= watermark).and_then(|p| open.remove(p))
            {
                for (_, count) in counts {
                    fired += 1;
                    sum += count;
                }
            }
        }
    }
    for (_, counts) in open {
        for (_, count) in counts {
            fired += 1;
            sum += count;
        }
    }
    assert_eq!(std::hint::black_box(late), 0);
    (n as f64 / started.elapsed().as_secs_f64(), fired, sum)
}

fn main() {
    let args: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (n, runs) = (args.first().copied().unwrap_or(50_000_000), args.get(1).copied().unwrap_or(5));
    for p in [1, 2] {
        let (few, keys) = (3_000_000, 100_000);
        let (expected, got) = (handwritten(few, keys), weir(few, keys, p, true));
        assert_eq!((got.1, got.2), (expected.1, expected.2), "results and sum of counts at parallelism {p}");
    }
    println!("{:>10} {:>12} {:>12} {:>12} {:>8} {:>8}", "keys", "loop M/s", "p=1 M/s", "p=2 M/s", "p1/loop", "p2/loop");
    for keys in [1_000, 100_000, 1_000_000] {
        let run = || [handwritten(n, keys).0, weir(n, keys, 1, false).0, weir(n, keys, 2, false).0];
        let rows: Vec<[f64; 3]> = (0..runs).map(|_| run()).collect();
        let median = |of: &dyn Fn(&[f64; 3]) -> f64| {
            let mut all: Vec<f64> = rows.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let [l, a, b] = [0, 1, 2].map(|i| median(&|r| r[i]) / 1e6);
        let ratios = [1, 2].map(|i| median(&|r| r[i] / r[0]));
        println!("{keys:>10} {l:>12.1} {a:>12.1} {b:>12.1} {:>8.2} {:>8.2}", ratios[0], ratios[1]);
    }
}
