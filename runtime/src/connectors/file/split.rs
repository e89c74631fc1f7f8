//! Splits of a file source: a file or a byte range of one, with the position reached in it.
use super::blocks::Compression;
use crate::connectors::source::Split;
use crate::data::hash_bytes;
use crate::error::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Smallest range worth a split of its own.
const MIN_RANGE: u64 = 4 << 20;
/// Ranges per subtask, so that a rescale and files of unequal size still share the work evenly.
const RANGES_PER_SUBTASK: u64 = 4;
/// Bytes at either end of a file that its fingerprint covers.
const PROBE: u64 = 64 << 10;

/// A file as it was when the job started: what must still be there when a snapshot is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId {
    pub path: String,
    pub size: u64,
    /// Hash of the first and last 64 KiB.
    pub fingerprint: u64,
}

impl FileId {
    /// Looks at the file; gives its first bytes' verdict on compression too.
    pub fn of(path: &str) -> Result<(Self, Compression)> {
        let (id, head) =
            Self::probe(path).map_err(|e| Error::external(ErrorCode::Io, format!("cannot read {path}: {e}")))?;
        let compression = Compression::detect(path, &head)
            .map_err(|why| Error::user(ErrorCode::Io, format!("cannot read {path}: {why}")))?;
        Ok((id, compression))
    }

    fn probe(path: &str) -> io::Result<(Self, Vec<u8>)> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut bytes = Vec::new();
        (&mut file).take(PROBE).read_to_end(&mut bytes)?;
        let head = bytes[..bytes.len().min(16)].to_vec();
        if size > PROBE {
            file.seek(SeekFrom::Start(size - PROBE.min(size - PROBE)))?;
            file.take(PROBE).read_to_end(&mut bytes)?;
        }
        Ok((Self { path: path.to_string(), size, fingerprint: hash_bytes(&bytes) }, head))
    }

    /// The same file, or an error that says what is different.
    pub fn check(&self) -> Result<Compression> {
        let (now, compression) = Self::of(&self.path)?;
        let what = match () {
            () if now.size != self.size => format!("it had {} bytes and has {}", self.size, now.size),
            () if now.fingerprint != self.fingerprint => "its content is different".to_string(),
            () => return Ok(compression),
        };
        Err(Error::user(
            ErrorCode::Io,
            format!(
                "{} has changed since the job began to read it ({what}); positions in it mean nothing any more: put the old file back, or start the job anew",
                self.path
            ),
        ))
    }
}

/// A split with its position. JSON in snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileSplit {
    #[serde(flatten)]
    pub file: FileId,
    /// Place of this split in the order of reading, and the number of all splits.
    pub index: u32,
    pub of: u32,
    /// Bytes of a plain file whose records belong to this split: those that begin behind the first newline at or after
    /// `start - 1`, and before `end`. None: the whole file.
    pub range: Option<(u64, u64)>,
    /// Times that the split was read to its end.
    #[serde(default)]
    pub pass: u64,
    /// Offset of the next record in the decompressed text; None before the first.
    #[serde(default)]
    pub position: Option<u64>,
    /// Lines of this split before `position` in this pass.
    #[serde(default)]
    pub lines: u64,
}

impl FileSplit {
    pub fn encode(&self) -> Result<Split> {
        serde_json::to_vec(self).map_err(|e| Error::internal(format!("cannot encode a file split: {e}")))
    }
    pub fn decode(split: &Split) -> Result<Self> {
        serde_json::from_slice(split).map_err(|e| {
            Error::user(
                ErrorCode::Incompatible,
                format!("the snapshot's split is not one of a file source ({e}); was the source replaced?"),
            )
        })
    }
    pub fn start(&self) -> u64 {
        self.range.map_or(0, |r| r.0)
    }
    pub fn end(&self) -> u64 {
        self.range.map_or(u64::MAX, |r| r.1)
    }
    /// Starts over for the next pass.
    pub fn rewind(&mut self) {
        (self.pass, self.position, self.lines) = (self.pass + 1, None, 0);
    }
}

