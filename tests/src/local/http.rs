//! One HTTP request over loopback or a socket file, spoken by hand: status and body, whatever they are.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long a process may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON ({}): {:?}", self.status, self.body))
    }

    /// The body as JSON when the status says success.
    pub fn success(&self) -> Result<Value> {
        match self.status {
            200..=299 => self.json(),
            _ => bail!("{} {}", self.status, self.body.trim()),
        }
    }

    /// The sentences of an error body (`{"errors":[...]}`).
    pub fn errors(&self) -> Result<String> {
        let json = self.json()?;
        let errors = json["errors"].as_array().with_context(|| format!("no `errors` in {json}"))?;
        Ok(errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n"))
    }
}

/// Sends a request with an optional body and content type and reads the answer to its end.
pub fn request(address: SocketAddr, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Answer> {
    let what = || format!("{method} http://{address}{path}");
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    exchange(stream, &address.to_string(), method, path, body).with_context(what)
}

/// GET from the server behind a socket file.
pub fn get_by_file(socket: &Path, path: &str) -> Result<Answer> {
    let what = || format!("GET {path} by {}", socket.display());
    let stream = UnixStream::connect(socket).with_context(what)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    exchange(stream, "localhost", "GET", path, None).with_context(what)
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    body: Option<(&str, &[u8])>,
) -> Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if let Some((kind, bytes)) = body {
        head.push_str(&format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", bytes.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if let Some((_, bytes)) = body {
        // a server may refuse a body by its length, before all of it is there
        let _ = stream.write_all(bytes);
    }
    let mut bytes = Vec::new();
    let read = stream.take(LONGEST).read_to_end(&mut bytes);
    match parse(&bytes) {
        Some(answer) => Ok(answer),
        None => {
            read?;
            bail!("no HTTP answer in {:?}", String::from_utf8_lossy(&bytes))
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.lines().any(|line| line.eq_ignore_ascii_case("transfer-encoding: chunked"));
    let body = if chunked { unchunk(&bytes[end + 4..])? } else { bytes[end + 4..].to_vec() };
    Some(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(line + 2..line + 2 + size)?);
        bytes = bytes.get(line + 4 + size..)?;
    }
}

/// Sends bytes that are no request, and reads what comes back until the other side closes the connection.
///
/// An error means that it was still open after `patience`, or could not be reached.
pub fn throw(address: SocketAddr, bytes: &[u8], patience: Duration) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // it may be closed in the middle: what it says is what counts
    let _ = stream.write_all(bytes);
    let _ = stream.flush();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => bail!("{address} keeps the connection open: {e}; it said {:?}", String::from_utf8_lossy(&answer)),
    }
    let _ = stream.shutdown(Shutdown::Both);
    Ok(answer)
}
