//! Windows over two keyed streams: join and co-group. Both streams' records lie in the same windows, as those of one would.
use super::assigner::{TimeDomain, TimeWindow, Windows};
use super::function::WindowFunction;
use super::late::Late;
use super::operator::{Spec, WindowOperator};
use super::trigger::{DefaultTrigger, Trigger};
use crate::data::{Data, DecodeError, Field, Key, Type, Variant};
use crate::dataflow::{AnySideOutput, Batch, Output, OutputTag, SideOutput};
use crate::error::Result;
use crate::job::co_stages::CoOperator;
use crate::job::connect::ConnectedStreams;
use crate::job::function::{KeySelector, RuntimeContext};
use crate::job::keyed_stages::KeyedOperator;
use crate::job::{KeyedStream, Stream};
use crate::state::KeyedTable;
use std::marker::PhantomData;
use std::time::Duration;

/// A record of either stream: what the trigger of a window over two streams sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaggedUnion<A, B> {
    One(A),
    Two(B),
}

impl<A: Data, B: Data> Data for TaggedUnion<A, B> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::One(a) => {
                out.push(0);
                a.encode(out);
            }
            Self::Two(b) => {
                out.push(1);
                b.encode(out);
            }
        }
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => A::decode(input).map(Self::One),
            1 => B::decode(input).map(Self::Two),
            _ => Err(DecodeError::Invalid("a record of two streams is of neither")),
        }
    }
    fn type_of() -> Type {
        let variant = |name: &str, ty| Variant { name: name.into(), fields: vec![Field { name: "0".into(), ty }] };
        let variants = vec![variant("One", A::type_of()), variant("Two", B::type_of())];
        Type::Enum { name: "TaggedUnion".into(), variants }
    }
}

/// Pairs of records: the function sees each record of the first stream with each one of the second.
pub struct Join;
/// Groups of records: the function sees all records of both streams together.
pub struct CoGroup;

/// Two keyed streams, before their windows are given: what [`KeyedStream::join`] and [`KeyedStream::co_group`] make.
pub struct CombinedStreams<M, A, SA, B, SB> {
    streams: ConnectedStreams<A, SA, B, SB>,
    mode: PhantomData<fn() -> M>,
}

/// Two keyed streams cut into the same windows; ends in `apply`.
pub struct WindowedStreams<M, A, SA, B, SB, G> {
    streams: ConnectedStreams<A, SA, B, SB>,
    windows: Windows,
    trigger: G,
    /// ms
    lateness: i64,
    late: Option<(OutputTag<A>, OutputTag<B>)>,
    mode: PhantomData<fn() -> M>,
}

impl<A: Data, SA: KeySelector<A>> KeyedStream<A, SA> {
    /// Joins the records of both streams that have the same key and are in the same window: an inner join.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use weir::prelude::*;
    /// # fn declare(people: Stream<(u64, Str)>, auctions: Stream<(u64, u64)>) {
    /// // who came and sold something within the same ten seconds
    /// let (people, sellers) = (people.key_by(|p| &p.0), auctions.key_by(|a| &a.1));
    /// people
    ///     .join(&sellers)
    ///     .window(Tumbling::of(Duration::from_secs(10)))
    ///     .apply("new sellers", |person, auction, out| out.push((person.1.clone(), auction.0)));
    /// # }
    /// ```
    pub fn join<B: Data, SB: KeySelector<B, Key = SA::Key>>(
        &self,
        other: &KeyedStream<B, SB>,
    ) -> CombinedStreams<Join, A, SA, B, SB> {
        CombinedStreams { streams: self.connect(other), mode: PhantomData }
    }

    /// Brings together all records of both streams that have the same key and are in the same window; a key that only one of
    /// the streams has is there, too: the base of outer joins.
    pub fn co_group<B: Data, SB: KeySelector<B, Key = SA::Key>>(
        &self,
        other: &KeyedStream<B, SB>,
    ) -> CombinedStreams<CoGroup, A, SA, B, SB> {
        CombinedStreams { streams: self.connect(other), mode: PhantomData }
    }
}

