//! Asynchronous calls in whole graphs: order, failures, what a snapshot holds of them.
use super::*;
use crate::checkpoint::handles::SnapshotKind;
use crate::connectors::{Collect, Generator};
use crate::dataflow::harness::{Harness, Setup};
use crate::dataflow::{BATCH_RECORDS, Clock};
use crate::graph::LogicalGraph;
use crate::job::{Job, KeyedProcessFunction, ProcessFunction, Timer, Timers, WatermarkStrategy};
use crate::state::{KeyRef, KeyedTable};
use crate::testing::OperatorHarness;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const N: u64 = 5000;
const LONG: Duration = Duration::from_secs(600);

fn block_on<R>(run: impl Future<Output = R>) -> R {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run)
}

fn graph(declare: impl FnOnce(&mut Job)) -> LogicalGraph {
    let mut job = Job::default();
    declare(&mut job);
    job.into_graph()
}

fn run(parallelism: u32, declare: impl FnOnce(&mut Job)) -> Result<()> {
    block_on(async { Harness::start(graph(declare), parallelism).await?.finish().await })
}

/// Answers in another order than asked.
async fn twice(i: u64) -> anyhow::Result<Vec<u64>> {
    for _ in 0..(i * 7) % 11 {
        tokio::task::yield_now().await;
    }
    Ok(vec![i; (i % 3) as usize])
}

fn expected() -> Vec<(u64, i64)> {
    (0..N).flat_map(|i| vec![(i, i as i64 * 10); (i % 3) as usize]).collect()
}

struct Times;
impl ProcessFunction for Times {
    type In = u64;
    type Out = (u64, i64);
    fn process(&mut self, record: u64, out: &mut Output<(u64, i64)>) -> Result<()> {
        let t = out.timestamp().expect("a timestamp");
        out.push((record, t));
        Ok(())
    }
}

#[test]
fn each_record_gets_its_answer_with_its_event_time() {
    for (p, ordered, chained) in
        [(1, true, true), (1, true, false), (1, false, true), (2, false, false), (3, true, true)]
    {
        let sink = Collect::new();
        let to = sink.clone();
        run(p, move |job| {
            let strategy = WatermarkStrategy::monotonous().timestamps(|i: &u64| *i as i64 * 10);
            let mut stream = job.source("numbers", Generator::new(N, |i| i)).watermarks(strategy);
            if !chained {
                // another parallelism before it makes it the head of a task
                stream = stream.parallelism(1).rebalance();
            }
            let options = if ordered { AsyncOptions::ordered(100, LONG) } else { AsyncOptions::unordered(100, LONG) };
            stream.async_io("twice", options, twice).process(|| Times).sink("out", to);
        })
        .unwrap();
        let mut got = sink.records();
        if !ordered || p > 1 {
            got.sort_unstable();
        }
        assert!(got == expected(), "parallelism {p}, ordered {ordered}, chained {chained}");
    }
}

#[test]
fn calls_that_a_snapshot_finds_under_way_are_made_again_at_any_parallelism() {
    // also when the input has ended, and its end, in a task of its own, waits for the calls
    for (from, to, ended) in [(1, 2, false), (2, 1, false), (2, 2, false), (2, 1, true), (2, 2, true)] {
        let sink = Collect::new();
        let to_sink = sink.clone();
        // those of the first attempt that are divisible by three never answer
        let declare = |answers: bool| {
            let to = to_sink.clone();
            graph(move |job| {
                let stream = job.source("numbers", Generator::new(N, |i| i)).parallelism(1).rebalance();
                let call = move |i: u64| async move {
                    if !answers && i.is_multiple_of(3) {
                        std::future::pending::<()>().await;
                    }
                    twice(i + 1).await
                };
                // room for all: a full operator holds back barriers, too, as any backpressure does
                stream.async_io("twice", AsyncOptions::unordered(N as usize, LONG), call).sink("out", to);
            })
        };
        block_on(async {
            let mut first = Harness::start(declare(false), from).await.unwrap();
            if ended {
                first.sources_ended().await.unwrap();
            }
            let snapshot = first.snapshot(SnapshotKind::Checkpoint).await.unwrap();
            first.complete(snapshot.0);
            first.restore(&snapshot, declare(true), to).await.unwrap().finish().await.unwrap();
        });
        let mut got = sink.records();
        got.sort_unstable();
        let all: Vec<_> = (1..=N).flat_map(|i| vec![i; (i % 3) as usize]).collect();
        assert!(got == all, "from {from} to {to}: {} of {}", got.len(), all.len());
    }
}

