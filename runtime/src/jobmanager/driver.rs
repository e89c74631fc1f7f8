//! Carries out what the master decides: one task that owns it, timers, connections, the storage queue.
use super::io::{Io, Store};
use super::master::{Action, Event, Exit, Master, Rejection};
use super::registry::ConnectionId;
use super::rpc;
use crate::checkpoint::coordinator::Now;
use crate::checkpoint::log::Nonce;
use crate::control::{Sender, ToTaskManager};
use crate::error::Result;
use crate::graph::LogicalGraph;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use weir_api::config::JobConfig;
use weir_api::rest::{Millis, StartRequest, WeirStatus};

/// Wall-clock milliseconds since the epoch.
pub fn wall_clock() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| Millis::try_from(d.as_millis()).unwrap_or(Millis::MAX))
}

/// What the driver's task takes in.
pub(super) enum Input {
    Event(Event),
    /// Runs with the master; its actions are carried out.
    Call(Box<dyn FnOnce(&mut Master, Now) -> Vec<Action> + Send>),
    Connected(ConnectionId, Sender<ToTaskManager>, AbortHandle),
    Start(StartRequest, oneshot::Sender<Result<(), Rejection>>),
}

/// Reaches a running jobmanager. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    input: mpsc::UnboundedSender<Input>,
    status: watch::Receiver<Arc<WeirStatus>>,
}

/// The jobmanager's task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the jobmanager is ending")]
pub struct Ending;

impl Handle {
    /// Changes something; the actions that follow are carried out before the next event.
    pub async fn change<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Master, Now) -> (R, Vec<Action>) + Send + 'static,
    ) -> Result<R, Ending> {
        let (tx, rx) = oneshot::channel();
        let call = move |m: &mut Master, now| {
            let (answer, actions) = f(m, now);
            let _ = tx.send(answer);
            actions
        };
        self.input.send(Input::Call(Box::new(call))).map_err(|_| Ending)?;
        rx.await.map_err(|_| Ending)
    }
    /// Looks at the master.
    pub async fn query<R: Send + 'static>(
        &self,
        f: impl FnOnce(&Master, Now) -> R + Send + 'static,
    ) -> Result<R, Ending> {
        self.change(move |m, now| (f(m, now), Vec::new())).await
    }
    /// The word to a waiting jobmanager; answers when the claim is won or refused.
    pub async fn start(&self, request: StartRequest) -> Result<Result<(), Rejection>, Ending> {
        let (tx, rx) = oneshot::channel();
        self.input.send(Input::Start(request, tx)).map_err(|_| Ending)?;
        rx.await.map_err(|_| Ending)
    }
    /// SIGTERM.
    pub fn leave(&self) {
        let _ = self.input.send(Input::Event(Event::Leave));
    }
    /// The newest status; changes can be awaited.
    pub fn status(&self) -> watch::Receiver<Arc<WeirStatus>> {
        self.status.clone()
    }
}

/// A jobmanager that is set up and not yet running.
pub struct JobManager {
    driver: Driver,
    handle: Handle,
}

struct Driver {
    master: Master,
    input: mpsc::UnboundedReceiver<Input>,
    io: mpsc::UnboundedSender<Io>,
    connections: HashMap<ConnectionId, (Sender<ToTaskManager>, AbortHandle)>,
    starts: HashMap<u64, oneshot::Sender<Result<(), Rejection>>>,
    next_start: u64,
    status: watch::Sender<Arc<WeirStatus>>,
    started: Instant,
    /// A deployment's jobmanager stays up to report.
    stays: bool,
    /// How long the final status is served.
    linger: Duration,
    exit: Option<(tokio::time::Instant, Exit)>,
    _rpc: AbortOnDrop,
}

