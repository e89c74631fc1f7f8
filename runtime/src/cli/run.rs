//! Runs the processes: runtimes, signals, exit codes.
use super::{local, standby};
use crate::dataflow::Workers;
use crate::error::{Error, ErrorCode, Result};
use crate::exchange::{Exchange, Identity};
use crate::graph::LogicalGraph;
use crate::jobmanager::master::Exit;
use crate::jobmanager::{JobManager, rest};
use crate::observe::telemetry;
use crate::taskmanager::{self, Health, TaskManager};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::Instrument;
use weir_api::config::{JobConfig, JobManagerConfig, TaskManagerConfig};

/// How long a jobmanager that nobody supervises serves the job's final status.
const LINGER: Duration = Duration::from_millis(1000);

/// A whole cluster in this process.
pub fn local(config: JobConfig, graph: LogicalGraph) -> Result<ExitCode> {
    telemetry::init("warn,weir::outcome=off");
    let graph = Arc::new(graph);
    let data = data_runtimes(crate::graph::JobGraph::new(&graph, config.parallelism, config.max_parallelism).slots())?;
    let code = control_runtime()?.block_on(local::run(config, graph, data.workers()));
    data.shutdown(Duration::ZERO);
    code
}

/// The jobmanager's process.
pub fn jobmanager(config: JobManagerConfig, graph: LogicalGraph) -> Result<ExitCode> {
    telemetry::init("info");
    let runtime = control_runtime()?;
    let turn = runtime.block_on(standby::turn("jobmanager", &[&config.rpc_address, &config.rest_address]))?;
    let (exit, _) = runtime.block_on(async {
        let rpc = bind(&config.rpc_address, "taskmanagers").await?;
        let http = bind(&config.rest_address, "REST").await?;
        tracing::info!(job = %config.job.job, rest = %config.rest_address, rpc = %config.rpc_address, "jobmanager starts");
        let span = tracing::info_span!("jobmanager", job = %config.job.job);
        let jm = JobManager::new(config.job, Arc::new(graph), rpc, LINGER)?;
        let handle = jm.handle();
        tokio::spawn(serve_http(http, rest::router(handle.clone())));
        let told = told_to_stop()?;
        tokio::spawn(async move {
            told.await;
            handle.leave();
        });
        Ok::<_, Error>(jm.run().instrument(span).await)
    })?;
    if exit == Exit::Suspended {
        runtime.block_on(turn.outlast_the_signal());
    }
    // appends that are under way are not waited for: the next jobmanager sees what became of them
    runtime.shutdown_timeout(Duration::from_millis(100));
    tracing::info!(?exit, "jobmanager ends");
    Ok(ExitCode::from(exit.code()))
}

/// A taskmanager's process.
pub fn taskmanager(config: TaskManagerConfig, graph: LogicalGraph) -> Result<ExitCode> {
    telemetry::init("info");
    let config = taskmanager::complete_config(config, |name| std::env::var(name).ok());
    let control = control_runtime()?;
    let ports = config.http_address.iter().chain([&config.data_address]).map(String::as_str);
    let _turn = control.block_on(standby::turn("taskmanager", &ports.collect::<Vec<_>>()))?;
    let data = data_runtimes(config.slots)?;
    let graph = Arc::new(graph);
    let ended = control.block_on(async {
        let health = Health::default();
        if let Some(address) = &config.http_address {
            let http = bind(address, "health and metrics").await?;
            tokio::spawn(serve_http(http, taskmanager::router(health.clone())));
        }
        let exchange = exchange(&config, &graph, data.shared.handle()).await?;
        let data_address = taskmanager::advertised(&config, exchange.address());
        tracing::info!(id = %config.id, slots = config.slots, %data_address, jobmanager = %config.jobmanager, "taskmanager starts");
        let (leave, shutdown) = watch::channel(false);
        let told = told_to_stop()?;
        tokio::spawn(async move {
            told.await;
            let _ = leave.send(true);
            // keeps the channel open: its end is no signal
            std::future::pending::<()>().await;
        });
        let exchange = Some(Arc::new(exchange));
        let patience = Some(taskmanager::PATIENCE);
        let tm = TaskManager { config, graph, data: data.workers(), exchange, health, patience };
        taskmanager::run(tm, data_address, shutdown).await.map_err(|stuck| {
            tracing::error!(reason = %stuck, "taskmanager ends");
            Error::user(ErrorCode::UserFunction, stuck)
        })
    });
    // threads that do not return are not waited for
    control.shutdown_timeout(Duration::from_millis(100));
    data.shutdown(Duration::from_millis(100));
    ended.map(|()| ExitCode::SUCCESS)
}

