//! What the operating system says about this process.

/// Resident memory in bytes; 0 where it is not known.
pub fn resident_bytes() -> u64 {
    let kib = |status: &str| -> Option<u64> {
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    std::fs::read_to_string("/proc/self/status").ok().and_then(|s| kib(&s)).unwrap_or(0) * 1024
}