/// Emits all at the end of its input.
#[derive(Default)]
struct Kept(Vec<u64>);
impl ProcessFunction for Kept {
    type In = u64;
    type Out = u64;
    fn process(&mut self, record: u64, _: &mut Output<u64>) -> Result<()> {
        self.0.push(record);
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<u64>) -> Result<()> {
        self.0.drain(..).for_each(|r| out.push(r));
        Ok(())
    }
}

#[test]
fn what_an_operator_emits_at_the_end_of_its_input_is_called_for_and_what_follows_gets_the_answers() {
    for chained in [true, false] {
        let sink = Collect::new();
        let to = sink.clone();
        run(1, move |job| {
            let numbers = job.source("numbers", Generator::new(100, |i| i));
            let numbers = if chained { numbers } else { numbers.rebalance() };
            let kept = numbers.process(Kept::default);
            let called = kept.async_io("twice", AsyncOptions::unordered(5, LONG), twice).process(Kept::default);
            let again = called.async_io("again", AsyncOptions::ordered(5, LONG), |i| async move { Ok(vec![i]) });
            again.sink("out", to);
        })
        .unwrap();
        let mut got = sink.records();
        got.sort_unstable();
        assert!(
            got == (0..100).flat_map(|i| vec![i; (i % 3) as usize]).collect::<Vec<_>>(),
            "chained {chained}: {got:?}"
        );
    }
}

/// Emits each record a second later.
struct Later(Timers<u64>);
impl KeyedProcessFunction for Later {
    type Key = u64;
    type In = u64;
    type Out = u64;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.0)
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, _: &u64, _: &mut Output<u64>) -> Result<()> {
        let due = self.0.processing_time() + 1000;
        self.0.register_processing_time(key, due);
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, _: &Timer, out: &mut Output<u64>) -> Result<()> {
        out.push(*key.key);
        Ok(())
    }
}

