//! `coral registry import`: imports the content of a distribution registry into the folder of a
//! stopped registry.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;

use coral_image::Amount;
use coral_registry::{
    FileStore, ImportError, ImportInto, ImportRules, Imported, Skipped, StoreError, Transfer,
};

use super::{ImportArguments, stopped};
use crate::counted::counted;
use crate::failure::{Failure, stop_on_signal};
use crate::terminal::Terminal;

pub(crate) async fn import(
    arguments: ImportArguments,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let ImportArguments {
        folder,
        storage,
        dry_run,
        hard_links,
        move_tags,
    } = arguments;
    let stop = stop_on_signal()?;
    let store = open(&storage, dry_run).await?;
    let rules = ImportRules {
        transfer: if hard_links {
            Transfer::HardLink
        } else {
            Transfer::Copy
        },
        move_tags,
    };
    let into = match &store {
        Some(store) if !dry_run => ImportInto::Store(store),
        store => ImportInto::DryRun(store.as_ref()),
    };
    let tell = |Skipped { what, why }: &Skipped| terminal.line(&format!("skipped: {what}: {why}"));
    let imported = coral_registry::import(&folder, into, rules, tell, &stop).await;
    if let Some(store) = &store {
        stopped::close(store).await;
    }
    let imported = imported.map_err(|error| failed(&error))?;
    let is_whole = imported.is_complete && imported.skipped == 0;
    Ok(stopped::report(
        terminal,
        &lines(&imported, dry_run),
        is_whole,
    ))
}

/// The store, created if it is missing; a dry run creates none.
async fn open(storage: &Path, dry_run: bool) -> Result<Option<FileStore>, Failure> {
    if dry_run && !FileStore::is_store(storage) {
        return Ok(None);
    }
    stopped::open_or_make(storage).await.map(Some)
}

fn failed(error: &ImportError) -> Failure {
    let failure = match error {
        ImportError::NoRegistry(_) => return Failure::input(error),
        _ => Failure::error(error),
    };
    match error {
        ImportError::Store(StoreError::Full { .. } | StoreError::NoRoom(_)) => {
            failure.hinting("what was imported stays; run the same command again to continue")
        }
        _ => failure,
    }
}

fn lines(imported: &Imported, dry_run: bool) -> Vec<String> {
    let Imported {
        repositories,
        manifests,
        tags,
        blobs,
        bytes,
        unlinked,
        unlinked_why,
        known,
        skipped,
        is_complete,
    } = *imported;
    let imported = if dry_run { "would import" } else { "imported" };
    let mut lines = vec![
        format!(
            "{imported} {} and {} of {}",
            counted(tags, "tag", "tags"),
            counted(manifests, "manifest", "manifests"),
            counted(repositories, "repository", "repositories"),
        ),
        format!(
            "{imported} {}, {}",
            counted(blobs, "blob", "blobs"),
            Amount(bytes)
        ),
    ];
    if unlinked > 0 {
        lines.push(format!(
            "of these, {unlinked} could not be hard-linked and {} copied: {}",
            if unlinked == 1 { "was" } else { "were" },
            why_unlinked(unlinked_why)
        ));
    }
    if known > 0 {
        let known = counted(known, "manifest was", "manifests were");
        lines.push(format!("{known} already there"));
    }
    if skipped > 0 {
        lines.push(format!("skipped {skipped}, named above"));
    }
    if !is_complete {
        lines.push("stopped before the end; run the same command again to continue".to_owned());
    }
    lines
}

fn why_unlinked(why: Option<ErrorKind>) -> String {
    match why {
        Some(ErrorKind::CrossesDevices) => {
            "the two folders are on different file systems".to_owned()
        }
        Some(ErrorKind::PermissionDenied) => {
            "the system does not permit it: files of another user cannot be linked \
             (fs.protected_hardlinks), some file systems have no hard links, and the folder must \
             be writable"
                .to_owned()
        }
        Some(other) => other.to_string(),
        None => "the system does not say why".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_and_a_stop_are_told() {
        let imported = Imported {
            repositories: 1,
            manifests: 2,
            tags: 3,
            blobs: 4,
            bytes: 5000,
            unlinked: 0,
            unlinked_why: None,
            known: 0,
            skipped: 0,
            is_complete: true,
        };
        let whole = lines(&imported, false);
        assert_eq!(whole[0], "imported 3 tags and 2 manifests of 1 repository");
        assert_eq!(whole.len(), 2, "{whole:?}");
        let copied = Imported {
            tags: 1,
            manifests: 1,
            blobs: 1,
            unlinked: 1,
            unlinked_why: Some(ErrorKind::CrossesDevices),
            known: 1,
            ..imported
        };
        let expected = [
            "imported 1 tag and 1 manifest of 1 repository",
            "imported 1 blob, 4.8 KiB",
            "of these, 1 could not be hard-linked and was copied: the two folders are on different \
             file systems",
            "1 manifest was already there",
        ];
        assert_eq!(lines(&copied, false), expected);
        let cut = Imported {
            known: 6,
            skipped: 7,
            is_complete: false,
            ..imported
        };
        let text = lines(&cut, true).join("\n");
        for part in [
            "would import 4 blobs",
            "6 manifests were already there",
            "skipped 7",
            "stopped before the end",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
