//! Looks into a job's folder of the checkpoint storage from outside: its log, checkpoints and savepoints.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The log of one job as it lies on the disk.
#[derive(Debug, Clone)]
pub struct JobLog {
    root: PathBuf,
}

/// One entry: its index and what is in its body.
#[derive(Debug, Clone)]
pub struct Entry {
    pub index: u64,
    pub attempt: u64,
    /// `claim`, `completed`, `savepoint` or `terminal`.
    pub kind: String,
    pub body: Value,
}

impl JobLog {
    /// `storage` as in `--checkpoints`.
    pub fn new(storage: &Path, namespace: &str, job: &str) -> Self {
        Self { root: storage.join(namespace).join(job) }
    }

    /// The job's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Indexes of the entries that are there, ascending.
    pub fn indexes(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(self.root.join("log")) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context("cannot list the log")?,
        };
        let number = |name: &str| name.strip_suffix(".json")?.parse().ok();
        let mut found: Vec<u64> = entries.filter_map(|e| number(&e.ok()?.file_name().to_string_lossy())).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// Files in the log's folder that are no entries.
    pub fn strangers(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join("log")).context("cannot list the log")? {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// The file of an entry.
    pub fn file(&self, index: u64) -> PathBuf {
        self.root.join(format!("log/{index:020}.json"))
    }

    /// The highest index.
    pub fn head(&self) -> Result<Option<u64>> {
        Ok(self.indexes()?.last().copied())
    }

    /// One entry; none if it was cleaned up in between.
    pub fn entry(&self, index: u64) -> Result<Option<Entry>> {
        let bytes = match fs::read(self.file(index)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read log entry {index}"))?,
        };
        let sealed: Value = serde_json::from_slice(&bytes).with_context(|| format!("log entry {index}"))?;
        let entry = &sealed["body"];
        let (kind, body) = entry["body"]
            .as_object()
            .and_then(|body| body.iter().next())
            .with_context(|| format!("log entry {index} has no body: {sealed}"))?;
        let attempt = entry["attempt"].as_u64().with_context(|| format!("log entry {index} has no attempt"))?;
        Ok(Some(Entry { index, attempt, kind: kind.clone(), body: body.clone() }))
    }

    /// All entries, ascending.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let entries = self.indexes()?.into_iter().map(|index| self.entry(index));
        Ok(entries.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// The last entry.
    pub fn last(&self) -> Result<Option<Entry>> {
        Ok(self.entries()?.pop())
    }

    /// How the job ended, if that is the last word of the log: `Finished`, `Stopped`, ...
    pub fn terminal(&self) -> Result<Option<String>> {
        let last = self.last()?.filter(|e| e.kind == "terminal");
        Ok(last.and_then(|e| e.body["status"].as_str().map(str::to_owned)))
    }

    /// Completed checkpoints that the log still names, ascending.
    pub fn completed(&self) -> Result<Vec<Entry>> {
        Ok(self.entries()?.into_iter().filter(|e| e.kind == "completed").collect())
    }

    /// Folders of checkpoints and savepoints below the job's folder, and the folder of the files that checkpoints share if any
    /// is in it.
    pub fn snapshot_folders(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context("cannot list the job's folder")?,
        };
        let shares = |folder: &Path| folder.read_dir().is_ok_and(|mut files| files.next().is_some());
        let mut names: Vec<String> = entries
            .filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name != "log" && (name != "shared" || shares(&self.root.join(name))))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Every file below the job's folder with its content's checksum: two equal ones mean that nothing was changed.
    pub fn fingerprint(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut files = Vec::new();
        collect(&self.root, &mut files)?;
        files.sort();
        Ok(files)
    }
}

/// Every file below a folder with its content's checksum.
pub fn fingerprint(dir: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(dir: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    use std::hash::{DefaultHasher, Hasher as _};
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot list {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            let mut hasher = DefaultHasher::new();
            hasher.write(&fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
            files.push((path, hasher.finish()));
        }
    }
    Ok(())
}
