use super::*;
use crate::checkpoint::handles::{Barrier, SnapshotKind};
use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use weir_api::ids::{Attempt, CheckpointId};

struct Counter(AtomicUsize);
impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
/// A waker and the number of its wake-ups.
fn counted() -> (Waker, Arc<Counter>) {
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    (Waker::from(counter.clone()), counter)
}
fn wakes(c: &Counter) -> usize {
    c.0.load(Ordering::SeqCst)
}
fn block_on<F: Future>(f: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(f)
}
fn batch(records: impl IntoIterator<Item = u64>) -> Element<u64> {
    Element::Batch(Batch { records: records.into_iter().collect(), ..Batch::default() })
}
fn barrier(id: u64) -> Element<u64> {
    Element::Barrier(Barrier {
        id: CheckpointId(id),
        attempt: Attempt(1),
        kind: SnapshotKind::Checkpoint,
        directory: format!("chk-{id}"),
        aligned: true,
    })
}
fn text(e: Poll<Result<Option<Element<u64>>>>) -> String {
    match e {
        Poll::Pending => "pending".into(),
        Poll::Ready(Err(e)) => format!("error {e}"),
        Poll::Ready(Ok(None)) => "none".into(),
        Poll::Ready(Ok(Some(Element::Batch(b)))) => format!("{:?}", b.records),
        Poll::Ready(Ok(Some(Element::Watermark(w)))) => format!("watermark {w}"),
        Poll::Ready(Ok(Some(Element::Idle(w)))) => format!("idle at {w}"),
        Poll::Ready(Ok(Some(Element::Barrier(b)))) => format!("barrier {}", b.id),
        Poll::Ready(Ok(Some(Element::EndOfInput))) => "end".into(),
    }
}

#[test]
fn elements_arrive_in_order_then_none() {
    let (mut tx, mut rx) = channel(2, false);
    let (waker, woken) = counted();
    let cx = &mut Context::from_waker(&waker);
    assert_eq!(text(rx.poll_recv(cx)), "pending");
    for e in [batch([1, 2]), Element::Watermark(5), barrier(7), batch([]), batch([3]), Element::EndOfInput] {
        tx.send(e).unwrap();
    }
    assert_eq!(wakes(&woken), 1, "one wake-up for a receiver that waited once");
    drop(tx);
    let got: Vec<_> = (0..6).map(|_| text(rx.poll_recv(cx))).collect();
    assert_eq!(got, ["[1, 2]", "watermark 5", "barrier 7", "[3]", "end", "none"]);
}

#[test]
fn a_full_channel_stops_the_sender_but_no_barrier() {
    let (mut tx, mut rx) = channel(4, false);
    let (waker, woken) = counted();
    let cx = &mut Context::from_waker(&waker);
    for i in 0..4 {
        assert!(tx.poll_ready(cx).is_ready());
        tx.send(batch([i])).unwrap();
    }
    assert!(tx.poll_ready(cx).is_pending());
    tx.send(barrier(1)).unwrap();
    let rcx = &mut Context::from_waker(Waker::noop());
    rx.poll_recv(rcx).is_ready().then_some(()).unwrap();
    assert!(tx.poll_ready(cx).is_pending(), "ready again at half, not one by one");
    assert_eq!(wakes(&woken), 0);
    assert!(rx.poll_recv(rcx).is_ready());
    assert_eq!(wakes(&woken), 1);
    assert!(tx.poll_ready(cx).is_ready());
    assert_eq!(
        [text(rx.poll_recv(rcx)), text(rx.poll_recv(rcx)), text(rx.poll_recv(rcx))],
        ["[2]", "[3]", "barrier 1"]
    );
}

#[test]
fn unread_watermarks_do_not_pile_up() {
    let (mut tx, mut rx) = channel::<u64>(1, false);
    for w in 0..1000 {
        tx.send(Element::Watermark(w)).unwrap();
    }
    let cx = &mut Context::from_waker(Waker::noop());
    assert_eq!(text(rx.poll_recv(cx)), "watermark 999");
    tx.send(Element::Watermark(1000)).unwrap();
    tx.send(Element::Idle(1000)).unwrap();
    assert_eq!(text(rx.poll_recv(cx)), "idle at 1000");
    assert_eq!(text(rx.poll_recv(cx)), "pending");
}

