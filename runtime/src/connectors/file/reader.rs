//! Reads the splits of one subtask: blocks, lines, values; keeps the positions.
use super::bad::{Bad, BadRecords, Place, describe};
use super::blocks::{Blocks, Compression};
use super::format::{Format, Parser};
use super::scan::Scan;
use super::split::FileSplit;
use crate::connectors::rate::Throttle;
use crate::connectors::source::{ReadStatus, SourceReader, Split};
use crate::dataflow::{BATCH_RECORDS, Output, Signal, Split as SplitSignal};
use crate::error::{Error, ErrorCode, Result};
use crate::observe::TaskMetrics;
use memchr::{memchr, memchr_iter, memrchr};
use std::collections::VecDeque;
use std::time::Instant;

/// Bytes of text looked at together: they stay in the first-level cache between the passes over them.
const REGION: usize = 16 << 10;
/// Blocks skipped in one call after a restore from compressed input.
const SKIPPED_BLOCKS: usize = 16;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The reader of a file source.
pub struct FileReader<F: Format> {
    format: F,
    /// Those that were not begun, or were put off by a restore, in reading order.
    waiting: Vec<FileSplit>,
    /// Those being read by turns, each of another file; the next one is the first.
    active: VecDeque<Active<F::Parser>>,
    /// Most of them.
    side_by_side: usize,
    /// What the next split is called where watermarks are made: each has one of its own.
    next_lane: u32,
    /// The lane that was announced last.
    lane: Option<u32>,
    repeat: u64,
    throttle: Option<Throttle>,
    bad: BadRecords,
    metrics: TaskMetrics,
}

/// A split being read.
struct Active<P> {
    split: FileSplit,
    lane: u32,
    parser: P,
    /// None: it is not open yet.
    open: Option<Open>,
}

struct Open {
    blocks: Blocks,
    /// The position of the split has been reached.
    ready: bool,
}

/// What was read.
#[derive(Default)]
struct Progress {
    records: usize,
    lines: u64,
    bytes: usize,
}

impl Progress {
    fn add(&mut self, more: &Self) {
        self.records += more.records;
        self.lines += more.lines;
        self.bytes += more.bytes;
    }
}

impl<F: Format> FileReader<F> {
    pub(super) fn new(
        format: F,
        splits: Vec<FileSplit>,
        side_by_side: usize,
        repeat: u64,
        throttle: Option<Throttle>,
        bad: BadRecords,
        metrics: TaskMetrics,
    ) -> Self {
        let mut waiting: Vec<_> = splits.into_iter().filter(|s| s.pass < repeat).collect();
        waiting.sort_by_key(|s| (s.pass, s.index));
        let active = VecDeque::new();
        Self { format, waiting, active, side_by_side, next_lane: 0, lane: None, repeat, throttle, bad, metrics }
    }

    /// Begins splits while there is room for more: of each file the next one, so that its records come in its order. From then
    /// on event time waits for them.
    fn begin(&mut self, out: &mut Output<F::Record>) -> Result<()> {
        while self.active.len() < self.side_by_side {
            let is_active = |s: &FileSplit| self.active.iter().any(|a| a.split.file.path == s.file.path);
            let Some(at) = self.waiting.iter().position(|s| !is_active(s)) else { break };
            let (split, lane, parser) = (self.waiting.remove(at), self.next_lane, self.format.parser());
            self.next_lane = (lane + 1) % u32::MAX;
            self.active.push_back(Active { split, lane, parser, open: None });
            out.signal(&mut Signal::Split(SplitSignal::Added(lane)))?;
        }
        Ok(())
    }

    /// Opens the split's file, reads the header, and moves to its position.
    fn open(&self, split: &FileSplit, parser: &mut F::Parser) -> Result<Open> {
        let path = &split.file.path;
        let compression = split.file.check()?;
        let mut blocks = None;
        let mut behind_header = 0;
        if self.format.has_header() {
            let mut head = Blocks::open(path, compression, 0)?;
            drop_bom(&mut head)?;
            let n = match self.format.by_line() {
                true => head.whole_lines(0)?,
                false => whole_record(&mut head, self.format.quoting())?,
            };
            let text = trim(&head.bytes()[..n]);
            let place = Place { path, line: Some(1), offset: 0 };
            let header =
                std::str::from_utf8(text).map_err(|e| Bad::fatal(format_args!("the header is not UTF-8 ({e})")));
            if let Err(bad) = header.and_then(|h| parser.header(h)) {
                return Err(Error::user(ErrorCode::BadRecord, describe(&place, &bad, text)));
            }
            head.consume(n);
            behind_header = head.offset();
            blocks = Some(head);
        }
        match split.position {
            Some(at) => {
                Ok(Open { blocks: Blocks::open(path, compression, at)?, ready: compression == Compression::Plain })
            }
            None if split.start() > behind_header => {
                let mut blocks = Blocks::open(path, compression, split.start() - 1)?;
                skip_line(&mut blocks)?;
                Ok(Open { blocks, ready: true })
            }
            None => match blocks {
                Some(blocks) => Ok(Open { blocks, ready: true }),
                None => {
                    let mut blocks = Blocks::open(path, compression, 0)?;
                    drop_bom(&mut blocks)?;
                    Ok(Open { blocks, ready: true })
                }
            },
        }
    }

