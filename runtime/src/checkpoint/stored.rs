//! Files of a state store that checkpoints share: which ones the next checkpoint need not upload. Pure.
//!
//! A file of a name never changes. One that a checkpoint uploaded may be referred to as soon as that checkpoint is in the log,
//! for then its files stay until the last checkpoint that names them is dropped.
use super::handles::FileHandle;
use std::collections::BTreeMap;
use weir_api::ids::CheckpointId;

/// By the name in the store.
pub type Files = BTreeMap<String, FileHandle>;

/// The uploaded files of one operator subtask's store.
#[derive(Debug, Default)]
pub struct StoredFiles {
    completed: Option<(CheckpointId, Files)>,
    /// Written, and not known to have completed.
    pending: BTreeMap<CheckpointId, Files>,
}

impl StoredFiles {
    /// A store that starts with these files, of a checkpoint that stays until one of its own has completed.
    pub fn restored(files: Files) -> Self {
        Self { completed: Some((CheckpointId(0), files)), pending: BTreeMap::new() }
    }

    /// The file of a store's file that was uploaded already.
    pub fn known(&self, name: &str, size: u64) -> Option<FileHandle> {
        self.completed.as_ref()?.1.get(name).filter(|f| f.size == size).cloned()
    }

    /// The checkpoint consists of these files.
    pub fn written(&mut self, id: CheckpointId, files: Files) {
        self.pending.insert(id, files);
    }

    /// The checkpoint is in the log.
    pub fn completed(&mut self, id: CheckpointId) {
        if let Some(files) = self.pending.remove(&id)
            && self.completed.as_ref().is_none_or(|c| c.0 < id)
        {
            self.completed = Some((id, files));
        }
        self.pending = self.pending.split_off(&id);
    }

    /// The checkpoint will never complete; its own files are deleted by others.
    pub fn aborted(&mut self, id: CheckpointId) {
        self.pending.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(checkpoint: u64, names: &[&str]) -> Files {
        let file = |n: &&str| FileHandle { path: format!("shared/chk-{checkpoint}.{n}"), size: 7, crc32c: 1 };
        names.iter().map(|n| ((*n).to_owned(), file(n))).collect()
    }

    #[test]
    fn only_files_of_the_last_completed_checkpoint_are_referred_to() {
        let [one, two, three] = [1, 2, 3].map(CheckpointId);
        let mut s = StoredFiles::default();
        s.written(one, files(1, &["a", "b"]));
        assert_eq!(s.known("a", 7), None);
        s.completed(one);
        assert_eq!(s.known("a", 7).unwrap().path, "shared/chk-1.a");
        assert_eq!((s.known("a", 8), s.known("c", 7)), (None, None));
        s.written(two, files(2, &["c"]));
        s.aborted(two);
        s.completed(two);
        assert_eq!((s.known("c", 7), s.known("b", 7).is_some()), (None, true));
        // what the last one does not name may be deleted with the one before
        s.written(three, files(3, &["b"]));
        s.completed(three);
        assert_eq!((s.known("a", 7), s.known("b", 7).unwrap().path.as_str()), (None, "shared/chk-3.b"));
        // old news
        s.written(two, files(2, &["a"]));
        s.completed(two);
        assert_eq!(s.known("a", 7), None);
    }
}
