//! Reads a snapshot file: checks everything before it is used, fetches only the blocks of the key groups asked for.
use super::blocks::Block;
use super::format::{Compression, FOOTER, Footer, HEAD, MAGIC, SnapshotMeta, damaged, head_of, parse_trailer};
use crate::data::{DecodeError, HASH_VERSION, take, take_len};
use crate::error::{Error, ErrorCode, Result};
use crate::state::frozen::RawEntry;
use bytes::Bytes;
use std::borrow::Cow;
use std::io::Read;
use std::ops::Range;

/// The first read takes so many bytes from the end, which holds footer and trailer of all but the largest files.
const TAIL: u64 = 256 << 10;
/// Room is made for no more than so many entries for each byte, however well they are said to be compressed.
const DENSEST: u64 = 8;

/// A file that can be read in ranges.
pub trait ReadAt: Send + Sync {
    /// For messages: path or URL.
    fn name(&self) -> &str;
    /// Bytes.
    fn size(&self) -> u64;
    /// Neighbouring blocks are fetched together up to so many bytes.
    fn fetch(&self) -> u64 {
        8 << 20
    }
    /// Reads exactly these bytes, which lie within the size.
    fn read_at(&self, range: Range<u64>) -> Result<Bytes>;
}

/// A file that was fetched whole.
#[derive(Debug, Clone)]
pub struct InMemory {
    pub name: String,
    pub bytes: Bytes,
}

impl ReadAt for InMemory {
    fn name(&self) -> &str {
        &self.name
    }
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        let within = range.start <= range.end && range.end <= self.size();
        within
            .then(|| self.bytes.slice(range.start as usize..range.end as usize))
            .ok_or_else(|| damaged(&self.name, format!("bytes {range:?} lie outside its {} bytes", self.size())))
    }
}

/// An open snapshot file whose head, trailer and footer are in order.
pub struct SnapshotFile<'a> {
    file: &'a dyn ReadAt,
    meta: SnapshotMeta,
    blocks: Vec<Block>,
}

impl<'a> SnapshotFile<'a> {
    /// Reads and checks all but the blocks.
    ///
    /// # Errors
    /// `snapshot`: not a snapshot file, cut off, damaged, or written by a newer version.
    pub fn open(file: &'a dyn ReadAt) -> Result<Self> {
        let (name, size) = (file.name(), file.size());
        let first = fetch(file, 0..size.min(HEAD as u64))?;
        if first.len() < HEAD {
            return Err(damaged(name, format!("it has only {size} bytes: it was cut off")));
        }
        if first[..8] != MAGIC {
            return Err(Error::user(
                ErrorCode::Snapshot,
                format!(
                    "{name} is not a snapshot file of Weir: it does not begin as one. Give the path of a checkpoint or savepoint that Weir wrote"
                ),
            ));
        }
        if size < (HEAD + FOOTER) as u64 {
            return Err(damaged(name, format!("it has only {size} bytes: it was cut off")));
        }
        let tail_start = size.saturating_sub(TAIL);
        let tail = fetch(file, tail_start..size)?;
        let mut footer = [0; FOOTER];
        footer.copy_from_slice(&tail[tail.len() - FOOTER..]);
        let footer = Footer::parse(name, size, &footer)?;
        if first[..] != head_of(footer.version) {
            return Err(damaged(name, format!("its first {HEAD} bytes are wrong")));
        }
        let trailer = if footer.trailer.start >= tail_start {
            tail.slice((footer.trailer.start - tail_start) as usize..(footer.trailer.end - tail_start) as usize)
        } else {
            fetch(file, footer.trailer.clone())?
        };
        if crc32c::crc32c(&trailer) != footer.crc32c {
            return Err(damaged(name, "the checksum of its trailer does not match"));
        }
        let (meta, blocks) = parse_trailer(name, footer.version, &trailer, footer.trailer.start)?;
        if meta.hash_version != HASH_VERSION {
            return Err(Error::user(
                ErrorCode::Snapshot,
                format!(
                    "snapshot file {name} places keys by version {} of the hash, this build has version {HASH_VERSION}: restore it with the version of Weir that wrote it",
                    meta.hash_version
                ),
            ));
        }
        Ok(Self { file, meta, blocks })
    }

