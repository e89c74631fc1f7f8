//! The harness for operators: every kind of operator, state, snapshots at another parallelism, clear errors.
use super::*;
use crate::dataflow::{AnySideOutput, Output, OutputTag, SideOutput};
use crate::error::{Error, ErrorCode, Result};
use crate::job::window::Tumbling;
use crate::job::*;
use crate::state::{KeyRef, KeyedTable, ValueState};
use std::time::Duration;

/// Sums the numbers of each key; emits the sums after a minute of processing time, or at 100 of event time.
struct Sums {
    sum: ValueState<u64, u64>,
    timers: Timers<u64>,
    odd: SideOutput<u64>,
}
const ODD: OutputTag<u64> = OutputTag::new("odd");

impl KeyedProcessFunction for Sums {
    type Key = u64;
    type In = (u64, u64);
    type Out = (u64, u64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.sum, &mut self.timers]
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.odd]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, r: &(u64, u64), out: &mut Output<(u64, u64)>) -> Result<()> {
        if r.1 > 1000 {
            return Err(Error::user(ErrorCode::UserFunction, format!("{} is too much", r.1)));
        }
        if r.1 % 2 == 1 {
            out.push_to(&mut self.odd, r.1);
        }
        *self.sum.get_mut_or_default(key) += r.1;
        let due = self.timers.processing_time() + 60_000;
        self.timers.register_processing_time(key, due);
        self.timers.register_event_time(key, 100);
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, _: &Timer, out: &mut Output<(u64, u64)>) -> Result<()> {
        out.push((*key.key, self.sum.get(key).copied().unwrap_or_default()));
        Ok(())
    }
}

fn sums(parallelism: u32) -> OperatorHarness<(u64, u64), (u64, u64)> {
    let make = || Sums { sum: ValueState::new("sum"), timers: Timers::new("timers"), odd: SideOutput::new(ODD) };
    OperatorHarness::with_parallelism(parallelism, move |s: Stream<(u64, u64)>| {
        s.key_by(|r| &r.0).process_function("sums", make)
    })
    .unwrap()
}

#[test]
fn timers_of_both_kinds_side_outputs_and_state_at_another_parallelism() {
    let mut h = sums(2);
    for i in 0..10 {
        h.push_at((i % 5, i), i as i64).unwrap();
    }
    assert!(h.output().unwrap().is_empty());
    let mut odd = h.timed_side_output(ODD).unwrap();
    odd.sort_unstable();
    assert_eq!(odd, [1u64, 3, 5, 7, 9].map(|i| (i, Some(i as i64))));
    let state = h.state("sums", ValueState::<u64, u64>::new("sum")).unwrap();
    assert_eq!((state.len(), state.get(&KeyRef::of(&3))), (5, Some(&11)));
    h.set_processing_time(59_999).unwrap();
    assert!(h.output().unwrap().is_empty());
    let snapshot = h.snapshot().unwrap();
    h.push((0, 100)).unwrap();
    let mut h = h.restore(&snapshot, 3).unwrap();
    h.set_processing_time(60_000).unwrap();
    let mut out = h.timed_output().unwrap();
    out.sort_unstable();
    let expected = [(0, 5), (1, 7), (2, 9), (3, 11), (4, 13)];
    assert_eq!(out, expected.map(|r| (r, None)));
    h.watermark(99).unwrap();
    assert_eq!((h.output().unwrap(), h.watermark_out()), (vec![], Some(99)));
    h.watermark(100).unwrap();
    let mut out = h.timed_output().unwrap();
    out.sort_unstable();
    assert_eq!(out, expected.map(|r| (r, Some(100))));
    assert!(h.state("sums", Timers::<u64>::new("timers")).unwrap().is_empty());
}

#[test]
fn windows_with_late_records_and_a_strategy_of_the_job() {
    const LATE: OutputTag<(u64, i64)> = OutputTag::new("late");
    let mut h = OperatorHarness::new(|s: Stream<(u64, i64)>| {
        let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::from_millis(5));
        s.watermarks(strategy.timestamps(|r: &(u64, i64)| r.1))
            .key_by(|r| &r.0)
            .window(Tumbling::of(Duration::from_millis(10)))
            .late_output(LATE)
            .process("window", |key, window, all: &[(u64, i64)], out| out.push((*key, window.start, all.len() as u64)))
    })
    .unwrap();
    h.push_all([(1, 3), (1, 9), (2, 4), (1, 12)]).unwrap();
    assert!(h.output().unwrap().is_empty());
    h.push((1, 15)).unwrap();
    let mut out = h.output().unwrap();
    out.sort_unstable();
    assert_eq!(out, [(1, 0, 2), (2, 0, 1)]);
    h.push((2, 8)).unwrap();
    assert_eq!(h.side_output(LATE).unwrap(), [(2, 8)]);
    h.finish().unwrap();
    assert_eq!(h.output().unwrap(), [(1, 10, 2)]);
    assert!(h.push((1, 1)).is_ok() && h.snapshot().unwrap_err().message.contains("make a new one"));
}

struct Rules;
impl KeyedBroadcastProcessFunction for Rules {
    type Key = u64;
    type In = u64;
    type Broadcast = (u64, u64);
    type Out = u64;
    type BroadcastKey = u64;
    type BroadcastValue = u64;
    fn process(
        &mut self,
        _: &KeyRef<'_, u64>,
        r: &u64,
        rules: &BroadcastState<u64, u64>,
        out: &mut Output<u64>,
    ) -> Result<()> {
        out.push(rules.get(r).copied().unwrap_or(*r));
        Ok(())
    }
    fn process_broadcast(
        &mut self,
        r: &(u64, u64),
        rules: &mut BroadcastState<u64, u64>,
        _: &mut Output<u64>,
    ) -> Result<()> {
        rules.put(r.0, r.1);
        Ok(())
    }
}

