//! The frame: what lies on the wire between processes. Pure: bytes in, header or error out.
use super::ChannelId;
use std::fmt;
use weir_api::ids::Attempt;

/// First bytes of each frame.
pub const MAGIC: [u8; 4] = *b"WEIR";
/// Version of the frame format and of everything in the bodies.
pub const VERSION: u8 = 2;
/// Length of a header in bytes. The body follows it.
pub const HEADER_BYTES: usize = 44;
/// Longest body of a batch. Senders split batches long before; only a single large record comes near.
pub const MAX_BATCH_BODY: usize = 16 << 20;
/// Longest body of any other frame.
pub const MAX_CONTROL_BODY: usize = 64 << 10;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $n:literal),* $(,)?) => {
        /// What a frame is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name = $n),* }
        impl Kind {
            const fn from_byte(b: u8) -> Option<Self> {
                match b { $($n => Some(Self::$name),)* _ => None }
            }
        }
    };
}
kinds! {
    /// The connecting side says who it is. The first frame.
    Hello 1,
    /// The accepting side takes the connection.
    Welcome 2,
    /// The sender of this closes the connection; the body says why.
    Refuse 3,
    /// The producer is there and waits for credit.
    Open 4,
    /// A batch of records.
    Batch 5,
    Watermark 6,
    Barrier 7,
    EndOfInput 8,
    /// The producer has dropped its end.
    Close 9,
    /// The consumer has room.
    Credit 10,
    /// The consumer has dropped its end.
    Cancel 11,
}

impl Kind {
    const fn max_body(self) -> usize {
        match self {
            Self::Batch => MAX_BATCH_BODY,
            _ => MAX_CONTROL_BODY,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub attempt: Attempt,
    /// All zero in frames that concern the whole connection.
    pub channel: ChannelId,
    /// Counts the frames of a channel from the producer to the consumer from 0; 0 in the others.
    pub sequence: u64,
    /// Bytes of the body.
    pub length: u32,
}

/// Why a frame is refused. The connection ends with it: what follows a bad frame cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the frame starts with {0:02x?}, not with \"WEIR\": the other side is no taskmanager")]
    Magic(Vec<u8>),
    #[error("the frame has format version {found}, this process speaks {VERSION}: run the same image on both sides")]
    Version { found: u8 },
    #[error("the frame has the unknown kind {found}")]
    Kind { found: u8 },
    #[error("a reserved field of the frame header holds {found:#06x}")]
    Reserved { found: u16 },
    #[error("a {kind:?} frame claims a body of {length} bytes, the limit is {limit}")]
    TooLong { kind: Kind, length: u32, limit: usize },
    #[error("the checksum of a {kind:?} frame of {length} bytes is {found:08x}, its header says {expected:08x}")]
    Checksum { kind: Kind, length: u32, expected: u32, found: u32 },
    #[error("a {kind:?} frame belongs to attempt {found}, the connection to attempt {expected}")]
    Attempt { kind: Kind, expected: Attempt, found: Attempt },
    #[error("a {kind:?} frame names an unknown channel ({channel})")]
    Channel { kind: Kind, channel: ChannelId },
    #[error("a frame of {channel} has sequence number {found} instead of {expected}")]
    Sequence { channel: ChannelId, expected: u64, found: u64 },
    #[error("a {kind:?} frame of {channel} goes beyond the credit given")]
    Credit { kind: Kind, channel: ChannelId },
    #[error("a {kind:?} frame is not expected here")]
    Unexpected { kind: Kind },
    #[error("the body of a {kind:?} frame is malformed: {why}")]
    Body { kind: Kind, why: String },
}

/// What the bytes so far hold.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// No whole frame yet; there must be this many bytes before another look is of use.
    Need(usize),
    /// A whole frame with a right checksum; it is this long, header and body.
    Frame(Header, usize),
}

/// Starts a frame in `buffer`, whose content is replaced: room for the header, to be filled by [`seal`] when the body is
/// written behind it.
pub fn start(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(HEADER_BYTES, 0);
}

/// Writes the header, with the checksum, in front of the body. `frame` was begun with [`start`].
pub fn seal(frame: &mut [u8], kind: Kind, attempt: Attempt, channel: ChannelId, sequence: u64) {
    let length = frame.len().saturating_sub(HEADER_BYTES);
    debug_assert!(length <= kind.max_body(), "a {kind:?} body of {length} bytes");
    let Some((header, body)) = frame.split_first_chunk_mut::<HEADER_BYTES>() else { return };
    header[..4].copy_from_slice(&MAGIC);
    header[4] = VERSION;
    header[5] = kind as u8;
    header[6..8].fill(0);
    header[8..16].copy_from_slice(&attempt.0.to_le_bytes());
    header[16..20].copy_from_slice(&channel.edge.to_le_bytes());
    header[20..24].copy_from_slice(&channel.producer.to_le_bytes());
    header[24..28].copy_from_slice(&channel.consumer.to_le_bytes());
    header[28..32].copy_from_slice(&(length as u32).to_le_bytes());
    header[32..40].copy_from_slice(&sequence.to_le_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[..40]), body);
    header[40..].copy_from_slice(&checksum.to_le_bytes());
}

/// Looks for a frame at the front of `bytes`, which may hold any part of one, or more than one. What can be refused is
/// refused as soon as its bytes are there, so nobody waits for the body of a bad frame.
pub fn decode(bytes: &[u8]) -> Result<Decoded, FrameError> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Err(FrameError::Magic(bytes[..seen].to_vec()));
    }
    let Some((h, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(Decoded::Need(HEADER_BYTES)) };
    let u32_at = |i: usize| u32::from_le_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
    let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
    if h[4] != VERSION {
        return Err(FrameError::Version { found: h[4] });
    }
    let kind = Kind::from_byte(h[5]).ok_or(FrameError::Kind { found: h[5] })?;
    let reserved = u16::from_le_bytes([h[6], h[7]]);
    if reserved != 0 {
        return Err(FrameError::Reserved { found: reserved });
    }
    let length = u32_at(28);
    if length as usize > kind.max_body() {
        return Err(FrameError::TooLong { kind, length, limit: kind.max_body() });
    }
    let total = HEADER_BYTES + length as usize;
    let Some(body) = rest.get(..length as usize) else { return Ok(Decoded::Need(total)) };
    let (expected, found) = (u32_at(40), crc32c::crc32c_append(crc32c::crc32c(&h[..40]), body));
    if expected != found {
        return Err(FrameError::Checksum { kind, length, expected, found });
    }
    let channel = ChannelId { edge: u32_at(16), producer: u32_at(20), consumer: u32_at(24) };
    let header = Header { kind, attempt: Attempt(u64_at(8)), channel, sequence: u64_at(32), length };
    Ok(Decoded::Frame(header, total))
}

impl FrameError {
    pub(crate) fn body(kind: Kind, why: impl fmt::Display) -> Self {
        Self::Body { kind, why: why.to_string() }
    }
}

#[cfg(test)]
mod tests;
