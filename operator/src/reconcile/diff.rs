//! Pure: what a change of the spec means, with the field that decided.
use crate::crd::StreamJobSpec;
use serde::Serialize;

/// Values longer than this are not shown.
const SHOWN_MAX: usize = 100;

/// What a change of the spec asks for; later kinds win over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Equal.
    None,
    /// Takes effect without touching the running job.
    Ignore,
    /// Another parallelism: savepoint, same jobmanager.
    Rescale,
    /// Another program, argument, configuration or pod: a new generation, by upgradeMode.
    Upgrade,
    /// A new restore nonce: a new generation from `restore.from`, also when that is older than the latest snapshot.
    Redeploy,
}

/// The change and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    pub change: Change,
    /// `spec.image: flights:1 -> flights:2`; empty where nothing changed.
    pub because: String,
}

/// Compares the spec that runs with the one that is wanted. `state` is not looked at: suspension is no difference of what runs.
pub fn diff(old: &StreamJobSpec, new: &StreamJobSpec) -> Diff {
    use Change::{Ignore, Redeploy, Rescale, Upgrade};
    let mut found = Diff { change: Change::None, because: String::new() };
    let mut note = |change: Change, field: &str, differs: bool, from: String, to: String| {
        if differs && change > found.change {
            let long = from.len().max(to.len()) > SHOWN_MAX;
            let because = if long { format!("spec.{field} changed") } else { format!("spec.{field}: {from} -> {to}") };
            found = Diff { change, because };
        }
    };
    macro_rules! field {
        ($change:expr, $name:literal, $($f:ident).+) => {
            note($change, $name, old.$($f).+ != new.$($f).+, show(&old.$($f).+), show(&new.$($f).+))
        };
    }
    // a nonce that is removed asks for nothing
    let rewind = new.restore.nonce.is_some() && new.restore.nonce != old.restore.nonce;
    note(Redeploy, "restore.nonce", rewind, show(&old.restore.nonce), show(&new.restore.nonce));
    field!(Upgrade, "image", image);
    field!(Upgrade, "args", args);
    field!(Upgrade, "env", env);
    field!(Upgrade, "restartNonce", restart_nonce);
    field!(Upgrade, "taskSlots", task_slots);
    field!(Upgrade, "maxParallelism", max_parallelism);
    field!(Upgrade, "checkpoint", checkpoint);
    field!(Upgrade, "restart", restart);
    field!(Upgrade, "jobManager", job_manager);
    field!(Upgrade, "taskManager", task_manager);
    field!(Rescale, "parallelism", parallelism);
    field!(Ignore, "upgradeMode", upgrade_mode);
    field!(Ignore, "imagePullPolicy", image_pull_policy);
    field!(Ignore, "imagePullSecrets", image_pull_secrets);
    field!(Ignore, "restore", restore);
    found
}

/// The same for a generation that never started: what only matters until then makes it another one.
pub fn diff_before_start(old: &StreamJobSpec, new: &StreamJobSpec) -> Diff {
    let mut found = diff(old, new);
    let fields = [
        ("restore", old.restore != new.restore),
        ("imagePullPolicy", old.image_pull_policy != new.image_pull_policy),
        ("imagePullSecrets", old.image_pull_secrets != new.image_pull_secrets),
    ];
    if let Some((field, _)) = fields.iter().find(|(_, differs)| *differs)
        && found.change < Change::Upgrade
    {
        found = Diff { change: Change::Upgrade, because: format!("spec.{field} changed before the first start") };
    }
    found
}

fn show<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        Ok(serde_json::Value::Null) => "absent".into(),
        Ok(v) => v.to_string(),
        Err(e) => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(over: Value) -> StreamJobSpec {
        let mut base = json!({"image": "flights:1", "parallelism": 2, "checkpoint": {"storage": "file:///c"}});
        crate::build::merge::merge(base.as_object_mut().unwrap(), over.as_object().unwrap());
        serde_json::from_value(base).unwrap()
    }

    #[test]
    fn each_field_decides_as_documented_and_is_named() {
        let cases = [
            (json!({}), Change::None, ""),
            (json!({"state": "Suspended"}), Change::None, ""),
            (json!({"upgradeMode": "LastState"}), Change::Ignore, "spec.upgradeMode: Savepoint -> LastState"),
            (json!({"restore": {"allowNonRestoredState": true}}), Change::Ignore, "spec.restore: "),
            (json!({"parallelism": 3}), Change::Rescale, "spec.parallelism: 2 -> 3"),
            (json!({"image": "flights:2", "parallelism": 3}), Change::Upgrade, "spec.image: flights:1 -> flights:2"),
            (json!({"restartNonce": 1}), Change::Upgrade, "spec.restartNonce: absent -> 1"),
            (json!({"checkpoint": {"interval": "1s"}}), Change::Upgrade, "spec.checkpoint changed"),
            (json!({"taskManager": {"resources": {"limits": {"cpu": "1"}}}}), Change::Upgrade, "spec.taskManager: "),
            (
                json!({"image": "x", "restore": {"from": "/s", "nonce": 1}}),
                Change::Redeploy,
                "spec.restore.nonce: absent -> 1",
            ),
        ];
        for (over, change, because) in cases {
            let d = diff(&spec(json!({})), &spec(over.clone()));
            assert_eq!(d.change, change, "{over}");
            assert!(
                d.because.starts_with(because) && (!because.is_empty() || d.because.is_empty()),
                "{over}: {}",
                d.because
            );
        }
    }

    #[test]
    fn what_decides_about_the_start_counts_until_then() {
        let (old, new) = (spec(json!({})), spec(json!({"restore": {"allowNonRestoredState": true}})));
        assert_eq!(diff(&old, &new).change, Change::Ignore);
        assert_eq!(diff_before_start(&old, &new).change, Change::Upgrade);
        assert_eq!(diff_before_start(&old, &spec(json!({"upgradeMode": "LastState"}))).change, Change::Ignore);
    }

    #[test]
    fn removing_the_nonce_asks_for_nothing() {
        let with = spec(json!({"restore": {"from": "/s", "nonce": 1}}));
        assert_eq!(diff(&with, &spec(json!({}))).change, Change::Ignore);
    }
}
