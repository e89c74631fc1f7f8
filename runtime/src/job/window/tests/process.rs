//! Window functions with states: per window until it is over, per key for good, through restores; refused where they cannot be.
use crate::dataflow::{AnySideOutput, Output, OutputTag, SideOutput};
use crate::error::{Error, ErrorCode, Result};
use crate::job::window::{
    Count, Global, ProcessWindowFunction, Purging, Session, Sliding, TimeWindow, Tumbling, WindowStates,
};
use crate::job::{RuntimeContext, Stream};
use crate::state::{AggregateFunction, KeyRef, NamespacedState, ValueState};
use crate::testing::OperatorHarness;
use std::time::Duration;

const CLEARED: OutputTag<(i64, u64)> = OutputTag::new("cleared");
type Rec = (u64, u64);
/// Key, start of the window, how often it has fired for the key, how often the key's windows have fired, sum of the window.
type Out = (u64, i64, u64, u64, u64);

/// Counts firings.
struct Firings {
    of_window: NamespacedState<u64, u64>,
    of_key: ValueState<u64, u64>,
    cleared: SideOutput<(i64, u64)>,
    opened: bool,
}

impl Firings {
    fn new() -> Self {
        Self {
            of_window: NamespacedState::new("of window"),
            of_key: ValueState::new("of key"),
            cleared: SideOutput::new(CLEARED),
            opened: false,
        }
    }
}

impl ProcessWindowFunction for Firings {
    type Key = u64;
    type In = [Rec];
    type Out = Out;
    fn states(&mut self) -> WindowStates<'_, u64> {
        WindowStates::default().per_window(&mut self.of_window).per_key(&mut self.of_key)
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        vec![&mut self.cleared]
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.opened = cx.operator == "firings";
        Ok(())
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, w: &TimeWindow, records: &[Rec], out: &mut Output<Out>) -> Result<()> {
        assert!(self.opened);
        if records.iter().any(|r| r.1 == 666) {
            return Err(Error::user(ErrorCode::UserFunction, "a bad number"));
        }
        let n = self.of_window.get_mut_or_default(w.start, key);
        *n += 1;
        let all = self.of_key.get_mut_or_default(key);
        *all += 1;
        out.push((*key.key, w.start, *n, *all, records.iter().map(|r| r.1).sum()));
        Ok(())
    }
    fn clear(&mut self, window: &TimeWindow) -> Result<()> {
        // of each window so many keys
        self.cleared.push((window.start, self.of_window.entries(window.start).count() as u64));
        Ok(())
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

type Declare = fn(Stream<Rec>) -> Stream<Out>;

fn tumbling(records: Stream<Rec>) -> Stream<Out> {
    let windows = records.key_by(|r| &r.0).window(Tumbling::of(ms(10))).allowed_lateness(ms(10));
    windows.process_function("firings", Firings::new)
}

fn sorted(mut out: Vec<Out>) -> Vec<Out> {
    out.sort_unstable();
    out
}

#[test]
fn states_per_window_live_as_long_as_it_and_those_per_key_stay_over_restores() {
    for (from, to) in [(1, 1), (1, 3), (3, 2)] {
        let mut h = OperatorHarness::with_parallelism(from, tumbling).unwrap();
        (0..6).for_each(|k| h.push_at((k, 1), 3).unwrap());
        h.watermark(9).unwrap();
        assert_eq!(sorted(h.output().unwrap()), (0..6).map(|k| (k, 0, 1, 1, 1)).collect::<Vec<_>>());
        let snapshot = h.snapshot().unwrap();

        let mut h = h.restore(&snapshot, to).unwrap();
        h.push_at((2, 5), 4).unwrap();
        assert_eq!(h.output().unwrap(), [(2, 0, 2, 2, 6)], "it fires again, and knows of the first time");
        h.watermark(18).unwrap();
        assert!(h.side_output(CLEARED).unwrap().is_empty(), "within the lateness");
        h.push_at((2, 1), 12).unwrap();
        h.watermark(19).unwrap();
        let mut cleared = h.side_output(CLEARED).unwrap();
        assert_eq!(cleared.iter().map(|c| c.1).sum::<u64>(), 6, "each key of the window");
        cleared.dedup_by_key(|c| c.0);
        assert_eq!((cleared.len(), cleared[0].0), (1, 0));
        assert_eq!(h.output().unwrap(), [(2, 10, 1, 3, 1)]);
        let of_window = h.state("firings", NamespacedState::<u64, u64>::new("of window")).unwrap();
        assert_eq!(of_window.namespaces().collect::<Vec<_>>(), [10]);
        let of_key = h.state("firings", ValueState::<u64, u64>::new("of key")).unwrap();
        assert_eq!((of_key.get(&KeyRef::of(&2)), of_key.get(&KeyRef::of(&3))), (Some(&3), Some(&1)));
        h.finish().unwrap();
        assert_eq!(h.side_output(CLEARED).unwrap(), [(10, 1)]);
    }
}

#[test]
fn triggers_purge_records_and_not_states_and_windows_that_slide_have_one_each() {
    let mut h = OperatorHarness::new(|records: Stream<Rec>| {
        let windows = records.key_by(|r| &r.0).window(Sliding::of(ms(10), ms(5)));
        windows.trigger(Purging(Count(1))).process_function("firings", Firings::new)
    })
    .unwrap();
    h.push_at((7, 1), 6).unwrap();
    h.push_at((7, 2), 6).unwrap();
    assert_eq!(sorted(h.output().unwrap()), [(7, 0, 1, 1, 1), (7, 0, 2, 3, 2), (7, 5, 1, 2, 1), (7, 5, 2, 4, 2)]);
    h.watermark(9).unwrap();
    h.push_at((7, 3), 8).unwrap();
    assert_eq!((h.output().unwrap(), h.side_output(CLEARED).unwrap()), (vec![(7, 5, 3, 5, 3)], vec![(0, 1)]));
}

#[test]
fn the_clock_ends_windows_of_processing_time_with_their_states() {
    let mut h = OperatorHarness::new(|records: Stream<Rec>| {
        let windows = records.key_by(|r| &r.0).window(Tumbling::of(ms(10)).processing_time());
        windows.process_function("firings", Firings::new)
    })
    .unwrap();
    h.push((7, 1)).unwrap();
    h.set_processing_time(10).unwrap();
    assert_eq!((h.output().unwrap(), h.side_output(CLEARED).unwrap()), (vec![(7, 0, 1, 1, 1)], vec![(0, 1)]));
    h.push((7, 2)).unwrap();
    h.finish().unwrap();
    assert_eq!((h.output().unwrap(), h.side_output(CLEARED).unwrap()), (vec![(7, 10, 1, 2, 2)], vec![(10, 1)]));
}

/// The greatest number so far of each key, over its windows.
struct Best(ValueState<u64, u64>);
impl ProcessWindowFunction for Best {
    type Key = u64;
    type In = u64;
    type Out = (u64, u64);
    fn states(&mut self) -> WindowStates<'_, u64> {
        WindowStates::default().per_key(&mut self.0)
    }
    fn process(&mut self, key: &KeyRef<'_, u64>, _: &TimeWindow, n: &u64, out: &mut Output<(u64, u64)>) -> Result<()> {
        let best = self.0.get_mut_or_default(key);
        *best = (*best).max(*n);
        out.push((*n, *best));
        Ok(())
    }
}

