//! The stage around an operator that has more to do than there is room for.
use super::*;
use crate::checkpoint::handles::{Barrier, SnapshotKind};
use crate::job::firing::AT_ONCE;
use crate::job::firing::tests::{Bells, numbers, own};
use crate::job::timers::Timers;
use crate::state::snapshot::SnapshotParts;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use weir_api::ids::{Attempt, CheckpointId};

/// What comes out, and whether there is room for more.
#[derive(Clone, Default)]
struct End(Arc<(Mutex<Log>, AtomicBool)>);

#[derive(Default)]
struct Log {
    records: Vec<u64>,
    /// How many records came before each.
    signals: Vec<(&'static str, usize)>,
}

impl Stage<u64> for End {
    fn process(&mut self, batch: &mut Batch<u64>) -> Result<()> {
        self.0.0.lock().unwrap().records.append(&mut batch.records);
        batch.clear();
        Ok(())
    }
    fn signal(&mut self, signal: &mut Signal<'_>) -> Result<()> {
        let mut log = self.0.0.lock().unwrap();
        let n = log.records.len();
        match signal {
            Signal::Watermark(_) => log.signals.push(("watermark", n)),
            Signal::Barrier { .. } => log.signals.push(("barrier", n)),
            _ => {}
        }
        Ok(())
    }
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        if self.0.1.load(SeqCst) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

const N: u64 = 100_000;

fn stage() -> (Box<dyn Stage<u64>>, End) {
    let end = End::default();
    let mut operator = Function::new(own(), Bells(Timers::new("timers")));
    let mut stage = KeyedStage {
        name: "bells".into(),
        ttl: TtlClock::start(&Clock::manual(0), operator.states()),
        operator,
        out: Output::new(vec![Box::new(end.clone()) as Box<dyn Stage<u64>>]),
        ended: Ended::default(),
        stored: false,
        held: None,
        busy: false,
        unflushed: false,
    };
    stage.process(&mut numbers(N)).unwrap();
    (Box::new(stage), end)
}

#[test]
fn timers_ask_for_room_and_what_follows_comes_behind_all_of_them() {
    let cx = &mut Context::from_waker(Waker::noop());
    for event in [true, false] {
        let (mut stage, end) = stage();
        let due = N as i64;
        stage.signal(&mut if event { Signal::Watermark(due) } else { Signal::ProcessingTime(due) }).unwrap();
        // what lies in the output is handed on with a batch or a signal
        let emitted = |stage: &mut Box<dyn Stage<u64>>| {
            stage.signal(&mut Signal::Flush).unwrap();
            end.0.0.lock().unwrap().records.len()
        };
        assert_eq!(emitted(&mut stage), AT_ONCE);
        assert!(stage.poll_ready(cx).is_pending());
        assert_eq!(emitted(&mut stage), AT_ONCE, "there is no room");
        end.0.1.store(true, SeqCst);
        let mut before = AT_ONCE;
        while stage.poll_ready(cx).is_pending() {
            assert_eq!(stage.next_timer(), None, "the clock would have it fire all at once");
            let now = emitted(&mut stage);
            assert!(now - before <= AT_ONCE);
            before = now;
        }
        assert_eq!(stage.next_timer(), Some(i64::MIN), "to have the last ones flushed");
        emitted(&mut stage);
        assert_ne!(stage.next_timer(), Some(i64::MIN));
        let mut log = end.0.0.lock().unwrap();
        assert_eq!(log.signals, if event { vec![("watermark", log.records.len())] } else { vec![] });
        // one timer registers another for a time that has one
        log.records.dedup();
        assert!(log.records == (0..N).collect::<Vec<_>>());
    }
}

#[test]
fn a_barrier_that_cannot_wait_comes_behind_all_timers_and_their_watermark() {
    let (mut stage, end) = stage();
    stage.signal(&mut Signal::Watermark(N as i64)).unwrap();
    let barrier = Barrier {
        id: CheckpointId(1),
        attempt: Attempt(1),
        kind: SnapshotKind::Checkpoint,
        directory: "chk-1".into(),
        aligned: true,
    };
    let mut parts = SnapshotParts::default();
    stage.signal(&mut Signal::Barrier { barrier, parts: &mut parts }).unwrap();
    let log = end.0.0.lock().unwrap();
    let n = log.records.len();
    assert!(n as u64 >= N);
    assert_eq!(log.signals, [("watermark", n), ("barrier", n)]);
}
