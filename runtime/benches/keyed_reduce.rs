//! Keyed reduce against a handwritten loop, in one process: `cargo bench --bench keyed_reduce -- [N] [RUNS]`.
//! Each run of Weir is a process of its own (`local`), with checkpoints off and every second.
//!
//! Definition of the job: the splitmix64 of the sequence number picks one of K titles, money is 1 to 64; keyed by title, the
//! running sum goes to a counting sink after every record. The loop does the same over `&str` and a flat hash map.
use hashbrown::HashMap;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;
use weir::connectors::{Blackhole, Generator};
use weir::data::Str;
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

/// The job as a program of its own: the benchmark runs itself with the subcommand `local`.
#[derive(clap::Args)]
struct Arguments {
    #[arg(long)]
    count: u64,
    #[arg(long)]
    keys: u64,
}

fn keyed_reduce(job: &mut Job, args: &Arguments) -> weir::Result<()> {
    let k = args.keys;
    let titles: Arc<Vec<Str>> = Arc::new((0..k).map(|i| Str::from(format!("video-{i}"))).collect());
    let generator = Generator::new(args.count, move |i| {
        let h = mix(i);
        Order { title: titles[pick(h, k)].clone(), money: (h & 63) as i64 + 1 }
    });
    job.source("orders", generator)
        .key_by(|o| &o.title)
        .reduce("sum", |sum: &mut Order, o: Order| sum.money += o.money)
        .sink("count", Blackhole);
    Ok(())
}

/// Events per second of a run in a process of its own, start and end included; with a checkpoint every second or without.
fn weir(n: u64, k: u64, parallelism: u32, checkpoints: bool) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([
        "local",
        "--count",
        &n.to_string(),
        "--keys",
        &k.to_string(),
        "--parallelism",
        &parallelism.to_string(),
    ]);
    if checkpoints {
        command.arg("--checkpoints").arg(folder.path()).args(["--checkpoint-interval", "1s"]);
    }
    let started = Instant::now();
    let out = command.output().expect("runs");
    let seconds = started.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("finished"), "{text}");
    n as f64 / seconds
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

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|a| a == "local") {
        return weir::main(keyed_reduce);
    }
    let args: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (n, runs) = (args.first().copied().unwrap_or(100_000_000), args.get(1).copied().unwrap_or(5));
    println!("million events per second; medians of {runs} interleaved runs; in brackets the ratio to the loop");
    println!("{:>9} {:>8} {:>16} {:>16} {:>16} {:>16}", "keys", "loop", "p=1", "p=1, 1 s", "p=2", "p=2, 1 s");
    for k in [2, 1_000, 1_000_000] {
        let n = if k > 100_000 { n / 5 } else { n };
        let run = |_| {
            [handwritten(n, k), weir(n, k, 1, false), weir(n, k, 1, true), weir(n, k, 2, false), weir(n, k, 2, true)]
        };
        let rows: Vec<[f64; 5]> = (0..runs).map(run).collect();
        let median = |of: &dyn Fn(&[f64; 5]) -> f64| {
            let mut all: Vec<f64> = rows.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        print!("{k:>9} {:>8.1}", median(&|r| r[0]) / 1e6);
        for i in 1..5 {
            print!(" {:>8.1} ({:.2})", median(&|r| r[i]) / 1e6, median(&|r| r[i] / r[0]));
        }
        println!();
    }
    ExitCode::SUCCESS
}
