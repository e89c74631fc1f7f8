//! Whole graphs in one process: what comes out must be what the declaration says, at any parallelism.
use super::Clock;
use super::deploy::{Deployment, Environment, RunningAttempt, TaskManagerAddress};
use super::harness::{Harness, MAX_PARALLELISM, initial_splits};
use super::task::{TaskCommand, TaskEvent};
use crate::checkpoint::handles::{Barrier, SnapshotKind};
use crate::connectors::{Collect, Generator};
use crate::dataflow::Output;
use crate::error::{ErrorCode, ErrorDomain, Result};
use crate::exchange::{Exchange, Identity};
use crate::graph::JobGraph;
use crate::job::{Job, KeyedProcessFunction, ProcessFunction, RuntimeContext, WatermarkStrategy};
use crate::state::{KeyRef, KeyedTable, ListState, ValueState};
use crate::taskmanager::upload::{StorageFiles, StorageUploader};
use std::sync::Arc;
use weir_api::config::StateConfig;
use weir_api::ids::{Attempt, CheckpointId};

const N: u64 = 20_000;

fn sorted<T: Ord + crate::data::Data>(sink: &Collect<T>) -> Vec<T> {
    let mut all = sink.records();
    all.sort();
    all
}

fn run(parallelism: u32, declare: impl FnOnce(&mut Job)) -> Result<()> {
    let mut job = Job::default();
    declare(&mut job);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { Harness::start(job.into_graph(), parallelism).await?.finish().await })
}

#[test]
fn stateless_operators_do_what_they_say_at_any_parallelism() {
    for p in 1..=3 {
        let sink = Collect::new();
        let to = sink.clone();
        run(p, move |job| {
            let numbers = job.source("numbers", Generator::new(N, |i| i));
            let even = numbers.filter(|i| i % 2 == 0).map(|i| i * 10);
            let odd = numbers
                .filter(|i| i % 2 == 1)
                .flat_map(|i, out: &mut Output<u64>| (0..i % 3).for_each(|_| out.push(i)));
            even.union(&odd).rebalance().inspect(|i| assert!(*i < 10 * N)).sink("out", to);
        })
        .unwrap();
        let mut expected: Vec<u64> = (0..N).filter(|i| i % 2 == 0).map(|i| i * 10).collect();
        expected.extend((0..N).filter(|i| i % 2 == 1).flat_map(|i| vec![i; (i % 3) as usize]));
        expected.sort();
        assert!(sorted(&sink) == expected, "parallelism {p}");
    }
}

#[test]
fn broadcast_gives_each_record_to_every_subtask() {
    let sink = Collect::new();
    let to = sink.clone();
    run(3, move |job| {
        let stream = job.source("numbers", Generator::new(100, |i| i)).parallelism(1);
        stream.broadcast().map(|i| i).sink("out", to);
    })
    .unwrap();
    assert_eq!(sorted(&sink), (0..100).flat_map(|i| [i; 3]).collect::<Vec<u64>>());
}

#[test]
fn records_of_a_key_keep_their_order_behind_a_source_of_another_parallelism() {
    let sink = Collect::new();
    let to = sink.clone();
    run(3, move |job| {
        let strategy = WatermarkStrategy::monotonous().timestamps(|i: &u64| *i as i64);
        let numbers = job.source("numbers", Generator::new(N, |i| i)).parallelism(1).watermarks(strategy);
        let backwards = numbers.key_by_value(|i| i % 7).process("order", |last: &mut u64, i: u64, out| {
            if std::mem::replace(last, i) > i {
                out.push(i);
            }
        });
        backwards.sink("out", to);
    })
    .unwrap();
    assert!(sink.is_empty(), "{:?}", sink.records());
}

#[test]
fn reduce_emits_the_running_reduction_of_each_key() {
    for p in 1..=3 {
        let sink = Collect::new();
        let to = sink.clone();
        run(p, move |job| {
            job.source("numbers", Generator::new(N, |i| (i % 7, 1u64)))
                .key_by(|(k, _)| k)
                .reduce("count", |sum, one| sum.1 += one.1)
                .sink("out", to);
        })
        .unwrap();
        let expected: Vec<(u64, u64)> = (0..7).flat_map(|k| (1..=(N - k).div_ceil(7)).map(move |n| (k, n))).collect();
        assert!(sorted(&sink) == expected, "parallelism {p}");
    }
}

