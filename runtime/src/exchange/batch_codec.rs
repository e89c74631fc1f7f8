//! Batch to frame body and back: one column per field of the records, then the columns beside them.
//!
//! Body: number of records `u32`, flags `u8` (1: hashes, 2: timestamps, 4: the consumer computes the hashes), the records'
//! columns ([`Data::encode_column`]), the hashes (8 bytes each), the timestamps (a column of integers), eight bytes that
//! stand for nothing ([`SLACK`]). All little-endian.
//!
//! The hash of a key that lies in a short record costs less to compute anew than its eight bytes cost on their way through
//! the kernel, twice copied and checked: such batches travel without hashes.
use super::frame::MAX_BATCH_BODY;
use crate::data::column::SLACK;
use crate::data::{Column as _, Data, DecodeError};
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};
use std::sync::Arc;

const PREFIX: usize = 5;
const HASHES: u8 = 1;
const TIMESTAMPS: u8 = 2;
const REHASH: u8 = 4;
/// A batch that encodes to more than this goes out as several frames: credit counts frames, so frames must not differ
/// without bound.
pub const SPLIT_BYTES: usize = 128 << 10;
/// Most records in a frame; a bound for those that encode to nothing.
const MAX_RECORDS: usize = 1 << 13;
/// Bytes of a record up to which hashes are computed anew.
const SHORT: usize = 48;

/// Fills the hash column of a batch from its records, for consumers of a stream whose keys lie in the records.
pub type Rehash<T> = Arc<dyn Fn(&[T], &mut Vec<u64>) + Send + Sync>;

/// Writes batches into frames. Remembers how many records fit one, so that what does not fit is seldom written twice.
#[derive(Debug)]
pub struct Encoder {
    most: usize,
    /// The consumer can compute the hashes.
    rehash: bool,
}

impl Encoder {
    /// `rehash`: the consumer has a [`Rehash`].
    pub fn new(rehash: bool) -> Self {
        Self { most: MAX_RECORDS, rehash }
    }

    /// Appends the records of `batch` from index `from` on, as many as fit one frame, to `out`. Returns the index of the
    /// first record that is left.
    ///
    /// # Errors
    /// A single record that is longer than a frame, or columns that are not as long as the records.
    pub fn encode<T: Data>(&mut self, batch: &Batch<T>, from: usize, out: &mut Vec<u8>) -> Result<usize> {
        let records = batch.records.len();
        for (column, n) in [("hashes", batch.hashes.len()), ("timestamps", batch.timestamps.len())] {
            if n != 0 && n != records {
                return Err(Error::internal(format_args!("a batch of {records} records has {n} {column}")));
            }
        }
        let start = out.len();
        let mut to = records.min(from + self.most);
        loop {
            self.write(batch, from, to, out);
            let (n, bytes) = (to - from, out.len() - start);
            if bytes > SPLIT_BYTES && n > 1 {
                self.most = (n * SPLIT_BYTES / bytes).clamp(1, n - 1);
                to = from + self.most;
                out.truncate(start);
                continue;
            }
            if bytes > MAX_BATCH_BODY {
                out.truncate(start);
                return Err(Error::user(
                    ErrorCode::BadRecord,
                    format_args!(
                        "a record encodes to {bytes} bytes, more than the {MAX_BATCH_BODY} that fit a frame: store large values outside and send a reference"
                    ),
                ));
            }
            if bytes < SPLIT_BYTES / 2 {
                self.most = (self.most * 2).min(MAX_RECORDS);
            }
            return Ok(to);
        }
    }

    fn write<T: Data>(&self, batch: &Batch<T>, from: usize, to: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&((to - from) as u32).to_le_bytes());
        out.push(0);
        T::encode_column(batch.records[from..to].iter(), out);
        let mut flags = 0;
        if let Some(hashes) = batch.hashes.get(from..to) {
            if self.rehash && out.len() - start <= SHORT * (to - from) {
                flags |= REHASH;
            } else {
                flags |= HASHES;
                put_hashes(hashes, out);
            }
        }
        if let Some(timestamps) = batch.timestamps.get(from..to) {
            flags |= TIMESTAMPS;
            i64::encode_column(timestamps.iter(), out);
        }
        out.extend_from_slice(&[0; SLACK]);
        out[start + 4] = flags;
    }
}

fn put_hashes(hashes: &[u64], out: &mut Vec<u8>) {
    // writing into room made beforehand becomes one copy; pushing would check for room at each value
    let at = out.len();
    out.resize(at + hashes.len() * 8, 0);
    for (to, hash) in out[at..].as_chunks_mut::<8>().0.iter_mut().zip(hashes) {
        *to = hash.to_le_bytes();
    }
}

/// Reads a whole body into `batch`, which is empty and keeps its room. On an error the batch is empty again.
pub fn decode<T: Data>(body: &[u8], batch: &mut Batch<T>, rehash: Option<&Rehash<T>>) -> Result<(), DecodeError> {
    let result = decode_all(body, batch, rehash);
    if result.is_err() {
        batch.clear();
    }
    result
}

fn decode_all<T: Data>(body: &[u8], batch: &mut Batch<T>, rehash: Option<&Rehash<T>>) -> Result<(), DecodeError> {
    let &[a, b, c, d, flags, ref rest @ ..] = body else {
        return Err(DecodeError::Truncated { missing: PREFIX - body.len() });
    };
    let count = u32::from_le_bytes([a, b, c, d]) as usize;
    if count == 0 || count > MAX_RECORDS {
        return Err(DecodeError::Invalid("a batch has no records or too many"));
    }
    if flags & !(HASHES | TIMESTAMPS | REHASH) != 0 || flags & (HASHES | REHASH) == HASHES | REHASH {
        return Err(DecodeError::Invalid("a batch has unknown flags"));
    }
    let (mut next, mut rest) = T::decode_column(rest, count)?;
    for _ in 0..count {
        batch.records.push(next.read()?);
    }
    drop(next);
    if flags & HASHES != 0 {
        let Some((hashes, behind)) = rest.split_at_checked(8 * count) else {
            return Err(DecodeError::Truncated { missing: 8 * count - rest.len() });
        };
        batch.hashes.extend(hashes.as_chunks::<8>().0.iter().map(|x| u64::from_le_bytes(*x)));
        rest = behind;
    }
    if flags & TIMESTAMPS != 0 {
        let (mut next, behind) = i64::decode_column(rest, count)?;
        for _ in 0..count {
            batch.timestamps.push(next.read()?);
        }
        rest = behind;
    }
    if rest.len() != SLACK {
        return Err(DecodeError::Invalid("a batch is not as long as its columns"));
    }
    if flags & REHASH != 0 {
        let rehash = rehash.ok_or(DecodeError::Invalid("a batch without the hashes that its stream has"))?;
        rehash(&batch.records, &mut batch.hashes);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
