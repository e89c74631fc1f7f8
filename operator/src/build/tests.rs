//! What the children of a job look like.
use super::*;
use crate::crd::{PodTemplate, ProcessSpec};
use serde_json::json;

fn spec() -> StreamJobSpec {
    serde_json::from_value(json!({
        "image": "flights:1", "args": ["--input", "/data"], "parallelism": 3, "taskSlots": 2,
        "checkpoint": {"storage": "file:///checkpoints"},
    }))
    .unwrap()
}

fn generation(spec: &StreamJobSpec) -> Generation<'_> {
    Generation {
        namespace: "default",
        name: "flights",
        uid: "u-1",
        number: 4,
        spec,
        parallelism: spec.parallelism,
        start: StartMode::Await,
        restore_from_spec: false,
    }
}

fn container(d: &Value) -> &Value {
    &d["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn processes_get_their_arguments_and_configuration() {
    let s = spec();
    let d = generation(&s).deployment(Role::JobManager, 1).unwrap();
    assert_eq!(d["metadata"]["name"], "flights-g4-jm");
    assert_eq!(container(&d)["args"], json!(["jobmanager", "--input", "/data"]));
    let config = container(&d)["env"][0]["value"].as_str().unwrap();
    let ProcessConfig::JobManager(c) = serde_json::from_str(config).unwrap() else { panic!("{config}") };
    assert_eq!(c.job.deployment, Some(DeploymentId { uid: "u-1".into(), generation: 4, restart_nonce: None }));
    assert_eq!((c.job.parallelism, c.job.start), (3, StartMode::Await));
    assert_eq!(c.job.restore.from.as_deref(), Some("latest"));

    let d = generation(&s).deployment(Role::TaskManager, 2).unwrap();
    let config = container(&d)["env"][0]["value"].as_str().unwrap();
    let ProcessConfig::TaskManager(c) = serde_json::from_str(config).unwrap() else { panic!("{config}") };
    assert_eq!((c.jobmanager.as_str(), c.slots), ("flights-g4:6123", 2));
    assert_eq!(container(&d)["env"][3]["valueFrom"]["fieldRef"]["fieldPath"], "status.podIP");
}

#[test]
fn pods_meet_the_restricted_standard_and_hold_no_rights() {
    let s = spec();
    for role in [Role::JobManager, Role::TaskManager] {
        let d = generation(&s).deployment(role, 1).unwrap();
        let pod = &d["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        let c = &container(&d)["securityContext"];
        assert_eq!(
            (&c["allowPrivilegeEscalation"], &c["readOnlyRootFilesystem"], &c["capabilities"]["drop"][0]),
            (&json!(false), &json!(true), &json!("ALL"))
        );
    }
}

#[test]
fn a_pod_template_adds_but_cannot_take_the_identity_away() {
    let mut s = spec();
    let template: PodTemplate = serde_json::from_value(json!({
        "metadata": {"labels": {"team": "a", "weir.dev/role": "other"}},
        "spec": {
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "weir", "env": [{"name": "WEIR_CONFIG", "value": "{}"}, {"name": "A", "value": "b"}],
                "volumeMounts": [{"name": "data", "mountPath": "/checkpoints"}]}],
        },
    }))
    .unwrap();
    s.task_manager = ProcessSpec { pod_template: Some(template), ..ProcessSpec::default() };
    let d = generation(&s).deployment(Role::TaskManager, 1).unwrap();
    let labels = &d["spec"]["template"]["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["weir.dev/role"]), (&json!("a"), &json!("taskmanager")));
    let names: Vec<_> = container(&d)["env"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["A", "WEIR_CONFIG", "WEIR_STANDBY", "WEIR_TASKMANAGER_ID", "WEIR_ADVERTISED_HOST"]);
    assert_eq!(container(&d)["volumeMounts"].as_array().unwrap().len(), 2);
}

#[test]
fn a_pod_template_of_the_wrong_form_is_refused_and_named() {
    let mut s = spec();
    let template =
        serde_json::from_value(json!({"spec": {"containers": [{"name": "weir", "ports": "many"}]}})).unwrap();
    s.job_manager.pod_template = Some(template);
    let e = generation(&s).deployment(Role::JobManager, 1).unwrap_err();
    assert!(e.contains("spec.jobManager.podTemplate is not a pod template"), "{e}");
}

#[test]
fn the_service_finds_the_jobmanager_of_its_generation_only() {
    let s = spec();
    let g = generation(&s);
    let (service, jm) = (g.service(), g.deployment(Role::JobManager, 1).unwrap());
    assert_eq!(service["metadata"]["name"], "flights-g4");
    assert_eq!(service["spec"]["selector"], jm["spec"]["selector"]["matchLabels"]);
    assert_eq!(service["spec"]["selector"]["weir.dev/generation"], "4");
}

#[test]
fn each_pod_has_a_second_process_that_stands_by_unless_told_otherwise() {
    let mut s = spec();
    let names = |s: &StreamJobSpec, role| {
        let d = generation(s).deployment(role, 1).unwrap();
        let containers = d["spec"]["template"]["spec"]["containers"].as_array().unwrap().clone();
        let env = |c: &Value| c["env"].as_array().unwrap().iter().any(|e| e["name"] == "WEIR_STANDBY");
        containers.iter().map(|c| (c["name"].as_str().unwrap().to_owned(), env(c))).collect::<Vec<_>>()
    };
    let pair = vec![("weir".to_owned(), true), ("weir-standby".to_owned(), true)];
    let single = vec![("weir".to_owned(), false)];
    assert_eq!((names(&s, Role::JobManager), names(&s, Role::TaskManager)), (pair.clone(), pair.clone()));
    s.task_manager.standby = Some(false);
    assert_eq!((names(&s, Role::JobManager), names(&s, Role::TaskManager)), (pair, single));
}

#[test]
fn the_process_that_stands_by_has_the_same_limits_and_requests_next_to_nothing() {
    let mut s = spec();
    s.task_manager.resources =
        serde_json::from_value(json!({"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"memory": "8Gi"}}))
            .unwrap();
    let d = generation(&s).deployment(Role::TaskManager, 1).unwrap();
    let second = &d["spec"]["template"]["spec"]["containers"][1];
    assert_eq!(second["resources"], json!({"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "8Gi"}}));
}
