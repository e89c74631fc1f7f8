use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::watch::longest_gap;
use super::{Expected, Order, OutputFiles, OutputWatch, Report, check};

const INPUT: &str = "scheduled,departed,carrier,flight,tail,origin,dest,dep_delay_min,arr_delay_min,distance_mi\n\
    2013-01-01T10:15Z,2013-01-01T10:17Z,UA,1545,N1,EWR,IAH,2,11,1400\n\
    2013-01-01T10:29Z,2013-01-01T10:33Z,UA,1714,N2,LGA,IAH,-4,20,1416\n\
    2013-01-01T10:30Z,,UA,1,N1,LGA,IAH,,,1416\n\
    2013-01-01T10:31Z,2013-01-01T10:31Z,UA,2,,LGA,IAH,0,,1416\n\
    2013-01-01T10:40Z,2013-01-01T11:00Z,UA,7,N1,LGA,IAH,20,20,1416\n";

/// The right output of two readings, written by hand.
const OUTPUT: [&str; 6] = [
    r#"{"tail":"N1","flight":"UA1545","departed":"2013-01-01T10:17Z","legs":1,"late":0,"worst_delay_min":2}"#,
    r#"{"tail":"N2","flight":"UA1714","departed":"2013-01-01T10:33Z","legs":1,"late":0,"worst_delay_min":-4}"#,
    r#"{"tail":"N1","flight":"UA7","departed":"2013-01-01T11:00Z","legs":2,"late":1,"worst_delay_min":20}"#,
    r#"{"tail":"N1","flight":"UA1545","departed":"2013-01-01T10:17Z","legs":3,"late":1,"worst_delay_min":20}"#,
    r#"{"tail":"N2","flight":"UA1714","departed":"2013-01-01T10:33Z","legs":2,"late":0,"worst_delay_min":-4}"#,
    r#"{"tail":"N1","flight":"UA7","departed":"2013-01-01T11:00Z","legs":4,"late":2,"worst_delay_min":20}"#,
];

fn judge(rows: &[&str], order: Order) -> Report {
    let dir = tempfile::tempdir().expect("dir");
    fs::create_dir(dir.path().join("day=1")).expect("dir");
    let (a, b) = rows.split_at(rows.len() / 2);
    fs::write(dir.path().join("part-0"), a.join("\n") + "\n").expect("part");
    fs::write(dir.path().join("day=1/part-1"), b.join("\n")).expect("part");
    let expected = Expected::from_csv(INPUT.as_bytes(), 2).expect("expected");
    check(dir.path(), &expected, order).expect("report")
}

#[test]
fn right_output_is_exact_in_whatever_order_its_rows_lie() {
    for order in [Order::Kept, Order::Free] {
        assert!(judge(&OUTPUT, order).is_exact());
        let mut turned = OUTPUT;
        turned.reverse();
        let report = judge(&turned, order);
        assert!(report.is_exact(), "{report}");
    }
}

#[test]
fn a_lost_row_is_counted_and_is_a_hole_only_before_a_later_one() {
    let last = judge(&OUTPUT[..5], Order::Kept);
    assert_eq!((last.lost, last.holes, last.double, last.wrong), (1, 0, 0, 0));
    assert!(last.is_exact_so_far() && !last.is_exact());
    let middle = judge(&[&OUTPUT[..2], &OUTPUT[3..]].concat(), Order::Kept);
    assert_eq!((middle.lost, middle.holes), (1, 1));
    assert!(middle.must_be_exact_so_far().is_err());
}

#[test]
fn a_double_row_is_counted_even_when_another_is_lost() {
    let mut rows = OUTPUT.to_vec();
    rows[4] = rows[0];
    let report = judge(&rows, Order::Kept);
    assert_eq!((report.rows, report.lost, report.double, report.wrong), (6, 1, 1, 0));
}

