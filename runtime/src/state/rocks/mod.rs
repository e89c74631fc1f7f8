//! The RocksDb state backend: a database for each operator subtask, on a disk of the taskmanager's own, behind the tables of
//! live objects. See `docs/rocksdb.md`.
mod canonical;
mod checkpoint;
mod directory;
mod options;
mod restore;
mod sorted;
mod store;
#[cfg(test)]
mod tests;

pub use options::{DEFAULT_MEMORY_MIB, check};

use super::store::{StateStore, StoreFactory, StoreSubtask, StoredSnapshot};
use crate::error::{Error, ErrorCode, Result};
use directory::Root;
use options::Shared;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use weir_api::config::StateConfig;

/// Makes the stores of an attempt: for so many operator subtasks on this taskmanager.
pub fn factory(config: &StateConfig, subtasks: usize) -> Result<Arc<dyn StoreFactory>> {
    let shared = Shared::new(config, subtasks)?;
    Ok(Arc::new(Factory { shared, directory: config.directory.clone() }))
}

/// Whose tables may take so many bytes, with folders below `directory`.
#[cfg(test)]
pub fn factory_for_tests(objects: usize, directory: &Path) -> Arc<dyn StoreFactory> {
    Arc::new(Factory { shared: Shared::for_tests(objects), directory: directory.to_str().map(str::to_owned) })
}

struct Factory {
    shared: Shared,
    directory: Option<String>,
}

impl StoreFactory for Factory {
    fn open(&self, subtask: &StoreSubtask<'_>, snapshots: &[StoredSnapshot<'_>]) -> Result<Arc<dyn StateStore>> {
        let place = format!("operator {:?} ({})", subtask.operator, subtask.subtask + 1);
        let root = Root::open(self.directory.as_deref()).map_err(|e| e.at(&place))?;
        let store = restore::open(&self.shared, &root, subtask, snapshots).map_err(|e| e.at(place))?;
        Ok(Arc::new(store))
    }
}

/// Something that the database refused, with what to do about it.
fn failed(what: impl Display, at: &Path, e: impl Display) -> Error {
    let text = e.to_string();
    let lower = text.to_lowercase();
    let advice = if lower.contains("no space") || lower.contains("quota") {
        ": the disk is full; free space there, or set the state's directory to a larger disk"
    } else if lower.contains("corruption") {
        ": the disk may be damaged; the job restarts from its last checkpoint"
    } else {
        ""
    };
    Error::external(
        ErrorCode::Storage,
        format!("state backend RocksDb: cannot {what} in {}: {text}{advice}", at.display()),
    )
}
