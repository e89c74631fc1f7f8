use super::*;
use crate::connectors::Collect;
use crate::connectors::source::{ReadStatus, SourceReader};
use crate::connectors::testing::{deal, drive, output, source_cx};
use crate::data::Str;
use crate::dataflow::harness::Harness;
use crate::job::{Job, KeyedProcessFunction, Timers, WatermarkStrategy};
use crate::state::{KeyRef, KeyedTable};
use proptest::prelude::*;
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    w.write_all(text).unwrap();
    w.finish().unwrap()
}
fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 1).unwrap()
}
fn file(dir: &TempDir, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    path
}
fn read_all<F: Format>(source: &FileSource<F>) -> Result<Vec<F::Record>> {
    let mut reader = source.reader(&source_cx(0, 1), source.enumerate(1)?)?;
    let (records, end) = drive(&mut reader, 1_000_000)?;
    assert!(end);
    Ok(records)
}
fn lines(path: &Path) -> Vec<Str> {
    read_all(&FileSource::lines(path)).unwrap()
}
fn csv(path: &Path) -> FileSource<Csv<(Str, i32)>> {
    FileSource::csv(path)
}

#[test]
fn lines_come_in_order_from_each_kind_of_file() {
    let dir = TempDir::new().unwrap();
    let text: String = (0..20_000).map(|i| format!("line {i}{}\n", "x".repeat(i % 97))).collect();
    let want: Vec<&str> = text.lines().collect();
    let two_members = [gzip(&text.as_bytes()[..1000]), gzip(&text.as_bytes()[1000..])].concat();
    for (name, content) in [
        ("plain", text.clone().into_bytes()),
        ("a.gz", gzip(text.as_bytes())),
        ("members.gz", two_members),
        ("a.zst", zstd(text.as_bytes())),
        ("zstd-by-content", zstd(text.as_bytes())),
    ] {
        assert_eq!(lines(&file(&dir, name, &content)), want, "{name}");
    }
}

#[test]
fn line_ends_marks_and_empty_files() {
    let dir = TempDir::new().unwrap();
    assert_eq!(lines(&file(&dir, "a", b"\xef\xbb\xbfa\r\n\r\nb\rc\n\nend")), ["a", "", "b\rc", "", "end"]);
    assert_eq!(lines(&file(&dir, "b", b"")), Vec::<Str>::new());
    assert_eq!(lines(&file(&dir, "c", b"\n")), [""]);
}

#[test]
fn several_files_are_read_in_order_and_repeated_as_a_whole() {
    let dir = TempDir::new().unwrap();
    file(&dir, "1.txt", b"a\nb\n");
    file(&dir, "2.txt", b"c\n");
    let source = FileSource::lines(dir.path().join("*.txt")).repeat(3);
    assert_eq!(read_all(&source).unwrap(), ["a", "b", "c"].repeat(3));
}

#[test]
fn csv_rows_may_hold_quoted_line_breaks_unless_declared_otherwise() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a.csv", b"\xef\xbb\xbfname,n\r\n\"x\ny\",1\r\n\nz,2\n\"p\"\"\n\nq\",3");
    assert_eq!(read_all(&csv(&path)).unwrap(), [("x\ny".into(), 1), ("z".into(), 2), ("p\"\n\nq".into(), 3)]);
    let e = read_all(&csv(&path).one_record_per_line()).unwrap_err().message;
    assert!(e.contains("line 2: the quote before field 1 is never closed (a quoted line break is not allowed"), "{e}");
}

#[test]
fn a_function_may_emit_any_number_of_records_per_line() {
    let dir = TempDir::new().unwrap();
    let text = "to be or not\n\nto be\n".repeat(2000);
    let path = file(&dir, "a", text.as_bytes());
    let words = FileSource::parse_lines(&path, |line, out| {
        line.split_whitespace().for_each(|w| out.push(Str::from(w)));
        Ok(())
    });
    assert_eq!(read_all(&words).unwrap().len(), 6 * 2000);
    let numbers = FileSource::parse_lines(&path, |line, out| {
        out.push(line.parse::<u64>()?);
        Ok(())
    });
    let e = read_all(&numbers).unwrap_err().message;
    assert!(e.contains("a, line 1: invalid digit found in string; the record is \"to be or not\""), "{e}");
}