/// Ends with the first SIGTERM or SIGINT from now on.
fn told_to_stop() -> Result<impl Future<Output = ()>> {
    let mut terminated = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    })
}

/// The data plane's server of a taskmanager. Its network tasks run with the tasks.
pub(super) async fn exchange(
    config: &TaskManagerConfig,
    graph: &LogicalGraph,
    data: &tokio::runtime::Handle,
) -> Result<Exchange> {
    let listen: SocketAddr = match tokio::net::lookup_host(&config.data_address).await.map(|mut a| a.next()) {
        Ok(Some(a)) => a,
        Ok(None) => return Err(bad_address(&config.data_address, "it has no address")),
        Err(e) => return Err(bad_address(&config.data_address, e)),
    };
    let me = Identity { job: graph.fingerprint(), taskmanager: config.id.clone() };
    data.spawn(Exchange::bind(listen, me)).await.map_err(Error::internal)?
}

/// Serves until the process ends.
pub(super) async fn serve_http(listener: TcpListener, router: axum::Router) {
    if let Err(e) = axum::serve(listener, router).await {
        tracing::error!(error = %e, "the HTTP server ended");
    }
}

pub(super) async fn bind(address: &str, what: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let m = format!("cannot listen for {what} on {address}: {e}; choose another address, or port 0 for a free one");
        Error::user(ErrorCode::Config, m)
    })
}

fn bad_address(address: &str, why: impl std::fmt::Display) -> Error {
    Error::user(ErrorCode::Config, format!("{address:?} is not an address to listen on: {why}; write HOST:PORT"))
}

pub(super) fn no_signals(e: std::io::Error) -> Error {
    Error::internal(format!("cannot take signals: {e}"))
}

fn no_runtime(e: std::io::Error) -> Error {
    Error::external(ErrorCode::Io, format!("cannot start threads: {e}"))
}

/// One thread: the control plane never waits for user code, and costs little.
fn control_runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().thread_keep_alive(Duration::from_secs(1)).build().map_err(no_runtime)
}

/// The runtimes behind [`Workers`].
struct DataRuntimes {
    shared: Runtime,
    slots: Vec<Runtime>,
}

impl DataRuntimes {
    fn workers(&self) -> Workers {
        Workers::new(self.shared.handle().clone(), self.slots.iter().map(|r| r.handle().clone()))
    }
    /// Threads that do not return by then are not waited for.
    fn shutdown(self, patience: Duration) {
        let until = Instant::now() + patience;
        for runtime in self.slots.into_iter().chain([self.shared]) {
            runtime.shutdown_timeout(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// A thread per slot, and as many for what belongs to no slot where there are several.
fn data_runtimes(slots: u32) -> Result<DataRuntimes> {
    let slots = slots.clamp(1, 1024) as usize;
    let runtime = |threads: usize| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads).thread_name("weir-task").enable_all().build().map_err(no_runtime)
    };
    let own = if slots > 1 { slots } else { 0 };
    Ok(DataRuntimes { shared: runtime(slots)?, slots: (0..own).map(|_| runtime(1)).collect::<Result<_>>()? })
}
