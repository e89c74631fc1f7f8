//! Says whether the committed outputs of the functions job are exact: every record in each of them once, where it belongs.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::de::DeserializeOwned;

use self::input::{Rec, event, order, payment};
use super::OutputFiles;

#[path = "../../jobs/functions/input.rs"]
#[expect(dead_code, reason = "the job needs more of it")]
mod input;

/// Key, start and end of the window, the numbers in it.
type Row = (u64, i64, i64, Vec<u64>);

fn rows<T: DeserializeOwned>(output: &Path, name: &str) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for part in OutputFiles::of(&output.join(name))?.parts {
        let bytes = std::fs::read(&part).with_context(|| format!("cannot read {}", part.display()))?;
        for (n, line) in bytes.split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty()) {
            let row = serde_json::from_slice(line).with_context(|| format!("{}:{}", part.display(), n + 1))?;
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Each number below `count` once.
fn each_once(what: &str, mut numbers: Vec<u64>, count: u64) -> Result<()> {
    numbers.sort_unstable();
    if let Some(twice) = numbers.windows(2).find(|w| w[0] == w[1]) {
        anyhow::bail!("{what}: number {} is there twice", twice[0]);
    }
    let missing = (0..count).zip(numbers.iter().map(Some).chain(std::iter::repeat(None))).find(|(n, m)| Some(n) != *m);
    match missing {
        None if numbers.len() as u64 == count => Ok(()),
        None => anyhow::bail!("{what}: {} numbers instead of {count}", numbers.len()),
        Some((n, _)) => anyhow::bail!("{what}: number {n} is missing; {} of {count} are there", numbers.len()),
    }
}

/// Judges all that is committed in `output`, which the job wrote for that many orders. The number of rows.
pub fn check(output: &Path, records: u64) -> Result<u64> {
    let windows = windows(output, records)?;
    let sessions = sessions(output, records)?;
    let (paid, unpaid) = (rows::<u64>(output, "paid")?, rows::<(u64, i64)>(output, "unpaid")?);
    ensure!(unpaid.iter().all(|(n, time)| order(*n).2 == *time), "unpaid: an order has another time");
    ensure!(paid.iter().all(|n| n % 2 == 0), "paid: an order without a payment is there");
    let mut all = (windows + sessions + paid.len() + unpaid.len()) as u64;
    each_once("paid and unpaid", paid.into_iter().chain(unpaid.into_iter().map(|u| u.0)).collect(), records)?;
    let (joined, expected) = (rows(output, "joined")?, joined(records));
    ensure!(joined.len() == expected.len(), "joined: {} pairs instead of {}", joined.len(), expected.len());
    all += joined.len() as u64;
    ensure!(BTreeSet::from_iter(joined) == expected, "joined: other pairs than the input makes");
    for name in ["called", "held"] {
        each_once(name, rows(output, name)?, records)?;
    }
    let ruled = rows::<(u64, u64)>(output, "ruled")?;
    let other = ruled.iter().find(|(_, rules)| *rules != input::RULES);
    ensure!(other.is_none(), "ruled: {other:?} instead of {} rules", input::RULES);
    each_once("ruled", ruled.into_iter().map(|r| r.0).collect(), records)?;
    Ok(all + 3 * records)
}

/// A window's rows grow from firing to firing; its last one and the late output hold every event once.
fn windows(output: &Path, records: u64) -> Result<usize> {
    let mut rows_of: Vec<Row> = rows(output, "windows")?;
    rows_of.sort_by_key(|r| (r.0, r.1, r.3.len()));
    let count = rows_of.len();
    let mut last: BTreeMap<(u64, i64), Vec<u64>> = BTreeMap::new();
    for (key, start, end, numbers) in rows_of {
        ensure!(end - start == input::WINDOW[0] as i64, "windows: {start} to {end}");
        for &n in &numbers {
            let (k, _, time) = event(n);
            ensure!(k == key && (start..end).contains(&time), "windows: event {n} in window {start} of key {key}");
        }
        if let Some(before) = last.get(&(key, start)) {
            let grown = before.len() < numbers.len() && before.iter().all(|n| numbers.binary_search(n).is_ok());
            ensure!(grown, "windows: key {key}, window {start} fired with {before:?}, then with {numbers:?}");
        }
        last.insert((key, start), numbers);
    }
    let late = rows::<Rec>(output, "late")?;
    ensure!(late.iter().all(|r| event(r.1) == *r), "late: an event that the input does not have");
    let count = count + late.len();
    each_once("windows and late", last.into_values().flatten().chain(late.iter().map(|r| r.1)).collect(), records)?;
    Ok(count)
}

fn sessions(output: &Path, records: u64) -> Result<usize> {
    let mut all: Vec<Rec> = (0..records).map(event).collect();
    all.sort_by_key(|r| (r.0, r.2));
    let gap = input::GAP as i64;
    let session = |r: &[Rec]| -> Row {
        let mut numbers: Vec<u64> = r.iter().map(|r| r.1).collect();
        numbers.sort_unstable();
        (r[0].0, r[0].2, r[r.len() - 1].2 + gap, numbers)
    };
    let expected: BTreeSet<Row> = all.chunk_by(|a, b| a.0 == b.0 && b.2 - a.2 <= gap).map(session).collect();
    let found: Vec<Row> = rows(output, "sessions")?;
    ensure!(found.len() == expected.len(), "sessions: {} instead of {}", found.len(), expected.len());
    let count = found.len();
    ensure!(BTreeSet::from_iter(found) == expected, "sessions: other ones than the input makes");
    Ok(count)
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
