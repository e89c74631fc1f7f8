//! The one seam to a jobmanager: its REST interface, reached by the name of its Service, or through the API server where the operator runs
//! outside of the cluster.
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use weir_api::config::DEFAULT_REST_PORT;
use weir_api::ids::JobName;
use weir_api::rest::{ErrorBody, RescaleRequest, StartRequest, StopRequest, WeirStatus};

/// A body longer than this is refused.
const BODY_MAX: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For requests that are answered at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// What can go wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the jobmanager is not reachable: {0}")]
    Unreachable(String),
    /// It answered, and said no.
    #[error("the jobmanager refused ({code}): {message}")]
    Refused { code: u16, message: String },
    #[error("the jobmanager's answer is not understood: {0}")]
    Malformed(String),
}

/// Which jobmanager.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub namespace: String,
    pub job: String,
    pub generation: i64,
}

/// How jobmanagers are reached.
#[derive(Clone)]
pub enum JobClient {
    /// By the name of the Service.
    Direct(HttpClient<HttpConnector, Full<Bytes>>),
    /// Through the API server's proxy.
    Proxied(kube::Client),
}

/// A taskmanager, as in Flink's `GET /taskmanagers`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskManagerSlots {
    pub id: String,
    pub slots_number: u32,
    pub free_slots: u32,
}

#[derive(Deserialize)]
struct TaskManagerList {
    taskmanagers: Vec<TaskManagerSlots>,
}

impl JobClient {
    pub fn direct() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        Self::Direct(HttpClient::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector))
    }

    /// Waits until the status has a version above `after`, or `wait` passed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&self, t: &Target, after: Option<u64>, wait: Duration) -> Result<WeirStatus, ClientError> {
        let after = after.map_or(String::new(), |v| format!("after={v}&"));
        let path = format!("/weir/v1/status?{after}timeout={}", wait.as_millis());
        self.json(t, Method::GET, &path, None, wait + Duration::from_secs(2)).await
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn start(&self, t: &Target, request: &StartRequest) -> Result<(), ClientError> {
        self.send(t, Method::POST, "/weir/v1/start", Some(body(request)?)).await
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn stop(&self, t: &Target, trigger: &str) -> Result<(), ClientError> {
        let request = StopRequest { trigger_id: Some(trigger.into()), ..StopRequest::default() };
        self.send(t, Method::POST, &format!("/jobs/{}/stop", t.job_id()), Some(body(&request)?)).await
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn set_parallelism(&self, t: &Target, request: &RescaleRequest) -> Result<(), ClientError> {
        self.send(t, Method::PUT, "/weir/v1/parallelism", Some(body(request)?)).await
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn cancel(&self, t: &Target) -> Result<(), ClientError> {
        self.send(t, Method::PATCH, &format!("/jobs/{}?mode=cancel", t.job_id()), None).await
    }

    /// # Errors
    /// See [`ClientError`].
    pub async fn task_managers(&self, t: &Target) -> Result<Vec<TaskManagerSlots>, ClientError> {
        let list: TaskManagerList = self.json(t, Method::GET, "/taskmanagers", None, REQUEST_TIMEOUT).await?;
        Ok(list.taskmanagers)
    }

    async fn send(&self, t: &Target, method: Method, path: &str, body: Option<Bytes>) -> Result<(), ClientError> {
        self.call(t, method, path, body, REQUEST_TIMEOUT).await.map(|_| ())
    }

    async fn json<T: DeserializeOwned>(
        &self,
        t: &Target,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let bytes = self.call(t, method, path, body, timeout).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Malformed(format!("{path}: {e}")))
    }

    async fn call(
        &self,
        t: &Target,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, ClientError> {
        let (code, bytes) =
            tokio::time::timeout(timeout, self.exchange(t, method, path, body)).await.map_err(|_| {
                ClientError::Unreachable(format!("no answer to {path} within {} ms", timeout.as_millis()))
            })??;
        if (200..300).contains(&code) {
            return Ok(bytes);
        }
        let message = match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(b) => b.errors.join("; "),
            Err(_) => String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).into_owned(),
        };
        // 5xx may pass (and is what the API server's proxy says where there is no pod): 4xx is an answer
        Err(if code >= 500 {
            ClientError::Unreachable(format!("{code}: {message}"))
        } else {
            ClientError::Refused { code, message }
        })
    }

    async fn exchange(
        &self,
        t: &Target,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(u16, Bytes), ClientError> {
        let unreachable = |e: String| ClientError::Unreachable(e);
        let service = crate::build::service_name(&t.job, t.generation);
        let builder = |uri: String| {
            let mut b = Request::builder().method(method.clone()).uri(uri);
            if body.is_some() {
                b = b.header(header::CONTENT_TYPE, "application/json");
            }
            b
        };
        match self {
            Self::Direct(client) => {
                let request = builder(format!("http://{service}.{}.svc:{DEFAULT_REST_PORT}{path}", t.namespace))
                    .body(Full::new(body.clone().unwrap_or_default()))
                    .map_err(|e| unreachable(e.to_string()))?;
                let response = client.request(request).await.map_err(|e| unreachable(chain(&e)))?;
                let code = response.status().as_u16();
                Ok((code, read(response.into_body()).await?))
            }
            Self::Proxied(client) => {
                let uri =
                    format!("/api/v1/namespaces/{}/services/{service}:{DEFAULT_REST_PORT}/proxy{path}", t.namespace);
                let request = builder(uri)
                    .body(kube::client::Body::from(body.clone().unwrap_or_default().to_vec()))
                    .map_err(|e| unreachable(e.to_string()))?;
                let response = client.send(request).await.map_err(|e| unreachable(chain(&e)))?;
                let code = response.status().as_u16();
                Ok((code, read(response.into_body()).await?))
            }
        }
    }
}

impl Target {
    fn job_id(&self) -> String {
        JobName { namespace: self.namespace.clone(), name: self.job.clone() }.job_id()
    }
}

fn body<T: serde::Serialize>(value: &T) -> Result<Bytes, ClientError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| ClientError::Malformed(e.to_string()))
}

async fn read<B>(body: B) -> Result<Bytes, ClientError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(b) => Ok(b.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => {
            Err(ClientError::Malformed(format!("the body is longer than {BODY_MAX} bytes")))
        }
        Err(e) => Err(ClientError::Unreachable(e.to_string())),
    }
}

/// An error with its causes: hyper's own text alone says nothing.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        text = format!("{text}: {s}");
        source = s.source();
    }
    text
}
