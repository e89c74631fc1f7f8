//! All entries of a store, as tables that a snapshot file is written from: a savepoint restores into either backend.
use super::checkpoint::Linked;
use super::failed;
use super::store::{About, RocksStore, key_range, scan};
use crate::checkpoint::handles::StateDescriptor;
use crate::error::Result;
use crate::graph::key_group;
use crate::state::snapshot::{EntryVisitor, FrozenTable};
use crate::state::store::{Column, KeyParts};
use rocksdb::DB;
use std::sync::Arc;

/// A database that is only read, closed before its files go.
struct Reading {
    db: DB,
    linked: Linked,
}

struct Whole {
    reading: Arc<Reading>,
    about: About,
    column: Arc<Column>,
    entries: u64,
}

/// The tables of these columns, as the linked files have them.
pub fn tables(store: &RocksStore, linked: Linked, columns: Vec<Arc<Column>>) -> Result<Vec<Box<dyn FrozenTable>>> {
    let opened = DB::open_for_read_only(&store.shared.database(None), linked.path(), false);
    let db = opened.map_err(|e| failed("open a checkpoint", linked.path(), e))?;
    let (reading, entries) = (Arc::new(Reading { db, linked }), store.entries().max(1));
    let table = |column| -> Box<dyn FrozenTable> {
        Box::new(Whole { reading: reading.clone(), about: store.about.clone(), column, entries })
    };
    Ok(columns.into_iter().map(table).collect())
}

impl FrozenTable for Whole {
    fn descriptor(&self) -> &StateDescriptor {
        &self.column.descriptor
    }
    /// About, and of all states.
    fn entries(&self) -> u64 {
        self.entries
    }
    fn for_each(self: Box<Self>, max_parallelism: u32, visit: &mut EntryVisitor<'_>) -> Result<()> {
        let (path, db) = (self.reading.linked.path(), &self.reading.db);
        let panes = self.column.has_panes();
        // pane by pane: each begins again with the first key group
        let groups = if panes { 0..self.about.max_parallelism } else { self.about.key_groups.clone() };
        let (from, to) = key_range(self.column.prefix(), &groups, self.about.max_parallelism);
        let mut canonical = Vec::new();
        scan(db, path, from, to, &mut |key, value| match KeyParts::of(key, panes) {
            Some(_) if self.column.is_expired(value) => Ok(()),
            Some(parts) => {
                parts.canonical(&mut canonical);
                visit(key_group(parts.hash, max_parallelism), &canonical, value)
            }
            None => Err(failed("read", path, format!("Corruption: a key of {} bytes", key.len()))),
        })
    }
}
