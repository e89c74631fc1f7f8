//! The chart without a cluster: what helm makes of it fits the Kubernetes API, and wrong values are refused with a sentence.

mod schemas;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use weir_tests::checkout;
use weir_tests::cluster::parts::Part;
use weir_tests::cmd::{Cmd, on_path};
use weir_tests::suite::{self, CannotRun, trial};
use weir_tests::trials;

use schemas::Schemas;

fn main() -> ExitCode {
    let trials = trials!(
        with_tools:
        lint_finds_nothing,
        objects_fit_the_kubernetes_api_whatever_the_values,
        watching_one_namespace_needs_no_rights_in_others,
        wrong_values_are_refused_with_a_sentence,
        the_schemas_find_what_is_wrong,
    );
    suite::main(trials.into(), 2)
}

fn with_tools(name: &str, test: fn() -> Result<()>) -> Trial {
    trial(name, move || match on_path("go") {
        true => test(),
        false => bail!(CannotRun("there is no `go` to build helm and kubeconform with".into())),
    })
}

const NAMESPACE: &str = "weir-system";

/// Values that turn on what is off by default.
const EVERYTHING: &str = r#"
operator:
  image: {repository: registry.example/weir-operator, tag: "1", pullPolicy: Always}
  imagePullSecrets: [{name: registry}]
  replicas: 2
  env: [{name: RUST_BACKTRACE, value: "1"}]
  podAnnotations: {example.com/team: streams}
  podLabels: {example.com/team: streams}
  nodeSelector: {kubernetes.io/os: linux}
  tolerations: [{key: example.com/pool, operator: Exists}]
  affinity:
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname}}
  priorityClassName: system-cluster-critical
serviceAccount: {name: weir, annotations: {example.com/role: weir}}
metrics: {service: {port: 9090, annotations: {prometheus.io/scrape: "true"}}}
testing: {crashInjection: true}
"#;

fn chart() -> PathBuf {
    checkout().join("charts/weir")
}

/// The pinned helm, also where another is on the `PATH`: its messages are tested.
fn helm() -> Result<Cmd> {
    Ok(Cmd::new(Part::Tools.ready()?.join("helm")))
}

/// The chart's objects as YAML, with values as for `--set` and others as a file.
fn template(release: &str, set: &[&str], file: &str) -> Result<String> {
    let mut helm = helm()?.args(["template", release]).arg(chart()).args(["--namespace", NAMESPACE, "--values", "-"]);
    for pair in set {
        helm = helm.args(["--set", pair]);
    }
    helm.input(file).stdout()
}

/// What kubeconform says of an object.
struct Judged {
    kind: String,
    name: String,
    /// Empty when the object is valid.
    wrong: String,
}

/// Asks kubeconform about each object of `yaml`.
fn judge(yaml: &str) -> Result<Vec<Judged>> {
    static SCHEMAS: OnceLock<Result<Schemas, String>> = OnceLock::new();
    let schemas = SCHEMAS.get_or_init(|| Schemas::make().map_err(|error| format!("{error:#}")));
    let schemas = schemas.as_ref().map_err(|error| anyhow!("{error}"))?;
    let output = Cmd::new(Part::Tools.ready()?.join("kubeconform"))
        .args(["-strict", "-verbose", "-output", "json", "-schema-location", &schemas.location(), "-"])
        .input(yaml)
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("kubeconform: {}", String::from_utf8_lossy(&output.stderr)))?;
    let objects = report["resources"].as_array().context("kubeconform reports on objects")?;
    let word = |object: &Value, field: &str| object[field].as_str().unwrap_or_default().to_owned();
    Ok(objects
        .iter()
        .map(|object| Judged {
            kind: word(object, "kind"),
            name: word(object, "name"),
            wrong: if object["status"] == "statusValid" { String::new() } else { object.to_string() },
        })
        .collect())
}

/// The kinds in `yaml`, all of them valid.
fn kinds(yaml: &str) -> Result<BTreeSet<String>> {
    let objects = judge(yaml)?;
    for object in &objects {
        ensure!(object.wrong.is_empty(), "{} {}: {}", object.kind, object.name, object.wrong);
    }
    Ok(objects.into_iter().map(|object| object.kind).collect())
}

fn lint_finds_nothing() -> Result<()> {
    let words = helm()?.args(["lint", "--strict"]).arg(chart()).stdout()?;
    ensure!(words.contains("1 chart(s) linted, 0 chart(s) failed"), "{words}");
    ensure!(!words.contains("[WARNING]"), "{words}");
    Ok(())
}

