use super::*;
use proptest::prelude::*;

fn full(batches: u32) -> SendQueue<u32> {
    let mut q = SendQueue::default();
    q.grant(Returns::new(batches).first()).unwrap();
    q
}
fn drain(q: &mut SendQueue<u32>) -> Vec<u32> {
    std::iter::from_fn(|| q.pop().map(|(_, f)| f)).collect()
}

#[test]
fn nothing_leaves_before_the_first_credit() {
    let mut q = SendQueue::default();
    assert!(!q.is_ready());
    q.push(Kind::Barrier, 1);
    q.push(Kind::Batch, 2);
    assert!(drain(&mut q).is_empty());
    q.grant(Returns::new(1).first()).unwrap();
    assert_eq!(drain(&mut q), [1, 2]);
}

#[test]
fn a_barrier_leaves_without_credit_for_batches() {
    let mut q = full(2);
    for i in 0..2 {
        assert!(q.is_ready());
        q.push(Kind::Batch, i);
        drain(&mut q);
    }
    assert!(!q.is_ready());
    q.push(Kind::Barrier, 9);
    assert_eq!(drain(&mut q), [9]);
    // but not past a batch that was sent before it
    q.push(Kind::Batch, 10);
    q.push(Kind::Barrier, 11);
    assert!(drain(&mut q).is_empty());
    q.grant(Grant { batches: 1, control: 0 }).unwrap();
    assert_eq!(drain(&mut q), [10, 11]);
    assert!(!q.is_ready());
}

#[test]
fn watermarks_leave_credit_for_barriers_and_do_not_pile_up() {
    let mut q = full(1);
    let mut left = 0;
    for i in 0..1000 {
        q.push(Kind::Watermark, i);
        left += drain(&mut q).len() as u32;
    }
    assert_eq!((left, q.waiting()), (CONTROL_WINDOW - RESERVED, 1));
    q.push(Kind::Barrier, 5000);
    assert_eq!(drain(&mut q), [999, 5000], "the newest watermark, then the barrier");
}

#[test]
fn frames_beyond_the_credit_are_refused() {
    let mut a = Arrivals::default();
    assert!(!a.arrived(Kind::Batch) && !a.arrived(Kind::Barrier));
    a.grant(Grant { batches: 1, control: 1 });
    assert!(a.arrived(Kind::Batch) && !a.arrived(Kind::Batch));
    assert!(a.arrived(Kind::Watermark) && !a.arrived(Kind::Barrier));
    assert!(a.arrived(Kind::Close));
}

#[test]
fn a_grant_of_a_stranger_cannot_overflow() {
    let mut q = full(4);
    for bad in [Grant { batches: u32::MAX, control: 0 }, Grant { batches: 0, control: 1 }] {
        assert!(q.grant(bad).is_err());
    }
    assert!(Grant::decode(&[0; 7]).is_err());
}

/// Takes batches of one length; returns what was granted for them, less than a window of which may still be owed.
fn granted(returns: &mut Returns, batches: u32, bytes: usize) -> i64 {
    (0..batches).filter_map(|_| returns.taken(Kind::Batch, bytes)).map(|g| i64::from(g.batches)).sum()
}

#[test]
fn short_batches_get_a_longer_window_until_they_are_long_again() {
    let mut returns = Returns::new(8);
    let mut under_way = i64::from(returns.first().batches);
    for (bytes, window) in [(1 << 20, 8), (16 << 10, 16), (100, 32), (10 << 10, 25), (128 << 10, 8), (0, 32)] {
        under_way += granted(&mut returns, 1000, bytes) - 1000;
        assert!(under_way <= window && under_way > window / 2, "{under_way} batches of {bytes} bytes, not {window}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Send(Kind),
    Take,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Both sides together, with grants that arrive at once: order is kept, credit is never exceeded, at most the window
    /// lies unread, and when the consumer has read everything, everything was sent.
    #[test]
    fn producer_and_consumer_agree(window in 1u32..9, bytes in prop::collection::vec(0usize..1_000_000, 1..9), steps in prop::collection::vec(prop_oneof![
        3 => Just(Step::Send(Kind::Batch)), 1 => Just(Step::Send(Kind::Watermark)), 1 => Just(Step::Send(Kind::Barrier)), 4 => Just(Step::Take)], 0..400)) {
        let (mut q, mut arrivals, mut returns) = (full(window), Arrivals::default(), Returns::new(window));
        arrivals.grant(returns.first());
        let (mut unread, mut sent, mut got) = (VecDeque::new(), vec![], vec![]);
        let takes = vec![Step::Take; 500];
        for (i, step) in steps.into_iter().chain(takes).enumerate() {
            match step {
                Step::Send(kind) => {
                    if let Some(replaced) = q.push(kind, i as u32) {
                        sent.retain(|&x| x != replaced);
                    }
                    sent.push(i as u32);
                }
                Step::Take => if let Some((kind, f)) = unread.pop_front() {
                    got.push(f);
                    if let Some(g) = returns.taken(kind, bytes[i % bytes.len()]) {
                        arrivals.grant(g);
                        q.grant(g).unwrap();
                    }
                },
            }
            while let Some((kind, f)) = q.pop() {
                prop_assert!(arrivals.arrived(kind));
                unread.push_back((kind, f));
            }
            prop_assert!(unread.iter().filter(|(k, _)| *k == Kind::Batch).count() <= (window * MOST_WINDOWS) as usize);
            prop_assert!(unread.iter().filter(|(k, _)| *k != Kind::Batch).count() <= CONTROL_WINDOW as usize);
        }
        prop_assert_eq!(got, sent);
        prop_assert_eq!(q.waiting(), 0);
        prop_assert!(q.is_ready());
    }
}
