//! Names and life of the files that the file sink writes: open -> pending -> part, each step an atomic rename.
//!
//! What a savepoint names that commits nothing has a second name besides, which no sweep removes: the attempt that wrote it may fail
//! before it commits it, and the savepoint is to be restored nevertheless. It goes with the commit.
//!
//! What is not committed has a name that starts with a dot and holds the attempt; a part's name follows from its pending
//! file's alone, so whoever commits it, and however often, the result is the same.
use crate::connectors::sink::{Committable, SinkContext};
use crate::data::hash_bytes;
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// A file that is complete, durable and invisible; JSON in snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub checkpoint: u64,
    pub pending: String,
    pub part: String,
    pub bytes: u64,
    /// The folder that it lies in, absolute: a job that is given another output folder still commits there. Empty: the sink's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Its second name, while a savepoint holds it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kept: String,
}

impl Pending {
    pub fn encode(&self) -> Result<Committable> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("cannot encode a pending file: {e}")))
    }
    /// Refuses what this sink did not write: its names become renames.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let refuse = |why: &dyn std::fmt::Display| {
            Error::user(
                ErrorCode::Incompatible,
                format!("the snapshot's pending commit is not one of a file sink ({why}); was the sink replaced?"),
            )
        };
        let p: Self = serde_json::from_slice(bytes).map_err(|e| refuse(&e))?;
        let plain = |name: &str| !name.contains(['/', '\\', '\0']);
        let kept = p.kept.is_empty() || (plain(&p.kept) && p.kept.starts_with(HIDDEN));
        if plain(&p.pending) && plain(&p.part) && p.pending.starts_with(HIDDEN) && p.part.starts_with(PART) && kept {
            Ok(p)
        } else {
            Err(refuse(&format_args!("it names {:?}, {:?} and {:?}", p.pending, p.part, p.kept)))
        }
    }
}

const HIDDEN: &str = ".weir-";
const PENDING: &str = ".pending";
const PART: &str = "part-";

/// The files of one writer. `nonce` keeps runs that do not know of each other apart.
#[derive(Debug, Clone)]
pub(super) struct Names {
    operator: String,
    attempt: u64,
    subtask: u32,
    nonce: u32,
    extension: &'static str,
}

impl Names {
    pub fn new(cx: &SinkContext, extension: &'static str) -> Self {
        let nonce = RandomState::new().hash_one(cx.attempt) as u32;
        Self { operator: tag(&cx.operator), attempt: cx.attempt, subtask: cx.subtask, nonce, extension }
    }
    pub fn open(&self, n: u64) -> String {
        let Self { operator, attempt, subtask, nonce, .. } = self;
        format!("{HIDDEN}{operator}-a{attempt}-s{subtask}-{nonce:08x}-{n}.open")
    }
    pub fn pending(&self, checkpoint: u64, n: u64) -> String {
        let Self { operator, attempt, subtask, nonce, .. } = self;
        format!("{HIDDEN}{operator}-a{attempt}-s{subtask}-c{checkpoint}-{nonce:08x}-{n}{PENDING}")
    }
    /// The second name of a pending file.
    pub fn kept(pending: &str) -> String {
        format!("{}.savepoint", pending.trim_end_matches(PENDING))
    }
    /// At the end of the tasks: a process that was silent for long may have written on after this attempt swept at its start.
    /// Everything of earlier attempts that is in a snapshot was committed then.
    pub fn sweep(&self, folder: &Folder) -> Result<()> {
        if self.subtask == 0 { folder.sweep(&self.operator, self.attempt) } else { Ok(()) }
    }
    /// Sorts by checkpoint, so that a key's records are in order over the sorted files, also across a rescale.
    pub fn part(&self, checkpoint: u64, n: u64) -> String {
        let Self { subtask, nonce, extension, .. } = self;
        format!("{PART}{checkpoint:010}-{subtask:04}-{nonce:08x}-{n:04}.{extension}")
    }
}

/// The operator's name as a piece of a file name. Several sinks may share a folder.
fn tag(operator: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if operator.len() <= 60 && operator.chars().all(fits) {
        return operator.to_string();
    }
    let mut tag: String = operator.chars().take(40).map(|c| if fits(c) { c } else { '_' }).collect();
    tag += &format!("_{:016x}", hash_bytes(operator.as_bytes()));
    tag
}

/// The attempt of an open or pending file of this operator; None for every other name.
fn attempt_of(name: &str, operator: &str) -> Option<u64> {
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u64>().ok()).flatten();
    let rest = name.strip_prefix(HIDDEN)?.strip_prefix(operator)?.strip_prefix("-a")?;
    let (rest, pending) = match rest.strip_suffix(".open") {
        Some(rest) => (rest, false),
        None => (rest.strip_suffix(PENDING)?, true),
    };
    let mut pieces = rest.split('-');
    let attempt = number(pieces.next()?)?;
    number(pieces.next()?.strip_prefix('s')?)?;
    if pending {
        number(pieces.next()?.strip_prefix('c')?)?;
    }
    pieces.next().filter(|n| n.len() == 8 && n.bytes().all(|b| b.is_ascii_hexdigit()))?;
    number(pieces.next()?)?;
    pieces.next().is_none().then_some(attempt)
}