struct Pairs {
    last: ValueState<u64, u64>,
    all: ListState<u64, u64>,
    opened: bool,
}

impl KeyedProcessFunction for Pairs {
    type Key = u64;
    type In = (u64, u64);
    type Out = (u64, u64, u64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.last, &mut self.all]
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        assert_eq!((cx.operator.as_str(), cx.attempt), ("pairs", 1));
        self.opened = true;
        Ok(())
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, record: &(u64, u64), out: &mut Output<Self::Out>) -> Result<()> {
        assert!(self.opened);
        self.all.add(key, record.1);
        if let Some(&last) = self.last.get(key) {
            out.push((record.0, last, self.all.get(key).len() as u64));
        }
        self.last.update(key, record.1);
        Ok(())
    }
}

#[test]
fn a_keyed_function_has_states_of_its_own() {
    let sink = Collect::new();
    let to = sink.clone();
    let make = || Pairs { last: ValueState::new("last"), all: ListState::new("all"), opened: false };
    run(2, move |job| {
        let stream = job.source("numbers", Generator::new(90, |i| (i % 9, i))).parallelism(1);
        stream.key_by(|r| &r.0).process_function("pairs", make).sink("out", to);
    })
    .unwrap();
    let expected: Vec<_> = (0..9).flat_map(|k| (0..9).map(move |n| (k, k + 9 * n, n + 2))).collect();
    assert_eq!(sorted(&sink), expected);
}

#[test]
fn end_of_input_lets_a_function_emit_what_it_held_back() {
    struct Sum(u64);
    impl ProcessFunction for Sum {
        type In = u64;
        type Out = u64;
        fn process(&mut self, record: u64, _: &mut Output<u64>) -> Result<()> {
            self.0 += record;
            Ok(())
        }
        fn end_of_input(&mut self, out: &mut Output<u64>) -> Result<()> {
            out.push(self.0);
            Ok(())
        }
    }
    let sink = Collect::new();
    let to = sink.clone();
    run(2, move |job| {
        job.source("numbers", Generator::new(N, |i| i)).process(|| Sum(0)).sink("out", to);
    })
    .unwrap();
    let got = sink.records();
    assert_eq!((got.len(), got.iter().sum::<u64>()), (2, N * (N - 1) / 2));
}

