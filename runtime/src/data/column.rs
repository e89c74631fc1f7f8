//! Columns: how one field of many records lies in a batch between processes. Never written to a file.
//!
//! Integers: their width in bytes `u8` (0, 1, 2, 4, 8), the least of them `u64`, then each one's distance from it. Strings:
//! their lengths as integers, the length of the text `u32`, the text. Everything else: the length in bytes `u32`, then the
//! encodings of [`Data::encode`] one after the other. All little-endian. [`SLACK`] bytes follow the last column, so that a
//! number is read as a whole word whatever its width.
use super::{Data, DecodeError};

/// Reads the values of a column, one with each call. What comes behind the last one is without meaning.
///
/// Closures are columns. Those that every record goes through are types of their own, so that they are always inlined:
/// with a call per record, their state would lie in memory.
pub trait Column<T> {
    fn read(&mut self) -> Result<T, DecodeError>;
}

impl<T, F: FnMut() -> Result<T, DecodeError>> Column<T> for F {
    #[inline(always)]
    fn read(&mut self) -> Result<T, DecodeError> {
        self()
    }
}

/// Bytes that follow the last column of a batch; any.
pub const SLACK: usize = 8;

fn split(input: &[u8], n: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    input.split_at_checked(n).ok_or_else(|| DecodeError::Truncated { missing: n - input.len() })
}

fn split_u32(input: &[u8]) -> Result<(usize, &[u8]), DecodeError> {
    let (head, rest) = input.split_first_chunk().ok_or_else(|| DecodeError::Truncated { missing: 4 - input.len() })?;
    Ok((u32::from_le_bytes(*head) as usize, rest))
}

/// Bytes that the distances between integers take.
fn width(least: u64, most: u64) -> u8 {
    match most.saturating_sub(least) {
        0 => 0,
        1..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

fn put_header(width: u8, least: u64, out: &mut Vec<u8>) {
    out.push(width);
    out.extend_from_slice(&least.to_le_bytes());
}

/// Appends a column of integers.
#[inline]
pub fn put_words(values: impl Iterator<Item = u64> + Clone, out: &mut Vec<u8>) {
    let range = |(n, least, most): (usize, u64, u64), x: u64| (n + 1, least.min(x), most.max(x));
    let (n, least, most) = values.clone().fold((0, u64::MAX, 0), range);
    let width = width(least, most);
    put_header(width, least, out);
    let at = out.len();
    // writing into room made beforehand: pushing would check for room at each value
    out.resize(at + n * usize::from(width), 0);
    let to = &mut out[at..];
    match width {
        0 => {}
        1 => to.iter_mut().zip(values).for_each(|(to, x)| *to = (x - least) as u8),
        2 => to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, x)| *to = ((x - least) as u16).to_le_bytes()),
        4 => to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, x)| *to = ((x - least) as u32).to_le_bytes()),
        _ => to.as_chunks_mut().0.iter_mut().zip(values).for_each(|(to, x)| *to = (x - least).to_le_bytes()),
    }
}

/// Reads a column of integers.
#[derive(Debug, Clone)]
pub struct Words<'a> {
    /// The integers and what follows them. Only `at` changes from one to the next: a loop over several columns has
    /// registers for that.
    bytes: &'a [u8],
    at: usize,
    width: usize,
    mask: u64,
    least: u64,
}

impl<'a> Words<'a> {
    /// Takes a column of `n` integers off the front of `input`; returns the rest, too.
    #[inline]
    pub fn new(input: &'a [u8], n: usize) -> Result<(Self, &'a [u8]), DecodeError> {
        let Some((&[width, ref least @ ..], values)) = input.split_first_chunk::<9>() else {
            return Err(DecodeError::Truncated { missing: 9 - input.len() });
        };
        if !matches!(width, 0 | 1 | 2 | 4 | 8) {
            return Err(DecodeError::Invalid("a column of integers of no known width"));
        }
        let width = usize::from(width);
        let bytes = width * n;
        let rest = &split(values, bytes + SLACK)?.0[bytes..];
        debug_assert_eq!(rest.len(), SLACK);
        let words = Self {
            bytes: values,
            at: 0,
            width,
            mask: u64::MAX.checked_shr(64 - 8 * width as u32).unwrap_or(0),
            least: u64::from_le_bytes(*least),
        };
        Ok((words, &values[bytes..]))
    }

    /// The next integer; anything behind the last one.
    #[inline(always)]
    pub fn take(&mut self) -> u64 {
        let word = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).map_or(0, |w| u64::from_le_bytes(*w));
        self.at += self.width;
        self.least.wrapping_add(word & self.mask)
    }

    fn sum(&self, n: usize) -> u64 {
        let offsets = match self.width {
            0 => 0,
            1 => self.bytes.iter().take(n).map(|&x| u64::from(x)).sum(),
            _ => {
                let mut words = Self { least: 0, ..self.clone() };
                (0..n).fold(0, |sum: u64, _| sum.saturating_add(words.take()))
            }
        };
        self.least.saturating_mul(n as u64).saturating_add(offsets)
    }
}

