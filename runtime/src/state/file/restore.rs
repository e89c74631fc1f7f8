//! From snapshot files straight into the tables of a subtask, whichever subtasks wrote them.
use super::read::{ReadAt, SnapshotFile};
use crate::checkpoint::handles::StateDescriptor;
use crate::data::Key;
use crate::error::{Error, ErrorCode, Result};
use crate::state::frozen::{Change, EntryError, RawEntry, RestoreShard, RestoreTarget};
use crate::state::handles::KeyedTable;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// What to do with a state in the files that the function does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDeclared {
    Refuse,
    /// `allowNonRestoredState`
    Drop,
}

/// What a restore took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Over all states.
    pub entries: u64,
    /// Names of states in the files that the function does not declare.
    pub dropped: BTreeSet<String>,
}

/// The files that one subtask's keyed state lies in: one that holds all there was, and what changed since, oldest first.
pub type Chain<'a> = [&'a dyn ReadAt];

/// Fills the states of an operator's subtask with the entries of its key groups. The chains may overlap with other
/// subtasks' key groups, but not with each other. All files and types are checked before the first entry is taken; after
/// an error the states are empty. A state that no file has stays empty. Large states are filled by all cores.
///
/// # Errors
/// `snapshot`: a file cannot be used (see [`SnapshotFile::open`]), a key is in two chains, or a file belongs to another
/// operator. `incompatible`: kind or type of a state differ, another `max_parallelism`, or a state is not declared.
pub fn restore<K: Key>(
    operator: &str,
    key_groups: &Range<u32>,
    max_parallelism: u32,
    not_declared: NotDeclared,
    chains: &[&Chain<'_>],
    states: &mut [&mut dyn KeyedTable<K>],
) -> Result<Restored> {
    let mut names = BTreeSet::new();
    if let Some(twice) = states.iter().find(|s| !names.insert(s.descriptor().name.clone())) {
        let name = &twice.descriptor().name;
        return Err(Error::user(
            ErrorCode::Graph,
            format!("operator {operator:?} has two states named {name:?}: give each its own name"),
        ));
    }
    let open = chains.iter().map(|chain| chain.iter().map(|f| SnapshotFile::open(*f)).collect());
    let chains = open.collect::<Result<Vec<Vec<_>>>>()?;
    let mut restored = Restored::default();
    for file in chains.iter().flatten() {
        let meta = file.meta();
        if meta.operator != operator {
            return Err(Error::user(
                ErrorCode::Snapshot,
                format!(
                    "snapshot file {} holds state of the operator {:?}, not of {operator:?}",
                    file.name(),
                    meta.operator
                ),
            ));
        }
        if meta.max_parallelism != max_parallelism {
            return Err(Error::user(
                ErrorCode::Incompatible,
                format!(
                    "operator {operator:?}: snapshot file {} was written with maxParallelism {}, the job has {max_parallelism}: it is fixed for the job's life, set it back",
                    file.name(),
                    meta.max_parallelism
                ),
            ));
        }
        for (i, stored) in meta.states.iter().enumerate() {
            let declared = states.iter().position(|s| s.descriptor().name == stored.name);
            match declared {
                Some(at) => {
                    check_types(operator, file.name(), stored, states[at].descriptor())?;
                }
                None if file.entries(i) == 0 => {}
                None if not_declared == NotDeclared::Drop => {
                    restored.dropped.insert(stored.name.clone());
                }
                None => {
                    return Err(Error::user(
                        ErrorCode::Incompatible,
                        format!(
                            "operator {operator:?}: snapshot file {} holds {} entries of the state {:?}, which the job does not declare: declare it, or set allowNonRestoredState to drop it",
                            file.name(),
                            file.entries(i),
                            stored.name
                        ),
                    ));
                }
            }
        }
    }
    for at in 0..states.len() {
        let name = states[at].descriptor().name.clone();
        let sources = chains.iter().map(|c| sources(c, &name)).collect::<Result<Vec<_>>>()?;
        let fill = Fill { max_parallelism, key_groups, sources: sources.into_iter().flatten().collect() };
        match fill.state(states[at]) {
            Ok(entries) => restored.entries += entries,
            Err(e) => {
                states.iter_mut().for_each(|s| s.clear_all());
                return Err(e.at(format!("operator {operator:?}")));
            }
        }
    }
    Ok(restored)
}

/// A state in a file.
struct Source<'a> {
    file: &'a SnapshotFile<'a>,
    state: usize,
    /// An earlier file may have its keys.
    changes: bool,
}

