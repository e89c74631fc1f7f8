//! Writes frozen tables into a snapshot file, as a stream of chunks; large tables are encoded on threads of their own.
use super::blocks::{Block, BlockWriter, Chunk};
use super::format::{Compression, HEAD, SnapshotMeta, head, trailer};
use crate::error::{Error, Result};
use crate::state::snapshot::FrozenTable;
use std::sync::{Mutex, PoisonError, mpsc};

/// Sizes in bytes. The defaults suit local disks and object stores.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// A block ends when it has so many bytes.
    pub block: usize,
    /// A chunk is handed on when it has so many bytes.
    pub chunk: usize,
    /// A large table may be encoded so many bytes ahead of what takes the file: the sooner a segment is let go of, the fewer
    /// of its entries the task has to copy. Memory is bounded by this, and by two chunks for each thread.
    pub ahead: usize,
    pub compression: Compression,
    /// Level of the compression.
    pub level: i32,
    /// Threads that encode a large table. None: the caller's own, alone.
    pub threads: usize,
}

impl Default for WriteOptions {
    fn default() -> Self {
        // the other half is left to those who process records
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            block: 128 << 10,
            chunk: 1 << 20,
            ahead: 64 << 20,
            compression: Compression::None,
            level: 1,
            threads: (cores / 2).clamp(1, 4),
        }
    }
}

/// Tables with fewer entries are encoded on the caller's thread.
const LARGE: u64 = if cfg!(test) { 100 } else { 50_000 };
/// Entries of one turn of an encoding thread, which ends a block.
const RUN: usize = if cfg!(test) { 64 } else { 8 << 10 };

/// A table and what of it to write.
pub struct Piece {
    pub table: Box<dyn FrozenTable>,
    /// Only what was written or removed after the freeze of this epoch; the table's history must reach so far.
    pub since: Option<u32>,
}

impl From<Box<dyn FrozenTable>> for Piece {
    fn from(table: Box<dyn FrozenTable>) -> Self {
        Self { table, since: None }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Of the whole file.
    pub crc32c: u32,
    /// Over all states, without removals.
    pub entries: u64,
    /// Keys that are told as removed.
    pub removals: u64,
}

/// The file so far.
struct Stream<'a> {
    put: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    size: u64,
    crc32c: u32,
    entries: u64,
    removals: u64,
    blocks: Vec<Block>,
}

impl Stream<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.size += bytes.len() as u64;
        (self.put)(bytes)
    }

    fn chunk(&mut self, chunk: &Chunk) -> Result<()> {
        for b in &chunk.blocks {
            let at = self.size + b.at.start..self.size + b.at.end;
            let count = if b.removals { &mut self.removals } else { &mut self.entries };
            *count += b.entries;
            self.blocks.push(Block { at, ..b.clone() });
        }
        self.bytes(&chunk.bytes)
    }
}

/// Writes a file: `put` takes its bytes, in order. `meta.states`, `meta.changes_only` and `meta.compression` are taken from
/// the tables and the options.
///
/// # Errors
/// The first error of `put`, which ends the writing.
pub fn write(
    mut meta: SnapshotMeta,
    tables: Vec<Piece>,
    options: &WriteOptions,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Written> {
    meta.compression = options.compression;
    meta.states = tables.iter().map(|t| t.table.descriptor().clone()).collect();
    let partial = tables.iter().filter(|t| t.since.is_some());
    meta.changes_only = partial.map(|t| t.table.descriptor().name.clone()).collect();
    let mut stream = Stream { put, size: 0, crc32c: 0, entries: 0, removals: 0, blocks: Vec::new() };
    stream.bytes(&head())?;
    debug_assert_eq!(stream.size, HEAD as u64);
    for (state, Piece { table, since }) in (0..).zip(tables) {
        let max_parallelism = meta.max_parallelism;
        if table.history().is_none() {
            let mut put = |chunk: Chunk| stream.chunk(&chunk).map(|()| chunk.bytes);
            let mut out = BlockWriter::new(state, options, &mut put)?;
            table.for_each(max_parallelism, &mut |group, key, value| out.encoded(group, key, value))?;
            out.finish()?;
        } else if options.threads == 0 || table.entries() < LARGE {
            let mut table = table;
            let mut put = |chunk: Chunk| stream.chunk(&chunk).map(|()| chunk.bytes);
            let mut out = BlockWriter::new(state, options, &mut put)?;
            while let Some(run) = table.take_run(RUN) {
                run.encode(max_parallelism, since, &mut out)?;
            }
            out.finish()?;
        } else {
            on_threads(state, table, since, max_parallelism, options, &mut stream)?;
        }
    }
    let trailer = trailer(&meta, &stream.blocks)?;
    stream.bytes(&trailer)?;
    Ok(Written { size: stream.size, crc32c: stream.crc32c, entries: stream.entries, removals: stream.removals })
}

/// Room of chunks that were written, for the chunks to come, of this snapshot and of the next: the first touch of fresh memory
/// costs about as much as encoding into it.
static ROOM: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
/// So much of it is kept.
const ROOM_KEPT: usize = 32;

fn room(bytes: usize) -> Vec<u8> {
    let kept = ROOM.lock().unwrap_or_else(PoisonError::into_inner).pop();
    kept.unwrap_or_else(|| Vec::with_capacity(bytes))
}

fn give_back(mut room: Vec<u8>) {
    room.clear();
    let mut kept = ROOM.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < ROOM_KEPT {
        kept.push(room);
    }
}

/// Encodes on several threads, each taking the next segments, while this one puts away what is ready.
fn on_threads(
    state: u32,
    table: Box<dyn FrozenTable>,
    since: Option<u32>,
    max_parallelism: u32,
    options: &WriteOptions,
    stream: &mut Stream<'_>,
) -> Result<()> {
    let table = Mutex::new(table);
    let next = || table.lock().unwrap_or_else(PoisonError::into_inner).take_run(RUN);
    let ahead = (options.ahead / options.chunk.max(1)).clamp(options.threads, 1024);
    let (full, chunks) = mpsc::sync_channel::<Chunk>(ahead);
    std::thread::scope(|scope| {
        let encoder = |full: mpsc::SyncSender<Chunk>| {
            let next = &next;
            move || -> Result<()> {
                let mut put = |chunk: Chunk| match full.send(chunk) {
                    Ok(()) => Ok(room(options.chunk + options.block)),
                    // the other side has met an error, which it reports
                    Err(_) => Err(Error::internal("the snapshot was given up")),
                };
                let mut out =
                    BlockWriter::new(state, options, &mut put)?.with_room(room(options.chunk + options.block));
                while let Some(run) = next() {
                    run.encode(max_parallelism, since, &mut out)?;
                }
                out.finish()
            }
        };
        let mut encoders = Vec::with_capacity(options.threads);
        for n in 0..options.threads {
            let thread = std::thread::Builder::new().name(format!("weir-snapshot-{n}"));
            let spawned = thread.spawn_scoped(scope, encoder(full.clone()));
            encoders.push(spawned.map_err(|e| Error::internal(format!("cannot start a thread to encode state: {e}")))?);
        }
        drop(full);
        let mut put = Ok(());
        for chunk in &chunks {
            put = stream.chunk(&chunk);
            if put.is_err() {
                break;
            }
            give_back(chunk.bytes);
        }
        drop(chunks);
        let encoded = encoders.into_iter().map(|e| match e.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let encoded = encoded.fold(Ok(()), Result::and);
        put.and(encoded)
    })
}
