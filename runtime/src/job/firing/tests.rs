//! Functions of all kinds whose timers are many: they fire in goes, in order, none left out.
use super::AT_ONCE;
use crate::connectors::testing::output;
use crate::data::Key;
use crate::dataflow::{Batch, Output};
use crate::error::Result;
use crate::job::broadcast::Broadcasting;
use crate::job::co_stages::CoOperator;
use crate::job::connect::CoFunction;
use crate::job::function::Computed;
use crate::job::keyed_stages::{Function, KeyedOperator};
use crate::job::*;
use crate::state::{KeyRef, KeyedTable};
use crate::testing::OperatorHarness;
use std::marker::PhantomData;

const N: u64 = 5 * AT_ONCE as u64 + 1;

/// A timer of each kind for each number, at that time; the first one to fire registers another, due at once.
pub(in crate::job) struct Bells(pub Timers<u64>);

impl Bells {
    fn wind(&mut self, key: &KeyRef<'_, u64>) {
        self.0.register_event_time(key, *key.key as i64);
        self.0.register_processing_time(key, *key.key as i64);
    }
    fn ring(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<u64>) {
        assert_eq!(out.timestamp(), (timer.domain == TimeDomain::Event).then_some(timer.timestamp));
        out.push(timer.timestamp as u64);
        if timer.timestamp == 0 {
            self.0.register(key, timer.domain, N as i64, ());
        }
    }
}

impl KeyedProcessFunction for Bells {
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
        self.wind(key);
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<u64>) -> Result<()> {
        self.ring(key, timer, out);
        Ok(())
    }
}

impl KeyedCoProcessFunction for Bells {
    type Key = u64;
    type In1 = u64;
    type In2 = u64;
    type Out = u64;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.0)
    }
    fn process1(&mut self, key: &KeyRef<'_, u64>, _: &u64, _: &mut Output<u64>) -> Result<()> {
        self.wind(key);
        Ok(())
    }
    fn process2(&mut self, _: &KeyRef<'_, u64>, _: &u64, _: &mut Output<u64>) -> Result<()> {
        Ok(())
    }
    fn on_timer(&mut self, key: &KeyRef<'_, u64>, timer: &Timer, out: &mut Output<u64>) -> Result<()> {
        self.ring(key, timer, out);
        Ok(())
    }
}

impl KeyedBroadcastProcessFunction for Bells {
    type Key = u64;
    type In = u64;
    type Broadcast = u64;
    type Out = u64;
    type BroadcastKey = u64;
    type BroadcastValue = u64;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.0)
    }
    fn process(
        &mut self,
        key: &KeyRef<'_, u64>,
        _: &u64,
        _: &BroadcastState<u64, u64>,
        _: &mut Output<u64>,
    ) -> Result<()> {
        self.wind(key);
        Ok(())
    }
    fn process_broadcast(&mut self, _: &u64, _: &mut BroadcastState<u64, u64>, _: &mut Output<u64>) -> Result<()> {
        Ok(())
    }
    fn on_timer(
        &mut self,
        key: &KeyRef<'_, u64>,
        timer: &Timer,
        _: &BroadcastState<u64, u64>,
        out: &mut Output<u64>,
    ) -> Result<()> {
        self.ring(key, timer, out);
        Ok(())
    }
}

fn bells() -> Bells {
    Bells(Timers::new("timers"))
}

pub(in crate::job) type Own = Computed<fn(&u64) -> u64, u64>;
pub(in crate::job) fn own() -> Own {
    Computed(|n| *n, PhantomData)
}

pub(in crate::job) fn numbers(n: u64) -> Batch<u64> {
    // in no order of time
    let records: Vec<u64> = (0..n).rev().collect();
    Batch { hashes: records.iter().map(Key::key_hash).collect(), timestamps: vec![0; records.len()], records }
}

/// What an operator does: take a batch, a watermark, the clock, go on.
enum Step {
    Records(Batch<u64>),
    Watermark(i64),
    Clock(i64),
    GoOn,
}

/// `step` gives whether the operator is busy.
fn fires_in_goes(mut step: impl FnMut(Step, &mut Output<u64>) -> Result<bool>) {
    let (mut out, kept) = output();
    assert!(!step(Step::Records(numbers(N)), &mut out).unwrap());
    for first in [Step::Watermark(N as i64), Step::Clock(N as i64)] {
        if matches!(first, Step::Clock(_)) {
            out.erase_timestamp();
        }
        let mut busy = step(first, &mut out).unwrap();
        let mut before = 0;
        loop {
            out.emit();
            out.check().unwrap();
            let emitted = kept.lock().unwrap().len();
            assert!(emitted - before <= AT_ONCE, "{emitted} after {before}");
            before = emitted;
            if !busy {
                break;
            }
            busy = step(Step::GoOn, &mut out).unwrap();
        }
        assert_eq!(std::mem::take(&mut *kept.lock().unwrap()), (0..=N).collect::<Vec<_>>());
    }
}

#[test]
fn functions_of_one_input() {
    let mut op = Function::new(own(), bells());
    fires_in_goes(|step, out| {
        match step {
            Step::Records(mut batch) => KeyedOperator::run(&mut op, &mut batch, out)?,
            Step::Watermark(w) => op.on_watermark(w, out)?,
            Step::Clock(now) => op.on_processing_time(now, out)?,
            Step::GoOn => op.go_on(out)?,
        }
        Ok(op.is_busy())
    });
}

fn of_two_inputs(mut op: impl CoOperator<u64, u64, Out = u64>) {
    fires_in_goes(|step, out| {
        match step {
            Step::Records(mut batch) => op.run1(&mut batch, out)?,
            Step::Watermark(w) => op.on_watermark(w, out)?,
            Step::Clock(now) => op.on_processing_time(now, out)?,
            Step::GoOn => op.go_on(out)?,
        }
        Ok(op.is_busy())
    });
}

#[test]
fn functions_of_two_inputs() {
    of_two_inputs(CoFunction { first: own(), second: own(), function: bells(), firing: Default::default() });
    of_two_inputs(Broadcasting::new(own(), bells()));
}

#[test]
fn results_of_all_goes_reach_what_follows_and_the_watermark_behind_them() {
    let mut h = OperatorHarness::with_parallelism(2, |s: Stream<u64>| {
        let rung = s.key_by(|n| n).process_function("bells", bells).parallelism(1);
        rung.key_by_value(|n| *n).process("pass", |_: &mut u64, n, out| out.push(n))
    })
    .unwrap();
    h.push_all((0..N).rev()).unwrap();
    for event in [false, true] {
        match event {
            false => h.set_processing_time(N as i64).unwrap(),
            true => h.watermark(N as i64).unwrap(),
        }
        let mut all = h.output().unwrap();
        all.sort_unstable();
        assert_eq!(all, (0..=N).collect::<Vec<_>>(), "event time: {event}");
    }
    assert_eq!(h.watermark_out(), Some(N as i64));
}
