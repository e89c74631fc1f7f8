//! Windows over two streams: joins, sessions, and co-groups that fire again for late records.
use super::campaign::{State, campaign};
use super::functions::verdict::{self, same};
use super::functions::{Rec, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use weir::connectors::{Collect, Generator, random};
use weir::job::WatermarkStrategy;
use weir::prelude::*;

const RECORDS: u64 = 20_000;
const KEYS: u64 = 200;
const GAP: i64 = 25;
const SIZE: i64 = 50;
const SLIDE: i64 = 25;
const LATE: (OutputTag<Rec>, OutputTag<Rec>) = (OutputTag::new("late-first"), OutputTag::new("late-second"));

/// Those of the first stream have even numbers, those of the second odd ones. Ten a ms in each stream, most of them up to 120 ms
/// out of order, some a second: those are late.
fn record(number: u64) -> Rec {
    let r = random(17, number);
    let delay = if r.is_multiple_of(50) { (r >> 8) % 1_000 } else { (r >> 8) % 120 };
    (r % KEYS, number, (number / 20) as i64 - delay as i64)
}
fn all() -> impl Iterator<Item = Rec> {
    (0..2 * RECORDS).map(record)
}

fn row(key: &u64, window: &TimeWindow, first: &[Rec], second: &[Rec]) -> Row {
    let mut numbers: Vec<u64> = first.iter().chain(second).map(|r| r.1).collect();
    numbers.sort_unstable();
    (*key, window.start, window.end, numbers)
}

#[derive(Default, Clone)]
struct Sinks {
    pairs: Collect<(u64, u64, i64)>,
    groups: Collect<Row>,
    late: Collect<Rec>,
    late_too: Collect<Rec>,
    sessions: Collect<Row>,
}

fn ms(n: i64) -> Duration {
    Duration::from_millis(n as u64)
}

fn declare(job: &mut Job, sinks: &Sinks) {
    let first = job.source("first", Generator::new(RECORDS, |i| record(2 * i)).rate(200_000.0));
    let second = job.source("second", Generator::new(RECORDS, |i| record(2 * i + 1)).rate(200_000.0));
    let keyed = |stream: &Stream<Rec>, bound| {
        let strategy = WatermarkStrategy::bounded_out_of_orderness(ms(bound)).timestamps(|r: &Rec| r.2);
        stream.watermarks(strategy).key_by(|r| &r.0)
    };
    // nothing is late here
    let (a, b) = (keyed(&first, 1_100), keyed(&second, 1_100));
    a.join(&b)
        .window(Sliding::of(ms(SIZE), ms(SLIDE)))
        .apply("pairs", |a: &Rec, b: &Rec, out| out.push((a.1, b.1, out.timestamp().unwrap_or(0))))
        .sink("pairs-out", sinks.pairs.clone());
    a.co_group(&b)
        .window(Session::with_gap(ms(GAP)))
        .apply("sessions", |key, window, first, second, out| out.push(row(key, window, first, second)))
        .sink("sessions-out", sinks.sessions.clone());
    let groups = keyed(&first, 60)
        .co_group(&keyed(&second, 60))
        .window(Tumbling::of(ms(100)))
        .allowed_lateness(ms(150))
        .late_output(LATE.0, LATE.1)
        .apply("groups", |key, window, first, second, out| out.push(row(key, window, first, second)));
    groups.side_output(LATE.0).sink("late-first", sinks.late.clone());
    groups.side_output(LATE.1).sink("late-second", sinks.late_too.clone());
    groups.sink("groups-out", sinks.groups.clone());
}

struct Expected {
    pairs: Vec<(u64, u64, i64)>,
    sessions: BTreeSet<Row>,
}

impl Expected {
    fn naive() -> Self {
        let mut windows: BTreeMap<(u64, i64), [Vec<u64>; 2]> = BTreeMap::new();
        for (key, number, time) in all() {
            let last = time.div_euclid(SLIDE) * SLIDE;
            for start in (0..SIZE / SLIDE).map(|i| last - i * SLIDE) {
                windows.entry((key, start)).or_default()[(number % 2) as usize].push(number);
            }
        }
        let join = |((_, start), [first, second]): ((u64, i64), [Vec<u64>; 2])| {
            let pairs = first.into_iter().flat_map(move |a| second.clone().into_iter().map(move |b| (a, b)));
            pairs.map(move |(a, b)| (a, b, start + SIZE - 1))
        };
        let mut pairs: Vec<_> = windows.into_iter().flat_map(join).collect();
        pairs.sort_unstable();
        Self { pairs, sessions: verdict::sessions(all(), GAP) }
    }

    fn check(&self, sinks: &Sinks) -> anyhow::Result<()> {
        let mut pairs = sinks.pairs.records();
        pairs.sort_unstable();
        anyhow::ensure!(pairs == self.pairs, "{} pairs of {}", pairs.len(), self.pairs.len());
        same("sessions", sinks.sessions.records(), &self.sessions)?;
        let (late, late_too) = (sinks.late.records(), sinks.late_too.records());
        let sides = late.iter().all(|r| r.1 % 2 == 0) && late_too.iter().all(|r| r.1 % 2 == 1);
        anyhow::ensure!(sides, "late records of the other side");
        // whether any are late depends on which stream is behind, for event time is that of both: the property tests have late
        // ones for certain
        let late = late.iter().chain(&late_too).map(|r| r.1);
        verdict::windows(sinks.groups.records(), 100, late, record, 2 * RECORDS)
    }
}

fn joins(state: State) {
    let expected = Expected::naive();
    campaign(state, 4, declare, |seed, sinks| {
        expected.check(&sinks).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    });
}

#[test]
fn windows_over_two_streams_have_each_record_once_whatever_was_killed() {
    joins(State::InMemory);
}

#[cfg(feature = "rocksdb")]
#[test]
fn windows_over_two_streams_on_disk_have_each_record_once() {
    joins(State::OnDisk);
}
