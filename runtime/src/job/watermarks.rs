//! Event time at its origin: timestamps, watermark strategies, the stage that applies them.
use super::stages::output;
use crate::data::Data;
use crate::dataflow::factory::{AnyStage, BuildContext, Consumers, NodeFactory};
use crate::dataflow::{Batch, Clock, Output, Signal, Split, Stage};
use crate::error::{Error, ErrorCode, Result};
use crate::job::alignment::Member;
use crate::observe::TaskMetrics;
use std::marker::PhantomData;
use std::task::{Context, Poll};
use std::time::Duration;

/// Says how far event time has come, from the records seen. Made anew for each subtask and, where a source reads several
/// splits side by side, for each split.
pub trait WatermarkGenerator<T>: Send + 'static {
    /// Looks at one record and its timestamp (ms since the Unix epoch).
    fn on_event(&mut self, record: &T, timestamp: i64);
    /// No record with a timestamp up to this one is expected any more; `i64::MIN` while that is not known. Asked after each
    /// batch. One that is lower than before is ignored: a watermark never goes back.
    fn watermark(&self) -> i64;
}

/// Records come at most this much later than others with a higher timestamp.
#[derive(Debug, Clone, Copy)]
pub struct BoundedOutOfOrderness {
    bound: i64,
    max: i64,
}

impl<T> WatermarkGenerator<T> for BoundedOutOfOrderness {
    #[inline(always)]
    fn on_event(&mut self, _: &T, timestamp: i64) {
        self.max = self.max.max(timestamp);
    }
    fn watermark(&self) -> i64 {
        // a record with the same timestamp as the highest may still come
        if self.max == i64::MIN { i64::MIN } else { self.max.saturating_sub(self.bound).saturating_sub(1) }
    }
}

/// Finds the timestamp of a record.
pub trait TimestampAssigner<T>: Clone + Send + Sync + 'static {
    /// Fills the batch's column; false if there is nothing to fill it with.
    fn assign(&self, batch: &mut Batch<T>) -> bool;
}

/// The source has given the records their timestamps.
#[derive(Debug, Clone, Copy)]
pub struct FromSource;

impl<T> TimestampAssigner<T> for FromSource {
    fn assign(&self, batch: &mut Batch<T>) -> bool {
        batch.timestamps.len() == batch.records.len()
    }
}

/// A timestamp that lies in the record.
#[derive(Debug, Clone, Copy)]
pub struct FromRecord<F>(F);

impl<T, F: Fn(&T) -> i64 + Clone + Send + Sync + 'static> TimestampAssigner<T> for FromRecord<F> {
    fn assign(&self, batch: &mut Batch<T>) -> bool {
        batch.timestamps.clear();
        batch.timestamps.extend(batch.records.iter().map(&self.0));
        true
    }
}

/// How a stream gets its event time: where a record's timestamp lies, and how late records may come.
///
/// ```
/// use std::time::Duration;
/// use weir::job::WatermarkStrategy;
///
/// struct Order { placed_ms: i64 }
/// let strategy = WatermarkStrategy::bounded_out_of_orderness(Duration::from_secs(5))
///     .timestamps(|o: &Order| o.placed_ms)
///     .idleness(Duration::from_secs(30));
/// ```
#[derive(Clone)]
pub struct WatermarkStrategy<G, A = FromSource> {
    generator: G,
    assigner: A,
    idleness: Option<Duration>,
    alignment: Option<(String, Duration)>,
    /// ms
    step: Option<i64>,
}

/// Makes the generators of a strategy.
pub trait GeneratorFactory<T>: Clone + Send + Sync + 'static {
    type Generator: WatermarkGenerator<T>;
    fn make(&self) -> Self::Generator;
}

impl<T> GeneratorFactory<T> for BoundedOutOfOrderness {
    type Generator = Self;
    fn make(&self) -> Self {
        *self
    }
}

/// A function that makes generators of the user's own.
#[derive(Clone)]
pub struct Custom<F>(F);

impl<T, G: WatermarkGenerator<T>, F: Fn() -> G + Clone + Send + Sync + 'static> GeneratorFactory<T> for Custom<F> {
    type Generator = G;
    fn make(&self) -> G {
        (self.0)()
    }
}