impl<M, A: Data, SA: KeySelector<A>, B: Data, SB: KeySelector<B, Key = SA::Key>> CombinedStreams<M, A, SA, B, SB> {
    /// Cuts both streams into the same windows per key: `Tumbling`, `Sliding`, `Session` (records of either stream keep a
    /// session going) or `Global`. Event time is that of both streams: the lesser watermark.
    pub fn window(self, windows: impl Into<Windows>) -> WindowedStreams<M, A, SA, B, SB, DefaultTrigger> {
        let windows = windows.into();
        let trigger = DefaultTrigger(windows.time());
        WindowedStreams { streams: self.streams, windows, trigger, lateness: 0, late: None, mode: PhantomData }
    }
}

impl<M, A, SA, B, SB, G> WindowedStreams<M, A, SA, B, SB, G>
where
    A: Data,
    SA: KeySelector<A>,
    B: Data,
    SB: KeySelector<B, Key = SA::Key>,
    G: Trigger<TaggedUnion<A, B>>,
{
    /// Decides when windows fire; without it they fire at their end.
    pub fn trigger<H: Trigger<TaggedUnion<A, B>>>(self, trigger: H) -> WindowedStreams<M, A, SA, B, SB, H> {
        let Self { streams, windows, lateness, late, mode, .. } = self;
        WindowedStreams { streams, windows, trigger, lateness, late, mode }
    }

    /// Windows stay for so long after the watermark has passed their end, and fire again, with all that they hold, for each
    /// record that comes meanwhile. Has no meaning in processing time.
    #[must_use]
    pub fn allowed_lateness(mut self, lateness: Duration) -> Self {
        self.lateness = i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// Records whose windows are all gone go to these side outputs, with their timestamps: those of the first stream, those of
    /// the second. Without it they are dropped and counted in the metric `dropped_records`.
    #[must_use]
    pub fn late_output(mut self, first: OutputTag<A>, second: OutputTag<B>) -> Self {
        self.late = Some((first, second));
        self
    }

    fn add<U: Data, F>(self, name: impl Into<String>, f: F) -> Stream<U>
    where
        F: Fn(&SA::Key, &TimeWindow, &[A], &[B], &mut Output<U>) + Clone + Send + Sync + 'static,
    {
        let Self { streams, windows, trigger, lateness, late, .. } = self;
        let lateness = if windows.time() == TimeDomain::EventTime { lateness } else { 0 };
        let (selectors, spec) = (streams.selectors(), Spec::Time(windows, lateness));
        streams
            .co_process(name, move || CoWindowOperator::new(selectors.clone(), f.clone(), trigger.clone(), &spec, late))
    }
}

pub(super) fn pairs<A, B>(first: &[A], second: &[B], mut f: impl FnMut(&A, &B)) {
    first.iter().for_each(|a| second.iter().for_each(|b| f(a, b)));
}

impl<A, SA, B, SB, G> WindowedStreams<Join, A, SA, B, SB, G>
where
    A: Data,
    SA: KeySelector<A>,
    B: Data,
    SB: KeySelector<B, Key = SA::Key>,
    G: Trigger<TaggedUnion<A, B>>,
{
    /// Calls `f` for each pair when the window fires; what it pushes has the window's last ms as its time.
    ///
    /// `name` is the operator's identity in snapshots.
    pub fn apply<U: Data>(
        self,
        name: impl Into<String>,
        f: impl Fn(&A, &B, &mut Output<U>) + Clone + Send + Sync + 'static,
    ) -> Stream<U> {
        self.add(name, move |_: &SA::Key, _: &TimeWindow, first: &[A], second: &[B], out: &mut Output<U>| {
            pairs(first, second, |a, b| f(a, b, out));
        })
    }
}

impl<A, SA, B, SB, G> WindowedStreams<CoGroup, A, SA, B, SB, G>
where
    A: Data,
    SA: KeySelector<A>,
    B: Data,
    SB: KeySelector<B, Key = SA::Key>,
    G: Trigger<TaggedUnion<A, B>>,
{
    /// Calls `f(key, window, first, second, out)` with the records of both streams, each in the order of their coming within a
    /// pane, when the window fires; one of the two may be empty.
    ///
    /// `name` is the operator's identity in snapshots.
    pub fn apply<U: Data, F>(self, name: impl Into<String>, f: F) -> Stream<U>
    where
        F: Fn(&SA::Key, &TimeWindow, &[A], &[B], &mut Output<U>) + Clone + Send + Sync + 'static,
    {
        self.add(name, f)
    }
}

/// The key of a record of either stream.
pub(super) struct EitherKey<SA, SB>(SA, SB);

impl<SA: Clone, SB: Clone> Clone for EitherKey<SA, SB> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), self.1.clone())
    }
}

