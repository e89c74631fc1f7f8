//! Raw state: whole partitions at any parallelism, with or without keys, in functions, sources and sinks.
use super::*;
use crate::checkpoint::handles::SnapshotKind;
use crate::checkpoint::storage::Storage;
use crate::connectors::sink::{Committable, Sink, SinkContext, SinkWriter};
use crate::connectors::source::{ReadStatus, Source, SourceContext, SourceReader, Split};
use crate::dataflow::harness::{Harness, Setup, job};
use crate::dataflow::{Batch, Output};
use crate::graph::{LogicalGraph, key_group};
use crate::job::{Job, KeyedProcessFunction, ProcessFunction, RuntimeContext, Stream};
use crate::state::{KeyRef, ValueState};
use crate::testing::OperatorHarness;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use weir_api::ids::CheckpointId;

/// Keeps a partition of `n` bytes for each record `n`; says what it has at `u64::MAX`.
struct Keep {
    image: RawState,
    mine: Vec<Vec<u8>>,
    subtask: u64,
}

impl Keep {
    fn new() -> Self {
        Self { image: RawState::new("image"), mine: Vec::new(), subtask: 0 }
    }
}

fn bytes(n: u64) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + n) as u8).collect()
}

impl ProcessFunction for Keep {
    type In = u64;
    type Out = (u64, u64);
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        vec![&mut self.image]
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.subtask = u64::from(cx.subtask);
        self.mine = self.image.partitions().map(<[u8]>::to_vec).collect();
        Ok(())
    }
    fn process(&mut self, n: u64, out: &mut Output<(u64, u64)>) -> Result<()> {
        if n < u64::MAX {
            self.mine.push(bytes(n));
            return Ok(());
        }
        for partition in &self.mine {
            let n = partition.len() as u64;
            assert_eq!(*partition, bytes(n));
            out.push((self.subtask, n));
        }
        Ok(())
    }
    fn snapshot(&mut self) -> Result<()> {
        self.image.clear();
        self.mine.iter().for_each(|p| self.image.add_partition().extend(p));
        Ok(())
    }
}

#[test]
fn partitions_are_dealt_out_whole_and_stay_in_order_where_they_were() {
    // one that is empty, some of several chunks, one that ends with a chunk
    let sizes = [5, 0, 200_000, CHUNK as u64, 1, 70_000, 9, 3];
    for (from, to) in [(1, 1), (2, 2), (1, 3), (2, 4), (3, 2), (4, 1)] {
        let mut h =
            OperatorHarness::with_parallelism(from, |s: Stream<u64>| s.broadcast().process(Keep::new).name("keep"))
                .unwrap();
        h.push_all(sizes).unwrap();
        // the second one holds what the first did
        h.snapshot().unwrap();
        let snapshot = h.snapshot().unwrap();
        let mut h = h.restore(&snapshot, to).unwrap();
        h.push(u64::MAX).unwrap();
        let said = h.output().unwrap();
        let of = |subtask: u64| said.iter().filter(|s| s.0 == subtask).map(|s| s.1).collect::<Vec<_>>();
        for subtask in 0..u64::from(to) {
            match from == to {
                true => assert_eq!(of(subtask), sizes, "from {from} to {to}"),
                false => assert!(!of(subtask).is_empty(), "from {from} to {to}: subtask {subtask} has nothing"),
            }
        }
        let mut all: Vec<u64> = said.iter().map(|s| s.1).collect();
        all.sort_unstable();
        let mut expected: Vec<u64> = (0..from).flat_map(|_| sizes).collect();
        expected.sort_unstable();
        assert_eq!(all, expected, "from {from} to {to}");
    }
}

/// Counts its keys in a map of its own.
struct Counts {
    image: RawState,
    counts: BTreeMap<u64, u64>,
    max_parallelism: u32,
}

impl KeyedProcessFunction for Counts {
    type Key = u64;
    type In = u64;
    type Out = (u64, u64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.image]
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.max_parallelism = cx.max_parallelism;
        for group in self.image.key_groups() {
            let mut bytes = self.image.get_key_group(group).unwrap_or_default();
            while !bytes.is_empty() {
                let damaged = |e: crate::data::DecodeError| Error::internal(e.to_string());
                let (key, n) = <(u64, u64)>::decode(&mut bytes).map_err(damaged)?;
                self.counts.insert(key, n);
            }
        }
        Ok(())
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, _: &u64, out: &mut Output<(u64, u64)>) -> Result<()> {
        let n = self.counts.entry(*key.key).or_default();
        *n += 1;
        out.push((*key.key, *n));
        Ok(())
    }
    fn snapshot(&mut self) -> Result<()> {
        self.image.clear();
        for (key, n) in &self.counts {
            let group = key_group(key.key_hash(), self.max_parallelism);
            (*key, *n).encode(self.image.key_group(group)?);
        }
        Ok(())
    }
}

