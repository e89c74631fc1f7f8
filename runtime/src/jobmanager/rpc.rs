//! The control port: takes the taskmanagers' connections and turns what they say into events.
use super::driver::Input;
use super::master::Event;
use super::registry::ConnectionId;
use crate::control::{Connection, ControlError, ToJobManager, ToTaskManager};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How long a stranger may take to greet.
const GREETING: Duration = Duration::from_secs(10);
/// Connections at most, so that strangers cannot exhaust the process.
const MAX_CONNECTIONS: usize = 4096;

/// Accepts connections for ever.
pub(super) async fn accept(listener: TcpListener, input: mpsc::UnboundedSender<Input>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut next = 0;
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(s) => s,
            Err(e) => {
                tracing::warn!(error = %e, "cannot take a control connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        next += 1;
        let (id, input) = (ConnectionId(next), input.clone());
        let (started, go) = oneshot::channel();
        let task = tokio::spawn(async move {
            let _permit = permit;
            let Ok(reader) = go.await else { return };
            let error = serve(id, stream, &input, reader).await;
            match error {
                ControlError::Closed => tracing::debug!(%peer, "a control connection was closed"),
                ref e => tracing::warn!(%peer, error = %e, "a control connection ended"),
            }
            let _ = input.send(Input::Event(Event::Disconnected(id, error.to_string())));
        });
        let _ = started.send(task.abort_handle());
    }
}

async fn serve(
    id: ConnectionId,
    stream: TcpStream,
    input: &mpsc::UnboundedSender<Input>,
    reader: tokio::task::AbortHandle,
) -> ControlError {
    let greeting = async {
        stream.set_nodelay(true)?;
        let (mut connection, sender) = Connection::<_, ToJobManager>::open::<ToTaskManager>(stream).await?;
        match connection.recv().await? {
            hello @ ToJobManager::Hello(_) => Ok((connection, sender, hello)),
            other => Err(ControlError::Malformed(format!("expected a hello, got {other:?}"))),
        }
    };
    let greeted = tokio::time::timeout(GREETING, greeting).await;
    let (mut connection, sender, hello) = match greeted.unwrap_or(Err(ControlError::Silent(GREETING))) {
        Ok(c) => c,
        Err(e) => return e,
    };
    let gone = |_| ControlError::Closed;
    if let Err(e) = input.send(Input::Connected(id, sender, reader)).map_err(gone) {
        return e;
    }
    let mut next = hello;
    loop {
        if let Err(e) = input.send(Input::Event(Event::Message(id, next))).map_err(gone) {
            return e;
        }
        next = match connection.recv().await {
            Ok(m) => m,
            Err(e) => return e,
        };
    }
}
