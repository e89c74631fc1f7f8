//! The control plane's wire: messages between jobmanager and taskmanagers, framed over one connection each.
pub mod connection;
pub mod frame;
pub mod message;

pub use connection::{Connection, Sender};
pub use frame::ControlError;
pub use message::{Heartbeat, Hello, TaskCounters, ToJobManager, ToTaskManager, Welcome};
