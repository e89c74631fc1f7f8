//! Credit: how much a producer may have on the wire and in the consumer's queue, per channel. Pure.
//!
//! Batches and everything else have credit of their own, so a barrier leaves although the consumer has no room for
//! batches. Watermarks may not use up the credit of the barriers.
use super::frame::{FrameError, Kind};
use std::collections::VecDeque;

/// Credit that a consumer gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grant {
    /// Frames with batches.
    pub batches: u32,
    /// Other frames: watermarks, barriers, end of input.
    pub control: u32,
}

/// Control frames that may be on their way or unread.
pub const CONTROL_WINDOW: u32 = 32;
/// Part of it that watermarks leave alone.
const RESERVED: u32 = 16;
/// Most credit for batches that anyone may hold.
pub const MAX_WINDOW: u32 = 1 << 16;
/// Bytes of batches that a consumer wants to have under way, and how many times its first window it grants for that: with
/// frames of a few KiB the first window is a system call or two, and both sides wait for each other.
const BYTES_UNDER_WAY: usize = 256 << 10;
pub const MOST_WINDOWS: u32 = 4;

impl Grant {
    pub fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.batches.to_le_bytes());
        out.extend_from_slice(&self.control.to_le_bytes());
    }
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        match body {
            &[a, b, c, d, e, f, g, h] => {
                Ok(Self { batches: u32::from_le_bytes([a, b, c, d]), control: u32::from_le_bytes([e, f, g, h]) })
            }
            _ => Err(FrameError::body(Kind::Credit, format_args!("{} bytes instead of 8", body.len()))),
        }
    }
}

/// The credit that a frame takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Batch,
    Watermark,
    Control,
    /// Takes none: there is one per channel.
    Free,
}

impl Class {
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Batch => Self::Batch,
            Kind::Watermark => Self::Watermark,
            Kind::Barrier | Kind::EndOfInput => Self::Control,
            _ => Self::Free,
        }
    }
}

/// The producer's side: frames in order, held back while there is no credit for them.
#[derive(Debug)]
pub struct SendQueue<F> {
    credit: Grant,
    waiting: VecDeque<(Kind, F)>,
}

impl<F> Default for SendQueue<F> {
    fn default() -> Self {
        Self { credit: Grant::default(), waiting: VecDeque::new() }
    }
}

impl<F> SendQueue<F> {
    /// The next batch would leave at once.
    pub fn is_ready(&self) -> bool {
        self.credit.batches > 0 && self.waiting.is_empty()
    }
    /// Frames held back.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
    /// Appends a frame. Returns a watermark that it replaces.
    pub fn push(&mut self, kind: Kind, frame: F) -> Option<F> {
        if kind == Kind::Watermark
            && let Some((Kind::Watermark, last)) = self.waiting.back_mut()
        {
            return Some(std::mem::replace(last, frame));
        }
        self.waiting.push_back((kind, frame));
        None
    }
    /// Adds what the consumer granted.
    pub fn grant(&mut self, grant: Grant) -> Result<(), FrameError> {
        let batches = self.credit.batches.checked_add(grant.batches).filter(|&n| n <= MAX_WINDOW);
        let control = self.credit.control.checked_add(grant.control).filter(|&n| n <= CONTROL_WINDOW);
        let (Some(batches), Some(control)) = (batches, control) else {
            return Err(FrameError::body(Kind::Credit, "it grants more than a channel may have"));
        };
        self.credit = Grant { batches, control };
        Ok(())
    }
    /// Takes the next frame that may leave now.
    pub fn pop(&mut self) -> Option<(Kind, F)> {
        let class = Class::of(self.waiting.front()?.0);
        let credit = match class {
            Class::Batch => &mut self.credit.batches,
            Class::Control => &mut self.credit.control,
            // one that stands before something else must not stop it
            Class::Watermark if self.credit.control <= RESERVED && self.waiting.len() == 1 => return None,
            Class::Watermark => &mut self.credit.control,
            Class::Free => return self.waiting.pop_front(),
        };
        *credit = credit.checked_sub(1)?;
        self.waiting.pop_front()
    }
}

/// The consumer's side, where frames arrive: refuses what was not granted.
#[derive(Debug, Default)]
pub struct Arrivals {
    granted: Grant,
}

impl Arrivals {
    /// Notes a grant; call it before the producer can hear of it.
    pub fn grant(&mut self, grant: Grant) {
        self.granted.batches += grant.batches;
        self.granted.control += grant.control;
    }
    /// A frame has arrived. False: there was no credit for it.
    pub fn arrived(&mut self, kind: Kind) -> bool {
        let credit = match Class::of(kind) {
            Class::Batch => &mut self.granted.batches,
            Class::Watermark | Class::Control => &mut self.granted.control,
            Class::Free => return true,
        };
        match credit.checked_sub(1) {
            Some(left) => {
                *credit = left;
                true
            }
            None => false,
        }
    }
}

/// The consumer's side, where frames are taken: decides when to grant anew, some at a time, so that there is one credit
/// frame for several batches. The shorter the frames, the more may be under way.
#[derive(Debug)]
pub struct Returns {
    first: u32,
    /// Now.
    window: u32,
    /// Bytes of a batch, a moving average.
    bytes: usize,
    owed: Grant,
}

impl Returns {
    /// `window`: frames with batches that may be on their way or unread, while they are long.
    pub fn new(window: u32) -> Self {
        let first = window.clamp(1, MAX_WINDOW / MOST_WINDOWS);
        Self { first, window: first, bytes: BYTES_UNDER_WAY, owed: Grant::default() }
    }
    /// What to grant at the start.
    pub fn first(&self) -> Grant {
        Grant { batches: self.first, control: CONTROL_WINDOW }
    }
    /// A frame with a body of so many bytes was taken from the queue. Returns what to grant now.
    pub fn taken(&mut self, kind: Kind, bytes: usize) -> Option<Grant> {
        match Class::of(kind) {
            Class::Batch => {
                self.owed.batches += 1;
                self.bytes = (self.bytes * 7 + bytes) / 8;
            }
            Class::Watermark | Class::Control => self.owed.control += 1,
            Class::Free => {}
        }
        let due = self.owed.batches >= self.window.div_ceil(2) || self.owed.control >= CONTROL_WINDOW / 4;
        due.then(|| {
            let mut grant = std::mem::take(&mut self.owed);
            let wanted = (BYTES_UNDER_WAY / self.bytes.max(1)).min(MAX_WINDOW as usize) as u32;
            let wanted = wanted.clamp(self.first, self.first * MOST_WINDOWS);
            // a window that shrinks keeps what it would give back
            let less = self.window.saturating_sub(wanted).min(grant.batches);
            let more = if grant.batches > 0 { wanted.saturating_sub(self.window) } else { 0 };
            grant.batches = grant.batches - less + more;
            self.window = self.window - less + more;
            grant
        })
    }
}

#[cfg(test)]
mod tests;
