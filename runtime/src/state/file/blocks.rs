//! Blocks: entries of one state in a checked, perhaps compressed, piece of a snapshot file.
use super::format::Compression;
use super::write::WriteOptions;
use crate::data::{Data, put_len};
use crate::error::{Error, Result};
use std::ops::Range;

/// Where a block lies and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Number of the state in the file's list.
    pub state: u32,
    /// Its entries are keys alone, which the snapshot does not have any more.
    pub removals: bool,
    /// Bytes of the file; before it is in the file, of its chunk.
    pub at: Range<u64>,
    /// First and last key group.
    pub groups: (u32, u32),
    /// Bytes before compression; equal to the stored ones if it is not compressed.
    pub raw_len: u64,
    pub entries: u64,
    pub crc32c: u32,
}

impl Block {
    /// May hold entries of these key groups.
    pub fn overlaps(&self, groups: &Range<u32>) -> bool {
        self.groups.0 < groups.end && self.groups.1 >= groups.start
    }
}

/// Some blocks on their way into a file.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub blocks: Vec<Block>,
}

/// Takes full chunks and gives empty ones back, with room if it has some.
pub(super) type PutChunk<'a> = dyn FnMut(Chunk) -> Result<Vec<u8>> + 'a;

/// Packs entries of one state into blocks, and blocks into chunks. Memory is bounded by a chunk, a block and the removals of
/// one run of segments.
pub struct BlockWriter<'a> {
    options: &'a WriteOptions,
    put: &'a mut PutChunk<'a>,
    state: u32,
    /// What is not handed on yet; the open block is its end.
    chunk: Chunk,
    /// Start of the open block in the chunk.
    start: usize,
    entries: u64,
    groups: (u32, u32),
    removals: Vec<u8>,
    removed: Vec<(u32, usize)>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl<'a> BlockWriter<'a> {
    pub(super) fn new(state: u32, options: &'a WriteOptions, put: &'a mut PutChunk<'a>) -> Result<Self> {
        let compressor = match options.compression {
            Compression::None => None,
            Compression::Zstd => Some(
                zstd::bulk::Compressor::new(options.level)
                    .map_err(|e| Error::internal(format!("cannot compress a snapshot: {e}")))?,
            ),
        };
        Ok(Self {
            options,
            put,
            state,
            chunk: Chunk::default(),
            start: 0,
            entries: 0,
            groups: (0, 0),
            removals: Vec::new(),
            removed: Vec::new(),
            compressor,
            scratch: Vec::new(),
        })
    }

    /// Begins with this room.
    pub(super) fn with_room(mut self, room: Vec<u8>) -> Self {
        self.chunk.bytes = room;
        self
    }

    /// Adds an entry.
    #[inline]
    pub fn entry(&mut self, group: u32, key: &impl Data, value: &impl Data) -> Result<()> {
        self.begin(group)?;
        prefixed(&mut self.chunk.bytes, |out| key.encode(out));
        prefixed(&mut self.chunk.bytes, |out| value.encode(out));
        Ok(())
    }

    /// Adds an entry that is encoded already.
    pub fn encoded(&mut self, group: u32, key: &[u8], value: &[u8]) -> Result<()> {
        self.begin(group)?;
        for part in [key, value] {
            put_len(&mut self.chunk.bytes, part.len());
            self.chunk.bytes.extend_from_slice(part);
        }
        Ok(())
    }

    /// Adds a key that is gone.
    pub fn removed(&mut self, group: u32, key: &impl Data) {
        prefixed(&mut self.removals, |out| key.encode(out));
        self.removed.push((group, self.removals.len()));
    }

    #[inline]
    fn begin(&mut self, group: u32) -> Result<()> {
        let open = self.chunk.bytes.len() - self.start;
        // a new key group is a good place to end a block: a reader of other groups need not read it
        let goes_back = self.entries > 0 && group < self.groups.1;
        if open >= self.options.block || (open > self.options.block / 2 && group != self.groups.1) || goes_back {
            self.end_block(false)?;
        }
        if self.entries == 0 {
            self.groups.0 = group;
        }
        self.groups.1 = group;
        self.entries += 1;
        Ok(())
    }

    /// A stretch of neighbouring segments ends: what follows has other key groups.
    pub fn end_run(&mut self) -> Result<()> {
        self.end_block(false)?;
        let (removals, removed) = (std::mem::take(&mut self.removals), std::mem::take(&mut self.removed));
        let mut at = 0;
        for (group, end) in removed {
            // they may lie in any order of groups within a run
            if self.chunk.bytes.len() - self.start >= self.options.block {
                self.end_block(true)?;
            }
            self.groups =
                if self.entries == 0 { (group, group) } else { (self.groups.0.min(group), self.groups.1.max(group)) };
            self.entries += 1;
            self.chunk.bytes.extend_from_slice(&removals[at..end]);
            at = end;
        }
        self.end_block(true)
    }

    fn end_block(&mut self, removals: bool) -> Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        let bytes = &mut self.chunk.bytes;
        let raw_len = (bytes.len() - self.start) as u64;
        if let Some(compressor) = &mut self.compressor {
            let raw = &bytes[self.start..];
            self.scratch.clear();
            self.scratch.reserve(zstd::zstd_safe::compress_bound(raw.len()));
            compressor
                .compress_to_buffer(raw, &mut self.scratch)
                .map_err(|e| Error::internal(format!("cannot compress a block of a snapshot: {e}")))?;
            if self.scratch.len() < raw.len() {
                bytes.truncate(self.start);
                bytes.extend_from_slice(&self.scratch);
            }
        }
        let at = self.start as u64..bytes.len() as u64;
        let crc32c = crc32c::crc32c(&bytes[self.start..]);
        let (state, groups, entries) = (self.state, self.groups, self.entries);
        self.chunk.blocks.push(Block { state, removals, at, groups, raw_len, entries, crc32c });
        self.entries = 0;
        self.start = bytes.len();
        if self.start >= self.options.chunk { self.hand_on() } else { Ok(()) }
    }

    fn hand_on(&mut self) -> Result<()> {
        let mut room = (self.put)(std::mem::take(&mut self.chunk))?;
        room.clear();
        self.chunk.bytes = room;
        self.start = 0;
        Ok(())
    }

    /// Hands on the rest.
    pub(super) fn finish(mut self) -> Result<()> {
        self.end_run()?;
        if self.chunk.blocks.is_empty() { Ok(()) } else { self.hand_on() }
    }
}

/// Appends what `encode` appends behind its length.
#[inline]
fn prefixed(out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    encode(out);
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
    } else {
        let mut prefix = Vec::with_capacity(10);
        put_len(&mut prefix, len);
        out.splice(at..=at, prefix);
    }
}
