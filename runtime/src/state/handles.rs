//! The keyed states that a function owns: value, list, map, reducing, aggregating.
//!
//! A state is a plain typed field of the function; the operator sees it as a [`KeyedTable`] when it freezes or restores.
//! An access takes a [`KeyRef`]: the key with its hash, which travels as a column beside the batch, so that no key is
//! hashed twice. References into a state stay valid until the next access to it.
//!
//! State by namespace is in [`super::NamespacedState`], on [`super::panes`]: a table for each.
mod list;
mod map;
mod value;

pub use list::ListState;
pub use map::MapState;
pub use value::ValueState;

use super::frozen::{EntryError, Named, RawEntry, RestoreShard, RestoreTarget};
use super::snapshot::FrozenTable;
use super::store::StateStore;
use super::ttl::Aging;
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key};
use crate::error::Result as StateResult;
use std::ops::Range;
use std::sync::Arc;

/// A key and its hash. The hash must be that of the key.
#[derive(Debug)]
pub struct KeyRef<'a, K> {
    pub hash: u64,
    pub key: &'a K,
}

impl<K> Clone for KeyRef<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for KeyRef<'_, K> {}

impl<'a, K: Key> KeyRef<'a, K> {
    /// Hashes the key: for tests and places off the record path.
    pub fn of(key: &'a K) -> Self {
        Self { hash: key.key_hash(), key }
    }
}

/// What an operator must be able to do with each of its function's states.
pub trait KeyedTable<K: Key>: Send {
    /// Name, kind and types; the name is unique within the operator.
    fn descriptor(&self) -> &StateDescriptor;
    /// The subtask owns these key groups; called once, before anything is restored. What remembers changes by key group wants to
    /// know.
    fn own(&mut self, _key_groups: &Range<u32>) {}
    /// The state as it is now, in a time by the number of segments. The task goes on; a snapshot is written from this.
    fn freeze(&mut self) -> Box<dyn FrozenTable>;
    /// Takes an entry of a snapshot. False if its key group belongs to another subtask.
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError>;
    /// Parts for several threads to restore, at least so many where there are that many key groups; [`Self::adopt`] makes
    /// them the state's contents. None: entries are restored one by one.
    fn shards(&self, _groups: &Range<u32>, _max_parallelism: u32, _least: usize) -> Vec<Box<dyn RestoreShard>> {
        Vec::new()
    }
    /// Takes over [`Self::shards`], in their order. The state must be empty.
    fn adopt(&mut self, _shards: Vec<Box<dyn RestoreShard>>) {}
    /// Everything is restored; called once.
    fn restored(&mut self) {}
    /// Its entries expire: it wants to be told the time.
    fn ages(&self) -> bool {
        false
    }
    /// The time is this, ms since the Unix epoch; called before each batch and before the state is frozen.
    fn tick(&mut self, _now: i64) {}
    /// A batch of records with these keys comes next: brings their entries near, where that pays.
    fn prefetch(&self, _hashes: &[u64]) {}
    /// Lets a store keep the entries, with the table as a cache; `empty`: the store has none of them. Called once, before
    /// anything else. False: they stay in memory, and [`Self::settle`] looks whether that is too much.
    fn attach(&mut self, _store: &Arc<dyn StateStore>, _empty: bool) -> StateResult<bool> {
        Ok(false)
    }
    /// The key will be used before the next [`Self::settle`]; [`Self::load`] makes it available.
    fn want(&mut self, _key: &KeyRef<'_, K>) {}
    /// Brings what is wanted into the table.
    fn load(&mut self) -> StateResult<()> {
        Ok(())
    }
    /// Lets go of entries that take too much memory: between batches.
    fn settle(&mut self) -> StateResult<()> {
        Ok(())
    }
    /// Number of keys (in memory, where a store has more).
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Removes every key.
    fn clear_all(&mut self);
}

/// The table of a state whose entries live for ever, or for some time.
enum Kept<K, P, T, R> {
    Plain(Named<K, P>),
    Timed(Box<Aging<K, T, R>>),
}

/// The same for either table; `$table` is a `Named`.
macro_rules! either {
    ($kept:expr, $table:ident => $do:expr) => {
        match $kept {
            Kept::Plain($table) => $do,
            Kept::Timed(aging) => {
                let $table = &aging.named;
                $do
            }
        }
    };
    (mut $kept:expr, $table:ident => $do:expr) => {
        match $kept {
            Kept::Plain($table) => $do,
            Kept::Timed(aging) => {
                let $table = &mut aging.named;
                $do
            }
        }
    };
}
use either;

/// [`KeyedTable`] of a state with [`Kept`]; `$touch` says what a read does to a value.
macro_rules! kept_table {
    ($state:ident, [$($p:ident: $bound:tt)+], $touch:expr) => {
        impl<K: Key $(, $p: $bound)+> KeyedTable<K> for $state<K $(, $p)+> {
            fn descriptor(&self) -> &StateDescriptor {
                either!(&self.kept, t => &t.descriptor)
            }
            fn freeze(&mut self) -> Box<dyn FrozenTable> {
                match &mut self.kept {
                    Kept::Plain(t) => t.freeze(),
                    Kept::Timed(aging) => {
                        aging.apply_reads($touch);
                        let keep = aging.keep();
                        aging.named.freeze_only(keep)
                    }
                }
            }
            fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
                either!(mut &mut self.kept, t => t.restore(target, entry))
            }
            fn shards(&self, groups: &Range<u32>, max_parallelism: u32, least: usize) -> Vec<Box<dyn RestoreShard>> {
                either!(&self.kept, t => t.shards(groups, max_parallelism, least))
            }
            fn adopt(&mut self, shards: Vec<Box<dyn RestoreShard>>) {
                either!(mut &mut self.kept, t => t.adopt(shards));
            }
            fn prefetch(&self, hashes: &[u64]) {
                either!(&self.kept, t => t.table.prefetch(hashes));
            }
            fn len(&self) -> usize {
                either!(&self.kept, t => t.table.len())
            }
            fn clear_all(&mut self) {
                match &mut self.kept {
                    Kept::Plain(t) => t.clear(),
                    Kept::Timed(aging) => aging.clear(),
                }
            }
            fn attach(&mut self, store: &Arc<dyn StateStore>, empty: bool) -> crate::error::Result<bool> {
                match &mut self.kept {
                    Kept::Plain(t) => t.attach(store, empty, None)?,
                    Kept::Timed(aging) => aging.attach(store, empty)?,
                }
                Ok(true)
            }
            fn want(&mut self, key: &KeyRef<'_, K>) {
                either!(mut &mut self.kept, t => t.want(key.hash, key.key));
            }
            fn load(&mut self) -> crate::error::Result<()> {
                either!(mut &mut self.kept, t => t.load())
            }
            fn settle(&mut self) -> crate::error::Result<()> {
                match &mut self.kept {
                    Kept::Plain(t) => t.settle(),
                    Kept::Timed(aging) => {
                        // what was read must not leave before its time is set
                        aging.apply_reads($touch);
                        aging.named.settle()
                    }
                }
            }
            fn ages(&self) -> bool {
                matches!(self.kept, Kept::Timed(_))
            }
            fn tick(&mut self, now: i64) {
                if let Kept::Timed(aging) = &mut self.kept {
                    aging.apply_reads($touch);
                    aging.advance(now);
                }
            }
        }
    };
}
use kept_table;

