//! Decides about names that the agent is responsible for and that are no longer wanted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use coral_cri::{ImageName, RuntimeError, RuntimeImage};
use jiff::{SignedDuration, Timestamp};

use super::mark::{Role, marks};
use super::names::NameAction;
use crate::backoff;

/// Longest wait between attempts at a removal: each of them may have to wait for pulls, and delays
/// other pulls.
const LONGEST: SignedDuration = SignedDuration::from_hours(1);

/// Failed removals, by the name that was to be removed.
pub(crate) type FailedRemovals = BTreeMap<String, FailedRemoval>;

/// A removal that failed, and when it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedRemoval {
    /// Failures in a row.
    failures: u32,
    pub(crate) next: Timestamp,
    /// The reason, in one word.
    pub(crate) reason: String,
    /// The message.
    pub(crate) message: String,
}

impl FailedRemoval {
    /// One more failure.
    pub(crate) fn after(
        before: Option<&Self>,
        error: &RuntimeError,
        now: Timestamp,
        random: f64,
    ) -> Self {
        let failures = before.map_or(0, |it| it.failures).saturating_add(1);
        Self {
            failures,
            next: now + backoff::wait(failures, LONGEST, random),
            reason: error.category().to_string(),
            message: error.to_string(),
        }
    }

    /// Whether it may be tried now. A wait beyond the longest comes from a clock that was set back.
    fn is_due(&self, now: Timestamp) -> bool {
        self.next <= now || self.next > now + LONGEST
    }
}

/// The failure because of which it is too early to remove the image of this name.
pub(crate) fn postponed(
    failed: &FailedRemovals,
    name: &str,
    now: Timestamp,
) -> Option<FailedRemoval> {
    failed
        .get(name)
        .filter(|failed| !failed.is_due(now))
        .cloned()
}

/// The changes to make, and the names that still have to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Removal {
    /// Changes of names, and removals of whole images.
    pub(crate) actions: Vec<NameAction>,
    /// Names that wait until the running pulls have ended, with their digests.
    pub(crate) waiting: Vec<(String, String)>,
    /// Names whose removal failed and is tried later, with their digests, and the failure.
    pub(crate) postponed: Vec<(String, String, FailedRemoval)>,
}

/// Releases or removes every name that has a mark and is not in `wanted`.
///
/// An image is removed as a whole only if each of its names is to be removed, no container was
/// created from it, and no pull is running (`may_remove`): the runtime removes by image ID, with
/// every name, including one that a pull has just added. Pulls of the same decision begin
/// afterwards. Otherwise single names are removed, or released without the pin. `postponed` returns
/// the failure because of which a removal has to wait for its retry: such a removal does not wait
/// for pulls.
pub(crate) fn removal(
    present: &[RuntimeImage],
    wanted: &BTreeSet<String>,
    in_use: &BTreeSet<String>,
    may_remove: bool,
    postponed: impl Fn(&str) -> Option<FailedRemoval>,
) -> Removal {
    let mut removal = Removal::default();
    for image in present {
        let leaving = |name: &&ImageName| !wanted.contains(&name.name) && Role::on(name).is_some();
        let leaving: Vec<&ImageName> = image.names.iter().filter(leaving).collect();
        let (remove, release): (Vec<_>, Vec<_>) = leaving
            .into_iter()
            .partition(|name| Role::on(name) == Some(Role::Remove) && !in_use.contains(&image.id));
        removal
            .actions
            .extend(release.iter().map(|name| NameAction::Mark {
                name: name.name.clone(),
                marks: marks(None, false),
            }));
        if remove.is_empty() {
            continue;
        }
        if remove.len() < image.names.len() {
            removal
                .actions
                .extend(remove.iter().map(|name| NameAction::Untag {
                    name: name.name.clone(),
                }));
        } else if let Some(failed) = postponed(&remove[0].name) {
            let names = remove.iter();
            let names = names.map(|name| (name.name.clone(), name.digest.clone(), failed.clone()));
            removal.postponed.extend(names);
        } else if may_remove {
            removal.actions.push(NameAction::Remove {
                name: remove[0].name.clone(),
            });
        } else {
            let names = remove.iter();
            let names = names.map(|name| (name.name.clone(), name.digest.clone()));
            removal.waiting.extend(names);
        }
    }
    removal
}
