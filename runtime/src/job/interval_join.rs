//! Joins records of two keyed streams whose event times lie within an interval of each other.
use super::co_stages::CoOperator;
use super::connect::{ConnectedStreams, rows};
use super::function::KeySelector;
use super::keyed::KeyedStream;
use super::stored::{want, want_due};
use super::stream::Stream;
use super::timers::{TimeDomain, Timers};
use crate::data::Data;
use crate::dataflow::{Batch, Output};
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use crate::state::{KeyRef, KeyedTable, ValueState};
use std::collections::BTreeMap;
use std::marker::PhantomData;

/// Two keyed streams and the interval: `b` joins `a` if `a.time + lower <= b.time <= a.time + upper`.
pub struct IntervalJoin<A, SA, B, SB> {
    streams: ConnectedStreams<A, SA, B, SB>,
    lower: i64,
    upper: i64,
}

impl<A: Data, SA: KeySelector<A>> KeyedStream<A, SA> {
    /// Joins with records of `other` that have the same key and whose event time lies between `lower` and `upper` ms after
    /// this stream's record, bounds included; negative bounds are before it. Both streams must have event time.
    ///
    /// A record waits in the state until event time says that no partner can come any more. One that is late itself (behind
    /// the watermark) is dropped and counted.
    ///
    /// ```
    /// # use weir::prelude::*;
    /// # use weir::testing::TwoInputHarness;
    /// // clicks within a second after the advertisement was shown
    /// let mut h = TwoInputHarness::new(|shown: Stream<(u64, Str)>, clicks: Stream<u64>| {
    ///     let join = shown.key_by(|s| &s.0).interval_join(&clicks.key_by(|visitor| visitor), 0, 1_000);
    ///     join.process("clicked", |shown, _, out| out.push(shown.clone()))
    /// })?;
    /// h.push1_at((7, "shoes".into()), 100)?;
    /// h.push2_at(7, 1_100)?;
    /// h.push2_at(7, 1_101)?;
    /// assert_eq!(h.timed_output()?, [((7, "shoes".into()), Some(1_100))]);
    /// # Ok::<(), weir::Error>(())
    /// ```
    pub fn interval_join<B: Data, SB: KeySelector<B, Key = SA::Key>>(
        &self,
        other: &KeyedStream<B, SB>,
        lower_ms: i64,
        upper_ms: i64,
    ) -> IntervalJoin<A, SA, B, SB> {
        IntervalJoin { streams: self.connect(other), lower: lower_ms, upper: upper_ms }
    }
}

