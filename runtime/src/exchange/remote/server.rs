//! The accepting side: takes connections of the running attempt and hands their frames to the consumers' inboxes.
use super::Attempts;
use super::client::welcome;
use super::handshake::{Decision, Hello, Identity, decide, refusal};
use super::inbox::Inbox;
use super::outbox::{Outbox, write_frames};
use super::reader::{FrameReader, ReadError};
use super::slots::MAX_WAIT;
use crate::error::{Error, ErrorCode};
use crate::exchange::ChannelId;
use crate::exchange::channels::Channels;
use crate::exchange::frame::{FrameError, Header, Kind};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use weir_api::ids::Attempt;

/// How long a connection may take to say who it is, and how long one of a later attempt is kept until this process hears
/// of that attempt.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections that have not yet been accepted into an attempt.
const MAX_PENDING: usize = 1024;

/// Accepts connections for ever.
pub async fn accept(listener: TcpListener, me: Identity, attempts: watch::Receiver<Attempts>) {
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                let Ok(permit) = pending.clone().try_acquire_owned() else {
                    tracing::warn!(%address, "too many data connections wait to be accepted; closed one");
                    continue;
                };
                let (me, attempts) = (me.clone(), attempts.clone());
                tokio::spawn(async move {
                    let greeted = greet(stream, address, &me, attempts).await;
                    drop(permit);
                    if let Some(connection) = greeted {
                        // the connection lives as long as its attempt
                        let channels = connection.channels.clone();
                        channels.spawn(connection.serve());
                    }
                });
            }
            Err(error) => {
                // out of file descriptors, mostly: pausing lets others go on and give some back
                tracing::warn!(%error, "cannot accept a data connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Reads the hello and decides. None: refused, or not a taskmanager; the reason is logged and told.
async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    me: &Identity,
    mut attempts: watch::Receiver<Attempts>,
) -> Option<Connection> {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::warn!(%address, %error, "lost a data connection");
        return None;
    }
    let (read, mut write) = stream.into_split();
    let mut reader = FrameReader::new(read);
    let first = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await;
    let (attempt, why) = match first {
        Err(_) => (Attempt(0), "no hello within 10 s".to_string()),
        Ok(Ok(None)) => return None, // a probe of the port
        Ok(Err(ReadError::Io(error))) => {
            tracing::warn!(%address, %error, "lost a data connection");
            return None;
        }
        Ok(Err(ReadError::Frame(e))) => (Attempt(0), e.to_string()),
        Ok(Ok(Some((header, body)))) => match Hello::decode(&header, &body) {
            Err(e) => (header.attempt, e.to_string()),
            Ok(hello) => match admit(&hello, header.attempt, me, &mut attempts).await {
                Err(why) => (header.attempt, why),
                Ok(channels) => {
                    let peer = format!("taskmanager {} at {address}", hello.from);
                    return Some(Connection { peer, channels, reader, write, inboxes: HashMap::new() });
                }
            },
        },
    };
    tracing::warn!(%address, %attempt, reason = %why, "refused a data connection");
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        let _ = write.write_all(&refusal(attempt, &why)).await;
        let _ = write.shutdown().await;
        reader.linger().await;
    })
    .await;
    None
}

async fn admit(
    hello: &Hello,
    attempt: Attempt,
    me: &Identity,
    attempts: &mut watch::Receiver<Attempts>,
) -> Result<Channels, String> {
    let decided = tokio::time::timeout(ATTEMPT_TIMEOUT, async {
        loop {
            {
                let now = attempts.borrow_and_update();
                match (decide(hello, attempt, me, now.highest, now.open.is_some()), &now.open) {
                    (Decision::Accept, Some(channels)) => return Ok(channels.clone()),
                    (Decision::Refuse(why), _) => return Err(why),
                    (Decision::Wait, _) | (Decision::Accept, None) => {}
                }
            }
            if attempts.changed().await.is_err() {
                return Err("this taskmanager is shutting down".to_string());
            }
        }
    });
    let late = |_| Err(format!("taskmanager {} has not heard of attempt {attempt} within 60 s", me.taskmanager));
    decided.await.unwrap_or_else(late)
}

