//! Counts of durations in buckets that are at most 1.6 % wide: quantiles without keeping each value.
use serde::{Deserialize, Serialize};

/// Buckets per doubling.
const FINE: u64 = 64;
const BUCKETS: usize = (FINE as usize) * 40;

/// Microseconds, from 1 ns to hours.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Histogram {
    counts: Vec<u64>,
    pub max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], max_ns: 0 }
    }
}

/// Values below [`FINE`] have a bucket each, larger ones share it with those of the same leading seven bits.
fn bucket(ns: u64) -> usize {
    let shift = u64::from(ns.max(FINE).ilog2() - FINE.ilog2());
    ((shift * FINE + (ns >> shift)) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn largest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / FINE).saturating_sub(1);
    ((bucket - shift * FINE + 1) << shift) - 1
}

impl Histogram {
    pub fn add(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub fn join(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Nanoseconds that the share `q` of all values does not exceed.
    pub fn quantile(&self, q: f64) -> u64 {
        let wanted = (self.count() as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|n| {
            seen += n;
            seen >= wanted
        });
        reached.map_or(self.max_ns, |b| largest(b).min(self.max_ns))
    }
}

/// What every run checks: a wrong bucket would make every figure wrong.
pub fn check() -> anyhow::Result<()> {
    let mut all = Histogram::default();
    for ns in 1..=1_000_000 {
        anyhow::ensure!(
            largest(bucket(ns)) >= ns && largest(bucket(ns)) - ns <= ns / FINE,
            "{ns} ns is in the wrong bucket"
        );
        all.add(ns);
    }
    for (q, ns) in [(0.5, 500_000), (0.99, 990_000), (0.999, 999_000), (1.0, 1_000_000)] {
        let found = all.quantile(q);
        anyhow::ensure!(found >= ns && found <= ns + ns / 50, "the quantile {q} of 1 to 1,000,000 ns is {found}");
    }
    Ok(())
}
