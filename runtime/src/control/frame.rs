//! Frames of the control connection: a preamble that says who speaks, then length and JSON. Nothing that a stranger sends
//! makes the receiver panic or allocate more than arrived.
use crate::checkpoint::handles::Bytes64;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// First bytes of each direction: the name of the protocol and its version.
pub const PREAMBLE: [u8; 8] = *b"WEIRCTL\x01";
/// Longest frame after the greeting, in bytes.
pub const MAX_FRAME: u32 = 256 << 20;
/// Longest greeting, in bytes.
pub const MAX_GREETING: u32 = 64 << 10;

/// Why a control connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection within a frame")]
    Truncated,
    #[error(
        "the peer does not speak Weir's control protocol: its first bytes are {0:?}; is the address that of the rpc port?"
    )]
    Foreign(String),
    #[error(
        "the peer speaks version {theirs} of the control protocol, this process version {ours}: run the same release"
    )]
    Version { theirs: u8, ours: u8 },
    #[error("a frame of {len} bytes is longer than the limit of {max}")]
    TooLong { len: u64, max: u32 },
    #[error("a frame does not hold the expected message: {0}")]
    Malformed(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("the peer was silent for {0:?}")]
    Silent(std::time::Duration),
}

pub async fn write_preamble(w: &mut (impl AsyncWrite + Unpin)) -> Result<(), ControlError> {
    w.write_all(&PREAMBLE).await?;
    w.flush().await?;
    Ok(())
}

pub async fn read_preamble(r: &mut (impl AsyncRead + Unpin)) -> Result<(), ControlError> {
    let mut got = [0u8; PREAMBLE.len()];
    let mut n = 0;
    while n < got.len() {
        match r.read(&mut got[n..]).await? {
            0 if n == 0 => return Err(ControlError::Closed),
            0 => break,
            more => n += more,
        }
        // a stranger is told apart by its first byte that differs, without waiting for more
        let name = n.min(PREAMBLE.len() - 1);
        if got[..name] != PREAMBLE[..name] {
            break;
        }
    }
    let version = PREAMBLE.len() - 1;
    if n < got.len() || got[..version] != PREAMBLE[..version] {
        return Err(ControlError::Foreign(String::from_utf8_lossy(&got[..n]).into_owned()));
    }
    if got[version] != PREAMBLE[version] {
        return Err(ControlError::Version { theirs: got[version], ours: PREAMBLE[version] });
    }
    Ok(())
}

/// Appends `message` as a frame to `buffer`.
pub fn encode(message: &impl Serialize, buffer: &mut Vec<u8>) -> Result<(), ControlError> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    serde_json::to_writer(&mut *buffer, message).map_err(|e| ControlError::Malformed(e.to_string()))?;
    let len = buffer.len() - start - 4;
    match u32::try_from(len) {
        Ok(n) if n <= MAX_FRAME => {
            buffer[start..start + 4].copy_from_slice(&n.to_be_bytes());
            Ok(())
        }
        _ => {
            buffer.truncate(start);
            Err(ControlError::TooLong { len: len as u64, max: MAX_FRAME })
        }
    }
}

/// Length of a message's frame, in bytes.
pub fn len(message: &impl Serialize) -> u64 {
    struct Count(u64);
    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // what cannot be encoded is told when it is sent
    let _ = serde_json::to_writer(&mut count, message);
    count.0
}

/// Why what a task acknowledges or starts from cannot be sent in one frame of at most `limit` bytes, if it cannot: operator and
/// list that take most of it. `lists`: by operator.
pub fn too_long<'a>(
    message: &impl Serialize,
    lists: impl Iterator<Item = (&'a String, &'a BTreeMap<String, Vec<Bytes64>>)>,
    limit: u32,
) -> Option<String> {
    let len = len(message);
    if len <= u64::from(limit) {
        return None;
    }
    let sizes = lists.flat_map(|(operator, lists)| {
        lists.iter().map(move |(name, l)| (l.iter().map(|e| e.0.len()).sum::<usize>(), l.len(), operator, name))
    });
    let whose = sizes.max().map_or("the names of its state files".into(), |(bytes, elements, operator, name)| {
        format!("operator {operator:?}: list state {name:?} holds {elements} elements of {bytes} bytes in all")
    });
    Some(format!(
        "{whose}, and what one subtask keeps in lists travels in one message, which would be {len} bytes long (limit: {limit}): keep \
         less there, for example in keyed state, or spread it over more subtasks"
    ))
}

/// Reads one frame. `buffer` is scratch space.
pub async fn read<T: DeserializeOwned>(
    r: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    max: u32,
) -> Result<T, ControlError> {
    let mut len = [0u8; 4];
    match r.read(&mut len[..1]).await? {
        0 => return Err(ControlError::Closed),
        _ => r.read_exact(&mut len[1..]).await.map_err(truncated)?,
    };
    let len = u32::from_be_bytes(len);
    if len > max {
        return Err(ControlError::TooLong { len: u64::from(len), max });
    }
    buffer.clear();
    // grows with what arrives, not with what is announced
    let got = r.take(u64::from(len)).read_to_end(buffer).await?;
    if got < len as usize {
        return Err(ControlError::Truncated);
    }
    let message = serde_json::from_slice(buffer).map_err(|e| ControlError::Malformed(e.to_string()));
    if buffer.capacity() > 1 << 20 {
        *buffer = Vec::new();
    }
    message
}

