//! A taskmanager: registers with the jobmanager, runs its share of an attempt, says that it lives, reconnects by itself.
//!
//! The control plane is one thread; tasks, and everything that runs user code or decodes state, are on the data runtime.
mod attempts;
mod http;
mod session;
#[cfg(test)]
mod stuck_tests;
pub mod upload;

pub use http::router;
pub use session::{Shutdown, Stuck, run};

use crate::graph::LogicalGraph;
use std::sync::Arc;
use std::time::Duration;
use weir_api::config::TaskManagerConfig;

/// Environment variable that replaces [`TaskManagerConfig::id`].
pub const ID_ENV: &str = "WEIR_TASKMANAGER_ID";
/// Environment variable that replaces [`TaskManagerConfig::advertised_host`].
pub const ADVERTISED_HOST_ENV: &str = "WEIR_ADVERTISED_HOST";

/// What a taskmanager is made of.
#[derive(Clone)]
pub struct TaskManager {
    pub config: TaskManagerConfig,
    pub graph: Arc<LogicalGraph>,
    /// Runtimes of the tasks.
    pub data: crate::dataflow::Workers,
    /// The data plane towards other taskmanagers; none: the whole job runs in this process.
    pub exchange: Option<Arc<crate::exchange::Exchange>>,
    /// What its HTTP interface says about it.
    pub health: Health,
    /// How long tasks may take to end before [`run`] gives up; none: for ever.
    pub patience: Option<Duration>,
}

/// [`TaskManager::patience`] of a process of its own: as long as the jobmanager waits.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Shared between the session and the HTTP interface.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<std::sync::Mutex<HealthState>>);

/// What a taskmanager's `/readyz` and `/metrics` show.
#[derive(Debug, Clone, Default)]
pub struct HealthState {
    pub registered: bool,
    /// Why it is not registered; empty before the first try.
    pub reason: String,
    pub heartbeat: crate::control::Heartbeat,
    pub connections: u64,
}

impl Health {
    pub fn get(&self) -> HealthState {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
    fn set(&self, change: impl FnOnce(&mut HealthState)) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

/// Fills what the environment or the process itself decides: id and advertised host.
pub fn complete_config(mut config: TaskManagerConfig, env: impl Fn(&str) -> Option<String>) -> TaskManagerConfig {
    let given = |name: &str| env(name).filter(|v| !v.is_empty());
    if let Some(id) = given(ID_ENV) {
        config.id = id;
    }
    if config.id.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "taskmanager" } else { host.trim() };
        config.id = format!("{host}-{}", std::process::id());
    }
    if let Some(host) = given(ADVERTISED_HOST_ENV) {
        config.advertised_host = host;
    }
    config
}

/// `host:port` under which others reach a listener that is bound to `bound`.
pub fn advertised(config: &TaskManagerConfig, bound: std::net::SocketAddr) -> String {
    let host = match config.advertised_host.as_str() {
        "" => config.data_address.rsplit_once(':').map_or("127.0.0.1", |(h, _)| h),
        given => given,
    };
    // a listener on every address is reached by this machine's own only
    let host = if matches!(host, "0.0.0.0" | "[::]" | "") { "127.0.0.1" } else { host };
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{}", bound.port())
    } else {
        format!("{host}:{}", bound.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TaskManagerConfig {
        TaskManagerConfig {
            id: String::new(),
            jobmanager: "jm:6123".into(),
            slots: 1,
            data_address: "0.0.0.0:6121".into(),
            advertised_host: String::new(),
            http_address: None,
        }
    }

    #[test]
    fn the_environment_wins_over_the_configuration() {
        let env = |n: &str| match n {
            ID_ENV => Some("pod-1".to_owned()),
            ADVERTISED_HOST_ENV => Some("fd00::1".to_owned()),
            _ => None,
        };
        let c = complete_config(config(), env);
        assert_eq!((c.id.as_str(), c.advertised_host.as_str()), ("pod-1", "fd00::1"));
        assert_eq!(advertised(&c, ([0, 0, 0, 0], 7).into()), "[fd00::1]:7");
        let c = complete_config(config(), |_| None);
        assert!(c.id.ends_with(&format!("-{}", std::process::id())), "{}", c.id);
        assert_eq!(advertised(&c, ([0, 0, 0, 0], 7).into()), "127.0.0.1:7");
    }
}
