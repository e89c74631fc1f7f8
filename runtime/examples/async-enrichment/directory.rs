//! The service that the job asks: one line with a number, one line with a name or nothing. A client, and a server to try it.
use anyhow::{Context, Result, ensure};
use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

/// A client with as many connections as questions are under way; it keeps those that worked.
pub struct Directory {
    address: String,
    idle: Mutex<Vec<BufStream<TcpStream>>>,
}

impl Directory {
    /// `HOST:PORT`; connects when it is asked.
    pub fn new(address: String) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// None: the directory does not know it.
    pub async fn name_of(&self, customer: u64) -> Result<Option<String>> {
        let kept = self.idle().pop();
        let mut connection = match kept {
            Some(c) => c,
            None => {
                let stream = TcpStream::connect(&self.address).await;
                BufStream::new(stream.with_context(|| format!("cannot reach the directory {}", self.address))?)
            }
        };
        connection.write_all(format!("{customer}\n").as_bytes()).await?;
        connection.flush().await?;
        let mut line = String::new();
        ensure!(connection.read_line(&mut line).await? > 0, "the directory hung up");
        self.idle().push(connection);
        Ok(Some(line.trim_end().to_owned()).filter(|name| !name.is_empty()))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<BufStream<TcpStream>>> {
        // a panic elsewhere cannot leave a push half done
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the questions of one connection.
async fn serve(stream: TcpStream, answer: impl Fn(u64) -> Answer) -> std::io::Result<()> {
    let mut connection = BufStream::new(stream);
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        match line.trim().parse().map(&answer) {
            Ok(Answer::Name(name)) => connection.write_all(format!("{name}\n").as_bytes()).await?,
            Ok(Answer::Unknown) | Err(_) => connection.write_all(b"\n").await?,
            #[cfg(test)]
            Ok(Answer::HangUp) => return Ok(()),
            #[cfg(test)]
            Ok(Answer::Never) => std::future::pending().await,
        }
        connection.flush().await?;
        line.clear();
    }
    Ok(())
}

/// What the server does with a question.
pub enum Answer {
    Name(String),
    Unknown,
    #[cfg(test)]
    HangUp,
    #[cfg(test)]
    Never,
}

/// `async-enrichment serve HOST:PORT`: knows every customer whose number does not end in 9.
pub fn serve_for_ever(address: &str) -> ExitCode {
    let answer =
        |customer: u64| if customer % 10 == 9 { Answer::Unknown } else { Answer::Name(format!("customer {customer}")) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(accept(address, answer))) {
        Ok(never) => match never {},
        Err(e) => {
            eprintln!("cannot serve on {address}: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn accept(address: &str, answer: impl Fn(u64) -> Answer + Copy + Send + 'static) -> std::io::Result<Infallible> {
    let listener = TcpListener::bind(address).await?;
    eprintln!("the directory listens on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, answer));
    }
}

#[cfg(test)]
pub use server::Server;

#[cfg(test)]
mod server {
    use super::*;
    use std::collections::HashMap;
    use std::net::SocketAddr;
    use std::sync::Arc;

    /// A server for tests, on threads of its own; ends when it is dropped.
    pub struct Server {
        pub address: SocketAddr,
        asked: Arc<Mutex<HashMap<u64, u64>>>,
        runtime: Option<tokio::runtime::Runtime>,
    }

    impl Server {
        /// `answer` gets the customer, and how often it was asked for.
        pub fn start(answer: impl Fn(u64, u64) -> Answer + Clone + Send + 'static) -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<HashMap<u64, u64>>>::default());
            let counted = asked.clone();
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (answer, counted) = (answer.clone(), counted.clone());
                    tokio::spawn(serve(stream, move |customer| {
                        let times = {
                            let mut counted = counted.lock().unwrap();
                            let times = counted.entry(customer).or_default();
                            *times += 1;
                            *times
                        };
                        answer(customer, times)
                    }));
                }
            });
            Self { address, asked, runtime: Some(runtime) }
        }
        pub fn asked(&self, customer: u64) -> u64 {
            self.asked.lock().unwrap().get(&customer).copied().unwrap_or_default()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            if let Some(runtime) = self.runtime.take() {
                runtime.shutdown_background();
            }
        }
    }
}