impl<A, B, SA, SB> KeySelector<TaggedUnion<A, B>> for EitherKey<SA, SB>
where
    SA: KeySelector<A>,
    SB: KeySelector<B, Key = SA::Key>,
{
    type Key = SA::Key;
    #[inline(always)]
    fn with_key<R>(&self, record: &TaggedUnion<A, B>, f: impl FnOnce(&SA::Key) -> R) -> R {
        match record {
            TaggedUnion::One(a) => self.0.with_key(a, f),
            TaggedUnion::Two(b) => self.1.with_key(b, f),
        }
    }
}

/// Keeps all records of both streams.
pub(super) struct BothElements<A, B, K, U, F>(F, PhantomData<fn(A, B, K) -> U>);

impl<A, B, K, U, F> WindowFunction for BothElements<A, B, K, U, F>
where
    A: Data,
    B: Data,
    K: Key,
    U: Data,
    F: Fn(&K, &TimeWindow, &[A], &[B], &mut Output<U>) + Send + 'static,
{
    type Key = K;
    type In = TaggedUnion<A, B>;
    type Acc = (Vec<A>, Vec<B>);
    type Out = U;
    fn create(&self) -> Self::Acc {
        (Vec::new(), Vec::new())
    }
    #[inline]
    fn add(&self, acc: &mut Self::Acc, record: Self::In) {
        match record {
            TaggedUnion::One(a) => acc.0.push(a),
            TaggedUnion::Two(b) => acc.1.push(b),
        }
    }
    fn merge(&self, acc: &mut Self::Acc, mut other: Self::Acc) {
        acc.0.append(&mut other.0);
        acc.1.append(&mut other.1);
    }
    fn emit(&self, key: &K, window: &TimeWindow, acc: &Self::Acc, out: &mut Output<U>) {
        (self.0)(key, window, &acc.0, &acc.1, out);
    }
}

type Inner<A, SA, B, SB, U, F, G> =
    WindowOperator<EitherKey<SA, SB>, BothElements<A, B, <SA as KeySelector<A>>::Key, U, F>, G>;

/// The operator of windows over one stream, fed with the records of two.
pub(super) struct CoWindowOperator<A, SA, B, SB, U, F, G>
where
    A: Data,
    SA: KeySelector<A>,
    B: Data,
    U: Data,
    F: Fn(&SA::Key, &TimeWindow, &[A], &[B], &mut Output<U>) + Send + 'static,
    G: Trigger<TaggedUnion<A, B>>,
{
    windows: Inner<A, SA, B, SB, U, F, G>,
    late: Option<(SideOutput<A>, SideOutput<B>)>,
    batch: Batch<TaggedUnion<A, B>>,
}

