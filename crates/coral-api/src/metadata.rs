//! Accessors for the name and namespace in Kubernetes' metadata, which are `Option`s there, and for
//! timestamps.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The object's name; empty if it has none.
pub fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// The object's namespace; [`DEFAULT_NAMESPACE`] if it names none.
pub fn namespace(metadata: &ObjectMeta) -> &str {
    let namespace = metadata.namespace.as_deref();
    namespace.unwrap_or(DEFAULT_NAMESPACE)
}

/// A point in time with the precision that Kubernetes stores, whole seconds. A finer one would
/// differ from the value that is read back.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
