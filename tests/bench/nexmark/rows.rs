//! The sink of every query: counts rows, and keeps them as text where they are compared.
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use weir::connectors::sink::{Sink, SinkContext, SinkWriter};
use weir::data::Data;
use weir::dataflow::Batch;

use crate::alloc::allocations;
use crate::events::Bid;
use crate::outcome::{tell, usage};
use crate::queries::{Average, Converted, HotItem, LocalItem, NewUser};

/// A result as a line of text. Equal lines mean equal results.
pub trait Row: Data {
    fn line(&self) -> String;
}

impl Row for Bid {
    fn line(&self) -> String {
        let Self { auction, bidder, price, channel, url, date_time, extra } = self;
        format!("{auction} {bidder} {price} {channel} {url} {date_time} {extra}")
    }
}
impl Row for Converted {
    fn line(&self) -> String {
        format!("{} {}", self.bid.line(), self.millicents)
    }
}
/// q2: auction and price; q6: seller and average.
impl Row for (u64, u64) {
    fn line(&self) -> String {
        format!("{} {}", self.0, self.1)
    }
}
impl Row for LocalItem {
    fn line(&self) -> String {
        format!("{}, {}, {}, {}", self.0, self.1, self.2, self.3)
    }
}
impl Row for Average {
    fn line(&self) -> String {
        format!("{} {} {}", self.category, self.sales, self.price)
    }
}
impl Row for HotItem {
    fn line(&self) -> String {
        format!("{} {} {}", self.0, self.1, self.2)
    }
}
impl Row for NewUser {
    fn line(&self) -> String {
        format!("{} {} {}", self.0, self.1, self.2)
    }
}

/// What a subtask of the sink has to tell when its task ends. Allocations are those of the whole process so far.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Told {
    /// Nanoseconds since the Unix epoch.
    started: u64,
    ended: u64,
    rows: u64,
    allocations: u64,
    cpu_seconds: f64,
    peak_mib: f64,
    lines: Vec<String>,
}

/// What a run of a query has told.
#[derive(Debug, Default)]
pub struct Report {
    pub seconds: f64,
    pub rows: u64,
    pub allocations: u64,
    pub cpu_seconds: f64,
    pub peak_mib: f64,
    /// Sorted.
    pub lines: Vec<String>,
}

impl Report {
    /// Joins what the subtasks told, all of one process.
    pub fn read(folder: &Path) -> Result<Self> {
        let (mut report, mut started, mut ended) = (Self::default(), u64::MAX, 0);
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let told: Told = serde_json::from_slice(&std::fs::read(&path)?)
                .with_context(|| format!("{} is no report", path.display()))?;
            (started, ended) = (started.min(told.started), ended.max(told.ended));
            report.rows += told.rows;
            report.allocations = report.allocations.max(told.allocations);
            report.cpu_seconds = report.cpu_seconds.max(told.cpu_seconds);
            report.peak_mib = report.peak_mib.max(told.peak_mib);
            report.lines.extend(told.lines);
        }
        ensure!(ended > 0, "no subtask of the sink has told anything");
        report.seconds = (ended - started) as f64 / 1e9;
        report.lines.sort_unstable();
        Ok(report)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

#[derive(Clone)]
pub struct Rows {
    report: PathBuf,
    verify: bool,
}

impl Rows {
    pub fn new(report: PathBuf, verify: bool) -> Self {
        Self { report, verify }
    }
}

impl<T: Row> Sink<T> for Rows {
    type Writer = RowsWriter;
    fn writer(&self, cx: &SinkContext) -> weir::Result<RowsWriter> {
        let told = Told { started: now(), ..Told::default() };
        Ok(RowsWriter { verify: self.verify, file: self.report.join(format!("{}.json", cx.subtask)), told })
    }
}

pub struct RowsWriter {
    verify: bool,
    file: PathBuf,
    told: Told,
}

impl<T: Row> SinkWriter<T> for RowsWriter {
    fn write(&mut self, batch: &mut Batch<T>) -> weir::Result<()> {
        self.told.rows += batch.len() as u64;
        if self.verify {
            self.told.lines.extend(batch.records.iter().map(Row::line));
        }
        batch.clear();
        Ok(())
    }
    fn close(&mut self) -> weir::Result<()> {
        let told = &mut self.told;
        (told.ended, told.allocations) = (now(), allocations());
        (told.cpu_seconds, told.peak_mib) = usage("self");
        tell(&self.file, told)
    }
}
