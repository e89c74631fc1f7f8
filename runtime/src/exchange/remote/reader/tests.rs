use super::*;
use crate::exchange::ChannelId;
use crate::exchange::frame::Kind;
use futures::FutureExt;
use proptest::prelude::*;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use weir_api::ids::Attempt;

/// Delivers its bytes in pieces of the given lengths.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    lengths: Vec<usize>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = self.lengths.pop().unwrap_or(usize::MAX);
        let n = piece.min(buf.remaining()).min(self.bytes.len() - self.at);
        buf.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

/// The stream never waits.
fn run<F: Future>(f: F) -> F::Output {
    f.now_or_never().unwrap()
}
fn framed(body: &[u8]) -> Vec<u8> {
    let mut f = vec![];
    frame::start(&mut f);
    f.extend_from_slice(body);
    frame::seal(&mut f, Kind::Batch, Attempt(1), ChannelId::default(), 0);
    f
}
fn reader(bytes: Vec<u8>, lengths: Vec<usize>) -> FrameReader<Pieces> {
    FrameReader::new(Pieces { bytes, at: 0, lengths })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bodies_come_out_whole_however_they_come_in(
        bodies in prop::collection::vec((any::<u8>(), prop_oneof![0usize..100, 0usize..5000, 100_000usize..700_000]), 1..12),
        lengths in prop::collection::vec(1usize..200_000, 0..60), keep: bool)
    {
        let bodies: Vec<Vec<u8>> = bodies.into_iter().map(|(b, n)| vec![b; n]).collect();
        let mut r = reader(bodies.iter().flat_map(|b| framed(b)).collect(), lengths);
        let mut kept = vec![];
        for want in &bodies {
            let (header, body) = run(r.next()).unwrap().unwrap();
            prop_assert_eq!(header.length as usize, want.len());
            prop_assert!(body == *want);
            if keep { kept.push(body); }
        }
        prop_assert!(run(r.next()).unwrap().is_none());
        for (body, want) in kept.iter().zip(&bodies) {
            prop_assert!(body == want, "a chunk was used again too early");
        }
    }
}

#[test]
fn a_claimed_length_allocates_only_what_comes() {
    let mut f = framed(&[]);
    f[28..32].copy_from_slice(&(frame::MAX_BATCH_BODY as u32).to_le_bytes());
    f.resize(300 << 10, 0);
    let mut r = reader(f, vec![]);
    let e = run(r.next()).unwrap_err();
    assert!(matches!(e, ReadError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof));
    assert!(r.chunk.capacity() <= 1 << 20, "{}", r.chunk.capacity());
}

#[test]
fn a_frame_that_comes_in_many_small_reads_is_copied_few_times() {
    // in the last one the frames end close before the end of a chunk
    for (frames, body, piece) in [(1, 8 << 20, 500), (1, 700_000, 100), (40, 250_000, 200), (40, CHUNK - 100, 50)] {
        let bytes: Vec<u8> = (0..frames).flat_map(|_| framed(&vec![7; body])).collect();
        let total = bytes.len();
        let mut r = reader(bytes, vec![piece; total / piece + 1]);
        let (mut got, mut copied) = (0, 0);
        loop {
            while r.buffered().unwrap().is_some() {
                got += 1;
            }
            let (at, there) = (r.chunk.as_ptr(), r.chunk.len());
            if !run(r.fill()).unwrap() {
                break;
            }
            if r.chunk.as_ptr() != at {
                copied += there;
            }
        }
        assert_eq!(got, frames);
        assert!(copied <= 2 * total, "{copied} bytes of {total} were copied: {frames} of {body} in pieces of {piece}");
    }
}

#[test]
fn chunks_are_used_again() {
    let body = vec![7; 20_000];
    let mut r = reader((0..1000).flat_map(|_| framed(&body)).collect(), vec![]);
    let (mut held, mut chunks) = (VecDeque::new(), std::collections::HashSet::new());
    for _ in 0..1000 {
        let (_, b) = run(r.next()).unwrap().unwrap();
        chunks.insert(b.as_ptr() as usize / CHUNK);
        held.push_back(b);
        if held.len() > 8 {
            held.pop_front();
        }
    }
    assert!(chunks.len() <= 10, "{} chunks for 20 MB", chunks.len());
}