#[test]
fn a_bad_record_fails_with_its_line_or_is_counted_and_skipped() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a.csv", b"name,n\na,1\nb,x\nc,3\n\"d\"x,4\n\xff,5\ne,6\n");
    let e = read_all(&csv(&path)).unwrap_err();
    assert_eq!(e.code, ErrorCode::BadRecord);
    assert!(e.message.contains("a.csv, line 3, column \"n\": \"x\" is not an i32"), "{e}");
    assert!(e.message.contains("the record is \"b,x\"") && e.message.contains("Skip"), "{e}");

    let source = csv(&path).on_bad_record(BadRecord::Skip);
    let cx = source_cx(0, 1);
    let mut reader = source.reader(&cx, source.enumerate(1).unwrap()).unwrap();
    let (records, _) = drive(&mut reader, 100).unwrap();
    assert_eq!(records, [("a".into(), 1), ("c".into(), 3), ("e".into(), 6)]);
    assert_eq!((cx.metrics.bad_records(), cx.metrics.records_in()), (3, 6));

    let e = read_all(&FileSource::lines(file(&dir, "b", b"ok\nalso ok\nnot \xff ok\n"))).unwrap_err().message;
    assert!(e.contains("b, line 3: it is not UTF-8"), "{e}");
}

#[test]
fn the_line_is_named_in_ranges_too() {
    let dir = TempDir::new().unwrap();
    let text: String = (0..1000).map(|i| if i == 777 { "x\n".into() } else { format!("{i}\n") }).collect();
    let path = file(&dir, "a", text.as_bytes());
    let source = FileSource::parse_lines(&path, |line, out| {
        out.push(line.parse::<u64>()?);
        Ok(())
    })
    .range_bytes(100);
    let splits = source.enumerate(1).unwrap();
    assert!(splits.len() > 30);
    let failed: Vec<String> = splits
        .into_iter()
        .filter_map(|s| drive(&mut source.reader(&source_cx(0, 1), vec![s]).unwrap(), 100).err())
        .map(|e| e.message)
        .collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0].contains("line 778: invalid digit"), "{failed:?}");
}

#[test]
fn damaged_and_missing_input_is_named() {
    let dir = TempDir::new().unwrap();
    let text: String = (0..50_000u64).map(|i| format!("{}\n", crate::connectors::random(1, i))).collect();
    let says = |path: &Path, what: &str| {
        let e = read_all(&FileSource::lines(path)).unwrap_err().message;
        assert!(e.contains(what) && e.contains(path.to_str().unwrap()), "{e}");
    };
    for (name, whole) in [("a.gz", gzip(text.as_bytes())), ("a.zst", zstd(text.as_bytes()))] {
        says(&file(&dir, name, &whole[..whole.len() / 2]), "is truncated");
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 64].fill(0x55);
        says(&file(&dir, name, &damaged), "stream cannot be read beyond byte");
        says(&file(&dir, name, b"plain"), "promises compression");
    }
    says(&dir.path().join("nowhere"), "No such file");
    let header = file(&dir, "empty.csv", b"");
    assert!(read_all(&csv(&header)).unwrap_err().message.contains("no header line"));
    let zero = FileSource::lines(&header).repeat(0);
    assert!(zero.enumerate(1).unwrap_err().message.contains("0 times"));
    let none = FileSource::lines(&header).side_by_side(0);
    assert!(none.enumerate(1).unwrap_err().message.contains("0 files side by side"));
    assert!(FileSource::lines(&header).rate(-1.0).enumerate(1).is_err());
}

#[test]
fn restoring_refuses_a_changed_file_and_other_files() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a", "line\n".repeat(5000).as_bytes());
    let source = FileSource::lines(&path);
    let mut reader = source.reader(&source_cx(0, 1), source.enumerate(1).unwrap()).unwrap();
    drive(&mut reader, 1).unwrap();
    let splits = reader.snapshot().unwrap();

    let other = file(&dir, "b", b"x\n");
    let e = FileSource::lines(&other).reader(&source_cx(0, 1), splits.clone()).err().unwrap();
    assert!(e.message.contains("which is not among the files that the job reads now"), "{e}");

    std::fs::write(&path, "line\n".repeat(5001)).unwrap();
    let mut reader = source.reader(&source_cx(0, 1), splits.clone()).unwrap();
    let e = drive(&mut reader, 1).unwrap_err();
    assert!(e.message.contains("has changed since the job began to read it (it had 25000 bytes and has 25005)"), "{e}");
    assert!(
        source
            .reader(&source_cx(0, 1), vec![b"{}".to_vec()])
            .err()
            .unwrap()
            .message
            .contains("was the source replaced")
    );
}

