use super::*;
use crate::data::Str;
use proptest::prelude::*;

type Order = (Str, i64);

fn frames<T: Data>(batch: &Batch<T>) -> Vec<Vec<u8>> {
    let (mut all, mut from) = (vec![], 0);
    while from < batch.len() {
        let mut out = vec![];
        let next = encode(batch, from, &mut out).unwrap();
        assert!(next > from && out.len() <= MAX_BATCH_BODY);
        from = next;
        all.push(out);
    }
    all
}

/// All frames decoded and put together, through one reused batch.
fn joined<T: Data>(frames: &[Vec<u8>]) -> Batch<T> {
    let (mut all, mut reused) = (Batch::default(), Batch::default());
    for f in frames {
        decode(f, &mut reused).unwrap();
        all.records.append(&mut reused.records);
        all.hashes.append(&mut reused.hashes);
        all.timestamps.append(&mut reused.timestamps);
        reused.clear();
    }
    all
}

fn orders() -> impl Strategy<Value = Batch<Order>> {
    let record = (".{0,40}", any::<i64>(), any::<u64>(), any::<i64>());
    (prop::collection::vec(record, 1..60), any::<bool>(), any::<bool>()).prop_map(|(rows, h, t)| Batch {
        records: rows.iter().map(|r| (Str::from(&r.0), r.1)).collect(),
        hashes: rows.iter().filter(|_| h).map(|r| r.2).collect(),
        timestamps: rows.iter().filter(|_| t).map(|r| r.3).collect(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn a_batch_comes_back(batch in orders()) {
        let frames = frames(&batch);
        prop_assert_eq!(frames.len(), 1);
        let back: Batch<Order> = joined(&frames);
        prop_assert_eq!((back.records, back.hashes, back.timestamps), (batch.records, batch.hashes, batch.timestamps));
    }

    #[test]
    fn a_cut_or_longer_body_is_refused(batch in orders(), cut: prop::sample::Index) {
        let mut body = frames(&batch).remove(0);
        let mut into = Batch::<Order>::default();
        prop_assert!(decode(&body[..cut.index(body.len())], &mut into).is_err());
        prop_assert!(into.is_empty() && into.hashes.is_empty());
        body.push(0);
        prop_assert!(decode(&body, &mut into).is_err());
    }

    #[test]
    fn garbage_is_refused_or_decoded(body in prop::collection::vec(any::<u8>(), 0..200), count in 0u32..300, flags in 0u8..5) {
        let _ = decode(&body, &mut Batch::<Order>::default());
        let mut claimed = count.to_le_bytes().to_vec();
        claimed.push(flags);
        claimed.extend(body);
        let _ = decode(&claimed, &mut Batch::<Order>::default());
        let _ = decode(&claimed, &mut Batch::<(u8, bool)>::default());
    }
}

#[test]
fn long_batches_are_split_at_records() {
    let batch = Batch {
        records: (0..100u8).map(|i| char::from(i).to_string().repeat(10_000)).collect(),
        hashes: (0..100).collect(),
        timestamps: (0..100).collect(),
    };
    let frames = frames(&batch);
    assert!(frames.len() >= 8, "{}", frames.len());
    assert!(frames.iter().all(|f| f.len() < SPLIT_BYTES + 20_000));
    let back: Batch<String> = joined(&frames);
    assert_eq!((back.records, back.hashes, back.timestamps), (batch.records, batch.hashes, batch.timestamps));
}

#[test]
fn a_record_goes_up_to_the_frame_limit_and_no_further() {
    let mut batch = Batch { records: vec!["a".repeat(100), "b".repeat(MAX_BATCH_BODY - 20)], ..Batch::default() };
    let all = frames(&batch);
    assert_eq!(all.len(), 2, "a long record travels alone");
    assert_eq!(joined::<String>(&all).records, batch.records);
    batch.records[1].push_str("more than fits");
    let mut out = vec![];
    assert_eq!(encode(&batch, 0, &mut out).unwrap(), 1);
    let before = out.len();
    let e = encode(&batch, 1, &mut out).unwrap_err();
    assert!(e.code == ErrorCode::BadRecord && e.message.contains("16777"), "{e}");
    assert_eq!(out.len(), before);
}

#[test]
fn records_of_no_bytes_are_counted() {
    let batch = Batch { records: vec![(); MAX_RECORDS + 5], ..Batch::default() };
    let all = frames(&batch);
    assert_eq!((all.len(), joined::<()>(&all).len()), (2, MAX_RECORDS + 5));
    let mut claimed = u32::MAX.to_le_bytes().to_vec();
    claimed.push(0);
    assert!(decode(&claimed, &mut Batch::<()>::default()).is_err());
}

#[test]
fn columns_of_another_length_are_a_fault() {
    let batch = Batch { records: vec![1u8, 2], hashes: vec![1], timestamps: vec![] };
    assert!(encode(&batch, 0, &mut vec![]).unwrap_err().message.contains("2 records has 1 hashes"));
}