/// The splits of some files, in reading order. `range` is the wanted size of ranges in bytes, when plain files can be cut.
pub(crate) fn plan(files: Vec<(FileId, Compression)>, ranges: Ranges) -> Vec<FileSplit> {
    let range = match ranges {
        Ranges::None => u64::MAX,
        Ranges::Bytes(n) => n.max(4), // a byte order mark lies in the first range
        Ranges::For { parallelism } => {
            let total: u64 = files.iter().map(|(f, _)| f.size).sum();
            (total / (u64::from(parallelism.max(1)) * RANGES_PER_SUBTASK)).max(MIN_RANGE)
        }
    };
    let mut splits = Vec::new();
    for (file, compression) in files {
        let n = if compression == Compression::Plain { (file.size / range).max(1) } else { 1 };
        let at = |i: u64| (u128::from(file.size) * u128::from(i) / u128::from(n)) as u64;
        for i in 0..n {
            let range = (n > 1).then(|| (at(i), at(i + 1)));
            splits.push(FileSplit { file: file.clone(), index: 0, of: 0, range, pass: 0, position: None, lines: 0 });
        }
    }
    let of = splits.len() as u32;
    (0..).zip(&mut splits).for_each(|(i, s)| (s.index, s.of) = (i, of));
    splits
}

/// How plain files are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Not at all: a record may span lines.
    None,
    Bytes(u64),
    For {
        parallelism: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> FileId {
        FileId { path: path.into(), size, fingerprint: 0 }
    }
    fn ranges(splits: &[FileSplit]) -> Vec<Option<(u64, u64)>> {
        splits.iter().map(|s| s.range).collect()
    }

    #[test]
    fn large_plain_files_are_cut_and_compressed_ones_are_not() {
        let files = || vec![(file("a", 100 << 20), Compression::Plain), (file("b", 100 << 20), Compression::Zstd)];
        let splits = plan(files(), Ranges::For { parallelism: 2 });
        let quarter = 25 << 20;
        assert_eq!(
            ranges(&splits),
            [
                Some((0, quarter)),
                Some((quarter, 2 * quarter)),
                Some((2 * quarter, 3 * quarter)),
                Some((3 * quarter, 4 * quarter)),
                None
            ]
        );
        assert_eq!(
            splits.iter().map(|s| (s.index, s.of)).collect::<Vec<_>>(),
            [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5)]
        );
        assert_eq!(ranges(&plan(files(), Ranges::None)), [None, None]);
        assert_eq!(
            ranges(&plan(vec![(file("a", 5 << 20), Compression::Plain)], Ranges::For { parallelism: 64 })),
            [None]
        );
        assert_eq!(
            ranges(&plan(vec![(file("a", 10), Compression::Plain)], Ranges::Bytes(4))),
            [Some((0, 5)), Some((5, 10))]
        );
        assert_eq!(ranges(&plan(vec![(file("a", 0), Compression::Plain)], Ranges::Bytes(4))), [None]);
    }

    #[test]
    fn a_changed_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x").to_str().unwrap().to_string();
        for len in [10usize, 70_000, 1 << 20] {
            let mut text = vec![b'a'; len];
            std::fs::write(&path, &text).unwrap();
            let (id, _) = FileId::of(&path).unwrap();
            id.check().unwrap();
            text[len - 1] = b'b';
            std::fs::write(&path, &text).unwrap();
            assert!(id.check().unwrap_err().message.contains("its content is different"));
            text.push(b'b');
            std::fs::write(&path, &text).unwrap();
            assert!(id.check().unwrap_err().message.contains(&format!("had {len} bytes and has {}", len + 1)));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(FileId::of(&path).unwrap_err().message.contains("No such file"));
    }

    #[test]
    fn splits_are_json_and_others_are_refused() {
        let mut s = plan(vec![(file("a", 9), Compression::Plain)], Ranges::None).remove(0);
        s.position = Some(4);
        assert_eq!(FileSplit::decode(&s.encode().unwrap()).unwrap(), s);
        let e = FileSplit::decode(&b"{\"step\":1}".to_vec()).unwrap_err();
        assert!(e.message.contains("was the source replaced"), "{e}");
    }
}
