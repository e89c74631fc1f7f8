//! The rules of the custom resource that a type cannot say: CEL validations, and what Kubernetes wants of a schema.
use super::StreamJob;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// A CEL rule: where it stands (path of property names from the root of the schema), what must hold, and how to mend it.
pub struct Rule {
    pub at: &'static [&'static str],
    pub rule: &'static str,
    pub message: &'static str,
    /// The field that the error names.
    pub field: &'static str,
}

/// Every rule. Those that mention `oldSelf` compare with the object before the change.
pub const RULES: &[Rule] = &[
    Rule {
        at: &[],
        rule: "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        message: "the name must be at most 40 characters of a-z, 0-9 and '-', start with a letter and end with a letter or digit: the job's Service and pods are named after it",
        field: "",
    },
    Rule {
        at: &["spec"],
        rule: "self.image.matches('^[^ \\t\\n]+$')",
        message: "image must not contain spaces: write registry/name:tag, for example registry.example.com/flights:1.0",
        field: ".image",
    },
    Rule {
        at: &["spec"],
        rule: "self.parallelism <= self.maxParallelism",
        message: "parallelism must not be above maxParallelism: lower spec.parallelism (maxParallelism is fixed for the life of the job)",
        field: ".parallelism",
    },
    Rule {
        at: &["spec"],
        rule: "self.maxParallelism == oldSelf.maxParallelism",
        message: "maxParallelism is fixed for the life of the job, because its state is divided by it: set it back, or create a StreamJob with another name",
        field: ".maxParallelism",
    },
    Rule {
        at: &["spec"],
        rule: "self.upgradeMode == 'Stateless' || has(self.checkpoint.storage)",
        message: "upgradeMode Savepoint and LastState carry state over in the checkpoint storage: set spec.checkpoint.storage, or set spec.upgradeMode to Stateless if the job may lose its state",
        field: ".checkpoint.storage",
    },
    Rule {
        at: &["spec"],
        rule: "!has(self.restore.from) || has(self.checkpoint.storage)",
        message: "restore.from needs a checkpoint storage to record what was restored: set spec.checkpoint.storage",
        field: ".restore.from",
    },
    Rule {
        at: &["spec"],
        rule: "!has(oldSelf.checkpoint.storage) || (has(self.checkpoint.storage) && self.checkpoint.storage == oldSelf.checkpoint.storage) || self.upgradeMode == 'Stateless' || (has(self.restore.from) && self.restore.from != 'latest')",
        message: "another checkpoint.storage holds none of the job's checkpoints, so the job would start empty: set it back, or set spec.restore.from to the path of a savepoint, or set spec.upgradeMode to Stateless if the job may lose its state",
        field: ".checkpoint.storage",
    },
    Rule {
        at: &["spec", "checkpoint"],
        rule: "!has(self.retention) || has(self.storage)",
        message: "retention says what happens to checkpoints, but without a storage there are none: set spec.checkpoint.storage, or remove spec.checkpoint.retention",
        field: ".retention",
    },
    Rule {
        at: &["spec", "checkpoint"],
        rule: "!has(self.storage) || self.storage.matches('^[a-z][a-z0-9+.-]*://.+')",
        message: "storage must be a URL, for example file:///checkpoints: write the scheme and the whole path",
        field: ".storage",
    },
    Rule {
        at: &["spec", "checkpoint"],
        rule: "duration(self.interval) >= duration('10ms')",
        message: "interval must be at least 10ms: set spec.checkpoint.interval to the time between two checkpoints, for example 10s",
        field: ".interval",
    },
    Rule {
        at: &["spec", "checkpoint"],
        rule: "duration(self.timeout) >= duration('10ms')",
        message: "timeout must be at least 10ms, or no checkpoint could complete: for example 10m",
        field: ".timeout",
    },
    Rule {
        at: &["spec", "restart"],
        rule: "duration(self.delay) <= duration(self.maxDelay)",
        message: "delay must not be above maxDelay: lower spec.restart.delay or raise spec.restart.maxDelay",
        field: ".delay",
    },
    Rule {
        at: &["spec", "restore"],
        rule: "!has(self.from) || size(self.from) > 0",
        message: "from is empty: write latest, or the path of a savepoint or checkpoint, or remove it",
        field: ".from",
    },
    Rule {
        at: &["spec"],
        rule: "!has(self.env) || self.env.all(e, !e.name.startsWith('WEIR_'))",
        message: "environment variables that start with WEIR_ are set by the operator: use another name",
        field: ".env",
    },
];

