//! Says whether the committed output of the flights example is exact: nothing lost, nothing double, nothing wrong.
//!
//! The output proves itself: for each tail, `legs` is 1..n, each exactly once. Beyond that every row is compared with a naive
//! computation over the input.

mod expected;
pub mod functions;
mod report;
mod watch;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

pub use self::expected::Expected;
pub use self::report::Report;
pub use self::watch::{Arrival, OutputWatch};

/// How much of a row the input decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One source subtask reads the file in order: every field of every row is known.
    Kept,
    /// Several source subtasks: only which departures there are, and each tail's totals.
    Free,
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    tail: Cow<'a, str>,
    #[serde(borrow)]
    flight: Cow<'a, str>,
    #[serde(borrow)]
    departed: Cow<'a, str>,
    legs: u64,
    late: u64,
    worst_delay_min: Option<i64>,
}

/// The files of an output folder, below it at any depth.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputFiles {
    /// Committed: `part-*`, sorted.
    pub parts: Vec<PathBuf>,
    /// Not committed: names that start with a dot.
    pub hidden: Vec<PathBuf>,
    /// Anything else: nothing should be here.
    pub foreign: Vec<PathBuf>,
}

impl OutputFiles {
    /// Lists them; a folder that does not exist (yet) has none.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut files = Self::default();
        files.collect(dir)?;
        files.parts.sort();
        files.hidden.sort();
        files.foreign.sort();
        Ok(files)
    }

    fn collect(&mut self, dir: &Path) -> Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.with_context(|| format!("cannot list {}", dir.display()))?,
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let kind = entry.file_type();
            // A file may be renamed or deleted between the listing and this look.
            let Ok(kind) = kind else { continue };
            if name.starts_with('.') {
                if kind.is_file() {
                    self.hidden.push(entry.path());
                }
            } else if kind.is_dir() {
                self.collect(&entry.path())?;
            } else if name.starts_with("part-") {
                self.parts.push(entry.path());
            } else {
                self.foreign.push(entry.path());
            }
        }
        Ok(())
    }
}

/// Judges all that is committed in `dir` against the input.
///
/// While the job still runs, [`Report::lost`] counts what is to come as well; [`Report::holes`] is then the measure.
pub fn check(dir: &Path, expected: &Expected, order: Order) -> Result<Report> {
    let files = OutputFiles::of(dir)?;
    let mut report = Report::new(expected.total(), &files);
    // How often each leg of each tail was seen.
    let mut seen: HashMap<&str, Vec<u32>> = HashMap::new();
    // Free order: what is still to come of each tail's departures, by (flight, departed).
    let mut open: HashMap<&str, HashMap<(String, String), i64>> = HashMap::new();
    for part in &files.parts {
        let bytes = fs::read(part).with_context(|| format!("cannot read {}", part.display()))?;
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            report.rows += 1;
            let place = || format!("{}:{}", part.display(), index + 1);
            let row: Row<'_> = match serde_json::from_slice(line) {
                Ok(row) => row,
                Err(error) => {
                    report.add_wrong(|| format!("{}: {error}: {}", place(), String::from_utf8_lossy(line)));
                    continue;
                }
            };
            let Some((tail, legs)) = expected.tail(&row.tail) else {
                report.add_wrong(|| format!("{}: tail {:?} is not in the input", place(), row.tail));
                continue;
            };
            let counts = seen.entry(tail).or_insert_with(|| vec![0; legs]);
            let Some(count) = usize::try_from(row.legs).ok().and_then(|leg| counts.get_mut(leg.checked_sub(1)?)) else {
                report.add_wrong(|| format!("{}: {tail} has {legs} legs, not {}", place(), row.legs));
                continue;
            };
            *count += 1;
            if *count > 1 {
                report.add_double(|| format!("{}: {tail} leg {} for the {count}. time", place(), row.legs));
                continue;
            }
            let fault = match order {
                Order::Kept => expected.fault_in_order(&row),
                Order::Free => {
                    let open = open.entry(tail).or_insert_with(|| expected.departures(tail));
                    expected.fault_in_any_order(&row, open)
                }
            };
            if let Some(fault) = fault {
                report.add_wrong(|| format!("{}: {tail} leg {}: {fault}", place(), row.legs));
            }
        }
    }
    for (tail, legs) in expected.tails() {
        let Some(counts) = seen.get(tail) else {
            report.add_lost(legs as u64, 0, || format!("{tail}: all of its {legs} legs"));
            continue;
        };
        let missing = counts.iter().filter(|count| **count == 0).count();
        if missing > 0 {
            let last = counts.iter().rposition(|count| *count > 0).map_or(0, |index| index + 1);
            let holes = counts[..last].iter().filter(|count| **count == 0).count();
            let first = counts.iter().position(|count| *count == 0).map_or(0, |index| index + 1);
            report.add_lost(missing as u64, holes as u64, || {
                format!("{tail}: {missing} of {legs} legs, the first is {first}, the last seen is {last}")
            });
        }
    }
    Ok(report)
}
