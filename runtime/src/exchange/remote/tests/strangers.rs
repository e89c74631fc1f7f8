//! What comes in over TCP from someone who is no taskmanager, or a broken one: refused with the reason; the process and
//! the other connections live on.
use super::*;
use crate::exchange::credit::Grant;
use crate::exchange::frame::{self, HEADER_BYTES, Header, Kind, MAX_BATCH_BODY};
use crate::exchange::remote::handshake::{Hello, control};
use crate::exchange::remote::reader::FrameReader;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// One side of a connection, spoken by hand.
struct Raw {
    reader: FrameReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Raw {
    fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        Self { reader: FrameReader::new(read), write }
    }
    async fn to(e: &Exchange) -> Self {
        Self::new(TcpStream::connect(e.address()).await.unwrap())
    }
    async fn hello(e: &Exchange, attempt: u64) -> Self {
        let mut raw = Self::to(e).await;
        let hello = Hello { job: "job-1".into(), from: "tm-x".into(), to: "tm-b".into() };
        raw.send(&hello.encode(Attempt(attempt))).await;
        raw
    }
    async fn welcomed(e: &Exchange) -> Self {
        let mut raw = Self::hello(e, 1).await;
        assert_eq!(raw.next().await.0.kind, Kind::Welcome);
        raw
    }
    /// With the channel open and credit for it.
    async fn opened(e: &Exchange) -> Self {
        let mut raw = Self::welcomed(e).await;
        raw.send(&framed(Kind::Open, 1, 0, &[])).await;
        let (header, body) = raw.next().await;
        assert_eq!((header.kind, Grant::decode(&body).unwrap().batches), (Kind::Credit, CAPACITY as u32));
        raw
    }
    async fn send(&mut self, bytes: &[u8]) {
        // the other side may have closed it already: what it says is what counts
        let _ = self.write.write_all(bytes).await;
    }
    async fn next(&mut self) -> (Header, Bytes) {
        soon(self.reader.next()).await.unwrap().expect("the connection was closed")
    }
    /// The reason that the other side gives before it closes the connection.
    async fn refusal(&mut self) -> String {
        let why = loop {
            let (header, body) = self.next().await;
            match header.kind {
                Kind::Refuse => break String::from_utf8(body.to_vec()).unwrap(),
                Kind::Credit => {}
                kind => panic!("{kind:?}"),
            }
        };
        assert!(soon(self.reader.next()).await.unwrap().is_none(), "the connection stays open");
        why
    }
}

fn framed(kind: Kind, attempt: u64, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut f = control(kind, Attempt(attempt), body);
    frame::seal(&mut f, kind, Attempt(attempt), CHANNEL, sequence);
    f
}

fn patched(mut f: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    f[at..at + bytes.len()].copy_from_slice(bytes);
    f
}

#[tokio::test]
async fn strangers_are_refused_and_the_others_live_on() {
    let Pair { mut tx, mut rx, a: _a, b, .. } = pair().await;
    ready(&mut tx).await.unwrap();
    let hello = |job: &str, to: &str, attempt| {
        Hello { job: job.into(), from: "tm-x".into(), to: to.into() }.encode(Attempt(attempt))
    };
    let good = hello("job-1", "tm-b", 1);
    let cases = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "no taskmanager"),
        (vec![0; 100_000], "no taskmanager"),
        (patched(good.clone(), 4, &[1]), "format version 1, this process speaks 2"),
        (patched(good.clone(), 5, &[77]), "unknown kind 77"),
        (patched(good.clone(), 28, &u32::MAX.to_le_bytes()), "Hello frame claims a body of 4294967295 bytes"),
        (
            patched(framed(Kind::Batch, 1, 0, b"x"), 28, &(MAX_BATCH_BODY as u32 + 1).to_le_bytes()),
            "the limit is 16777216",
        ),
        (patched(good.clone(), HEADER_BYTES, b"["), "checksum"),
        (framed(Kind::Open, 1, 0, &[]), "a Open frame is not expected here"),
        (control(Kind::Hello, Attempt(1), b"{\"job\":1}"), "malformed"),
        (hello("job-2", "tm-b", 1), "belongs to job job-1, not to job-2"),
        (hello("job-1", "tm-c", 1), "this is taskmanager tm-b, not tm-c"),
        (hello("job-1", "tm-b", 0), "tm-x is fenced: it is in attempt 0"),
    ];
    for (bytes, want) in cases {
        let mut raw = Raw::to(&b).await;
        raw.send(&bytes).await;
        let why = raw.refusal().await;
        assert!(why.contains(want), "{why:?} does not say {want:?}");
        tx.send(batch(1)).unwrap();
        assert_eq!(text(recv(&mut rx).await.unwrap()), "batch 1");
    }
}