#[test]
fn the_rate_holds_for_all_readers_together() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "a", "line\n".repeat(100_000).as_bytes());
    for (parallelism, readers, want) in [(1, 1, 10_000), (4, 2, 5_000)] {
        let source = FileSource::lines(&path).rate(10_000.0).range_bytes(if readers == 1 { u64::MAX } else { 250_000 });
        let split = source.enumerate(1).unwrap().remove(0);
        let mut reader = source.reader(&source_cx(0, parallelism), vec![split]).unwrap();
        let (mut out, kept) = output();
        let start = std::time::Instant::now();
        let mut now = start;
        while now < start + std::time::Duration::from_secs(1) {
            if let ReadStatus::Wait(at) = reader.read(&mut out, now).unwrap() {
                now = at.unwrap();
            }
        }
        out.emit();
        let n = kept.lock().unwrap().len();
        assert!((want - 200..=want + 100).contains(&n), "{n}");
    }
}

/// Says of each record how far behind it event time is; negative: it is late.
struct Drift(Timers<u64>);
impl KeyedProcessFunction for Drift {
    type Key = u64;
    type In = (u64, i64);
    type Out = (u64, i64, i64);
    fn states(&mut self) -> Vec<&mut dyn KeyedTable<u64>> {
        vec![&mut self.0]
    }
    fn timers(&mut self) -> Option<&mut Timers<u64>> {
        Some(&mut self.0)
    }
    fn process(&mut self, _: &KeyRef<'_, u64>, r: &(u64, i64), out: &mut Output<Self::Out>) -> Result<()> {
        out.push((r.0, r.1, r.1.saturating_sub(self.0.watermark())));
        Ok(())
    }
}

#[test]
fn files_of_the_same_time_read_side_by_side_make_no_record_late() {
    let dir = TempDir::new().unwrap();
    let text = |file: u64, times: std::ops::Range<i64>| -> String { times.map(|t| format!("{file} {t}\n")).collect() };
    // of different lengths, compressed and in ranges; the last one comes when the second has ended
    file(&dir, "f1", text(1, 0..20_000).as_bytes());
    file(&dir, "f2", &gzip(text(2, 0..9_000).as_bytes()));
    file(&dir, "f3", text(3, 9_000..15_000).as_bytes());
    let run = |side: usize| {
        let sink = Collect::new();
        let mut job = Job::default();
        let parse = |line: &str, out: &mut Output<(u64, i64)>| {
            let (file, time) = line.split_once(' ').ok_or_else(|| anyhow::anyhow!("no time"))?;
            out.push((file.parse()?, time.parse()?));
            Ok(())
        };
        job.source("in", FileSource::parse_lines(dir.path().join("f*"), parse).range_bytes(50_000).side_by_side(side))
            .watermarks(WatermarkStrategy::monotonous().timestamps(|r: &(u64, i64)| r.1))
            .key_by_value(|_| 0u64)
            .process_function("drift", || Drift(Timers::new("timers")))
            .sink("out", sink.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { Harness::start(job.into_graph(), 1).await.unwrap().finish().await.unwrap() });
        sink.records()
    };
    let records = run(2);
    assert_eq!(records.len(), 35_000);
    assert!(records.iter().all(|r| r.2 > 0), "none is late");
    for f in 1..=3 {
        let times: Vec<i64> = records.iter().filter(|r| r.0 == f).map(|r| r.1).collect();
        assert!(times.is_sorted(), "file {f} comes in its order");
    }
    // event time goes on while they are read: it is a few batches behind
    let behind = records.iter().skip(5_000).map(|r| r.2).max().unwrap();
    assert!(behind < 8 * 1024, "{behind}");
    let late = run(1).iter().filter(|r| r.2 <= 0).count();
    assert_eq!(late, 15_000, "one after the other, the second and the third come late");
}

