//! Two processes of a kind in one pod: one works, the other stands by and takes over the moment the first is gone.
//!
//! Whose turn it is, an abstract unix socket says: it belongs to the network namespace, so to the pod, and the kernel frees it when its holder dies, however it died.
//! Nothing is restarted then, and the pod keeps its address: neither the kubelet's restart back-off nor the Service's routing stands between.
use crate::error::Result;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use weir_api::config::STANDBY_ENV;

/// Pause between two looks where there is nothing to wait on.
const PAUSE: Duration = Duration::from_millis(5);
/// How long the ports of a process that has just died may stay taken.
const PORTS: Duration = Duration::from_secs(1);

/// How far apart the processes of a pod may hear that it ends.
const PARTING: Duration = Duration::from_millis(300);

/// Held while this process works.
pub(super) struct Turn(Option<UnixListener>);

/// Returns when it is this process's turn: at once, unless it was told to stand by. `ports` are free then.
pub(super) async fn turn(kind: &str, ports: &[&str]) -> Result<Turn> {
    if std::env::var_os(STANDBY_ENV).is_none() {
        return Ok(Turn(None));
    }
    let mut terminated = signal(SignalKind::terminate()).map_err(super::run::no_signals)?;
    let name = format!("\0weir-{kind}");
    let lock = tokio::select! {
        lock = take(&name) => lock,
        // the first process of a container has no default action for the signal
        _ = terminated.recv() => std::process::exit(0),
    };
    let freed = async {
        for port in ports {
            while matches!(TcpListener::bind(port).await, Err(e) if e.kind() == ErrorKind::AddrInUse) {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    // who holds a port for longer is no predecessor: binding it tells the reason
    let _ = tokio::time::timeout(PORTS, freed).await;
    Ok(lock)
}

async fn take(name: &str) -> Turn {
    let mut waited = false;
    loop {
        match UnixListener::bind(name) {
            Ok(l) => {
                if waited {
                    tracing::info!("the other process is gone: taking over");
                }
                return Turn(Some(l));
            }
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                if !std::mem::replace(&mut waited, true) {
                    tracing::info!("standing by");
                }
                // the connection is never answered, and ends with its holder
                if let Ok(mut peer) = UnixStream::connect(name).await {
                    let _ = peer.read(&mut [0]).await;
                } else {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot stand by: working at once");
                return Turn(None);
            }
        }
    }
}

impl Turn {
    /// Keeps the turn after a signal to end. A pod that ends tells its processes one after the other: the second would take over in between,
    /// claim the log and be gone, and so fence the jobmanager of a pod that has followed this one.
    pub(super) async fn outlast_the_signal(&self) {
        if self.0.is_some() {
            tokio::time::sleep(PARTING).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // closing the socket gives the turn away
        self.0.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_until_the_first_is_gone() {
        let name = format!("\0weir-test-{}", std::process::id());
        let first = take(&name).await;
        assert!(first.0.is_some());
        let second = tokio::spawn({
            let name = name.clone();
            async move { take(&name).await }
        });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap().0.is_some());
    }
}