/// The sink's folder. All changes go through here, so that tests can stop the world at each of them.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    #[cfg(test)]
    pub fuse: std::sync::Arc<std::sync::atomic::AtomicI64>,
}

impl Folder {
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            #[cfg(test)]
            fuse: std::sync::Arc::new(i64::MAX.into()),
        }
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Its name in snapshots; empty where there is none to write down.
    pub fn absolute(&self) -> String {
        std::path::absolute(&self.path).ok().and_then(|p| p.to_str().map(str::to_owned)).unwrap_or_default()
    }
    /// The folder that a pending file lies in: this one, or that of the sink before its output was moved.
    pub fn of(&self, p: &Pending) -> Self {
        if p.folder.is_empty() || p.folder == self.absolute() {
            return self.clone();
        }
        let mut other = self.clone();
        other.path = p.folder.clone().into();
        other
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        match self.fuse.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) {
            n if n > 0 => Ok(()),
            _ => Err(io::Error::other("the process was killed here")),
        }
    }
    #[cfg(not(test))]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    fn error(&self, doing: &str, name: &str, e: &io::Error) -> Error {
        Error::external(ErrorCode::Io, format!("cannot {doing} {}: {e}", self.path.join(name).display()))
    }

    /// Makes the folder where it is missing, and makes sure that files can be written in it.
    pub fn prepare(&self, names: &Names) -> Result<()> {
        let refuse = |e: &io::Error| {
            Error::external(
                ErrorCode::Io,
                format!(
                    "cannot write to the output folder {}: {e}; it must be a folder that the job may write to",
                    self.path.display()
                ),
            )
        };
        fs::create_dir_all(&self.path).map_err(|e| refuse(&e))?;
        let probe = names.open(u64::MAX);
        self.step().and_then(|()| File::create(self.path.join(&probe))).map_err(|e| refuse(&e))?;
        self.remove(&probe)
    }

    pub fn create(&self, name: &str) -> Result<File> {
        self.step().and_then(|()| File::create_new(self.path.join(name))).map_err(|e| self.error("create", name, &e))
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        match self.step().and_then(|()| fs::remove_file(self.path.join(name))) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.error("remove", name, &e)),
            _ => Ok(()),
        }
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let renamed = self.step().and_then(|()| fs::rename(self.path.join(from), self.path.join(to)));
        renamed.map_err(|e| self.error("rename", &format!("{from} to {to}"), &e))
    }

    /// Gives a pending file its second name.
    pub fn keep(&self, p: &Pending) -> Result<()> {
        let (from, to) = (self.path.join(&p.pending), self.path.join(&p.kept));
        let kept = self.step().and_then(|()| match fs::hard_link(&from, &to) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            // not every file system has links
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
                fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all()).inspect_err(|_| {
                    let _ = fs::remove_file(&to);
                })
            }
            Err(e) => Err(e),
        });
        kept.map_err(|e| self.error("keep for a savepoint", &p.pending, &e))
    }

    /// Makes renames and new names durable.
    pub fn sync(&self) -> Result<()> {
        self.step()
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(|e| self.error("make durable the names in", "", &e))
    }

    /// Makes a pending file visible; done already is as good.
    pub fn commit(&self, p: &Pending) -> Result<()> {
        let there = |name: &str| match fs::symlink_metadata(self.path.join(name)) {
            Ok(m) => Ok(Some(m.len())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("look at", name, &e)),
        };
        let mut from = &p.pending;
        let mut found = there(from)?;
        if found.is_none() && !p.kept.is_empty() {
            from = &p.kept;
            found = there(from)?;
        }
        let dir = self.path.display();
        match (found, there(&p.part)?) {
            (None, Some(_)) => Ok(()),
            // a second name whose first was committed
            (Some(_), Some(_)) if *from == p.kept => self.remove(from),
            (Some(n), None) if n == p.bytes => match self.rename(from, &p.part) {
                // another committer may have been faster
                Err(e) if there(from)?.is_some() || there(&p.part)?.is_none() => Err(e),
                _ if p.kept.is_empty() => Ok(()),
                _ => self.remove(&p.kept),
            },
            (Some(n), None) => Err(Error::external(
                ErrorCode::Io,
                format!(
                    "{dir}/{from} has {n} bytes, but {} were written before its checkpoint: the file is damaged",
                    p.bytes
                ),
            )),
            (Some(_), Some(_)) => Err(Error::external(
                ErrorCode::Io,
                format!(
                    "cannot commit {dir}/{}: {} exists already and is not overwritten; remove the one that is wrong",
                    p.pending, p.part
                ),
            )),
            (None, None) => Err(Error::external(
                ErrorCode::Io,
                format!(
                    "output of checkpoint {} is missing: in {dir} there is neither {} nor {}. All taskmanagers must see the same folder. \
                     If {} was taken away after it was committed, put an empty file of this name there",
                    p.checkpoint, p.pending, p.part, p.part
                ),
            )),
        }
    }

    /// Removes what earlier attempts of this operator left open or pending, and nothing else. Later attempts' files stay: if
    /// there are any, it is this attempt that is out of date.
    pub fn sweep(&self, operator: &str, attempt: u64) -> Result<()> {
        let operator = tag(operator);
        let entries = fs::read_dir(&self.path).map_err(|e| self.error("list", "", &e))?;
        for entry in entries {
            let name = entry.map_err(|e| self.error("list", "", &e))?.file_name();
            if let Some(name) = name.to_str()
                && attempt_of(name, &operator).is_some_and(|a| a < attempt)
            {
                self.remove(name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::testing::sink_cx;

    fn names(operator: &str) -> Names {
        Names::new(&SinkContext { operator: operator.into(), ..sink_cx(3, 4, 17) }, "jsonl")
    }

    #[test]
    fn own_files_are_told_from_all_others() {
        for operator in ["out", "a-b", "x-a1-s2", "naïve sink/ö", &"long".repeat(50)] {
            let n = names(operator);
            let t = tag(operator);
            assert_eq!(attempt_of(&n.open(5), &t), Some(17));
            assert_eq!(attempt_of(&n.pending(9, 5), &t), Some(17));
            assert_eq!(attempt_of(&n.part(9, 5), &t), None);
            assert!(n.open(5).starts_with('.') && n.pending(9, 5).starts_with('.'));
            assert!(n.pending(u64::MAX, u64::MAX).len() < 255);
            for other in ["x", "ou", "out2", "a", "x-a1"] {
                assert_eq!(attempt_of(&n.open(5), other), None, "{operator} {other}");
                assert_eq!(attempt_of(&n.pending(9, 5), other), None, "{operator} {other}");
            }
        }
        for foreign in [
            ".weir-out",
            ".weir-out-a1",
            ".weir-out-a1-s2-c3.pending",
            ".weir-out-a1-s2-0011223x-1.open",
            ".weir-out-a-s2-00112233-1.open",
            "weir-out-a1-s2-00112233-1.open",
            ".weir-out-a1-s2-00112233-1.open.bak",
            ".DS_Store",
            ".part-1",
        ] {
            assert_eq!(attempt_of(foreign, "out"), None, "{foreign}");
        }
    }

    #[test]
    fn foreign_commits_are_refused() {
        for bad in [
            "{}",
            "{\"checkpoint\":1,\"pending\":\".weir-x\",\"part\":\"../part-1\",\"bytes\":1}",
            "{\"checkpoint\":1,\"pending\":\"/etc/passwd\",\"part\":\"part-1\",\"bytes\":1}",
            "{\"checkpoint\":1,\"pending\":\".weir-x\",\"part\":\".bashrc\",\"bytes\":1}",
            "{\"checkpoint\":1,\"pending\":\".weir-x\",\"part\":\"part-1\",\"bytes\":1,\"kept\":\"notes.txt\"}",
        ] {
            assert!(Pending::decode(bad.as_bytes()).unwrap_err().message.contains("was the sink replaced"), "{bad}");
        }
    }

    #[test]
    fn commits_are_idempotent_and_never_overwrite_or_lose() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().to_path_buf());
        let n = names("out");
        let (pending, part) = (n.pending(9, 0), n.part(9, 0));
        let p = Pending { checkpoint: 9, pending, part, bytes: 3, folder: String::new(), kept: String::new() };
        let e = folder.commit(&p).unwrap_err().message;
        assert!(e.contains("neither") && e.contains("checkpoint 9") && e.contains("same folder"), "{e}");
        fs::write(dir.path().join(&p.pending), "ab").unwrap();
        assert!(folder.commit(&p).unwrap_err().message.contains("has 2 bytes, but 3 were written"));
        fs::write(dir.path().join(&p.pending), "abc").unwrap();
        folder.commit(&p).unwrap();
        folder.commit(&p).unwrap();
        assert_eq!(fs::read(dir.path().join(&p.part)).unwrap(), b"abc");
        fs::write(dir.path().join(&p.pending), "xyz").unwrap();
        assert!(folder.commit(&p).unwrap_err().message.contains("is not overwritten"));
        assert_eq!(fs::read(dir.path().join(&p.part)).unwrap(), b"abc");
    }
}