/// Appends a column of strings.
#[inline]
pub fn put_strings<'a>(values: impl Iterator<Item = &'a str> + Clone, out: &mut Vec<u8>) {
    let range = |(n, least, most, total): (usize, usize, usize, usize), s: &str| {
        (n + 1, least.min(s.len()), most.max(s.len()), total + s.len())
    };
    let (n, least, most, total) = values.clone().fold((0, usize::MAX, 0, 0), range);
    let width = width(least as u64, most as u64);
    // a batch is split long before it has so much text; a single record that has is refused for its length
    let claim = (total as u32).to_le_bytes();
    if width > 1 {
        put_words(values.clone().map(|s| s.len() as u64), out);
        out.extend_from_slice(&claim);
        let at = out.len();
        out.resize(at + total, 0);
        let mut to = &mut out[at..];
        values.for_each(|s| put_text(s, &mut to));
        return;
    }
    // most strings: lengths and text are written side by side
    put_header(width, least as u64, out);
    let (at, lengths) = (out.len(), n * usize::from(width));
    out.resize(at + lengths + claim.len() + total, 0);
    let (to_lengths, to) = out[at..].split_at_mut(lengths);
    let (to_claim, mut to) = to.split_at_mut(claim.len());
    to_claim.copy_from_slice(&claim);
    if width == 0 {
        values.for_each(|s| put_text(s, &mut to));
        return;
    }
    for (s, length) in values.zip(to_lengths) {
        *length = (s.len() - least) as u8;
        put_text(s, &mut to);
    }
}

/// Copies a string to the front of `to` and moves `to` behind it.
#[inline(always)]
fn put_text(s: &str, to: &mut &mut [u8]) {
    if let Some((head, tail)) = std::mem::take(to).split_at_mut_checked(s.len()) {
        copy(s.as_bytes(), head);
        *to = tail;
    }
}

/// Copies bytes between slices of one length. Few of them by two overlapping words, without a call.
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    #[inline(always)]
    fn ends<const N: usize>(from: &[u8], to: &mut [u8]) {
        if let (Some(first), Some(last)) = (from.first_chunk::<N>(), from.last_chunk::<N>()) {
            if let Some(to) = to.first_chunk_mut::<N>() {
                *to = *first;
            }
            if let Some(to) = to.last_chunk_mut::<N>() {
                *to = *last;
            }
        }
    }
    match from.len() {
        8..=16 => ends::<8>(from, to),
        4..=7 => ends::<4>(from, to),
        17..=32 => ends::<16>(from, to),
        n if n == to.len() => to.copy_from_slice(from),
        _ => {}
    }
}

/// Reads a column of strings.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    lengths: Words<'a>,
    text: &'a str,
}

impl<'a> Strings<'a> {
    /// Takes a column of `n` strings off the front of `input`; returns the rest, too.
    #[inline]
    pub fn new(input: &'a [u8], n: usize) -> Result<(Self, &'a [u8]), DecodeError> {
        let (lengths, rest) = Words::new(input, n)?;
        let (total, rest) = split_u32(rest)?;
        let (text, rest) = split(rest, total)?;
        if lengths.sum(n) != total as u64 {
            return Err(DecodeError::Invalid("strings are not as long together as their text"));
        }
        // once for all of them: ASCII goes by at memory speed
        let text = std::str::from_utf8(text).map_err(|_| DecodeError::Invalid("a string is not UTF-8"))?;
        Ok((Self { lengths, text }, rest))
    }

    /// The next string; an error if it does not end where a character does.
    #[inline(always)]
    pub fn take(&mut self) -> Result<&'a str, DecodeError> {
        match self.text.split_at_checked(self.lengths.take() as usize) {
            Some((head, tail)) => {
                self.text = tail;
                Ok(head)
            }
            None => Err(DecodeError::Invalid("a string is not UTF-8")),
        }
    }
}

/// Appends a column of values of any type.
pub fn put_rows<'a, T: Data>(values: impl Iterator<Item = &'a T>, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    values.for_each(|x| x.encode(out));
    let bytes = out.len() - at - 4;
    out[at..at + 4].copy_from_slice(&(bytes as u32).to_le_bytes());
}

/// Reads a column of values of any type.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Rows<'a> {
    /// Takes a column of `n` values off the front of `input`; returns the rest, too.
    pub fn new(input: &'a [u8], n: usize) -> Result<(Self, &'a [u8]), DecodeError> {
        let (length, rest) = split_u32(input)?;
        let (bytes, rest) = split(rest, length)?;
        if n == 0 && length != 0 {
            return Err(DecodeError::Invalid("a column is longer than its values"));
        }
        Ok((Self { bytes, left: n }, rest))
    }

    /// The next value.
    #[inline]
    pub fn take<T: Data>(&mut self) -> Result<T, DecodeError> {
        let value = T::decode(&mut self.bytes)?;
        self.left = self.left.saturating_sub(1);
        if self.left == 0 && !self.bytes.is_empty() {
            return Err(DecodeError::Invalid("a column is longer than its values"));
        }
        Ok(value)
    }
}

/// Takes `n` bytes off the front of `input` for a column of bytes; returns the rest, too.
pub fn bytes(input: &[u8], n: usize) -> Result<(&[u8], &[u8]), DecodeError> {
    split(input, n)
}

#[cfg(test)]
mod tests;
