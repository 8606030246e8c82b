//! How a registry finds content that its disk has damaged.

#![allow(unreachable_pub, reason = "KubeSchema expands a second public struct")]

use std::time::Duration;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::parse_age;
use crate::problem::Problems;
use crate::quantity::Quantity;
use crate::rules;

const SHORTEST: Duration = Duration::from_hours(1);
const LONGEST: Duration = Duration::from_hours(8760);

/// How all content is read in turn, to see whether the disk has damaged it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryScrub {
    /// Time from the beginning of one round to the beginning of the next: `1h` to `365d`, `7d` if
    /// not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::age())]
    pub interval: Option<String>,
    /// Bytes a second that are read at most, such as `50Mi`: `10Mi` if not given. `0` turns the
    /// scrub off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = rules::bytes())]
    pub bandwidth: Option<String>,
}

/// Scrub settings of a registry; `None` for the defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Time from the beginning of one round to the beginning of the next.
    pub interval: Option<Duration>,
    /// Bytes per second; 0 turns the scrub off.
    pub bandwidth: Option<u64>,
}

pub(super) fn settings(problems: &mut Problems, scrub: Option<&RegistryScrub>) -> ScrubSettings {
    let Some(scrub) = scrub else {
        return ScrubSettings::default();
    };
    let interval = scrub.interval.as_deref();
    let interval = interval.and_then(|text| {
        let path = "spec.scrub.interval";
        let length = problems.check(path, parse_age(text))?;
        if !(SHORTEST..=LONGEST).contains(&length) {
            problems.add(path, format_args!("is {text:?}, must be 1h to 365d"));
        }
        Some(length)
    });
    let bandwidth = scrub.bandwidth.as_deref();
    let bandwidth =
        bandwidth.and_then(|text| problems.check("spec.scrub.bandwidth", Quantity::parse(text)));
    ScrubSettings {
        interval,
        bandwidth: bandwidth.map(Quantity::get),
    }
}
