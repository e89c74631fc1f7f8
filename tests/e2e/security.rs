//! Runtime pods hold no rights and meet the restricted standard; the operator may do what it needs and no more.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::env::{Env, LONG, RATE};

pub fn pods_and_operator_have_least_rights(env: &Env) -> Result<()> {
    let job = env.running(RATE)?;
    let namespace = env.namespace.name.as_str();
    let labels = env.kubectl.get("default", "namespace", namespace)?["metadata"]["labels"].clone();
    ensure!(labels["pod-security.kubernetes.io/enforce"] == "restricted", "{labels}");
    let pods = env.kubectl.list(namespace, "pods", "weir.dev/job")?;
    ensure!(pods.len() == 3, "one jobmanager, two taskmanagers");
    for pod in &pods {
        let spec = &pod["spec"];
        ensure!(spec["automountServiceAccountToken"] == false, "no token is mounted: {spec}");
        let volumes = spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(
            volumes.iter().all(|volume| volume["projected"].is_null() && volume["secret"].is_null()),
            "{volumes:?}"
        );
        for container in spec["containers"].as_array().into_iter().flatten() {
            let context = &container["securityContext"];
            ensure!(context["readOnlyRootFilesystem"] == true, "{context}");
            ensure!(context["allowPrivilegeEscalation"] == false, "{context}");
            ensure!(context["capabilities"]["drop"] == json!(["ALL"]), "{context}");
        }
        ensure!(spec["securityContext"]["runAsNonRoot"] == true, "{}", spec["securityContext"]);
    }

    let can = |verb: &str, resource: &str, namespace: &str| -> Result<bool> {
        let operator = "system:serviceaccount:weir-system:weir-operator";
        let answer = env.kubectl.cmd(["-n", namespace, "auth", "can-i", verb, resource, "--as", operator]).output()?;
        Ok(String::from_utf8_lossy(&answer.stdout).trim() == "yes")
    };
    for (verb, resource) in [("patch", "streamjobs"), ("create", "deployments"), ("delete", "pods")] {
        ensure!(can(verb, resource, namespace)?, "the operator may {verb} {resource}");
    }
    for (verb, resource) in [
        ("get", "secrets"),
        ("list", "secrets"),
        ("get", "configmaps"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("get", "pods/log"),
        ("create", "rolebindings"),
        ("create", "streamjobs"),
        ("delete", "streamjobs"),
        ("get", "nodes"),
        ("impersonate", "users"),
        ("delete", "namespaces"),
        ("patch", "customresourcedefinitions"),
    ] {
        ensure!(!can(verb, resource, namespace)?, "the operator must not {verb} {resource}");
    }
    ensure!(!can("get", "leases", namespace)?, "leases only in its own namespace");
    let everything = |rules: &Value| rules.to_string().contains("\"*\"");
    for kind in ["clusterroles", "roles"] {
        for role in env.kubectl.list("weir-system", kind, "app.kubernetes.io/instance=weir")? {
            ensure!(!everything(&role["rules"]), "no wildcards: {}", role["rules"]);
        }
    }
    // a job's pods have no rights to speak of: their service account is the namespace's default one, without its token
    env.note(job.finish(env.expected()?, LONG)?.to_string());
    Ok(())
}
