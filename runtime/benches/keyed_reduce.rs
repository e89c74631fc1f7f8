//! Keyed reduce against a handwritten loop, in one process: `cargo bench --bench keyed_reduce -- [N] [RUNS]`.
//!
//! Definition of the job: the splitmix64 of the sequence number picks one of K titles, money is 1 to 64; keyed by title, the
//! running sum goes to a counting sink after every record. The loop does the same over `&str` and a flat hash map.
use hashbrown::HashMap;
use std::sync::Arc;
use std::time::Instant;
use weir::connectors::{Blackhole, Generator};
use weir::data::Str;
use weir::dataflow::harness::Harness;
use weir::job::Job;
use weir_derive::Record;

#[inline(always)]
fn mix(i: u64) -> u64 {
    let mut z = i.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x0123_4567);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
#[inline(always)]
fn pick(h: u64, k: u64) -> usize {
    (((h >> 32) * k) >> 32) as usize
}

#[derive(Clone, Record)]
struct Order {
    title: Str,
    money: i64,
}

fn weir(n: u64, k: u64, parallelism: u32) -> f64 {
    let titles: Arc<Vec<Str>> = Arc::new((0..k).map(|i| Str::from(format!("video-{i}"))).collect());
    let mut job = Job::default();
    let generator = Generator::new(n, move |i| {
        let h = mix(i);
        Order { title: titles[pick(h, k)].clone(), money: (h & 63) as i64 + 1 }
    });
    job.source("orders", generator)
        .key_by(|o| &o.title)
        .reduce("sum", |sum: &mut Order, o: Order| sum.money += o.money)
        .sink("count", Blackhole);
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
    n as f64 / started.elapsed().as_secs_f64()
}

fn handwritten(n: u64, k: u64) -> f64 {
    let titles: Vec<String> = (0..k).map(|i| format!("video-{i}")).collect();
    let started = Instant::now();
    let mut sums: HashMap<&str, i64, foldhash::fast::RandomState> = HashMap::default();
    let (mut count, mut acc) = (0u64, 0i64);
    for i in 0..n {
        let h = mix(i);
        let sum = sums.entry(titles[pick(h, k)].as_str()).or_insert(0);
        *sum += (h & 63) as i64 + 1;
        count += 1;
        acc ^= *sum;
    }
    assert_eq!(std::hint::black_box((count, acc)).0, n);
    n as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let args: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (n, runs) = (args.first().copied().unwrap_or(50_000_000), args.get(1).copied().unwrap_or(3));
    println!("{:>10} {:>12} {:>12} {:>12} {:>8} {:>8}", "keys", "loop M/s", "p=1 M/s", "p=2 M/s", "p1/loop", "p2/loop");
    for k in [2, 1_000, 1_000_000] {
        let n = if k > 100_000 { n / 3 } else { n };
        let mut rows: Vec<[f64; 3]> = (0..runs).map(|_| [handwritten(n, k), weir(n, k, 1), weir(n, k, 2)]).collect();
        rows.sort_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])));
        let [l, a, b] = rows[rows.len() / 2].map(|x| x / 1e6);
        println!("{k:>10} {l:>12.1} {a:>12.1} {b:>12.1} {:>8.2} {:>8.2}", a / l, b / l);
    }
}
