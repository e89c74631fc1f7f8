//! Reads from the API server without a program for each: through one `kubectl proxy`, which ends with this process.
//!
//! Tests look often. A kubectl of its own for each look costs more processor time than all that the cluster does meanwhile.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::local::http::{self, Answer};

/// Starts the proxy, and ends it as soon as nobody holds the standard input any more: however this process ends.
const SCRIPT: &str = r#""$@" & cat >/dev/null; kill $!; rm -rf "$0""#;

/// A running `kubectl proxy`.
struct Proxy {
    /// What it was started with: a cluster that was made anew has other certificates.
    kubeconfig: Vec<u8>,
    socket: PathBuf,
    _holds_it: ChildStdin,
}

impl Proxy {
    fn start(program: &Path, kubeconfig: &Path) -> Result<Self> {
        let known = std::fs::read(kubeconfig)?;
        // a socket in a folder that nobody else may enter, and no port: whoever reaches it has all rights in the cluster
        let dir = tempfile::Builder::new().prefix("weir-api-").tempdir()?.keep();
        let socket = dir.join("socket");
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(&dir)
            .arg(program)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .arg("proxy")
            .arg(format!("--unix-socket={}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start kubectl proxy")?;
        let stdin = child.stdin.take().context("kubectl proxy has no stdin")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("kubectl proxy has no stdout")?).read_line(&mut line)?;
        anyhow::ensure!(line.starts_with("Starting to serve"), "kubectl proxy does not start: {line:?}");
        Ok(Self { kubeconfig: known, socket, _holds_it: stdin })
    }
}

/// GET of a path of the API server; `None` where no proxy answers, or it has no answer of the API server's.
pub fn get(program: &Path, kubeconfig: &Path, path: &str) -> Option<Answer> {
    let socket = socket(program, kubeconfig).ok()?;
    http::get_by_file(&socket, path).ok().filter(|answer| [200, 404].contains(&answer.status))
}

/// Where this process's proxy for a kubeconfig is reached.
fn socket(program: &Path, kubeconfig: &Path) -> Result<PathBuf> {
    static PROXIES: Mutex<BTreeMap<PathBuf, Proxy>> = Mutex::new(BTreeMap::new());
    let mut proxies = PROXIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(proxy) = proxies.get(kubeconfig)
        && std::fs::read(kubeconfig)? == proxy.kubeconfig
    {
        return Ok(proxy.socket.clone());
    }
    let proxy = Proxy::start(program, kubeconfig)?;
    let socket = proxy.socket.clone();
    proxies.insert(kubeconfig.to_owned(), proxy);
    Ok(socket)
}

/// Groups, and which of their kinds have no namespace, by the names that the tests use.
const KINDS: &[(&str, bool, &[(&str, &str)])] = &[
    (
        "/api/v1",
        true,
        &[
            ("pod", "pods"),
            ("service", "services"),
            ("event", "events"),
            ("serviceaccount", "serviceaccounts"),
            ("persistentvolumeclaim", "persistentvolumeclaims"),
        ],
    ),
    ("/api/v1", false, &[("node", "nodes"), ("namespace", "namespaces"), ("persistentvolume", "persistentvolumes")]),
    ("/apis/apps/v1", true, &[("deployment", "deployments")]),
    ("/apis/rbac.authorization.k8s.io/v1", true, &[("role", "roles")]),
    ("/apis/rbac.authorization.k8s.io/v1", false, &[("clusterrole", "clusterroles")]),
    ("/apis/weir.dev/v1alpha1", true, &[("streamjob", "streamjobs")]),
];

/// Path of the objects of a kind, by its singular or plural name; `None` for one that is not known here.
pub fn path(namespace: &str, kind: &str) -> Option<String> {
    KINDS.iter().find_map(|(group, namespaced, kinds)| {
        let (_, plural) = kinds.iter().find(|(one, many)| [*one, *many].contains(&kind))?;
        Some(match namespaced {
            true => format!("{group}/namespaces/{namespace}/{plural}"),
            false => format!("{group}/{plural}"),
        })
    })
}

/// A value of a query: what is not a letter, digit or harmless sign goes by its number.
pub fn quoted(value: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    value.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_kinds_with_and_without_namespace() {
        assert_eq!(path("jobs", "pods").as_deref(), Some("/api/v1/namespaces/jobs/pods"));
        assert_eq!(path("jobs", "streamjob").as_deref(), Some("/apis/weir.dev/v1alpha1/namespaces/jobs/streamjobs"));
        assert_eq!(path("jobs", "node").as_deref(), Some("/api/v1/nodes"));
        assert_eq!(path("jobs", "sj"), None);
        assert_eq!(quoted("weir.dev/job=a,!b"), "weir.dev%2Fjob%3Da%2C%21b");
    }
}
