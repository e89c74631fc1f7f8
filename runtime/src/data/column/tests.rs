use super::*;
use crate::data::Str;
use proptest::prelude::*;

/// The values of a column, read to its end, with the slack behind it.
fn back<T: Data>(values: &[T]) -> (Vec<T>, usize) {
    let mut bytes = Vec::new();
    T::encode_column(values.iter(), &mut bytes);
    let length = bytes.len();
    bytes.extend_from_slice(&[0xee; SLACK]);
    let (mut next, rest) = T::decode_column(&bytes, values.len()).unwrap();
    assert_eq!(rest, [0xee; SLACK]);
    (values.iter().map(|_| next.read().unwrap()).collect(), length)
}

proptest! {
    #[test]
    fn integers_come_back(around: i64, spread in 0u32..64, offsets in prop::collection::vec(any::<u64>(), 0..50)) {
        let values: Vec<i64> = offsets.iter().map(|x| around.wrapping_add((x & ((1 << spread) - 1)) as i64)).collect();
        prop_assert_eq!(back(&values).0, values.clone());
        let narrow: Vec<i16> = values.iter().map(|&x| x as i16).collect();
        prop_assert_eq!(back(&narrow).0, narrow);
        let unsigned: Vec<u64> = values.iter().map(|&x| x as u64).collect();
        prop_assert_eq!(back(&unsigned).0, unsigned);
    }

    #[test]
    fn strings_come_back(values in prop::collection::vec(".{0,50}", 0..40)) {
        let inline: Vec<Str> = values.iter().map(Str::from).collect();
        prop_assert_eq!(back(&values).0, values);
        prop_assert_eq!(back(&inline).0, inline);
    }

    #[test]
    fn garbage_is_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..100), n in 0usize..40) {
        fn read<T: Data>(bytes: &[u8], n: usize) {
            let Ok((mut next, rest)) = T::decode_column(bytes, n) else { return };
            assert!(rest.len() <= bytes.len());
            let _ = (0..n).try_for_each(|_| next.read().map(drop));
        }
        read::<u64>(&bytes, n);
        read::<i8>(&bytes, n);
        read::<Str>(&bytes, n);
        read::<(bool, Option<char>)>(&bytes, n);
        read::<Option<(f32, String)>>(&bytes, n);
        read::<Vec<u16>>(&bytes, n);
    }
}

#[test]
fn strings_of_each_length_are_copied_whole() {
    let values: Vec<String> = (0..70).map(|n| (0..n).map(|i| char::from(b'0' + (i % 70) as u8)).collect()).collect();
    assert_eq!(back(&values).0, values);
}

#[test]
fn a_column_is_as_wide_as_the_distance_between_its_integers() {
    for (values, width) in [
        (vec![-7i64; 3], 0),
        (vec![-7, 248, 0], 1),
        (vec![-7, 249, 0], 2),
        (vec![1 << 40, (1 << 40) + 65_536, 1 << 40], 4),
        (vec![i64::MIN, i64::MAX, 0], 8),
    ] {
        let (back, length) = back(&values);
        assert_eq!((back, length), (values, 9 + 3 * width));
    }
    assert_eq!(back::<u32>(&[]).1, 9);
}

#[test]
fn a_column_without_the_bytes_it_claims_is_refused() {
    let claim = |width: u8, bytes: usize| {
        let mut column = vec![width];
        column.resize(9 + bytes, 0);
        column
    };
    assert!(matches!(Words::new(&claim(3, 80), 4), Err(DecodeError::Invalid(_))));
    assert!(Words::new(&claim(8, 32 + SLACK), 4).is_ok());
    assert_eq!(Words::new(&claim(8, 32), 4).unwrap_err(), DecodeError::Truncated { missing: SLACK });
    assert_eq!(Words::new(&[1; 4], 4).unwrap_err(), DecodeError::Truncated { missing: 5 });
    // a length that would overflow a sum
    let mut strings = claim(0, 0);
    strings[1..9].fill(0xff);
    strings.extend_from_slice(&[0; 20]);
    assert!(matches!(Strings::new(&strings, 3), Err(DecodeError::Invalid(_))));
    let longer = [5, 0, 0, 0, 1, 2, 3, 4, 5];
    let (mut rows, _) = Rows::new(&longer, 1).unwrap();
    assert!(rows.take::<u8>().unwrap_err().to_string().contains("longer than its values"));
}
