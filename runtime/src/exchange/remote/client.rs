//! The connecting side: one connection to each taskmanager that consumes what this one produces.
use super::handshake::{Hello, Identity, control, refusal, refused};
use super::lock;
use super::outbox::{Outbox, write_frames};
use super::outlet::Outlet;
use super::reader::{FrameReader, ReadError};
use crate::error::{Error, ErrorCode, Result};
use crate::exchange::ChannelId;
use crate::exchange::credit::Grant;
use crate::exchange::frame::{FrameError, Header, Kind};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use weir_api::ids::Attempt;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a taskmanager's data server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The taskmanager's id.
    pub taskmanager: String,
    /// `host:port`.
    pub address: String,
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "taskmanager {} at {}", self.taskmanager, self.address)
    }
}

/// The connection to one taskmanager in one attempt, from before it stands until after it broke.
pub struct Peer {
    attempt: Attempt,
    address: PeerAddress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outlets: HashMap<ChannelId, Arc<Outlet>>,
    outbox: Option<Arc<Outbox>>,
    failed: Option<Error>,
}

impl Peer {
    pub fn new(attempt: Attempt, address: PeerAddress) -> Self {
        Self { attempt, address, state: Mutex::default() }
    }

    /// Adds a channel.
    pub fn outlet(&self, channel: ChannelId) -> Result<Arc<Outlet>> {
        let mut state = lock(&self.state);
        if let Some(e) = &state.failed {
            return Err(e.clone());
        }
        let outlet = Arc::new(Outlet::new(self.attempt, channel));
        if state.outlets.insert(channel, outlet.clone()).is_some() {
            return Err(Error::internal(format_args!("the channel {channel} has a producer already")));
        }
        if let Some(outbox) = &state.outbox {
            outlet.connect(outbox.clone());
        }
        Ok(outlet)
    }

    /// Fails all channels, also those to come.
    pub fn fail(&self, error: &Error) {
        let mut state = lock(&self.state);
        if state.failed.is_none() {
            state.failed = Some(error.clone());
            state.outlets.values().for_each(|o| o.fail(error));
        }
    }

    /// Connects and serves the connection until it ends, then fails what is left.
    pub async fn run(self: Arc<Self>, me: Identity) {
        let error = match self.connect(me).await {
            Ok(stream) => self.serve(stream).await,
            Err(e) => e,
        };
        tracing::debug!(peer = %self.address, attempt = %self.attempt, %error, "data connection ended");
        self.fail(&error);
    }

    async fn connect(&self, me: Identity) -> Result<TcpStream> {
        let broke = |e: &dyn std::fmt::Display| {
            Error::external(ErrorCode::Connection, format_args!("cannot connect to {}: {e}", self.address))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address.address)).await;
        let mut stream = stream.map_err(|_| broke(&"no answer within 10 s"))?.map_err(|e| broke(&e))?;
        stream.set_nodelay(true).map_err(|e| broke(&e))?;
        let hello = Hello { job: me.job, from: me.taskmanager, to: self.address.taskmanager.clone() };
        stream.write_all(&hello.encode(self.attempt)).await.map_err(|e| broke(&e))?;
        Ok(stream)
    }

    async fn serve(&self, stream: TcpStream) -> Error {
        let (read, mut write) = stream.into_split();
        let outbox = Arc::new(Outbox::default());
        let mut reader = FrameReader::new(read);
        let writing = write_frames(&outbox, &mut write);
        tokio::pin!(writing);
        let error = tokio::select! {
            e = self.read(&mut reader, &outbox) => e,
            r = &mut writing => ReadError::Io(r.err().unwrap_or_else(|| std::io::ErrorKind::WriteZero.into())).into(),
        };
        match error {
            End::Refused(e) => e,
            End::Read(ReadError::Io(e)) => {
                Error::external(ErrorCode::Connection, format_args!("the connection to {} broke: {e}", self.address))
            }
            End::Read(ReadError::Frame(e)) => {
                tracing::warn!(peer = %self.address, error = %e, "refused a frame, closing the data connection");
                outbox.push(refusal(self.attempt, &e.to_string()));
                outbox.close();
                let error =
                    Error::external(ErrorCode::Exchange, format_args!("{} sent a bad frame: {e}", self.address));
                self.fail(&error);
                let _ = tokio::time::timeout(Duration::from_secs(1), async {
                    let _ = writing.await;
                    reader.linger().await;
                })
                .await;
                error
            }
        }
    }

    /// Reads until the connection ends.
    async fn read(&self, reader: &mut FrameReader<OwnedReadHalf>, outbox: &Arc<Outbox>) -> End {
        loop {
            let (header, body) = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return ReadError::from(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)).into(),
                Err(e) => return e.into(),
            };
            if header.kind == Kind::Refuse {
                return End::Refused(refused(&self.address.to_string(), &body));
            }
            if let Err(e) = self.handle(&header, &body, outbox) {
                return ReadError::from(e).into();
            }
        }
    }

    fn handle(&self, header: &Header, body: &Bytes, outbox: &Arc<Outbox>) -> Result<(), FrameError> {
        let (kind, channel) = (header.kind, header.channel);
        if header.attempt != self.attempt {
            return Err(FrameError::Attempt { kind, expected: self.attempt, found: header.attempt });
        }
        let mut state = lock(&self.state);
        match kind {
            Kind::Welcome if state.outbox.is_none() => {
                state.outlets.values().for_each(|o| o.connect(outbox.clone()));
                state.outbox = Some(outbox.clone());
                return Ok(());
            }
            Kind::Credit | Kind::Cancel => {}
            _ => return Err(FrameError::Unexpected { kind }),
        }
        let outlet = state.outlets.get(&channel).cloned().ok_or(FrameError::Channel { kind, channel })?;
        drop(state);
        if kind == Kind::Credit {
            return outlet.grant(Grant::decode(body)?);
        }
        let gone = format_args!("the consumer of {channel} on {} has ended", self.address);
        outlet.fail(&Error::external(ErrorCode::Exchange, gone));
        Ok(())
    }
}

/// How a connection ended.
enum End {
    Read(ReadError),
    Refused(Error),
}

impl From<ReadError> for End {
    fn from(e: ReadError) -> Self {
        Self::Read(e)
    }
}

/// The frame that accepts a connection.
pub fn welcome(attempt: Attempt) -> Vec<u8> {
    control(Kind::Welcome, attempt, &[])
}
