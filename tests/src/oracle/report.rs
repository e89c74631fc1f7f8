//! The verdict on an output folder.

use std::fmt;

use anyhow::{Result, bail};

use super::OutputFiles;

/// Faults beyond this number are counted but not described.
const SAMPLES: usize = 10;

/// Counts of what is committed and of what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows that the input makes.
    pub expected: u64,
    /// Rows in committed files.
    pub rows: u64,
    /// Rows that are missing.
    pub lost: u64,
    /// Missing rows of a tail that has a later one: lost for sure, also while the job still runs.
    pub holes: u64,
    /// Rows that were there before.
    pub double: u64,
    /// Rows whose content is not what the input makes.
    pub wrong: u64,
    /// Committed files.
    pub parts: u64,
    /// Files that are not committed (dot-files).
    pub hidden: u64,
    /// Files that do not belong there.
    pub foreign: u64,
    /// Descriptions of the first faults.
    pub samples: Vec<String>,
}

impl Report {
    pub(super) fn new(expected: u64, files: &OutputFiles) -> Self {
        Self {
            expected,
            parts: files.parts.len() as u64,
            hidden: files.hidden.len() as u64,
            foreign: files.foreign.len() as u64,
            ..Self::default()
        }
    }

    /// Whether the output is complete and right.
    pub fn is_exact(&self) -> bool {
        self.rows == self.expected && (self.lost, self.double, self.wrong) == (0, 0, 0)
    }

    /// Whether what is there so far is right, of a job that still runs.
    pub fn is_exact_so_far(&self) -> bool {
        (self.holes, self.double, self.wrong) == (0, 0, 0)
    }

    /// An error with counts and samples unless the output is complete and right.
    pub fn must_be_exact(&self) -> Result<()> {
        if !self.is_exact() {
            bail!("the output is not exact: {self}");
        }
        Ok(())
    }

    /// An error with counts and samples unless what is there so far is right.
    pub fn must_be_exact_so_far(&self) -> Result<()> {
        if !self.is_exact_so_far() {
            bail!("the output so far is not exact: {self}");
        }
        Ok(())
    }

    pub(super) fn add_lost(&mut self, lost: u64, holes: u64, sample: impl FnOnce() -> String) {
        self.lost += lost;
        self.holes += holes;
        self.sample("lost", sample);
    }

    pub(super) fn add_double(&mut self, sample: impl FnOnce() -> String) {
        self.double += 1;
        self.sample("double", sample);
    }

    pub(super) fn add_wrong(&mut self, sample: impl FnOnce() -> String) {
        self.wrong += 1;
        self.sample("wrong", sample);
    }

    fn sample(&mut self, kind: &str, sample: impl FnOnce() -> String) {
        if self.samples.len() < SAMPLES {
            self.samples.push(format!("{kind}: {}", sample()));
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows in {} files: lost {}, double {}, wrong {}",
            self.rows, self.expected, self.parts, self.lost, self.double, self.wrong
        )?;
        if self.hidden > 0 {
            write!(f, ", {} uncommitted files", self.hidden)?;
        }
        if self.foreign > 0 {
            write!(f, ", {} foreign files", self.foreign)?;
        }
        for sample in &self.samples {
            write!(f, "\n  {sample}")?;
        }
        Ok(())
    }
}