    /// Emits up to `budget` records of the open split, as many as a region holds; `None` at the split's end.
    fn read_some(
        &mut self,
        from: &mut Active<F::Parser>,
        open: &mut Open,
        out: &mut Output<F::Record>,
        budget: usize,
        now: Instant,
    ) -> Result<Option<Progress>> {
        let end = from.split.end();
        if open.blocks.offset() >= end {
            return Ok(None);
        }
        let mut n = open.blocks.whole_lines(REGION)?;
        if n == 0 {
            return Ok(None);
        }
        if !self.format.by_line() && memchr(self.format.quoting().1, &open.blocks.bytes()[..n]).is_some() {
            n = whole_record(&mut open.blocks, self.format.quoting())?;
            let progress = self.read_one(from, &open.blocks, n, out, now)?;
            open.blocks.consume(n);
            return Ok(Some(progress));
        }
        // the last record is the one that begins before the end
        let left = end - open.blocks.offset();
        if left < n as u64 {
            let last = left as usize - 1;
            n = memchr(b'\n', &open.blocks.bytes()[last..n]).map_or(n, |i| last + i + 1);
        }
        let progress = match std::str::from_utf8(&open.blocks.bytes()[..n]) {
            Ok(text) => self.read_lines(from, &open.blocks, text, out, budget, now)?,
            Err(e) => {
                let valid = memrchr(b'\n', &open.blocks.bytes()[..e.valid_up_to()]).map_or(0, |i| i + 1);
                match std::str::from_utf8(&open.blocks.bytes()[..valid]) {
                    Ok(text) if valid > 0 => self.read_lines(from, &open.blocks, text, out, budget, now)?,
                    _ => {
                        let line = memchr(b'\n', &open.blocks.bytes()[..n]).map_or(n, |i| i + 1);
                        self.read_one(from, &open.blocks, line, out, now)?
                    }
                }
            }
        };
        open.blocks.consume(progress.bytes);
        Ok(Some(progress))
    }

    /// Emits the lines of `text`, each a record, until the budget is used up or a batch went out.
    fn read_lines(
        &mut self,
        from: &mut Active<F::Parser>,
        blocks: &Blocks,
        text: &str,
        out: &mut Output<F::Record>,
        budget: usize,
        now: Instant,
    ) -> Result<Progress> {
        let bytes = text.as_bytes();
        let mut done = Progress::default();
        let mut pending = out.pending();
        let newlines = memchr_iter(b'\n', bytes).chain((!bytes.ends_with(b"\n")).then_some(bytes.len()));
        for newline in newlines {
            let start = done.bytes;
            let end = if newline > start && bytes[newline - 1] == b'\r' { newline - 1 } else { newline };
            let line = text.get(start..end).unwrap_or_default();
            if let Err(bad) = from.parser.parse(line, out) {
                self.refuse(&bad, &from.split, blocks, start, done.lines, line.as_bytes(), now)?;
            }
            done.bytes = (newline + 1).min(bytes.len());
            done.lines += 1;
            let now_pending = out.pending();
            if done.lines as usize >= budget || now_pending < pending {
                break;
            }
            pending = now_pending;
        }
        done.records = done.lines as usize;
        Ok(done)
    }

    /// Emits the record in the first `n` bytes, which may not be UTF-8 and may hold quoted line breaks.
    fn read_one(
        &mut self,
        from: &mut Active<F::Parser>,
        blocks: &Blocks,
        n: usize,
        out: &mut Output<F::Record>,
        now: Instant,
    ) -> Result<Progress> {
        let bytes = &blocks.bytes()[..n];
        let text = trim(bytes);
        let parsed = match std::str::from_utf8(text) {
            Ok(text) => from.parser.parse(text, out),
            Err(e) => Err(Bad::new(format_args!("it is not UTF-8 ({e})"))),
        };
        if let Err(bad) = parsed {
            self.refuse(&bad, &from.split, blocks, 0, 0, text, now)?;
        }
        Ok(Progress { records: 1, lines: memchr_iter(b'\n', bytes).count().max(1) as u64, bytes: n })
    }

    /// A bad record `bytes` and `lines` behind the front of the blocks.
    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn refuse(
        &mut self,
        bad: &Bad,
        split: &FileSplit,
        blocks: &Blocks,
        bytes: usize,
        lines: u64,
        text: &[u8],
        now: Instant,
    ) -> Result<()> {
        let header = u64::from(self.format.has_header());
        self.metrics.add_bad_records(1);
        self.bad.take(bad, now, || {
            // the lines before a range are counted only for the message of a failure
            let before = if split.start() == 0 { Some(header) } else { lines_before(split) };
            let line = before.map(|n| n + split.lines + lines + 1);
            describe(&Place { path: &split.file.path, line, offset: blocks.offset() + bytes as u64 }, bad, text)
        })
    }
}

