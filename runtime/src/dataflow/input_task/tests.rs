//! One task, its channel, and a chain that holds something back: barriers that wait, and those that come meanwhile.
use super::super::gate::InputGate;
use super::super::inlet::One;
use super::super::task::{TaskId, Uploader};
use super::super::writer::ExchangeWriter;
use super::super::{BATCH_RECORDS, Batch, Clock, Stage};
use super::*;
use crate::checkpoint::handles::{SnapshotKind, TaskSnapshot};
use crate::exchange::{ChannelId, Channels, Element, Sender};
use crate::graph::Partition;
use crate::observe::TaskMetrics;
use futures::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Context;
use tokio::sync::mpsc;
use weir_api::ids::Attempt;

/// A chain that holds something back until it is let go; keeps the barriers that pass.
#[derive(Clone, Default)]
struct Holds(Arc<Held>);

#[derive(Default)]
struct Held {
    let_go: AtomicBool,
    waker: AtomicWaker,
    passed: Mutex<Vec<u64>>,
}

impl Stage<u64> for Holds {
    fn process(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        if let Signal::Barrier { barrier, .. } = signal {
            self.0.passed.lock().unwrap().push(barrier.id.0);
        }
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.waker.register(cx.waker());
        if self.0.let_go.load(SeqCst) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

struct Nowhere;
impl Uploader for Nowhere {
    fn upload(&self, _: TaskId, _: Barrier, _: SnapshotParts) -> BoxFuture<'static, Result<TaskSnapshot>> {
        async { Ok(TaskSnapshot::default()) }.boxed()
    }
}

struct Test {
    sender: Sender<u64>,
    events: mpsc::UnboundedReceiver<(TaskId, TaskEvent)>,
    /// The task ends when its jobmanager is gone.
    commands: mpsc::UnboundedSender<TaskCommand>,
    held: Arc<Held>,
}

fn start() -> Test {
    let chain = Holds::default();
    let held = chain.0.clone();
    let (sender, events, commands) = run(Box::new(chain), TaskMetrics::default());
    Test { sender, events, commands, held }
}

type Ends = (Sender<u64>, mpsc::UnboundedReceiver<(TaskId, TaskEvent)>, mpsc::UnboundedSender<TaskCommand>);

/// A task with one channel and this chain.
fn run(chain: Box<dyn Stage<u64>>, metrics: TaskMetrics) -> Ends {
    let (channels, id) = (Channels::in_process(Attempt(1)), ChannelId { edge: 0, producer: 0, consumer: 0 });
    let (sender, receiver) = (channels.sender(id, None).unwrap(), channels.receiver(id, false).unwrap());
    let (commands, receive_commands) = mpsc::unbounded_channel();
    let (send_events, events) = mpsc::unbounded_channel();
    let io = TaskIo {
        id: TaskId { vertex: 1, subtask: 0 },
        commands: receive_commands,
        events: send_events,
        uploader: Arc::new(Nowhere),
        control: tokio::runtime::Handle::current(),
        buffer_timeout: Duration::from_millis(10),
        clock: Clock::manual(0),
        metrics,
    };
    let task = InputTask(One::new(InputGate::new(vec![receiver]), chain));
    tokio::spawn(Box::new(task).run(io));
    (sender, events, commands)
}

impl Test {
    fn barrier(&mut self, id: u64, kind: SnapshotKind) {
        let (id, attempt, directory) = (CheckpointId(id), Attempt(1), format!("chk-{id}"));
        self.sender.send(Element::Barrier(Barrier { id, attempt, kind, directory, aligned: true })).unwrap();
    }
    /// What the task answers next to a barrier.
    async fn answer(&mut self) -> (&'static str, u64) {
        loop {
            match self.events.recv().await.unwrap().1 {
                TaskEvent::Declined { checkpoint, reason } => {
                    assert!(reason.message.contains("a newer barrier arrived first"), "{reason}");
                    return ("declined", checkpoint.0);
                }
                TaskEvent::Snapshot { checkpoint, .. } => return ("snapshot", checkpoint.0),
                TaskEvent::Failed(e) => panic!("{e}"),
                _ => {}
            }
        }
    }
}

/// A barrier that drains waits for what the chain holds back. One that arrives meanwhile may not: then the older one must
/// never pass behind it, where it would commit what is part of neither.
#[tokio::test]
async fn a_newer_barrier_puts_an_end_to_one_that_is_held() {
    for newer in [SnapshotKind::Checkpoint, SnapshotKind::Final] {
        let mut t = start();
        t.sender.send(Element::EndOfInput).unwrap();
        t.barrier(1, SnapshotKind::Final);
        t.barrier(2, newer);
        assert_eq!(t.answer().await, ("declined", 1));
        if newer == SnapshotKind::Checkpoint {
            assert_eq!(t.answer().await, ("snapshot", 2), "it does not wait");
        }
        t.held.let_go.store(true, SeqCst);
        t.held.waker.wake();
        if newer == SnapshotKind::Final {
            assert_eq!(t.answer().await, ("snapshot", 2));
        }
        t.barrier(3, SnapshotKind::Checkpoint);
        assert_eq!(t.answer().await, ("snapshot", 3));
        assert_eq!(*t.held.passed.lock().unwrap(), [2, 3]);
        drop(t.commands);
    }
}

/// A chain that works for a while on each batch, and has no room behind it until it is let go.
struct Works(Arc<Held>);
const WORK: Duration = Duration::from_millis(30);

impl Stage<u64> for Works {
    fn process(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        std::thread::sleep(WORK);
        batch.clear();
        self.0.passed.lock().unwrap().push(0);
        Ok(())
    }
    fn signal(&mut self, _: &mut Signal<'_>) -> Result<()> {
        Ok(())
    }
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.0.waker.register(cx.waker());
        let free = self.0.let_go.load(SeqCst) || self.0.passed.lock().unwrap().is_empty();
        if free { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

#[tokio::test]
async fn work_before_a_wait_for_room_is_work() {
    let (held, metrics) = (Arc::<Held>::default(), TaskMetrics::default());
    let (mut sender, mut events, _commands) = run(Box::new(Works(held.clone())), metrics.clone());
    sender.send(Element::Batch(Batch { records: vec![1], ..Batch::default() })).unwrap();
    while held.passed.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    held.let_go.store(true, SeqCst);
    held.waker.wake();
    let (id, attempt, kind) = (CheckpointId(1), Attempt(1), SnapshotKind::Checkpoint);
    sender.send(Element::Barrier(Barrier { id, attempt, kind, directory: "chk-1".into(), aligned: true })).unwrap();
    while !matches!(events.recv().await.unwrap().1, TaskEvent::Snapshot { .. }) {}
    let busy = Duration::from_micros(metrics.busy_micros());
    // a sleep is never shorter; it lies between two reads of the clock, each of which counts whole microseconds
    assert!(busy >= WORK - Duration::from_micros(2), "{busy:?} of {WORK:?}");
}

/// The first channel is full and nobody takes anything out of it: what was collected for the other one must leave in time.
#[tokio::test]
async fn a_full_channel_does_not_keep_what_is_for_another() {
    let channels = Channels::in_process(Attempt(1));
    let id = |consumer| ChannelId { edge: 1, producer: 0, consumer };
    let senders = [0, 1].map(|c| channels.sender::<u64>(id(c), None).unwrap());
    let [_full, mut other] = [0, 1].map(|c| channels.receiver::<u64>(id(c), false).unwrap());
    let metrics = TaskMetrics::default();
    let writer = ExchangeWriter::new(Partition::Hash, senders.into(), 0, 128, metrics.clone());
    let (mut sender, _events, _commands) = run(Box::new(writer), metrics);
    let batch = |n: usize, hash: u64| Batch { records: vec![7; n], hashes: vec![hash; n], ..Batch::default() };
    sender.send(Element::Batch(batch(1, u64::MAX))).unwrap();
    for _ in 0..10 {
        sender.send(Element::Batch(batch(BATCH_RECORDS, 0))).unwrap();
    }
    let received = std::future::poll_fn(|cx| other.poll_recv(cx));
    let received = tokio::time::timeout(Duration::from_secs(20), received).await.expect("it is kept");
    assert!(matches!(received.unwrap(), Some(Element::Batch(b)) if b.records == [7]));
}
