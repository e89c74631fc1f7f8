//! The connection to the jobmanager: greeting, orders in, events and signs of life out; reconnects for ever.
use super::attempts::{Attempts, Order, Running};
use super::{Health, TaskManager};
use crate::checkpoint::storage::Storage;
use crate::control::{Connection, ControlError, Hello, Sender, ToJobManager, ToTaskManager, Welcome};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

/// Pause before the second try to connect; grows up to [`MAX_BACKOFF`].
const BACKOFF: Duration = Duration::from_millis(10);
/// While the jobmanager may be on its way (the first [`EXPECTED`]), so that its return is noticed soon; after that.
const MAX_BACKOFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];
const EXPECTED: Duration = Duration::from_secs(30);
/// How long a connection may take: the address may be that of a pod that is gone, which answers nothing.
const CONNECT: Duration = Duration::from_secs(1);
/// How long connection and greeting may take.
const GREETING: Duration = Duration::from_secs(5);
/// How long ending tasks may take when the process was told to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Becomes true when the process is to end.
pub type Shutdown = watch::Receiver<bool>;

/// A thread of this process belongs to user code that does not return: it takes no attempt any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "tasks have not ended within {} s: the job's code does not return; the process ends, so that another can take its place",
    .0.as_secs()
)]
pub struct Stuck(pub Duration);

/// Serves until the shutdown signal. `data_address` is what other taskmanagers reach this one by.
pub async fn run(tm: TaskManager, data_address: String, mut shutdown: Shutdown) -> Result<(), Stuck> {
    let (out, mut outgoing) = mpsc::unbounded_channel();
    let (orders, order_queue) = mpsc::unbounded_channel();
    let running = Running::default();
    let attempts = Attempts {
        graph: tm.graph.clone(),
        exchange: tm.exchange.clone(),
        data: tm.data.clone(),
        control: tokio::runtime::Handle::current(),
        out,
        running: running.clone(),
    };
    tokio::spawn(attempts.run(order_queue));
    let hello = Hello {
        id: tm.config.id.clone(),
        slots: tm.config.slots,
        data_address,
        fingerprint: tm.graph.fingerprint(),
        pid: std::process::id(),
        highest: running.highest(),
    };
    let mut session = Session { hello, orders, running, health: tm.health.clone(), patience: tm.patience };
    let (mut backoff, mut lost) = (BACKOFF, Instant::now());
    let mut last_reason = String::new();
    while !*shutdown.borrow() {
        // what was said about attempts of an earlier connection concerns nobody any more
        while outgoing.try_recv().is_ok() {}
        let end = session.serve(&tm.config.jobmanager, &mut outgoing, &mut shutdown).await;
        let was_registered = tm.health.get().registered;
        let reason = end.as_ref().map_or_else(ToString::to_string, |()| "the process is ending".into());
        tm.health.set(|h| (h.registered, h.reason) = (false, reason.clone()));
        session.stop_tasks(&shutdown).await?;
        if end.is_ok() {
            break;
        }
        if was_registered || reason != last_reason {
            tracing::warn!(jobmanager = %tm.config.jobmanager, error = %reason, "not connected to the jobmanager; trying again");
        }
        last_reason = reason;
        if was_registered {
            (backoff, lost) = (BACKOFF, Instant::now());
        }
        tokio::select! {
            _ = tokio::time::sleep(backoff) => {}
            _ = shutdown.wait_for(|s| *s) => {}
        }
        backoff = (backoff * 2).min(MAX_BACKOFF[usize::from(lost.elapsed() > EXPECTED)]);
    }
    Ok(())
}

struct Session {
    hello: Hello,
    orders: mpsc::UnboundedSender<Order>,
    running: Running,
    health: Health,
    patience: Option<Duration>,
}