/// Fields whose default the schema does not write into the object, so that the rules can tell whether the user wrote them.
const NO_DEFAULT: &[&[&str]] = &[&["spec", "checkpoint", "retention"]];

/// Bounds of lists and strings: Kubernetes needs them to bound the cost of the rules.
const BOUNDS: &[(&[&str], &str, u64)] = &[
    (&["spec", "env"], "maxItems", 256),
    (&["spec", "env", "[]", "name"], "maxLength", 256),
    (&["spec", "args"], "maxItems", 1024),
    (&["spec", "imagePullSecrets"], "maxItems", 32),
    (&["spec", "checkpoint", "storage"], "maxLength", 1024),
    (&["spec", "restore", "from"], "maxLength", 2048),
];

/// Schema of an object whose fields the API server does not check here.
pub fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// The custom resource definition, rules included.
///
/// # Errors
/// A rule names a field that the schema does not have: a fault of this module, found by its tests.
pub fn definition() -> Result<CustomResourceDefinition, String> {
    let mut crd = serde_json::to_value(StreamJob::crd()).map_err(|e| e.to_string())?;
    // uninstalling the chart must not take the jobs with it
    crd["metadata"]["annotations"] = json!({ "helm.sh/resource-policy": "keep" });
    let schema =
        crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema").ok_or("the generated definition has no schema")?;
    use_kubernetes_formats(schema);
    forbid_null(schema);
    if let Some(status) = schema.pointer_mut("/properties/status") {
        strip_defaults(status);
    }
    // bounds the cost of the rule on the name
    schema["properties"]["metadata"] =
        json!({ "type": "object", "properties": { "name": { "type": "string", "maxLength": 253 } } });
    for path in NO_DEFAULT {
        remove_default(schema, path)?;
    }
    for (path, keyword, bound) in BOUNDS {
        at(schema, path)?.insert((*keyword).into(), json!(bound));
    }
    for r in RULES {
        let mut rule = json!({ "rule": r.rule, "message": r.message });
        if !r.field.is_empty() {
            rule["fieldPath"] = json!(r.field);
        }
        let node = at(schema, r.at)?;
        let list = node.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        list.as_array_mut().ok_or("x-kubernetes-validations is not a list")?.push(rule);
    }
    serde_json::from_value(crd).map_err(|e| e.to_string())
}

/// The schema of the field at `path`; `[]` stands for the items of a list.
fn at<'a>(schema: &'a mut Value, path: &[&str]) -> Result<&'a mut Map<String, Value>, String> {
    let mut node = schema;
    for name in path {
        let next = if *name == "[]" {
            node.get_mut("items")
        } else {
            node.get_mut("properties").and_then(|p| p.get_mut(*name))
        };
        node = next.ok_or_else(|| format!("the schema has no field {}", path.join(".")))?;
    }
    node.as_object_mut().ok_or_else(|| format!("{} is not an object", path.join(".")))
}

/// Removes a field's default, also from the defaults of the objects around it.
fn remove_default(schema: &mut Value, path: &[&str]) -> Result<(), String> {
    at(schema, path)?.remove("default");
    for n in 0..path.len() {
        let node = at(schema, &path[..n])?;
        let default = path[n..path.len() - 1]
            .iter()
            .try_fold(node.get_mut("default"), |d, name| d.map(|d| d.get_mut(*name)))
            .flatten();
        if let Some(o) = default.and_then(Value::as_object_mut) {
            o.remove(path[path.len() - 1]);
        }
    }
    Ok(())
}