fn objects_fit_the_kubernetes_api_whatever_the_values() -> Result<()> {
    let everywhere =
        ["ClusterRole", "ClusterRoleBinding", "Deployment", "Role", "RoleBinding", "Service", "ServiceAccount"];
    let everywhere: BTreeSet<String> = everywhere.map(str::to_owned).into();
    let with = |kind: &str| everywhere.iter().cloned().chain([kind.to_owned()]).collect::<BTreeSet<_>>();
    let without = |kinds: &[&str]| {
        let mut rest = with("CustomResourceDefinition");
        rest.retain(|kind| !kinds.contains(&kind.as_str()));
        rest
    };
    let cases: [(&str, &[&str], &str, BTreeSet<String>); 8] = [
        ("weir", &[], "", with("CustomResourceDefinition")),
        ("another-release", &[], "", with("CustomResourceDefinition")),
        ("weir", &["crds.install=false"], "", everywhere.clone()),
        ("weir", &["watchNamespace=streams"], "", without(&["ClusterRole", "ClusterRoleBinding"])),
        ("weir", &["operator.leaderElection.enabled=false"], "", without(&["Role", "RoleBinding"])),
        ("weir", &["serviceAccount.create=false"], "", without(&["ServiceAccount"])),
        ("weir", &["metrics.service.enabled=false"], "", without(&["Service"])),
        ("weir", &[], EVERYTHING, with("CustomResourceDefinition")),
    ];
    for (release, set, file, expected) in cases {
        let what = format!("release {release} with {set:?} {file}");
        let kinds = kinds(&template(release, set, file)?).with_context(|| what.clone())?;
        ensure!(kinds == expected, "{what}: {kinds:?}, expected {expected:?}");
    }
    Ok(())
}

fn watching_one_namespace_needs_no_rights_in_others() -> Result<()> {
    let yaml = template("weir", &["watchNamespace=streams", "crds.install=false"], "")?;
    for document in yaml.split("\n---\n").filter(|document| document.contains("kind:")) {
        let object: Value = serde_yaml::from_str(document).context("what helm printed")?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("none");
        ensure!(["streams", NAMESPACE].contains(&namespace), "{} in namespace {namespace}", object["kind"]);
        // In its own namespace it may hold its lease, no more.
        if object["kind"] == "Role" && namespace == NAMESPACE {
            let rules = object["rules"].as_array().context("a role has rules")?;
            ensure!(rules.iter().all(|rule| rule["resources"] == serde_json::json!(["leases"])), "{rules:?}");
        }
    }
    Ok(())
}

fn wrong_values_are_refused_with_a_sentence() -> Result<()> {
    for (set, expected) in [
        ("watchNamespace=Streams", "'/watchNamespace': 'Streams' does not match pattern"),
        ("operator.replicas=9", "'/operator/replicas': maximum: got 9, want 5"),
        ("operator.replicas=many", "'/operator/replicas': got string, want integer"),
        ("operator.imag.tag=1", "'/operator': additional properties 'imag' not allowed"),
        ("operator.image.repository=", "'/operator/image/repository': minLength: got 0, want 1"),
        ("operator.image.pullPolicy=Sometimes", "'/operator/image/pullPolicy': value must be one of 'Always'"),
        (
            "operator.leaderElection.leaseDuration=soon",
            "'/operator/leaderElection/leaseDuration': 'soon' does not match",
        ),
        ("metrics.service.port=0", "'/metrics/service/port': minimum: got 0, want 1"),
        ("crds.install=perhaps", "'/crds/install': got string, want boolean"),
        ("watchNamespaces=streams", "additional properties 'watchNamespaces' not allowed"),
    ] {
        match template("weir", &[set], "") {
            Ok(_) => bail!("{set} is accepted"),
            Err(error) => ensure!(format!("{error:#}").contains(expected), "{set}: {error:#}"),
        }
    }
    Ok(())
}

/// Without this, schemas that allow everything would pass for a clean chart.
fn the_schemas_find_what_is_wrong() -> Result<()> {
    let service = |port: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: x}}\nspec: {{ports: [{{port: {port}}}]}}\n")
    };
    let job = |spec: &str| {
        format!("apiVersion: weir.dev/v1alpha1\nkind: StreamJob\nmetadata: {{name: x}}\nspec: {{image: x, {spec}}}\n")
    };
    kinds(&service("1, targetPort: http"))?;
    kinds(&service("1, targetPort: 80"))?;
    kinds(&job("parallelism: 2"))?;
    for (yaml, expected) in [
        (service("http"), "/spec/ports/0/port"),
        (service("1, prot: TCP"), "'prot' not allowed"),
        (service("1, port: 2"), "already set"),
        (job("parallelism: many"), "/spec/parallelism"),
        (job("paralellism: 2"), "'paralellism' not allowed"),
        (job("upgradeMode: Sometimes"), "/spec/upgradeMode"),
        ("apiVersion: weir.dev/v1\nkind: StreamJob\nmetadata: {name: x}\n".into(), "could not find schema"),
    ] {
        let words: String = judge(&yaml)?.into_iter().map(|object| object.wrong).collect();
        ensure!(words.contains(expected), "{expected:?} is not in {words:?} for\n{yaml}");
    }
    Ok(())
}
