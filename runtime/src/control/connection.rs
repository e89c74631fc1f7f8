//! A control connection: a task that writes what is queued, and a reader. Works over any byte stream.
use super::frame::{self, ControlError, MAX_FRAME, MAX_GREETING};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf};
use tokio::sync::mpsc;

/// A byte stream in both directions: TCP, or a pipe within the process.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Queue of messages to the peer. Never waits; the connection ends when the peer does not take them.
#[derive(Debug)]
pub struct Sender<M>(mpsc::UnboundedSender<M>);

impl<M> Clone for Sender<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Sender<M> {
    /// Queues the message; false when the connection has ended.
    pub fn send(&self, message: M) -> bool {
        self.0.send(message).is_ok()
    }
}

/// The reading side of a connection that receives messages of type `In`.
pub struct Connection<S, In> {
    reader: BufReader<ReadHalf<S>>,
    buffer: Vec<u8>,
    greeted: bool,
    _in: std::marker::PhantomData<fn() -> In>,
}

impl<S: Stream, In: DeserializeOwned> Connection<S, In> {
    /// Sends the preamble, checks the peer's, and starts the writer. When all senders are dropped the writer flushes and
    /// closes its direction.
    pub async fn open<Out>(mut stream: S) -> Result<(Self, Sender<Out>), ControlError>
    where
        Out: Serialize + Send + 'static,
    {
        frame::write_preamble(&mut stream).await?;
        frame::read_preamble(&mut stream).await?;
        let (r, mut w) = tokio::io::split(stream);
        let (tx, mut rx) = mpsc::unbounded_channel::<Out>();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Some(m) = rx.recv().await {
                buffer.clear();
                let mut next = Some(m);
                while let Some(m) = next {
                    if let Err(e) = frame::encode(&m, &mut buffer) {
                        tracing::error!(error = %e, "a control message cannot be sent");
                        let _ = w.shutdown().await;
                        return;
                    }
                    next = if buffer.len() < 64 << 10 { rx.try_recv().ok() } else { None };
                }
                if let Err(e) = async {
                    w.write_all(&buffer).await?;
                    w.flush().await
                }
                .await
                {
                    tracing::debug!(error = %e, "control connection ended while writing");
                    return;
                }
                if buffer.capacity() > 1 << 20 {
                    buffer = Vec::new();
                }
            }
            let _ = w.shutdown().await;
        });
        let me = Self { reader: BufReader::new(r), buffer: Vec::new(), greeted: false, _in: std::marker::PhantomData };
        Ok((me, Sender(tx)))
    }

    /// The next message. The first one is held to the size of a greeting. Not cancel-safe: an unfinished read ends the
    /// connection.
    pub async fn recv(&mut self) -> Result<In, ControlError> {
        let max = if self.greeted { MAX_FRAME } else { MAX_GREETING };
        let m = frame::read(&mut self.reader, &mut self.buffer, max).await?;
        self.greeted = true;
        Ok(m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::{ToJobManager, ToTaskManager};
    use weir_api::ids::Attempt;

    #[tokio::test]
    async fn messages_arrive_in_order_and_the_end_is_seen() {
        let (a, b) = tokio::io::duplex(64);
        let tm = tokio::spawn(async move {
            let (mut c, tx) = Connection::<_, ToTaskManager>::open::<ToJobManager>(a).await.unwrap();
            for n in 1..=100 {
                assert!(tx.send(ToJobManager::Gone { attempt: Attempt(n) }));
            }
            assert_eq!(c.recv().await.unwrap(), ToTaskManager::Heartbeat);
            drop(tx);
            assert!(matches!(c.recv().await, Err(ControlError::Closed)));
        });
        let (mut c, tx) = Connection::<_, ToJobManager>::open::<ToTaskManager>(b).await.unwrap();
        for n in 1..=100 {
            assert_eq!(c.recv().await.unwrap(), ToJobManager::Gone { attempt: Attempt(n) });
        }
        tx.send(ToTaskManager::Heartbeat);
        assert!(matches!(c.recv().await, Err(ControlError::Closed)));
        drop(tx);
        tm.await.unwrap();
    }
}