/// Kubernetes knows the formats int32 and int64 only, and warns about others.
fn use_kubernetes_formats(node: &mut Value) {
    match node {
        Value::Object(o) => {
            if let Some(Value::String(f)) = o.get_mut("format") {
                match f.as_str() {
                    "uint32" | "uint16" | "uint8" => *f = "int32".into(),
                    "uint64" | "uint" => *f = "int64".into(),
                    _ => {}
                }
            }
            o.values_mut().for_each(use_kubernetes_formats);
        }
        Value::Array(a) => a.iter_mut().for_each(use_kubernetes_formats),
        _ => {}
    }
}

/// The operator writes the whole status: the API server must not add to it.
fn strip_defaults(node: &mut Value) {
    if let Value::Object(o) = node {
        o.remove("default");
        for key in ["properties", "items", "additionalProperties"] {
            match o.get_mut(key) {
                Some(Value::Object(inner)) if key == "properties" => inner.values_mut().for_each(strip_defaults),
                Some(inner) => strip_defaults(inner),
                None => {}
            }
        }
    }
}

/// An absent field is left out, never null: `has()` in a rule then means that the user wrote it.
fn forbid_null(node: &mut Value) {
    match node {
        Value::Object(o) => {
            if o.get("nullable") == Some(&Value::Bool(true)) {
                o.remove("nullable");
                if let Some(Value::Array(values)) = o.get_mut("enum") {
                    values.retain(|v| !v.is_null());
                }
            }
            o.values_mut().for_each(forbid_null);
        }
        Value::Array(a) => a.iter_mut().for_each(forbid_null),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_is_what_the_types_say() {
        let generated = crate::yaml::write(&definition().unwrap()).unwrap();
        for path in ["../crds/streamjobs.weir.dev.yaml", "../charts/weir/files/streamjobs.weir.dev.yaml"] {
            let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
            let committed = std::fs::read_to_string(&file).unwrap();
            let committed = committed.split_once("\n").map_or("", |(_, rest)| rest);
            assert!(committed == generated, "{path} is out of date: run `cargo run -p weir-operator -- crd --write .`");
        }
    }

    fn schema() -> Value {
        serde_json::to_value(definition().unwrap()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    #[test]
    fn every_rule_is_placed_and_says_how_to_mend() {
        let s = schema();
        for r in RULES {
            let mut node = &s;
            for p in r.at {
                node = &node["properties"][*p];
            }
            let rules = node["x-kubernetes-validations"].as_array().unwrap();
            assert!(rules.iter().any(|x| x["rule"] == r.rule), "{}", r.rule);
            assert!(r.message.contains(':'), "a message has a reason and, after the colon, a remedy: {}", r.message);
        }
    }

    #[test]
    fn retention_has_no_default_so_that_a_rule_can_tell_whether_it_was_written() {
        let s = schema();
        let checkpoint = &s["properties"]["spec"]["properties"]["checkpoint"];
        assert!(checkpoint["properties"]["retention"].get("default").is_none());
        assert!(checkpoint["default"].get("retention").is_none());
        assert_eq!(checkpoint["default"]["interval"], "10s");
        assert_eq!(checkpoint["properties"]["interval"]["default"], "10s");
    }

    #[test]
    fn the_schema_is_structural_and_every_spec_field_is_described() {
        fn walk(path: &str, v: &Value) {
            if let Some(props) = v["properties"].as_object() {
                assert!(v.get("additionalProperties").is_none(), "{path} has properties and additionalProperties");
                for (k, p) in props {
                    walk(&format!("{path}.{k}"), p);
                }
            }
            assert!(v.get("$ref").is_none(), "{path} is a reference");
        }
        let s = schema();
        walk("", &s);
        for (k, p) in s["properties"]["spec"]["properties"].as_object().unwrap() {
            assert!(p["description"].as_str().is_some_and(|d| d.len() > 10), "spec.{k} has no description");
        }
        for section in ["checkpoint", "restart", "restore"] {
            for (k, p) in s["properties"]["spec"]["properties"][section]["properties"].as_object().unwrap() {
                assert!(p["description"].is_string(), "spec.{section}.{k} has no description");
            }
        }
    }
}
