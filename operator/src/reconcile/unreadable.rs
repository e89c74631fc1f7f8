//! Pure: a StreamJob that this version cannot read. What runs is left alone; its deletion finishes all the same, and its jobmanager, which has the
//! configuration, is told to cancel first.
use super::actions;
use super::deletion::{CANCEL_MS, FORCE_MS, GIVE_UP_MS, UNREACHABLE_MS, what_is_kept};
use super::plan::Action;
use super::world::World;
use crate::crd::StreamJob;
use crate::crd::conditions::{DEGRADED, READY, Wanted, truncate};
use crate::crd::status::Millis;
use kube::api::DynamicObject;
use weir_api::rest::JobManagerPhase;

/// Name of the event and of the conditions' reason.
pub const REASON: &str = "Unreadable";

/// One look at a deletion. There is no record of it: the time of the request and the children say how far it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Look {
    pub actions: Vec<Action>,
    /// What became of the snapshots, once it is known.
    pub kept: Option<String>,
    pub look_again: Option<Millis>,
}

/// What to do for a deletion that was asked for at `since`.
pub fn delete(world: &World, since: Millis) -> Look {
    let waited = world.now - since;
    let mut look = Look::default();
    let managed = world.generations.iter().filter(|(_, g)| g.job_manager.is_some());
    let mut patience = 0;
    for (generation, _) in managed.clone() {
        let limit = match world.status(*generation) {
            None => UNREACHABLE_MS,
            Some(s) if s.terminal.is_some() => 0,
            Some(s) if matches!(s.phase, JobManagerPhase::Active | JobManagerPhase::Preparing) => CANCEL_MS,
            Some(_) => 0,
        };
        patience = limit.max(patience);
    }
    let ended = managed.clone().filter_map(|(g, _)| world.status(*g)).find_map(|s| s.terminal.as_ref());
    if ended.is_none() && waited < patience {
        look.actions = actions::cancel(world);
        look.look_again = Some(since + patience);
        return look;
    }
    if managed.count() > 0 {
        look.kept = Some(match ended {
            Some(t) => what_is_kept(t),
            None => "no jobmanager cancelled the job; its snapshots stay where they are".into(),
        });
    }
    let left = world.generations.keys().any(|g| !world.is_gone(*g));
    look.actions.extend(world.generations.keys().map(|g| Action::DeleteGeneration { generation: *g }));
    if left && waited >= FORCE_MS {
        look.actions.push(Action::ForceDeletePods);
    }
    if left && waited < GIVE_UP_MS {
        look.look_again = Some(since + if waited < FORCE_MS { FORCE_MS } else { GIVE_UP_MS });
    } else {
        look.actions.push(Action::RemoveFinalizer);
    }
    look
}

/// Longest part of the parser's words that is shown: they may quote the object.
const WHY_MAX: usize = 500;

/// The StreamJob as this version understands it.
///
/// # Errors
/// The field that it does not understand, and why.
pub fn read(object: &DynamicObject) -> Result<StreamJob, String> {
    let value = serde_json::to_value(object).map_err(|e| e.to_string())?;
    serde_path_to_error::deserialize(value).map_err(|e| {
        let mut why = e.to_string();
        truncate(&mut why, WHY_MAX);
        why
    })
}

/// What its owner is told. `why`: the parser's words.
pub fn message(why: &str, deleting: bool) -> String {
    let then = if deleting {
        "its children are deleted without it"
    } else {
        "what runs is left as it is; correct the object, or bring the operator to the version that wrote it"
    };
    format!("this version of the operator cannot read the StreamJob ({why}): {then}")
}

/// The conditions that say so.
pub fn conditions(message: &str) -> [Wanted; 2] {
    let wanted = |type_, status| Wanted { type_, status, reason: REASON.into(), message: message.into() };
    [wanted(READY, false), wanted(DEGRADED, true)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(spec: Value, status: Value) -> DynamicObject {
        let meta = json!({"name": "flights", "namespace": "ns", "finalizers": ["weir.dev/pods"]});
        let object = json!({"apiVersion": "weir.dev/v1alpha1", "kind": "StreamJob", "metadata": meta, "spec": spec, "status": status});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_field() {
        let job = read(&object(json!({"image": "a"}), json!({"phase": "Running"}))).unwrap();
        assert_eq!((job.spec.image.as_str(), job.status.unwrap().phase.as_str()), ("a", "Running"));
        for (spec, status, says) in [
            (json!({"image": "a", "upgradeMode": "Later"}), json!({}), "spec.upgradeMode: unknown variant `Later`"),
            (json!({"image": 7}), json!({}), "spec.image: invalid type: integer `7`"),
            (json!({"image": "a"}), json!({"deployed": {"generation": "x"}}), "status.deployed.generation: "),
        ] {
            let why = read(&object(spec, status)).unwrap_err();
            assert!(why.starts_with(says), "{why}");
            assert!(message(&why, false).contains(says) && conditions(&why).iter().all(|c| c.reason == REASON));
        }
    }
}
