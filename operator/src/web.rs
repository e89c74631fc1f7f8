//! `/livez`, `/readyz` and `/metrics` of the operator.
use crate::clock;
use crate::crd::status::Millis;
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Watches: Deployments, Services, Pods, StreamJobs.
pub const WATCHES: usize = 4;
/// A watch that has failed for so long without any progress is stuck: the kubelet restarts the operator.
const STUCK_MS: Millis = 180_000;

/// Whether the operator makes progress.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Since when each watch fails; 0: it does not.
    failing_since: [AtomicI64; WATCHES],
    ready: AtomicBool,
}

impl Health {
    pub fn progress(&self, watch: usize) {
        self.0.failing_since[watch].store(0, Ordering::Relaxed);
    }
    pub fn trouble(&self, watch: usize) {
        let _ = self.0.failing_since[watch].compare_exchange(0, clock::now(), Ordering::Relaxed, Ordering::Relaxed);
    }
    pub fn set_ready(&self) {
        self.0.ready.store(true, Ordering::Relaxed);
    }
    fn stuck(&self) -> Option<usize> {
        let now = clock::now();
        self.0.failing_since.iter().position(|t| {
            let t = t.load(Ordering::Relaxed);
            t > 0 && now - t > STUCK_MS
        })
    }
}

/// Serves until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, health: Health, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let app = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state((health, metrics));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, app).await
}

type Shared = State<(Health, Arc<Metrics>)>;

async fn livez(State((health, _)): Shared) -> impl IntoResponse {
    match health.stuck() {
        Some(w) => (StatusCode::SERVICE_UNAVAILABLE, format!("watch {w} makes no progress\n")),
        None => (StatusCode::OK, "ok\n".to_owned()),
    }
}

async fn readyz(State((health, _)): Shared) -> impl IntoResponse {
    if health.0.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn scrape(State((_, metrics)): Shared) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.text())
}
