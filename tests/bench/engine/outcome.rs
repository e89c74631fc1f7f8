//! What one process of a measurement tells: how much it did, how fast, and what the result was.
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Of a loop, of a whole job, or of the share of one subtask.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Results that reached the sink.
    pub count: u64,
    pub seconds: f64,
    /// All running sums folded by XOR; depends on the order of the records, so it exists on one thread only.
    pub acc: Option<i64>,
    /// Distinct keys, where they are counted.
    pub distinct: Option<u64>,
    /// Allocations per result in the second half of the run.
    pub allocations: Option<f64>,
    /// Processor time of the process(es), user and system.
    pub cpu_seconds: f64,
    /// Most resident memory of a process, in MiB (summed over processes).
    pub peak_mib: f64,
}

impl Outcome {
    pub fn new(count: u64, elapsed: Duration) -> Self {
        Self { count, seconds: elapsed.as_secs_f64(), ..Self::default() }
    }
    pub fn acc(self, acc: i64) -> Self {
        Self { acc: Some(acc), ..self }
    }
    pub fn distinct(self, keys: u64) -> Self {
        Self { distinct: Some(keys), ..self }
    }
    /// With this process's own processor time and memory.
    pub fn with_usage(self) -> Self {
        let (cpu_seconds, peak_mib) = usage("self");
        Self { cpu_seconds, peak_mib, ..self }
    }
    /// Results per second of the clock.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.seconds
    }
    /// Results per second of processor time.
    pub fn rate_per_core(&self) -> f64 {
        self.count as f64 / self.cpu_seconds
    }
}

/// Leaves what a subtask of a sink saw where the measurement finds it.
pub fn tell(file: &Path, seen: &impl Serialize) -> weir::Result<()> {
    let written = serde_json::to_vec(seen).map_err(std::io::Error::from);
    written.and_then(|text| std::fs::write(file, text)).map_err(weir::Error::internal)
}

/// Processor seconds and most resident memory (MiB) of a process; zeros where the kernel does not tell.
pub fn usage(process: &str) -> (f64, f64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    // the command's name, in parentheses, may hold spaces; user and system time are the 14th and 15th field
    let stat = read("stat");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    (ticks / 100.0, memory(&read("status"), "VmHWM:"))
}

/// A line of `/proc/PID/status` in MiB.
pub fn memory(status: &str, name: &str) -> f64 {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
