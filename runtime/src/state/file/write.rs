//! Writes frozen tables into a snapshot file, as a stream of chunks.
use super::format::{Block, Compression, HEAD, SnapshotMeta, head, trailer};
use crate::data::put_len;
use crate::error::{Error, Result};
use crate::state::snapshot::FrozenTable;

/// Sizes in bytes. The defaults suit local disks and object stores (whose multipart uploads want parts of at least 5 MiB).
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// A block ends when it has so many bytes.
    pub block: usize,
    /// A chunk is handed on when it has so many bytes; the last one is shorter. Memory is bounded by a chunk, a block, and
    /// what the receiver holds.
    pub chunk: usize,
    pub compression: Compression,
    /// Level of the compression.
    pub level: i32,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { block: 128 << 10, chunk: 5 << 20, compression: Compression::None, level: 1 }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Of the whole file.
    pub crc32c: u32,
    /// Over all states.
    pub entries: u64,
}

struct Writer<'a> {
    options: &'a WriteOptions,
    put: &'a mut dyn FnMut(Vec<u8>) -> Result<()>,
    /// What is not handed on yet; the open block is its end.
    chunk: Vec<u8>,
    /// Bytes handed on, and their checksum.
    size: u64,
    crc32c: u32,
    /// Start of the open block in `chunk`.
    start: usize,
    entries: u64,
    groups: (u32, u32),
    compressor: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl Writer<'_> {
    fn hand_on(&mut self, room: usize) -> Result<()> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.chunk);
        self.size += self.chunk.len() as u64;
        self.start = 0;
        (self.put)(std::mem::replace(&mut self.chunk, Vec::with_capacity(room)))
    }

    fn entry(&mut self, group: u32, key: &[u8], value: &[u8], blocks: &mut Vec<Block>) -> Result<()> {
        let open = self.chunk.len() - self.start;
        // a new key group is a good place to end a block: a reader of other groups need not read it
        if open >= self.options.block || (open > self.options.block / 2 && group != self.groups.1) {
            self.end_block(blocks)?;
        }
        if self.entries == 0 {
            self.groups.0 = group;
        }
        self.groups.1 = group;
        self.entries += 1;
        put_len(&mut self.chunk, key.len());
        self.chunk.extend_from_slice(key);
        put_len(&mut self.chunk, value.len());
        self.chunk.extend_from_slice(value);
        Ok(())
    }

    fn end_block(&mut self, blocks: &mut Vec<Block>) -> Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        let raw_len = (self.chunk.len() - self.start) as u64;
        if let Some(compressor) = &mut self.compressor {
            let raw = &self.chunk[self.start..];
            self.scratch.clear();
            self.scratch.reserve(zstd::zstd_safe::compress_bound(raw.len()));
            compressor
                .compress_to_buffer(raw, &mut self.scratch)
                .map_err(|e| Error::internal(format!("cannot compress a block of a snapshot: {e}")))?;
            if self.scratch.len() < raw.len() {
                self.chunk.truncate(self.start);
                self.chunk.extend_from_slice(&self.scratch);
            }
        }
        let at = self.size + self.start as u64..self.size + self.chunk.len() as u64;
        let crc32c = crc32c::crc32c(&self.chunk[self.start..]);
        blocks.push(Block { at, groups: self.groups, raw_len, entries: self.entries, crc32c });
        self.entries = 0;
        self.start = self.chunk.len();
        if self.chunk.len() >= self.options.chunk {
            self.hand_on(self.options.chunk + self.options.block)?;
        }
        Ok(())
    }
}

/// Writes a file: `put` takes its bytes, in order, in chunks. `meta.states` and `meta.compression` are taken from the
/// tables and the options.
///
/// # Errors
/// The first error of `put`, which ends the writing.
pub fn write(
    mut meta: SnapshotMeta,
    tables: Vec<Box<dyn FrozenTable>>,
    options: &WriteOptions,
    put: &mut dyn FnMut(Vec<u8>) -> Result<()>,
) -> Result<Written> {
    meta.compression = options.compression;
    meta.states = tables.iter().map(|t| t.descriptor().clone()).collect();
    let compressor = match options.compression {
        Compression::None => None,
        Compression::Zstd => Some(
            zstd::bulk::Compressor::new(options.level)
                .map_err(|e| Error::internal(format!("cannot compress a snapshot: {e}")))?,
        ),
    };
    let mut w = Writer {
        options,
        put,
        chunk: head().to_vec(),
        size: 0,
        crc32c: 0,
        start: HEAD,
        entries: 0,
        groups: (0, 0),
        compressor,
        scratch: Vec::new(),
    };
    let mut index = Vec::with_capacity(tables.len());
    let mut entries = 0;
    for table in tables {
        let mut blocks = Vec::new();
        table.for_each(meta.max_parallelism, &mut |group, key, value| w.entry(group, key, value, &mut blocks))?;
        w.end_block(&mut blocks)?;
        entries += blocks.iter().map(|b: &Block| b.entries).sum::<u64>();
        index.push(blocks);
    }
    w.chunk.extend_from_slice(&trailer(&meta, &index)?);
    w.hand_on(0)?;
    Ok(Written { size: w.size, crc32c: w.crc32c, entries })
}