/// Lines of a plain file before the first record of a range.
fn lines_before(split: &FileSplit) -> Option<u64> {
    let mut blocks = Blocks::open(&split.file.path, Compression::Plain, 0).ok()?;
    let mut lines = 0;
    while blocks.offset() < split.start() {
        let n = blocks.whole_lines(REGION).ok().filter(|&n| n > 0)?;
        let within = (split.start() - blocks.offset()).min(n as u64) as usize;
        // the line that holds the byte before the start is the earlier range's too
        let n = memchr(b'\n', &blocks.bytes()[within - 1..n]).map_or(n, |i| within + i);
        lines += memchr_iter(b'\n', &blocks.bytes()[..n]).count() as u64;
        blocks.consume(n);
    }
    Some(lines)
}

/// The bytes without the line break at their end.
fn trim(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn drop_bom(blocks: &mut Blocks) -> Result<()> {
    while blocks.bytes().len() < BOM.len() && !blocks.at_end() {
        let before = blocks.bytes().len();
        blocks.fill()?;
        if blocks.bytes().len() == before {
            break;
        }
    }
    if blocks.bytes().starts_with(BOM) {
        blocks.consume(BOM.len());
    }
    Ok(())
}

/// Consumes to behind the next newline, however long the line is.
fn skip_line(blocks: &mut Blocks) -> Result<()> {
    loop {
        if let Some(i) = memchr(b'\n', blocks.bytes()) {
            blocks.consume(i + 1);
            return Ok(());
        }
        blocks.consume(blocks.bytes().len());
        if blocks.at_end() {
            return Ok(());
        }
        blocks.fill()?;
    }
}

/// Length of the record at the front, with quoted line breaks.
fn whole_record(blocks: &mut Blocks, (delimiter, quote): (u8, u8)) -> Result<usize> {
    let mut scan = Scan::default();
    loop {
        if let Some(n) = scan.end(blocks.bytes(), delimiter, quote) {
            return Ok(n);
        }
        let before = blocks.bytes().len();
        blocks.fill()?;
        if blocks.bytes().len() == before {
            return Ok(before);
        }
    }
}

impl<F: Format> SourceReader for FileReader<F> {
    type Record = F::Record;

    fn read(&mut self, out: &mut Output<F::Record>, now: Instant) -> Result<ReadStatus> {
        if self.active.is_empty() {
            self.begin(out)?;
        }
        if self.active.is_empty() {
            return Ok(ReadStatus::End);
        }
        let mut budget = BATCH_RECORDS;
        if let Some(t) = &mut self.throttle {
            budget = budget.min(t.due(now) as usize);
            if budget == 0 {
                return Ok(ReadStatus::Wait(Some(t.next(now))));
            }
        }
        let Some(mut from) = self.active.pop_front() else { return Ok(ReadStatus::End) };
        let mut open = match from.open.take() {
            Some(open) => open,
            None => self.open(&from.split, &mut from.parser)?,
        };
        for _ in 0..SKIPPED_BLOCKS {
            if open.ready {
                break;
            }
            open.ready = open.blocks.skip()?;
        }
        if !open.ready {
            from.open = Some(open);
            self.active.push_back(from);
            return Ok(ReadStatus::More);
        }
        if self.lane.replace(from.lane) != Some(from.lane) {
            out.signal(&mut Signal::Split(SplitSignal::Reading(from.lane)))?;
        }
        let mut done = Progress::default();
        let mut ended = false;
        let mut pending = out.pending();
        // until the budget is used up or a batch went out
        while done.records < budget && !ended && out.pending() >= pending {
            pending = out.pending();
            match self.read_some(&mut from, &mut open, out, budget - done.records, now)? {
                Some(p) => {
                    done.add(&p);
                    // kept up at each step: messages name the line by it
                    from.split.lines += p.lines;
                }
                None => ended = true,
            }
        }
        self.metrics.add_records_in(done.records as u64);
        self.metrics.add_bytes_in(done.bytes as u64);
        if let Some(t) = &mut self.throttle {
            t.take(done.records as u64);
        }
        if ended {
            let Active { mut split, lane, .. } = from;
            split.rewind();
            if split.pass < self.repeat {
                let at = self.waiting.partition_point(|s| (s.pass, s.index) < (split.pass, split.index));
                self.waiting.insert(at, split);
            }
            // what comes in its place is there before it goes: event time does not run ahead in between
            self.begin(out)?;
            out.signal(&mut Signal::Split(SplitSignal::Ended(lane)))?;
            self.lane = None;
        } else {
            from.split.position = Some(open.blocks.offset());
            from.open = Some(open);
            self.active.push_back(from);
        }
        Ok(if self.active.is_empty() { ReadStatus::End } else { ReadStatus::More })
    }

    fn snapshot(&mut self) -> Result<Vec<Split>> {
        let mut splits: Vec<&FileSplit> = self.active.iter().map(|a| &a.split).chain(&self.waiting).collect();
        splits.sort_by_key(|s| (s.pass, s.index));
        splits.into_iter().map(FileSplit::encode).collect()
    }
}