#[test]
fn wrong_content_is_counted() {
    let wrong = [
        // State that was started anew: the worst delay of the first reading is forgotten.
        (r#"{"tail":"N1","flight":"UA1545","departed":"2013-01-01T10:17Z","legs":3,"late":1,"worst_delay_min":2}"#, 3),
        (r#"{"tail":"N1","flight":"UA7","departed":"2013-01-01T11:00Z","legs":1,"late":0,"worst_delay_min":2}"#, 0),
        (r#"{"tail":"N1","flight":"UA7""#, 0),
        (r#"{"tail":"N9","flight":"UA7","departed":"2013-01-01T11:00Z","legs":1,"late":0,"worst_delay_min":2}"#, 0),
        (r#"{"tail":"N1","flight":"UA7","departed":"2013-01-01T11:00Z","legs":5,"late":0,"worst_delay_min":2}"#, 0),
        (r#"{"tail":"N1","flight":"UA7","departed":"2013-01-01T11:00Z","legs":0,"late":0,"worst_delay_min":2}"#, 0),
    ];
    for (row, at) in wrong {
        let mut rows = OUTPUT.to_vec();
        rows[at] = row;
        let report = judge(&rows, Order::Kept);
        assert_eq!(report.wrong, 1, "{row}: {report}");
    }
}

#[test]
fn in_free_order_a_departure_that_stands_in_for_another_is_found() {
    let mut rows = OUTPUT.to_vec();
    // Leg 2 of N1 with the departure of leg 1: that one then comes three times.
    rows[2] = r#"{"tail":"N1","flight":"UA1545","departed":"2013-01-01T10:17Z","legs":2,"late":0,"worst_delay_min":2}"#;
    assert_eq!(judge(&rows, Order::Free).wrong, 1);
    // The last leg holds the totals.
    let mut rows = OUTPUT.to_vec();
    rows[5] = r#"{"tail":"N1","flight":"UA7","departed":"2013-01-01T11:00Z","legs":4,"late":1,"worst_delay_min":20}"#;
    assert_eq!(judge(&rows, Order::Free).wrong, 1);
}

#[test]
fn the_real_input_makes_its_known_number_of_rows() {
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/examples/flights/flights-2013.csv.zst");
    let expected = Expected::from_file(&input, 1).expect("expected");
    // 336,776 rows less 8,255 cancelled ones; every flight that departed has a tail number.
    assert_eq!((expected.total(), expected.tails().count()), (328_521, 4_037));
}

#[test]
fn uncommitted_and_foreign_files_are_no_output() {
    let dir = tempfile::tempdir().expect("dir");
    for name in ["part-0", ".part-1.open", "note.txt"] {
        fs::write(dir.path().join(name), "x").expect("file");
    }
    fs::create_dir(dir.path().join(".pending")).expect("dir");
    fs::write(dir.path().join(".pending/part-9"), "x").expect("file");
    let files = OutputFiles::of(dir.path()).expect("files");
    assert_eq!((files.parts.len(), files.hidden.len(), files.foreign.len()), (1, 1, 1));
}

#[test]
fn the_longest_gap_counts_both_ends() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let times = [at(1), at(2), at(6), at(7)];
    let gap = |from, to| longest_gap(times.into_iter(), at(from), at(to)).as_secs();
    assert_eq!(gap(0, 8), 4);
    assert_eq!(gap(6, 20), 13);
    assert_eq!(gap(3, 5), 2);
}

#[test]
fn a_watch_sees_only_new_files_with_content() {
    let dir = tempfile::tempdir().expect("dir");
    fs::write(dir.path().join("part-old"), "x").expect("part");
    let watch = OutputWatch::start(dir.path()).expect("watch");
    let begun = Instant::now();
    fs::write(dir.path().join(".part-1"), "x").expect("part");
    fs::write(dir.path().join("part-empty"), "").expect("part");
    fs::rename(dir.path().join(".part-1"), dir.path().join("part-1")).expect("rename");
    watch.wait_after(begun, Duration::from_secs(20)).expect("arrival");
    let names: Vec<_> = watch
        .arrivals()
        .iter()
        .filter(|arrival| arrival.bytes > 0)
        .filter_map(|arrival| arrival.file.file_name()?.to_str().map(str::to_owned))
        .collect();
    assert_eq!(names, ["part-1"]);
}
