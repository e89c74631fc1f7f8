//! Paths, methods, and what each does.
use super::{MAX_BODY, Params, Payload, RestError, bodies, body, metrics};
use crate::checkpoint::log::Nonce;
use crate::jobmanager::driver::Handle;
use crate::jobmanager::master::Master;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use std::time::Duration;
use weir_api::rest::details::{
    CheckpointInfo, CheckpointSettings, CheckpointStatistics, DashboardConfig, JobDetails, JobExceptions, MetricValue,
    TaskManagers, VertexDetails,
};
use weir_api::rest::{
    AsyncOperationResult, JobIds, JobManagerPhase, JobsOverview, Overview, RescaleRequest, SavepointRequest,
    StartRequest, StopRequest, TriggerResponse, WeirStatus,
};

type Reply<T> = Result<Json<T>, RestError>;
type Jm = State<Handle>;

/// Longest wait of a long poll.
const MAX_POLL: Duration = Duration::from_secs(60);

/// The whole interface.
pub fn router(jobmanager: Handle) -> Router {
    let flink = Router::new()
        .route("/overview", get(overview))
        .route("/config", get(config))
        .route("/jobs", get(jobs))
        .route("/jobs/overview", get(jobs_overview))
        .route("/jobs/{job}", get(job).patch(cancel))
        .route("/jobs/{job}/checkpoints", get(checkpoints))
        .route("/jobs/{job}/checkpoints/config", get(checkpoint_config))
        .route("/jobs/{job}/checkpoints/details/{checkpoint}", get(checkpoint))
        .route("/jobs/{job}/savepoints", post(savepoint))
        .route("/jobs/{job}/savepoints/{trigger}", get(savepoint_result))
        .route("/jobs/{job}/stop", post(stop))
        .route("/jobs/{job}/exceptions", get(exceptions))
        .route("/jobs/{job}/vertices/{vertex}", get(vertex))
        .route("/jobs/{job}/vertices/{vertex}/watermarks", get(watermarks))
        .route("/jobs/{job}/metrics", get(job_metrics))
        .route("/taskmanagers", get(taskmanagers));
    Router::new()
        .merge(flink.clone())
        .nest("/v1", flink)
        .route("/weir/v1/status", get(weir_status))
        .route("/weir/v1/start", post(start))
        .route("/weir/v1/parallelism", put(rescale))
        .route("/weir/v1/cancel", patch(cancel_any))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .fallback(async || RestError::not_found("no such path"))
        .method_not_allowed_fallback(async || {
            RestError::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(jobmanager)
}

/// Answers from the master, once `job` is known to be its job.
async fn of_job<R: Send + 'static>(
    jm: &Handle,
    job: String,
    f: impl FnOnce(&Master, i64) -> Result<R, RestError> + Send + 'static,
) -> Result<R, RestError> {
    jm.query(move |m, now| check_job(m, &job).and_then(|()| f(m, now.wall))).await?
}

fn check_job(m: &Master, job: &str) -> Result<(), RestError> {
    if job.len() != 32 || !job.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(RestError::bad(format!("{job:?} is not a job id: it has 32 hex digits")));
    }
    if !job.eq_ignore_ascii_case(&m.config().job.job_id()) {
        return Err(RestError::not_found(format!("job {job} not found")));
    }
    Ok(())
}

async fn overview(State(jm): Jm) -> Reply<Overview> {
    Ok(Json(jm.query(|m, _| bodies::overview(m)).await?))
}
async fn config() -> Json<DashboardConfig> {
    Json(bodies::dashboard_config())
}
async fn jobs(State(jm): Jm) -> Reply<JobIds> {
    Ok(Json(jm.query(|m, _| bodies::job_ids(m)).await?))
}
async fn jobs_overview(State(jm): Jm) -> Reply<JobsOverview> {
    Ok(Json(jm.query(|m, now| bodies::jobs_overview(m, now.wall)).await?))
}
async fn job(State(jm): Jm, Path(job): Path<String>) -> Reply<JobDetails> {
    Ok(Json(of_job(&jm, job, |m, now| Ok(bodies::job(m, now))).await?))
}
async fn checkpoints(State(jm): Jm, Path(job): Path<String>) -> Reply<CheckpointStatistics> {
    Ok(Json(of_job(&jm, job, |m, _| Ok(bodies::checkpoints(m))).await?))
}
async fn checkpoint_config(State(jm): Jm, Path(job): Path<String>) -> Reply<CheckpointSettings> {
    Ok(Json(of_job(&jm, job, |m, _| Ok(bodies::checkpoint_settings(m))).await?))
}
async fn checkpoint(State(jm): Jm, Path((job, id)): Path<(String, String)>) -> Reply<CheckpointInfo> {
    let found = of_job(&jm, job, move |m, _| {
        let id = id.parse().map_err(|_| RestError::bad(format!("{id:?} is not the number of a checkpoint")))?;
        bodies::checkpoint_details(m, id).ok_or_else(|| RestError::not_found(format!("checkpoint {id} not found")))
    });
    Ok(Json(found.await?))
}

#[derive(Deserialize)]
struct ExceptionsQuery {
    #[serde(rename = "maxExceptions")]
    max: Option<usize>,
}