#[test]
fn a_panic_in_user_code_fails_the_task_and_names_it() {
    let e = run(1, |job| {
        let stream = job.source("numbers", Generator::new(N, |i| i));
        stream.map(|i| if i == 5_000 { panic!("no {i}") } else { i }).name("picky").sink("out", Collect::new());
    })
    .unwrap_err();
    assert_eq!((e.domain, e.code), (ErrorDomain::User, ErrorCode::Panic));
    assert!(e.message.contains("picky") && e.message.contains("no 5000"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_completed_checkpoints_make_records_visible() {
    let sink = Collect::new();
    let mut job = Job::default();
    job.source("numbers", Generator::new(N, |i| i)).rebalance().sink("out", sink.clone());
    let mut harness = Harness::start(job.into_graph(), 2).await.unwrap();
    harness.snapshot(SnapshotKind::Savepoint).await.unwrap();
    let (first, _) = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
    assert!(sink.is_empty(), "nothing is complete yet");
    harness.complete(first);
    // each task hears of the completion before it sees the next barrier
    let (second, _) = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
    let visible = sink.len();
    harness.abort(second);
    harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
    assert_eq!(sink.len(), visible, "an aborted checkpoint makes nothing visible");
    harness.finish().await.unwrap();
    assert!(sorted(&sink) == (0..N).collect::<Vec<_>>(), "and what it held is not lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_fails_lets_the_job_run_on() {
    let sink = Collect::new();
    let mut job = Job::default();
    job.source("numbers", Generator::new(N, |i| (i % 5, 1u64)))
        .key_by(|r| &r.0)
        .reduce("count", |a, b| a.1 += b.1)
        .sink("out", sink.clone());
    let mut harness = Harness::start(job.into_graph(), 3).await.unwrap();
    let (stop, _) = harness.snapshot(SnapshotKind::Stop { drain: false }).await.unwrap();
    harness.abort(stop);
    harness.finish().await.unwrap();
    let expected: Vec<(u64, u64)> = (0..5).flat_map(|k| (1..=N / 5).map(move |n| (k, n))).collect();
    assert!(sorted(&sink) == expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_drain_failed_reads_nothing_more() {
    let sink = Collect::new();
    let mut job = Job::default();
    job.source("numbers", Generator::unbounded(|i| i)).rebalance().sink("out", sink.clone());
    let mut harness = Harness::start(job.into_graph(), 2).await.unwrap();
    let (drain, _) = harness.snapshot(SnapshotKind::Stop { drain: true }).await.unwrap();
    harness.abort(drain);
    let mut lengths = Vec::new();
    for _ in 0..3 {
        let (id, _) = harness.snapshot(SnapshotKind::Checkpoint).await.unwrap();
        harness.complete(id);
        lengths.push(sink.len());
    }
    assert_eq!(lengths[1], lengths[2], "behind the end of event time");
}

/// A source and what it sends to on two taskmanagers: the tasks' own counters have what crosses between these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_count_the_bytes_between_taskmanagers() {
    let declare = || {
        let mut job = Job::default();
        let numbers = job.source("numbers", Generator::new(N, |i| i));
        numbers
            .key_by_value(|i| i % 7)
            .process("count", |n: &mut u64, _, _: &mut Output<u64>| *n += 1)
            .sink("out", Collect::new());
        job.into_graph()
    };
    let graph = declare();
    let plan = Arc::new(JobGraph::new(&graph, 2, MAX_PARALLELISM));
    let exchange = async |name: &str| {
        let me = Identity { job: "job-1".into(), taskmanager: name.into() };
        Exchange::bind("127.0.0.1:0".parse().unwrap(), me).await.unwrap()
    };
    let exchanges = [exchange("tm-0").await, exchange("tm-1").await];
    let address =
        |i: usize| TaskManagerAddress { id: format!("tm-{i}"), data_address: exchanges[i].address().to_string() };
    let deployment = Deployment {
        attempt: Attempt(1),
        parallelism: 2,
        max_parallelism: MAX_PARALLELISM,
        buffer_timeout_ms: 10,
        taskmanagers: vec![address(0), address(1)],
        slots: vec![0, 1],
        state: StateConfig::default(),
        restore: initial_splits(&graph, &plan).unwrap(),
    };
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    let mut attempts = Vec::new();
    for (me, exchange) in exchanges.iter().enumerate() {
        let handle = tokio::runtime::Handle::current();
        let env = Environment {
            me: me as u32,
            channels: exchange.begin(Attempt(1)).unwrap(),
            data: handle.clone().into(),
            control: handle,
            uploader: Arc::new(StorageUploader::new(None, plan.clone(), &deployment.restore)),
            files: Arc::new(StorageFiles(None)),
            events: sender.clone(),
            clock: Clock::system(),
            activity: None,
        };
        attempts.push(RunningAttempt::start(Arc::new(declare()), plan.clone(), deployment.clone(), env).await.unwrap());
    }
    let id = CheckpointId(1);
    let kind = SnapshotKind::Final;
    let barrier = Barrier { id, attempt: Attempt(1), kind, directory: "chk-1".into(), aligned: true };
    let (mut ended, mut snapshots) = (0, 0);
    while snapshots < plan.tasks() {
        match events.recv().await.unwrap().1 {
            TaskEvent::SourceEnded => {
                ended += 1;
                if ended == 2 {
                    attempts.iter().for_each(|a| a.command(&TaskCommand::Trigger(barrier.clone())));
                }
            }
            TaskEvent::Snapshot { .. } => snapshots += 1,
            TaskEvent::Failed(e) | TaskEvent::Declined { reason: e, .. } => panic!("{e}"),
            _ => {}
        }
    }
    let counts: Vec<_> = attempts.iter().flat_map(RunningAttempt::metrics).collect();
    assert_eq!(counts.len(), 4);
    for (task, m) in counts {
        let is_source = plan.vertices[task.vertex as usize].is_source;
        let (crossed, other) = if is_source { (m.bytes_out(), m.bytes_in()) } else { (m.bytes_in(), m.bytes_out()) };
        // some of its 10,000 numbers go to the other one
        assert!(crossed > 1000 && other == 0, "{task:?}: {crossed}, {other}");
    }
}
