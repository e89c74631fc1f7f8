//! A source that computes its records from their index: the same index gives the same record, so replay is exact.
use super::rate::{Throttle, check_rate};
use super::source::{ReadStatus, Source, SourceContext, SourceReader, Split};
use crate::data::Data;
use crate::dataflow::{BATCH_RECORDS, Output, Signal, Split as SplitSignal};
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Splits that a reader's share is cut into for its snapshot. Many divisors, so that most parallelisms share evenly.
const PIECES: u64 = 60;

/// Record number `index` of the source is `make(index)`, for `index` in `0..count`.
///
/// `make` must depend on the index only; [`random`] gives it seeded randomness. With parallelism `p` each subtask takes every
/// p-th index; at parallelism 1 records come in the order of their index.
#[derive(Debug, Clone)]
pub struct Generator<F> {
    count: Option<u64>,
    rate: Option<f64>,
    make: F,
}

impl<T: Data, F: Fn(u64) -> T + Clone + Send + Sync + 'static> Generator<F> {
    /// A bounded source of `count` records.
    pub fn new(count: u64, make: F) -> Self {
        Self { count: Some(count), rate: None, make }
    }
    /// A source that never ends.
    pub fn unbounded(make: F) -> Self {
        Self { count: None, rate: None, make }
    }
    /// Records per second of all subtasks together; `None`: as fast as they are taken.
    pub fn rate(mut self, records_per_second: impl Into<Option<f64>>) -> Self {
        self.rate = records_per_second.into();
        self
    }
}

/// A well mixed 64-bit number for `seed` and `index`: the randomness of reproducible records.
#[inline]
pub fn random(seed: u64, index: u64) -> u64 {
    let mut z = seed ^ index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The indexes `next, next + step, ...` below `end`: what a split of a generator stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Indexes {
    step: u64,
    end: u64,
    next: u64,
}

impl Indexes {
    fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.next).div_ceil(self.step)
    }
    fn advance(&mut self, n: u64) {
        self.next = self.next.saturating_add(n.saturating_mul(self.step));
    }
    /// The same indexes as up to `n` interleaved parts; empty ones are left out.
    fn cut(&self, n: u64) -> impl Iterator<Item = Self> {
        let all = *self;
        let n = if all.step.checked_mul(n).is_some() { n } else { 1 };
        (0..n)
            .map(move |i| Self { step: all.step * n, end: all.end, next: all.next.saturating_add(i * all.step) })
            .filter(|p| p.remaining() > 0)
    }
}

/// Puts interleaved parts together again where they make a whole, so that records come in order after a restore.
fn join(mut parts: Vec<Indexes>) -> Vec<Indexes> {
    parts.sort_unstable();
    let whole = |group: &[Indexes]| {
        let distance = group.get(1)?.next - group[0].next;
        let even = group.windows(2).all(|w| w[1].next - w[0].next == distance);
        (even && distance > 0 && distance.checked_mul(group.len() as u64) == Some(group[0].step))
            .then_some(Indexes { step: distance, ..group[0] })
    };
    parts
        .chunk_by(|a, b| (a.step, a.end) == (b.step, b.end))
        .flat_map(|group| whole(group).map_or_else(|| group.to_vec(), |w| vec![w]))
        .collect()
}

fn encode(part: &Indexes) -> Result<Split> {
    serde_json::to_vec(part).map_err(|e| Error::internal(format!("cannot encode a generator's split: {e}")))
}

fn decode(split: &Split) -> Result<Indexes> {
    let refuse = |why: &dyn std::fmt::Display| {
        Error::user(
            ErrorCode::Incompatible,
            format!("the snapshot's split is not one of a generator ({why}); was the source replaced?"),
        )
    };
    let part: Indexes = serde_json::from_slice(split).map_err(|e| refuse(&e))?;
    if part.step == 0 { Err(refuse(&"its step is 0")) } else { Ok(part) }
}

impl<T: Data, F: Fn(u64) -> T + Clone + Send + Sync + 'static> Source for Generator<F> {
    type Record = T;
    type Reader = GeneratorReader<F>;

    fn enumerate(&self, parallelism: u32) -> Result<Vec<Split>> {
        check_rate(self.rate)?;
        let all = Indexes { step: 1, end: self.count.unwrap_or(u64::MAX), next: 0 };
        all.cut(u64::from(parallelism.max(1))).map(|p| encode(&p)).collect()
    }

    fn reader(&self, cx: &SourceContext, splits: Vec<Split>) -> Result<GeneratorReader<F>> {
        let parts = splits.iter().map(decode).collect::<Result<Vec<_>>>()?;
        Ok(GeneratorReader {
            make: self.make.clone(),
            parts: (0..).zip(join(parts)).collect(),
            announced: false,
            current: 0,
            reading: None,
            throttle: Throttle::share(self.rate, cx.parallelism as usize)?,
            metrics: cx.metrics.clone(),
        })
    }
}

/// The reader of [`Generator`].
#[derive(Debug)]
pub struct GeneratorReader<F> {
    make: F,
    /// With a number that stays the same while the reader lives.
    parts: Vec<(u32, Indexes)>,
    /// What assigns watermarks knows of the parts.
    announced: bool,
    /// Which part the next batch comes from: each in turn, so that none falls behind.
    current: usize,
    /// The part whose records were emitted last.
    reading: Option<u32>,
    throttle: Option<Throttle>,
    metrics: TaskMetrics,
}

impl<T: Data, F: Fn(u64) -> T + Clone + Send + Sync + 'static> SourceReader for GeneratorReader<F> {
    type Record = T;

    fn read(&mut self, out: &mut Output<T>, now: Instant) -> Result<ReadStatus> {
        if self.parts.is_empty() {
            return Ok(ReadStatus::End);
        }
        let mut room = BATCH_RECORDS.saturating_sub(out.pending()).max(1) as u64;
        if let Some(t) = &mut self.throttle {
            room = room.min(t.due(now));
            if room == 0 {
                return Ok(ReadStatus::Wait(Some(t.next(now))));
            }
        }
        self.current %= self.parts.len();
        // parts lie at different places after a rescale: each has an event time of its own
        if !self.announced {
            self.announced = true;
            self.parts.iter().try_for_each(|p| out.signal(&mut Signal::Split(SplitSignal::Added(p.0))))?;
        }
        let (id, part) = &mut self.parts[self.current];
        let id = *id;
        if self.reading != Some(id) {
            self.reading = Some(id);
            out.signal(&mut Signal::Split(SplitSignal::Reading(id)))?;
        }
        let n = room.min(part.remaining());
        let (first, step, make) = (part.next, part.step, &self.make);
        let records = &mut out.batch_mut().records;
        // one exact-size loop: the room is reserved once, and user code, called at one place, is inlined; no index below
        // `end` wraps around
        records.extend((0..n as usize).map(|i| make(first + i as u64 * step)));
        if out.pending() >= BATCH_RECORDS {
            out.emit();
        }
        part.advance(n);
        if part.remaining() == 0 {
            self.parts.remove(self.current);
            out.signal(&mut Signal::Split(SplitSignal::Ended(id)))?;
        } else {
            self.current += 1;
        }
        if let Some(t) = &mut self.throttle {
            t.take(n);
        }
        self.metrics.add_records_in(n);
        Ok(if self.parts.is_empty() { ReadStatus::End } else { ReadStatus::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Split>> {
        let each = (PIECES / self.parts.len().max(1) as u64).max(1);
        self.parts.iter().flat_map(|(_, p)| p.cut(each)).map(|p| encode(&p)).collect()
    }
}

#[cfg(test)]
mod tests;