async fn exceptions(
    State(jm): Jm,
    Path(job): Path<String>,
    Params(q): Params<ExceptionsQuery>,
) -> Reply<JobExceptions> {
    let most = q.max.unwrap_or(usize::MAX);
    Ok(Json(of_job(&jm, job, move |m, _| Ok(bodies::exceptions(m, most))).await?))
}
async fn vertex(State(jm): Jm, Path((job, vertex)): Path<(String, String)>) -> Reply<VertexDetails> {
    let found = of_job(&jm, job, move |m, now| {
        bodies::vertex(m, &vertex, now).ok_or_else(|| RestError::not_found(format!("vertex {vertex} not found")))
    });
    Ok(Json(found.await?))
}
async fn watermarks(State(jm): Jm, Path((job, vertex)): Path<(String, String)>) -> Reply<Vec<MetricValue>> {
    let found = of_job(&jm, job, move |m, _| {
        bodies::watermarks(m, &vertex).ok_or_else(|| RestError::not_found(format!("vertex {vertex} not found")))
    });
    Ok(Json(found.await?))
}
async fn taskmanagers(State(jm): Jm) -> Reply<TaskManagers> {
    Ok(Json(jm.query(bodies::taskmanagers).await?))
}

#[derive(Deserialize)]
struct MetricsQuery {
    get: Option<String>,
}

async fn job_metrics(
    State(jm): Jm,
    Path(job): Path<String>,
    Params(q): Params<MetricsQuery>,
) -> Reply<Vec<MetricValue>> {
    Ok(Json(of_job(&jm, job, move |m, now| Ok(metrics::job_metrics(m, now, q.get.as_deref()))).await?))
}

async fn savepoint(
    State(jm): Jm,
    Path(job): Path<String>,
    Payload(bytes): Payload,
) -> Result<(StatusCode, Json<TriggerResponse>), RestError> {
    let request: SavepointRequest = body(&bytes)?;
    of_job(&jm, job, |_, _| Ok(())).await?;
    let fresh = trigger_id();
    let answer = jm.change(move |m, now| m.savepoint(request, fresh, now)).await??;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

async fn stop(
    State(jm): Jm,
    Path(job): Path<String>,
    Payload(bytes): Payload,
) -> Result<(StatusCode, Json<TriggerResponse>), RestError> {
    let request: StopRequest = body(&bytes)?;
    of_job(&jm, job, |_, _| Ok(())).await?;
    let fresh = trigger_id();
    let answer = jm.change(move |m, now| m.stop(request, fresh, now)).await??;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

async fn savepoint_result(State(jm): Jm, Path((job, trigger)): Path<(String, String)>) -> Reply<AsyncOperationResult> {
    let found = of_job(&jm, job, move |m, _| {
        let message =
            format!("no operation with the trigger id {trigger:?} is known (the jobmanager may have restarted since)");
        m.savepoint_result(&trigger).ok_or_else(|| RestError::not_found(message))
    });
    Ok(Json(found.await?))
}

#[derive(Deserialize)]
struct CancelQuery {
    mode: Option<String>,
}

async fn cancel(
    State(jm): Jm,
    Path(job): Path<String>,
    Params(q): Params<CancelQuery>,
) -> Result<(StatusCode, Json<serde_json::Value>), RestError> {
    of_job(&jm, job, |_, _| Ok(())).await?;
    match q.mode.as_deref() {
        None | Some("cancel") => {}
        Some(m) => {
            return Err(RestError::bad(format!("mode: {m:?} is not supported; use mode=cancel, or POST .../stop")));
        }
    }
    let id = trigger_id();
    jm.change(move |m, now| m.cancel(id, now)).await??;
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({}))))
}

/// As `PATCH /jobs/:id?mode=cancel`, for callers that know the jobmanager and not the job's id.
async fn cancel_any(State(jm): Jm) -> Result<(StatusCode, Json<serde_json::Value>), RestError> {
    let id = trigger_id();
    jm.change(move |m, now| m.cancel(id, now)).await??;
    Ok((StatusCode::ACCEPTED, Json(serde_json::json!({}))))
}

#[derive(Deserialize)]
struct PollQuery {
    after: Option<u64>,
    timeout: Option<u64>,
}

async fn weir_status(State(jm): Jm, Params(q): Params<PollQuery>) -> Reply<WeirStatus> {
    let mut status = jm.status();
    if let Some(after) = q.after {
        let timeout = Duration::from_millis(q.timeout.unwrap_or(30_000)).min(MAX_POLL);
        // a version from an earlier process says nothing about this one: answered at once
        let changed = status.wait_for(|s| s.version > after || after > s.version + 1_000_000_000);
        let _ = tokio::time::timeout(timeout, changed).await;
    }
    let now = WeirStatus::clone(&status.borrow());
    Ok(Json(now))
}

async fn start(State(jm): Jm, Payload(bytes): Payload) -> Reply<WeirStatus> {
    let request: StartRequest = body(&bytes)?;
    jm.start(request).await??;
    let now = WeirStatus::clone(&jm.status().borrow());
    Ok(Json(now))
}

async fn rescale(State(jm): Jm, Payload(bytes): Payload) -> Result<(StatusCode, Json<TriggerResponse>), RestError> {
    let request: RescaleRequest = body(&bytes)?;
    let answer = jm.change(move |m, now| m.rescale(request, now)).await??;
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// Ready as soon as the interface can tell something: what the job does is in the status.
async fn ready(State(jm): Jm) -> (StatusCode, String) {
    let status = jm.status().borrow().clone();
    match status.phase {
        JobManagerPhase::Preparing => (StatusCode::SERVICE_UNAVAILABLE, "reading the log".into()),
        JobManagerPhase::Fenced => (StatusCode::SERVICE_UNAVAILABLE, status.reason.clone()),
        p => (StatusCode::OK, format!("{p:?}")),
    }
}

async fn prometheus(State(jm): Jm) -> Result<impl IntoResponse, RestError> {
    let page = jm.query(|m, now| metrics::exposition(m, now.wall)).await?;
    Ok(([(header::CONTENT_TYPE, crate::observe::exposition::CONTENT_TYPE)], page))
}

/// 32 hex digits, as Flink's.
fn trigger_id() -> String {
    format!("{}{}", Nonce::random(), Nonce::random())
}
