//! Whether results of the functions job are exact: every record in each of them once, where it belongs.
use super::input::{self, Rec, Row, event, order, payment};
use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// What the job has committed, in any order.
#[derive(Default)]
pub struct Results {
    pub windows: Vec<Row>,
    pub late: Vec<Rec>,
    pub sessions: Vec<Row>,
    pub paid: Vec<u64>,
    pub unpaid: Vec<(u64, i64)>,
    pub joined: Vec<(u64, u64)>,
    pub called: Vec<u64>,
    pub ruled: Vec<(u64, u64)>,
    pub held: Vec<u64>,
}

impl Results {
    /// An error that says what is wrong with the results of so many orders; else the number of rows.
    pub fn check(self, records: u64) -> Result<u64> {
        let all = [self.windows.len(), self.late.len(), self.sessions.len(), self.joined.len()];
        let all = all.iter().sum::<usize>() as u64 + 4 * records;
        let size = input::WINDOW[0] as i64;
        ensure!(self.late.iter().all(|r| event(r.1) == *r), "late: an event that the input does not have");
        windows(self.windows, size, self.late.iter().map(|r| r.1), event, records)?;
        same("sessions", self.sessions, &sessions((0..records).map(event), input::GAP as i64))?;
        ensure!(self.unpaid.iter().all(|(n, time)| order(*n).2 == *time), "unpaid: an order has another time");
        ensure!(self.paid.iter().all(|n| n % 2 == 0), "paid: an order without a payment is there");
        let unpaid = self.unpaid.into_iter().map(|u| u.0);
        each_once("paid and unpaid", self.paid.into_iter().chain(unpaid), records)?;
        same("joined", self.joined, &joined(records))?;
        each_once("called", self.called, records)?;
        each_once("held", self.held, records)?;
        let other = self.ruled.iter().find(|(_, rules)| *rules != input::RULES);
        ensure!(other.is_none(), "ruled: {other:?} instead of {} rules", input::RULES);
        each_once("ruled", self.ruled.into_iter().map(|r| r.0), records)?;
        Ok(all)
    }
}

/// Each number below `count` once.
fn each_once(what: &str, numbers: impl IntoIterator<Item = u64>, count: u64) -> Result<()> {
    let mut numbers: Vec<u64> = numbers.into_iter().collect();
    numbers.sort_unstable();
    if let Some(twice) = numbers.windows(2).find(|w| w[0] == w[1]) {
        bail!("{what}: number {} is there twice", twice[0]);
    }
    let missing = (0..count).zip(numbers.iter().map(Some).chain(std::iter::repeat(None))).find(|(n, m)| Some(n) != *m);
    match missing {
        None if numbers.len() as u64 == count => Ok(()),
        None => bail!("{what}: {} numbers instead of {count}", numbers.len()),
        Some((n, _)) => bail!("{what}: number {n} is missing; {} of {count} are there", numbers.len()),
    }
}

/// What the input makes, each row once.
pub fn same<T: Ord>(what: &str, found: Vec<T>, expected: &BTreeSet<T>) -> Result<()> {
    ensure!(found.len() == expected.len(), "{what}: {} instead of {}", found.len(), expected.len());
    ensure!(BTreeSet::from_iter(found) == *expected, "{what}: other ones than the input makes");
    Ok(())
}

/// Tumbling windows of this size, over records that `event` tells by their numbers. A window's rows grow from firing to firing;
/// its last one and the late ones hold each of `count` records once.
pub fn windows(
    mut rows: Vec<Row>,
    size: i64,
    late: impl IntoIterator<Item = u64>,
    event: impl Fn(u64) -> Rec,
    count: u64,
) -> Result<()> {
    rows.sort_by_key(|r| (r.0, r.1, r.3.len()));
    let mut last: BTreeMap<(u64, i64), Vec<u64>> = BTreeMap::new();
    for (key, start, end, numbers) in rows {
        ensure!(end - start == size, "windows: {start} to {end}");
        for &n in &numbers {
            let (k, _, time) = event(n);
            ensure!(k == key && (start..end).contains(&time), "windows: {n} is in window {start} of key {key}");
        }
        if let Some(before) = last.get(&(key, start)) {
            let grown = before.len() < numbers.len() && before.iter().all(|n| numbers.binary_search(n).is_ok());
            ensure!(grown, "windows: key {key}, window {start} fired with {before:?}, then with {numbers:?}");
        }
        last.insert((key, start), numbers);
    }
    each_once("windows and late", last.into_values().flatten().chain(late), count)
}

/// The sessions of all keys, by sorting.
pub fn sessions(records: impl IntoIterator<Item = Rec>, gap: i64) -> BTreeSet<Row> {
    let mut all: Vec<Rec> = records.into_iter().collect();
    all.sort_by_key(|r| (r.0, r.2));
    let session = |r: &[Rec]| -> Row {
        let mut numbers: Vec<u64> = r.iter().map(|r| r.1).collect();
        numbers.sort_unstable();
        (r[0].0, r[0].2, r[r.len() - 1].2 + gap, numbers)
    };
    all.chunk_by(|a, b| a.0 == b.0 && b.2 - a.2 <= gap).map(session).collect()
}

fn joined(records: u64) -> BTreeSet<(u64, u64)> {
    let mut payments: BTreeMap<u64, Vec<Rec>> = BTreeMap::new();
    (0..input::payments(records)).map(payment).for_each(|p| payments.entry(p.0).or_default().push(p));
    payments.values_mut().for_each(|p| p.sort_by_key(|p| p.2));
    let [from, until] = input::JOINED;
    let mut pairs = BTreeSet::new();
    for order in (0..records).map(order) {
        let of_key = payments.get(&order.0).map_or(&[][..], Vec::as_slice);
        let first = of_key.partition_point(|p| p.2 < order.2 + from);
        let within = of_key[first..].iter().take_while(|p| p.2 <= order.2 + until);
        pairs.extend(within.map(|p| (order.1, p.1)));
    }
    pairs
}
