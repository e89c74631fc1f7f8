//! The channels of one attempt in this process: where tasks get their ends, and what cancels them all at once.
use super::remote::{Identity, Inbox, Peer, PeerAddress, RemoteReceiver, RemoteSender, SlotError, Slots, lock};
use super::{ChannelId, Receiver, Sender, local};
use crate::data::Data;
use crate::error::{Error, ErrorCode, Result};
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use weir_api::ids::Attempt;

/// Batches that a channel holds before its producer waits.
pub const CAPACITY: usize = 8;

/// The channels of one attempt in this process. Clones are the same.
///
/// Both ends of a channel may be asked for in any order. An end is dropped to close it.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

struct Inner {
    attempt: Attempt,
    network: Option<(Identity, Handle)>,
    state: Mutex<State>,
}

/// Ends of a local channel that were not yet asked for: a `LocalSender<T>` and a `LocalReceiver<T>`.
struct LocalSlot {
    sender: Option<Box<dyn Any + Send>>,
    receiver: Option<Box<dyn Any + Send>>,
}

struct State {
    slots: Slots,
    peers: HashMap<PeerAddress, Arc<Peer>>,
    local: HashMap<ChannelId, LocalSlot>,
    tasks: Vec<AbortHandle>,
    closed: Option<Error>,
}

impl Channels {
    /// Channels within one process only.
    pub fn in_process(attempt: Attempt) -> Self {
        Self::new(attempt, None)
    }

    pub(super) fn new(attempt: Attempt, network: Option<(Identity, Handle)>) -> Self {
        let state = State {
            slots: Slots::new(attempt),
            peers: HashMap::new(),
            local: HashMap::new(),
            tasks: Vec::new(),
            closed: None,
        };
        Self(Arc::new(Inner { attempt, network, state: Mutex::new(state) }))
    }

    pub fn attempt(&self) -> Attempt {
        self.0.attempt
    }

    /// The producer's end of a channel to a consumer in this process (`to` is none) or on another taskmanager. Never
    /// waits: a connection is made in the background, and the sender is ready when the consumer's task is there.
    ///
    /// # Errors
    /// The attempt was cancelled, or the channel has a producer already.
    pub fn sender<T: Data>(&self, channel: ChannelId, to: Option<&PeerAddress>) -> Result<Sender<T>> {
        let mut state = lock(&self.0.state);
        state.check()?;
        match to {
            None => take(channel, &mut state.local::<T>(channel).sender).map(Sender::Local),
            Some(address) => {
                let peer = self.peer(&mut state, address)?;
                drop(state);
                Ok(Sender::Remote(RemoteSender::new(peer.outlet(channel)?)))
            }
        }
    }

    /// The consumer's end of a channel, from a producer in this process or on another taskmanager (`remote`).
    ///
    /// # Errors
    /// The attempt was cancelled, or the channel has a consumer already.
    pub fn receiver<T: Data>(&self, channel: ChannelId, remote: bool) -> Result<Receiver<T>> {
        let mut state = lock(&self.0.state);
        state.check()?;
        if !remote {
            return take(channel, &mut state.local::<T>(channel).receiver).map(Receiver::Local);
        }
        let inbox = state.slots.register(channel).map_err(|e| unavailable(channel, e))?;
        drop(state);
        Ok(Receiver::Remote(RemoteReceiver::new(inbox, CAPACITY as u32)))
    }

    /// Cancels all channels that cross the process's border: their ends fail, the connections are closed, nothing new is
    /// made. Ends of local channels go with the tasks that hold them.
    pub fn close(&self) {
        let attempt = self.0.attempt;
        let error =
            Error::external(ErrorCode::Fenced, format_args!("attempt {attempt} was cancelled on this taskmanager"));
        let mut state = lock(&self.0.state);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(error.clone());
        state.slots.inboxes().for_each(|i| i.fail(&error));
        state.peers.values().for_each(|p| p.fail(&error));
        state.tasks.drain(..).for_each(|t| t.abort());
        let unmet = std::mem::take(&mut state.local);
        drop(state);
        drop(unmet);
    }

    fn peer(&self, state: &mut State, address: &PeerAddress) -> Result<Arc<Peer>> {
        if let Some(peer) = state.peers.get(address) {
            return Ok(peer.clone());
        }
        let Some((me, runtime)) = &self.0.network else {
            return Err(Error::internal(format_args!("a channel to {address} in a process without a network")));
        };
        let peer = Arc::new(Peer::new(self.0.attempt, address.clone()));
        state.tasks.push(runtime.spawn(peer.clone().run(me.clone())).abort_handle());
        state.peers.insert(address.clone(), peer.clone());
        Ok(peer)
    }

    /// Runs a network task until it ends or the attempt is cancelled.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = lock(&self.0.state);
        if state.closed.is_none() {
            state.tasks.retain(|t| !t.is_finished());
            state.tasks.push(tokio::spawn(task).abort_handle());
        }
    }

    pub(super) fn open(&self, channel: ChannelId, now: Instant) -> Result<Arc<Inbox>, SlotError> {
        lock(&self.0.state).slots.open(channel, now)
    }

    #[cfg(test)]
    pub(super) fn network_tasks(&self) -> usize {
        lock(&self.0.state).tasks.iter().filter(|t| !t.is_finished()).count()
    }

    pub(super) fn overdue(&self, now: Instant) -> Option<ChannelId> {
        lock(&self.0.state).slots.overdue(now)
    }
}

fn unavailable(channel: ChannelId, why: impl std::fmt::Display) -> Error {
    Error::internal(format_args!("the channel {channel} cannot be had: {why}"))
}

impl State {
    fn check(&self) -> Result<()> {
        self.closed.clone().map_or(Ok(()), Err)
    }

    fn local<T: Data>(&mut self, channel: ChannelId) -> &mut LocalSlot {
        // subtasks of one number share a thread, see `Workers`
        let near = channel.producer == channel.consumer;
        self.local.entry(channel).or_insert_with(|| {
            let (sender, receiver) = local::channel::<T>(CAPACITY, near);
            LocalSlot { sender: Some(Box::new(sender)), receiver: Some(Box::new(receiver)) }
        })
    }
}

/// Takes an end that is there and of the right type.
fn take<E: 'static>(channel: ChannelId, end: &mut Option<Box<dyn Any + Send>>) -> Result<E> {
    let end = end.take().ok_or_else(|| unavailable(channel, SlotError::Twice))?;
    end.downcast().map(|e| *e).map_err(|_| unavailable(channel, "its ends differ in type"))
}
