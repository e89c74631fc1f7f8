//! From snapshot files straight into the tables of a subtask, whichever subtasks wrote them.
use super::read::{ReadAt, SnapshotFile};
use crate::checkpoint::handles::StateDescriptor;
use crate::data::Key;
use crate::error::{Error, ErrorCode, Result};
use crate::state::frozen::RestoreTarget;
use crate::state::handles::KeyedTable;
use std::collections::BTreeSet;
use std::ops::Range;

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

/// Fills the states of an operator's subtask with the entries of its key groups. The files may overlap with other
/// subtasks' key groups, but not with each other. All files and types are checked before the first entry is taken; after
/// an error the states are empty. A state that no file has stays empty.
///
/// # Errors
/// `snapshot`: a file cannot be used (see [`SnapshotFile::open`]), a key is in two of them, or a file belongs to another
/// operator. `incompatible`: kind or type of a state differ, another `max_parallelism`, or a state is not declared.
pub fn restore<K: Key>(
    operator: &str,
    key_groups: &Range<u32>,
    max_parallelism: u32,
    not_declared: NotDeclared,
    files: &[&dyn ReadAt],
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
    let files = files.iter().map(|f| SnapshotFile::open(*f)).collect::<Result<Vec<_>>>()?;
    let mut restored = Restored::default();
    let mut work = Vec::new();
    for file in &files {
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
                    check(operator, file.name(), stored, states[at].descriptor())?;
                    work.push((file, i, at));
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
    for (file, i, at) in work {
        let state = &mut states[at];
        let taken = file.for_each(i, key_groups, &mut |entry, block| {
            let target = RestoreTarget { max_parallelism, owned: key_groups, block: block.clone() };
            let taken = state.restore(&target, entry).map_err(|e| e.to_string())?;
            restored.entries += u64::from(taken);
            Ok(())
        });
        if let Err(e) = taken {
            states.iter_mut().for_each(|s| s.clear_all());
            return Err(e.at(format!("operator {operator:?}")));
        }
    }
    Ok(restored)
}

fn check(operator: &str, file: &str, stored: &StateDescriptor, declared: &StateDescriptor) -> Result<()> {
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
