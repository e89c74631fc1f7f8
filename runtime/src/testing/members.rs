//! The members of an in-process cluster: a jobmanager and taskmanagers, each with threads of its own that can be taken away
//! from it at once, as a kill takes a process.
use crate::error::{Error, ErrorCode, Result};
use crate::exchange::{Exchange, Identity};
use crate::graph::LogicalGraph;
use crate::jobmanager::{Handle, JobManager};
use crate::taskmanager::{self, Health, TaskManager};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use weir_api::config::{JobConfig, TaskManagerConfig};

/// How long a kill waits for code that does not return.
const GONE: Duration = Duration::from_secs(10);

fn no_runtime(e: std::io::Error) -> Error {
    Error::external(ErrorCode::Io, format!("cannot start threads for the test cluster: {e}"))
}

fn runtime(threads: usize, name: &str) -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build().map_err(no_runtime)
}

/// Listens on a free port of this machine's own address.
pub fn listen() -> Result<TcpListener> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|l| l.set_nonblocking(true).map(|()| l));
    bound.map_err(|e| Error::external(ErrorCode::Io, format!("the test cluster cannot listen on 127.0.0.1: {e}")))
}

/// A running jobmanager.
pub struct JobManagerMember {
    pub handle: Handle,
    pub runtime: Runtime,
}

impl JobManagerMember {
    /// Sets the jobmanager up and lets it run. `port` stays open when it is killed, as a service's address does.
    pub fn start(config: JobConfig, graph: Arc<LogicalGraph>, port: &TcpListener) -> Result<Self> {
        let runtime = runtime(1, "weir-test-jm")?;
        let broke = |e| Error::external(ErrorCode::Io, format!("the test cluster cannot listen: {e}"));
        let rpc = port.try_clone().map_err(broke)?;
        let handle = {
            let _entered = runtime.enter();
            let rpc = tokio::net::TcpListener::from_std(rpc).map_err(broke)?;
            let jobmanager = JobManager::new(config, graph, rpc, Duration::ZERO)?;
            let handle = jobmanager.handle();
            tokio::spawn(jobmanager.run());
            handle
        };
        Ok(Self { handle, runtime })
    }

    /// Ends it in the middle of whatever it does.
    pub fn kill(self) {
        take_away(self.runtime);
    }
}

/// A running taskmanager.
pub struct TaskManagerMember {
    pub id: String,
    control: Runtime,
    data: Runtime,
    // its end would tell the taskmanager to leave
    _leave: watch::Sender<bool>,
}

impl TaskManagerMember {
    /// `connected`: other taskmanagers take part in the job, over TCP.
    pub fn start(
        id: String,
        graph: Arc<LogicalGraph>,
        jobmanager: SocketAddr,
        slots: u32,
        connected: bool,
    ) -> Result<Self> {
        let (control, data) = (runtime(1, "weir-test-tm")?, runtime(slots.clamp(1, 8) as usize, "weir-test-task")?);
        let exchange = match connected {
            true => {
                let me = Identity { job: graph.fingerprint(), taskmanager: id.clone() };
                let (tx, rx) = std::sync::mpsc::channel();
                data.spawn(async move {
                    let _ = tx.send(Exchange::bind(SocketAddr::from(([127, 0, 0, 1], 0)), me).await);
                });
                let bound = rx.recv().map_err(|_| Error::internal("the test cluster's exchange did not start"))?;
                Some(Arc::new(bound?))
            }
            false => None,
        };
        let data_address = exchange.as_ref().map_or_else(|| "in-process".into(), |e| e.address().to_string());
        let config = TaskManagerConfig {
            id: id.clone(),
            jobmanager: jobmanager.to_string(),
            slots,
            data_address: String::new(),
            advertised_host: String::new(),
            http_address: None,
        };
        let handle = data.handle().clone().into();
        let tm = TaskManager { config, graph, data: handle, exchange, health: Health::default(), patience: None };
        let (leave, shutdown) = watch::channel(false);
        control.spawn(taskmanager::run(tm, data_address, shutdown));
        Ok(Self { id, control, data, _leave: leave })
    }

    /// Ends it, and its tasks, in the middle of whatever they do.
    pub fn kill(self) {
        take_away(self.control);
        take_away(self.data);
    }
}

/// Drops all that runs there. On a thread of its own: the caller may be a thread of some runtime.
fn take_away(runtime: Runtime) {
    let _ = std::thread::spawn(move || runtime.shutdown_timeout(GONE)).join();
}
