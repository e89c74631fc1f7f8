//! Free ports on loopback for processes that come back on the same one.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

/// Below what kernels give to outgoing connections: a client that dials a dead jobmanager must not end up on its port (or
/// connected to itself).
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// An address on 127.0.0.1 that nobody listens on now.
pub fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(613);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}