#[test]
fn batches_go_round() {
    let (mut tx, mut rx) = channel::<u64>(2, false);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut rooms = std::collections::HashSet::new();
    for i in 0..100 {
        let mut b = tx.empty_batch();
        assert!(b.is_empty());
        b.records.push(i);
        b.hashes.push(i);
        rooms.insert(b.records.as_ptr());
        tx.send(Element::Batch(b)).unwrap();
        match rx.poll_recv(cx) {
            Poll::Ready(Ok(Some(Element::Batch(b)))) => rx.recycle(b),
            other => panic!("{}", text(other)),
        }
    }
    assert!(rooms.len() <= 4, "{} allocations for 100 batches", rooms.len());
}

#[test]
fn a_gone_receiver_wakes_and_stops_the_sender() {
    let (mut tx, rx) = channel(1, false);
    let (waker, woken) = counted();
    let cx = &mut Context::from_waker(&waker);
    let alive = Arc::new(());
    tx.send(Element::Batch(Batch { records: vec![alive.clone()], ..Batch::default() })).unwrap();
    assert!(tx.poll_ready(cx).is_pending());
    drop(rx);
    assert_eq!(wakes(&woken), 1);
    assert_eq!(Arc::strong_count(&alive), 1, "what lay in the channel is dropped");
    assert!(matches!(tx.poll_ready(cx), Poll::Ready(Err(e)) if e.code == ErrorCode::Exchange));
    assert!(tx.send(Element::Watermark(1)).is_err());
}

#[test]
fn a_gone_sender_wakes_the_receiver() {
    let (tx, mut rx) = channel::<u64>(1, false);
    let (waker, woken) = counted();
    assert_eq!(text(rx.poll_recv(&mut Context::from_waker(&waker))), "pending");
    drop(tx);
    assert_eq!(wakes(&woken), 1);
    assert_eq!(text(rx.poll_recv(&mut Context::from_waker(Waker::noop()))), "none");
}

#[test]
fn two_threads_lose_nothing_and_stay_bounded() {
    const N: u64 = 20_000;
    let (mut tx, mut rx) = channel(4, false);
    let in_flight = Arc::new(AtomicUsize::new(0));
    let seen = in_flight.clone();
    let producer = std::thread::spawn(move || {
        block_on(async move {
            for i in 0..N {
                std::future::poll_fn(|cx| tx.poll_ready(cx)).await.unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let mut b = tx.empty_batch();
                b.records.push(i);
                tx.send(Element::Batch(b)).unwrap();
            }
        })
    });
    let (mut sum, mut most) = (0, 0);
    block_on(async {
        while let Some(e) = std::future::poll_fn(|cx| rx.poll_recv(cx)).await.unwrap() {
            let Element::Batch(b) = e else { panic!() };
            most = most.max(in_flight.fetch_sub(1, Ordering::SeqCst));
            sum += b.records[0];
            rx.recycle(b);
        }
    });
    producer.join().unwrap();
    assert_eq!(sum, N * (N - 1) / 2);
    assert!(most <= 6, "{most} batches in flight"); // capacity, the one being sent and the one being taken
}

#[test]
fn packed_records_leave_a_batch_with_room_behind() {
    for near in [false, true] {
        let (mut tx, _rx) = channel::<u64>(2, near);
        let mut b = Batch { records: vec![1, 2], hashes: vec![3, 4], timestamps: vec![5, 6] };
        let packed = tx.pack(&mut b);
        assert_eq!((packed.records, packed.hashes, packed.timestamps), (vec![1, 2], vec![3, 4], vec![5, 6]));
        assert!(b.is_empty() && b.hashes.is_empty() && b.timestamps.is_empty() && b.records.capacity() >= 2);
    }
}