impl WatermarkStrategy<BoundedOutOfOrderness> {
    /// A record comes at most `bound` after one with a higher timestamp; later ones are late.
    pub fn bounded_out_of_orderness(bound: Duration) -> Self {
        let bound = i64::try_from(bound.as_millis()).unwrap_or(i64::MAX);
        Self::new(BoundedOutOfOrderness { bound, max: i64::MIN })
    }
    /// Timestamps never go down (per split, where the source reads several).
    pub fn monotonous() -> Self {
        Self::bounded_out_of_orderness(Duration::ZERO)
    }
}

impl<F> WatermarkStrategy<Custom<F>> {
    /// A [`WatermarkGenerator`] of one's own.
    pub fn custom<G>(make: F) -> Self
    where
        F: Fn() -> G + Clone + Send + Sync + 'static,
    {
        Self::new(Custom(make))
    }
}

impl<G> WatermarkStrategy<G> {
    fn new(generator: G) -> Self {
        Self { generator, assigner: FromSource, idleness: None, alignment: None, step: None }
    }
}

impl<G, A> WatermarkStrategy<G, A> {
    /// Where the timestamp lies in a record: ms since the Unix epoch. Without it the source must have set it.
    pub fn timestamps<T, F: Fn(&T) -> i64 + Clone + Send + Sync + 'static>(
        self,
        f: F,
    ) -> WatermarkStrategy<G, FromRecord<F>> {
        let Self { generator, idleness, alignment, step, .. } = self;
        WatermarkStrategy { generator, assigner: FromRecord(f), idleness, alignment, step }
    }
    /// A subtask, or split, from which nothing comes for this long does not hold the others' event time back. Noticed after
    /// one to one and a half times the duration. Time in which the job takes no records does not count.
    #[must_use]
    pub fn idleness(mut self, timeout: Duration) -> Self {
        self.idleness = Some(timeout);
        self
    }
    /// A watermark goes out not only behind each batch, but wherever it passes a multiple of `step`, and the records before it go
    /// out with it, also where a batch for another task is not full. What is late for windows whose ends (with their lateness)
    /// lie on such multiples then depends on the order of the records alone, not on how they came to lie in batches.
    ///
    /// That holds for what is chained to this operator, and for operators behind one exchange if it is the only subtask that
    /// sends to them: among the records of several subtasks, behind a further exchange, and behind asynchronous calls there is no
    /// such order. Each step costs batches that are not full: choose one that takes many records.
    #[must_use]
    pub fn at_multiples_of(mut self, step: Duration) -> Self {
        self.step = Some(i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1));
        self
    }
    /// Sources with the same group wait for each other: one whose event time is `max_drift` ahead of the slowest pauses.
    /// Between taskmanagers what each has reached travels with the heartbeats, so a source may be ahead by what it reads in
    /// the meantime. Only directly behind a source, in its chain; elsewhere the job is refused.
    #[must_use]
    pub fn alignment(mut self, group: impl Into<String>, max_drift: Duration) -> Self {
        self.alignment = Some((group.into(), max_drift));
        self
    }
}

/// Multiples of `step` that the watermark has passed.
const fn steps(watermark: i64, step: i64) -> i64 {
    watermark.saturating_add(1).div_euclid(step)
}

/// One input in an order of its own.
struct Lane<G> {
    id: u32,
    generator: G,
    watermark: i64,
    /// Ticks since the last record; two make it idle.
    quiet: u8,
}

const IDLE_TICKS: u8 = 2;
/// Lane of records that belong to no split.
const WHOLE: u32 = u32::MAX;

/// Assigns timestamps and watermarks; watermarks from before end here, except the last.
pub(super) struct WatermarkStage<T, G: GeneratorFactory<T>, A> {
    operator: String,
    strategy: WatermarkStrategy<G, A>,
    lanes: Vec<Lane<G::Generator>>,
    /// Index of the lane that records come from.
    current: usize,
    last: i64,
    idle: bool,
    tick_ms: Option<i64>,
    next_tick: Option<i64>,
    clock: Clock,
    member: Option<Member>,
    /// Waiting for others of the alignment group, with room behind.
    paused: bool,
    metrics: TaskMetrics,
    /// The records up to a watermark within a batch.
    part: Batch<T>,
    out: Output<T>,
}

