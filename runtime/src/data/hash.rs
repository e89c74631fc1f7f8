//! The fixed, seeded, versioned hash of keys. Key groups are ranges of this hash, so a change of it is a change of the
//! snapshot format.

/// Version of the hash functions in this file, stored in each snapshot.
pub const HASH_VERSION: u32 = 1;

const SEED: u64 = 0x5765_6972_2e68_7631; // "Weir.hv1"
const SECRETS: rapidhash::v3::RapidSecrets = rapidhash::v3::RapidSecrets::seed_cpp(SEED);

/// Hash of a byte string.
#[inline]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    rapidhash::v3::rapidhash_v3_micro_inline::<true, false>(bytes, &SECRETS)
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
