//! What operators do whose states a store keeps: opening and restoring them, reading ahead for batches and timers.
use super::function::KeySelector;
use super::timers::Due;
use crate::checkpoint::handles::{FileFormat, KeyedHandle};
use crate::data::Key;
use crate::dataflow::Batch;
use crate::dataflow::factory::BuildContext;
use crate::error::{Error, ErrorCode, Result};
use crate::state::file::{self, NotDeclared, ReadAt};
use crate::state::frozen::{Change, RawEntry, RestoreTarget};
use crate::state::store::{StateStore, StoreSubtask, StoredSnapshot};
use crate::state::{KeyRef, KeyedTable};
use std::ops::Range;

/// Restores an operator's states. If the job keeps state in a store, those that can be are attached to one: `prepares` says that
/// the operator reads ahead, `storable` for how many of them, the first ones. True if it has to, and settles its states between
/// batches.
pub(super) fn open_states<K: Key>(
    cx: &BuildContext<'_>,
    prepares: bool,
    storable: usize,
    states: &mut [&mut dyn KeyedTable<K>],
) -> Result<bool> {
    let handles: &[KeyedHandle] = cx.restore.map_or(&[], |r| &r.keyed);
    states.iter_mut().for_each(|s| s.own(&cx.key_groups));
    let all = || handles.iter().zip(cx.files);
    let snapshots: Vec<StoredSnapshot<'_>> = all()
        .filter(|(h, _)| h.format == FileFormat::RocksDb)
        .map(|(h, files)| StoredSnapshot { key_groups: h.key_groups.clone(), files })
        .collect();
    let keeper = cx.stores.keeper().filter(|_| prepares);
    if keeper.is_some() || !snapshots.is_empty() {
        let subtask = StoreSubtask {
            operator: cx.operator,
            subtask: cx.subtask,
            key_groups: cx.key_groups.clone(),
            max_parallelism: cx.max_parallelism,
            states: states.iter().map(|s| s.descriptor().clone()).collect(),
            // what may be dropped was decided, and said, before the log was claimed
            drop_others: true,
        };
        let store = match keeper {
            Some(factory) => factory.open(&subtask, &snapshots)?,
            None => cx.stores.reader()?.open(&subtask, &snapshots)?,
        };
        for (i, state) in states.iter_mut().enumerate() {
            let attached = keeper.is_some() && i < storable && state.attach(&store, snapshots.is_empty())?;
            if !attached && !snapshots.is_empty() {
                read_into_memory(cx.operator, &cx.key_groups, cx.max_parallelism, &*store, &mut **state)?;
            }
        }
    }
    if cx.restore.is_some() {
        let chains: Vec<Vec<&dyn ReadAt>> = all()
            .filter(|(h, _)| h.format == FileFormat::Canonical)
            .map(|(_, c)| c.iter().map(|f| &**f).collect())
            .collect();
        let chains: Vec<&[&dyn ReadAt]> = chains.iter().map(Vec::as_slice).collect();
        let dropping = NotDeclared::Drop;
        let restored = file::restore(cx.operator, &cx.key_groups, cx.max_parallelism, dropping, &chains, states)?;
        tracing::debug!(operator = cx.operator, subtask = cx.subtask, entries = restored.entries, "state restored");
    }
    Ok(keeper.is_some())
}

/// A state that was in a store and is in memory from now on.
pub(super) fn read_into_memory<K: Key>(
    operator: &str,
    owned: &Range<u32>,
    max_parallelism: u32,
    store: &dyn StateStore,
    state: &mut dyn KeyedTable<K>,
) -> Result<()> {
    let descriptor = state.descriptor().clone();
    let target = RestoreTarget { max_parallelism, change: Change::New, owned, block: owned.clone() };
    store.visit(&descriptor, &mut |key, value| {
        state.restore(&target, RawEntry { key, value }).map(drop).map_err(|e| {
            let name = &descriptor.name;
            let m = format!("operator {operator:?}: an entry of the state {name:?} in the checkpoint is damaged: {e}");
            Error::external(ErrorCode::Snapshot, m)
        })
    })
}

/// Asks a state for all keys of a batch.
pub(super) fn want<T, S: KeySelector<T>>(
    batch: &Batch<T>,
    selector: &S,
    states: &mut [&mut dyn KeyedTable<S::Key>],
) -> Result<()> {
    for (record, &hash) in batch.records.iter().zip(&batch.hashes) {
        selector.with_key(record, |key| states.iter_mut().for_each(|s| s.want(&KeyRef { hash, key })));
    }
    states.iter_mut().try_for_each(|s| s.load())
}

/// After a batch.
pub(super) fn settle<K: Key>(states: Vec<&mut dyn KeyedTable<K>>) -> Result<()> {
    states.into_iter().try_for_each(KeyedTable::settle)
}

/// Before a timer fires: makes its key available, and those of the timers that are likely to fire next.
pub(super) fn want_due<K: Key, N: Key>(due: &Due<K, N>, states: Vec<&mut dyn KeyedTable<K>>) -> Result<()> {
    for state in states {
        if !due.next.is_empty() {
            state.settle()?;
        }
        due.next.iter().for_each(|(hash, key)| state.want(&KeyRef { hash: *hash, key }));
        state.want(&KeyRef { hash: due.hash, key: &due.key });
        state.load()?;
    }
    Ok(())
}