macro_rules! keyed_table {
    ($state:ident, $([$p:ident: $($bound:tt)+])+) => {
        impl<K: Key $(, $p: $($bound)+)*> KeyedTable<K> for $state<K $(, $p)*> {
            fn descriptor(&self) -> &StateDescriptor {
                &self.inner.descriptor
            }
            fn freeze(&mut self) -> Box<dyn FrozenTable> {
                self.inner.freeze()
            }
            fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
                self.inner.restore(target, entry)
            }
            fn shards(&self, groups: &Range<u32>, max_parallelism: u32, least: usize) -> Vec<Box<dyn RestoreShard>> {
                self.inner.shards(groups, max_parallelism, least)
            }
            fn adopt(&mut self, shards: Vec<Box<dyn RestoreShard>>) {
                self.inner.adopt(shards);
            }
            fn prefetch(&self, hashes: &[u64]) {
                self.inner.table.prefetch(hashes);
            }
            fn len(&self) -> usize {
                self.inner.table.len()
            }
            fn clear_all(&mut self) {
                self.inner.clear();
            }
            fn attach(&mut self, store: &Arc<dyn StateStore>, empty: bool) -> StateResult<bool> {
                self.inner.attach(store, empty, None).map(|()| true)
            }
            fn want(&mut self, key: &KeyRef<'_, K>) {
                self.inner.want(key.hash, key.key);
            }
            fn load(&mut self) -> StateResult<()> {
                self.inner.load()
            }
            fn settle(&mut self) -> StateResult<()> {
                self.inner.settle()
            }
        }
    };
}
keyed_table!(ReducingState, [V: Data] [F: FnMut(&mut V, V) + Send]);
keyed_table!(AggregatingState, [A: AggregateFunction]);

/// One value per key, into which each added one is reduced.
pub struct ReducingState<K, V, F = fn(&mut V, V)> {
    inner: Named<K, V>,
    reduce: F,
}

impl<K: Key, V: Data, F: FnMut(&mut V, V) + Send> ReducingState<K, V, F> {
    /// `reduce` merges its second argument into the first. It must be associative.
    pub fn new(name: impl Into<String>, reduce: F) -> Self {
        Self { inner: Named::new(name, StateKind::Reducing), reduce }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>) -> Option<&V> {
        self.inner.table.get(key.hash, key.key)
    }
    /// Reduces `value` into the key's and returns the result; the first value of a key is stored as it is.
    #[inline]
    pub fn add(&mut self, key: &KeyRef<'_, K>, value: V) -> &mut V {
        self.inner.table.reduce(key.hash, key.key, value, &mut self.reduce)
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        self.inner.table.remove(key.hash, key.key);
    }
}

/// How values are aggregated: an accumulator per key takes inputs and gives a result.
pub trait AggregateFunction: Send + 'static {
    type In;
    type Acc: Data;
    type Out;
    fn create(&self) -> Self::Acc;
    fn add(&self, acc: &mut Self::Acc, input: Self::In);
    fn result(&self, acc: &Self::Acc) -> Self::Out;
    /// Merges the second accumulator into the first (merging windows need it).
    fn merge(&self, acc: &mut Self::Acc, other: Self::Acc);
}

/// One accumulator per key.
pub struct AggregatingState<K, A: AggregateFunction> {
    inner: Named<K, A::Acc>,
    function: A,
}

impl<K: Key, A: AggregateFunction> AggregatingState<K, A> {
    pub fn new(name: impl Into<String>, function: A) -> Self {
        Self { inner: Named::new(name, StateKind::Aggregating), function }
    }
    /// The result so far, if anything was added.
    pub fn get(&self, key: &KeyRef<'_, K>) -> Option<A::Out> {
        self.inner.table.get(key.hash, key.key).map(|acc| self.function.result(acc))
    }
    #[inline]
    pub fn add(&mut self, key: &KeyRef<'_, K>, input: A::In) {
        let acc = self.inner.table.upsert_with(key.hash, key.key, || self.function.create());
        self.function.add(acc, input);
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        self.inner.table.remove(key.hash, key.key);
    }
}
