//! The fixed, seeded, versioned hash of keys. Key groups are ranges of this hash, so a change of it is a change of the
//! snapshot format.

/// Version of the hash functions in this file, stored in each snapshot.
pub const HASH_VERSION: u32 = 1;

const SEED: u64 = 0x5765_6972_2e68_7631; // "Weir.hv1"
const SECRETS: rapidhash::v3::RapidSecrets = rapidhash::v3::RapidSecrets::seed_cpp(SEED);

/// Hash of a byte string.
#[inline]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    if bytes.len() <= 16 {
        // the same function up to this length (`short_strings_hash_as_long_ones_do`), and inlined
        rapidhash::v3::rapidhash_v3_inline::<true, true, false>(bytes, &SECRETS)
    } else {
        hash_long(bytes)
    }
}

#[inline(never)]
fn hash_long(bytes: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3_micro_inline::<true, false>(bytes, &SECRETS)
}

/// Whether two byte strings are the same. Short ones, as most keys are, by two loads each and no call.
#[inline]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    fn word<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
        bytes.get(at..at + N)?.first_chunk()
    }
    let n = a.len();
    if n != b.len() {
        return false;
    }
    match n {
        // the first and the last word overlap
        8..=16 => word::<8>(a, 0) == word::<8>(b, 0) && word::<8>(a, n - 8) == word::<8>(b, n - 8),
        4..=7 => word::<4>(a, 0) == word::<4>(b, 0) && word::<4>(a, n - 4) == word::<4>(b, n - 4),
        _ => a == b,
    }
}

/// Hash of an integer of at most 64 bits (signed ones by their two's complement, sign-extended).
#[inline]
pub fn hash_u64(x: u64) -> u64 {
    // two rounds of multiply and fold (as wyhash does): every input bit reaches the top bits, which choose the key group
    let fold = |a: u64, b: u64| {
        let p = u128::from(a) * u128::from(b);
        p as u64 ^ (p >> 64) as u64
    };
    fold(fold(x ^ SEED, 0xa076_1d64_78bd_642f), x ^ 0xe703_7ed1_a0b4_28db)
}

/// Hash of a pair, given the hashes of its parts. Not symmetric.
#[inline]
pub fn hash_combine(a: u64, b: u64) -> u64 {
    hash_u64(a.rotate_left(23) ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_strings_hash_as_long_ones_do() {
        let text: Vec<u8> = (5..).step_by(37).map(|i: u32| i as u8).take(40).collect();
        for n in 0..=text.len() {
            assert_eq!(hash_bytes(&text[..n]), hash_long(&text[..n]), "{n} bytes");
        }
    }

    #[test]
    fn bytes_are_the_same_when_all_are() {
        let text: Vec<u8> = (0..40).collect();
        for n in 0..=text.len() {
            let copy = text[..n].to_vec();
            assert!(same_bytes(&text[..n], &copy), "{n} bytes");
            assert!(n == 0 || !same_bytes(&text[..n], &text[..n - 1]), "{n} bytes and one less");
            for changed in 0..n {
                let mut other = text[..n].to_vec();
                other[changed] ^= 0x80;
                assert!(!same_bytes(&text[..n], &other), "{n} bytes, byte {changed} differs");
            }
        }
    }
}
