//! Records per second through a channel: within a process, and over loopback TCP. `cargo bench --bench exchange -- [million records] [which]`
//!
//! Records are `{title: Str, money: i64}` with 1,000 titles and a hash column. "per core" divides by the CPU time that the
//! process used, network tasks and kernel included; "codec" is a loop that encodes and decodes without a channel.
use std::future::poll_fn;
use std::hint::black_box;
use std::time::Instant;
use weir::data::{Key, Str};
use weir::dataflow::{BATCH_RECORDS, Batch};
use weir::exchange::{ChannelId, Channels, Element, Exchange, Identity, PeerAddress, Receiver, Sender, batch_codec};
use weir_api::ids::Attempt;

type Order = (Str, i64);
const CHANNEL: ChannelId = ChannelId { edge: 0, producer: 0, consumer: 0 };

struct Generator {
    titles: Vec<Str>,
    i: u64,
}
impl Generator {
    fn new() -> Self {
        Self { titles: (0..1000).map(|i| Str::from(format!("title-{i:06}"))).collect(), i: 0 }
    }
    fn fill(&mut self, batch: &mut Batch<Order>) {
        for _ in 0..BATCH_RECORDS {
            self.i += 1;
            let h = self.i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let title = &self.titles[((u128::from(h) * 1000) >> 64) as usize];
            batch.hashes.push(title.key_hash());
            batch.records.push((title.clone(), (h & 63) as i64 + 1));
        }
    }
}

fn sum(batch: &Batch<Order>) -> i64 {
    batch.records.iter().map(|r| r.1).sum::<i64>() + black_box(batch.hashes.len() as i64)
}

async fn produce(mut tx: Sender<Order>, batches: u64) {
    let mut generator = Generator::new();
    for _ in 0..batches {
        poll_fn(|cx| tx.poll_ready(cx)).await.unwrap();
        let mut batch = tx.empty_batch();
        generator.fill(&mut batch);
        tx.send(Element::Batch(batch)).unwrap();
        // a task gives way now and then
        tokio::task::consume_budget().await;
    }
}

async fn consume(mut rx: Receiver<Order>) -> (u64, i64) {
    let (mut n, mut total) = (0, 0);
    while let Some(element) = poll_fn(|cx| rx.poll_recv(cx)).await.unwrap() {
        if let Element::Batch(batch) = element {
            n += batch.len() as u64;
            total += sum(&batch);
            rx.recycle(batch);
        }
        tokio::task::consume_budget().await;
    }
    (n, total)
}

/// CPU seconds of this process so far, to 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split(' ').filter_map(|f| f.parse().ok()).collect();
    fields.get(10..12).map_or(f64::NAN, |t| (t[0] + t[1]) / 100.0)
}

fn report(name: &str, run: impl FnOnce() -> (u64, i64)) {
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let (n, total) = run();
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let m = n as f64 / 1e6;
    println!(
        "{name:<28} {:7.1} M/s  {:7.1} M/s per core  ({n} records, sum {total}, {wall:.2} s, {cpu:.2} s of CPU)",
        m / wall,
        m / cpu
    );
}

fn codec(batches: u64) -> (u64, i64) {
    let (mut generator, mut batch, mut back, mut bytes) =
        (Generator::new(), Batch::with_room(), Batch::with_room(), vec![]);
    let (mut n, mut total) = (0, 0);
    for _ in 0..batches {
        generator.fill(&mut batch);
        bytes.clear();
        batch_codec::encode(&batch, 0, &mut bytes).unwrap();
        batch.clear();
        batch_codec::decode(&bytes, &mut back).unwrap();
        n += back.len() as u64;
        total += sum(&back);
        back.clear();
    }
    (n, total)
}

fn generate(batches: u64) -> (u64, i64) {
    let (mut generator, mut batch) = (Generator::new(), Batch::with_room());
    let (mut n, mut total) = (0, 0);
    for _ in 0..batches {
        generator.fill(&mut batch);
        n += batch.len() as u64;
        total += sum(&batch);
        batch.clear();
    }
    (n, total)
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}

fn local(batches: u64, threads: usize) -> (u64, i64) {
    runtime(threads).block_on(async {
        let channels = Channels::in_process(Attempt(1));
        let consumer = tokio::spawn(consume(channels.receiver(CHANNEL, false).unwrap()));
        tokio::spawn(produce(channels.sender(CHANNEL, None).unwrap(), batches));
        consumer.await.unwrap()
    })
}

async fn exchange(name: &str) -> (Exchange, Channels) {
    let me = Identity { job: "bench".into(), taskmanager: name.into() };
    let exchange = Exchange::bind("127.0.0.1:0".parse().unwrap(), me).await.unwrap();
    let channels = exchange.begin(Attempt(1)).unwrap();
    (exchange, channels)
}

/// Two taskmanagers as two runtimes of one thread each (one thread in all for `together`).
fn tcp(batches: u64, together: bool) -> (u64, i64) {
    let (a, b) = (runtime(1), runtime(1));
    let (producer_side, consumer_side) = if together { (&a, &a) } else { (&a, &b) };
    let (server, to) = consumer_side.block_on(exchange("consumer"));
    let (_client, from) = producer_side.block_on(exchange("producer"));
    let address = PeerAddress { taskmanager: "consumer".into(), address: server.address().to_string() };
    let consumer = consumer_side.spawn(consume(to.receiver(CHANNEL, true).unwrap()));
    producer_side.spawn(produce(from.sender(CHANNEL, Some(&address)).unwrap(), batches));
    consumer_side.block_on(consumer).unwrap()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let millions: u64 = args.iter().find_map(|a| a.parse().ok()).unwrap_or(100);
    let which = args.iter().find(|a| a.parse::<u64>().is_err()).map_or("", String::as_str);
    let n = millions * 1_000_000 / BATCH_RECORDS as u64;
    let runs: [(&str, fn(u64) -> (u64, i64)); 6] = [
        ("generate only", generate),
        ("codec, no channel", codec),
        ("local, one thread", |n| local(n, 1)),
        ("local, two threads", |n| local(n, 2)),
        ("tcp, one thread", |n| tcp(n, true)),
        ("tcp, a thread for each side", |n| tcp(n, false)),
    ];
    runs.iter().filter(|(name, _)| name.contains(which)).for_each(|(name, run)| report(name, || run(n)));
}