    /// Entries of a state, without removals, in the blocks that hold one of these key groups; no more than a file of this size
    /// can have, whatever it says.
    pub fn entries_of(&self, state: usize, groups: &Range<u32>) -> u64 {
        let of = |b: &&Block| b.state as usize == state && !b.removals && b.overlaps(groups);
        let entries =
            self.blocks.iter().filter(of).map(|b| b.entries.min((b.at.end - b.at.start).saturating_mul(DENSEST)));
        entries.fold(0, u64::saturating_add)
    }

    pub fn name(&self) -> &str {
        self.file.name()
    }
    pub fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }
    /// Entries of one of [`SnapshotMeta::states`], without removals.
    pub fn entries(&self, state: usize) -> u64 {
        let of = self.blocks.iter().filter(|b| b.state as usize == state && !b.removals);
        of.map(|b| b.entries).fold(0, u64::saturating_add)
    }

    /// Calls `entry` with each entry of a state in the blocks that hold one of `groups`: those that are there, or those
    /// that are gone (which have no value). Blocks also hold entries of neighbouring groups; the second argument says which
    /// ones the block may hold.
    pub fn for_each(
        &self,
        state: usize,
        removals: bool,
        groups: &Range<u32>,
        entry: &mut dyn FnMut(RawEntry<'_>, &Range<u32>) -> Result<(), String>,
    ) -> Result<()> {
        let name = self.meta.states.get(state).map_or("", |s| s.name.as_str());
        let wanted = |b: &Block| b.state as usize == state && b.removals == removals && b.overlaps(groups);
        let mut rest = self.blocks.iter().enumerate().filter(|(_, b)| wanted(b)).peekable();
        while let Some((i, block)) = rest.next() {
            let mut span = block.at.clone();
            let mut together = vec![(i, block)];
            while let Some(next) =
                rest.next_if(|(_, b)| b.at.start == span.end && b.at.end - span.start <= self.file.fetch())
            {
                span.end = next.1.at.end;
                together.push(next);
            }
            let bytes = fetch(self.file, span.clone())?;
            for (i, block) in together {
                let stored = &bytes[(block.at.start - span.start) as usize..(block.at.end - span.start) as usize];
                self.block(block, stored, entry).map_err(|what| {
                    damaged(
                        self.name(),
                        format!("state {name:?}, block {i} (bytes {}..{}): {what}", block.at.start, block.at.end),
                    )
                })?;
            }
        }
        Ok(())
    }

    fn block(
        &self,
        block: &Block,
        stored: &[u8],
        entry: &mut dyn FnMut(RawEntry<'_>, &Range<u32>) -> Result<(), String>,
    ) -> Result<(), String> {
        if crc32c::crc32c(stored) != block.crc32c {
            return Err("its checksum does not match".into());
        }
        let raw = if stored.len() as u64 == block.raw_len {
            Cow::Borrowed(stored)
        } else if self.meta.compression == Compression::Zstd {
            Cow::Owned(decompress(stored, block.raw_len)?)
        } else {
            return Err(format!("it should have {} bytes", block.raw_len));
        };
        let groups = block.groups.0..block.groups.1 + 1;
        let mut input = &raw[..];
        let mut next = || -> Result<RawEntry<'_>, DecodeError> {
            let len = take_len(&mut input)?;
            let key = take(&mut input, len)?;
            if block.removals {
                return Ok(RawEntry { key, value: &[] });
            }
            let len = take_len(&mut input)?;
            Ok(RawEntry { key, value: take(&mut input, len)? })
        };
        for i in 0..block.entries {
            let raw = next().map_err(|e| format!("entry {i}: {e}"))?;
            entry(raw, &groups).map_err(|e| format!("entry {i}: {e}"))?;
        }
        if input.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over behind its entries", input.len())) }
    }
}

/// Reads a range and checks that it is whole.
fn fetch(file: &dyn ReadAt, range: Range<u64>) -> Result<Bytes> {
    let bytes = file.read_at(range.clone())?;
    if bytes.len() as u64 == range.end - range.start {
        return Ok(bytes);
    }
    Err(damaged(file.name(), format!("of bytes {}..{} only {} could be read", range.start, range.end, bytes.len())))
}

/// Memory grows with what comes out, not with what is claimed.
fn decompress(stored: &[u8], raw_len: u64) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("it cannot be decompressed: {e}");
    let decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(failed)?;
    let mut raw = Vec::with_capacity(raw_len.min(1 << 20) as usize);
    decoder.take(raw_len.saturating_add(1)).read_to_end(&mut raw).map_err(failed)?;
    if raw.len() as u64 == raw_len { Ok(raw) } else { Err(format!("it does not decompress to {raw_len} bytes")) }
}
