use super::*;
use crate::connectors::testing::output;
use crate::data::{DecodeError, Str, Type};
use proptest::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `Data` by way of JSON, for types whose reading is what is tested.
macro_rules! data {
    ($($t:ty),*) => {$(
        impl Data for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend(format!("{self:?}").into_bytes());
            }
            fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
                Err(DecodeError::Invalid("not needed"))
            }
            fn type_of() -> Type {
                Type::Unit
            }
        }
    )*};
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Flight {
    tail: Str,
    delay: Option<i32>,
    miles: f64,
}
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Alias {
    #[serde(alias = "b")]
    a: Str,
    c: Str,
}
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    a: Str,
}
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Defaults {
    #[serde(default)]
    a: u32,
    #[serde(rename = "B")]
    b: Option<bool>,
    #[serde(skip)]
    c: u8,
    kind: Kind,
}
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Early,
    Late,
}
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Wrapped(Flight);
data!(Flight, Alias, Strict, Defaults, Wrapped);

fn parse<T: Data + DeserializeOwned>(csv: Csv<T>, header: Option<&str>, lines: &[&str]) -> Result<Vec<T>, Box<Bad>> {
    let mut parser = csv.parser();
    if let Some(h) = header {
        parser.header(h)?;
    }
    let (mut out, kept) = output();
    for line in lines {
        parser.parse(line, &mut out)?;
    }
    out.emit();
    let all = std::mem::take(&mut *kept.lock().unwrap());
    Ok(all)
}
fn refused<T: Data + DeserializeOwned + std::fmt::Debug>(header: &str, line: &str) -> Bad {
    *parse::<T>(Csv::default(), Some(header), &[line]).unwrap_err()
}

#[test]
fn columns_are_matched_by_name_in_any_order() {
    let want = |tail: &str, delay| Flight { tail: tail.into(), delay, miles: 1.5 };
    let got = parse(
        Csv::<Flight>::default(),
        Some("x,miles,tail,delay"),
        &["9,1.5,N1,-3", "", "9,1.5,\"N\"\"2\",", "\"\",\"1.5\",é,7"],
    )
    .unwrap();
    assert_eq!(got, [want("N1", Some(-3)), want("N\"2", None), want("é", Some(7))]);
    let wrapped = parse::<Wrapped>(Csv::default(), Some("delay,miles,tail"), &["1,1.5,a", "2,1.5,b"]).unwrap();
    assert_eq!(wrapped, [Wrapped(want("a", Some(1))), Wrapped(want("b", Some(2)))]);
}

#[test]
fn what_serde_can_say_about_fields_holds_for_every_record() {
    let alias = parse::<Alias>(Csv::default(), Some("b,c"), &["1,2", "3,4"]).unwrap();
    assert_eq!(alias[1], Alias { a: "3".into(), c: "4".into() });
    let d = parse::<Defaults>(Csv::default(), Some("kind,B"), &["early,true", "late,"]).unwrap();
    assert_eq!(d[0], Defaults { a: 0, b: Some(true), c: 0, kind: Kind::Early });
    assert_eq!(d[1], Defaults { a: 0, b: None, c: 0, kind: Kind::Late });
    assert!(refused::<Strict>("a,z", "1,2").reason.contains("unknown field"));
    // a first record that is bad leaves the way of reading open
    let mut p = Csv::<Flight>::default().parser();
    p.header("tail,delay,miles").unwrap();
    assert!(p.value("a,x,1").is_err());
    assert_eq!(p.value("a,2,1.5").unwrap(), Flight { tail: "a".into(), delay: Some(2), miles: 1.5 });
    assert!(matches!(p.plan, Plan::InOrder(_)));
}