impl<T: Data, G: GeneratorFactory<T>, A: TimestampAssigner<T>> WatermarkStage<T, G, A> {
    pub fn new(strategy: WatermarkStrategy<G, A>, cx: &BuildContext<'_>, out: Output<T>) -> Self {
        let tick = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX).div_euclid(2).max(1);
        Self {
            operator: cx.operator.to_owned(),
            lanes: Vec::new(),
            current: 0,
            last: i64::MIN,
            idle: false,
            tick_ms: strategy.idleness.map(tick),
            next_tick: None,
            clock: cx.clock.clone(),
            member: strategy.alignment.as_ref().map(|(group, drift)| cx.alignment.join(group, *drift)),
            paused: false,
            metrics: cx.metrics.clone(),
            strategy,
            part: Batch::default(),
            out,
        }
    }

    fn lane(&mut self, id: u32) -> usize {
        match self.lanes.iter().position(|l| l.id == id) {
            Some(i) => i,
            None => {
                let generator = self.strategy.generator.make();
                self.lanes.push(Lane { id, generator, watermark: i64::MIN, quiet: 0 });
                self.lanes.len() - 1
            }
        }
    }

    /// Hands on the watermark if it has advanced, or if the stream was idle.
    fn advance(&mut self) -> Result<()> {
        let active = self.lanes.iter().filter(|l| l.quiet < IDLE_TICKS);
        let Some(least) = active.map(|l| l.watermark).min() else { return Ok(()) };
        let was_idle = std::mem::replace(&mut self.idle, false);
        if least > self.last || was_idle {
            self.set(self.last.max(least))?;
        }
        Ok(())
    }

    /// Cuts the batch where the watermark passes a multiple of `step`.
    fn in_steps(&mut self, batch: &mut Batch<T>, step: i64) -> Result<()> {
        self.lanes[self.current].quiet = 0;
        for (record, timestamp) in batch.records.drain(..).zip(batch.timestamps.drain(..)) {
            let lane = &mut self.lanes[self.current];
            lane.generator.on_event(&record, timestamp);
            self.part.records.push(record);
            self.part.timestamps.push(timestamp);
            let watermark = lane.generator.watermark();
            if steps(watermark, step) > steps(lane.watermark, step) {
                lane.watermark = watermark;
                self.out.forward(&mut self.part)?;
                self.advance()?;
            }
        }
        let lane = &mut self.lanes[self.current];
        lane.watermark = lane.watermark.max(lane.generator.watermark());
        self.out.forward(&mut self.part)?;
        self.advance()
    }

    fn set(&mut self, watermark: i64) -> Result<()> {
        let before = std::mem::replace(&mut self.last, watermark);
        self.metrics.set_watermark(watermark);
        if let Some(m) = &self.member {
            m.advance(watermark);
        }
        self.out.signal(&mut Signal::Watermark(watermark))?;
        match self.strategy.step {
            // a writer sends it behind the batch that it is filling, and so behind records that come after it
            Some(step) if steps(watermark, step) > steps(before, step) => self.out.signal(&mut Signal::Flush),
            _ => Ok(()),
        }
    }

    fn tick(&mut self, now: i64) -> Result<()> {
        let Some(tick) = self.tick_ms else { return Ok(()) };
        self.next_tick = Some(now.saturating_add(tick));
        self.lanes.iter_mut().for_each(|l| l.quiet = l.quiet.saturating_add(1));
        // a subtask that never had a record counts from its second look
        if self.lanes.is_empty() {
            self.current = self.lane(WHOLE);
            self.lanes[self.current].quiet = 1;
        }
        if self.lanes.iter().any(|l| l.quiet < IDLE_TICKS) {
            return self.advance();
        }
        if !std::mem::replace(&mut self.idle, true) {
            if let Some(m) = &self.member {
                m.idle();
            }
            self.out.signal(&mut Signal::Idle(self.last))?;
        }
        Ok(())
    }

    fn split(&mut self, split: Split) -> Result<()> {
        match split {
            Split::Added(id) => {
                self.lane(id);
                Ok(())
            }
            Split::Reading(id) => {
                self.current = self.lane(id);
                Ok(())
            }
            Split::Ended(id) => {
                self.lanes.retain(|l| l.id != id);
                self.current = 0;
                // while no lane is left the end of the input says what follows
                self.advance()
            }
        }
    }
}

