//! JSON as programs in Go write it.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default: programs in Go, Kubernetes among them, write it for an empty text
/// or list. For `#[serde(default, deserialize_with = "…")]`.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
