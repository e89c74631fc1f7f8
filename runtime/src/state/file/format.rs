//! Head, trailer and footer of a snapshot file, as bytes.
use super::blocks::Block;
use crate::checkpoint::handles::StateDescriptor;
use crate::data::{DecodeError, put_len, take, take_len};
use crate::error::{Error, ErrorCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;

/// Version of the layout that is written; a reader refuses newer ones.
pub const FORMAT_VERSION: u32 = 3;
/// The oldest version that is read: its files hold whole states, one after the other.
const OLDEST_VERSION: u32 = 1;

/// First and last bytes of a file. The first one is no text, so that no text file is taken for a snapshot.
pub(super) const MAGIC: [u8; 8] = *b"\x8bWEIRKS\n";
/// Magic, version, checksum of both.
pub(super) const HEAD: usize = 16;
/// Length and checksum of the trailer, checksum of the footer, version, magic. The same in all versions.
pub(super) const FOOTER: usize = 28;

/// How the blocks of a file are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Compression {
    #[default]
    None,
    /// Zstandard, each block by itself; a block that does not shrink is stored as it is.
    Zstd,
}

/// What a file says about itself, besides its blocks. JSON in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotMeta {
    /// Name of the operator.
    pub operator: String,
    /// Version of the key hash that the key groups go by.
    pub hash_version: u32,
    pub max_parallelism: u32,
    /// Key groups that the subtask owned.
    pub key_groups: Range<u32>,
    pub compression: Compression,
    pub states: Vec<StateDescriptor>,
    /// Names of the states of which it holds what changed since an earlier file; of the others it holds all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub changes_only: BTreeSet<String>,
}

/// An error of a file that should be in order, but is not.
pub(super) fn damaged(file: &str, what: impl Display) -> Error {
    let message = format!(
        "snapshot file {file}: {what}. The file is damaged: restore from another checkpoint or savepoint, or put an intact copy of the file in its place"
    );
    Error::external(ErrorCode::Snapshot, message)
}

/// The first bytes of a file of a version.
pub(super) fn head_of(version: u32) -> [u8; HEAD] {
    let mut all = [0; HEAD];
    all[..8].copy_from_slice(&MAGIC);
    all[8..12].copy_from_slice(&version.to_le_bytes());
    let crc = crc32c::crc32c(&all[..12]);
    all[12..].copy_from_slice(&crc.to_le_bytes());
    all
}

pub(super) fn head() -> [u8; HEAD] {
    head_of(FORMAT_VERSION)
}

/// Trailer and footer. `blocks` lie one behind the other from the head on.
pub(super) fn trailer(meta: &SnapshotMeta, blocks: &[Block]) -> Result<Vec<u8>, Error> {
    let json = serde_json::to_vec(meta).map_err(|e| Error::internal(format!("cannot describe a snapshot: {e}")))?;
    let mut out = Vec::with_capacity(json.len() + 32 * blocks.len() + 64);
    put_len(&mut out, json.len());
    out.extend_from_slice(&json);
    put_len(&mut out, blocks.len());
    for b in blocks {
        put_len(&mut out, (b.state as usize) << 1 | usize::from(b.removals));
        put_block(&mut out, b);
    }
    Ok(sealed(out, FORMAT_VERSION))
}

fn put_block(out: &mut Vec<u8>, b: &Block) {
    put_len(out, b.groups.0 as usize);
    put_len(out, (b.groups.1 - b.groups.0) as usize);
    put_len(out, (b.at.end - b.at.start) as usize);
    put_len(out, b.raw_len as usize);
    put_len(out, b.entries as usize);
    out.extend_from_slice(&b.crc32c.to_le_bytes());
}

/// The trailer with its footer.
pub(super) fn sealed(mut out: Vec<u8>, version: u32) -> Vec<u8> {
    let (len, crc) = (out.len() as u64, crc32c::crc32c(&out));
    let mut footer = Vec::with_capacity(FOOTER);
    footer.extend_from_slice(&len.to_le_bytes());
    footer.extend_from_slice(&crc.to_le_bytes());
    let check = footer_crc(&footer, version);
    footer.extend_from_slice(&check.to_le_bytes());
    footer.extend_from_slice(&version.to_le_bytes());
    footer.extend_from_slice(&MAGIC);
    out.extend_from_slice(&footer);
    out
}

