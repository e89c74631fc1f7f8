//! What can go wrong in a task, and what the jobmanager does about it: a domain, a code and a sentence.
use serde::{Deserialize, Serialize};
use std::fmt;

/// Whose affair an error is; decides how the jobmanager retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorDomain {
    /// The job's code or its input: restarting will most likely meet it again.
    User,
    /// Storage, network, a lost process: restarting may help.
    External,
    /// A fault of Weir.
    Internal,
}

/// An error of a task or of the job. `code` is stable, for logs and metrics; `message` says what, where and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub domain: ErrorDomain,
    pub code: ErrorCode,
    pub message: String,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($variant:ident $text:literal),* $(,)?) => {
        /// Stable names of errors.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $(#[serde(rename = $text)] $variant),* }
        impl ErrorCode {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}
codes! {
    BadRecord "bad-record", UserFunction "user-function", Panic "panic", Graph "graph", Config "config",
    Io "io", Storage "storage", Snapshot "snapshot", Incompatible "incompatible", Fenced "fenced", Exchange "exchange",
    Connection "connection", HeartbeatTimeout "heartbeat-timeout", NoSlots "no-slots", Checkpoint "checkpoint", Internal "internal",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    pub fn new(domain: ErrorDomain, code: ErrorCode, message: impl fmt::Display) -> Self {
        Self { domain, code, message: message.to_string() }
    }
    pub fn user(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self::new(ErrorDomain::User, code, message)
    }
    pub fn external(code: ErrorCode, message: impl fmt::Display) -> Self {
        Self::new(ErrorDomain::External, code, message)
    }
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(ErrorDomain::Internal, ErrorCode::Internal, message)
    }
    /// The same error with where it happened put in front.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

/// An error that a user's function returned.
impl From<anyhow::Error> for Error {
    fn from(e: anyhow::Error) -> Self {
        Self::user(ErrorCode::UserFunction, format!("{e:#}"))
    }
}
