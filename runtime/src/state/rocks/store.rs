//! A database as the store of one operator subtask's states.
use super::checkpoint;
use super::directory::Folder;
use super::failed;
use super::options::{Columns, Shared};
use super::sorted::SortedFiles;
use crate::checkpoint::handles::{StateDescriptor, StateKind};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::key_group;
use crate::state::backing::Backed;
use crate::state::snapshot::FrozenTable;
use crate::state::store::{
    Column, Expired, KeyList, KeyParts, LocalFiles, MERGE_PATIENCE, ObjectMemory, StateStore, Turns, namespace_bytes,
};
use rocksdb::{DB, Options, ReadOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// So many files that overlap slow down every read: changes wait until some are merged.
const MOST_OVERLAPPING: u64 = 24;

/// The store of one operator subtask.
pub struct RocksStore {
    // closed before its folder is removed
    pub(super) db: DB,
    pub(super) options: Options,
    pub(super) shared: Shared,
    pub(super) folder: Arc<Folder>,
    pub(super) columns: Columns,
    pub(super) about: About,
    turns: Arc<Turns>,
    next: AtomicU64,
}

/// Whose state it is.
#[derive(Debug, Clone)]
pub struct About {
    pub operator: String,
    pub key_groups: Range<u32>,
    pub max_parallelism: u32,
}

/// The first hash of a key group; none: it begins behind the last hash.
pub fn first_hash(group: u32, max_parallelism: u32) -> Option<u64> {
    u64::try_from((u128::from(group) << 64).div_ceil(u128::from(max_parallelism.max(1)))).ok()
}

/// The keys of a state with hashes of these key groups: from the first on, up to the second.
pub fn key_range(prefix: [u8; 4], groups: &Range<u32>, max_parallelism: u32) -> (Vec<u8>, Vec<u8>) {
    let bound = |group: u32| match first_hash(group, max_parallelism) {
        Some(hash) => [prefix.as_slice(), &hash.to_be_bytes()].concat(),
        None => behind(&prefix),
    };
    (bound(groups.start), bound(groups.end))
}

impl RocksStore {
    pub(super) fn new(
        db: DB,
        options: Options,
        shared: Shared,
        folder: Arc<Folder>,
        columns: Columns,
        about: About,
    ) -> Self {
        Self { db, options, shared, folder, columns, about, turns: Arc::default(), next: AtomicU64::new(0) }
    }

    fn number(&self, property: &str) -> u64 {
        self.db.property_int_value(property).ok().flatten().unwrap_or(0)
    }

    /// About so many entries.
    pub(super) fn entries(&self) -> u64 {
        self.number("rocksdb.estimate-num-keys")
    }

    /// A name for a file that no other has.
    pub(super) fn unique(&self, what: &str) -> String {
        format!("{what}-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands files over to the database, once it has merged enough of what it got before. Without waiting, an error if it has not
    /// when `given_up` is set.
    pub(super) fn take_over(&self, files: Vec<PathBuf>, given_up: &AtomicBool) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let since = Instant::now();
        while self.number("rocksdb.num-files-at-level0") > MOST_OVERLAPPING {
            if self.number("rocksdb.background-errors") > 0 || since.elapsed() > MERGE_PATIENCE {
                break; // what is wrong is told below
            }
            if given_up.load(Ordering::Relaxed) {
                files.iter().for_each(|f| _ = std::fs::remove_file(f));
                let why = "the snapshot was given up before the state's store was ready for its changes";
                return Err(Error::external(ErrorCode::Checkpoint, why));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let done = self.db.ingest_external_file_opts(&Shared::ingest(), files.clone());
        done.map_err(|e| {
            files.iter().for_each(|f| _ = std::fs::remove_file(f));
            failed("take over changes", self.folder.path(), e)
        })
    }

    /// Brings the tables' changes into the database when it is their turn. Returns their places in the order.
    fn bring(&self, tables: Vec<Box<dyn FrozenTable>>, given_up: &AtomicBool) -> Result<Vec<Backed>> {
        let mut all: Vec<(Backed, Box<dyn FrozenTable>)> = Vec::with_capacity(tables.len());
        for mut table in tables {
            let backed =
                table.take_backed().ok_or_else(|| Error::internal("a table came to a store that is not its"))?;
            all.push((backed, table));
        }
        if let Some((first, _)) = all.iter().min_by_key(|(b, _)| b.ticket.number()) {
            self.turns.wait(&first.ticket)?;
        }
        all.sort_by_key(|(b, _)| b.column.prefix());
        // what is dropped as a whole comes first: entries that came after it stay
        let mut dropped = Vec::new();
        for (backed, table) in &all {
            for range in table.dropped(backed.column.flushed()) {
                dropped.push(suffix_range(backed.column.prefix(), range));
            }
        }
        let mut files = SortedFiles::new(&self.shared, &self.options, self.folder.path(), self.unique("changes"));
        for (from, to) in &dropped {
            // whole files go at once
            let gone = self.db.delete_file_in_range(from, to);
            gone.map_err(|e| failed("remove entries", self.folder.path(), e))?;
            files.remove_range(from, to)?;
        }
        let mut done = Vec::with_capacity(all.len());
        let mut key = Vec::new();
        for (backed, table) in all {
            // an earlier snapshot may have failed: then its changes are among these
            let since = backed.column.flushed();
            if since < backed.epoch {
                table.changes(since, &mut |suffix, value| {
                    key.clear();
                    key.extend_from_slice(&backed.column.prefix());
                    key.extend_from_slice(suffix);
                    files.put(&key, value)
                })?;
            }
            done.push(backed);
        }
        self.take_over(files.finish()?, given_up)?;
        for b in &done {
            b.column.set_flushed(b.epoch.max(b.column.flushed()));
        }
        Ok(done)
    }
}

impl StateStore for RocksStore {
    fn read(&self, keys: &KeyList, found: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let fail = |e| failed("read", self.folder.path(), e);
        let Some(default) = self.db.cf_handle(rocksdb::DEFAULT_COLUMN_FAMILY_NAME) else {
            return Err(Error::internal("a database without its column family"));
        };
        // sorted by hash, which is nearly always the order of the keys; the database makes sure
        let values = self.db.batched_multi_get_cf_opt(default, keys.iter(), false, &ReadOptions::default());
        for (at, value) in values.into_iter().enumerate() {
            if let Some(value) = value.map_err(fail)? {
                found(at, &value)?;
            }
        }
        Ok(())
    }

    fn flush(&self, tables: Vec<Box<dyn FrozenTable>>) -> Result<()> {
        self.bring(tables, &AtomicBool::new(false))
            .map(drop)
            .map_err(|e| e.at(format!("operator {:?}", self.about.operator)))
    }

    fn checkpoint(&self, tables: Vec<Box<dyn FrozenTable>>, given_up: &AtomicBool) -> Result<LocalFiles> {
        let states = tables.iter().map(|t| t.descriptor().clone()).collect();
        let done = self.bring(tables, given_up).and_then(|places| {
            let linked = checkpoint::link(self)?;
            // what comes later may change the database from here on
            drop(places);
            checkpoint::describe(self, linked, states)
        });
        done.map_err(|e| e.at(format!("operator {:?}", self.about.operator)))
    }

    fn whole(&self, tables: Vec<Box<dyn FrozenTable>>, given_up: &AtomicBool) -> Result<Vec<Box<dyn FrozenTable>>> {
        let done = self.bring(tables, given_up).and_then(|places| {
            let linked = checkpoint::link(self)?;
            let columns: Vec<_> = places.iter().map(|b| b.column.clone()).collect();
            drop(places);
            super::canonical::tables(self, linked, columns)
        });
        done.map_err(|e| e.at(format!("operator {:?}", self.about.operator)))
    }

    fn column(&self, descriptor: &Arc<StateDescriptor>, expired: Option<Arc<Expired>>) -> Result<Arc<Column>> {
        let column = Arc::new(Column::new(descriptor.clone(), expired));
        let mut columns = self.columns.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = columns.iter().find(|c| c.prefix() == column.prefix()) {
            let (a, b) = (&same.descriptor.name, &descriptor.name);
            let m = format!(
                "operator {:?}: the states {a:?} and {b:?} cannot be kept apart by the RocksDb state backend: give one of them another name",
                self.about.operator
            );
            return Err(Error::user(ErrorCode::Graph, m));
        }
        columns.push(column.clone());
        Ok(column)
    }

    fn clear(&self, column: &Column) -> Result<()> {
        self.remove(vec![suffix_range(column.prefix(), (Vec::new(), None))])
    }

    fn visit(&self, state: &StateDescriptor, entry: &mut dyn FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let (groups, panes) = (&self.about.key_groups, state.kind == StateKind::Panes);
        let path = self.folder.path();
        let mut canonical = Vec::new();
        for (from, to) in self.ranges(&self.db, path, state, groups)? {
            scan(&self.db, path, from, to, &mut |key, value| match KeyParts::of(key, panes) {
                Some(parts) if groups.contains(&key_group(parts.hash, self.about.max_parallelism)) => {
                    parts.canonical(&mut canonical);
                    entry(&canonical, value)
                }
                _ => Err(failed("read", path, format!("Corruption: a key of {} bytes", key.len()))),
            })?;
        }
        Ok(())
    }

    fn namespaces(&self, column: &Column) -> Result<Vec<i64>> {
        namespaces(&self.db, self.folder.path(), column.prefix())
    }

    fn pane(
        &self,
        column: &Column,
        namespace: i64,
        from: u64,
        entry: &mut dyn FnMut(u64, &[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let path = self.folder.path();
        let mut first = Vec::new();
        column.pane_key(namespace, from, |_| {}, &mut first);
        let mut options = ReadOptions::default();
        // read once, and then it is gone
        options.fill_cache(false);
        options.set_iterate_upper_bound(pane_range(column.prefix(), namespace).1);
        let mut all = self.db.raw_iterator_opt(options);
        all.seek(&first);
        while let Some((key, value)) = all.item() {
            let Some(parts) = KeyParts::of(key, true) else {
                return Err(failed("read", path, format!("Corruption: a key of {} bytes", key.len())));
            };
            if !entry(parts.hash, parts.key, value)? {
                return Ok(());
            }
            all.next();
        }
        all.status().map_err(|e| failed("read", path, e))
    }

    fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }
    fn memory(&self) -> &Arc<ObjectMemory> {
        &self.shared.objects
    }
    fn operator(&self) -> &str {
        &self.about.operator
    }
}

impl RocksStore {
    /// Removes the entries of these ranges of keys.
    pub(super) fn remove(&self, ranges: Vec<(Vec<u8>, Vec<u8>)>) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let fail = |e| failed("remove entries", self.folder.path(), e);
        let mut batch = rocksdb::WriteBatch::default();
        for (from, to) in &ranges {
            // files that have nothing else go at once; the rest is hidden until files are merged
            self.db.delete_file_in_range(from, to).map_err(fail)?;
            batch.delete_range(from, to);
        }
        self.db.write_opt(batch, &Shared::write()).map_err(fail)?;
        self.db.flush().map_err(fail)
    }

    /// Where the entries of a state lie that belong to these key groups.
    pub(super) fn ranges(
        &self,
        db: &DB,
        path: &Path,
        state: &StateDescriptor,
        groups: &Range<u32>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let (prefix, max) = (Column::prefix_of(&state.name), self.about.max_parallelism);
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        if state.kind != StateKind::Panes {
            return Ok(vec![key_range(prefix, groups, max)]);
        }
        let of = |namespace| pane_key_range(prefix, namespace, groups, max);
        Ok(namespaces(db, path, prefix)?.into_iter().map(of).collect())
    }
}

/// A range of the keys of a state, given without the state.
fn suffix_range(prefix: [u8; 4], (from, to): (Vec<u8>, Option<Vec<u8>>)) -> (Vec<u8>, Vec<u8>) {
    let to = to.map_or_else(|| behind(&prefix), |to| [prefix.as_slice(), &to].concat());
    ([prefix.as_slice(), &from].concat(), to)
}

/// The keys of a pane: from the first on, up to the second.
fn pane_range(prefix: [u8; 4], namespace: i64) -> (Vec<u8>, Vec<u8>) {
    let from = [prefix.as_slice(), &namespace_bytes(namespace)].concat();
    let to = behind(&from);
    (from, to)
}

/// As [`key_range`], of a pane.
fn pane_key_range(prefix: [u8; 4], namespace: i64, groups: &Range<u32>, max_parallelism: u32) -> (Vec<u8>, Vec<u8>) {
    let (pane, end) = pane_range(prefix, namespace);
    let bound = |group: u32| match first_hash(group, max_parallelism) {
        Some(hash) => [pane.as_slice(), &hash.to_be_bytes()].concat(),
        None => end.clone(),
    };
    (bound(groups.start), bound(groups.end))
}

/// The first key behind all those that begin so.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(more) = last.checked_add(1) {
            next.push(more);
            return next;
        }
    }
    vec![0xff; 64]
}

/// Namespaces that have entries: from one to the next, whatever lies between.
fn namespaces(db: &DB, path: &Path, prefix: [u8; 4]) -> Result<Vec<i64>> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(behind(&prefix));
    let mut all = db.raw_iterator_opt(options);
    all.seek(prefix);
    let mut found = Vec::new();
    while let Some(key) = all.key() {
        let parts = KeyParts::of(key, true);
        let Some(namespace) = parts.and_then(|p| p.namespace) else {
            return Err(failed("read", path, format!("Corruption: a key of {} bytes", key.len())));
        };
        found.push(namespace);
        all.seek(pane_range(prefix, namespace).1);
    }
    all.status().map_err(|e| failed("read", path, e))?;
    Ok(found)
}

/// Calls `entry` with all keys and values from `from` on, up to `to`.
pub fn scan(
    db: &DB,
    path: &Path,
    from: Vec<u8>,
    to: Vec<u8>,
    entry: &mut dyn FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    let mut options = Shared::scan();
    options.set_iterate_upper_bound(to);
    let mut all = db.raw_iterator_opt(options);
    all.seek(&from);
    while let Some((key, value)) = all.item() {
        entry(key, value)?;
        all.next();
    }
    all.status().map_err(|e| failed("read", path, e))
}
