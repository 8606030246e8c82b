//! When a registry deletes content that nothing refers to any more.

#![allow(unreachable_pub, reason = "KubeSchema expands a second public struct")]

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::{GoDuration, parse_age};
use crate::problem::Problems;
use crate::rules;

const SHORTEST: Duration = Duration::from_mins(1);
const LONGEST_INTERVAL: Duration = Duration::from_hours(720);
const LONGEST_STAY: Duration = Duration::from_hours(8760);

/// When blobs that nothing refers to any more are deleted: those that no manifest names, unless a
/// client was recently told that they exist.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryCollection {
    /// Time between two collections: `1m` to `720h`, `1h` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration("1m", "720h"))]
    pub interval: Option<String>,
    /// How long a blob is kept that no manifest names, counted from the last time that a client was
    /// told that it exists: `1m` to `8760h`, `24h` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::duration("1m", "8760h"))]
    pub grace: Option<String>,
    /// How long a manifest is kept that no tag, index or referrer reaches: `1m` to `365d`, such as
    /// `7d`. For ever if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::age())]
    pub untagged: Option<String>,
}

/// Garbage collection of a registry; `None` for the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CollectionSettings {
    /// Time between two collections.
    pub interval: Option<Duration>,
    /// How long blobs are kept that no manifest names.
    pub grace: Option<Duration>,
    /// How long manifests are kept that nothing reaches; `None` is for ever.
    pub untagged: Option<Duration>,
}

pub(super) fn settings(
    problems: &mut Problems,
    gc: Option<&RegistryCollection>,
) -> CollectionSettings {
    let Some(gc) = gc else {
        return CollectionSettings::default();
    };
    let mut within = |field: &str, text: &Option<String>, longest: Duration, shown: &str| {
        let path = format!("spec.gc.{field}");
        let text = text.as_deref()?;
        let parsed = match field {
            "untagged" => parse_age(text),
            _ => GoDuration::parse(text).map(GoDuration::get),
        };
        let length = problems.check(&path, parsed)?;
        if !(SHORTEST..=longest).contains(&length) {
            problems.add(path, format_args!("is {text:?}, must be 1m to {shown}"));
        }
        Some(length)
    };
    CollectionSettings {
        interval: within("interval", &gc.interval, LONGEST_INTERVAL, "720h"),
        grace: within("grace", &gc.grace, LONGEST_STAY, "8760h"),
        untagged: within("untagged", &gc.untagged, LONGEST_STAY, "365d"),
    }
}
