//! Joins and co-groups as operators under test: even values come by the first stream, odd ones by the second.
use super::driver::{Emitted, Fired, LATE, Rec, Selector, selector};
use crate::dataflow::{AnySideOutput, Batch, Output, OutputTag};
use crate::error::Result;
use crate::job::RuntimeContext;
use crate::job::co_stages::CoOperator;
use crate::job::keyed_stages::KeyedOperator;
use crate::job::window::TimeWindow;
use crate::job::window::co_group::{CoWindowOperator, TaggedUnion};
use crate::job::window::operator::Spec;
use crate::job::window::trigger::{Trigger, TriggerContext, TriggerResult};
use crate::state::KeyedTable;

const LATE_TOO: OutputTag<Rec> = OutputTag::new("late too");

fn is_first(r: &Rec) -> bool {
    r.1.rem_euclid(2) == 0
}

/// A trigger that does not care which stream a record is of.
#[derive(Clone)]
pub struct OfBoth<G>(G);

impl<G: Trigger<Rec>> Trigger<TaggedUnion<Rec, Rec>> for OfBoth<G> {
    type State = G::State;
    fn on_element(
        &self,
        record: &TaggedUnion<Rec, Rec>,
        timestamp: i64,
        cx: &mut TriggerContext<'_, G::State>,
    ) -> TriggerResult {
        let (TaggedUnion::One(record) | TaggedUnion::Two(record)) = record;
        self.0.on_element(record, timestamp, cx)
    }
    fn on_event_time(&self, time: i64, cx: &mut TriggerContext<'_, G::State>) -> TriggerResult {
        self.0.on_event_time(time, cx)
    }
    fn on_processing_time(&self, time: i64, cx: &mut TriggerContext<'_, G::State>) -> TriggerResult {
        self.0.on_processing_time(time, cx)
    }
    fn on_merge(&self, other: G::State, cx: &mut TriggerContext<'_, G::State>) {
        self.0.on_merge(other, cx);
    }
    fn at_end_of_window(&self) -> Option<crate::job::window::TimeDomain> {
        self.0.at_end_of_window()
    }
}

type Apply = fn(&u64, &TimeWindow, &[Rec], &[Rec], &mut Output<Emitted>);

/// Takes the records of both streams in their order.
pub struct Both<G: Trigger<Rec>>(CoWindowOperator<Rec, Selector, Rec, Selector, Emitted, Apply, OfBoth<G>>);

/// Emits all that a window holds.
pub fn co_grouped<G: Trigger<Rec>>(trigger: G, spec: &Spec) -> Both<G> {
    let list: Apply = |key, window, first, second, out| {
        assert!(first.iter().all(is_first) && !second.iter().any(is_first));
        let all = first.iter().chain(second);
        assert!(all.clone().all(|r| r.0 == *key));
        let mut values: Vec<i64> = all.map(|r| r.1).collect();
        values.sort_unstable();
        out.push((*key, window.start, window.end, values));
    };
    let late = Some((LATE, LATE_TOO));
    Both(CoWindowOperator::new((selector(), selector()), list, OfBoth(trigger), spec, late))
}

/// Emits each pair.
pub fn joined<G: Trigger<Rec>>(trigger: G, spec: &Spec) -> Both<G> {
    let pair: Apply = |key, window, first, second, out| {
        super::super::co_group::pairs(first, second, |a, b| out.push((*key, window.start, window.end, vec![a.1, b.1])));
    };
    let late = Some((LATE, LATE_TOO));
    Both(CoWindowOperator::new((selector(), selector()), pair, OfBoth(trigger), spec, late))
}

/// What a join makes of a window that has fired.
pub fn pairs((key, start, end, values, time): Fired) -> Vec<Fired> {
    let (first, second): (Vec<i64>, Vec<i64>) = values.into_iter().partition(|v| is_first(&(key, *v)));
    let pair = |a: i64| second.iter().map(move |b| (key, start, end, vec![a, *b], time));
    first.iter().flat_map(|a| pair(*a)).collect()
}

impl<G: Trigger<Rec>> KeyedOperator<Rec> for Both<G> {
    type Key = u64;
    type Out = Emitted;
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        self.0.states()
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.0.open(cx)
    }
    /// One batch for each run of records of the same stream.
    fn run(&mut self, batch: &mut Batch<Rec>, out: &mut Output<Emitted>) -> Result<()> {
        let rows = batch.records.iter().zip(&batch.hashes).zip(&batch.timestamps).map(|((r, h), t)| (*r, *h, *t));
        let rows: Vec<(Rec, u64, i64)> = rows.collect();
        for part in rows.chunk_by(|a, b| is_first(&a.0) == is_first(&b.0)) {
            let mut batch = Batch {
                records: part.iter().map(|r| r.0).collect(),
                hashes: part.iter().map(|r| r.1).collect(),
                timestamps: part.iter().map(|r| r.2).collect(),
            };
            if is_first(&part[0].0) {
                self.0.run1(&mut batch, out)?;
            } else {
                self.0.run2(&mut batch, out)?;
            }
        }
        Ok(())
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        self.0.side_outputs()
    }
    fn on_watermark(&mut self, watermark: i64, out: &mut Output<Emitted>) -> Result<()> {
        self.0.on_watermark(watermark, out)
    }
    fn is_busy(&self) -> bool {
        self.0.is_busy()
    }
    fn go_on(&mut self, out: &mut Output<Emitted>) -> Result<()> {
        self.0.go_on(out)
    }
    fn next_processing_time(&mut self) -> Option<i64> {
        self.0.next_processing_time()
    }
    fn on_processing_time(&mut self, now: i64, out: &mut Output<Emitted>) -> Result<()> {
        self.0.on_processing_time(now, out)
    }
    fn end_of_input(&mut self, out: &mut Output<Emitted>) -> Result<()> {
        self.0.end_of_input(out)
    }
}