#[test]
fn what_a_timer_asks_for_behind_the_end_of_the_input_is_answered_before_the_job_ends() {
    let clock = Clock::manual(1000);
    let setup = Setup { clock: clock.clone(), ..Setup::new(2) };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (asked, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    let sink = Collect::new();
    let (to, closed) = (sink.clone(), gate.clone());
    let graph = graph(move |job| {
        let call = move |i: u64| {
            let (asked, gate) = (asked.clone(), closed.clone());
            async move {
                let _ = asked.send(());
                gate.acquire().await?.forget();
                Ok(vec![i])
            }
        };
        let numbers = job.source("numbers", Generator::new(10, |i| i)).parallelism(1);
        let later = numbers.key_by_value(|i| *i).process_function("later", || Later(Timers::new("timers")));
        later.async_io("ask", AsyncOptions::unordered(100, LONG), call).sink("out", to);
    });
    block_on(async {
        let mut h = Harness::start_with(graph, setup).await.unwrap();
        h.sources_ended().await.unwrap();
        // behind these the end has passed through all tasks, and the timers are seen
        for now in [1000, 3000] {
            clock.set(now);
            let snapshot = h.snapshot(SnapshotKind::Checkpoint).await.unwrap();
            h.complete(snapshot.0);
        }
        for _ in 0..10 {
            was_asked.recv().await.unwrap();
        }
        let open = async {
            // time for the last barrier to pass calls that it should wait for; it has no need of it
            tokio::time::sleep(Duration::from_millis(100)).await;
            gate.add_permits(10);
        };
        tokio::join!(h.finish(), open).0.unwrap();
    });
    let mut got = sink.records();
    got.sort_unstable();
    assert_eq!(got, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_call_that_never_answers_fails_the_job_or_is_left_out() {
    let never = |i: u64| async move {
        if i == 7 {
            std::future::pending::<()>().await;
        }
        Ok(vec![i])
    };
    let options = AsyncOptions::ordered(5, Duration::from_millis(20));
    let declare = |job: &mut Job, options: AsyncOptions, sink: Collect<u64>| {
        job.source("numbers", Generator::new(20, |i| i)).async_io("never", options, never).sink("out", sink);
    };
    let e = run(1, |job| declare(job, options.clone(), Collect::new())).unwrap_err();
    assert!(e.message.contains("never") && e.message.contains("no answer within 20ms"), "{e}");
    let sink = Collect::new();
    run(1, |job| declare(job, options.skip_failures(), sink.clone())).unwrap();
    assert_eq!(sink.records(), (0..20).filter(|i| *i != 7).collect::<Vec<_>>());
}

#[test]
fn a_call_that_fails_is_made_again_as_often_as_said() {
    let made = Arc::new(AtomicU64::new(0));
    let declare = |job: &mut Job, retries: u32, sink: Collect<u64>| {
        let made = made.clone();
        made.store(0, SeqCst);
        let call = move |i: u64| {
            let made = made.clone();
            async move {
                anyhow::ensure!(made.fetch_add(1, SeqCst) >= 2, "not yet");
                Ok(vec![i])
            }
        };
        let options = AsyncOptions::ordered(1, LONG).retry(retries, Duration::from_millis(1));
        job.source("numbers", Generator::new(1, |i| i)).async_io("flaky", options, call).sink("out", sink);
    };
    let e = run(1, |job| declare(job, 1, Collect::new())).unwrap_err();
    assert!(e.message.contains("not yet"), "{e}");
    assert_eq!(made.load(SeqCst), 2);
    let sink = Collect::new();
    run(1, |job| declare(job, 2, sink.clone())).unwrap();
    assert_eq!((sink.records(), made.load(SeqCst)), (vec![0], 3));
}

#[test]
fn a_panic_in_a_call_is_an_error_and_no_hang() {
    let call = |i: u64| async move {
        assert!(i < 3, "no {i}");
        Ok(vec![i])
    };
    let e = run(1, move |job| {
        let numbers = job.source("numbers", Generator::new(20, |i| i));
        numbers.async_io("picky", AsyncOptions::unordered(5, LONG), call).sink("out", Collect::new());
    })
    .unwrap_err();
    assert!(e.message.contains("picky") && e.message.contains("panicked"), "{e}");
}

/// Calls that wait until the gate has been opened for each of them.
fn gated(gate: Arc<tokio::sync::Semaphore>, closed: impl Fn(u64) -> bool + Copy + Send + Sync + 'static) -> Gated {
    Arc::new(move |i| {
        let gate = gate.clone();
        Box::pin(async move {
            if closed(i) {
                gate.acquire().await?.forget();
            }
            Ok(vec![i])
        })
    })
}
type Gated = Arc<dyn Fn(u64) -> futures::future::BoxFuture<'static, anyhow::Result<Vec<u64>>> + Send + Sync>;

#[test]
fn behind_one_slow_call_there_are_never_more_records_than_there_is_room_for() {
    const CAPACITY: usize = 4;
    const ALL: u64 = 100_000;
    let made = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let (call, count) = (gated(gate.clone(), |i| i == 0), made.clone());
    let mut h = OperatorHarness::new(move |s: Stream<u64>| {
        let (call, made) = (call.clone(), count.clone());
        s.async_io("slow", AsyncOptions::ordered(CAPACITY, LONG), move |i| {
            made.fetch_add(1, SeqCst);
            call(i)
        })
    })
    .unwrap();
    h.push_all(0..ALL).unwrap();
    let calls = made.load(SeqCst);
    assert!(calls > 0 && calls <= (BATCH_RECORDS + CAPACITY) as u64, "{calls}");
    gate.add_permits(1);
    h.finish().unwrap();
    assert!(h.output().unwrap() == (0..ALL).collect::<Vec<_>>());
}

/// The gate is opened from this thread; the harness's runs the call that waits for it when it is asked something.
fn until(h: &mut OperatorHarness<u64, u64>, is: impl Fn(&OperatorHarness<u64, u64>) -> bool) {
    for _ in 0..10_000 {
        h.set_processing_time(0).unwrap();
        if is(h) {
            return;
        }
        std::thread::yield_now();
    }
}

#[test]
fn what_an_answer_lets_go_is_not_left_lying_in_the_chain_of_a_silent_source() {
    for answers in [false, true] {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let call = gated(gate.clone(), |_| true);
        // the chain of the source ends at an exchange
        let mut h = OperatorHarness::with_parallelism(2, move |s: Stream<u64>| {
            let call = call.clone();
            let ask = move |i| {
                let answer = call(i);
                async move { Ok(if answers { answer.await? } else { answer.await?.split_off(1) }) }
            };
            let asked = s.async_io("ask", AsyncOptions::ordered(10, LONG), ask).parallelism(1);
            asked.key_by_value(|i| *i).process("pass", |_: &mut u64, i, out| out.push(i))
        })
        .unwrap();
        h.push_at(7, 50).unwrap();
        h.watermark(100).unwrap();
        assert_eq!((h.output().unwrap(), h.watermark_out()), (vec![], None));
        gate.add_permits(1);
        until(&mut h, |h| h.watermark_out().is_some());
        assert_eq!((h.output().unwrap(), h.watermark_out()), (vec![7; usize::from(answers)], Some(100)));
    }
}

#[test]
fn results_reach_what_follows_while_the_source_is_silent() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let call = gated(gate.clone(), |_| true);
    let mut h = OperatorHarness::with_parallelism(2, move |s: Stream<u64>| {
        let call = call.clone();
        let asked = s.async_io("ask", AsyncOptions::unordered(10, LONG), move |i| call(i)).parallelism(1);
        asked.key_by_value(|i| *i).process("pass", |_: &mut u64, i, out| out.push(i))
    })
    .unwrap();
    h.push_all([1, 2, 3]).unwrap();
    let mut got = Vec::new();
    for i in 1..=3 {
        gate.add_permits(1);
        for _ in 0..10_000 {
            got.extend(h.output().unwrap());
            if got.len() == i {
                break;
            }
            h.set_processing_time(0).unwrap();
        }
        assert_eq!(got.len(), i);
    }
}

#[test]
fn timers_behind_a_watermark_that_an_answer_lets_go_fire_while_another_call_is_out() {
    use crate::job::firing::tests::Bells;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let call = gated(gate.clone(), |i| i >= 10);
    let mut h = OperatorHarness::with_parallelism(2, move |s: Stream<u64>| {
        let call = call.clone();
        let asked = s.async_io("ask", AsyncOptions::ordered(2, LONG), move |i| call(i)).parallelism(1);
        asked.key_by_value(|i| *i).process_function("bells", || Bells(Timers::new("timers"))).parallelism(1)
    })
    .unwrap();
    for i in 1..10 {
        h.push_at(i, 0).unwrap();
    }
    h.push_at(10, 0).unwrap();
    h.watermark(100).unwrap();
    h.push_at(11, 101).unwrap();
    gate.add_permits(1);
    until(&mut h, |h| h.watermark_out().is_some());
    assert_eq!(h.watermark_out(), Some(100));
    assert_eq!(h.output().unwrap().iter().filter(|i| **i > 0).count(), 10);
}
