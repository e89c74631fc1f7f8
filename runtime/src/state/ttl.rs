//! Time-to-live of state: when entries expire, who still sees them, and how they are cleaned up bit by bit.
//!
//! The time is processing time, read once for a batch by the task and handed in by [`super::KeyedTable::tick`]; each tick
//! also cleans up one segment of the table. A snapshot leaves out what has expired.
use super::frozen::Named;
use super::key_map::KeyMap;
use super::store::{Column, StateStore};
use crate::checkpoint::handles::StateKind;
use crate::data::{Data, DecodeError, Field, Key, Type, put_len, take_len};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// How long entries of a state live: values of a `ValueState`, elements of a `ListState`, entries of a `MapState`.
///
/// It is part of the state's type in snapshots: a state with it does not restore from one without, nor the other way round.
/// `ttl`, `update` and `visibility` may change between a snapshot and its restore.
///
/// ```
/// # use std::time::Duration;
/// # use weir::prelude::*;
/// # use weir::testing::OperatorHarness;
/// /// Lets through what was not there within the last minute.
/// struct Distinct(ValueState<Str, ()>);
///
/// impl KeyedProcessFunction for Distinct {
///     type Key = Str;
///     type In = Str;
///     type Out = Str;
///     fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
///         vec![&mut self.0]
///     }
///     fn process(&mut self, key: &KeyRef<'_, Str>, word: &Str, out: &mut Output<Str>) -> Result<()> {
///         if self.0.get(key).is_none() {
///             self.0.update(key, ());
///             out.push(word.clone());
///         }
///         Ok(())
///     }
/// }
///
/// let mut h = OperatorHarness::new(|words: Stream<Str>| {
///     let ttl = StateTtl::new(Duration::from_secs(60));
///     words.key_by(|w| w).process_function("distinct", move || Distinct(ValueState::with_ttl("seen", ttl)))
/// })?;
/// h.push_all(["a".into(), "a".into(), "b".into()])?;
/// assert_eq!(h.output()?, ["a", "b"]);
/// h.set_processing_time(60_000)?;
/// h.push("a".into())?;
/// assert_eq!(h.output()?, ["a"]);
/// # Ok::<(), weir::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateTtl {
    /// To the millisecond.
    pub ttl: Duration,
    pub update: TtlUpdate,
    pub visibility: TtlVisibility,
}

/// What begins an entry's time anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TtlUpdate {
    #[default]
    OnCreateAndWrite,
    /// Each read of an entry costs about as much as a write, and a copy of its key.
    OnReadAndWrite,
}

/// Whether an entry is returned between its expiry and its clean-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TtlVisibility {
    #[default]
    NeverReturnExpired,
    ReturnExpiredIfNotCleanedUp,
}

impl StateTtl {
    /// Counted from creation and the last write; never returned when expired.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, update: TtlUpdate::default(), visibility: TtlVisibility::default() }
    }
    #[must_use]
    pub fn update(self, update: TtlUpdate) -> Self {
        Self { update, ..self }
    }
    #[must_use]
    pub fn visibility(self, visibility: TtlVisibility) -> Self {
        Self { visibility, ..self }
    }
}

/// Entries last written up to this time (ms since the Unix epoch) have expired.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cutoff(i64);

impl Cutoff {
    pub fn expired(self, at: i64) -> bool {
        at <= self.0
    }
}

/// What a table holds per key, with times.
pub(super) trait Aged: Data {
    /// All of it has expired.
    fn is_dead(&self, cutoff: Cutoff) -> bool;
    /// Some of it has expired.
    fn has_dead(&self, cutoff: Cutoff) -> bool;
    /// Drops what has expired.
    fn trim(&mut self, cutoff: Cutoff);
}

/// A value and when it was last written (or read), ms since the Unix epoch.
#[derive(Clone)]
pub(super) struct Timed<V> {
    pub at: i64,
    pub value: V,
}

impl<V: Data> Data for Timed<V> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.at.encode(out);
        self.value.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { at: i64::decode(input)?, value: V::decode(input)? })
    }
    fn type_of() -> Type {
        let field = |name: &str, ty| Field { name: name.into(), ty };
        // no type of a user has this name: a state with a time-to-live is of another type than one of pairs
        Type::Struct { name: "time-to-live".into(), fields: vec![field("at", Type::I64), field("value", V::type_of())] }
    }
}

impl<V: Data> Aged for Timed<V> {
    fn is_dead(&self, cutoff: Cutoff) -> bool {
        cutoff.expired(self.at)
    }
    fn has_dead(&self, cutoff: Cutoff) -> bool {
        cutoff.expired(self.at)
    }
    fn trim(&mut self, _: Cutoff) {}
}

/// A list whose elements expire in its order: each is added with a time that is not before those of the elements before it.
#[derive(Clone)]
pub(super) struct TimedList<T> {
    at: Vec<i64>,
    values: Vec<T>,
}

impl<T> Default for TimedList<T> {
    fn default() -> Self {
        Self { at: Vec::new(), values: Vec::new() }
    }
}

impl<T> TimedList<T> {
    fn dead(&self, cutoff: Cutoff) -> usize {
        self.at.partition_point(|at| cutoff.expired(*at))
    }
    pub fn of(values: Vec<T>, now: i64) -> Self {
        Self { at: vec![now; values.len()], values }
    }
    pub fn push(&mut self, value: T, now: i64) {
        self.at.push(self.at.last().map_or(now, |last| now.max(*last)));
        self.values.push(value);
    }
    /// From the first element on that has not expired.
    pub fn live(&self, cutoff: Option<Cutoff>) -> &[T] {
        &self.values[cutoff.map_or(0, |c| self.dead(c))..]
    }
    pub fn into_live(mut self, cutoff: Option<Cutoff>) -> Vec<T> {
        self.values.drain(..cutoff.map_or(0, |c| self.dead(c)));
        self.values
    }
    /// Elements that have not expired live from this time on.
    pub fn touch(&mut self, cutoff: Cutoff, now: i64) {
        let dead = self.dead(cutoff);
        self.at[dead..].iter_mut().for_each(|at| *at = now.max(*at));
    }
    pub fn oldest(&self) -> Option<i64> {
        self.at.first().copied()
    }
}

