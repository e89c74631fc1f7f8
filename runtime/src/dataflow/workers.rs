//! The threads that tasks run on: one for each slot, so that state, and the batches that fill it, stay with one processor.
use std::sync::Arc;
use tokio::runtime::Handle;

/// Runtimes of a taskmanager's tasks. Clones are the same.
///
/// A runtime that moves tasks between threads wakes a consumer where its producer runs: state and batches then change the
/// processor with every other batch, and each access waits for a cache line of the other one. So the subtasks of a slot share
/// a thread. Subtasks of vertices that do not have one in every slot would make some of these threads carry more than the
/// others: they run on threads of their own, which the operating system balances.
#[derive(Clone)]
pub struct Workers {
    shared: Handle,
    slots: Arc<[Handle]>,
}

impl Workers {
    /// `shared` for what belongs to no slot, and a runtime with one thread for each slot. Without those everything runs on
    /// `shared`.
    pub fn new(shared: Handle, slots: impl IntoIterator<Item = Handle>) -> Self {
        Self { shared, slots: slots.into_iter().collect() }
    }

    /// Runs what is no task: builds, network connections.
    pub fn shared(&self) -> &Handle {
        &self.shared
    }

    /// Runs the subtasks of this slot of the taskmanager; none: of no slot in particular.
    pub fn of_slot(&self, slot: Option<usize>) -> &Handle {
        let own = slot.and_then(|s| self.slots.get(s.checked_rem(self.slots.len())?));
        own.unwrap_or(&self.shared)
    }
}

impl From<Handle> for Workers {
    fn from(shared: Handle) -> Self {
        Self::new(shared, [])
    }
}