impl JobManager {
    /// Sets up the master, its storage and the control port. `linger`: how long the final status is served before the process
    /// may end (where nobody supervises it). Must be called within a tokio runtime.
    pub fn new(config: JobConfig, graph: Arc<LogicalGraph>, rpc: TcpListener, linger: Duration) -> Result<Self> {
        let store = Store::new(config.clone(), graph.clone(), wall_clock)?;
        let root = store.storage().map(|s| s.url().to_owned());
        let stays = config.deployment.is_some();
        let (input_tx, input) = mpsc::unbounded_channel();
        let (io, queue) = mpsc::unbounded_channel();
        let replies = input_tx.clone();
        tokio::spawn(store.run(queue, move |reply| {
            let _ = replies.send(Input::Event(Event::Io(reply)));
        }));
        let rpc = AbortOnDrop(tokio::spawn(rpc::accept(rpc, input_tx.clone())).abort_handle());
        let started = Instant::now();
        let now = Now { mono: Duration::ZERO, wall: wall_clock() };
        let master = Master::new(config, graph, root, now);
        let mut first = master.status();
        first.version = 1;
        first.instance = Nonce::random().to_string();
        let (status, watched) = watch::channel(Arc::new(first));
        let driver = Driver {
            master,
            input,
            io,
            connections: HashMap::new(),
            starts: HashMap::new(),
            next_start: 0,
            status,
            started,
            stays,
            linger,
            exit: None,
            _rpc: rpc,
        };
        Ok(Self { driver, handle: Handle { input: input_tx, status: watched } })
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until the job has ended, or the process is told to leave. The master is given back for a last look.
    pub async fn run(self) -> (Exit, Master) {
        let mut driver = self.driver;
        drop(self.handle);
        let exit = driver.run().await;
        (exit, driver.master)
    }
}

impl Driver {
    async fn run(&mut self) -> Exit {
        self.event(Event::Started);
        loop {
            let wake = tokio::time::Instant::from_std(self.started + self.master.next_wakeup());
            let wake = self.exit.map_or(wake, |(at, _)| wake.min(at));
            tokio::select! {
                Some(input) = self.input.recv() => self.take(input),
                _ = tokio::time::sleep_until(wake) => self.event(Event::Tick),
            }
            self.publish();
            if let Some((at, exit)) = self.exit
                && tokio::time::Instant::now() >= at
            {
                return exit;
            }
        }
    }

    fn now(&self) -> Now {
        Now { mono: self.started.elapsed(), wall: wall_clock() }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Event(Event::Disconnected(c, why)) => {
                self.connections.remove(&c);
                self.event(Event::Disconnected(c, why));
            }
            Input::Event(e) => self.event(e),
            Input::Call(f) => {
                let now = self.now();
                let actions = f(&mut self.master, now);
                self.perform(actions);
            }
            Input::Connected(c, sender, reader) => {
                self.connections.insert(c, (sender, reader));
            }
            Input::Start(request, answer) => {
                self.next_start += 1;
                let number = self.next_start;
                let now = self.now();
                let (at_once, actions) = self.master.start(request, number, now);
                match at_once {
                    Some(result) => {
                        let _ = answer.send(result);
                    }
                    None => {
                        self.starts.insert(number, answer);
                    }
                }
                self.perform(actions);
            }
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.now();
        let actions = self.master.on(event, now);
        self.perform(actions);
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(c, message) => {
                    if let Some((sender, _)) = self.connections.get(&c) {
                        sender.send(message);
                    }
                }
                // what is queued is still written before the connection closes
                Action::Close(c) => {
                    if let Some((_, reader)) = self.connections.remove(&c) {
                        reader.abort();
                    }
                }
                Action::Io(io) => {
                    let _ = self.io.send(io);
                }
                Action::Started(number, result) => {
                    if let Some(answer) = self.starts.remove(&number) {
                        let _ = answer.send(result);
                    }
                }
                Action::Exit(exit) => self.exits(exit),
            }
        }
    }

    fn exits(&mut self, exit: Exit) {
        let told = exit == Exit::Suspended;
        if self.stays && !told {
            return;
        }
        if let Exit::Ended(_) = exit {
            for (sender, _) in self.connections.values() {
                sender.send(ToTaskManager::JobEnded);
            }
        }
        let linger = if told { Duration::ZERO } else { self.linger };
        self.exit = Some((tokio::time::Instant::now() + linger, exit));
    }

    /// Gives the status a new version when it has changed.
    fn publish(&mut self) {
        let mut new = self.master.status();
        self.status.send_if_modified(|old| {
            new.version = old.version;
            new.instance.clone_from(&old.instance);
            if new == **old {
                return false;
            }
            new.version += 1;
            *old = Arc::new(new);
            true
        });
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
