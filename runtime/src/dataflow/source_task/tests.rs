//! One source in front of two channels, the first of which is full.
use super::super::task::{TaskId, Uploader};
use super::super::writer::ExchangeWriter;
use super::super::{BATCH_RECORDS, Batch, Clock, Stage};
use super::*;
use crate::checkpoint::handles::TaskSnapshot;
use crate::connectors::source::Split;
use crate::exchange::{ChannelId, Channels, Element};
use crate::graph::Partition;
use crate::observe::TaskMetrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use weir_api::ids::Attempt;

const WORK: Duration = Duration::from_millis(2);

/// One record with the highest hash, then batches with the lowest; works for a while on each.
struct Reader(usize);

impl SourceReader for Reader {
    type Record = u64;
    fn read(&mut self, out: &mut Output<u64>, _: Instant) -> Result<ReadStatus> {
        std::thread::sleep(WORK);
        let (n, hash) = if self.0 == 0 { (1, u64::MAX) } else { (BATCH_RECORDS, 0) };
        self.0 += 1;
        out.forward(&mut Batch { records: vec![7; n], hashes: vec![hash; n], ..Batch::default() })?;
        Ok(ReadStatus::More)
    }
    fn snapshot(&mut self) -> Result<Vec<Split>> {
        Ok(Vec::new())
    }
}

struct Nowhere;
impl Uploader for Nowhere {
    fn upload(&self, _: TaskId, _: Barrier, _: SnapshotParts) -> BoxFuture<'static, Result<TaskSnapshot>> {
        async { Ok(TaskSnapshot::default()) }.boxed()
    }
}

#[tokio::test]
async fn a_full_channel_keeps_nothing_that_is_for_another_and_work_stays_work() {
    let channels = Channels::in_process(Attempt(1));
    let id = |consumer| ChannelId { edge: 1, producer: 0, consumer };
    let senders = [0, 1].map(|c| channels.sender::<u64>(id(c), None).unwrap());
    let [mut full, mut other] = [0, 1].map(|c| channels.receiver::<u64>(id(c), false).unwrap());
    let metrics = TaskMetrics::default();
    let writer: Box<dyn Stage<u64>> =
        Box::new(ExchangeWriter::new(Partition::Hash, senders.into(), 0, 128, metrics.clone()));
    let (_commands, commands) = mpsc::unbounded_channel();
    let (events, _events) = mpsc::unbounded_channel();
    let io = TaskIo {
        id: TaskId { vertex: 0, subtask: 0 },
        commands,
        events,
        uploader: Arc::new(Nowhere),
        control: tokio::runtime::Handle::current(),
        // longer than it takes to fill the channel, or nothing would be kept
        buffer_timeout: Duration::from_secs(1),
        clock: Clock::manual(0),
        metrics: metrics.clone(),
    };
    let task = SourceTask { operator: "source".into(), reader: Reader(0), out: Output::new(vec![writer]) };
    tokio::spawn(Box::new(task).run(io));
    let soon = Duration::from_secs(20);
    let received = tokio::time::timeout(soon, poll_fn(|cx| other.poll_recv(cx))).await.expect("it is kept");
    assert!(matches!(received.unwrap(), Some(Element::Batch(b)) if b.records == [7]));
    // it has waited since, and so has counted what it did before
    let mut batches = 0;
    while let Poll::Ready(r) = poll_fn(|cx| Poll::Ready(full.poll_recv(cx))).await {
        batches += u32::from(matches!(r.unwrap(), Some(Element::Batch(_))));
    }
    let (busy, least) = (Duration::from_micros(metrics.busy_micros()), WORK * batches);
    assert!(batches > 0 && busy + Duration::from_micros(100) >= least, "{busy:?} of {least:?}");
}