#[tokio::test]
async fn a_bad_frame_of_a_taskmanager_ends_its_connection_and_fails_its_channels() {
    let mut many = Vec::new();
    for i in 0..=CAPACITY as u64 {
        many.extend(framed(Kind::Batch, 1, i, &[1]));
    }
    let mut barriers = Vec::new();
    for i in 0..=crate::exchange::credit::CONTROL_WINDOW.into() {
        barriers.extend(framed(Kind::EndOfInput, 1, i, &[]));
    }
    let after_close = [framed(Kind::Close, 1, 0, &[]), framed(Kind::Batch, 1, 1, &[1])].concat();
    let other = patched(framed(Kind::Batch, 1, 0, &[1]), 16, &[9]);
    let cases = [
        (patched(framed(Kind::Batch, 1, 0, b"body"), HEADER_BYTES, b"B"), "checksum"),
        (b"garbage".to_vec(), "no taskmanager"),
        (other, "checksum"),
        (framed(Kind::Batch, 2, 0, &[1]), "belongs to attempt 2, the connection to attempt 1"),
        (framed(Kind::Batch, 1, 5, &[1]), "sequence number 5 instead of 0"),
        (framed(Kind::Open, 1, 0, &[]), "in use already"),
        (framed(Kind::Credit, 1, 0, &[0; 8]), "a Credit frame is not expected here"),
        (many, "goes beyond the credit given"),
        (barriers, "goes beyond the credit given"),
        (after_close, "a Batch frame is not expected here"),
    ];
    for (bytes, want) in cases {
        let b = exchange("tm-b").await;
        let mut rx = b.begin(Attempt(1)).unwrap().receiver::<Order>(CHANNEL, true).unwrap();
        let mut raw = Raw::opened(&b).await;
        raw.send(&bytes).await;
        let why = raw.refusal().await;
        assert!(why.contains(want), "{why:?} does not say {want:?}");
        match recv(&mut rx).await {
            Err(e) => {
                assert_eq!((e.domain, e.code), (ErrorDomain::External, ErrorCode::Exchange));
                assert!(e.message.contains("taskmanager tm-x at") && e.message.contains(want), "{e}");
            }
            Ok(e) => assert!(e.is_none() && bytes.len() == 2 * HEADER_BYTES + 1, "only a closed channel has an end"),
        }
        // still there for the next one
        Raw::welcomed(&b).await;
    }
}

#[tokio::test]
async fn an_unknown_channel_is_refused() {
    let b = exchange("tm-b").await;
    let _to = b.begin(Attempt(1)).unwrap();
    let mut raw = Raw::welcomed(&b).await;
    raw.send(&framed(Kind::Barrier, 1, 0, b"{}")).await;
    let why = raw.refusal().await;
    assert!(why.contains("unknown channel (edge 1 from subtask 0 to subtask 2)"), "{why}");
    // nor is anything taken before the consumer has given credit
    let mut raw = Raw::welcomed(&b).await;
    raw.send(&[framed(Kind::Open, 1, 0, &[]), framed(Kind::Batch, 1, 0, &[1])].concat()).await;
    assert!(raw.refusal().await.contains("beyond the credit"));
}

#[tokio::test]
async fn a_malformed_body_fails_the_consumer_with_its_place() {
    for (kind, body, want) in [
        (Kind::Batch, &b"\x02\0\0\0\0\x03ab"[..], "Batch frame is malformed: the bytes end 6 short"),
        (Kind::Batch, b"\xff\xff\xff\xff\x00", "no records or too many"),
        (Kind::Watermark, b"1234", "4 bytes instead of 8"),
        (Kind::Barrier, b"{\"id\":1}", "Barrier frame is malformed: missing field"),
        (Kind::EndOfInput, b"x", "does not belong"),
    ] {
        let b = exchange("tm-b").await;
        let mut rx = b.begin(Attempt(1)).unwrap().receiver::<Order>(CHANNEL, true).unwrap();
        let mut raw = Raw::opened(&b).await;
        raw.send(&framed(kind, 1, 0, body)).await;
        let e = recv(&mut rx).await.unwrap_err();
        assert!(e.code == ErrorCode::Exchange && e.message.contains(want), "{e}");
        assert!(e.message.starts_with("edge 1 from subtask 0 to subtask 2"), "{e}");
    }
}

