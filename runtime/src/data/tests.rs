use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Nested = (u8, (i64, String), Option<Vec<(Str, bool)>>, BTreeMap<u32, Vec<u8>>);

fn bytes<T: Data>(x: &T) -> Vec<u8> {
    let mut out = Vec::new();
    x.encode(&mut out);
    out
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(a in any::<u8>(), b in any::<i64>(), s in ".*", list in proptest::option::of(prop::collection::vec((".{0,40}", any::<bool>()), 0..9)), m in prop::collection::btree_map(any::<u32>(), prop::collection::vec(any::<u8>(), 0..50), 0..9)) {
        let x: Nested = (a, (b, s), list.map(|l| l.into_iter().map(|(s, b)| (Str::from(s), b)).collect()), m);
        let all = bytes(&x);
        let mut input = &all[..];
        prop_assert_eq!(Nested::decode(&mut input), Ok(x));
        prop_assert!(input.is_empty());
        for cut in 0..all.len() {
            prop_assert!(Nested::decode(&mut &all[..cut]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(b in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Nested::decode(&mut &b[..]);
        let _ = Vec::<Vec<String>>::decode(&mut &b[..]);
    }
}

#[test]
fn a_huge_claimed_length_allocates_nothing_like_it() {
    let mut b = Vec::new();
    put_len(&mut b, usize::MAX);
    assert!(Vec::<()>::decode(&mut &b[..]).is_err());
    assert!(Vec::<u64>::decode(&mut &b[..]).is_err());
    assert!(String::decode(&mut &b[..]).is_err());
    assert!(BTreeMap::<(), ()>::decode(&mut &b[..]).is_err());
    assert!(take_len(&mut &[0xff; 11][..]).is_err());
}

/// The hashes place keys in key groups, also of snapshots already written: these numbers must never change.
#[test]
fn key_hashes_are_pinned() {
    let got = [
        Str::from("N14228").key_hash(),
        String::new().key_hash(),
        "a key that is longer than sixteen bytes".to_string().key_hash(),
        0u64.key_hash(),
        1i32.key_hash(),
        (-1i64).key_hash(),
        (7u32, Str::from("x")).key_hash(),
    ];
    assert_eq!(got, PINNED, "{got:#x?}");
}
const PINNED: [u64; 7] = [
    0x6d43_e3de_1b67_0d6e,
    0x2477_e44c_57ac_78e3,
    0xc819_3383_007d_80be,
    0x2d18_d4d9_51e4_d4e0,
    0xdd61_2496_46e0_fd87,
    0x5b97_6155_303b_60a7,
    0x89b3_01d9_2559_5fb4,
];

#[test]
fn hashes_of_small_integers_spread_over_the_key_groups() {
    let mut seen = [0u32; 128];
    for i in 0..12_800u64 {
        seen[((u128::from(i.key_hash()) * 128) >> 64) as usize] += 1;
    }
    assert!(seen.iter().all(|&n| (50..200).contains(&n)), "{seen:?}");
}

#[test]
fn types_read_like_rust() {
    assert_eq!(Nested::type_of().to_string(), "(u8, (i64, String), Option<Vec<(String, bool)>>, Map<u32, Bytes>)");
}
