//! What to do with names that the agent is responsible for and that are no longer wanted. Pure.

use std::collections::BTreeSet;

use coral_cri::{ImageName, RuntimeImage};

use super::mark::{Role, marks};
use super::names::NameAction;

/// What to do, and what still has to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Removal {
    /// Changes of names, and removals of whole images.
    pub(crate) actions: Vec<NameAction>,
    /// Names that wait until the running pulls have ended, with their digests.
    pub(crate) waiting: Vec<(String, String)>,
}

/// Releases or removes every name that is marked and not in `wanted`.
///
/// An image goes as a whole only if each of its names is to be removed, no container was made from
/// it, and no pull runs (`may_remove`): the runtime removes by image ID, with every name, also one
/// that a pull has just added. Pulls of the same decision begin after it. Otherwise single names are
/// taken away, or given back unpinned.
pub(crate) fn removal(
    present: &[RuntimeImage],
    wanted: &BTreeSet<String>,
    in_use: &BTreeSet<String>,
    may_remove: bool,
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
