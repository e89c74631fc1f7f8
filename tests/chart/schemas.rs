//! JSON schemas for kubeconform, which would download them: made from the OpenAPI definition that the pinned Kubernetes module
//! ships, and from the schema inside our own definition of StreamJob.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use weir_tests::checkout;
use weir_tests::cmd::Cmd;

/// How definitions refer to each other.
const REFERENCE: &str = "#/definitions/";

/// A folder of schemas, one file for each kind, that goes away with this value.
pub struct Schemas {
    dir: tempfile::TempDir,
}

impl Schemas {
    pub fn make() -> Result<Self> {
        let schemas = Self { dir: tempfile::tempdir().context("cannot make a folder for schemas")? };
        schemas.kubernetes()?;
        schemas.stream_job()?;
        Ok(schemas)
    }

    /// What kubeconform takes as `-schema-location`: it fills in group, version and kind.
    pub fn location(&self) -> String {
        format!("{}/{{{{.Group}}}}/{{{{.ResourceAPIVersion}}}}/{{{{.ResourceKind}}}}.json", self.dir.path().display())
    }

    fn kubernetes(&self) -> Result<()> {
        let path = module("k8s.io/kubernetes")?.join("api/openapi-spec/swagger.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut document: Value = serde_json::from_slice(&text).with_context(|| format!("in {}", path.display()))?;
        let Value::Object(mut definitions) = document["definitions"].take() else {
            anyhow::bail!("{} has no definitions", path.display());
        };
        definitions.values_mut().for_each(strict);
        // Both are written as strings there; numbers are as good.
        for scalar in
            ["io.k8s.apimachinery.pkg.api.resource.Quantity", "io.k8s.apimachinery.pkg.util.intstr.IntOrString"]
        {
            ensure!(definitions.contains_key(scalar), "{} does not define {scalar}", path.display());
            definitions.insert(scalar.into(), json!({"type": ["string", "number"]}));
        }
        for (name, definition) in &definitions {
            // Options of requests belong to every group: they are no objects to apply.
            if let Some([kind]) = definition["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice) {
                let word = |field: &str| kind[field].as_str().with_context(|| format!("{name} has no {field}"));
                let schema = with_what_it_refers_to(name, &definitions)?;
                self.write(word("group")?, word("version")?, word("kind")?, &schema)?;
            }
        }
        Ok(())
    }

    fn stream_job(&self) -> Result<()> {
        let path = checkout().join("crds/streamjobs.weir.dev.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let definition: Value = serde_yaml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let version = &definition["spec"]["versions"][0];
        let mut schema = version["schema"]["openAPIV3Schema"].clone();
        // Every object has these; the API server knows them itself.
        for implied in ["apiVersion", "kind"] {
            schema["properties"][implied] = json!({"type": "string"});
        }
        schema["properties"]["metadata"] = json!({"type": "object"});
        strict(&mut schema);
        let word =
            |value: &Value| value.as_str().map(str::to_owned).context("a definition has group, version and kind");
        let group = word(&definition["spec"]["group"])?;
        self.write(&group, &word(&version["name"])?, &word(&definition["spec"]["names"]["kind"])?, &schema)
    }

    fn write(&self, group: &str, version: &str, kind: &str, schema: &Value) -> Result<()> {
        // For kinds without a group, kubeconform fills in the version twice.
        let dir = self.dir.path().join(if group.is_empty() { version } else { group }).join(version);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let file = dir.join(format!("{}.json", kind.to_lowercase()));
        fs::write(&file, schema.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The source of a Go module that Kubernetes is built from, in Go's module cache.
fn module(name: &str) -> Result<PathBuf> {
    let dir = checkout().join("tests/cluster/kube");
    let found = Cmd::new("go").args(["mod", "download", "-json", name]).dir(&dir).stdout()?;
    let found: Value = serde_json::from_str(&found).context("what `go mod download` printed")?;
    Ok(Path::new(found["Dir"].as_str().context("`go mod download` named no folder")?).to_path_buf())
}

/// Refuses fields that are not described, as the API server does with strict field validation; drops the descriptions.
fn strict(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("description").is_some_and(Value::is_string) {
                fields.remove("description");
            }
            let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            if fields.get("properties").is_some_and(Value::is_object) && !open {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
            fields.values_mut().for_each(strict);
        }
        Value::Array(items) => items.iter_mut().for_each(strict),
        _ => {}
    }
}

/// A schema that stands alone: the definition with all that it leads to.
fn with_what_it_refers_to(name: &str, definitions: &Map<String, Value>) -> Result<Value> {
    let mut needed = BTreeSet::from([name]);
    let mut open = vec![name];
    while let Some(name) = open.pop() {
        let definition = definitions.get(name).with_context(|| format!("{name} is not defined"))?;
        let mut found = Vec::new();
        references(definition, &mut found);
        open.extend(found.into_iter().filter(|name| needed.insert(name)));
    }
    let needed: Map<String, Value> =
        needed.iter().map(|name| ((*name).to_owned(), definitions[*name].clone())).collect();
    Ok(json!({"$ref": format!("{REFERENCE}{name}"), "definitions": needed}))
}

fn references<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
    match schema {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(REFERENCE)));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}