#[test]
fn broadcast_state_is_in_every_subtask_also_after_a_restore() {
    let mut h = TwoInputHarness::with_parallelism(2, |s: Stream<u64>, rules: Stream<(u64, u64)>| {
        s.key_by(|r| r).connect_broadcast(&rules).process_function("ruled", || Rules)
    })
    .unwrap();
    h.push2((7, 70)).unwrap();
    h.push1(7).unwrap();
    h.push1(8).unwrap();
    let mut out = h.output().unwrap();
    out.sort_unstable();
    assert_eq!(out, [8, 70]);
    let snapshot = h.snapshot().unwrap();
    let mut h = h.restore(&snapshot, 3).unwrap();
    assert_eq!(h.broadcast_state::<u64, u64>("ruled").unwrap().get(&7), Some(&70));
    (0..100).for_each(|_| h.push1(7).unwrap());
    assert_eq!(h.output().unwrap(), [70; 100]);
}

/// Holds records back until the end.
struct Hold(OperatorListState<u64>);
impl ProcessFunction for Hold {
    type In = u64;
    type Out = u64;
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        vec![&mut self.0]
    }
    fn process(&mut self, record: u64, _: &mut Output<u64>) -> Result<()> {
        self.0.add(record);
        Ok(())
    }
    fn end_of_input(&mut self, out: &mut Output<u64>) -> Result<()> {
        self.0.take().into_iter().for_each(|r| out.push(r));
        Ok(())
    }
}

#[test]
fn plain_functions_with_list_state_and_asynchronous_calls() {
    let mut h = OperatorHarness::with_parallelism(2, |s: Stream<u64>| {
        let options = AsyncOptions::ordered(10, Duration::from_secs(60));
        let hold = s.rebalance().process(|| Hold(OperatorListState::split("held"))).name("hold");
        hold.async_io("twice", options, |i| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(vec![i, i])
        })
    })
    .unwrap();
    h.push_all(0..10).unwrap();
    let mut held = h.list_state("hold", OperatorListState::<u64>::split("held")).unwrap();
    held.sort_unstable();
    assert_eq!(held, (0..10).collect::<Vec<_>>());
    let snapshot = h.snapshot().unwrap();
    let mut h = h.restore(&snapshot, 1).unwrap();
    h.finish().unwrap();
    let mut out = h.output().unwrap();
    out.sort_unstable();
    assert_eq!(out, (0..10).flat_map(|i| [i, i]).collect::<Vec<_>>());

    let mut called = OperatorHarness::new(|s: Stream<u64>| {
        s.async_io("later", AsyncOptions::unordered(2, Duration::from_secs(60)), |i| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(vec![i + 1])
        })
    })
    .unwrap();
    called.push_all([1, 2, 3]).unwrap();
    called.wait_for_output(3).unwrap();
    let mut out = called.output().unwrap();
    out.sort_unstable();
    assert_eq!(out, [2, 3, 4]);
}

#[test]
fn errors_are_those_of_the_function_or_say_what_is_wrong_with_the_test() {
    let mut h = sums(1);
    let e = h.push((1, 1001)).unwrap_err();
    assert!(e.message.contains("1001 is too much") && e.message.contains("sums"), "{e}");
    assert_eq!(h.push((1, 1)).unwrap_err(), e, "it stays failed");
    let mut h = sums(1);
    h.push((1, 1)).unwrap();
    let e = h.state("sum", ValueState::<u64, u64>::new("sum")).err().unwrap();
    assert!(e.message.contains("no operator \"sum\"") && e.message.contains("sums"), "{e}");
    let e = h.state("sums", ValueState::<u64, u32>::new("sum")).err().unwrap();
    assert!(e.message.contains("u64") && e.message.contains("u32"), "{e}");
    let e = h.side_output(OutputTag::<u64>::new("even")).unwrap_err();
    assert!(e.message.contains("even") && e.message.contains("odd"), "{e}");
    let e = h.side_output(OutputTag::<u32>::new("odd")).unwrap_err();
    assert!(e.message.contains("another type"), "{e}");
    let e = OperatorHarness::new(|s: Stream<u64>| s.union(&s)).err().unwrap();
    assert!(e.message.contains("union"), "{e}");
}

#[tokio::test]
async fn it_may_be_used_from_async_code() {
    let mut h = sums(2);
    h.push((1, 1)).unwrap();
    assert_eq!(h.side_output(ODD).unwrap(), [1]);
}

#[test]
fn what_was_emitted_before_the_snapshot_is_there_after_a_restore_and_what_came_later_is_not() {
    let start = || OperatorHarness::new(|s: Stream<u64>| s.map(|i| i * 10)).unwrap();
    for taken in [0, 1, 3] {
        let mut h = start();
        h.push(1).unwrap();
        let mut got = if taken == 1 { h.output().unwrap() } else { vec![] };
        h.push(2).unwrap();
        let snapshot = h.snapshot().unwrap();
        h.push(3).unwrap();
        if taken == 3 {
            assert_eq!(h.output().unwrap(), [10, 20, 30]);
        }
        let mut h = h.restore(&snapshot, 2).unwrap();
        h.push(4).unwrap();
        got.extend(h.output().unwrap());
        assert_eq!(got, if taken == 3 { vec![40] } else { vec![10, 20, 40] });
    }
}