fn footer_crc(length_and_crc: &[u8], version: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(length_and_crc), &version.to_le_bytes())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// What a footer says: where the trailer lies and its checksum.
pub(super) struct Footer {
    pub version: u32,
    pub trailer: Range<u64>,
    pub crc32c: u32,
}

impl Footer {
    /// Reads the last [`FOOTER`] bytes of a file of `size` bytes that begins with the right magic.
    pub fn parse(file: &str, size: u64, bytes: &[u8; FOOTER]) -> Result<Self, Error> {
        if bytes[20..] != MAGIC {
            return Err(damaged(file, format!("it has {size} bytes and ends before its footer: it was cut off")));
        }
        let version = u32_at(bytes, 16);
        if footer_crc(&bytes[..12], version) != u32_at(bytes, 12) {
            return Err(damaged(file, "the checksum of its footer does not match"));
        }
        if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&version) {
            return Err(Error::user(
                ErrorCode::Snapshot,
                format!(
                    "snapshot file {file} has format version {version}, this build reads versions {OLDEST_VERSION} to {FORMAT_VERSION}: restore it with the version of Weir that wrote it, or a newer one"
                ),
            ));
        }
        let mut len = [0; 8];
        len.copy_from_slice(&bytes[..8]);
        let end = size - FOOTER as u64;
        let start = end.checked_sub(u64::from_le_bytes(len)).filter(|&s| s >= HEAD as u64);
        let start = start.ok_or_else(|| damaged(file, "its footer names a trailer that is longer than the file"))?;
        Ok(Self { version, trailer: start..end, crc32c: u32_at(bytes, 8) })
    }
}

/// Reads a trailer whose checksum is right; blocks must fill the file from the head up to `end`, where the trailer begins.
pub(super) fn parse_trailer(
    file: &str,
    version: u32,
    mut input: &[u8],
    end: u64,
) -> Result<(SnapshotMeta, Vec<Block>), Error> {
    let bad = |what: &dyn Display| damaged(file, format!("its trailer is wrong: {what}"));
    let short = |e: DecodeError| bad(&e);
    let len = take_len(&mut input).map_err(short)?;
    let json = take(&mut input, len).map_err(short)?;
    let meta: SnapshotMeta = serde_json::from_slice(json).map_err(|e| bad(&e))?;
    if meta.max_parallelism == 0 || meta.key_groups.end > meta.max_parallelism {
        return Err(bad(&format!("key groups {:?} of {}", meta.key_groups, meta.max_parallelism)));
    }
    let mut at = HEAD as u64;
    let mut blocks = Vec::new();
    // the first version has a list for each state, later ones a single list whose blocks name their state
    let lists = if version == 1 { meta.states.len() } else { 1 };
    for list in 0..lists {
        for _ in 0..take_len(&mut input).map_err(short)? {
            let mut number = || take_len(&mut input).map(|n| n as u64).map_err(short);
            let of = if version == 1 { (list as u64) << 1 } else { number()? };
            let (first, more, stored, raw_len, entries) = (number()?, number()?, number()?, number()?, number()?);
            let crc32c = u32_at(take(&mut input, 4).map_err(short)?, 0);
            let groups = u32::try_from(first).ok().zip(first.checked_add(more).and_then(|g| u32::try_from(g).ok()));
            let groups = groups.filter(|g| meta.key_groups.contains(&g.0) && meta.key_groups.contains(&g.1));
            let stop = at.checked_add(stored).filter(|&e| e <= end);
            let state = u32::try_from(of >> 1).ok().filter(|s| (*s as usize) < meta.states.len());
            let (Some(groups), Some(stop), Some(state)) = (groups, stop, state) else {
                return Err(bad(&format!("a block of {stored} bytes at byte {at} with key groups from {first}")));
            };
            // an entry has the length of its key, if nothing else
            if entries > raw_len || (meta.compression == Compression::None && raw_len != stored) {
                return Err(bad(&format!(
                    "a block of {stored} bytes at byte {at} with {entries} entries in {raw_len} bytes"
                )));
            }
            blocks.push(Block { state, removals: of & 1 == 1, at: at..stop, groups, raw_len, entries, crc32c });
            at = stop;
        }
    }
    if at != end || !input.is_empty() {
        return Err(bad(&format!("its blocks end at byte {at}, the trailer begins at byte {end}")));
    }
    Ok((meta, blocks))
}
