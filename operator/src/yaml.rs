//! Reads and writes YAML: the one place that knows the crate, which is no longer developed and may be replaced here.
use serde::{Serialize, de::DeserializeOwned};

/// # Errors
/// The value has a form that YAML cannot hold (map keys that are not scalars).
pub fn write<T: Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|e| e.to_string())
}

/// # Errors
/// The text is not YAML or does not have the form of `T`; the message has line and column.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(text).map_err(|e| e.to_string())
}