/// One line of a kind, at random.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zé]{0,8}", "[a-z]{60,90}", "\r?[a-z]{1,3}\r?"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever the content, the ranges, the moments of the snapshots, the parallelisms: each line comes once per pass.
    #[test]
    fn each_line_comes_exactly_once_over_any_restores(
        files in prop::collection::vec((prop::collection::vec(line(), 0..60), any::<bool>(), 0..3u8), 1..4),
        scale in prop_oneof![Just(1usize), Just(60)],
        range in 4u64..200,
        repeat in 1u64..4,
        side in 1usize..4,
        rounds in prop::collection::vec((1usize..5, 0usize..5), 0..6),
    ) {
        let dir = TempDir::new().unwrap();
        let mut want: Vec<String> = Vec::new();
        for (i, (lines, ends, kind)) in files.iter().enumerate() {
            let mut text = String::new();
            for n in 0..scale {
                for (j, l) in lines.iter().enumerate() {
                    let break_ = if !*ends && n + 1 == scale && j + 1 == lines.len() && !l.is_empty() { "" } else { "\n" };
                    text += &format!("{}{l}{break_}", if l.is_empty() { String::new() } else { format!("{i}:{n}:{j}:") });
                }
            }
            want.extend(text.split_terminator('\n').map(|l| l.strip_suffix('\r').unwrap_or(l).to_string()));
            let content = match kind { 0 => text.into_bytes(), 1 => gzip(text.as_bytes()), _ => zstd(text.as_bytes()) };
            file(&dir, &format!("f{i}"), &content);
        }
        let mut want = vec![want; repeat as usize].concat();
        let source = FileSource::lines(dir.path().join("f*")).range_bytes(range * scale as u64).repeat(repeat).side_by_side(side);
        let mut splits = source.enumerate(1).unwrap();
        let mut got: Vec<Str> = Vec::new();
        for (p, calls) in rounds {
            let mut next = Vec::new();
            for (i, hand) in deal(std::mem::take(&mut splits), p).into_iter().enumerate() {
                let mut r = source.reader(&source_cx(i as u32, p as u32), hand).unwrap();
                got.extend(drive(&mut r, calls).unwrap().0);
                next.extend(r.snapshot().unwrap());
            }
            splits = next;
        }
        let mut r = source.reader(&source_cx(0, 1), splits).unwrap();
        let (rest, end) = drive(&mut r, 1_000_000).unwrap();
        prop_assert!(end);
        got.extend(rest);
        got.sort_unstable();
        want.sort_unstable();
        prop_assert!(got == want, "{} of {} lines", got.len(), want.len());
    }

    /// CSV with quoted breaks, and CSV by line in ranges, against the csv crate.
    #[test]
    fn csv_is_read_as_the_csv_crate_reads_it(
        rows in prop::collection::vec(("[a,\" é]{0,6}(\n[a\"]{0,3})?", any::<i32>()), 0..80),
        crlf in any::<bool>(),
        calls in 0usize..4,
        range in 4u64..300,
    ) {
        let dir = TempDir::new().unwrap();
        let write = |rows: &[(String, i32)]| {
            let terminator = if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
            let mut w = csv::WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
            w.write_record(["name", "n"]).unwrap();
            for r in rows {
                w.serialize(r).unwrap();
            }
            file(&dir, "a.csv", &w.into_inner().unwrap())
        };
        let source = csv(&write(&rows));
        let mut r = source.reader(&source_cx(0, 1), source.enumerate(3).unwrap()).unwrap();
        let mut got = drive(&mut r, calls).unwrap().0;
        let mut r = source.reader(&source_cx(0, 1), r.snapshot().unwrap()).unwrap();
        got.extend(drive(&mut r, 10_000).unwrap().0);
        prop_assert_eq!(&got, &rows.iter().map(|(a, n)| (Str::from(a), *n)).collect::<Vec<_>>());

        let rows: Vec<(String, i32)> = rows.into_iter().map(|(a, n)| (a.replace('\n', ""), n)).collect();
        let source = csv(&write(&rows)).one_record_per_line().range_bytes(range);
        let mut got = Vec::new();
        for hand in deal(source.enumerate(3).unwrap(), 3) {
            got.extend(drive(&mut source.reader(&source_cx(0, 3), hand).unwrap(), 10_000).unwrap().0);
        }
        got.sort();
        let mut want: Vec<_> = rows.iter().map(|(a, n)| (Str::from(a), *n)).collect();
        want.sort();
        prop_assert_eq!(got, want);
    }
}
