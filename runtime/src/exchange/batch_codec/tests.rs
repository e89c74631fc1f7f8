use super::*;
use crate::data::{Key, Str};
use proptest::prelude::*;

type Order = (Str, i64);
/// All kinds of columns, nested ones among them.
type Mixed = ((Str, Option<String>), (u8, i16, u32, u64), (bool, char, f64), Vec<Option<i8>>, Option<(i32, Str)>);

fn frames<T: Data>(batch: &Batch<T>) -> Vec<Vec<u8>> {
    frames_of(&mut Encoder::new(false), batch)
}

fn frames_of<T: Data>(encoder: &mut Encoder, batch: &Batch<T>) -> Vec<Vec<u8>> {
    let (mut all, mut from) = (vec![], 0);
    while from < batch.len() {
        let mut out = vec![];
        let next = encoder.encode(batch, from, &mut out).unwrap();
        assert!(next > from && out.len() <= MAX_BATCH_BODY);
        from = next;
        all.push(out);
    }
    all
}

/// All frames decoded and put together, through one reused batch.
fn joined<T: Data>(frames: &[Vec<u8>], rehash: Option<&Rehash<T>>) -> Batch<T> {
    let (mut all, mut reused) = (Batch::default(), Batch::default());
    for f in frames {
        decode(f, &mut reused, rehash).unwrap();
        all.records.append(&mut reused.records);
        all.hashes.append(&mut reused.hashes);
        all.timestamps.append(&mut reused.timestamps);
        reused.clear();
    }
    all
}

fn batches<T: Clone + std::fmt::Debug>(record: impl Strategy<Value = T>) -> impl Strategy<Value = Batch<T>> {
    let row = (record, any::<u64>(), any::<i64>());
    (prop::collection::vec(row, 1..60), any::<bool>(), any::<bool>()).prop_map(|(rows, h, t)| Batch {
        records: rows.iter().map(|r| r.0.clone()).collect(),
        hashes: rows.iter().filter(|_| h).map(|r| r.1).collect(),
        timestamps: rows.iter().filter(|_| t).map(|r| r.2).collect(),
    })
}

fn orders() -> impl Strategy<Value = Batch<Order>> {
    batches((".{0,40}", prop_oneof![any::<i64>(), -3i64..300]).prop_map(|(s, n)| (Str::from(s), n)))
}

fn mixed() -> impl Strategy<Value = Batch<Mixed>> {
    let strings = (".{0,30}".prop_map(Str::from), prop::option::of(".{0,5}"));
    let list = prop::collection::vec(prop::option::of(any::<i8>()), 0..4);
    let pair = prop::option::of((any::<i32>(), ".{0,3}".prop_map(Str::from)));
    batches((strings, any::<(u8, i16, u32, u64)>(), (any::<bool>(), any::<char>(), -1e9..1e9), list, pair))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_batch_comes_back(batch in orders()) {
        let frames = frames(&batch);
        prop_assert_eq!(frames.len(), 1);
        let back: Batch<Order> = joined(&frames, None);
        prop_assert_eq!((back.records, back.hashes, back.timestamps), (batch.records, batch.hashes, batch.timestamps));
    }

    #[test]
    fn columns_of_all_kinds_come_back(batch in mixed()) {
        let back: Batch<Mixed> = joined(&frames(&batch), None);
        prop_assert_eq!((back.records, back.hashes, back.timestamps), (batch.records, batch.hashes, batch.timestamps));
    }

    #[test]
    fn a_cut_or_longer_body_is_refused(batch in orders(), cut: prop::sample::Index) {
        let mut body = frames(&batch).remove(0);
        let mut into = Batch::<Order>::default();
        prop_assert!(decode(&body[..cut.index(body.len())], &mut into, None).is_err());
        prop_assert!(into.is_empty() && into.hashes.is_empty());
        body.push(0);
        prop_assert!(decode(&body, &mut into, None).is_err());
    }

    #[test]
    fn a_cut_body_of_any_kind_is_refused(batch in mixed(), cut: prop::sample::Index) {
        let mut body = frames(&batch).remove(0);
        let mut into = Batch::<Mixed>::default();
        prop_assert!(decode(&body[..cut.index(body.len())], &mut into, None).is_err());
        body.push(0);
        prop_assert!(decode(&body, &mut into, None).is_err());
    }

    #[test]
    fn damage_is_refused_or_decoded(batch in mixed(), at: prop::sample::Index, byte: u8) {
        let mut body = frames(&batch).remove(0);
        let at = at.index(body.len());
        body[at] = byte;
        let _ = decode(&body, &mut Batch::<Mixed>::default(), None);
    }

    #[test]
    fn garbage_is_refused_or_decoded(body in prop::collection::vec(any::<u8>(), 0..200), count in 0u32..300, flags in 0u8..9) {
        let _ = decode(&body, &mut Batch::<Order>::default(), None);
        let mut claimed = count.to_le_bytes().to_vec();
        claimed.push(flags);
        claimed.extend(body);
        let _ = decode(&claimed, &mut Batch::<Order>::default(), None);
        let _ = decode(&claimed, &mut Batch::<Mixed>::default(), None);
        let _ = decode(&claimed, &mut Batch::<(u8, bool)>::default(), None);
    }
}