#[test]
fn partitions_of_key_groups_go_where_the_keys_go() {
    for (from, to) in [(1, 3), (3, 2), (2, 2)] {
        let mut h = OperatorHarness::with_parallelism(from, |s: Stream<u64>| {
            let make = || Counts { image: RawState::new("image"), counts: BTreeMap::new(), max_parallelism: 1 };
            s.key_by(|i| i).process_function("counts", make)
        })
        .unwrap();
        h.push_all((0..100).chain(50..100)).unwrap();
        h.output().unwrap();
        let snapshot = h.snapshot().unwrap();
        let mut h = h.restore(&snapshot, to).unwrap();
        h.push_all(0..100).unwrap();
        let mut out = h.output().unwrap();
        out.sort_unstable();
        assert_eq!(out, (0..100).map(|k| (k, if k < 50 { 2 } else { 3 })).collect::<Vec<_>>(), "from {from} to {to}");
    }
    let mut s = RawState::new("image");
    KeyedTable::<u64>::own(&mut s, &(4..8));
    let e = s.key_group(8).unwrap_err();
    assert!(
        e.message.contains("\"image\"") && e.message.contains("key group 8") && e.message.contains("4 to 7"),
        "{e}"
    );
}

/// What readers and writers had at their start, and then note themselves.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

/// Ends at once, when it is told to.
#[derive(Clone)]
struct Numbers {
    seen: Seen,
    ends: bool,
}
struct Noted {
    raw: RawState,
    seen: Seen,
    started: bool,
    ends: bool,
}

impl Noted {
    fn start(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            let had = self.raw.partitions().map(|p| String::from_utf8(p.to_vec()).unwrap());
            self.seen.0.lock().unwrap().extend(had);
        }
    }
    fn note(&mut self, what: &str) {
        self.start();
        self.raw.clear();
        self.raw.add_partition().extend(what.as_bytes());
    }
}

impl Source for Numbers {
    type Record = u64;
    type Reader = Noted;
    fn enumerate(&self, _: u32) -> Result<Vec<Split>> {
        Ok(vec![vec![1]])
    }
    fn reader(&self, _: &SourceContext, _: Vec<Split>) -> Result<Noted> {
        Ok(Noted { raw: RawState::new("raw"), seen: self.seen.clone(), started: false, ends: self.ends })
    }
}
impl SourceReader for Noted {
    type Record = u64;
    fn read(&mut self, out: &mut Output<u64>, _: Instant) -> Result<ReadStatus> {
        self.start();
        if self.ends {
            out.push(7);
        }
        Ok(if self.ends { ReadStatus::End } else { ReadStatus::Wait(None) })
    }
    fn snapshot(&mut self) -> Result<Vec<Split>> {
        self.note("by the source");
        Ok(vec![vec![1]])
    }
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        vec![&mut self.raw]
    }
}
impl Sink<u64> for Numbers {
    type Writer = Noted;
    fn recover(&self, _: &SinkContext, _: Vec<Committable>) -> Result<()> {
        Ok(())
    }
    fn writer(&self, _: &SinkContext) -> Result<Noted> {
        Ok(Noted { raw: RawState::new("raw"), seen: self.seen.clone(), started: false, ends: self.ends })
    }
}
impl SinkWriter<u64> for Noted {
    fn write(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        self.start();
        batch.clear();
        Ok(())
    }
    fn prepare_commit(&mut self, _: CheckpointId) -> Result<Vec<Committable>> {
        self.note("by the sink");
        Ok(Vec::new())
    }
    fn commit(&mut self, _: CheckpointId) -> Result<()> {
        Ok(())
    }
    fn raw_states(&mut self) -> Vec<&mut RawState> {
        vec![&mut self.raw]
    }
}

#[test]
fn sources_and_sinks_have_raw_state_beside_splits_and_commits() {
    let seen = Seen::default();
    let declare = |ends: bool| -> LogicalGraph {
        let mut job = Job::default();
        let numbers = Numbers { seen: seen.clone(), ends };
        job.source("in", numbers.clone()).sink("out", numbers);
        job.into_graph()
    };
    let storage = Storage::open("memory:raw-state", &job()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let setup = Setup { storage: Some(storage), ..Setup::new(3) };
        let mut first = Harness::start_with(declare(false), setup).await.unwrap();
        let snapshot = first.snapshot(SnapshotKind::Checkpoint).await.unwrap();
        assert!(seen.0.lock().unwrap().is_empty());
        first.restore(&snapshot, declare(true), 2).await.unwrap().finish().await.unwrap();
    });
    let mut seen = seen.0.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, ["by the sink", "by the sink", "by the sink", "by the source", "by the source", "by the source"]);
}

#[test]
fn raw_state_needs_a_name_and_is_not_taken_for_another_kind() {
    let e = OperatorHarness::new(|s: Stream<u64>| s.process(Keep::new)).err().unwrap();
    assert!(e.message.contains("keeps state and has no name"), "{e}");
    struct Last(ValueState<u64, u64>);
    impl KeyedProcessFunction for Last {
        type Key = u64;
        type In = u64;
        type Out = (u64, u64);
        fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
            vec![&mut self.0]
        }
        fn process(&mut self, key: &KeyRef<'_, u64>, n: &u64, _: &mut Output<(u64, u64)>) -> Result<()> {
            self.0.update(key, *n);
            Ok(())
        }
    }
    let raw = Arc::new(Mutex::new(false));
    let is_raw = raw.clone();
    let mut h = OperatorHarness::new(move |s: Stream<u64>| match *is_raw.lock().unwrap() {
        true => s.process(Keep::new).name("op"),
        false => s.key_by(|i| i).process_function("op", || Last(ValueState::new("image"))),
    })
    .unwrap();
    h.push(1).unwrap();
    let snapshot = h.snapshot().unwrap();
    *raw.lock().unwrap() = true;
    let e = h.restore(&snapshot, 1).err().unwrap();
    assert!(e.message.contains("is a Value state in it and a Raw state in the job"), "{e}");
}
