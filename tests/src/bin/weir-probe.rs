//! A small HTTP server and client for tests of the cluster itself: `serve PORT`, `get URL`, and `write FILE TEXT`.
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port, ..] => serve(port),
        ["get", url] => get(url),
        ["write", file, text] => std::fs::write(file, text).with_context(|| format!("cannot write {file}")),
        _ => Err(anyhow::anyhow!("usage: weir-probe serve PORT | get http://HOST:PORT/ | write FILE TEXT")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every request with the name of the pod.
fn serve(port: &str) -> Result<()> {
    let port: u16 = port.parse().with_context(|| format!("{port:?} is no port"))?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("listening on {port}");
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    for stream in listener.incoming() {
        // A client that goes away concerns only itself.
        let _ = stream.map_err(Into::into).and_then(|stream| answer(stream, &name));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = [0; 4096];
    let read = stream.read(&mut request)?;
    if read == 0 {
        return Ok(());
    }
    let body = format!("{name}\n");
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())?;
    println!("answered {}", stream.peer_addr()?);
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// Prints the body of one answer.
fn get(url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").context("give an http:// address")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let target = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address = target
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {target}"))?
        .next()
        .with_context(|| format!("{target} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))
        .with_context(|| format!("cannot connect to {target} ({address})"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // in one piece: the server answers what it reads first, and then closes
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer: {answer:?}") };
    if !head.starts_with("HTTP/1.1 200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    print!("{body}");
    Ok(())
}