impl<A: Data, SA: KeySelector<A>, B: Data, SB: KeySelector<B, Key = SA::Key>> IntervalJoin<A, SA, B, SB> {
    /// Calls `f` for each pair; what it pushes has the later of the two event times. `name` is the operator's identity in
    /// snapshots.
    pub fn process<U: Data>(
        &self,
        name: impl Into<String>,
        f: impl Fn(&A, &B, &mut Output<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        let (lower, upper) = (self.lower, self.upper);
        let stream = self.streams.co_process(name, {
            let (first, second) = self.streams.selectors();
            move || Join {
                first: first.clone(),
                second: second.clone(),
                left: ValueState::new("left"),
                right: ValueState::new("right"),
                timers: Timers::new("timers"),
                lower,
                upper,
                metrics: TaskMetrics::default(),
                f: f.clone(),
                out: PhantomData::<fn() -> U>,
            }
        });
        if lower > upper {
            stream.mistake(format!("an interval join from {lower} to {upper} ms joins nothing: swap the bounds"));
        }
        stream
    }
}

type Waiting<T> = BTreeMap<i64, Vec<T>>;

struct Join<A, SA: KeySelector<A>, B, SB, F, U> {
    first: SA,
    second: SB,
    left: ValueState<SA::Key, Waiting<A>>,
    right: ValueState<SA::Key, Waiting<B>>,
    /// When records of a key are thrown out; the namespace is the side: 0 left, 1 right.
    timers: Timers<SA::Key, u8>,
    lower: i64,
    upper: i64,
    metrics: TaskMetrics,
    f: F,
    out: PhantomData<fn() -> U>,
}

impl<A, SA: KeySelector<A>, B, SB, F, U> Join<A, SA, B, SB, F, U> {
    /// Until when a record of the left side with this event time is needed, and one of the right side.
    fn left_until(&self, time: i64) -> i64 {
        time.saturating_add(self.upper.max(0))
    }
    fn right_until(&self, time: i64) -> i64 {
        time.saturating_sub(self.lower.min(0))
    }
}

fn check_timed<T>(batch: &Batch<T>) -> Result<()> {
    if batch.timestamps.is_empty() && !batch.is_empty() {
        let m = "an interval join needs event time on both streams: declare it with Stream::watermarks";
        return Err(Error::user(ErrorCode::Graph, m));
    }
    Ok(())
}

impl<A, B, SA, SB, F, U> CoOperator<A, B> for Join<A, SA, B, SB, F, U>
where
    A: Data,
    B: Data,
    U: Data,
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
    F: Fn(&A, &B, &mut Output<U>) + Send + 'static,
{
    type Key = SA::Key;
    type Out = U;
    const PREPARES: bool = true;

    fn prepare1(&mut self, batch: &Batch<A>) -> Result<()> {
        want(batch, &self.first, &mut [&mut self.left, &mut self.right])
    }
    fn prepare2(&mut self, batch: &Batch<B>) -> Result<()> {
        want(batch, &self.second, &mut [&mut self.left, &mut self.right])
    }
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<SA::Key>> {
        vec![&mut self.left, &mut self.right, &mut self.timers]
    }

    fn open(&mut self, cx: &super::function::RuntimeContext) -> Result<()> {
        self.metrics = cx.metrics.clone();
        Ok(())
    }

    fn run1(&mut self, batch: &mut Batch<A>, out: &mut Output<U>) -> Result<()> {
        check_timed(batch)?;
        let selector = self.first.clone();
        rows(batch, &selector, out, |key, record, out| {
            let Some(time) = out.timestamp() else { return Ok(()) };
            if time < self.timers.watermark() {
                self.metrics.add_dropped_records(1);
                return Ok(());
            }
            let (from, to) = (time.saturating_add(self.lower), time.saturating_add(self.upper));
            if from <= to
                && let Some(waiting) = self.right.get(key)
            {
                for (&other, records) in waiting.range(from..=to) {
                    out.set_timestamp(time.max(other));
                    records.iter().for_each(|b| (self.f)(record, b, out));
                }
            }
            self.left.get_mut_or_default(key).entry(time).or_default().push(record.clone());
            self.timers.register(key, TimeDomain::Event, self.left_until(time), 0);
            Ok(())
        })
    }

    fn run2(&mut self, batch: &mut Batch<B>, out: &mut Output<U>) -> Result<()> {
        check_timed(batch)?;
        let selector = self.second.clone();
        rows(batch, &selector, out, |key, record, out| {
            let Some(time) = out.timestamp() else { return Ok(()) };
            if time < self.timers.watermark() {
                self.metrics.add_dropped_records(1);
                return Ok(());
            }
            let (from, to) = (time.saturating_sub(self.upper), time.saturating_sub(self.lower));
            if from <= to
                && let Some(waiting) = self.left.get(key)
            {
                for (&other, records) in waiting.range(from..=to) {
                    out.set_timestamp(time.max(other));
                    records.iter().for_each(|a| (self.f)(a, record, out));
                }
            }
            self.right.get_mut_or_default(key).entry(time).or_default().push(record.clone());
            self.timers.register(key, TimeDomain::Event, self.right_until(time), 1);
            Ok(())
        })
    }

    fn on_watermark(&mut self, watermark: i64, _out: &mut Output<U>) -> Result<()> {
        self.timers.advance(watermark);
        while let Some(due) = self.timers.pop_event() {
            if due.stored {
                want_due(&due, vec![&mut self.left, &mut self.right])?;
            }
            let (key, now, side) =
                (KeyRef { hash: due.hash, key: &due.key }, self.timers.watermark(), due.timer.namespace);
            let left = match side {
                0 => {
                    drop_until(&mut self.left, &key, now.saturating_sub(self.upper.max(0))).map(|t| self.left_until(t))
                }
                _ => drop_until(&mut self.right, &key, now.saturating_add(self.lower.min(0)))
                    .map(|t| self.right_until(t)),
            };
            // its timer is there, unless the bounds were others before a restore
            if let Some(until) = left {
                self.timers.register(&key, TimeDomain::Event, until, side);
            }
        }
        Ok(())
    }
}

/// Throws out what is not later than this. Gives the earliest time that is left.
fn drop_until<K: crate::data::Key, T: Data>(
    state: &mut ValueState<K, Waiting<T>>,
    key: &KeyRef<'_, K>,
    time: i64,
) -> Option<i64> {
    let waiting = state.get_mut(key)?;
    while waiting.first_key_value().is_some_and(|(t, _)| *t <= time) {
        waiting.pop_first();
    }
    let left = waiting.first_key_value().map(|(t, _)| *t);
    if left.is_none() {
        state.clear(key);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TwoInputHarness;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

    #[test]
    fn records_are_thrown_out_in_time_also_when_the_bounds_have_changed_over_a_restore() {
        for (before, after) in [(1000, 5000), (5000, 1000)] {
            let bound = Arc::new(AtomicI64::new(before));
            let current = bound.clone();
            let mut h = TwoInputHarness::new(move |a: Stream<u64>, b: Stream<u64>| {
                let bound = current.load(SeqCst);
                let join = a.key_by(|_| &0u64).interval_join(&b.key_by(|_| &0u64), -bound, bound);
                join.process("join", |a, b, out| out.push((*a, *b)))
            })
            .unwrap();
            for (record, time) in [(1, 0), (2, 500), (3, 3000)] {
                h.push1_at(record, time).unwrap();
                h.push2_at(record, time).unwrap();
            }
            let snapshot = h.snapshot().unwrap();
            bound.store(after, SeqCst);
            let mut h = h.restore(&snapshot, 1).unwrap();
            h.output().unwrap();
            // the timers of before come, with records that are still wanted
            h.watermark(1400).unwrap();
            h.push2_at(4, 1400).unwrap();
            let expected: &[(u64, u64)] = if after == 5000 { &[(1, 4), (2, 4), (3, 4)] } else { &[(2, 4)] };
            assert_eq!(h.output().unwrap(), expected);
            // behind this none of the timers of before is left
            h.watermark(4500).unwrap();
            h.watermark(10_000).unwrap();
            let left = h.state("join", ValueState::<u64, Waiting<u64>>::new("left")).unwrap();
            let right = h.state("join", ValueState::<u64, Waiting<u64>>::new("right")).unwrap();
            assert_eq!((left.len(), right.len()), (0, 0), "from {before} to {after}");
            let timers = h.state("join", Timers::<u64, u8>::new("timers")).unwrap();
            assert!(timers.is_empty());
        }
    }
}