impl<A, SA, B, SB, U, F, G> CoWindowOperator<A, SA, B, SB, U, F, G>
where
    A: Data,
    SA: KeySelector<A>,
    B: Data,
    SB: KeySelector<B, Key = SA::Key>,
    U: Data,
    F: Fn(&SA::Key, &TimeWindow, &[A], &[B], &mut Output<U>) + Send + 'static,
    G: Trigger<TaggedUnion<A, B>>,
{
    pub fn new(
        (first, second): (SA, SB),
        f: F,
        trigger: G,
        spec: &Spec,
        late: Option<(OutputTag<A>, OutputTag<B>)>,
    ) -> Self {
        let keep = if late.is_some() { Late::keep() } else { Late::new(None) };
        let function = BothElements(f, PhantomData);
        Self {
            windows: WindowOperator::with_late(EitherKey(first, second), function, trigger, spec, keep),
            late: late.map(|(a, b)| (SideOutput::new(a), SideOutput::new(b))),
            batch: Batch::default(),
        }
    }

    fn run<T>(
        &mut self,
        batch: &mut Batch<T>,
        tag: impl Fn(T) -> TaggedUnion<A, B>,
        out: &mut Output<U>,
    ) -> Result<()> {
        let all = &mut self.batch.records;
        batch.take_each(|record| all.push(tag(record)));
        let swap = |a: &mut Batch<T>, b: &mut Batch<TaggedUnion<A, B>>| {
            std::mem::swap(&mut a.hashes, &mut b.hashes);
            std::mem::swap(&mut a.timestamps, &mut b.timestamps);
        };
        swap(batch, &mut self.batch);
        let done = self.windows.run(&mut self.batch, out);
        swap(batch, &mut self.batch);
        self.batch.clear();
        if let Some((first, second)) = &mut self.late {
            for (record, time) in self.windows.late() {
                match record {
                    TaggedUnion::One(a) => first.push_at(a, time),
                    TaggedUnion::Two(b) => second.push_at(b, time),
                }
            }
        }
        done
    }
}

impl<A, SA, B, SB, U, F, G> CoOperator<A, B> for CoWindowOperator<A, SA, B, SB, U, F, G>
where
    A: Data,
    SA: KeySelector<A>,
    B: Data,
    SB: KeySelector<B, Key = SA::Key>,
    U: Data,
    F: Fn(&SA::Key, &TimeWindow, &[A], &[B], &mut Output<U>) + Send + 'static,
    G: Trigger<TaggedUnion<A, B>>,
{
    type Key = SA::Key;
    type Out = U;
    /// As the operator of one stream: there are no count windows over two.
    const PREPARES: bool = true;

    fn states(&mut self) -> Vec<&mut dyn KeyedTable<SA::Key>> {
        self.windows.states()
    }
    fn side_outputs(&mut self) -> Vec<&mut dyn AnySideOutput> {
        let Some((first, second)) = &mut self.late else { return Vec::new() };
        vec![first, second]
    }
    fn open(&mut self, cx: &RuntimeContext) -> Result<()> {
        self.windows.open(cx)
    }
    fn run1(&mut self, batch: &mut Batch<A>, out: &mut Output<U>) -> Result<()> {
        self.run(batch, TaggedUnion::One, out)
    }
    fn run2(&mut self, batch: &mut Batch<B>, out: &mut Output<U>) -> Result<()> {
        self.run(batch, TaggedUnion::Two, out)
    }
    fn on_watermark(&mut self, watermark: i64, out: &mut Output<U>) -> Result<()> {
        self.windows.on_watermark(watermark, out)
    }
    fn is_busy(&self) -> bool {
        self.windows.is_busy()
    }
    fn go_on(&mut self, out: &mut Output<U>) -> Result<()> {
        KeyedOperator::go_on(&mut self.windows, out)
    }
    fn next_processing_time(&mut self) -> Option<i64> {
        self.windows.next_processing_time()
    }
    fn on_processing_time(&mut self, now: i64, out: &mut Output<U>) -> Result<()> {
        self.windows.on_processing_time(now, out)
    }
    fn end_of_input(&mut self, out: &mut Output<U>) -> Result<()> {
        self.windows.end_of_input(out)
    }
}