impl<T: Data> Data for TimedList<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(out, self.values.len());
        for (at, value) in self.at.iter().zip(&self.values) {
            at.encode(out);
            value.encode(out);
        }
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut list = Self::default();
        for _ in 0..take_len(input)? {
            list.at.push(i64::decode(input)?);
            list.values.push(T::decode(input)?);
        }
        Ok(list)
    }
    fn type_of() -> Type {
        Type::List(Box::new(Timed::<T>::type_of()))
    }
}

impl<T: Data> Aged for TimedList<T> {
    fn is_dead(&self, cutoff: Cutoff) -> bool {
        self.at.last().is_none_or(|at| cutoff.expired(*at))
    }
    fn has_dead(&self, cutoff: Cutoff) -> bool {
        self.oldest().is_none_or(|at| cutoff.expired(at))
    }
    fn trim(&mut self, cutoff: Cutoff) {
        let dead = self.dead(cutoff);
        self.at.drain(..dead);
        self.values.drain(..dead);
    }
}

impl<MK: Key, MV: Data> Aged for KeyMap<MK, Timed<MV>> {
    fn is_dead(&self, cutoff: Cutoff) -> bool {
        self.iter().all(|(_, t)| cutoff.expired(t.at))
    }
    fn has_dead(&self, cutoff: Cutoff) -> bool {
        self.iter().any(|(_, t)| cutoff.expired(t.at))
    }
    fn trim(&mut self, cutoff: Cutoff) {
        let dead: Vec<MK> = self.iter().filter(|(_, t)| cutoff.expired(t.at)).map(|(k, _)| k.clone()).collect();
        dead.iter().for_each(|k| _ = self.remove(k));
    }
}

/// A table whose entries expire. `R`: what of a key's state was read.
pub(super) struct Aging<K, V, R> {
    pub named: Named<K, V>,
    pub config: StateTtl,
    /// ms since the Unix epoch.
    pub now: i64,
    /// The segment that is cleaned up next.
    cursor: usize,
    /// What was read since the last tick, where reads count.
    read: RefCell<Vec<(u64, K, R)>>,
}

impl<K: Key, V: Aged, R> Aging<K, V, R> {
    pub fn new(name: String, kind: StateKind, config: StateTtl) -> Self {
        Self { named: Named::new(name, kind), config, now: 0, cursor: 0, read: RefCell::default() }
    }

    pub fn cutoff(&self) -> Cutoff {
        let ttl = i64::try_from(self.config.ttl.as_millis()).unwrap_or(i64::MAX);
        Cutoff(self.now.saturating_sub(ttl))
    }

    /// Up to which time entries are hidden.
    pub fn hidden(&self) -> Option<Cutoff> {
        (self.config.visibility == TtlVisibility::NeverReturnExpired).then(|| self.cutoff())
    }

    pub fn hides(&self, at: i64) -> bool {
        self.hidden().is_some_and(|c| c.expired(at))
    }

    /// Something that was written at this time was read.
    pub fn touch(&self, hash: u64, key: &K, what: impl FnOnce() -> R, at: i64) {
        if self.config.update == TtlUpdate::OnReadAndWrite && at < self.now {
            self.read.borrow_mut().push((hash, key.clone(), what()));
        }
    }

    /// Lets what was read since the last tick live from then on.
    pub fn apply_reads(&mut self, mut touch: impl FnMut(&mut V, R, Cutoff, i64)) {
        let (cutoff, now) = (self.cutoff(), self.now);
        for (hash, key, what) in self.read.take() {
            if let Some(v) = self.named.table.get_mut(hash, &key) {
                touch(v, what, cutoff, now);
            }
        }
    }

    /// The time is this (it never goes back), and one more segment is cleaned up.
    pub fn advance(&mut self, now: i64) {
        self.now = self.now.max(now);
        let cutoff = self.cutoff();
        self.named.set_cutoff(cutoff.0);
        let table = &mut self.named.table;
        self.cursor = (self.cursor + 1) % table.segments();
        for (hash, key) in table.find_in_segment(self.cursor, |v| v.has_dead(cutoff)) {
            if table.get(hash, &key).is_some_and(|v| v.is_dead(cutoff)) {
                table.remove(hash, &key);
            } else if let Some(v) = table.get_mut(hash, &key) {
                v.trim(cutoff);
            }
        }
    }

    /// What a snapshot keeps.
    pub fn keep(&self) -> Arc<dyn Fn(&V) -> bool + Send + Sync> {
        let cutoff = self.cutoff();
        Arc::new(move |v| !v.is_dead(cutoff))
    }

    /// Lets a store keep the entries; the store may drop what has expired.
    pub fn attach(&mut self, store: &Arc<dyn StateStore>, empty: bool) -> crate::error::Result<()> {
        let expired = |column: &Column, mut value: &[u8]| {
            let cutoff = Cutoff(column.cutoff.load(std::sync::atomic::Ordering::Relaxed));
            V::decode(&mut value).is_ok_and(|v| v.is_dead(cutoff))
        };
        self.named.attach(store, empty, Some(Arc::new(expired)))
    }

    pub fn clear(&mut self) {
        self.named.clear();
        self.read.take();
    }
}

#[cfg(test)]
mod tests;
