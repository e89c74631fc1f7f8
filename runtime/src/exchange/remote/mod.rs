//! Channels between processes: framed TCP, one connection for each pair of taskmanagers and attempt.
mod client;
mod handshake;
mod inbox;
mod outbox;
mod outlet;
mod reader;
mod server;
mod slots;

pub use client::PeerAddress;
pub use handshake::Identity;
pub use inbox::RemoteReceiver;
pub use outlet::RemoteSender;

pub(super) use client::Peer;
pub(super) use inbox::Inbox;
pub(super) use slots::{SlotError, Slots};

use super::channels::Channels;
use crate::error::{Error, ErrorCode, Result};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use weir_api::ids::Attempt;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // nothing that runs under these locks can leave them half done
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The attempt that this process follows.
#[derive(Default)]
struct Attempts {
    highest: Attempt,
    open: Option<Channels>,
}

/// A taskmanager's end of the data plane: its server, and the channels of the attempt that it follows.
pub struct Exchange {
    me: Identity,
    address: SocketAddr,
    attempts: watch::Sender<Attempts>,
    runtime: Handle,
    accepting: AbortHandle,
}

impl Exchange {
    /// Listens for other taskmanagers. Network tasks run on the current tokio runtime.
    pub async fn bind(listen: SocketAddr, me: Identity) -> Result<Self> {
        let broke =
            |e| Error::external(ErrorCode::Io, format_args!("cannot listen for data connections on {listen}: {e}"));
        let listener = TcpListener::bind(listen).await.map_err(broke)?;
        let address = listener.local_addr().map_err(broke)?;
        let (attempts, watched) = watch::channel(Attempts::default());
        let accepting = tokio::spawn(server::accept(listener, me.clone(), watched)).abort_handle();
        Ok(Self { me, address, attempts, runtime: Handle::current(), accepting })
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins an attempt, which must be higher than all before; the channels of the one before are cancelled.
    pub fn begin(&self, attempt: Attempt) -> Result<Channels> {
        let channels = Channels::new(attempt, Some((self.me.clone(), self.runtime.clone())));
        let mut old = None;
        let mut refused = None;
        self.attempts.send_modify(|a| {
            if attempt <= a.highest {
                refused = Some(a.highest);
            } else {
                a.highest = attempt;
                old = a.open.replace(channels.clone());
            }
        });
        if let Some(highest) = refused {
            let message =
                format_args!("attempt {attempt} is not higher than attempt {highest}, which this taskmanager follows");
            return Err(Error::external(ErrorCode::Fenced, message));
        }
        if let Some(old) = old {
            old.close();
        }
        Ok(channels)
    }

    /// Ends the attempt, if it is the one that this process follows: its channels are cancelled and its connections
    /// refused from now on.
    pub fn end(&self, attempt: Attempt) {
        let mut old = None;
        self.attempts.send_if_modified(|a| {
            if a.highest == attempt {
                old = a.open.take();
            }
            old.is_some()
        });
        if let Some(old) = old {
            old.close();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.accepting.abort();
        if let Some(channels) = self.attempts.borrow().open.as_ref() {
            channels.close();
        }
    }
}

#[cfg(test)]
mod tests;