/// What of a chain a state is restored from: the last file that has all of it, and the changes since.
fn sources<'a>(chain: &'a [SnapshotFile<'a>], name: &str) -> Result<Vec<Source<'a>>> {
    let mut sources = Vec::<Source<'a>>::new();
    for file in chain {
        let Some(state) = file.meta().states.iter().position(|s| s.name == name) else { continue };
        let changes = file.meta().changes_only.contains(name);
        match (changes, sources.is_empty()) {
            (true, true) => {
                let what =
                    format!("of the state {name:?} it has only changes, and no file with all of it comes before");
                return Err(super::format::damaged(file.name(), what));
            }
            (true, false) => {}
            (false, _) => sources.clear(),
        }
        sources.push(Source { file, state, changes });
    }
    Ok(sources)
}

/// States with fewer entries are filled by one thread.
const LARGE: u64 = if cfg!(test) { 100 } else { 50_000 };

/// Fills one state.
struct Fill<'a> {
    max_parallelism: u32,
    key_groups: &'a Range<u32>,
    sources: Vec<Source<'a>>,
}

impl Fill<'_> {
    /// Returns the number of entries.
    fn state<K: Key>(&self, state: &mut dyn KeyedTable<K>) -> Result<u64> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // more shards than threads: none waits long for the last one
        let shards = match self.entries(self.key_groups) < LARGE {
            true => Vec::new(),
            false => state.shards(self.key_groups, self.max_parallelism, threads * 4),
        };
        if shards.is_empty() {
            self.each(self.key_groups, &mut |target, entry| state.restore(target, entry))?;
        } else {
            state.adopt(self.on_threads(shards, threads)?);
        }
        state.restored();
        Ok(state.len() as u64)
    }

    /// About so many will be there.
    fn entries(&self, groups: &Range<u32>) -> u64 {
        let whole = self.sources.iter().filter(|s| !s.changes);
        whole.map(|s| s.file.entries_of(s.state, groups)).fold(0, u64::saturating_add)
    }

    fn on_threads(&self, shards: Vec<Box<dyn RestoreShard>>, threads: usize) -> Result<Vec<Box<dyn RestoreShard>>> {
        let (waiting, done) = (Mutex::new(shards.into_iter().enumerate()), Mutex::new(Vec::new()));
        let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<()> {
            while let Some((n, mut shard)) = next() {
                let groups = shard.key_groups(self.max_parallelism);
                let mine = groups.start.max(self.key_groups.start)..groups.end.min(self.key_groups.end);
                shard.reserve(self.entries(&mine));
                self.each(&mine, &mut |target, entry| shard.restore(target, entry))?;
                done.lock().unwrap_or_else(PoisonError::into_inner).push((n, shard));
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let mut workers = Vec::new();
            for n in 0..threads {
                let spawned = std::thread::Builder::new().name(format!("weir-restore-{n}")).spawn_scoped(scope, work);
                workers.push(
                    spawned.map_err(|e| Error::internal(format!("cannot start a thread to restore state: {e}")))?,
                );
            }
            let joined = workers.into_iter().map(|w| match w.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.fold(Ok(()), Result::and)
        })?;
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|d| d.0);
        Ok(done.into_iter().map(|d| d.1).collect())
    }

    /// Calls `take` with the entries of all sources, in their order.
    fn each(
        &self,
        groups: &Range<u32>,
        take: &mut dyn FnMut(&RestoreTarget<'_>, RawEntry<'_>) -> Result<bool, EntryError>,
    ) -> Result<()> {
        let (max_parallelism, owned) = (self.max_parallelism, self.key_groups);
        for source in &self.sources {
            let present = if source.changes { Change::Changed } else { Change::New };
            for change in [Change::Removed, present] {
                let removals = change == Change::Removed;
                source.file.for_each(source.state, removals, groups, &mut |entry, block| {
                    let target = RestoreTarget { max_parallelism, change, owned, block: block.clone() };
                    take(&target, entry).map(drop).map_err(|e| e.to_string())
                })?;
            }
        }
        Ok(())
    }
}

/// Compares a state in a file with the one that the job declares.
pub fn check_types(operator: &str, file: &str, stored: &StateDescriptor, declared: &StateDescriptor) -> Result<()> {
    if stored == declared {
        return Ok(());
    }
    let text = |d: &StateDescriptor| format!("{:?}State with key {} and value {}", d.kind, d.key, d.value);
    Err(Error::user(
        ErrorCode::Incompatible,
        format!(
            "operator {operator:?}: state {:?} is a {} in snapshot file {file}, the job declares a {}: restore with the types of the snapshot, or give the new state another name",
            stored.name,
            text(stored),
            text(declared)
        ),
    ))
}
