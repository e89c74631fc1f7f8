//! What a record, a key and a state value must be able to do: be encoded, be decoded, describe its type, and (keys) be hashed.
//!
//! One compact binary encoding serves snapshot files; batches between processes lie in [columns](column), so that a field's
//! values are written and read in one go. `#[derive(Record)]`, `#[derive(State)]` and `#[derive(Key)]` write the impls; the
//! impls for primitives and collections are in `primitives.rs`.
pub mod column;
mod hash;
mod primitives;
mod schema;

pub use column::Column;
pub use compact_str::CompactString as Str;
pub use hash::{HASH_VERSION, hash_bytes, hash_combine, hash_u64, same_bytes};
pub use schema::{Field, Type, Variant};
pub use weir_derive::{Key, Record, State};

/// Bytes that are not an encoding of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the bytes end {missing} short of a whole value")]
    Truncated { missing: usize },
    #[error("{0}")]
    Invalid(&'static str),
}

/// A type that travels between tasks and lies in snapshots.
///
/// `encode` then `decode` gives an equal value. The encoding has no type tags: the reader must know the [`Type`], which
/// snapshots carry beside the data. Integers are little-endian and of fixed width; lengths are LEB128 varints.
///
/// ```
/// use weir::prelude::*;
///
/// #[derive(Clone, Record)]
/// struct Click {
///     at_ms: i64,
///     page: Str,
/// }
/// ```
/// A field whose type has no schema is refused where the record is declared:
/// ```compile_fail,E0277
/// use weir::prelude::*;
///
/// #[derive(Clone, Record)]
/// struct Click {
///     at: std::time::Instant, // means nothing to another process
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a record or a state: it has no schema",
    label = "no schema can be derived with this type",
    note = "for a type of your own: #[derive(Clone, Record)], or #[derive(Clone, State)]; for one of another crate: keep what \
            describes it (for a time: `i64` ms since the Unix epoch; for a string that is short: `Str`), or wrap it and implement `weir::data::Data`"
)]
pub trait Data: Clone + Send + Sync + 'static {
    /// Appends the encoding of `self`.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads one value from the front of `input` and moves `input` behind it. Never panics and never allocates more than
    /// a small multiple of `input`'s length, whatever the bytes are.
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError>;
    /// The shape of the type, as stored in snapshots and compared on restore.
    fn type_of() -> Type;
    /// Appends values of a batch that goes to another process, as [`Self::decode_column`] reads them. The same build of the
    /// job reads it, so the layout may change from version to version.
    fn encode_column<'a>(values: impl Iterator<Item = &'a Self> + Clone, out: &mut Vec<u8>)
    where
        Self: 'a,
    {
        column::put_rows(values, out);
    }
    /// What reads a column of `n` values, one with each call, and what follows the column in `input` ([`column::SLACK`]
    /// bytes at least). Neither panics nor allocates more than a small multiple of `input`'s length, whatever the bytes are.
    fn decode_column(input: &[u8], n: usize) -> Result<(impl Column<Self>, &[u8]), DecodeError> {
        let (mut rows, rest) = column::Rows::new(input, n)?;
        Ok((move || rows.take(), rest))
    }
}

/// A type that records can be keyed by.
///
/// The hash decides the key group, so it must never change for a given value: implementations use only [`hash_u64`],
/// [`hash_bytes`] and [`hash_combine`].
///
/// A record is not a key by itself, as an order of fields that changes would send its state elsewhere:
/// ```compile_fail,E0277
/// use weir::prelude::*;
///
/// #[derive(Clone, PartialEq, Eq, Record)] // and Key
/// struct Route {
///     from: Str,
///     to: Str,
/// }
///
/// fn keyed(routes: Stream<Route>) {
///     routes.key_by(|route| route);
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a key: nothing says how it is hashed the same for ever",
    label = "not a key",
    note = "for a type of your own: #[derive(Clone, PartialEq, Eq, Record, Key)]; floating-point numbers are no keys: round them to an integer"
)]
pub trait Key: Data + Eq {
    fn key_hash(&self) -> u64;
    /// The same as `==`, for use where a record meets its state: short strings are compared without a call.
    #[inline]
    fn same_key(&self, other: &Self) -> bool {
        self == other
    }
}

/// Takes the next `n` bytes off the front of `input`.
#[inline]
pub fn take<'a>(input: &mut &'a [u8], n: usize) -> Result<&'a [u8], DecodeError> {
    match input.split_at_checked(n) {
        Some((head, tail)) => {
            *input = tail;
            Ok(head)
        }
        None => Err(DecodeError::Truncated { missing: n - input.len() }),
    }
}

/// Appends `n` as an LEB128 varint.
#[inline]
pub fn put_len(out: &mut Vec<u8>, n: usize) {
    let mut n = n as u64;
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads an LEB128 varint of at most ten bytes.
#[inline]
pub fn take_len(input: &mut &[u8]) -> Result<usize, DecodeError> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            break;
        }
        n |= part << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(n).map_err(|_| DecodeError::Invalid("a length does not fit the address space"));
        }
    }
    Err(DecodeError::Invalid("a length is longer than 64 bits"))
}

#[cfg(test)]
mod tests;
