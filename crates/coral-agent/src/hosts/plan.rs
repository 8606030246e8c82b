//! Plans the changes from the wanted and the existing files. Pure.

use std::collections::BTreeMap;

use super::found::{Backup, File, NodeFiles};

/// One change on the node. Each leaves files that containerd can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Writes the CA, renamed over an older one.
    WriteCa(Vec<u8>),
    /// Creates a folder with its file elsewhere and renames it into place.
    AddFolder {
        /// The host's folder.
        folder: String,
        /// The file's content.
        content: String,
    },
    /// Backs up the current file of the folder, to be restored later.
    Keep {
        /// The host's folder.
        folder: String,
    },
    /// Renames a new file over the old one.
    Write {
        /// The host's folder.
        folder: String,
        /// The file's content.
        content: String,
    },
    /// Restores the backup.
    Restore {
        /// The host's folder.
        folder: String,
    },
    /// Renames our file out and leaves the folder.
    RemoveFile {
        /// The host's folder.
        folder: String,
    },
    /// Renames the folder out.
    RemoveFolder {
        /// The host's folder.
        folder: String,
    },
    /// Deletes the backup.
    Forget {
        /// The host's folder.
        folder: String,
    },
    /// Removes the CA.
    RemoveCa,
    /// Removes leftovers of changes, and our own folder once it is empty.
    Sweep,
}

impl Action {
    /// The folder that it changes.
    pub(crate) fn folder(&self) -> Option<&str> {
        match self {
            Self::AddFolder { folder, .. }
            | Self::Keep { folder }
            | Self::Write { folder, .. }
            | Self::Restore { folder }
            | Self::RemoveFile { folder }
            | Self::RemoveFolder { folder }
            | Self::Forget { folder } => Some(folder),
            Self::WriteCa(_) | Self::RemoveCa | Self::Sweep => None,
        }
    }
}

/// The actions, in order. `wanted` maps folders to the content of their files. `ca` is `None` while
/// it is unknown: then no new file is written unless an older CA exists.
pub(crate) fn plan(
    wanted: &BTreeMap<String, String>,
    ca: Option<&[u8]>,
    found: &NodeFiles,
) -> Vec<Action> {
    let mut actions = Vec::new();
    if !wanted.is_empty() {
        // The CA is written before the files that name it.
        let new = ca.filter(|ca| found.ca.as_deref() != Some(ca));
        actions.extend(new.map(|ca| Action::WriteCa(ca.to_owned())));
    }
    if ca.is_some() || found.ca.is_some() {
        for (folder, content) in wanted {
            want(folder, content, found, &mut actions);
        }
    }
    let stays = |folder: &&String| !wanted.contains_key(*folder);
    for folder in found.ours().filter(stays) {
        remove(folder, found, &mut actions);
    }
    for folder in found.kept.keys().filter(stays) {
        settle(folder, found, &mut actions);
    }
    if wanted.is_empty() && found.ca.is_some() {
        // The CA is removed after the files that name it.
        actions.push(Action::RemoveCa);
    }
    if found.has_state || !actions.is_empty() {
        actions.push(Action::Sweep);
    }
    if actions == [Action::Sweep] && !wanted.is_empty() {
        actions.clear();
    }
    actions
}

fn want(folder: &str, content: &str, found: &NodeFiles, actions: &mut Vec<Action>) {
    let folder = folder.to_owned();
    let content = content.to_owned();
    if !found.folders.contains_key(&folder) {
        actions.push(Action::AddFolder { folder, content });
        return;
    }
    match found.file(&folder) {
        File::Ours(now) if *now == content => {}
        File::Ours(_) => actions.push(Action::Write { folder, content }),
        File::Absent if found.kept.contains_key(&folder) => {
            actions.push(Action::Write { folder, content });
        }
        File::Absent | File::Foreign => {
            let keep = Action::Keep {
                folder: folder.clone(),
            };
            actions.extend([keep, Action::Write { folder, content }]);
        }
        File::Unusable => {}
    }
}

/// A file of ours that is no longer wanted.
fn remove(folder: &str, found: &NodeFiles, actions: &mut Vec<Action>) {
    let others = found.folders.get(folder).is_some_and(|f| f.others);
    let folder = folder.to_owned();
    match found.kept.get(&folder) {
        Some(Backup::File) => actions.push(Action::Restore { folder }),
        Some(Backup::Folder) => {
            let file = Action::RemoveFile {
                folder: folder.clone(),
            };
            actions.extend([file, Action::Forget { folder }]);
        }
        // Other files in the folder are not ours; keep the folder.
        None if others => actions.push(Action::RemoveFile { folder }),
        None => actions.push(Action::RemoveFolder { folder }),
    }
}

/// A backup for a folder that has no file of ours and should have none.
fn settle(folder: &str, found: &NodeFiles, actions: &mut Vec<Action>) {
    let kept = found.kept.get(folder).copied();
    let folder = folder.to_owned();
    match (found.file(&folder), kept) {
        // Planned by `remove`.
        (File::Ours(_), _) => {}
        // Someone else deleted our file: the backup still has to be restored.
        (File::Absent, Some(Backup::File)) => actions.push(Action::Restore { folder }),
        // A crash between backup and writing, or between restoring and deleting the backup; or
        // another file has appeared since.
        _ => actions.push(Action::Forget { folder }),
    }
}
