//! Which windows a record belongs to: tumbling, sliding, session, global, count; pure arithmetic on times.
use crate::data::{Data, DecodeError, Field, Type};
use std::time::Duration;

/// A span of time `[start, end)`, ms since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeWindow {
    pub start: i64,
    pub end: i64,
}

impl TimeWindow {
    /// All of time: the window of [`Global`] and of count windows.
    pub const ALL: Self = Self { start: i64::MIN, end: i64::MAX };

    /// The last time that belongs to the window; its results carry it.
    #[inline]
    pub fn max_timestamp(&self) -> i64 {
        self.end.saturating_sub(1)
    }
    /// The windows share a time, or one begins where the other ends.
    pub fn touches(&self, other: &Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
    /// The smallest window that holds both.
    #[must_use]
    pub fn cover(&self, other: &Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl Data for TimeWindow {
    fn encode(&self, out: &mut Vec<u8>) {
        self.start.encode(out);
        self.end.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { start: i64::decode(input)?, end: i64::decode(input)? })
    }
    fn type_of() -> Type {
        let field = |name: &str| Field { name: name.into(), ty: Type::I64 };
        Type::Struct { name: "TimeWindow".into(), fields: vec![field("start"), field("end")] }
    }
}

/// The clock that windows go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeDomain {
    /// The records' own timestamps; windows fire as the watermark passes.
    #[default]
    EventTime,
    /// The wall clock of the machine that the record arrives on.
    ProcessingTime,
}

/// Milliseconds, at least one.
fn ms(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX).max(1)
}
fn offset_ms(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(0)
}

/// Windows of one size, side by side: each record is in exactly one.
#[derive(Debug, Clone, Copy)]
pub struct Tumbling(Aligned, TimeDomain);

impl Tumbling {
    /// Windows of this size (whole ms, at least 1), which begin at multiples of it since the Unix epoch.
    pub fn of(size: Duration) -> Self {
        Self(Aligned::new(ms(size), ms(size), 0), TimeDomain::EventTime)
    }
}

/// Windows of one size that begin every `slide`: each record is in `size / slide` of them.
#[derive(Debug, Clone, Copy)]
pub struct Sliding(Aligned, TimeDomain);

impl Sliding {
    /// Size and slide in whole ms, at least 1. A slide above the size leaves gaps, whose records are in no window.
    pub fn of(size: Duration, slide: Duration) -> Self {
        Self(Aligned::new(ms(size), ms(slide), 0), TimeDomain::EventTime)
    }
}

/// Windows of activity: records of a key that are less than, or just, a gap apart are in one.
#[derive(Debug, Clone, Copy)]
pub struct Session(i64, TimeDomain);

impl Session {
    /// A session ends when nothing has come for so long (whole ms, at least 1).
    pub fn with_gap(gap: Duration) -> Self {
        Self(ms(gap), TimeDomain::EventTime)
    }
}

macro_rules! offset {
    ($($assigner:ty),+) => {$(
        impl $assigner {
            /// Windows begin so much after multiples of the slide, which is the size of tumbling ones:
            /// `Tumbling::of(day).offset(5 * hour)` for days that begin at 5:00.
            #[must_use]
            pub fn offset(mut self, offset: Duration) -> Self {
                self.0.offset = offset_ms(offset).rem_euclid(self.0.slide);
                self
            }
        }
    )+};
}
offset!(Tumbling, Sliding);

macro_rules! processing_time {
    ($($assigner:ty),+) => {$(
        impl $assigner {
            /// Goes by the wall clock instead of event time.
            #[must_use]
            pub fn processing_time(mut self) -> Self {
                self.1 = TimeDomain::ProcessingTime;
                self
            }
        }
    )+};
}
processing_time!(Tumbling, Sliding, Session);

/// One window for all time. It fires at the end of the input, or when a trigger says so.
#[derive(Debug, Clone, Copy, Default)]
pub struct Global;

/// What [`super::WindowedStream`] makes of the assigners above.
#[derive(Debug, Clone, Copy)]
pub enum Windows {
    Aligned(Aligned, TimeDomain),
    Session { gap: i64, time: TimeDomain },
    Global,
}

impl Windows {
    pub fn time(&self) -> TimeDomain {
        match self {
            Self::Aligned(_, time) | Self::Session { time, .. } => *time,
            Self::Global => TimeDomain::EventTime,
        }
    }
}

impl From<Tumbling> for Windows {
    fn from(w: Tumbling) -> Self {
        Self::Aligned(w.0, w.1)
    }
}
impl From<Sliding> for Windows {
    fn from(w: Sliding) -> Self {
        Self::Aligned(w.0, w.1)
    }
}
impl From<Session> for Windows {
    fn from(w: Session) -> Self {
        Self::Session { gap: w.0, time: w.1 }
    }
}
impl From<Global> for Windows {
    fn from(_: Global) -> Self {
        Self::Global
    }
}

