//! Says whether the committed outputs of the functions job are exact.
use std::path::Path;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use super::OutputFiles;

#[path = "../../jobs/functions/input.rs"]
#[expect(dead_code, reason = "the job needs more of it")]
mod input;
#[path = "../../jobs/functions/verdict.rs"]
mod verdict;

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

/// Judges all that is committed in `output`, which the job wrote for that many orders. The number of rows.
pub fn check(output: &Path, records: u64) -> Result<u64> {
    let results = verdict::Results {
        windows: rows(output, "windows")?,
        late: rows(output, "late")?,
        sessions: rows(output, "sessions")?,
        paid: rows(output, "paid")?,
        unpaid: rows(output, "unpaid")?,
        joined: rows(output, "joined")?,
        called: rows(output, "called")?,
        ruled: rows(output, "ruled")?,
        held: rows(output, "held")?,
    };
    results.check(records)
}
