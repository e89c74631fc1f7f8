//! Manifests that must be refused, with the words that kubectl or the condition shows. The table is `operator/testdata/bad-manifests.yaml`.

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use weir_tests::checkout;
use weir_tests::job::true_condition;
use weir_tests::poll::wait_for;

use crate::env::{Env, NAMED, SOON};

#[derive(Deserialize)]
struct Table {
    base: Value,
    cases: Vec<BadManifest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BadManifest {
    name: String,
    #[serde(default)]
    metadata: Value,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    then: Value,
    stage: String,
    #[serde(default)]
    condition: Value,
    says: String,
}

pub fn bad_manifests_are_refused(env: &Env) -> Result<()> {
    let path = checkout().join("operator/testdata/bad-manifests.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table = serde_yaml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    // An object that is never started: changes of it are tried without being made.
    let mut stored = table.base.clone();
    stored["spec"]["state"] = json!("Suspended");
    env.kubectl.apply(&env.namespace.name, &stored.to_string())?;
    let mut faults = Vec::new();
    for (index, case) in table.cases.iter().enumerate() {
        let said = match case.stage.as_str() {
            "apply" => at_apply(env, &table.base, &stored, case),
            "condition" => in_a_condition(env, &table.base, index, case),
            other => bail!("no stage {other:?}"),
        };
        match said {
            Ok(words) if words.contains(&case.says) => env.note(format!("{}: {}", case.name, words.trim())),
            Ok(words) => faults.push(format!("{}: {:?} is not in {words:?}", case.name, case.says)),
            Err(error) => faults.push(format!("{}: {error:#}", case.name)),
        }
    }
    let left = env.kubectl.list(&env.namespace.name, "streamjobs", "")?;
    ensure!(left.len() == 1, "nothing that was refused is stored: {left:?}");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    env.kubectl.delete(&env.namespace.name, "streamjob", "flights")
}

fn at_apply(env: &Env, base: &Value, stored: &Value, case: &BadManifest) -> Result<String> {
    let mut manifest = if case.then.is_null() { base.clone() } else { stored.clone() };
    if case.then.is_null() {
        // another name than that of the stored object, so that it is a creation
        manifest["metadata"]["name"] = json!("bad");
        merge(&mut manifest["metadata"], &case.metadata);
        merge(&mut manifest["spec"], &case.spec);
    } else {
        merge(&mut manifest["spec"], &case.then);
    }
    let output = env
        .kubectl
        .cmd(["-n", env.namespace.name.as_str(), "apply", "--dry-run=server", "-f", "-"])
        .input(manifest.to_string())
        .output()?;
    ensure!(!output.status.success(), "it was taken");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn in_a_condition(env: &Env, base: &Value, index: usize, case: &BadManifest) -> Result<String> {
    let (namespace, name) = (env.namespace.name.as_str(), format!("bad-{index}"));
    let mut manifest = base.clone();
    manifest["metadata"]["name"] = json!(name);
    merge(&mut manifest["metadata"], &case.metadata);
    manifest["spec"]["image"] = json!(env.images().flights.reference);
    merge(&mut manifest["spec"], &case.spec);
    env.kubectl.apply(namespace, &manifest.to_string())?;
    if !case.then.is_null() {
        env.kubectl.wait_object("a first look", (namespace, "streamjob", &name), SOON, |object| {
            object["status"]["deployed"].is_object().then_some(())
        })?;
        merge(&mut manifest["spec"], &case.then);
        env.kubectl.apply(namespace, &manifest.to_string())?;
    }
    let kind = case.condition["type"].as_str().context("a case of stage condition names one")?;
    let what = format!("condition {kind} to say {:?}", case.says);
    let found = wait_for(&what, NAMED, std::time::Duration::from_millis(200), || {
        let object = env.kubectl.get(namespace, "streamjob", &name)?;
        let (reason, message) = true_condition(&object, kind).with_context(|| object["status"].to_string())?;
        let wanted = case.condition["reason"].as_str().is_none_or(|wanted| wanted == reason);
        Ok((wanted && message.contains(&case.says)).then(|| format!("{kind}, {reason}: {message}")))
    });
    env.kubectl.delete(namespace, "streamjob", &name)?;
    found
}

/// A JSON merge patch: objects by key, null removes, anything else replaces.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else { return };
    for (key, change) in changes {
        match change {
            Value::Null => {
                if let Some(object) = target.as_object_mut() {
                    object.remove(key);
                }
            }
            Value::Object(_) if target[key.as_str()].is_object() => merge(&mut target[key.as_str()], change),
            other => target[key.as_str()] = other.clone(),
        }
    }
}
