//! Large blocks of a plain or compressed file, with the offset in the decompressed stream.
use crate::error::{Error, ErrorCode, Result};
use flate2::read::MultiGzDecoder;
use memchr::{memchr, memrchr};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use zstd::stream::read::Decoder as ZstdDecoder;

/// Bytes asked of the file at once.
const BLOCK: usize = 256 << 10;
/// A record longer than this is taken for a file that is not text.
const MAX_RECORD: usize = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes. A name that promises compression must keep it, so that a damaged file is not read as text.
    pub fn detect(path: &str, head: &[u8]) -> Result<Self, String> {
        let found = match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        };
        let named = |suffixes: &[&str]| suffixes.iter().any(|s| path.ends_with(s));
        if found == Self::Plain && named(&[".gz", ".gzip", ".zst", ".zstd"]) {
            return Err(format!(
                "its name promises compression, but its first bytes ({:02x?}) are neither gzip's nor zstd's",
                &head[..head.len().min(4)]
            ));
        }
        Ok(found)
    }
}

enum Input {
    Plain(File),
    Gzip(Box<MultiGzDecoder<File>>),
    Zstd(Box<ZstdDecoder<'static, BufReader<File>>>),
}

/// A buffered reader that gives whole lines.
pub(crate) struct Blocks {
    path: String,
    input: Input,
    buf: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `buf[start]` in the decompressed stream.
    offset: u64,
    /// Where reading begins: what lies before is decompressed and dropped.
    skip_to: u64,
    eof: bool,
}

impl Blocks {
    /// Starts reading at `offset` of the decompressed stream. Compressed input is read from its beginning by [`Self::skip`].
    pub fn open(path: &str, compression: Compression, offset: u64) -> Result<Self> {
        let fail = |e: io::Error| Error::external(ErrorCode::Io, format!("cannot read {path}: {e}"));
        let mut file = File::open(path).map_err(fail)?;
        let mut at = 0;
        let input = match compression {
            Compression::Plain => {
                at = file.seek(SeekFrom::Start(offset)).map_err(fail)?;
                Input::Plain(file)
            }
            Compression::Gzip => Input::Gzip(Box::new(MultiGzDecoder::new(file))),
            Compression::Zstd => Input::Zstd(Box::new(ZstdDecoder::new(file).map_err(fail)?)),
        };
        Ok(Self {
            path: path.to_string(),
            input,
            buf: vec![0; BLOCK],
            start: 0,
            end: 0,
            offset: at,
            skip_to: offset,
            eof: false,
        })
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }
    pub fn offset(&self) -> u64 {
        self.offset
    }
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        self.offset += n as u64;
    }
    pub fn at_end(&self) -> bool {
        self.eof && self.start == self.end
    }

    /// Reads one more block behind what is there; an end of the input shows in [`Self::at_end`].
    pub fn fill(&mut self) -> Result<()> {
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buf.len() {
            if self.end >= MAX_RECORD {
                return Err(Error::user(
                    ErrorCode::BadRecord,
                    format!(
                        "{}: the record at byte {} has no end within {} MiB; is this a text file, and is a quote left open?",
                        self.path,
                        self.offset,
                        MAX_RECORD >> 20
                    ),
                ));
            }
            self.buf.resize(self.end * 2, 0);
        }
        let to = &mut self.buf[self.end..];
        loop {
            let n = match &mut self.input {
                Input::Plain(f) => f.read(to),
                Input::Gzip(f) => f.read(to),
                Input::Zstd(f) => f.read(to),
            };
            match n {
                Ok(n) => {
                    self.eof = n == 0;
                    self.end += n;
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(&e)),
            }
        }
    }

    fn failed(&self, e: &io::Error) -> Error {
        let kind = match self.input {
            Input::Plain(_) => return Error::external(ErrorCode::Io, format!("cannot read {}: {e}", self.path)),
            Input::Gzip(_) => "gzip",
            Input::Zstd(_) => "zstd",
        };
        let after = self.offset + (self.end - self.start) as u64;
        let what = if e.kind() == ErrorKind::UnexpectedEof { "is truncated" } else { "is damaged" };
        Error::user(
            ErrorCode::Io,
            format!(
                "{} {what}: its {kind} stream cannot be read beyond byte {after} of the decompressed text ({e})",
                self.path
            ),
        )
    }

    /// Moves towards the opening offset, by one block at most; true when it is reached.
    pub fn skip(&mut self) -> Result<bool> {
        if self.offset >= self.skip_to {
            return Ok(true);
        }
        if self.start == self.end {
            self.fill()?;
            if self.at_end() {
                return Err(Error::user(
                    ErrorCode::Io,
                    format!(
                        "{} ends at byte {} of its text, before the snapshot's position {}: the file has changed",
                        self.path, self.offset, self.skip_to
                    ),
                ));
            }
        }
        let n = (self.skip_to - self.offset).min((self.end - self.start) as u64);
        self.consume(n as usize);
        Ok(self.offset >= self.skip_to)
    }

    /// Length of whole lines at the front, with their newlines: about `target` bytes or one longer line; the last line of the
    /// input may lack its newline. 0 at the end of the input.
    pub fn whole_lines(&mut self, target: usize) -> Result<usize> {
        let mut searched = 0;
        loop {
            let there = self.bytes();
            if let Some(i) = memrchr(b'\n', &there[..there.len().min(target)]) {
                return Ok(i + 1);
            }
            if let Some(i) = memchr(b'\n', &there[searched..]) {
                return Ok(searched + i + 1);
            }
            searched = there.len();
            if self.eof {
                return Ok(searched);
            }
            self.fill()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_decides_and_a_name_must_not_lie() {
        let of = Compression::detect;
        assert_eq!(of("a.txt", &[0x1f, 0x8b, 8]), Ok(Compression::Gzip));
        assert_eq!(of("a.txt", &[0x28, 0xb5, 0x2f, 0xfd]), Ok(Compression::Zstd));
        assert_eq!(of("a.csv", b"head"), Ok(Compression::Plain));
        assert_eq!(of("a.csv", b""), Ok(Compression::Plain));
        assert!(of("a.csv.gz", b"head,er").unwrap_err().contains("promises compression"));
        assert!(of("a.csv.zst", b"").unwrap_err().contains("promises compression"));
    }

    #[test]
    fn lines_longer_than_a_block_come_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x").to_str().unwrap().to_string();
        let long = "y".repeat(3 * BLOCK);
        std::fs::write(&path, format!("a\n{long}\nb\nend")).unwrap();
        let mut blocks = Blocks::open(&path, Compression::Plain, 0).unwrap();
        let mut lens = Vec::new();
        loop {
            let n = blocks.whole_lines(4).unwrap();
            if n == 0 {
                break;
            }
            lens.push(n);
            blocks.consume(n);
        }
        assert_eq!(lens, [2, 3 * BLOCK + 1, 2, 3]);
        assert!(blocks.at_end());
        assert_eq!(blocks.offset(), 3 * BLOCK as u64 + 8);
    }
}
