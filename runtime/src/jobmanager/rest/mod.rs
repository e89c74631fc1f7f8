//! The jobmanager's REST interface: Flink's v1 paths, with and without `/v1`, ours under `/weir/v1`, health and metrics.
mod bodies;
mod metrics;
mod routes;
#[cfg(test)]
mod tests;

pub use routes::router;

use super::driver::Ending;
use super::master::Rejection;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use weir_api::rest::ErrorBody;

/// Longest request body, in bytes.
const MAX_BODY: usize = 64 << 10;

/// An error of a route: status and a sentence, in Flink's shape.
#[derive(Debug)]
pub struct RestError {
    status: StatusCode,
    message: String,
}

impl RestError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
    fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }
    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { errors: vec![self.message] })).into_response()
    }
}

impl From<Ending> for RestError {
    fn from(e: Ending) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, e.to_string())
    }
}

impl From<Rejection> for RestError {
    fn from(r: Rejection) -> Self {
        let status = StatusCode::from_u16(r.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, r.message)
    }
}

/// Parses a body; an empty one is `{}`. The error names the field.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RestError> {
    let bytes = if bytes.iter().all(u8::is_ascii_whitespace) { b"{}" } else { bytes };
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut de).map_err(|e| {
        let path = e.path().to_string();
        let at = if path == "." { String::new() } else { format!("{path}: ") };
        RestError::bad(format!("the request body cannot be read: {at}{}", e.inner()))
    })?;
    de.end().map_err(|e| RestError::bad(format!("the request body cannot be read: {e}")))?;
    Ok(parsed)
}

/// The body as it came; too long a one is refused in Flink's shape.
struct Payload(Bytes);

impl<S: Send + Sync> FromRequest<S> for Payload {
    type Rejection = RestError;
    async fn from_request(request: Request, state: &S) -> Result<Self, RestError> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(e) => Err(RestError::new(
                e.status(),
                format!("the request body cannot be read: {e} (at most {MAX_BODY} bytes)"),
            )),
        }
    }
}

/// The query string; what cannot be parsed is refused in Flink's shape.
struct Params<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = RestError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, RestError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(q)) => Ok(Self(q)),
            Err(e) => Err(RestError::bad(format!("the query string cannot be read: {e}"))),
        }
    }
}
