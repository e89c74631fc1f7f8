//! Key groups: ranges of the key hash, the unit in which keyed state moves between subtasks.
use std::ops::Range;

/// Key group of a hash: `0..max_parallelism`, in the order of the hash.
#[inline]
pub const fn key_group(hash: u64, max_parallelism: u32) -> u32 {
    ((hash as u128 * max_parallelism as u128) >> 64) as u32
}

/// Subtask that owns a key group: `group * parallelism / max_parallelism`, as in Flink.
#[inline]
pub const fn subtask_of(group: u32, parallelism: u32, max_parallelism: u32) -> u32 {
    (group as u64 * parallelism as u64 / max_parallelism as u64) as u32
}

/// Key groups that a subtask owns: those for which [`subtask_of`] gives it.
///
/// ```
/// # use weir::graph::key_group_range;
/// assert_eq!([0, 1, 2].map(|i| key_group_range(i, 3, 128)), [0..43, 43..86, 86..128]);
/// ```
pub const fn key_group_range(subtask: u32, parallelism: u32, max_parallelism: u32) -> Range<u32> {
    const fn first(s: u64, p: u64, max: u64) -> u32 {
        (s * max).div_ceil(p) as u32
    }
    let (s, p, max) = (subtask as u64, parallelism as u64, max_parallelism as u64);
    first(s, p, max)..first(s + 1, p, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_the_inverse_of_subtask_of() {
        for max in [1, 2, 7, 128, 1000] {
            for p in 1..=max.min(130) {
                for s in 0..p {
                    let expected: Vec<u32> = (0..max).filter(|&g| subtask_of(g, p, max) == s).collect();
                    assert_eq!(key_group_range(s, p, max).collect::<Vec<_>>(), expected, "{s} of {p}, {max} groups");
                }
            }
        }
    }

    #[test]
    fn key_groups_are_in_the_order_of_the_hash() {
        assert_eq!((key_group(0, 128), key_group(u64::MAX, 128), key_group(u64::MAX / 2, 128)), (0, 127, 63));
    }
}