#[derive(Clone)]
struct Sum;
impl AggregateFunction for Sum {
    type In = Rec;
    type Acc = u64;
    type Out = u64;
    fn create(&self) -> u64 {
        0
    }
    fn add(&self, acc: &mut u64, r: Rec) {
        *acc += r.1;
    }
    fn result(&self, acc: &u64) -> u64 {
        *acc
    }
    fn merge(&self, acc: &mut u64, other: u64) {
        *acc += other;
    }
}

#[test]
fn sessions_and_count_windows_have_states_per_key() {
    let best = || Best(ValueState::new("best"));
    let mut h = OperatorHarness::new(move |records: Stream<Rec>| {
        let windows = records.key_by(|r| &r.0).window(Session::with_gap(ms(5)));
        windows.aggregate_function("best", Sum, best)
    })
    .unwrap();
    for (n, t) in [(4, 0), (5, 3), (2, 20)] {
        h.push_at((1, n), t).unwrap();
    }
    h.watermark(10).unwrap();
    let snapshot = h.snapshot().unwrap();
    assert_eq!(h.output().unwrap(), [(9, 9)]);
    let mut h = h.restore(&snapshot, 2).unwrap();
    h.finish().unwrap();
    assert_eq!(h.output().unwrap(), [(2, 9)]);

    let mut h = OperatorHarness::new(move |records: Stream<Rec>| {
        records.key_by(|r| &r.0).count_window(2).aggregate_function("best", Sum, best)
    })
    .unwrap();
    h.push_all([(1, 3), (1, 4), (2, 9), (1, 1), (1, 2)]).unwrap();
    assert_eq!(h.output().unwrap(), [(7, 7), (3, 7)]);
}

#[test]
fn an_error_of_the_function_fails_the_job_from_a_record_or_a_watermark() {
    let mut h = OperatorHarness::new(tumbling).unwrap();
    h.push_at((1, 666), 1).unwrap();
    let e = h.watermark(9).unwrap_err();
    assert!(e.message.contains("a bad number"), "{e}");
    let mut h = OperatorHarness::new(tumbling).unwrap();
    h.watermark(9).unwrap();
    let e = h.push_at((1, 666), 1).unwrap_err();
    assert!(e.message.contains("a bad number"), "{e}");
}

#[test]
fn states_that_windows_cannot_have_are_refused() {
    let sessions: Declare =
        |records| records.key_by(|r| &r.0).window(Session::with_gap(ms(5))).process_function("firings", Firings::new);
    let counted: Declare = |records| records.key_by(|r| &r.0).count_window(3).process_function("firings", Firings::new);
    for declare in [sessions, counted] {
        let e = OperatorHarness::new(declare).err().unwrap();
        assert!(e.message.contains("firings: a state per window") && e.message.contains("per key"), "{e}");
    }
    let named = |name: &'static str| {
        let make = move || Firings { of_key: ValueState::new(name), ..Firings::new() };
        OperatorHarness::new(move |records: Stream<Rec>| {
            records.key_by(|r| &r.0).window(Global).process_function("firings", make)
        })
    };
    for taken in ["windows", "reached", "of window"] {
        let e = named(taken).err().unwrap();
        assert!(e.message.contains(taken) && e.message.contains("firings"), "{e}");
    }
    named("of key").unwrap();
}
