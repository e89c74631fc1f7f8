//! The stage that assigns event time: what comes out behind which batch.
use super::*;
use crate::graph::key_group_range;
use crate::job::alignment::AlignmentGroups;
use crate::state::store::Stores;
use std::sync::{Arc, Mutex};

/// What the stage hands on, as text.
struct Log(Arc<Mutex<Vec<String>>>);

impl Stage<i64> for Log {
    fn process(&mut self, batch: &mut Batch<i64>) -> Result<()> {
        assert_eq!(batch.timestamps, batch.records);
        self.0.lock().unwrap().push(format!("{:?}", batch.records));
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        let text = match signal {
            Signal::Watermark(i64::MAX) => "end".into(),
            Signal::Watermark(w) => format!("w{w}"),
            Signal::Idle(w) => format!("idle {w}"),
            _ => return Ok(()),
        };
        self.0.lock().unwrap().push(text);
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Test<S> {
    stage: S,
    log: Arc<Mutex<Vec<String>>>,
    clock: Clock,
}

fn start<G: GeneratorFactory<i64>, A: TimestampAssigner<i64>>(
    strategy: WatermarkStrategy<G, A>,
    alignment: &AlignmentGroups,
) -> Test<WatermarkStage<i64, G, A>> {
    let (log, clock) = (Arc::default(), Clock::manual(1000));
    let cx = BuildContext {
        operator: "times",
        in_source: true,
        subtask: 0,
        parallelism: 1,
        max_parallelism: 128,
        key_groups: key_group_range(0, 1, 128),
        attempt: 1,
        metrics: TaskMetrics::default(),
        clock: clock.clone(),
        alignment: alignment.clone(),
        stores: &Stores::default(),
        restore: None,
        files: &[],
    };
    let out = Output::new(vec![Box::new(Log(Arc::clone(&log))) as Box<dyn Stage<i64>>]);
    Test { stage: WatermarkStage::new(strategy, &cx, out), log, clock }
}

impl<S: Stage<i64>> Test<S> {
    fn batch(&mut self, records: &[i64]) -> Vec<String> {
        self.stage.process(&mut Batch { records: records.to_vec(), ..Batch::default() }).unwrap();
        self.take()
    }
    fn signal(&mut self, mut signal: Signal<'_>) -> Vec<String> {
        self.stage.signal(&mut signal).unwrap();
        self.take()
    }
    /// Lets time go to the next timer.
    fn tick(&mut self) -> Vec<String> {
        let at = self.stage.next_timer().unwrap();
        self.clock.set(at);
        self.signal(Signal::ProcessingTime(at))
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn bounded(n: u64) -> WatermarkStrategy<BoundedOutOfOrderness, FromRecord<fn(&i64) -> i64>> {
    WatermarkStrategy::bounded_out_of_orderness(ms(n)).timestamps((|r| *r) as fn(&i64) -> i64)
}

#[test]
fn a_watermark_follows_each_batch_that_advances_it_and_never_goes_back() {
    let mut t = start(bounded(10), &AlignmentGroups::new(false));
    assert_eq!(t.batch(&[100, 95]), ["[100, 95]", "w89"]);
    assert_eq!(t.batch(&[20]), ["[20]"], "a late record changes nothing");
    assert_eq!(t.batch(&[130]), ["[130]", "w119"]);
    assert!(t.signal(Signal::Watermark(500)).is_empty(), "event time begins here");
    assert_eq!(t.signal(Signal::Watermark(i64::MAX)), ["end"]);
}

#[test]
fn timestamps_at_the_ends_of_time_do_not_wrap_around() {
    let mut t = start(bounded(10), &AlignmentGroups::new(false));
    assert_eq!(t.batch(&[i64::MIN]), [format!("[{}]", i64::MIN)]);
    assert_eq!(t.batch(&[i64::MIN + 5]), [format!("[{}]", i64::MIN + 5)]);
}

#[test]
fn a_generator_that_goes_back_is_not_followed() {
    #[derive(Default)]
    struct Last(i64);
    impl WatermarkGenerator<i64> for Last {
        fn on_event(&mut self, _: &i64, timestamp: i64) {
            self.0 = timestamp;
        }
        fn watermark(&self) -> i64 {
            self.0
        }
    }
    let strategy = WatermarkStrategy::custom(Last::default).timestamps(|r: &i64| *r);
    let mut t = start(strategy, &AlignmentGroups::new(false));
    assert_eq!(t.batch(&[100]), ["[100]", "w100"]);
    assert_eq!(t.batch(&[50]), ["[50]"]);
    assert_eq!(t.batch(&[101]), ["[101]", "w101"]);
}

#[test]
fn the_slowest_split_counts_until_it_ends() {
    let mut t = start(bounded(0), &AlignmentGroups::new(false));
    t.signal(Signal::Split(Split::Added(0)));
    t.signal(Signal::Split(Split::Added(1)));
    t.signal(Signal::Split(Split::Reading(0)));
    assert_eq!(t.batch(&[100]), ["[100]"]);
    t.signal(Signal::Split(Split::Reading(1)));
    assert_eq!(t.batch(&[50]), ["[50]", "w49"]);
    assert_eq!(t.signal(Signal::Split(Split::Ended(1))), ["w99"]);
    t.signal(Signal::Split(Split::Reading(0)));
    assert_eq!(t.batch(&[120]), ["[120]", "w119"]);
    assert!(t.signal(Signal::Split(Split::Ended(0))).is_empty());
}

#[test]
fn an_idle_split_holds_nothing_back_and_an_idle_stream_says_so() {
    let mut t = start(bounded(0).idleness(ms(100)), &AlignmentGroups::new(false));
    for id in [0, 1] {
        t.signal(Signal::Split(Split::Added(id)));
    }
    assert!(t.tick().is_empty());
    t.signal(Signal::Split(Split::Reading(0)));
    assert_eq!(t.batch(&[100]), ["[100]"]);
    assert_eq!(t.tick(), ["w99"], "split 1 has been quiet for 100 ms");
    assert_eq!(t.clock.now_ms(), 1100);
    assert_eq!(t.tick(), ["idle 99"]);
    assert!(t.tick().is_empty(), "said once");
    // active again, at the same time: others must know
    assert_eq!(t.batch(&[100]), ["[100]", "w99"]);
    t.signal(Signal::Watermark(i64::MAX));
    assert_eq!(t.stage.next_timer(), None, "nothing is idle after the end");
}

#[test]
fn a_subtask_that_never_gets_a_record_becomes_idle() {
    let mut t = start(bounded(0).idleness(ms(100)), &AlignmentGroups::new(false));
    assert!(t.tick().is_empty());
    assert_eq!(t.tick(), [format!("idle {}", i64::MIN)]);
    assert_eq!(t.batch(&[7]), ["[7]", "w6"]);
}

#[test]
fn a_stream_ahead_of_its_group_pauses() {
    let groups = AlignmentGroups::new(false);
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    let [mut a, mut b] = [0, 1].map(|_| start(bounded(0).alignment("g", ms(50)), &groups));
    a.batch(&[100]);
    assert!(a.stage.poll_ready(cx).is_pending() && b.stage.poll_ready(cx).is_ready());
    b.batch(&[60]);
    assert!(a.stage.poll_ready(cx).is_ready());
    a.batch(&[200]);
    assert!(a.stage.poll_ready(cx).is_pending());
    b.signal(Signal::Watermark(i64::MAX));
    assert!(a.stage.poll_ready(cx).is_ready());
}

#[test]
fn records_without_timestamps_are_a_clear_error() {
    let mut t = start(WatermarkStrategy::monotonous(), &AlignmentGroups::new(false));
    let e = t.stage.process(&mut Batch { records: vec![1], ..Batch::default() }).unwrap_err();
    assert!(e.message.contains("timestamps(") && e.to_string().contains("times"), "{e}");
    let mut batch = Batch { records: vec![1], timestamps: vec![1], ..Batch::default() };
    t.stage.process(&mut batch).unwrap();
    assert_eq!(t.take(), ["[1]", "w0"]);
}

#[test]
fn only_sources_can_wait_for_each_other() {
    use crate::connectors::{Collect, Generator};
    let mut job = crate::job::Job::default();
    let strategy = WatermarkStrategy::monotonous().timestamps(|i: &u64| *i as i64).alignment("g", ms(1));
    let numbers = job.source("numbers", Generator::new(10, |i| i)).parallelism(1);
    numbers.rebalance().watermarks(strategy).sink("out", Collect::new());
    let start = crate::dataflow::harness::Harness::start(job.into_graph(), 2);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let e = runtime.block_on(start).map(drop).unwrap_err();
    assert!(e.code == ErrorCode::Graph && e.message.contains("directly behind the source"), "{e}");
}

/// A source that waits for others takes no records; the calls that it has made are answered nevertheless.
#[test]
fn what_a_chain_does_by_itself_goes_on_while_its_source_waits_for_others() {
    use crate::job::{AsyncOptions, BroadcastState, KeyedBroadcastProcessFunction, Stream};
    use crate::state::KeyRef;
    use crate::testing::TwoInputHarness;

    struct Pass;
    impl KeyedBroadcastProcessFunction for Pass {
        type Key = i64;
        type In = i64;
        type Broadcast = i64;
        type Out = i64;
        type BroadcastKey = i64;
        type BroadcastValue = i64;
        fn process(
            &mut self,
            _: &KeyRef<'_, i64>,
            r: &i64,
            _: &BroadcastState<i64, i64>,
            out: &mut Output<i64>,
        ) -> Result<()> {
            out.push(*r);
            Ok(())
        }
        fn process_broadcast(&mut self, _: &i64, _: &mut BroadcastState<i64, i64>, _: &mut Output<i64>) -> Result<()> {
            Ok(())
        }
    }

    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let closed = gate.clone();
    let mut h = TwoInputHarness::with_parallelism(2, move |first: Stream<i64>, second: Stream<i64>| {
        let gate = closed.clone();
        let call = move |r: i64| {
            let gate = gate.clone();
            async move {
                gate.acquire().await?.forget();
                Ok(vec![r])
            }
        };
        let strategy = || bounded(0).alignment("both", ms(1000)).idleness(ms(10));
        let options = AsyncOptions::ordered(100, Duration::from_secs(600));
        // the chain of the source ends at an exchange that keeps records until it is flushed
        let first = first.map(|r| r).parallelism(1).watermarks(strategy()).parallelism(1);
        let first = first.async_io("ask", options, call).parallelism(1);
        let second = second.watermarks(strategy()).parallelism(1);
        first.key_by(|r| r).connect_broadcast(&second).process_function("pass", || Pass)
    })
    .unwrap();
    h.push2(0).unwrap();
    h.push1(5000).unwrap();
    h.push1(5001).unwrap();
    gate.add_permits(2);
    let mut got = Vec::new();
    for _ in 0..10_000 {
        got.extend(h.output().unwrap());
        if !got.is_empty() {
            break;
        }
        h.set_processing_time(0).unwrap();
    }
    assert_eq!(got, [5000], "it has paused before the second one");
    h.push2(5000).unwrap();
    for _ in 0..10_000 {
        got.extend(h.output().unwrap());
        if got.len() > 1 {
            break;
        }
        h.set_processing_time(0).unwrap();
    }
    assert_eq!(got, [5000, 5001]);
}

#[test]
fn a_source_that_waits_for_others_does_not_become_idle() {
    let groups = AlignmentGroups::new(false);
    let other = groups.join("g", ms(0));
    other.advance(0);
    let mut t = start(bounded(0).alignment("g", ms(100)).idleness(ms(10)), &groups);
    let cx = &mut Context::from_waker(std::task::Waker::noop());
    assert!(!t.tick().contains(&"idle".into()) && !t.stage.is_paused());
    t.batch(&[1000]);
    assert!(t.stage.poll_ready(cx).is_pending() && t.stage.is_paused());
    assert_eq!(t.stage.next_timer(), None);
    for now in [10_000, 20_000, 30_000] {
        // another operator of the chain has asked for it
        assert!(t.signal(Signal::ProcessingTime(now)).is_empty());
    }
    other.advance(900);
    assert!(t.stage.poll_ready(cx).is_ready() && !t.stage.is_paused());
}

/// Every seventh record comes so late that its window is gone if the records before it say so: where in a batch it lies must not
/// matter, not even behind an exchange.
#[test]
fn in_steps_the_order_of_the_records_alone_says_what_is_late_behind_an_exchange() {
    use crate::connectors::{Collect, Generator};
    use crate::dataflow::OutputTag;
    use crate::dataflow::harness::Harness;
    use crate::job::Job;
    use crate::prelude::Tumbling;
    const STEP: i64 = 1000;
    const LATE: OutputTag<(u64, i64)> = OutputTag::new("late");
    let record = |i: u64| (i % 5, if i % 7 == 6 { 3 * i as i64 - 700 } else { 3 * i as i64 });
    let (late, on_time) = (Collect::new(), Collect::new());
    let mut job = Job::default();
    let strategy = WatermarkStrategy::monotonous().timestamps(|r: &(u64, i64)| r.1).at_multiples_of(ms(STEP as u64));
    let records =
        job.source("records", Generator::new(20_000, record)).parallelism(1).watermarks(strategy).parallelism(1);
    let windows = records
        .key_by(|r| &r.0)
        .window(Tumbling::of(ms(STEP as u64)))
        .late_output(LATE)
        .reduce("last", |last, r| *last = r);
    windows.side_output(LATE).sink("late", late.clone());
    windows.sink("windows", on_time);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { Harness::start(job.into_graph(), 2).await.unwrap().finish().await.unwrap() });

    // event time passes a step with the first record that has come to it
    let (mut expected, mut passed) = (Vec::new(), i64::MIN);
    for r in (0..20_000).map(record) {
        match r.1.div_euclid(STEP) {
            window if window < passed => expected.push(r),
            window => passed = window,
        }
    }
    let mut got = late.records();
    got.sort_unstable_by_key(|r: &(u64, i64)| (r.1, r.0));
    expected.sort_unstable_by_key(|r| (r.1, r.0));
    assert!(expected.len() > 500);
    assert!(got == expected, "{} records are late instead of {}", got.len(), expected.len());
}
