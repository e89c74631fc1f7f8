//! Pure: checks what the resource's schema cannot. An invalid spec changes nothing: the last good one keeps being reconciled.
use crate::build::{Generation, Role};
use crate::crd::StreamJobSpec;
use weir_api::config::StartMode;

/// # Errors
/// A sentence that names the field and says how to mend it.
pub fn validate(namespace: &str, name: &str, spec: &StreamJobSpec) -> Result<(), String> {
    // an API server with an older definition may not know the rules
    if spec.parallelism == 0 {
        return Err("spec.parallelism is 0: write 1 or more, or set spec.state to Suspended".into());
    }
    if spec.parallelism > spec.max_parallelism {
        return Err(format!(
            "spec.parallelism {} is above spec.maxParallelism {}: lower spec.parallelism",
            spec.parallelism, spec.max_parallelism
        ));
    }
    let g = Generation {
        namespace,
        name,
        uid: "",
        number: 0,
        spec,
        parallelism: spec.parallelism,
        start: StartMode::Immediately,
        restore_from_spec: true,
    };
    for role in [Role::JobManager, Role::TaskManager] {
        g.deployment(role, 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_schema_cannot_check_is_named() {
        let check = |v| validate("ns", "job", &serde_json::from_value(v).unwrap());
        assert_eq!(check(json!({"image": "a"})), Ok(()));
        let e = check(json!({"image": "a", "parallelism": 300})).unwrap_err();
        assert!(e.contains("above spec.maxParallelism 128"), "{e}");
        let e = check(json!({"image": "a", "taskManager": {"podTemplate": {"spec": {"volumes": 7}}}})).unwrap_err();
        assert!(e.contains("spec.taskManager.podTemplate"), "{e}");
    }
}
