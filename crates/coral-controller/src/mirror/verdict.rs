//! Decides which mirrors can run, and why the others cannot. Pure.

use std::collections::BTreeMap;

use coral_api::RegistryMirror;
use coral_mirror::{PrepareError, Prepared, prepare};

use super::conflicts::{self, Conflict};
use super::lookup::{LookupError, NamedObjects};
use crate::ObjectKey;
use crate::secrets::SecretProblem;
use crate::store::Snapshot;

/// The decision about every mirror.
pub(super) type Verdicts = BTreeMap<ObjectKey, Verdict>;

/// The decision about a mirror.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It runs, without the repositories in conflict.
    Run {
        prepared: Box<Prepared>,
        conflicts: Vec<Conflict>,
    },
    /// Something is not yet known: it continues as before.
    NotYet,
    /// Its Registry is unavailable, or the addresses to refuse are unknown: it continues as before,
    /// and reports that.
    Waiting(MirrorProblem),
    /// It cannot run.
    Invalid(MirrorProblem),
}

/// Why a mirror cannot run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MirrorProblem {
    /// One word in camel case.
    pub(super) reason: &'static str,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// Decides about all mirrors together, since a conflict is between two of them.
pub(super) fn decide(mirrors: &Snapshot<RegistryMirror>, seen: &NamedObjects) -> Verdicts {
    let living = mirrors
        .iter()
        .filter(|(_, mirror)| mirror.metadata.deletion_timestamp.is_none());
    let mut verdicts: Verdicts = living
        .map(|(key, mirror)| (key.clone(), of_one(key, mirror, seen)))
        .collect();
    conflicts::settle(&mut verdicts, mirrors);
    verdicts
}

fn of_one(key: &ObjectKey, mirror: &RegistryMirror, seen: &NamedObjects) -> Verdict {
    match prepare(mirror, seen) {
        Ok(_) if seen.unguarded.is_some() => Verdict::Waiting(MirrorProblem {
            reason: "WaitingForAddresses",
            message: seen.unguarded.clone().unwrap_or_default(),
        }),
        Ok(prepared) => Verdict::Run {
            prepared: Box::new(prepared),
            conflicts: vec![],
        },
        Err(error) => wrong(key, mirror, seen, &error),
    }
}

fn wrong(
    key: &ObjectKey,
    mirror: &RegistryMirror,
    seen: &NamedObjects,
    error: &PrepareError<LookupError>,
) -> Verdict {
    let reason = match error {
        PrepareError::Settings(_) => "InvalidSpec",
        PrepareError::Named { source, .. } => match source {
            LookupError::NotYet(_) | LookupError::Secret(SecretProblem::Unknown(_)) => {
                return Verdict::NotYet;
            }
            LookupError::Secret(SecretProblem::NotGranted(_)) => {
                return Verdict::Invalid(not_granted(&seen.not_granted(key, mirror)));
            }
            LookupError::Secret(SecretProblem::Missing(_)) => "SecretMissing",
            LookupError::NoRegistry(_) => "RegistryMissing",
            LookupError::RegistryNotReady(..) if has_run(mirror) && !mirror.spec.suspend => {
                return Verdict::Waiting(MirrorProblem {
                    reason: "RegistryNotReady",
                    message: error.to_string(),
                });
            }
            LookupError::RegistryNotReady(..) => "RegistryNotReady",
        },
        PrepareError::Secret { .. } | PrepareError::Credentials { .. } => "SecretInvalid",
    };
    let message = error.to_string();
    Verdict::Invalid(MirrorProblem { reason, message })
}

/// Whether the mirror ran before, in this process or an earlier one.
pub(super) fn has_run(mirror: &RegistryMirror) -> bool {
    let status = mirror.status.as_ref();
    status.is_some_and(|status| status.mirrored.is_some())
}

/// One command for all of the mirror's Secrets.
fn not_granted(secrets: &[ObjectKey]) -> MirrorProblem {
    let names: Vec<&str> = secrets.iter().map(|key| key.name.as_str()).collect();
    let namespace = secrets.first().map_or("", |key| key.namespace.as_str());
    let names = names.join(" ");
    MirrorProblem {
        reason: "SecretNotGranted",
        message: format!(
            "the controller may not read the secrets that the mirror names: allow it with `coral \
             grant {namespace} {names} | kubectl apply -f -`"
        ),
    }
}
