//! Pure: the pod template of one role of one generation.
use super::merge::merge;
use super::{CONTAINER, Generation, Role, STANDBY_CONTAINER};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value, json};
use weir_api::config::{
    CONFIG_ENV, DEFAULT_DATA_PORT, DEFAULT_REST_PORT, DEFAULT_RPC_PORT, DEFAULT_TASKMANAGER_HTTP_PORT, STANDBY_ENV,
};

/// User and group of the job's processes.
const USER: i64 = 65_532;
/// A process needs no time to end: what matters is in the checkpoint storage.
const GRACE_SECONDS: i64 = 3;
/// Pods leave a lost node after this time (Kubernetes' default is 300 s).
const LOST_NODE_SECONDS: i64 = 2;

/// The pod template, as JSON for server-side apply.
///
/// # Errors
/// The user's pod template does not merge into a pod: names the field.
pub fn pod_template(g: &Generation<'_>, role: Role) -> Result<Value, String> {
    let (process, section) = match role {
        Role::JobManager => (&g.spec.job_manager, "spec.jobManager"),
        Role::TaskManager => (&g.spec.task_manager, "spec.taskManager"),
    };
    let mut metadata = Map::new();
    let mut spec = base(g, role);
    if let Some(t) = &process.pod_template {
        if let Some(m) = &t.metadata {
            metadata.insert("labels".into(), json!(m.labels));
            metadata.insert("annotations".into(), json!(m.annotations));
        }
        if let Some(over) = &t.spec {
            merge(&mut spec, over);
        }
    }
    // what identifies the pod is not the user's to change
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    if let (Some(l), Value::Object(ours)) = (labels.as_object_mut(), g.labels(Some(role))) {
        l.extend(ours);
    }
    let standby = process.standby.unwrap_or(true);
    own_environment(g, role, standby, &mut spec)?;
    if standby {
        add_standby(&mut spec);
    }
    let template = json!({ "metadata": metadata, "spec": spec });
    serde_json::from_value::<PodTemplateSpec>(template.clone()).map_err(|e| {
        format!("{section}.podTemplate is not a pod template: {e}; compare with `kubectl explain pod.spec`")
    })?;
    Ok(template)
}

fn base(g: &Generation<'_>, role: Role) -> Map<String, Value> {
    let port = |name: &str, port: u16| json!({ "name": name, "containerPort": port, "protocol": "TCP" });
    let (ports, http, memory, process) = match role {
        Role::JobManager => (
            vec![port("rpc", DEFAULT_RPC_PORT), port("rest", DEFAULT_REST_PORT)],
            DEFAULT_REST_PORT,
            "64Mi",
            &g.spec.job_manager,
        ),
        Role::TaskManager => (
            vec![port("data", DEFAULT_DATA_PORT), port("http", DEFAULT_TASKMANAGER_HTTP_PORT)],
            DEFAULT_TASKMANAGER_HTTP_PORT,
            "128Mi",
            &g.spec.task_manager,
        ),
    };
    let resources = process
        .resources
        .as_ref()
        .map_or_else(|| json!({ "requests": { "cpu": "100m", "memory": memory } }), |r| json!(r));
    let probe = |path: &str, period: i64, failures: i64| json!({ "httpGet": { "path": path, "port": http }, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 5 });
    let args: Vec<&str> = std::iter::once(role.as_str()).chain(g.spec.args.iter().map(String::as_str)).collect();
    let mut container = json!({
        "name": CONTAINER,
        "image": g.spec.image,
        "args": args,
        "env": g.spec.env,
        "ports": ports,
        "resources": resources,
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 2, 1),
        // the last lines of the log become the reason in the StreamJob's condition
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    });
    if let Some(p) = g.spec.image_pull_policy {
        container["imagePullPolicy"] = p.as_str().into();
    }
    let lost = |key: &str| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LOST_NODE_SECONDS });
    let spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "imagePullSecrets": g.spec.image_pull_secrets,
        "tolerations": [lost("node.kubernetes.io/not-ready"), lost("node.kubernetes.io/unreachable")],
        "volumes": [{ "name": "tmp", "emptyDir": {} }],
        "containers": [container],
    });
    match spec {
        Value::Object(o) => o,
        _ => Map::new(),
    }
}

/// Adds the operator's own variables after the merge, so that a template cannot take them away.
fn own_environment(g: &Generation<'_>, role: Role, standby: bool, spec: &mut Map<String, Value>) -> Result<(), String> {
    let config =
        serde_json::to_string(&g.config(role)).map_err(|e| format!("failed to write the configuration: {e}"))?;
    let mut own = vec![json!({ "name": CONFIG_ENV, "value": config })];
    if standby {
        own.push(json!({ "name": STANDBY_ENV, "value": "1" }));
    }
    if role == Role::TaskManager {
        let field =
            |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
        own.push(field("WEIR_TASKMANAGER_ID", "metadata.name"));
        own.push(field("WEIR_ADVERTISED_HOST", "status.podIP"));
    }
    let env = spec
        .get_mut("containers")
        .and_then(Value::as_array_mut)
        .and_then(|c| c.iter_mut().find(|c| c["name"] == CONTAINER))
        .and_then(Value::as_object_mut)
        .ok_or_else(|| format!("the pod template has no container named {CONTAINER}"))?
        .entry("env")
        .or_insert_with(|| json!([]));
    let env = env.as_array_mut().ok_or("the container's env in the pod template is not a list")?;
    env.retain(|e| !e["name"].as_str().is_some_and(|n| n.starts_with("WEIR_")));
    env.extend(own);
    Ok(())
}

/// The container that stands by is the first one again, but it requests next to nothing: the two share what the pod requests, because only one of them works.
/// A pod's ports are named once.
fn add_standby(spec: &mut Map<String, Value>) {
    let Some(containers) = spec.get_mut("containers").and_then(Value::as_array_mut) else { return };
    if let Some(mut second) = containers.iter().find(|c| c["name"] == CONTAINER).cloned() {
        second["name"] = STANDBY_CONTAINER.into();
        if let Some(o) = second.as_object_mut() {
            o.remove("ports");
            let mut resources = o.get("resources").and_then(Value::as_object).cloned().unwrap_or_default();
            resources.insert("requests".into(), json!({ "cpu": "1m", "memory": "8Mi" }));
            o.insert("resources".into(), resources.into());
        }
        containers.push(second);
    }
}
