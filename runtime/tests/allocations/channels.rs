//! A channel: batches, frame buffers and read chunks go round.
use super::counting::allocations_here;
use std::future::poll_fn;
use weir::data::Str;
use weir::dataflow::{BATCH_RECORDS, Batch};
use weir::exchange::{ChannelId, Channels, Element, Exchange, Identity, PeerAddress, Receiver, Sender};
use weir_api::ids::Attempt;

type Order = (Str, i64);
const CHANNEL: ChannelId = ChannelId { edge: 0, producer: 0, consumer: 0 };

fn fill(batch: &mut Batch<Order>, n: u64) {
    for i in 0..BATCH_RECORDS as u64 {
        batch.records.push((Str::from("title-000123"), i as i64));
        batch.hashes.push(n ^ i);
    }
}

async fn produce(tx: &mut Sender<Order>, batches: u64) {
    for n in 0..batches {
        poll_fn(|cx| tx.poll_ready(cx)).await.unwrap();
        let mut batch = tx.empty_batch();
        fill(&mut batch, n);
        tx.send(Element::Batch(batch)).unwrap();
    }
}

async fn consume(rx: &mut Receiver<Order>, batches: u64) {
    for n in 0..batches {
        let Ok(Some(Element::Batch(batch))) = poll_fn(|cx| rx.poll_recv(cx)).await else { panic!("no batch") };
        assert_eq!((batch.len(), batch.hashes[1]), (BATCH_RECORDS, n ^ 1));
        rx.recycle(batch);
    }
}

/// Allocations while 500 batches pass, after 1,000 others.
async fn steady(mut tx: Sender<Order>, mut rx: Receiver<Order>) -> u64 {
    for _ in 0..2 {
        tokio::join!(produce(&mut tx, 500), consume(&mut rx, 500));
    }
    let before = allocations_here();
    tokio::join!(produce(&mut tx, 500), consume(&mut rx, 500));
    allocations_here() - before
}

#[test]
fn half_a_million_records_pass_without_allocations() {
    // one thread: nothing but the channels runs while it counts
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channels = Channels::in_process(Attempt(1));
        let local = steady(channels.sender(CHANNEL, None).unwrap(), channels.receiver(CHANNEL, false).unwrap()).await;
        assert_eq!(local, 0, "allocations for 500 batches within a process");

        let me = |name: &str| Identity { job: "job".into(), taskmanager: name.into() };
        let any = "127.0.0.1:0".parse().unwrap();
        let (a, b) = (Exchange::bind(any, me("a")).await.unwrap(), Exchange::bind(any, me("b")).await.unwrap());
        let (from, to) = (a.begin(Attempt(1)).unwrap(), b.begin(Attempt(1)).unwrap());
        let address = PeerAddress { taskmanager: "b".into(), address: b.address().to_string() };
        let tx = from.sender(CHANNEL, Some(&address)).unwrap();
        let tcp = steady(tx, to.receiver(CHANNEL, true).unwrap()).await;
        assert!(tcp <= 10, "{tcp} allocations for 500 batches over TCP");
    });
}
