//! A taskmanager's own HTTP interface: liveness, readiness, metrics.
use super::Health;
use crate::observe::exposition::{CONTENT_TYPE, Exposition, Kind};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// `/livez`, `/readyz` (registered with the jobmanager), `/metrics`.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    let h = health.get();
    match (h.registered, h.reason.is_empty()) {
        (true, _) => (StatusCode::OK, "registered".into()),
        (false, true) => (StatusCode::SERVICE_UNAVAILABLE, "not registered yet".into()),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, h.reason),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let h = health.get();
    let mut e = Exposition::default();
    e.metric("weir_taskmanager_registered", Kind::Gauge, "1 while registered with the jobmanager.")
        .sample(&[], u8::from(h.registered));
    e.metric("weir_taskmanager_connections_total", Kind::Counter, "Control connections so far.")
        .sample(&[], h.connections);
    e.metric("weir_taskmanager_tasks", Kind::Gauge, "Tasks that run here.").sample(&[], h.heartbeat.tasks.len());
    e.metric("process_resident_memory_bytes", Kind::Gauge, "Resident memory.")
        .sample(&[], crate::observe::resident_bytes());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], e.finish())
}
