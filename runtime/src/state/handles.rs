//! The keyed states that a function owns: value, list, map, reducing, aggregating.
//!
//! A state is a plain typed field of the function; the operator sees it as a [`KeyedTable`] when it freezes or restores.
//! An access takes a [`KeyRef`]: the key with its hash, which travels as a column beside the batch, so that no key is
//! hashed twice. References into a state stay valid until the next access to it.
//!
//! State by namespace (the panes of windows) is in [`super::panes`]: a table for each.
use super::frozen::{EntryError, Named, RawEntry, RestoreShard, RestoreTarget};
use super::key_map::KeyMap;
use super::snapshot::FrozenTable;
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::data::{Data, Key};
use std::ops::Range;

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
    /// Number of keys.
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Removes every key.
    fn clear_all(&mut self);
}

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
            fn len(&self) -> usize {
                self.inner.table.len()
            }
            fn clear_all(&mut self) {
                self.inner.table.clear();
            }
        }
    };
}
keyed_table!(ValueState, [V: Data]);
keyed_table!(ListState, [T: Data]);
keyed_table!(MapState, [MK: Key] [MV: Data]);
keyed_table!(ReducingState, [V: Data] [F: FnMut(&mut V, V) + Send]);
keyed_table!(AggregatingState, [A: AggregateFunction]);

/// One value per key.
pub struct ValueState<K, V> {
    inner: Named<K, V>,
}

impl<K: Key, V: Data> ValueState<K, V> {
    pub fn new(name: impl Into<String>) -> Self {
        Self { inner: Named::new(name, StateKind::Value) }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>) -> Option<&V> {
        self.inner.table.get(key.hash, key.key)
    }
    #[inline]
    pub fn get_mut(&mut self, key: &KeyRef<'_, K>) -> Option<&mut V> {
        self.inner.table.get_mut(key.hash, key.key)
    }
    /// The value, which is first set to its default if there is none.
    #[inline]
    pub fn get_mut_or_default(&mut self, key: &KeyRef<'_, K>) -> &mut V
    where
        V: Default,
    {
        self.inner.table.upsert(key.hash, key.key)
    }
    #[inline]
    pub fn get_mut_or_insert_with(&mut self, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V {
        self.inner.table.upsert_with(key.hash, key.key, new)
    }
    /// Sets the value.
    #[inline]
    pub fn update(&mut self, key: &KeyRef<'_, K>, value: V) {
        self.inner.table.insert(key.hash, key.key, value);
    }
    /// Removes the value and returns it.
    pub fn take(&mut self, key: &KeyRef<'_, K>) -> Option<V> {
        self.inner.table.remove(key.hash, key.key)
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        self.inner.table.remove(key.hash, key.key);
    }
}

/// A list per key, in the order of adding. A key without elements takes no room.
pub struct ListState<K, T> {
    inner: Named<K, Vec<T>>,
}

impl<K: Key, T: Data> ListState<K, T> {
    pub fn new(name: impl Into<String>) -> Self {
        Self { inner: Named::new(name, StateKind::List) }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>) -> &[T] {
        self.inner.table.get(key.hash, key.key).map_or(&[], Vec::as_slice)
    }
    #[inline]
    pub fn add(&mut self, key: &KeyRef<'_, K>, element: T) {
        self.inner.table.upsert(key.hash, key.key).push(element);
    }
    pub fn add_all(&mut self, key: &KeyRef<'_, K>, elements: impl IntoIterator<Item = T>) {
        let mut elements = elements.into_iter().peekable();
        if elements.peek().is_some() {
            self.inner.table.upsert(key.hash, key.key).extend(elements);
        }
    }
    /// Replaces the list.
    pub fn update(&mut self, key: &KeyRef<'_, K>, elements: Vec<T>) {
        if elements.is_empty() {
            self.inner.table.remove(key.hash, key.key);
        } else {
            self.inner.table.insert(key.hash, key.key, elements);
        }
    }
    /// Removes the list and returns it.
    pub fn take(&mut self, key: &KeyRef<'_, K>) -> Vec<T> {
        self.inner.table.remove(key.hash, key.key).unwrap_or_default()
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        self.inner.table.remove(key.hash, key.key);
    }
}

/// A map per key. A key without entries takes no room.
pub struct MapState<K, MK, MV> {
    inner: Named<K, KeyMap<MK, MV>>,
}

impl<K: Key, MK: Key, MV: Data> MapState<K, MK, MV> {
    pub fn new(name: impl Into<String>) -> Self {
        Self { inner: Named::new(name, StateKind::Map) }
    }
    #[inline]
    pub fn get(&self, key: &KeyRef<'_, K>, entry: &MK) -> Option<&MV> {
        self.map(key)?.get(entry)
    }
    pub fn get_mut(&mut self, key: &KeyRef<'_, K>, entry: &MK) -> Option<&mut MV> {
        self.inner.table.get_mut(key.hash, key.key)?.get_mut(entry)
    }
    pub fn get_mut_or_default(&mut self, key: &KeyRef<'_, K>, entry: &MK) -> &mut MV
    where
        MV: Default,
    {
        self.inner.table.upsert(key.hash, key.key).get_mut_or_default(entry)
    }
    /// Sets an entry and returns the value before.
    pub fn put(&mut self, key: &KeyRef<'_, K>, entry: MK, value: MV) -> Option<MV> {
        self.inner.table.upsert(key.hash, key.key).insert(entry, value)
    }
    pub fn remove(&mut self, key: &KeyRef<'_, K>, entry: &MK) -> Option<MV> {
        self.get(key, entry)?; // absent: a shared segment stays shared
        let map = self.inner.table.get_mut(key.hash, key.key)?;
        let removed = map.remove(entry);
        if map.is_empty() {
            self.inner.table.remove(key.hash, key.key);
        }
        removed
    }
    /// The whole map of the key.
    pub fn map(&self, key: &KeyRef<'_, K>) -> Option<&KeyMap<MK, MV>> {
        self.inner.table.get(key.hash, key.key)
    }
    /// All keys with their maps, in no useful order.
    pub fn all(&self) -> impl Iterator<Item = (&K, &KeyMap<MK, MV>)> {
        self.inner.table.iter()
    }
    /// Entries of the key in no useful order.
    pub fn iter(&self, key: &KeyRef<'_, K>) -> impl Iterator<Item = (&MK, &MV)> {
        self.map(key).into_iter().flat_map(KeyMap::iter)
    }
    pub fn clear(&mut self, key: &KeyRef<'_, K>) {
        self.inner.table.remove(key.hash, key.key);
    }
}

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
