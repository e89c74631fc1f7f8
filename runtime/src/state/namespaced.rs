//! Keyed state by namespace: one value per namespace and key, dropped by namespace at once.
use super::frozen::{EntryError, RawEntry, RestoreTarget};
use super::handles::{KeyRef, KeyedTable};
use super::panes::PaneState;
use super::snapshot::FrozenTable;
use crate::checkpoint::handles::StateDescriptor;
use crate::data::{Data, Key};
use std::cell::Cell;
use std::ops::Range;

/// One value per key and namespace, where a namespace is a number that many keys share: the start of a window, a day, the
/// number of a round.
///
/// Each namespace is a table of its own, so that all of its keys are cleared at once, in a time that does not depend on how
/// many there are, and so is the snapshot of that. An access costs that of a [`ValueState`](super::ValueState) and a search
/// among the namespaces, unless it is the one that was used last. For namespaces that belong to one key alone (its orders,
/// its sessions) use a [`MapState`](super::MapState), whose `clear` drops all of a key's entries.
///
/// Snapshots and rescales treat it as any other keyed state: all namespaces of a key move together. It stays in memory where
/// the job keeps its state in RocksDB, and has no time-to-live: clear what is over.
///
/// How often each word came in each hour; what is more than a day old goes, for all words:
/// ```
/// use weir::prelude::*;
/// use weir::testing::OperatorHarness;
///
/// struct PerHour(NamespacedState<Str, u64>);
///
/// impl KeyedProcessFunction for PerHour {
///     type Key = Str;
///     type In = (Str, i64); // word, hour
///     type Out = (Str, i64, u64);
///     fn states(&mut self) -> Vec<&mut dyn KeyedTable<Str>> {
///         vec![&mut self.0]
///     }
///     fn process(&mut self, word: &KeyRef<'_, Str>, r: &(Str, i64), out: &mut Output<Self::Out>) -> Result<()> {
///         self.0.clear_before(r.1 - 24);
///         let n = self.0.get_mut_or_default(r.1, word);
///         *n += 1;
///         out.push((r.0.clone(), r.1, *n));
///         Ok(())
///     }
/// }
///
/// let mut h = OperatorHarness::new(|words: Stream<(Str, i64)>| {
///     words.key_by(|w| &w.0).process_function("per hour", || PerHour(NamespacedState::new("counts")))
/// })?;
/// h.push_all([("a".into(), 0), ("a".into(), 1), ("a".into(), 1), ("b".into(), 30), ("a".into(), 30)])?;
/// assert_eq!(h.output()?[2..], [("a".into(), 1, 2), ("b".into(), 30, 1), ("a".into(), 30, 1)]);
/// let counts = h.state("per hour", NamespacedState::<Str, u64>::new("counts"))?;
/// assert_eq!(counts.namespaces().collect::<Vec<_>>(), [30]);
/// # Ok::<(), weir::Error>(())
/// ```
pub struct NamespacedState<K, V> {
    panes: PaneState<K, V>,
    /// Place of the namespace that was used last, if it is still there.
    last: Cell<usize>,
}

impl<K: Key, V: Data> NamespacedState<K, V> {
    /// The name must be unique among the states of the operator.
    pub fn new(name: impl Into<String>) -> Self {
        Self { panes: PaneState::new(name), last: Cell::new(0) }
    }

    #[inline]
    fn find(&self, namespace: i64) -> Option<usize> {
        let last = self.last.get();
        if last < self.panes.panes() && self.panes.namespace(last) == namespace {
            return Some(last);
        }
        let at = self.panes.find(namespace)?;
        self.last.set(at);
        Some(at)
    }

    fn open(&mut self, namespace: i64) -> usize {
        self.find(namespace).unwrap_or_else(|| {
            let at = self.panes.open(namespace);
            self.last.set(at);
            at
        })
    }