impl<T: Data, G: GeneratorFactory<T>, A: TimestampAssigner<T>> Stage<T> for WatermarkStage<T, G, A> {
    fn process(&mut self, batch: &mut Batch<T>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if !self.strategy.assigner.assign(batch) {
            let m =
                "the records have no timestamps: say with WatermarkStrategy::timestamps(|record| ...) where they lie";
            return Err(Error::user(ErrorCode::Graph, m).at(&self.operator));
        }
        if self.lanes.is_empty() {
            self.current = self.lane(WHOLE);
        }
        if let Some(step) = self.strategy.step {
            return self.in_steps(batch, step);
        }
        let lane = &mut self.lanes[self.current];
        lane.quiet = 0;
        for (record, &timestamp) in batch.records.iter().zip(&batch.timestamps) {
            lane.generator.on_event(record, timestamp);
        }
        lane.watermark = lane.watermark.max(lane.generator.watermark());
        self.out.forward(batch)?;
        self.advance()
    }

    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        match signal {
            Signal::Split(s) => return self.split(*s),
            Signal::Watermark(i64::MAX) => return self.set(i64::MAX),
            // event time begins here
            Signal::Watermark(_) | Signal::Idle(_) => return Ok(()),
            Signal::ProcessingTime(now) if !self.paused && self.next_tick.is_some_and(|t| t <= *now) => {
                self.tick(*now)?
            }
            _ => {}
        }
        self.out.signal(signal)
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let ready = self.out.poll_ready(cx)?;
        if ready.is_pending() {
            self.paused = false;
            return Poll::Pending;
        }
        let Some(member) = &self.member else { return Poll::Ready(Ok(())) };
        if member.poll_aligned(cx).is_ready() {
            self.paused = false;
            return Poll::Ready(Ok(()));
        }
        if !std::mem::replace(&mut self.paused, true) {
            // the pause may be long
            self.out.signal(&mut Signal::Flush)?;
        }
        Poll::Pending
    }

    fn is_paused(&self) -> bool {
        self.paused
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.out.poll_drained(cx)
    }

    fn next_timer(&mut self) -> Option<i64> {
        // at the end nothing is idle any more
        let own = match (self.tick_ms, self.next_tick) {
            (Some(_), _) if self.last == i64::MAX => None,
            // time in which it takes no records does not make it idle
            _ if self.paused => None,
            (Some(tick), None) => {
                self.next_tick = Some(self.clock.now_ms().saturating_add(tick));
                self.next_tick
            }
            (_, next) => next,
        };
        own.into_iter().chain(self.out.next_timer()).min()
    }
}

/// Makes the stage of `Stream::watermarks`.
pub(super) struct WatermarkFactory<T, G, A> {
    pub strategy: WatermarkStrategy<G, A>,
    pub records: PhantomData<fn(T)>,
}

impl<T: Data, G: GeneratorFactory<T>, A: TimestampAssigner<T>> NodeFactory for WatermarkFactory<T, G, A> {
    fn stage(&self, cx: &BuildContext<'_>, next: Consumers) -> Result<AnyStage> {
        if let Some((group, _)) = self.strategy.alignment.as_ref().filter(|_| !cx.in_source) {
            // a task that pauses takes no barrier, and the slower one it waits for waits behind that barrier
            let m = format!(
                "{}: only sources can wait for each other (alignment group {group:?}): declare these watermarks directly behind the source, before any union, rebalance, key_by or other parallelism",
                cx.operator
            );
            return Err(Error::user(ErrorCode::Graph, m));
        }
        let stage = WatermarkStage::<T, G, A>::new(self.strategy.clone(), cx, output(next.main())?);
        Ok(AnyStage::new::<T>(Box::new(stage)))
    }
}

#[cfg(test)]
mod tests;