/// A connection of the running attempt.
struct Connection {
    peer: String,
    channels: Channels,
    reader: FrameReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    /// Opened over this connection.
    inboxes: HashMap<ChannelId, Arc<Inbox>>,
}

impl Connection {
    async fn serve(self) {
        let Self { peer, channels, mut reader, mut write, mut inboxes } = self;
        let attempt = channels.attempt();
        let outbox = Arc::new(Outbox::default());
        outbox.push(welcome(attempt));
        let writing = write_frames(&outbox, &mut write);
        tokio::pin!(writing);
        let mut patience = tokio::time::interval(MAX_WAIT / 8);
        let error = loop {
            if let Err(e) = dispatch(&mut reader, &channels, &mut inboxes, &outbox) {
                break ReadError::Frame(e);
            }
            tokio::select! {
                filled = reader.fill() => match filled {
                    Ok(true) => {}
                    Ok(false) => break ReadError::Io(std::io::ErrorKind::UnexpectedEof.into()),
                    Err(e) => break ReadError::Io(e),
                },
                r = &mut writing => {
                    break ReadError::Io(r.err().unwrap_or_else(|| std::io::ErrorKind::WriteZero.into()));
                }
                _ = patience.tick() => if let Some(channel) = channels.overdue(Instant::now()) {
                    // the channel may be another connection's: the attempt cannot go on in either case
                    break ReadError::Frame(FrameError::body(Kind::Open, format_args!("no consumer has come for {channel}")));
                },
            }
        };
        let mut told = false;
        let error = match error {
            ReadError::Io(e) => {
                Error::external(ErrorCode::Connection, format_args!("the connection from {peer} broke: {e}"))
            }
            ReadError::Frame(e) => {
                tracing::warn!(%peer, error = %e, "refused a frame, closing the data connection");
                outbox.push(refusal(attempt, &e.to_string()));
                outbox.close();
                told = true;
                Error::external(ErrorCode::Exchange, format_args!("{peer} sent a bad frame: {e}"))
            }
        };
        // the consumers need not wait for the farewell
        inboxes.values().for_each(|i| i.fail(&error));
        if told {
            let _ = tokio::time::timeout(Duration::from_secs(1), async {
                let _ = writing.await;
                reader.linger().await;
            })
            .await;
        }
    }
}

/// Hands on the frames that are there.
fn dispatch(
    reader: &mut FrameReader<OwnedReadHalf>,
    channels: &Channels,
    inboxes: &mut HashMap<ChannelId, Arc<Inbox>>,
    outbox: &Arc<Outbox>,
) -> Result<(), FrameError> {
    while let Some((header, body)) = reader.buffered()? {
        handle(&header, body, channels, inboxes, outbox)?;
    }
    Ok(())
}

fn handle(
    header: &Header,
    body: Bytes,
    channels: &Channels,
    inboxes: &mut HashMap<ChannelId, Arc<Inbox>>,
    outbox: &Arc<Outbox>,
) -> Result<(), FrameError> {
    let &Header { kind, channel, attempt, .. } = header;
    if attempt != channels.attempt() {
        return Err(FrameError::Attempt { kind, expected: channels.attempt(), found: attempt });
    }
    match kind {
        Kind::Batch | Kind::Watermark | Kind::Barrier | Kind::EndOfInput | Kind::Close => {
            inboxes.get(&channel).ok_or(FrameError::Channel { kind, channel })?.arrived(header, body)
        }
        Kind::Open => {
            let inbox = channels
                .open(channel, Instant::now())
                .map_err(|e| FrameError::body(kind, format_args!("{channel}: {e}")))?;
            inbox.open(outbox.clone());
            inboxes.insert(channel, inbox);
            Ok(())
        }
        Kind::Refuse => Err(FrameError::body(kind, String::from_utf8_lossy(&body))),
        Kind::Hello | Kind::Welcome | Kind::Credit | Kind::Cancel => Err(FrameError::Unexpected { kind }),
    }
}
