//! What `coral up` remembers of its mirrors over a restart: whether each deletes tags, and how many
//! images were known to be gone at their sources.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coral_api::PruningStatus;
use coral_image::Digest;
use serde::{Deserialize, Serialize};

/// The file, in the data folder.
const FILE: &str = "pruning.json";

/// What is remembered of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// Differs whenever the mirror's spec does in more than `suspend` and `prune.dryRun`: a change
    /// of that ends a pause.
    spec: Digest,
    #[serde(flatten)]
    pruning: PruningStatus,
}

/// What is remembered, and where.
pub(super) struct Pruning {
    path: PathBuf,
    mirrors: BTreeMap<String, Remembered>,
}

impl Pruning {
    /// Reads what an earlier process wrote. What cannot be read is not known: then more than a
    /// fifth that is gone stops deletions, which loses nothing.
    pub(super) fn read(data: &Path) -> Self {
        let path = data.join(FILE);
        let text = fs::read(&path).ok();
        let mirrors = text.and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            path,
            mirrors: mirrors.unwrap_or_default(),
        }
    }

    /// How a mirror with this spec begins; `None` of one that is new.
    pub(super) fn of(&self, mirror: &str, spec: &Digest) -> Option<PruningStatus> {
        let before = self.mirrors.get(mirror)?;
        let is_same = before.spec == *spec;
        Some(if is_same {
            before.pruning
        } else {
            before.pruning.after_change_of_spec()
        })
    }

    /// Writes down how mirrors stand now, if that changed. `None` stands for a mirror that has not
    /// begun: what is remembered of it stays.
    pub(super) fn remember<'a>(
        &mut self,
        now: impl Iterator<Item = (&'a String, Digest, Option<PruningStatus>)>,
    ) -> io::Result<()> {
        let known = now.filter_map(|(name, spec, pruning)| {
            let now = pruning.map(|pruning| Remembered { spec, pruning });
            Some((
                name.clone(),
                now.or_else(|| self.mirrors.get(name).cloned())?,
            ))
        });
        let now: BTreeMap<String, Remembered> = known.collect();
        if now == self.mirrors {
            return Ok(());
        }
        // Under another name first: a crash leaves the old file or the new one.
        let next = self.path.with_extension("next");
        fs::write(&next, serde_json::to_vec(&now).map_err(io::Error::other)?)?;
        fs::rename(&next, &self.path)?;
        self.mirrors = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_survives_a_restart_and_ends_with_a_change_of_the_spec() {
        let data = tempfile::tempdir().unwrap();
        let (name, spec) = ("default/m".to_owned(), Digest::sha256(b"spec"));
        let paused = PruningStatus {
            paused: true,
            accepted: 7,
            counted: 9,
        };
        let mut pruning = Pruning::read(data.path());
        assert_eq!(pruning.of(&name, &spec), None);
        for now in [Some(paused), None] {
            let now = [(&name, spec, now)];
            pruning.remember(now.into_iter()).unwrap();
        }
        let again = Pruning::read(data.path());
        assert_eq!(again.of(&name, &spec), Some(paused));
        let other = Digest::sha256(b"other");
        let open = PruningStatus {
            paused: false,
            accepted: 9,
            counted: 0,
        };
        assert_eq!(again.of(&name, &other), Some(open), "what was counted");
    }

    /// Regression: an edit of the interval let a source that lost everything delete the last copies.
    #[test]
    fn a_change_of_the_spec_confirms_nothing_where_there_is_no_pause() {
        let data = tempfile::tempdir().unwrap();
        let (name, spec) = ("default/m".to_owned(), Digest::sha256(b"spec"));
        let open = PruningStatus {
            paused: false,
            accepted: 7,
            counted: 0,
        };
        let mut pruning = Pruning::read(data.path());
        let now = [(&name, spec, Some(open))];
        pruning.remember(now.into_iter()).unwrap();
        assert_eq!(pruning.of(&name, &Digest::sha256(b"other")), Some(open));
    }
}
