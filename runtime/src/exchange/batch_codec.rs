//! Batch to frame body and back: records back to back, then the columns beside them.
//!
//! Body: number of records `u32`, flags `u8` (1: hashes, 2: timestamps), the records' encodings, the hashes, the
//! timestamps (8 bytes each). All little-endian. The columns come last, so a batch can be cut at any record while it is
//! being written.
use super::frame::MAX_BATCH_BODY;
use crate::data::{Data, DecodeError};
use crate::dataflow::Batch;
use crate::error::{Error, ErrorCode, Result};

const PREFIX: usize = 5;
const HASHES: u8 = 1;
const TIMESTAMPS: u8 = 2;
/// A batch whose records are longer than this goes out as several frames: credit counts frames, so frames must not
/// differ without bound.
pub const SPLIT_BYTES: usize = 128 << 10;
/// Most records in a frame; a bound for those that encode to nothing.
const MAX_RECORDS: usize = 1 << 16;

/// Appends the records of `batch` from index `from` on, as many as fit one frame, to `out`. Returns the index of the first
/// record that is left.
///
/// # Errors
/// A single record that is longer than a frame, or columns that are not as long as the records.
pub fn encode<T: Data>(batch: &Batch<T>, from: usize, out: &mut Vec<u8>) -> Result<usize> {
    let records = batch.records.len();
    for (column, n) in [("hashes", batch.hashes.len()), ("timestamps", batch.timestamps.len())] {
        if n != 0 && n != records {
            return Err(Error::internal(format_args!("a batch of {records} records has {n} {column}")));
        }
    }
    let flags =
        if batch.hashes.is_empty() { 0 } else { HASHES } | if batch.timestamps.is_empty() { 0 } else { TIMESTAMPS };
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, flags]);
    let end = records.min(from + MAX_RECORDS);
    let split = start + SPLIT_BYTES;
    let (mut next, mut last) = (from, out.len());
    for record in &batch.records[from..end] {
        last = out.len();
        record.encode(out);
        next += 1;
        if out.len() >= split {
            break;
        }
    }
    let columns = flags.count_ones() as usize * 8;
    if out.len() - start + (next - from) * columns > MAX_BATCH_BODY {
        if next - from == 1 {
            let (bytes, limit) = (out.len() - last, MAX_BATCH_BODY - PREFIX - columns);
            out.truncate(start);
            return Err(Error::user(
                ErrorCode::BadRecord,
                format_args!(
                    "a record encodes to {bytes} bytes, more than the {limit} that fit a frame: store large values outside and send a reference"
                ),
            ));
        }
        // the last one alone is long: it gets a frame of its own
        out.truncate(last);
        next -= 1;
    }
    if flags & HASHES != 0 {
        put_column(&batch.hashes[from..next], out, |h| h.to_le_bytes());
    }
    if flags & TIMESTAMPS != 0 {
        put_column(&batch.timestamps[from..next], out, |t| t.to_le_bytes());
    }
    out[start..start + 4].copy_from_slice(&((next - from) as u32).to_le_bytes());
    Ok(next)
}

fn put_column<X: Copy>(column: &[X], out: &mut Vec<u8>, bytes: impl Fn(X) -> [u8; 8]) {
    // writing into room made beforehand becomes one copy; pushing would check for room at each value
    let at = out.len();
    out.resize(at + column.len() * 8, 0);
    for (to, &x) in out[at..].as_chunks_mut::<8>().0.iter_mut().zip(column) {
        *to = bytes(x);
    }
}

/// Reads a whole body into `batch`, which is empty and keeps its room. On an error the batch is empty again.
pub fn decode<T: Data>(body: &[u8], batch: &mut Batch<T>) -> Result<(), DecodeError> {
    let result = decode_all(body, batch);
    if result.is_err() {
        batch.clear();
    }
    result
}

fn decode_all<T: Data>(body: &[u8], batch: &mut Batch<T>) -> Result<(), DecodeError> {
    let &[a, b, c, d, flags, ref rest @ ..] = body else {
        return Err(DecodeError::Truncated { missing: PREFIX - body.len() });
    };
    let count = u32::from_le_bytes([a, b, c, d]) as usize;
    if count == 0 || count > MAX_RECORDS {
        return Err(DecodeError::Invalid("a batch has no records or too many"));
    }
    if flags & !(HASHES | TIMESTAMPS) != 0 {
        return Err(DecodeError::Invalid("a batch has unknown flags"));
    }
    let columns = flags.count_ones() as usize * 8 * count;
    let Some(split) = rest.len().checked_sub(columns) else {
        return Err(DecodeError::Truncated { missing: columns - rest.len() });
    };
    let (mut records, columns) = rest.split_at(split);
    for _ in 0..count {
        batch.records.push(T::decode(&mut records)?);
    }
    if !records.is_empty() {
        return Err(DecodeError::Invalid("a batch is longer than its records"));
    }
    let (values, _) = columns.as_chunks::<8>();
    let (hashes, timestamps) = values.split_at(if flags & HASHES != 0 { count } else { 0 });
    batch.hashes.extend(hashes.iter().map(|x| u64::from_le_bytes(*x)));
    batch.timestamps.extend(timestamps.iter().map(|x| i64::from_le_bytes(*x)));
    Ok(())
}

#[cfg(test)]
mod tests;
