//! What the flights example must emit, computed naively from its input.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Row;

/// A departure later than this many minutes counts as late.
const LATE_MIN: i64 = 15;

#[derive(Deserialize)]
struct Input {
    departed: String,
    carrier: String,
    flight: String,
    tail: String,
    dep_delay_min: Option<i64>,
}

#[derive(Debug, Clone)]
struct Leg {
    flight: String,
    departed: String,
    /// Late departures of the tail up to this one, within one reading of the file.
    late: u64,
    /// The largest delay of the tail up to this one, within one reading of the file.
    worst: Option<i64>,
}

/// The expected rows of the whole input, read `repeat` times over.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Each tail's departures in file order, of one reading.
    tails: BTreeMap<String, Vec<Leg>>,
    repeat: u64,
}

impl Expected {
    /// Reads an input file (CSV with a header line; zstd when its name ends in `.zst`).
    pub fn from_file(input: &Path, repeat: u64) -> Result<Self> {
        let bytes = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
        let bytes = if input.extension().is_some_and(|ending| ending == "zst") {
            zstd::stream::decode_all(&bytes[..]).with_context(|| format!("cannot unpack {}", input.display()))?
        } else {
            bytes
        };
        Self::from_csv(&bytes, repeat).with_context(|| format!("the input {}", input.display()))
    }

    /// The same from CSV text.
    pub fn from_csv(csv: &[u8], repeat: u64) -> Result<Self> {
        let mut tails: BTreeMap<String, Vec<Leg>> = BTreeMap::new();
        for row in csv::Reader::from_reader(csv).deserialize() {
            let row: Input = row?;
            if row.departed.is_empty() || row.tail.is_empty() {
                continue;
            }
            let legs = tails.entry(row.tail).or_default();
            let (late, worst) = legs.last().map_or((0, None), |last| (last.late, last.worst));
            legs.push(Leg {
                flight: row.carrier + &row.flight,
                departed: row.departed,
                late: late + u64::from(row.dep_delay_min.is_some_and(|delay| delay > LATE_MIN)),
                worst: worst.max(row.dep_delay_min),
            });
        }
        Ok(Self { tails, repeat })
    }

    /// Rows in all.
    pub fn total(&self) -> u64 {
        self.tails.values().map(|legs| legs.len() as u64).sum::<u64>() * self.repeat
    }

    /// Every tail with its number of legs, over all readings.
    pub fn tails(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tails.iter().map(|(tail, legs)| (tail.as_str(), self.legs(legs)))
    }

    /// A tail's own name and its number of legs.
    pub(super) fn tail(&self, tail: &str) -> Option<(&str, usize)> {
        self.tails.get_key_value(tail).map(|(tail, legs)| (tail.as_str(), self.legs(legs)))
    }

    fn legs(&self, once: &[Leg]) -> usize {
        usize::try_from(self.repeat).unwrap_or(usize::MAX).saturating_mul(once.len())
    }

    /// What is wrong with a row, when the file was read in order by one subtask.
    pub(super) fn fault_in_order(&self, row: &Row<'_>) -> Option<String> {
        let legs = self.tails.get(row.tail.as_ref())?;
        let before = usize::try_from(row.legs).ok()?.checked_sub(1)?;
        let (reading, leg) = (before / legs.len(), &legs[before % legs.len()]);
        let all = legs.last()?;
        let late = all.late * reading as u64 + leg.late;
        let worst = if reading == 0 { leg.worst } else { all.worst };
        let wanted = (leg.flight.as_str(), leg.departed.as_str(), late, worst);
        let found = (row.flight.as_ref(), row.departed.as_ref(), row.late, row.worst_delay_min);
        (wanted != found).then(|| format!("must be {wanted:?}, is {found:?}"))
    }

    /// How often each departure of a tail is to come, by (flight, departed).
    pub(super) fn departures(&self, tail: &str) -> HashMap<(String, String), i64> {
        let mut open = HashMap::new();
        for leg in self.tails.get(tail).into_iter().flatten() {
            *open.entry((leg.flight.clone(), leg.departed.clone())).or_insert(0) +=
                i64::try_from(self.repeat).unwrap_or(i64::MAX);
        }
        open
    }

    /// What is wrong with a row when departures may come in any order; takes it from those to come.
    pub(super) fn fault_in_any_order(
        &self,
        row: &Row<'_>,
        open: &mut HashMap<(String, String), i64>,
    ) -> Option<String> {
        let departure = (row.flight.clone().into_owned(), row.departed.clone().into_owned());
        match open.get_mut(&departure) {
            Some(left) if *left > 0 => *left -= 1,
            Some(_) => return Some(format!("departure {departure:?} comes too often")),
            None => return Some(format!("departure {departure:?} is not in the input")),
        }
        let legs = self.tails.get(row.tail.as_ref())?;
        let all = legs.last()?;
        if row.legs != self.legs(legs) as u64 {
            return None;
        }
        // The last leg holds the tail's totals, whatever the order.
        let wanted = (all.late * self.repeat, all.worst);
        let found = (row.late, row.worst_delay_min);
        (wanted != found).then(|| format!("the last leg's late and worst delay must be {wanted:?}, are {found:?}"))
    }
}
