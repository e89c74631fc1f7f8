//! The database's files at a barrier: hard links, and a head that says what they are.
use super::directory::Folder;
use super::failed;
use super::store::RocksStore;
use crate::checkpoint::envelope;
use crate::checkpoint::handles::{Bytes64, StateDescriptor};
use crate::data::HASH_VERSION;
use crate::error::{Error, Result};
use crate::state::store::{LocalFile, LocalFiles};
use rocksdb::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the names of files with entries end. They never change once they are there.
const SORTED: &str = ".sst";

/// What the first file of a stored snapshot says, in the envelope of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub operator: String,
    pub hash_version: u32,
    pub max_parallelism: u32,
    /// Key groups whose entries are in it.
    pub key_groups: Range<u32>,
    pub states: Vec<StateDescriptor>,
    /// Names of the files that follow, in the database's folder, in their order.
    pub sorted: Vec<String>,
    /// The database's other files, which are small.
    pub others: BTreeMap<String, Bytes64>,
}

/// A folder with links to the database's files.
pub struct Linked {
    folder: Arc<Folder>,
    path: PathBuf,
}

impl Linked {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Links the files as they are now.
pub fn link(store: &RocksStore) -> Result<Linked> {
    let folder = store.folder.root().folder("checkpoint")?;
    // the database wants to make the folder itself
    let path = folder.path().join("db");
    let made = Checkpoint::new(&store.db).and_then(|c| c.create_checkpoint(&path));
    made.map_err(|e| failed("link the files of a checkpoint", &path, e))?;
    Ok(Linked { folder, path })
}

/// What is to be uploaded.
pub fn describe(store: &RocksStore, linked: Linked, states: Vec<StateDescriptor>) -> Result<LocalFiles> {
    let fail = |e: std::io::Error| failed("read the files of a checkpoint", linked.path(), e);
    let (mut files, mut others) = (Vec::new(), BTreeMap::new());
    for entry in std::fs::read_dir(linked.path()).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if name.ends_with(SORTED) {
            files.push(LocalFile { size: entry.metadata().map_err(fail)?.len(), path, name });
        } else if name == "CURRENT" || name.starts_with("MANIFEST-") {
            others.insert(name, Bytes64(std::fs::read(path).map_err(fail)?));
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let about = &store.about;
    let head = Head {
        operator: about.operator.clone(),
        hash_version: HASH_VERSION,
        max_parallelism: about.max_parallelism,
        key_groups: about.key_groups.clone(),
        states,
        sorted: files.iter().map(|f| f.name.clone()).collect(),
        others,
    };
    let entries = if files.is_empty() { 0 } else { store.entries().max(1) };
    Ok(LocalFiles { head: envelope::seal(&head)?, files, entries, guard: Box::new(linked.folder) })
}

impl Head {
    /// Reads the first file of a stored snapshot, whose others are `files` in number.
    pub fn parse(bytes: &[u8], name: &str, files: usize) -> Result<Self> {
        let head: Self = envelope::open(bytes, name)?;
        let plain = |n: &String| !n.is_empty() && !n.contains(['/', '\0']) && !n.starts_with('.');
        if head.sorted.len() != files || !head.sorted.iter().chain(head.others.keys()).all(plain) {
            let m = format!(
                "{name} names {} files and {files} came with it: the checkpoint is damaged, restore from another one",
                head.sorted.len()
            );
            return Err(Error::external(crate::error::ErrorCode::Snapshot, m));
        }
        Ok(head)
    }
}