#[tokio::test]
async fn a_barrier_of_another_attempt_is_refused_by_the_consumer() {
    let b = exchange("tm-b").await;
    let mut rx = b.begin(Attempt(1)).unwrap().receiver::<Order>(CHANNEL, true).unwrap();
    let mut raw = Raw::opened(&b).await;
    let Element::Barrier(old) = barrier(3, 9) else { panic!() };
    raw.send(&framed(Kind::Barrier, 1, 0, &serde_json::to_vec(&old).unwrap())).await;
    assert!(recv(&mut rx).await.unwrap_err().message.contains("the barrier is of attempt 9"));
}

#[tokio::test]
async fn a_connection_that_breaks_within_a_frame_is_an_error() {
    let b = exchange("tm-b").await;
    let mut rx = b.begin(Attempt(1)).unwrap().receiver::<Order>(CHANNEL, true).unwrap();
    let mut raw = Raw::opened(&b).await;
    let frame = framed(Kind::Batch, 1, 0, b"\x01\0\0\0\0\x01a12345678");
    raw.send(&frame[..frame.len() - 1]).await;
    drop(raw);
    let e = recv(&mut rx).await.unwrap_err();
    assert!(e.code == ErrorCode::Connection && e.message.contains("tm-x"), "{e}");
}

/// A taskmanager spoken by hand, which `a` has connected to.
async fn raw_consumer(a: &Exchange) -> (Raw, Sender<Order>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = PeerAddress { taskmanager: "tm-raw".into(), address: listener.local_addr().unwrap().to_string() };
    let tx = a.begin(Attempt(1)).unwrap().sender::<Order>(CHANNEL, Some(&to)).unwrap();
    let mut raw = Raw::new(soon(listener.accept()).await.unwrap().0);
    let (header, body) = raw.next().await;
    let hello = Hello::decode(&header, &body).unwrap();
    assert_eq!((hello.from.as_str(), hello.to.as_str(), header.attempt), ("tm-a", "tm-raw", Attempt(1)));
    raw.send(&client::welcome(Attempt(1))).await;
    assert_eq!(raw.next().await.0.kind, Kind::Open);
    (raw, tx)
}

fn credit(batches: u32, control: u32) -> Vec<u8> {
    let mut body = vec![];
    Grant { batches, control }.encode(&mut body);
    framed(Kind::Credit, 1, 0, &body)
}

#[tokio::test]
async fn a_barrier_leaves_when_the_credit_for_batches_is_used_up() {
    let a = exchange("tm-a").await;
    let (mut raw, mut tx) = raw_consumer(&a).await;
    raw.send(&credit(2, 4)).await;
    ready(&mut tx).await.unwrap();
    tx.send(batch(0)).unwrap();
    tx.send(batch(1)).unwrap();
    assert!(!is_ready(&mut tx));
    tx.send(barrier(5, 1)).unwrap();
    let mut kinds = vec![];
    for sequence in 0..3 {
        let (header, _) = raw.next().await;
        assert_eq!(header.sequence, sequence);
        kinds.push(header.kind);
    }
    assert_eq!(kinds, [Kind::Batch, Kind::Batch, Kind::Barrier]);
    assert!(!is_ready(&mut tx));
    raw.send(&credit(1, 1)).await;
    ready(&mut tx).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_talks_nonsense_fails_the_producer() {
    let other = ChannelId { edge: 8, ..CHANNEL };
    let mut unknown = credit(1, 1);
    frame::seal(&mut unknown, Kind::Credit, Attempt(1), other, 0);
    let cases = [
        (b"nonsense".to_vec(), "no taskmanager"),
        (unknown, "unknown channel (edge 8"),
        (credit(u32::MAX, 1), "grants more than a channel may have"),
        (framed(Kind::Credit, 1, 0, b"x"), "1 bytes instead of 8"),
        (framed(Kind::Credit, 7, 0, b"x"), "attempt 7"),
        (framed(Kind::Batch, 1, 0, b"x"), "not expected here"),
        (client::welcome(Attempt(1)), "not expected here"),
    ];
    for (bytes, want) in cases {
        let a = exchange("tm-a").await;
        let (mut raw, mut tx) = raw_consumer(&a).await;
        raw.send(&bytes).await;
        let e = ready(&mut tx).await.unwrap_err();
        assert!(
            e.code == ErrorCode::Exchange && e.message.contains("taskmanager tm-raw at") && e.message.contains(want),
            "{e}"
        );
        assert!(raw.refusal().await.contains(want));
    }
    let a = exchange("tm-a").await;
    let (mut raw, mut tx) = raw_consumer(&a).await;
    raw.send(&handshake::refusal(Attempt(1), "the reason")).await;
    let e = ready(&mut tx).await.unwrap_err();
    assert!(e.message.contains("tm-raw") && e.message.contains("the reason"), "{e}");
}
