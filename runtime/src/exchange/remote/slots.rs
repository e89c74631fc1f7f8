//! Which channels of an attempt enter this process: brings producers' connections and consumers' tasks together,
//! whichever comes first. Pure.
use super::inbox::Inbox;
use crate::exchange::ChannelId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir_api::ids::Attempt;

/// Channels that may wait for their consumer's task, and for how long.
pub const MAX_WAITING: usize = 1 << 16;
pub const MAX_WAIT: Duration = Duration::from_secs(120);

pub struct Slots {
    attempt: Attempt,
    slots: HashMap<ChannelId, Slot>,
    waiting: usize,
}

struct Slot {
    inbox: Arc<Inbox>,
    /// The consumer's task has asked for it.
    registered: bool,
    /// When the producer opened it.
    opened: Option<Instant>,
}

/// Why a channel cannot be opened or registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    #[error("it is in use already")]
    Twice,
    #[error("too many channels wait for their consumers")]
    TooMany,
}

impl Slots {
    pub fn new(attempt: Attempt) -> Self {
        Self { attempt, slots: HashMap::new(), waiting: 0 }
    }

    fn slot(&mut self, channel: ChannelId) -> &mut Slot {
        self.slots.entry(channel).or_insert_with(|| Slot {
            inbox: Arc::new(Inbox::new(self.attempt, channel)),
            registered: false,
            opened: None,
        })
    }

    /// A producer opens a channel.
    pub fn open(&mut self, channel: ChannelId, now: Instant) -> Result<Arc<Inbox>, SlotError> {
        let full = self.waiting >= MAX_WAITING;
        if full && !self.slots.contains_key(&channel) {
            return Err(SlotError::TooMany);
        }
        let slot = self.slot(channel);
        if slot.opened.is_some() {
            return Err(SlotError::Twice);
        }
        slot.opened = Some(now);
        let inbox = slot.inbox.clone();
        if !slot.registered {
            self.waiting += 1;
        }
        Ok(inbox)
    }

    /// A consumer's task comes for a channel.
    pub fn register(&mut self, channel: ChannelId) -> Result<Arc<Inbox>, SlotError> {
        let slot = self.slot(channel);
        if slot.registered {
            return Err(SlotError::Twice);
        }
        slot.registered = true;
        let (inbox, opened) = (slot.inbox.clone(), slot.opened.is_some());
        if opened {
            self.waiting -= 1;
        }
        Ok(inbox)
    }

    /// A channel whose producer has waited too long, if there is one.
    pub fn overdue(&self, now: Instant) -> Option<ChannelId> {
        let late = |s: &Slot| !s.registered && s.opened.is_some_and(|t| now.saturating_duration_since(t) > MAX_WAIT);
        if self.waiting == 0 {
            return None;
        }
        self.slots.iter().find(|(_, s)| late(s)).map(|(c, _)| *c)
    }

    pub fn inboxes(&self) -> impl Iterator<Item = &Inbox> {
        self.slots.values().map(|s| &*s.inbox)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(consumer: u32) -> ChannelId {
        ChannelId { edge: 1, producer: 2, consumer }
    }

    #[test]
    fn both_sides_meet_in_either_order_and_only_once() {
        let (mut slots, now) = (Slots::new(Attempt(1)), Instant::now());
        let a = slots.open(channel(1), now).unwrap();
        assert!(Arc::ptr_eq(&a, &slots.register(channel(1)).unwrap()));
        let b = slots.register(channel(2)).unwrap();
        assert!(Arc::ptr_eq(&b, &slots.open(channel(2), now).unwrap()));
        assert!(!Arc::ptr_eq(&a, &b));
        for c in [1, 2] {
            assert_eq!(slots.open(channel(c), now).err(), Some(SlotError::Twice));
            assert_eq!(slots.register(channel(c)).err(), Some(SlotError::Twice));
        }
    }

    #[test]
    fn waiting_is_bounded_in_number_and_time() {
        let (mut slots, now) = (Slots::new(Attempt(1)), Instant::now());
        for i in 0..MAX_WAITING as u32 {
            slots.open(channel(i), now).unwrap();
        }
        assert_eq!(slots.open(channel(u32::MAX), now).err(), Some(SlotError::TooMany));
        assert_eq!(slots.overdue(now + MAX_WAIT), None);
        let late = now + MAX_WAIT + Duration::from_millis(1);
        assert!(slots.overdue(late).is_some());
        for i in 0..MAX_WAITING as u32 {
            slots.register(channel(i)).unwrap();
        }
        assert_eq!(slots.overdue(late), None);
        assert!(slots.open(channel(u32::MAX), now).is_ok());
    }
}
