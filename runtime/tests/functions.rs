//! What a user's functions may do wrong, and what comes of it: the documented policy or a clear error, never a hang. And list
//! states beside keyed ones.
use std::time::Duration;
use weir::error::ErrorCode;
use weir::job::WatermarkGenerator;
use weir::prelude::*;
use weir::testing::OperatorHarness;

/// Registers a timer for the time that the record says, in the domain that it says; emits what has fired.
struct Past {
    timers: Timers<u64>,
    listed: bool,
}

impl KeyedProcessFunction for Past {
    type Key = u64;
    type In = (u64, i64, bool);
    type Out = (u64, i64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        if self.listed { vec![&mut self.timers] } else { vec![] }
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.timers)
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, r: &Self::In, _: &mut Output<(u64, i64)>) -> Result<()> {
        match r.2 {
            true => self.timers.register_processing_time(key, r.1),
            false => self.timers.register_event_time(key, r.1),
        };
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<(u64, i64)>) -> Result<()> {
        out.push((*key.key, timer.timestamp));
        Ok(())
    }
}

fn past(listed: bool) -> Result<OperatorHarness<(u64, i64, bool), (u64, i64)>> {
    OperatorHarness::new(move |s: Stream<(u64, i64, bool)>| {
        s.key_by(|r| &r.0).process_function("past", move || Past { timers: Timers::new("timers"), listed })
    })
}

#[test]
fn a_timer_in_the_past_fires_at_once_or_with_the_next_watermark() {
    let mut h = past(true).unwrap();
    h.set_processing_time(1_000).unwrap();
    h.push((1, 400, true)).unwrap();
    h.push((2, i64::MIN, true)).unwrap();
    assert_eq!(h.output().unwrap(), [(1, 400), (2, i64::MIN)], "processing time: at once");
    h.watermark(1_000).unwrap();
    h.push((1, 400, false)).unwrap();
    h.push((2, i64::MIN, false)).unwrap();
    assert!(h.output().unwrap().is_empty(), "event time stands still");
    h.watermark(1_001).unwrap();
    assert_eq!(h.timed_output().unwrap(), [((2, i64::MIN), Some(i64::MIN)), ((1, 400), Some(400))]);
    // and with the end of the input, which is a watermark
    h.push((3, 5, false)).unwrap();
    h.push((3, i64::MAX, false)).unwrap();
    h.finish().unwrap();
    assert_eq!(h.output().unwrap(), [(3, 5), (3, i64::MAX)]);
}

#[test]
fn timers_that_are_no_state_of_the_function_are_refused() {
    let e = past(false).err().unwrap();
    assert_eq!(e.code, ErrorCode::Graph);
    assert!(e.message.contains("past") && e.message.contains("\"timers\" are not among"), "{e}");
}

/// Says what the records say, also when that goes back.
struct Wild(i64);
impl WatermarkGenerator<(u64, i64)> for Wild {
    fn on_event(&mut self, record: &(u64, i64), _: i64) {
        self.0 = record.1;
    }
    fn watermark(&self) -> i64 {
        self.0
    }
}

#[test]
fn a_watermark_that_goes_back_is_not_followed() {
    const LATE: OutputTag<(u64, i64)> = OutputTag::new("late");
    let mut h = OperatorHarness::with_parallelism(2, |s: Stream<(u64, i64)>| {
        s.watermarks(WatermarkStrategy::custom(|| Wild(i64::MIN)).timestamps(|r: &(u64, i64)| r.1))
            .key_by(|r| &r.0)
            .window(Tumbling::of(Duration::from_millis(10)))
            .late_output(LATE)
            .reduce("windows", |_, _| ())
    })
    .unwrap();
    h.push((1, 5)).unwrap();
    h.push((1, 25)).unwrap();
    assert_eq!((h.output().unwrap(), h.watermark_out()), (vec![(1, 5)], Some(25)));
    // what was late stays late
    h.push((1, 7)).unwrap();
    assert_eq!((h.side_output(LATE).unwrap(), h.watermark_out()), (vec![(1, 7)], Some(25)));
    h.push((1, i64::MIN)).unwrap();
    h.push((1, 31)).unwrap();
    assert_eq!((h.output().unwrap(), h.watermark_out()), (vec![(1, 25)], Some(31)));
}

#[test]
fn event_time_windows_without_event_time_are_an_error_that_says_so() {
    let mut h = OperatorHarness::new(|s: Stream<u64>| {
        s.key_by(|r| r).window(Tumbling::of(Duration::from_millis(10))).reduce("windows", |_, _| ())
    })
    .unwrap();
    let e = h.push(1).unwrap_err();
    assert!(e.message.contains("windows") && e.message.contains("timestamps"), "{e}");
}

/// The other policies (a timeout that fails the job, or leaves the record out) are tested with the operator.
#[test]
fn a_call_without_a_timeout_to_speak_of_may_take_as_long_as_it_likes() {
    for timeout in [Duration::MAX, Duration::from_secs(1 << 40)] {
        let mut h = OperatorHarness::new(move |s: Stream<u64>| {
            s.async_io("slow", AsyncOptions::ordered(1, timeout), |i| async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(vec![i])
            })
        })
        .unwrap();
        h.push(7).unwrap();
        h.finish().unwrap();
        assert_eq!(h.output().unwrap(), [7]);
    }
    let mut h = OperatorHarness::new(|s: Stream<u64>| {
        s.async_io("never", AsyncOptions::ordered(1, Duration::ZERO), |_| {
            std::future::pending::<anyhow::Result<Vec<u64>>>()
        })
    })
    .unwrap();
    let e = h.push(7).and_then(|()| h.finish()).unwrap_err();
    assert!(e.message.contains("never") && e.message.contains("no answer within 0ns"), "{e}");
}

/// Counts all records of its subtask, beside those of each key.
struct Both {
    of_key: ValueState<u64, u64>,
    of_subtask: OperatorListState<u64>,
}
impl KeyedProcessFunction for Both {
    type Key = u64;
    type In = u64;
    type Out = (u64, u64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.of_key]
    }
    fn list_states(&mut self) -> Vec<&mut dyn AnyListState> {
        vec![&mut self.of_subtask]
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, _: &u64, out: &mut Output<(u64, u64)>) -> Result<()> {
        let of_key = self.of_key.get_mut_or_default(key);
        *of_key += 1;
        let all = self.of_subtask.take().into_iter().sum::<u64>() + 1;
        self.of_subtask.add(all);
        out.push((*of_key, all));
        Ok(())
    }
}

#[test]
fn keyed_functions_have_list_states_too() {
    let mut h = OperatorHarness::with_parallelism(3, |s: Stream<u64>| {
        let make = || Both { of_key: ValueState::new("of key"), of_subtask: OperatorListState::split("of subtask") };
        s.key_by(|i| i).process_function("both", make)
    })
    .unwrap();
    h.push_all((0..30).map(|i| i % 10)).unwrap();
    let lists = h.list_state("both", OperatorListState::<u64>::split("of subtask")).unwrap();
    assert_eq!(lists.iter().sum::<u64>(), 30);
    let snapshot = h.snapshot().unwrap();
    h.output().unwrap();
    let mut h = h.restore(&snapshot, 1).unwrap();
    h.push(7).unwrap();
    assert_eq!(h.output().unwrap(), [(4, 31)]);
}