fn truncated(e: io::Error) -> ControlError {
    if e.kind() == io::ErrorKind::UnexpectedEof { ControlError::Truncated } else { ControlError::Io(e) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{Hello, ToJobManager};

    fn hello() -> ToJobManager {
        ToJobManager::Hello(Hello {
            id: "tm-1".into(),
            slots: 2,
            data_address: "127.0.0.1:6121".into(),
            fingerprint: "00".into(),
            pid: 1,
            highest: Default::default(),
        })
    }

    async fn greeting(bytes: &[u8]) -> Result<ToJobManager, ControlError> {
        let mut r = bytes;
        read_preamble(&mut r).await?;
        read(&mut r, &mut Vec::new(), MAX_GREETING).await
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut b = PREAMBLE.to_vec();
        b.extend((body.len() as u32).to_be_bytes());
        b.extend(body);
        b
    }

    #[tokio::test]
    async fn a_greeting_survives_the_wire() {
        let mut bytes = PREAMBLE.to_vec();
        encode(&hello(), &mut bytes).unwrap();
        assert_eq!(greeting(&bytes).await.unwrap(), hello());
    }

    #[test]
    fn what_is_too_long_for_a_frame_is_known_before_it_is_sent_and_whose_fault_it_is() {
        let mut bytes = Vec::new();
        encode(&hello(), &mut bytes).unwrap();
        assert_eq!(len(&hello()), bytes.len() as u64 - 4);
        let list = |name: &str, n: usize| (name.to_owned(), vec![Bytes64(vec![7; n]); 2]);
        let lists = BTreeMap::from([
            ("in".to_owned(), BTreeMap::from([list("splits", 10)])),
            ("out".to_owned(), BTreeMap::from([list("few", 20), list("many", 1000)])),
        ]);
        let all = len(&lists) as u32;
        assert_eq!(too_long(&lists, lists.iter(), all), None);
        let why = too_long(&lists, lists.iter(), all - 1).unwrap();
        assert!(why.contains(r#"operator "out": list state "many" holds 2 elements of 2000 bytes"#), "{why}");
        assert!(why.contains(&format!("{all} bytes long (limit: {})", all - 1)), "{why}");
    }

    #[tokio::test]
    async fn strangers_are_told_apart_by_their_first_bytes() {
        let e = greeting(b"GET / HTTP/1.1\r\n\r\n").await.unwrap_err();
        assert!(matches!(&e, ControlError::Foreign(s) if s.starts_with("GET")), "{e}");
        let e = greeting(b"WEIRCTL\x02rest").await.unwrap_err();
        assert!(matches!(e, ControlError::Version { theirs: 2, ours: 1 }), "{e}");
        assert!(matches!(greeting(b"WEI").await.unwrap_err(), ControlError::Foreign(_)));
        assert!(matches!(greeting(b"").await.unwrap_err(), ControlError::Closed));
    }

    #[tokio::test]
    async fn an_oversized_announcement_is_refused_before_anything_is_allocated() {
        let mut bytes = PREAMBLE.to_vec();
        bytes.extend(u32::MAX.to_be_bytes());
        let e = greeting(&bytes).await.unwrap_err();
        assert!(matches!(e, ControlError::TooLong { len: 4294967295, .. }), "{e}");
    }

    #[tokio::test]
    async fn a_large_announcement_allocates_only_what_arrives() {
        let mut bytes = (MAX_FRAME - 1).to_be_bytes().to_vec();
        bytes.extend([b' '; 1000]);
        let mut buffer = Vec::new();
        let e = read::<ToJobManager>(&mut bytes.as_slice(), &mut buffer, MAX_FRAME).await.unwrap_err();
        assert!(matches!(e, ControlError::Truncated), "{e}");
        assert!(buffer.capacity() < 1 << 20, "{}", buffer.capacity());
    }

    #[tokio::test]
    async fn garbage_and_truncation_are_errors() {
        for body in [&b"\xff\xfe\x00garbage"[..], b"{}", br#"{"Hello":{"id":"x"}}"#, br#"{"Nonsense":{}}"#] {
            let e = greeting(&framed(body)).await.unwrap_err();
            assert!(matches!(e, ControlError::Malformed(_)), "{e}");
        }
        let whole = framed(&serde_json::to_vec(&hello()).unwrap());
        for cut in PREAMBLE.len() + 1..whole.len() {
            assert!(matches!(greeting(&whole[..cut]).await.unwrap_err(), ControlError::Truncated), "cut at {cut}");
        }
    }
}
