//! Cuts what a connection delivers into frames. Bodies are not copied: they stay in the chunk that was read into, and
//! chunks are reused when all of their bodies are consumed.
use crate::exchange::frame::{self, Decoded, FrameError, HEADER_BYTES, Header};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Room for one read.
const CHUNK: usize = 256 << 10;
/// Less room than this is not worth a read.
const MIN_ROOM: usize = 32 << 10;
/// Chunks kept for reuse.
const CHUNKS: usize = 16;

pub struct FrameReader<R> {
    stream: R,
    chunk: BytesMut,
    /// What has to lie in `chunk` before another look is of use.
    need: usize,
    /// `chunk` is larger than usual, for a long frame; not kept.
    oversized: bool,
    /// Chunks whose bodies may still be in use; the oldest first.
    used: VecDeque<BytesMut>,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, chunk: BytesMut::new(), need: HEADER_BYTES, oversized: true, used: VecDeque::new() }
    }

    /// The next frame that is there already. Its body holds the chunk, 256 KiB or more.
    pub fn buffered(&mut self) -> Result<Option<(Header, Bytes)>, FrameError> {
        match frame::decode(&self.chunk)? {
            Decoded::Need(n) => {
                self.need = n;
                Ok(None)
            }
            Decoded::Frame(header, total) => {
                let mut frame = self.chunk.split_to(total);
                frame.advance(HEADER_BYTES);
                Ok(Some((header, frame.freeze())))
            }
        }
    }

    /// Reads once. False: the other side has closed the connection between two frames.
    pub async fn fill(&mut self) -> io::Result<bool> {
        if self.has_to_move() {
            self.next_chunk();
        }
        // never beyond the capacity: `read_buf` would grow the chunk only if there were no room at all
        match self.stream.read_buf(&mut self.chunk).await? {
            0 if self.chunk.is_empty() => Ok(false),
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(true),
        }
    }

    /// The next frame; none at the end.
    pub async fn next(&mut self) -> Result<Option<(Header, Bytes)>, ReadError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next read belongs into another chunk. What is there of a frame is copied then, so that must not happen again with
    /// each read: the chunk is left when little room is left in it, or for one that holds the whole frame, never before a frame's
    /// end when that has room.
    fn has_to_move(&self) -> bool {
        let room = self.chunk.capacity() - self.chunk.len();
        let missing = self.need.saturating_sub(self.chunk.len());
        match self.need > HEADER_BYTES {
            true if 0 < missing && missing <= room => false,
            true => room < MIN_ROOM || self.next_size() >= self.need,
            false => room < MIN_ROOM,
        }
    }

    /// A long frame gets its room as its bytes come, not as its header says.
    fn next_size(&self) -> usize {
        self.need.min(2 * self.chunk.len()).max(CHUNK)
    }

    /// Goes on in another chunk, with the part of a frame that is there.
    fn next_chunk(&mut self) {
        let size = self.next_size();
        let mut next = self.reusable(size).unwrap_or_else(|| BytesMut::with_capacity(size));
        next.extend_from_slice(&self.chunk);
        let mut old = std::mem::replace(&mut self.chunk, next);
        if !self.oversized {
            old.clear();
            if self.used.len() == CHUNKS {
                self.used.pop_front();
            }
            self.used.push_back(old);
        }
        self.oversized = size > CHUNK;
    }

    fn reusable(&mut self, size: usize) -> Option<BytesMut> {
        if size > CHUNK {
            return None;
        }
        for _ in 0..self.used.len().min(4) {
            let mut chunk = self.used.pop_front()?;
            if chunk.try_reclaim(size) {
                return Some(chunk);
            }
            self.used.push_back(chunk);
        }
        None
    }

    /// Reads and forgets what still comes, up to a bound, so that closing does not cut off what was just written.
    pub async fn linger(&mut self) {
        let mut forgotten = 0;
        while forgotten < 4 * CHUNK {
            self.chunk.clear();
            self.chunk.reserve(MIN_ROOM);
            match self.stream.read_buf(&mut self.chunk).await {
                Ok(n) if n > 0 => forgotten += n,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
