//! The windows' output against a naive computation on the input, line by line.
use super::*;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::Path;

const INPUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/flights/flights-2013.csv.zst");
const HOUR_MS: i64 = 3_600_000;

/// Origin and start of the window.
type Key = (String, String);

#[derive(Debug, Default, Clone, PartialEq)]
struct Expected {
    flights: u64,
    late: u64,
    delays: Vec<i64>,
}

impl Expected {
    fn row(&self) -> (u64, u64, Option<f64>) {
        let mean = self.delays.iter().sum::<i64>() as f64 / self.delays.len() as f64;
        (self.flights, self.late, Some(mean).filter(|m| m.is_finite()))
    }
}

/// A line of the windows' output. The mean is read by the standard library, which rounds correctly.
#[derive(Deserialize)]
struct Row {
    origin: String,
    window_start: String,
    flights: u64,
    late: u64,
    mean_delay_min: Box<RawValue>,
}

/// The rules, naively: a departure is too late if its hour ended more than the lateness before event time, which is the
/// latest departure seen before it, less the out-of-orderness.
fn naive(csv: &str) -> (BTreeMap<Key, Expected>, u64) {
    let mut rows = csv.lines();
    let header: Vec<&str> = rows.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let (departed, origin, delay) = (column("departed"), column("origin"), column("dep_delay_min"));
    let (mut windows, mut too_late, mut latest) = (BTreeMap::<Key, Expected>::new(), 0, None::<i64>);
    for row in rows {
        let row: Vec<&str> = row.split(',').collect();
        if row[departed].is_empty() {
            continue;
        }
        let time: Minute = serde_json::from_value(Value::from(row[departed])).unwrap();
        let start = time.ms() - time.ms().rem_euclid(HOUR_MS);
        let watermark = latest.map(|l| l - 30 * 60_000 - 1);
        latest = latest.max(Some(time.ms()));
        if watermark.is_some_and(|w| start + HOUR_MS - 1 + 6 * HOUR_MS <= w) {
            too_late += 1;
            continue;
        }
        let e = windows.entry((row[origin].to_owned(), Minute::of_ms(start).to_string())).or_default();
        let delay: Option<i64> = row[delay].parse().ok();
        e.flights += 1;
        e.late += u64::from(delay.is_some_and(|d| d > 15));
        e.delays.extend(delay);
    }
    (windows, too_late)
}

/// Lines of all part files of a folder, in the order of their names.
fn lines<T: serde::de::DeserializeOwned>(folder: &Path) -> Vec<T> {
    let mut parts: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    parts.sort();
    let part = |p: &std::path::PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("part-"));
    let text = parts.iter().filter(|p| part(p)).map(|p| std::fs::read_to_string(p).unwrap());
    text.flat_map(|t| t.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<T>>()).collect()
}

/// The last row of each window, the number of rows, the number of late departures.
fn run(parallelism: u32) -> (BTreeMap<Key, (u64, u64, Option<f64>)>, usize, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let args = Arguments {
        input: INPUT.into(),
        output: path("legs"),
        windows: Some(path("windows")),
        rate: None,
        repeat: 1,
        skip_bad_records: false,
    };
    weir::testing::run(parallelism, move |job| flights(job, &args).unwrap()).unwrap();
    let rows: Vec<Row> = lines(&folder.path().join("windows/hours"));
    let number = rows.len();
    let last = rows
        .into_iter()
        .map(|r| ((r.origin, r.window_start), (r.flights, r.late, r.mean_delay_min.get().parse().ok())))
        .collect();
    let late = lines::<Value>(&folder.path().join("windows/late")).len();
    (last, number, late as u64)
}

fn csv() -> String {
    String::from_utf8(zstd::stream::decode_all(std::fs::File::open(INPUT).unwrap()).unwrap()).unwrap()
}

#[test]
fn the_last_row_of_each_window_is_what_a_naive_computation_gives() {
    let (expected, too_late) = naive(&csv());
    let (last, rows, late) = run(1);
    for (key, e) in &expected {
        assert_eq!(last.get(key), Some(&e.row()), "{key:?}");
    }
    assert_eq!(last.len(), expected.len());
    assert_eq!(late, too_late);
    assert!(too_late > 0 && rows > expected.len(), "the input has departures of both kinds of lateness");
}

#[test]
fn at_parallelism_2_each_departure_is_in_a_window_or_too_late_once() {
    let departed = csv().lines().skip(1).filter(|l| !l.split(',').nth(1).unwrap().is_empty()).count() as u64;
    let (last, _, late) = run(2);
    assert_eq!(last.values().map(|w| w.0).sum::<u64>() + late, departed);
}
