//! The macros as a job in another crate uses them.
use weir::data::{Column as _, Data, Key, Record, State, Str, hash_combine, hash_u64};

#[derive(Debug, Clone, PartialEq, Record)]
struct Departure {
    tail: Str,
    r#type: Option<u8>,
    legs: Vec<(i64, String)>,
}

#[derive(Debug, Clone, PartialEq, Default, State)]
struct Legs(u64, f64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Record, Key)]
struct Nothing;

#[derive(Debug, Clone, PartialEq, Eq, Record, Key)]
struct Id(u64);

#[derive(Debug, Clone, PartialEq, Eq, Record, Key)]
enum Place<T, const N: usize>
where
    T: Copy,
{
    Nowhere,
    At(T, T),
    Named { name: Str, id: Id },
}

fn round_trip<T: Data + PartialEq + std::fmt::Debug>(x: &T) {
    let mut column = Vec::new();
    T::encode_column([x, x].into_iter(), &mut column);
    column.extend_from_slice(&[0; weir::data::column::SLACK]);
    let (mut next, rest) = T::decode_column(&column, 2).unwrap();
    assert_eq!((next.read().as_ref(), next.read().as_ref(), rest.len()), (Ok(x), Ok(x), weir::data::column::SLACK));
    drop(next);
    let mut all = Vec::new();
    x.encode(&mut all);
    let mut input = &all[..];
    assert_eq!(T::decode(&mut input).as_ref(), Ok(x));
    assert!(input.is_empty());
    for cut in 0..all.len() {
        assert!(T::decode(&mut &all[..cut]).is_err());
    }
}

#[test]
fn every_shape_is_decoded_as_it_was_encoded() {
    round_trip(&Departure { tail: "N1".into(), r#type: Some(3), legs: vec![(-1, "x".into())] });
    round_trip(&Legs(7, 0.5));
    round_trip(&Nothing);
    round_trip(&Place::<u8, 1>::Nowhere);
    round_trip(&Place::<i32, 1>::At(1, 2));
    round_trip(&Place::<i32, 1>::Named { name: "EWR".into(), id: Id(4) });
    assert!(Place::<i32, 1>::decode(&mut &[3u8][..]).unwrap_err().to_string().contains("variant of Place"));
}

#[test]
fn schemas_name_types_fields_and_variants() {
    assert_eq!(
        Departure::type_of().to_string(),
        "Departure { tail: String, type: Option<u8>, legs: Vec<(i64, String)> }"
    );
    assert_eq!(Legs::type_of().to_string(), "Legs { 0: u64, 1: f64 }");
    assert_eq!(
        Place::<u8, 1>::type_of().to_string(),
        "enum Place { Nowhere | At(0: u8, 1: u8) | Named(name: String, id: Id { 0: u64 }) }"
    );
}

/// Snapshots already written depend on these.
#[test]
fn keys_hash_by_their_fields_in_order() {
    assert_eq!(Id(5).key_hash(), 5u64.key_hash());
    assert_eq!(Nothing.key_hash(), hash_u64(0));
    let at = |a, b| Place::<u8, 1>::At(a, b).key_hash();
    assert_eq!(at(1, 2), hash_combine(hash_combine(hash_u64(1), 1u8.key_hash()), 2u8.key_hash()));
    assert_ne!(at(1, 2), at(2, 1));
    assert_eq!(Place::<u8, 1>::Nowhere.key_hash(), hash_u64(0));
}
