//! Timers of functions that fire in goes, so that there is room for what they emit: pure.
use super::timers::{Due, Timers};
use crate::data::Key;
use crate::dataflow::Output;

/// Timers that fire before the output is asked for room again.
pub(super) const AT_ONCE: usize = if cfg!(test) { 2 } else { 4096 };

/// Which of a function's timers are due and have not all fired.
#[derive(Default)]
pub(super) enum Firing {
    #[default]
    Nothing,
    /// Those up to the watermark.
    Event,
    /// Those up to this time, ms since the Unix epoch.
    Processing(i64),
}

impl Firing {
    /// There may be more to fire.
    pub fn is_busy(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Takes the next timer that is due, and gives the output the time of its results. None: all have fired.
    pub fn next<K: Key, U: Clone>(
        &mut self,
        timers: Option<&mut Timers<K>>,
        out: &mut Output<U>,
    ) -> Option<Due<K, ()>> {
        let due = timers.and_then(|timers| match *self {
            Self::Nothing => None,
            Self::Event => timers.pop_event(),
            Self::Processing(now) => timers.pop_processing(now),
        });
        match (&due, &self) {
            (None, _) => *self = Self::Nothing,
            (Some(due), Self::Event) => out.set_timestamp(due.timer.timestamp),
            (Some(_), _) => out.erase_timestamp(),
        }
        due
    }
}

#[cfg(test)]
pub(in crate::job) mod tests;
