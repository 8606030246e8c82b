//! JSON as Go programs write it.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default: Go programs, such as Kubernetes, write it for an empty string
/// or list. For `#[serde(default, deserialize_with = "…")]`.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