/// Windows `[offset + k * slide, offset + k * slide + size)`, and the panes that they are made of.
///
/// A pane is the span of `gcd(size, slide)`; no window begins or ends within one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aligned {
    pub size: i64,
    pub slide: i64,
    pub pane: i64,
    /// `0..slide`
    pub offset: i64,
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The greatest `offset + k * step` that is not above `t`; saturates.
#[inline]
fn floor(t: i64, step: i64, offset: i64) -> i64 {
    match t.checked_sub(offset) {
        Some(distance) => t.saturating_sub(distance.rem_euclid(step)),
        None => {
            let (t, step, offset) = (i128::from(t), i128::from(step), i128::from(offset));
            i64::try_from(t - (t - offset).rem_euclid(step)).unwrap_or(i64::MIN)
        }
    }
}

impl Aligned {
    pub fn new(size: i64, slide: i64, offset: i64) -> Self {
        Self { size, slide, pane: gcd(size, slide), offset: offset.rem_euclid(slide) }
    }

    /// Start of the pane that `t` is in.
    pub fn pane_of(&self, t: i64) -> i64 {
        floor(t, self.pane, self.offset)
    }
    pub fn window(&self, start: i64) -> TimeWindow {
        TimeWindow { start, end: start.saturating_add(self.size) }
    }
    /// Start of the last window that begins at or before `t`.
    pub fn last_start(&self, t: i64) -> i64 {
        floor(t, self.slide, self.offset)
    }
    /// Start of the first window that ends after `t`.
    pub fn first_start(&self, t: i64) -> i64 {
        let after = floor(t.saturating_sub(self.size), self.slide, self.offset);
        after.saturating_add(self.slide)
    }
    /// Starts of the windows that hold `t`, ascending.
    pub fn starts(&self, t: i64) -> impl Iterator<Item = i64> + use<> {
        let (mut next, last, slide) = (Some(self.first_start(t)), self.last_start(t), self.slide);
        std::iter::from_fn(move || {
            let start = next.filter(|&s| s <= last)?;
            next = start.checked_add(slide);
            Some(start)
        })
    }
}

/// Windows over the records of a key, counted from the first one: after each `slide` records, the last `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountSpec {
    pub slide: u64,
    /// Records that are accumulated into one: `gcd(size, slide)`.
    pub pane: u64,
    /// Panes that a window is made of.
    pub panes: usize,
}

impl CountSpec {
    pub fn new(size: u64, slide: u64) -> Self {
        let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX).max(1);
        let (size, slide) = (clamp(size), clamp(slide));
        let pane = gcd(size, slide);
        Self { slide: slide as u64, pane: pane as u64, panes: (size / pane) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn negative_times_and_offsets_round_down() {
        let w = Aligned::new(10, 10, 0);
        assert_eq!([-1, 0, 9, 10, -10, -11].map(|t| w.last_start(t)), [-10, 0, 0, 10, -10, -20]);
        let w = Aligned::new(10, 10, 3);
        assert_eq!([2, 3, -7, -8].map(|t| w.last_start(t)), [-7, 3, -7, -17]);
        let Tumbling(w, _) = Tumbling::of(Duration::from_secs(1)).offset(Duration::from_millis(3_250));
        assert_eq!(w.offset, 250);
    }

    #[test]
    fn the_ends_of_time_saturate() {
        let w = Aligned::new(1000, 300, 7);
        assert!(w.starts(i64::MIN).all(|s| s <= i64::MIN + 300));
        assert!(w.starts(i64::MAX).count() > 0);
        assert_eq!(w.window(i64::MAX - 5).end, i64::MAX);
        assert_eq!(TimeWindow::ALL.max_timestamp(), i64::MAX - 1);
    }

    proptest! {
        /// The windows of a time are those that hold it, and its pane lies in each of them.
        #[test]
        fn windows_hold_their_times(t in -5_000i64..5_000, size in 1i64..200, slide in 1i64..200, offset in -300i64..300) {
            let w = Aligned::new(size, slide, offset);
            let naive: Vec<i64> = (t - size - slide..=t)
                .filter(|s| (s - offset).rem_euclid(slide) == 0 && s + size > t && *s <= t)
                .collect();
            prop_assert_eq!(w.starts(t).collect::<Vec<_>>(), naive.clone());
            let pane = w.pane_of(t);
            prop_assert!(pane <= t && t < pane + w.pane);
            for s in naive {
                prop_assert!(s <= pane && pane + w.pane <= s + size);
            }
        }
    }
}