#[test]
fn values_close_to_each_other_are_short() {
    let batch = Batch {
        records: (0..1000).map(|i| (format_key(i), 1_000_000_000_000 + i % 64)).collect(),
        hashes: vec![],
        timestamps: (0..1000).map(|i| 1_800_000_000_000 + i).collect(),
    };
    let all = frames(&batch);
    // a byte for the length, nine for the text, one for the number, two for the time
    assert!(all.len() == 1 && all[0].len() < 13 * 1000 + 100, "{}", all[0].len());
    assert_eq!(joined::<Order>(&all, None).records, batch.records);
}

fn format_key(i: i64) -> Str {
    Str::from(format!("video-{i:03}"))
}

#[test]
fn hashes_of_short_records_are_computed_by_the_consumer() {
    let rehash: Rehash<Order> = Arc::new(|records, hashes| hashes.extend(records.iter().map(|r| r.0.key_hash())));
    let batch = |key: &dyn Fn(i64) -> Str| {
        let records: Vec<Order> = (0..100).map(|i| (key(i), i)).collect();
        let hashes: Vec<u64> = records.iter().map(|r| r.0.key_hash()).collect();
        Batch { records, hashes, timestamps: vec![] }
    };
    let (short, long) = (batch(&format_key), batch(&|i| Str::from(format!("{i:0100}"))));
    for (batch, computed) in [(short, true), (long, false)] {
        let with = frames(&batch);
        let without = frames_of(&mut Encoder::new(true), &batch);
        assert_eq!(with[0].len() - without[0].len(), if computed { 800 } else { 0 });
        for frames in [&with, &without] {
            let back = joined(frames, Some(&rehash));
            assert_eq!((&back.records, &back.hashes), (&batch.records, &batch.hashes));
        }
        let refused = decode(&without[0], &mut Batch::<Order>::default(), None);
        assert_eq!(refused.is_err(), computed, "a consumer that cannot compute them");
    }
}

#[test]
fn a_string_cannot_end_within_a_character() {
    let batch = Batch { records: vec![Str::from("aé"), Str::from("b")], ..Batch::default() };
    let mut body = frames(&batch).remove(0);
    // count, flags, width and least of the lengths, then the lengths less the least: 3 and 1
    assert_eq!(&body[PREFIX + 9..PREFIX + 11], &[2, 0]);
    (body[PREFIX + 9], body[PREFIX + 10]) = (1, 1);
    let e = decode(&body, &mut Batch::<Str>::default(), None).unwrap_err();
    assert!(e.to_string().contains("not UTF-8"), "{e}");
    body[PREFIX + 10] = 2;
    let e = decode(&body, &mut Batch::<Str>::default(), None).unwrap_err();
    assert!(e.to_string().contains("as long together"), "{e}");
}

#[test]
fn long_batches_are_split_at_records() {
    let batch = Batch {
        records: (0..100u8).map(|i| char::from(i).to_string().repeat(10_000)).collect(),
        hashes: (0..100).collect(),
        timestamps: (0..100).collect(),
    };
    let mut encoder = Encoder::new(false);
    for _ in 0..2 {
        let frames = frames_of(&mut encoder, &batch);
        assert!((8..=20).contains(&frames.len()), "{}", frames.len());
        assert!(frames.iter().all(|f| f.len() <= SPLIT_BYTES));
        let back: Batch<String> = joined(&frames, None);
        assert_eq!(
            (back.records, back.hashes, back.timestamps),
            (batch.records.clone(), batch.hashes.clone(), batch.timestamps.clone())
        );
    }
}

#[test]
fn a_record_goes_up_to_the_frame_limit_and_no_further() {
    let mut batch = Batch { records: vec!["a".repeat(100), "b".repeat(MAX_BATCH_BODY - 40)], ..Batch::default() };
    let all = frames(&batch);
    assert_eq!(all.len(), 2, "a long record travels alone");
    assert_eq!(joined::<String>(&all, None).records, batch.records);
    batch.records[1].push_str("more than fits, by a little or by a lot");
    let (mut out, mut encoder) = (vec![], Encoder::new(false));
    assert_eq!(encoder.encode(&batch, 0, &mut out).unwrap(), 1);
    let before = out.len();
    let e = encoder.encode(&batch, 1, &mut out).unwrap_err();
    assert!(e.code == ErrorCode::BadRecord && e.message.contains("16777"), "{e}");
    assert_eq!(out.len(), before);
}

#[test]
fn records_of_no_bytes_are_counted() {
    let batch = Batch { records: vec![(); MAX_RECORDS + 5], ..Batch::default() };
    let all = frames(&batch);
    assert_eq!((all.len(), joined::<()>(&all, None).len()), (2, MAX_RECORDS + 5));
    let mut claimed = u32::MAX.to_le_bytes().to_vec();
    claimed.push(0);
    assert!(decode(&claimed, &mut Batch::<()>::default(), None).is_err());
}

#[test]
fn columns_of_another_length_are_a_fault() {
    let batch = Batch { records: vec![1u8, 2], hashes: vec![1], timestamps: vec![] };
    let e = Encoder::new(false).encode(&batch, 0, &mut vec![]).unwrap_err();
    assert!(e.message.contains("2 records has 1 hashes"));
}