    #[inline]
    pub fn get(&self, namespace: i64, key: &KeyRef<'_, K>) -> Option<&V> {
        self.panes.get(self.find(namespace)?, key)
    }
    /// Counts as a write.
    #[inline]
    pub fn get_mut(&mut self, namespace: i64, key: &KeyRef<'_, K>) -> Option<&mut V> {
        let at = self.find(namespace)?;
        self.panes.get_mut(at, key)
    }
    /// The value, which is first set to its default if there is none.
    #[inline]
    pub fn get_mut_or_default(&mut self, namespace: i64, key: &KeyRef<'_, K>) -> &mut V
    where
        V: Default,
    {
        self.get_mut_or_insert_with(namespace, key, V::default)
    }
    #[inline]
    pub fn get_mut_or_insert_with(&mut self, namespace: i64, key: &KeyRef<'_, K>, new: impl FnOnce() -> V) -> &mut V {
        let at = self.open(namespace);
        self.panes.upsert_with(at, key, new)
    }
    /// Sets the value.
    pub fn update(&mut self, namespace: i64, key: &KeyRef<'_, K>, value: V) {
        let at = self.open(namespace);
        self.panes.table(at).insert(key.hash, key.key, value);
    }
    /// Removes the key's value in the namespace and returns it.
    pub fn take(&mut self, namespace: i64, key: &KeyRef<'_, K>) -> Option<V> {
        let at = self.find(namespace)?;
        let taken = self.panes.remove(at, key);
        if self.panes.table(at).is_empty() {
            self.panes.remove_range(at..at + 1);
        }
        taken
    }
    /// Removes the key's value in the namespace.
    pub fn clear(&mut self, namespace: i64, key: &KeyRef<'_, K>) {
        self.take(namespace, key);
    }
    /// Removes the key's values in all namespaces; takes time by the number of namespaces.
    pub fn clear_key(&mut self, key: &KeyRef<'_, K>) {
        for at in (0..self.panes.panes()).rev() {
            self.take(self.panes.namespace(at), key);
        }
    }
    /// Removes all values in the namespace, of all keys of this subtask.
    pub fn clear_namespace(&mut self, namespace: i64) {
        if let Some(at) = self.panes.find(namespace) {
            self.panes.remove_range(at..at + 1);
        }
    }
    /// Removes all values in the namespaces below this one, of all keys of this subtask.
    pub fn clear_before(&mut self, namespace: i64) {
        let n = self.panes.lower_bound(namespace);
        if n > 0 {
            self.panes.remove_range(0..n);
        }
    }
    /// The namespaces in which some key of this subtask has a value, in ascending order.
    pub fn namespaces(&self) -> impl DoubleEndedIterator<Item = i64> + ExactSizeIterator {
        self.panes.namespaces()
    }
    /// Keys with their values in the namespace, those of this subtask, in no useful order.
    pub fn entries(&self, namespace: i64) -> impl Iterator<Item = (&K, &V)> {
        self.panes.find(namespace).into_iter().flat_map(|at| self.panes.entries(at))
    }
}

impl<K: Key, V: Data> KeyedTable<K> for NamespacedState<K, V> {
    fn descriptor(&self) -> &StateDescriptor {
        self.panes.descriptor()
    }
    fn own(&mut self, key_groups: &Range<u32>) {
        self.panes.own(key_groups.clone());
    }
    fn freeze(&mut self) -> Box<dyn FrozenTable> {
        self.panes.freeze()
    }
    fn restore(&mut self, target: &RestoreTarget<'_>, entry: RawEntry<'_>) -> Result<bool, EntryError> {
        self.panes.restore(target, entry)
    }
    fn restored(&mut self) {
        self.panes.restored();
        // what was removed key by key left its table behind
        for at in (0..self.panes.panes()).rev() {
            if self.panes.table(at).is_empty() {
                self.panes.remove_range(at..at + 1);
            }
        }
    }
    fn len(&self) -> usize {
        self.panes.len()
    }
    fn clear_all(&mut self) {
        self.panes.clear_all();
    }
}

/// A [`NamespacedState`] of any values: what windows do with it.
pub(crate) trait AnyNamespaces<K: Key>: KeyedTable<K> {
    /// The first namespace that has something.
    fn first_namespace(&self) -> Option<i64>;
    /// As [`NamespacedState::clear_namespace`].
    fn clear_namespace(&mut self, namespace: i64);
}

impl<K: Key, V: Data> AnyNamespaces<K> for NamespacedState<K, V> {
    fn first_namespace(&self) -> Option<i64> {
        self.namespaces().next()
    }
    fn clear_namespace(&mut self, namespace: i64) {
        self.clear_namespace(namespace);
    }
}

#[cfg(test)]
mod tests;
