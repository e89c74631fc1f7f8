//! Two taskmanagers' exchanges over loopback TCP, and strangers that connect to them.
use super::*;
use crate::checkpoint::handles::{Barrier, SnapshotKind};
use crate::data::Str;
use crate::dataflow::Batch;
use crate::error::ErrorDomain;
use crate::exchange::channels::CAPACITY;
use crate::exchange::credit::MOST_WINDOWS;
use crate::exchange::{ChannelId, Element, Receiver, Sender, frame};
use crate::observe::TaskMetrics;
use std::future::poll_fn;
use std::task::{Context, Waker};
use std::time::Duration;
use weir_api::ids::CheckpointId;

mod strangers;

type Order = (Str, i64);
const CHANNEL: ChannelId = ChannelId { edge: 1, producer: 0, consumer: 2 };

fn identity(name: &str) -> Identity {
    Identity { job: "job-1".into(), taskmanager: name.into() }
}
async fn exchange(name: &str) -> Exchange {
    Exchange::bind("127.0.0.1:0".parse().unwrap(), identity(name)).await.unwrap()
}
fn peer(e: &Exchange) -> PeerAddress {
    PeerAddress { taskmanager: e.me.taskmanager.clone(), address: e.address().to_string() }
}
/// Guards against a test that hangs; nothing waits for it.
async fn soon<F: Future>(f: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), f).await.expect("the test hangs")
}
async fn ready(s: &mut Sender<Order>) -> Result<()> {
    soon(poll_fn(|cx| s.poll_ready(cx))).await
}
async fn recv(r: &mut Receiver<Order>) -> Result<Option<Element<Order>>> {
    soon(poll_fn(|cx| r.poll_recv(cx))).await
}
/// The error that a sender which is still ready will soon hear of.
async fn failed(s: &mut Sender<Order>) -> Error {
    soon(async {
        loop {
            match poll_fn(|cx| s.poll_ready(cx)).await {
                Err(e) => return e,
                Ok(()) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}
fn is_ready(s: &mut Sender<Order>) -> bool {
    s.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready()
}
fn barrier(id: u64, attempt: u64) -> Element<Order> {
    let (id, attempt) = (CheckpointId(id), Attempt(attempt));
    Element::Barrier(Barrier { id, attempt, kind: SnapshotKind::Checkpoint, directory: "chk-1".into(), aligned: true })
}
fn batch(n: i64) -> Element<Order> {
    Element::Batch(Batch { records: vec![(Str::from(format!("title {n}")), n)], ..Batch::default() })
}
fn text(e: Option<Element<Order>>) -> String {
    match e {
        None => "none".into(),
        Some(Element::Batch(b)) => format!("batch {}", b.records[0].1),
        Some(Element::Watermark(w)) => format!("watermark {w}"),
        Some(Element::Idle(w)) => format!("idle at {w}"),
        Some(Element::Barrier(b)) => format!("barrier {} of attempt {}", b.id, b.attempt),
        Some(Element::EndOfInput) => "end".into(),
    }
}

/// Two taskmanagers in attempt 1 with one channel from the first to the second.
struct Pair {
    a: Exchange,
    b: Exchange,
    from: Channels,
    to: Channels,
    tx: Sender<Order>,
    rx: Receiver<Order>,
}

async fn pair() -> Pair {
    let (a, b) = (exchange("tm-a").await, exchange("tm-b").await);
    let (from, to) = (a.begin(Attempt(1)).unwrap(), b.begin(Attempt(1)).unwrap());
    let tx = from.sender(CHANNEL, Some(&peer(&b))).unwrap();
    let rx = to.receiver(CHANNEL, true).unwrap();
    Pair { a, b, from, to, tx, rx }
}

#[tokio::test]
async fn elements_cross_in_order_with_their_columns_then_none() {
    let Pair { mut tx, mut rx, a: _a, b: _b, .. } = pair().await;
    let records: Vec<Order> = (0..1024).map(|i| (Str::from("x".repeat(i % 60)), i as i64)).collect();
    let sent = Batch { hashes: (0..1024).collect(), timestamps: (0..1024).map(|i| -i).collect(), records };
    // everything may be sent before the connection stands
    for e in [
        Element::Batch(sent.clone()),
        Element::Watermark(-5),
        barrier(7, 1),
        batch(3),
        Element::Idle(-5),
        Element::EndOfInput,
        barrier(8, 1),
    ] {
        tx.send(e).unwrap();
    }
    drop(tx);
    let Some(Element::Batch(got)) = recv(&mut rx).await.unwrap() else { panic!() };
    assert_eq!((&got.records, &got.hashes, &got.timestamps), (&sent.records, &sent.hashes, &sent.timestamps));
    let rest = ["watermark -5", "barrier 7 of attempt 1", "batch 3", "idle at -5", "end", "barrier 8 of attempt 1"];
    for want in rest.into_iter().chain(["none", "none"]) {
        assert_eq!(text(recv(&mut rx).await.unwrap()), want);
    }
}

#[tokio::test]
async fn a_sender_waits_for_a_consumer_that_comes_later() {
    let (a, b) = (exchange("tm-a").await, exchange("tm-b").await);
    let mut tx = a.begin(Attempt(4)).unwrap().sender::<Order>(CHANNEL, Some(&peer(&b))).unwrap();
    // a second channel of the same connection proves that it stands, before the first one's consumer is there
    let other = ChannelId { edge: 2, ..CHANNEL };
    let mut tx2 = a.attempts.borrow().open.clone().unwrap().sender::<Order>(other, Some(&peer(&b))).unwrap();
    assert!(!is_ready(&mut tx2));
    // the consumer's taskmanager hears of the attempt after the producer's has connected
    let to = b.begin(Attempt(4)).unwrap();
    let _rx2 = to.receiver::<Order>(other, true).unwrap();
    ready(&mut tx2).await.unwrap();
    assert!(!is_ready(&mut tx));
    tx.send(barrier(1, 4)).unwrap();
    let mut rx = to.receiver::<Order>(CHANNEL, true).unwrap();
    ready(&mut tx).await.unwrap();
    assert_eq!(text(recv(&mut rx).await.unwrap()), "barrier 1 of attempt 4");
}

#[tokio::test]
async fn a_consumer_that_reads_nothing_stops_the_producer() {
    let Pair { mut tx, mut rx, a: _a, b: _b, .. } = pair().await;
    ready(&mut tx).await.unwrap();
    let mut sent = 0;
    while is_ready(&mut tx) {
        tx.send(batch(sent)).unwrap();
        sent += 1;
    }
    assert_eq!(sent, CAPACITY as i64);
    // what is sent all the same stays in the producer
    for i in 0..100 {
        tx.send(batch(sent + i)).unwrap();
    }
    let Sender::Remote(remote) = &tx else { panic!() };
    assert_eq!(remote.waiting(), 100);
    for i in 0..sent + 100 {
        assert_eq!(text(recv(&mut rx).await.unwrap()), format!("batch {i}"));
    }
    ready(&mut tx).await.unwrap();
}

#[tokio::test]
async fn a_slow_consumer_bounds_what_is_in_flight() {
    let Pair { mut tx, mut rx, a: _a, b: _b, .. } = pair().await;
    let in_flight = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = in_flight.clone();
    let producer = tokio::spawn(async move {
        for i in 0..500 {
            ready(&mut tx).await.unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tx.send(batch(i)).unwrap();
        }
    });
    for i in 0..500 {
        assert_eq!(text(recv(&mut rx).await.unwrap()), format!("batch {i}"));
        let n = in_flight.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        // short ones, of which more may be; one is counted before its room is given back
        assert!(n <= CAPACITY * MOST_WINDOWS as usize + 1, "{n} batches in flight");
        tokio::task::yield_now().await;
    }
    producer.await.unwrap();
    assert_eq!(text(recv(&mut rx).await.unwrap()), "none");
}

#[tokio::test]
async fn many_channels_share_a_connection_and_end_alone() {
    let Pair { from, to, a: _a, b, tx: mut first, rx: mut first_rx } = pair().await;
    let mut ends = vec![];
    for i in 1..50 {
        let channel = ChannelId { consumer: i + 100, ..CHANNEL };
        let tx = from.sender::<Order>(channel, Some(&peer(&b))).unwrap();
        ends.push((tx, to.receiver::<Order>(channel, true).unwrap()));
    }
    for (i, (tx, rx)) in ends.iter_mut().enumerate() {
        tx.send(batch(i as i64)).unwrap();
        assert_eq!(text(recv(rx).await.unwrap()), format!("batch {i}"));
    }
    // a consumer that goes stops its own producer only
    let (mut tx, rx) = ends.pop().unwrap();
    ready(&mut tx).await.unwrap();
    drop(rx);
    let e = failed(&mut tx).await;
    assert!(e.code == ErrorCode::Exchange && e.message.contains("tm-b") && e.message.contains("subtask 149"), "{e}");
    assert!(tx.send(batch(1)).is_err());
    first.send(batch(77)).unwrap();
    assert_eq!(text(recv(&mut first_rx).await.unwrap()), "batch 77");
    assert_eq!((from.network_tasks(), to.network_tasks()), (1, 1), "one connection");
}

#[tokio::test]
async fn long_records_cross_and_batches_are_reused() {
    let Pair { mut tx, mut rx, a: _a, b: _b, .. } = pair().await;
    let long = Str::from("long ".repeat(2 << 20));
    let mut rooms = std::collections::HashSet::new();
    for i in 0..30i64 {
        ready(&mut tx).await.unwrap();
        let mut b = tx.empty_batch();
        b.records.push((if i == 7 { long.clone() } else { Str::default() }, i));
        b.records.push((Str::from("short"), i));
        tx.send(Element::Batch(b)).unwrap();
        let mut records = vec![];
        while records.len() < 2 {
            let Some(Element::Batch(mut b)) = recv(&mut rx).await.unwrap() else { panic!() };
            rooms.insert(b.records.as_ptr());
            records.append(&mut b.records);
            rx.recycle(b);
        }
        assert!(records[0].1 == i && (records[0].0 == long) == (i == 7) && records[1].0 == "short");
    }
    assert_eq!(rooms.len(), 1);
}

#[tokio::test]
async fn a_lost_producer_process_is_noticed_by_name() {
    let Pair { mut tx, mut rx, a, b: _b, .. } = pair().await;
    ready(&mut tx).await.unwrap();
    let other = tokio::spawn(async move { recv(&mut rx).await });
    drop(a); // closes its connections, as a killed process does
    let e = other.await.unwrap().unwrap_err();
    assert_eq!((e.domain, e.code), (ErrorDomain::External, ErrorCode::Connection));
    assert!(e.message.contains("taskmanager tm-a at 127.0.0.1"), "{e}");
}

#[tokio::test]
async fn a_lost_consumer_process_is_noticed_by_name() {
    let Pair { mut tx, rx: _rx, a: _a, b, .. } = pair().await;
    ready(&mut tx).await.unwrap();
    while is_ready(&mut tx) {
        tx.send(batch(0)).unwrap();
    }
    let waiting = tokio::spawn(async move { (ready(&mut tx).await, tx.send(batch(1)), tx.send(barrier(1, 1))) });
    let address = b.address();
    drop(b);
    let (e, sent, barrier) = waiting.await.unwrap();
    let e = e.unwrap_err();
    assert_eq!((e.domain, e.code), (ErrorDomain::External, ErrorCode::Connection));
    assert!(e.message.contains(&format!("taskmanager tm-b at {address}")), "{e}");
    assert!(sent.is_err() && barrier.is_err());
}

#[tokio::test]
async fn both_ends_count_the_bytes_between_processes_and_only_those() {
    let Pair { tx, rx, a: _a, b: _b, from, .. } = pair().await;
    let (sent, received) = (TaskMetrics::default(), TaskMetrics::default());
    let (mut tx, mut rx) = (tx.counted(&sent), rx.counted(&received));
    for e in [batch(1), Element::Watermark(3), barrier(1, 1), Element::EndOfInput] {
        tx.send(e).unwrap();
    }
    while text(recv(&mut rx).await.unwrap()) != "end" {}
    let bytes = sent.bytes_out();
    assert!(bytes > 4 * frame::HEADER_BYTES as u64 + "title 1".len() as u64, "{bytes}");
    assert_eq!((sent.bytes_in(), received.bytes_in(), received.bytes_out()), (0, bytes, 0));
    let near = ChannelId { edge: 2, ..CHANNEL };
    let mut tx = from.sender::<Order>(near, None).unwrap().counted(&sent);
    let mut rx = from.receiver::<Order>(near, false).unwrap().counted(&received);
    tx.send(batch(1)).unwrap();
    assert_eq!(text(recv(&mut rx).await.unwrap()), "batch 1");
    assert_eq!((sent.bytes_out(), received.bytes_in()), (bytes, bytes));
}

#[tokio::test]
async fn a_taskmanager_that_is_not_there_is_named() {
    let a = exchange("tm-a").await;
    let nobody = exchange("tm-b").await;
    let address = peer(&nobody);
    drop(nobody);
    let channels = a.begin(Attempt(1)).unwrap();
    let mut tx = channels.sender::<Order>(CHANNEL, Some(&address)).unwrap();
    let e = ready(&mut tx).await.unwrap_err();
    assert!(e.code == ErrorCode::Connection && e.message.contains(&format!("cannot connect to {address}")), "{e}");
    // also for the channels that come later
    let late = channels.sender::<Order>(ChannelId { edge: 9, ..CHANNEL }, Some(&address));
    assert!(late.is_err_and(|e| e.message.contains("tm-b")));
}

#[tokio::test]
async fn a_new_attempt_cancels_the_old_one_at_both_ends() {
    let Pair { mut tx, mut rx, a, b, from, to } = pair().await;
    ready(&mut tx).await.unwrap();
    let waiting = tokio::spawn(async move { recv(&mut rx).await });
    let to2 = b.begin(Attempt(2)).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().code, ErrorCode::Fenced);
    assert!(to.receiver::<Order>(CHANNEL, true).is_err());
    // the other process has not heard of it: its connection is closed, and a new one of the old attempt is refused
    assert_eq!(failed(&mut tx).await.code, ErrorCode::Connection);
    drop(from);
    let c = exchange("tm-c").await;
    let mut tx = c.begin(Attempt(1)).unwrap().sender::<Order>(CHANNEL, Some(&peer(&b))).unwrap();
    let e = ready(&mut tx).await.unwrap_err();
    assert!(e.message.contains("fenced: it is in attempt 1, taskmanager tm-b in 2"), "{e}");
    assert_eq!(b.begin(Attempt(2)).err().unwrap().code, ErrorCode::Fenced);
    assert_eq!(b.begin(Attempt(1)).err().unwrap().code, ErrorCode::Fenced);
    // the next attempt uses the same channel
    let mut tx = a.begin(Attempt(2)).unwrap().sender(CHANNEL, Some(&peer(&b))).unwrap();
    let mut rx = to2.receiver(CHANNEL, true).unwrap();
    tx.send(batch(5)).unwrap();
    assert_eq!(text(recv(&mut rx).await.unwrap()), "batch 5");
    // and when it has ended, nobody gets in
    b.end(Attempt(1));
    tx.send(batch(6)).unwrap();
    assert_eq!(text(recv(&mut rx).await.unwrap()), "batch 6");
    b.end(Attempt(2));
    assert_eq!(recv(&mut rx).await.unwrap_err().code, ErrorCode::Fenced);
    let c = exchange("tm-c").await;
    let mut tx = c.begin(Attempt(2)).unwrap().sender::<Order>(CHANNEL, Some(&peer(&b))).unwrap();
    assert!(ready(&mut tx).await.unwrap_err().message.contains("attempt 2 has ended on taskmanager tm-b"));
}

#[tokio::test]
async fn cancelling_wakes_whoever_waits() {
    let Pair { mut tx, mut rx, a: _a, b: _b, from, to } = pair().await;
    ready(&mut tx).await.unwrap();
    while is_ready(&mut tx) {
        tx.send(batch(0)).unwrap();
    }
    let producer = tokio::spawn(async move { ready(&mut tx).await });
    from.close();
    assert_eq!(producer.await.unwrap().unwrap_err().code, ErrorCode::Fenced);
    let consumer = tokio::spawn(async move {
        loop {
            if let Err(e) = recv(&mut rx).await {
                return e;
            }
        }
    });
    to.close();
    assert!(matches!(consumer.await.unwrap().code, ErrorCode::Fenced | ErrorCode::Connection));
    assert!(to.sender::<Order>(CHANNEL, None).is_err());
}

#[tokio::test]
async fn ends_within_a_process_meet_in_either_order_and_once() {
    let channels = Channels::in_process(Attempt(1));
    let other = ChannelId { edge: 2, ..CHANNEL };
    let mut tx = channels.sender::<Order>(CHANNEL, None).unwrap();
    let mut rx = channels.receiver::<Order>(CHANNEL, false).unwrap();
    let mut rx2 = channels.receiver::<Order>(other, false).unwrap();
    let mut tx2 = channels.sender::<Order>(other, None).unwrap();
    tx.send(batch(1)).unwrap();
    tx2.send(batch(2)).unwrap();
    assert_eq!(text(recv(&mut rx).await.unwrap()), "batch 1");
    assert_eq!(text(recv(&mut rx2).await.unwrap()), "batch 2");
    assert!(channels.sender::<Order>(CHANNEL, None).is_err() && channels.receiver::<Order>(CHANNEL, false).is_err());
    // an end that never met its other goes with the attempt
    let mut alone = channels.receiver::<Order>(ChannelId { edge: 3, ..CHANNEL }, false).unwrap();
    channels.close();
    assert_eq!(text(recv(&mut alone).await.unwrap()), "none");
}
