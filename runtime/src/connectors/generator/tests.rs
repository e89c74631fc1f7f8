use super::*;
use crate::connectors::testing::{deal, drive, source_cx};
use proptest::prelude::*;

#[test]
fn one_reader_gives_the_records_in_order_also_after_a_restore() {
    let g = Generator::new(5000, |i| i * 2);
    let mut r = g.reader(&source_cx(0, 1), g.enumerate(1).unwrap()).unwrap();
    let (mut got, end) = drive(&mut r, 2).unwrap();
    assert_eq!((got.len(), end), (2048, false));
    let splits = r.snapshot().unwrap();
    assert_eq!(splits.len() as u64, PIECES);
    let cx = source_cx(0, 1);
    let mut r = g.reader(&cx, splits).unwrap();
    let (rest, end) = drive(&mut r, 100).unwrap();
    got.extend(rest);
    assert!(end);
    assert_eq!(got, (0..5000).map(|i| i * 2).collect::<Vec<u64>>());
    assert_eq!(cx.metrics.records_in(), 5000 - 2048);
    assert!(r.snapshot().unwrap().is_empty());
}

#[test]
fn an_unbounded_generator_goes_on_and_rescales() {
    let g = Generator::unbounded(|i| i);
    let mut r = g.reader(&source_cx(0, 1), g.enumerate(1).unwrap()).unwrap();
    assert!(!drive(&mut r, 10).unwrap().1);
    let mut seen: Vec<u64> = Vec::new();
    for (i, splits) in deal(r.snapshot().unwrap(), 2).into_iter().enumerate() {
        seen.extend(drive(&mut g.reader(&source_cx(i as u32, 2), splits).unwrap(), 3).unwrap().0);
    }
    seen.sort_unstable();
    assert_eq!(seen, (10_240..10_240 + 6 * 1024).collect::<Vec<u64>>());
}

#[test]
fn the_rate_is_shared_by_the_subtasks_and_kept_without_sleeping() {
    let g = Generator::new(u64::MAX, |i| i).rate(10_000.0);
    let mut r = g.reader(&source_cx(0, 2), vec![g.enumerate(2).unwrap().remove(0)]).unwrap();
    let (mut out, kept) = crate::connectors::testing::output();
    let start = Instant::now();
    let (mut now, mut waits) = (start, 0);
    while now < start + std::time::Duration::from_secs(2) {
        if let ReadStatus::Wait(at) = r.read(&mut out, now).unwrap() {
            now = at.unwrap();
            waits += 1;
        }
    }
    out.emit();
    let n = kept.lock().unwrap().len();
    assert!((9_900..=10_050).contains(&n), "{n}");
    assert!(waits > 150, "{waits}");
}

#[test]
fn foreign_splits_and_senseless_rates_are_refused() {
    let g = Generator::new(1, |i| i);
    let e = g.reader(&source_cx(0, 1), vec![b"{\"path\":\"x\"}".to_vec()]).err().unwrap();
    assert!(e.message.contains("not one of a generator"), "{e}");
    assert!(g.reader(&source_cx(0, 1), vec![b"{\"step\":0,\"end\":5,\"next\":0}".to_vec()]).is_err());
    assert!(g.clone().rate(0.0).enumerate(1).is_err());
    assert_eq!(Generator::new(0, |i| i).enumerate(4).unwrap().len(), 0);
    assert!(drive(&mut g.reader(&source_cx(3, 4), Vec::new()).unwrap(), 1).unwrap().1);
}

#[test]
fn randomness_is_pinned_and_spread() {
    assert_eq!(random(1, 0), random(1, 0));
    assert_ne!(random(1, 0), random(2, 0));
    let ones: u32 = (0..1000).map(|i| random(7, i).count_ones()).sum();
    assert!((31_000..33_000).contains(&ones), "{ones}");
}

proptest! {
    #[test]
    fn every_index_comes_exactly_once_over_any_rescales(
        count in 0u64..40_000,
        steps in prop::collection::vec((1usize..7, 0usize..8), 1..6),
    ) {
        let g = Generator::new(count, |i| i);
        let mut splits = g.enumerate(steps[0].0 as u32).unwrap();
        let mut seen: Vec<u64> = Vec::new();
        for (p, calls) in steps {
            let mut next = Vec::new();
            for (i, hand) in deal(std::mem::take(&mut splits), p).into_iter().enumerate() {
                let mut r = g.reader(&source_cx(i as u32, p as u32), hand).unwrap();
                seen.extend(drive(&mut r, calls).unwrap().0);
                next.extend(r.snapshot().unwrap());
            }
            splits = next;
        }
        let mut r = g.reader(&source_cx(0, 1), splits).unwrap();
        let (rest, end) = drive(&mut r, 1000).unwrap();
        prop_assert!(end);
        seen.extend(rest);
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..count).collect::<Vec<u64>>());
    }
}