#[test]
fn without_a_header_fields_go_by_order() {
    let mut csv = Csv::<(Str, u64)>::default();
    csv.set_no_header();
    csv.set_delimiter(b';');
    assert_eq!(parse(csv.clone(), None, &["a;1", "b;2"]).unwrap(), [("a".into(), 1), ("b".into(), 2)]);
    assert!(
        parse(csv.clone(), None, &["a;1;2"]).unwrap_err().reason.contains("has 3 fields, of which the type takes 2")
    );
    assert!(parse(csv, None, &["a"]).unwrap_err().reason.contains("ends before field 2"));
    let mut one = Csv::<u64>::default();
    one.set_no_header();
    assert_eq!(parse(one.clone(), None, &["7"]).unwrap(), [7]);
    assert!(parse(one, None, &["7,8"]).unwrap_err().reason.contains("a single value"));
}

#[test]
fn maps_take_every_column() {
    let got = parse::<BTreeMap<String, u64>>(Csv::default(), Some("a,b"), &["1,2"]).unwrap();
    assert_eq!(got, [BTreeMap::from([("a".into(), 1), ("b".into(), 2)])]);
}

#[test]
fn bad_fields_are_named_with_column_and_reason() {
    let says = |line: &str, column: Option<&str>, reason: &str| {
        let bad = refused::<Flight>("tail,delay,miles", line);
        assert_eq!(bad.column.as_deref(), column, "{bad:?}");
        assert!(bad.reason.contains(reason), "{bad:?}");
        assert!(!bad.fatal);
    };
    says("a,x,1", Some("delay"), "\"x\" is not an i32 (invalid digit found in string)");
    says("a,99999999999,1", Some("delay"), "too large");
    says("a,1,", Some("miles"), "the field is empty, an f64 is needed (an Option would take it as None)");
    says("a,1", None, "has 2 fields, the header has 3");
    says("a,1,2,3", None, "has 4 fields, the header has 3");
    says("\"a,1,2", None, "the quote before field 1 is never closed");
    says("a,\"1\"2,3", None, "field 2 goes on after its closing quote");
    // the same in the fast way of reading, after a good record
    let bad = parse::<Flight>(Csv::default(), Some("miles,tail,delay"), &["1,a,2", "1,a,?"]).unwrap_err();
    assert_eq!(bad.column.as_deref(), Some("delay"));
}

#[test]
fn a_file_without_a_needed_column_is_refused_whatever_the_policy() {
    let bad = refused::<Flight>("tail,delay,km", "a,1,2");
    assert!(bad.fatal);
    assert_eq!(
        bad.reason,
        "the file has no column \"miles\", which the record type needs; its columns are: tail, delay, km"
    );
    let bad = refused::<Flight>("tail,delay,miles,tail", "a,1,2,b");
    assert!(bad.fatal && bad.reason.contains("names the column \"tail\" twice"), "{bad:?}");
    assert!(parse::<Flight>(Csv::default(), Some(""), &[]).unwrap_err().reason.contains("no header line"));
    let mut csv = Csv::<Flight>::default();
    csv.set_delimiter(b'\n');
    assert!(csv.check().is_err());
}

proptest! {
    /// Fields as the csv crate, written by many, understands them.
    #[test]
    fn fields_are_those_of_the_csv_crate(rows in prop::collection::vec(prop::collection::vec("[a,\" é]{0,6}", 1..6), 1..8)) {
        let mut w = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        for r in &rows {
            w.write_record(r).unwrap();
        }
        let text = String::from_utf8(w.into_inner().unwrap()).unwrap();
        let mut s = Splitter::new(b',');
        for (line, row) in text.lines().zip(&rows) {
            s.split(line).unwrap();
            let got: Vec<&str> = s.fields.iter().map(|f| f.text(line, &s.unescaped)).collect();
            prop_assert_eq!(got, row.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_text_is_split_or_refused(text in "[a,\"\r é]{0,30}") {
        let mut s = Splitter::new(b',');
        if s.split(&text).is_ok() {
            for f in &s.fields {
                prop_assert!(f.text(&text, &s.unescaped).len() <= text.len());
            }
        }
    }
}
