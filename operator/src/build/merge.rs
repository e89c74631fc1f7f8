//! Pure: merges a user's pod template over the operator's: maps by key, lists of named things by their key, other lists replaced.
use serde_json::{Map, Value};

/// Lists whose items have an identity: name of the list -> field that identifies an item. As in Kubernetes' strategic merge.
const LIST_KEYS: &[(&str, &str)] = &[
    ("containers", "name"),
    ("initContainers", "name"),
    ("ephemeralContainers", "name"),
    ("volumes", "name"),
    ("env", "name"),
    ("imagePullSecrets", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("ports", "containerPort"),
    ("hostAliases", "ip"),
    ("topologySpreadConstraints", "topologyKey"),
    ("tolerations", "key"),
];

/// Merges `over` into `base`. A null in `over` removes the field.
pub fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (_, Value::Null) => {
                base.remove(key);
            }
            (Some(Value::Object(b)), Value::Object(o)) => merge(b, o),
            (Some(Value::Array(b)), Value::Array(o)) => match LIST_KEYS.iter().find(|(list, _)| list == key) {
                Some((_, id)) => merge_list(b, o, id),
                None => *b = o.clone(),
            },
            (_, v) => {
                base.insert(key.clone(), v.clone());
            }
        }
    }
}

fn merge_list(base: &mut Vec<Value>, over: &[Value], id: &str) {
    for item in over {
        let same = item.get(id).and_then(|k| base.iter_mut().find(|b| b.get(id) == Some(k)));
        match (same, item) {
            (Some(Value::Object(b)), Value::Object(o)) => merge(b, o),
            (Some(b), o) => *b = o.clone(),
            (None, o) => base.push(o.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(base: Value, over: Value) -> Value {
        let (Value::Object(mut b), Value::Object(o)) = (base, over) else { panic!("objects") };
        merge(&mut b, &o);
        Value::Object(b)
    }

    #[test]
    fn named_items_merge_whatever_their_order() {
        let base = json!({"containers": [{"name": "weir", "image": "a", "volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}]}]});
        let over = json!({"containers": [{"name": "sidecar", "image": "b"}, {"name": "weir", "volumeMounts": [{"mountPath": "/data", "name": "data"}]}]});
        assert_eq!(
            merged(base, over),
            json!({"containers": [
                {"name": "weir", "image": "a", "volumeMounts": [{"mountPath": "/tmp", "name": "tmp"}, {"mountPath": "/data", "name": "data"}]},
                {"name": "sidecar", "image": "b"},
            ]})
        );
    }

    #[test]
    fn null_removes_and_plain_lists_are_replaced() {
        assert_eq!(
            merged(
                json!({"a": 1, "args": ["x"], "m": {"k": 1}}),
                json!({"a": null, "args": ["y", "z"], "m": {"l": 2}})
            ),
            json!({"args": ["y", "z"], "m": {"k": 1, "l": 2}})
        );
    }
}
