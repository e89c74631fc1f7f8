use super::*;
use proptest::prelude::*;

const CHANNEL: ChannelId = ChannelId { edge: 3, producer: 70_000, consumer: 1 };

fn frame(kind: Kind, attempt: u64, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut f = vec![1, 2, 3]; // a used buffer
    start(&mut f);
    f.extend_from_slice(body);
    seal(&mut f, kind, Attempt(attempt), CHANNEL, sequence);
    f
}

/// The frame with some header bytes replaced and, unless the checksum itself is the matter, a right checksum.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut f = frame(Kind::Batch, 1, 2, b"body");
    f[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&f[..40]), &f[HEADER_BYTES..]);
    f[40..44].copy_from_slice(&sum.to_le_bytes());
    f
}

proptest! {
    #[test]
    fn a_frame_comes_back_and_needs_all_of_its_bytes(kind in 1u8..=11, attempt: u64, sequence: u64, body in prop::collection::vec(any::<u8>(), 0..300), more in prop::collection::vec(any::<u8>(), 0..50)) {
        let kind = Kind::from_byte(kind).unwrap();
        let mut f = frame(kind, attempt, sequence, &body);
        let header = Header { kind, attempt: Attempt(attempt), channel: CHANNEL, sequence, length: body.len() as u32 };
        let total = f.len();
        for cut in 0..total {
            let need = if cut < HEADER_BYTES { HEADER_BYTES } else { total };
            prop_assert_eq!(decode(&f[..cut]), Ok(Decoded::Need(need)));
        }
        f.extend(more);
        prop_assert_eq!(decode(&f), Ok(Decoded::Frame(header, total)));
    }

    #[test]
    fn any_flipped_bit_is_noticed(body in prop::collection::vec(any::<u8>(), 0..300), bit: prop::sample::Index) {
        let good = frame(Kind::Batch, 1, 2, &body);
        let mut f = good.clone();
        let bit = bit.index(f.len() * 8);
        f[bit / 8] ^= 1 << (bit % 8);
        // a length that grew makes the frame wait for more; what comes then cannot match either
        let length = u32::from_le_bytes([f[28], f[29], f[30], f[31]]) as usize;
        f.resize(f.len().max(HEADER_BYTES + length.min(MAX_BATCH_BODY)), 0);
        prop_assert!(decode(&f).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), with_magic: bool) {
        let mut f = if with_magic { vec![b'W', b'E', b'I', b'R', VERSION] } else { vec![] };
        f.extend(bytes);
        let _ = decode(&f);
    }
}

#[test]
fn each_bad_field_is_named() {
    let cases = [
        (b"GET / HTTP/1.1\r\n".to_vec(), "no taskmanager"),
        (b"G".to_vec(), "no taskmanager"),
        (patched(4, &[9]), "format version 9"),
        (patched(5, &[0]), "unknown kind 0"),
        (patched(5, &[99]), "unknown kind 99"),
        (patched(6, &[1, 0]), "reserved field"),
        (patched(28, &u32::MAX.to_le_bytes()), "claims a body of 4294967295 bytes, the limit is 16777216"),
        // from the header alone, long before the body could be there
        (patched(28, &(MAX_BATCH_BODY as u32 + 1).to_le_bytes())[..HEADER_BYTES].to_vec(), "the limit is"),
        (
            {
                let mut f = frame(Kind::Barrier, 1, 2, b"");
                f[28..32].copy_from_slice(&(1u32 << 20).to_le_bytes());
                f
            },
            "the limit is 65536",
        ),
        (
            {
                let mut f = frame(Kind::Batch, 1, 2, b"body");
                f[46] ^= 4;
                f
            },
            "checksum of a Batch frame of 4 bytes",
        ),
    ];
    for (bytes, want) in cases {
        let e = decode(&bytes).unwrap_err().to_string();
        assert!(e.contains(want), "{e:?} does not say {want:?}");
    }
}

#[test]
fn frames_lie_back_to_back() {
    let mut bytes = frame(Kind::Open, 1, 0, b"");
    bytes.extend(frame(Kind::Batch, 1, 0, b"abc"));
    let Decoded::Frame(first, n) = decode(&bytes).unwrap() else { panic!() };
    let Decoded::Frame(second, m) = decode(&bytes[n..]).unwrap() else { panic!() };
    assert_eq!((first.kind, second.kind, n + m), (Kind::Open, Kind::Batch, bytes.len()));
}