impl Session {
    /// One connection, from the first byte to its end; `Ok` when this process is to end.
    async fn serve(
        &mut self,
        jobmanager: &str,
        outgoing: &mut mpsc::UnboundedReceiver<ToJobManager>,
        shutdown: &mut Shutdown,
    ) -> Result<(), ControlError> {
        let greeting = tokio::time::timeout(GREETING, self.greet(jobmanager));
        let (mut connection, to_jm, welcome) = tokio::select! {
            g = greeting => g.unwrap_or(Err(ControlError::Silent(GREETING)))?,
            _ = shutdown.wait_for(|s| *s) => return Ok(()),
        };
        let open = |url: &String| Storage::open(url, &welcome.job);
        let storage = welcome.storage.as_ref().map(open).transpose();
        let storage =
            storage.map_err(|e| ControlError::Refused(format!("the checkpoint storage cannot be used here: {e}")))?;
        tracing::info!(%jobmanager, job = %welcome.job, attempt = %welcome.attempt, slots = self.hello.slots, "registered");
        self.health.set(|h| (h.registered, h.reason, h.connections) = (true, String::new(), h.connections + 1));

        // reads are not cancel-safe, so they have a task of their own
        let (incoming, mut inbox) = mpsc::unbounded_channel();
        let reader = tokio::spawn(async move {
            loop {
                let m = connection.recv().await;
                let end = m.is_err();
                if incoming.send(m).is_err() || end {
                    break;
                }
            }
        });
        let _end_reader = AbortOnDrop(reader);
        let timeout = welcome.heartbeat.timeout.get();
        let mut beat = tokio::time::interval(welcome.heartbeat.interval.get().max(Duration::from_millis(1)));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_heard = Instant::now();
        loop {
            tokio::select! {
                m = inbox.recv() => {
                    last_heard = Instant::now();
                    match m.unwrap_or(Err(ControlError::Closed))? {
                        ToTaskManager::JobEnded => return Ok(()),
                        m => self.take(m, &storage),
                    }
                }
                Some(m) = outgoing.recv() => {
                    to_jm.send(m);
                }
                _ = beat.tick() => {
                    if last_heard.elapsed() > timeout {
                        return Err(ControlError::Silent(timeout));
                    }
                    let heartbeat = self.running.heartbeat();
                    self.health.set(|h| h.heartbeat = heartbeat.clone());
                    to_jm.send(ToJobManager::Heartbeat(heartbeat));
                }
                _ = shutdown.wait_for(|s| *s) => {
                    to_jm.send(ToJobManager::Leaving);
                    return Ok(());
                }
            }
        }
    }

    async fn greet(
        &self,
        jobmanager: &str,
    ) -> Result<(Connection<TcpStream, ToTaskManager>, Sender<ToJobManager>, Welcome), ControlError> {
        // resolves the name anew each time: a jobmanager that was rescheduled has another address
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(jobmanager)).await;
        let stream = stream.unwrap_or(Err(std::io::ErrorKind::TimedOut.into()))?;
        stream.set_nodelay(true)?;
        let (mut connection, to_jm) = Connection::open(stream).await?;
        to_jm.send(ToJobManager::Hello(Hello { highest: self.running.highest(), ..self.hello.clone() }));
        match connection.recv().await? {
            ToTaskManager::Welcome(w) => Ok((connection, to_jm, w)),
            ToTaskManager::Refused { reason } => Err(ControlError::Refused(reason)),
            other => Err(ControlError::Malformed(format!("expected a welcome, got {other:?}"))),
        }
    }

    fn take(&self, message: ToTaskManager, storage: &Option<Storage>) {
        let order = match message {
            ToTaskManager::Deploy { me, deployment } => Order::Deploy { me, deployment, storage: storage.clone() },
            ToTaskManager::Restore { attempt, task, restore } => Order::Restore { attempt, task, restore },
            ToTaskManager::Cancel { attempt } => Order::Cancel { attempt },
            ToTaskManager::Command { attempt, command } => Order::Command { attempt, command },
            ToTaskManager::Alignment { attempt, others } => return self.running.align(attempt, others),
            ToTaskManager::Heartbeat
            | ToTaskManager::Welcome(_)
            | ToTaskManager::Refused { .. }
            | ToTaskManager::JobEnded => return,
        };
        let _ = self.orders.send(order);
    }

    /// The jobmanager counts this taskmanager as lost as soon as the connection ends: nothing may run on behalf of that
    /// attempt, and no other is taken before the tasks are gone.
    async fn stop_tasks(&self, shutdown: &Shutdown) -> Result<(), Stuck> {
        // they may have been told to end long before the connection did
        let since = self.running.ending().unwrap_or_else(Instant::now);
        let (done, mut stopped) = oneshot::channel();
        if self.orders.send(Order::Stop { done }).is_err() {
            return Ok(());
        }
        loop {
            let left = self.patience.map_or(FAREWELL, |p| p.saturating_sub(since.elapsed()));
            if tokio::time::timeout(left.min(FAREWELL), &mut stopped).await.is_ok() || *shutdown.borrow() {
                return Ok(());
            }
            tracing::warn!("tasks do not end: user code does not return");
            if let Some(p) = self.patience.filter(|p| since.elapsed() >= *p) {
                return Err(Stuck(p));
            }
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
