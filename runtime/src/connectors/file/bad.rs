//! What happens with a record that cannot be read: the policy, the sentence that names it, logging at a bounded rate.
use crate::error::{Error, ErrorCode, Result};
use std::fmt::{self, Write};
use std::time::{Duration, Instant};

/// What a source does with a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BadRecord {
    /// The job fails with an error that names file, line, column, reason and text.
    #[default]
    Fail,
    /// The record is left out: counted in the metric `bad_records`, and logged every ten seconds at most.
    Skip,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    pub(crate) column: Option<String>,
    pub(crate) reason: String,
    /// True when the whole file is unfit (a missing column): no policy skips that.
    pub(crate) fatal: bool,
}

impl Bad {
    pub(crate) fn new(reason: impl fmt::Display) -> Box<Self> {
        Box::new(Self { column: None, reason: reason.to_string(), fatal: false })
    }
    pub(crate) fn fatal(reason: impl fmt::Display) -> Box<Self> {
        Box::new(Self { fatal: true, ..*Self::new(reason) })
    }
}

/// Where a record lies.
pub(crate) struct Place<'a> {
    pub path: &'a str,
    /// Counted from 1, when it is known.
    pub line: Option<u64>,
    /// In the decompressed text.
    pub offset: u64,
}

/// Characters of a bad record that are shown.
const SHOWN: usize = 200;

/// The sentence about a bad record.
pub(crate) fn describe(place: &Place<'_>, bad: &Bad, text: &[u8]) -> String {
    let mut s = format!("bad record in {}, ", place.path);
    let _ = match place.line {
        Some(line) => write!(s, "line {line}"),
        None => write!(s, "at byte {}", place.offset),
    };
    if let Some(column) = &bad.column {
        let _ = write!(s, ", column {column:?}");
    }
    let shown = String::from_utf8_lossy(&text[..text.len().min(4 * SHOWN)]);
    let cut: String = shown.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { " ..." } else { "" };
    let _ = write!(s, ": {}; the record is {cut:?}{more}", bad.reason);
    s
}

/// Applies the policy.
#[derive(Debug)]
pub(crate) struct BadRecords {
    policy: BadRecord,
    operator: String,
    logged: Option<Instant>,
    unlogged: u64,
}

const LOG_EVERY: Duration = Duration::from_secs(10);

impl BadRecords {
    pub fn new(policy: BadRecord, operator: &str) -> Self {
        Self { policy, operator: operator.to_string(), logged: None, unlogged: 0 }
    }

    /// Fails, or says that the record is skipped. `describe` is called only when somebody reads what it says.
    pub fn take(&mut self, bad: &Bad, now: Instant, describe: impl FnOnce() -> String) -> Result<()> {
        if bad.fatal || self.policy == BadRecord::Fail {
            let advice =
                if bad.fatal { "" } else { "; to leave out bad records, set the source's on_bad_record to Skip" };
            return Err(Error::user(ErrorCode::BadRecord, describe() + advice));
        }
        if let Some(n) = self.log_now(now) {
            tracing::warn!(operator = self.operator, skipped_since_last_message = n, "skipped a {}", describe());
        }
        Ok(())
    }

    /// How many to report, this one included, when it is time for a message.
    fn log_now(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        if self.logged.is_some_and(|t| now < t + LOG_EVERY) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_everything_and_stay_short() {
        let bad = Bad { column: Some("delay".into()), ..*Bad::new("\"x\" is not an i32") };
        let place = Place { path: "in.csv", line: Some(7), offset: 90 };
        assert_eq!(
            describe(&place, &bad, b"a,x"),
            "bad record in in.csv, line 7, column \"delay\": \"x\" is not an i32; the record is \"a,x\""
        );
        let long = describe(&Place { line: None, ..place }, &Bad::new("no"), "é\n".repeat(10_000).as_bytes());
        assert!(long.starts_with("bad record in in.csv, at byte 90: no; the record is \"é\\né\\n"), "{long}");
        assert!(long.ends_with("\" ...") && long.len() < 800, "{long}");
    }

    #[test]
    fn skipped_records_are_logged_now_and_then() {
        let mut b = BadRecords::new(BadRecord::Skip, "in");
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let said: Vec<_> = [0, 1, 9, 10, 11, 25].into_iter().map(|s| b.log_now(at(s))).collect();
        assert_eq!(said, [Some(1), None, None, Some(3), None, Some(2)]);
        assert!(b.take(&Bad::new("no"), at(26), || unreachable!()).is_ok());
        assert!(b.take(&Bad::fatal("no column"), at(27), || "bad".into()).is_err());
        assert!(
            BadRecords::new(BadRecord::Fail, "in")
                .take(&Bad::new("no"), start, || "bad".into())
                .unwrap_err()
                .message
                .contains("Skip")
        );
    }
}
