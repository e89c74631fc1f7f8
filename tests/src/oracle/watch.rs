//! Watches an output folder and notes when each committed file becomes visible, so that gaps in the output can be measured.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::OutputFiles;
use crate::poll::wait_for;

/// How often the folder is listed: the resolution of the arrival times.
const EVERY: Duration = Duration::from_millis(10);

/// A committed file became visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    pub at: Instant,
    pub file: PathBuf,
    /// Its size; an empty file holds no output and so ends no gap.
    pub bytes: u64,
}

/// A running watch; it ends when dropped. Files that are there at its start are not arrivals.
#[derive(Debug)]
pub struct OutputWatch {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl OutputWatch {
    /// Starts to watch `dir`, which need not exist yet.
    pub fn start(dir: &Path) -> Result<Self> {
        let dir = dir.to_path_buf();
        let mut known: HashSet<PathBuf> = OutputFiles::of(&dir)?.parts.into_iter().collect();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let end = Arc::new(AtomicBool::new(false));
        let (to, ended) = (Arc::clone(&arrivals), Arc::clone(&end));
        let thread = std::thread::Builder::new()
            .name("output-watch".into())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    let at = Instant::now();
                    // A folder that goes away and comes back is a test that starts anew.
                    let parts = OutputFiles::of(&dir).map(|files| files.parts).unwrap_or_default();
                    for file in parts {
                        if !known.contains(&file) {
                            let bytes = std::fs::metadata(&file).map_or(0, |meta| meta.len());
                            known.insert(file.clone());
                            lock(&to).push(Arrival { at, file, bytes });
                        }
                    }
                    std::thread::sleep(EVERY);
                }
            })
            .context("cannot start a thread")?;
        Ok(Self { arrivals, end, thread: Some(thread) })
    }

    /// All arrivals so far, oldest first.
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.arrivals).clone()
    }

    /// The first output that became visible after `then`.
    pub fn first_after(&self, then: Instant) -> Option<Instant> {
        lock(&self.arrivals).iter().find(|arrival| arrival.bytes > 0 && arrival.at > then).map(|arrival| arrival.at)
    }

    /// Waits for output that became visible after `then`; returns how long after.
    pub fn wait_after(&self, then: Instant, limit: Duration) -> Result<Duration> {
        let at = wait_for("new committed output", limit, EVERY, || Ok(self.first_after(then)))?;
        Ok(at - then)
    }

    /// The longest time without new output between `from` and `to`, with the times at both ends counted.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let arrivals = lock(&self.arrivals);
        longest_gap(arrivals.iter().filter(|arrival| arrival.bytes > 0).map(|arrival| arrival.at), from, to)
    }
}

impl Drop for OutputWatch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(arrivals: &Mutex<Vec<Arrival>>) -> std::sync::MutexGuard<'_, Vec<Arrival>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest gap between `times` (ascending) within `from..=to`.
pub(super) fn longest_gap(times: impl Iterator<Item = Instant>, from: Instant, to: Instant) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in times.filter(|at| (from..=to).contains(at)).chain([to]) {
        longest = longest.max(at.saturating_duration_since(last));
        last = at;
    }
    longest
}
