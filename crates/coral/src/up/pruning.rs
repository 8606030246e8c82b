//! What `coral up` remembers about its mirrors across restarts: whether each deletes tags, and how
//! many images were gone at their sources.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coral_api::PruningStatus;
use coral_image::Digest;
use serde::{Deserialize, Serialize};

/// The file, in the data folder.
const FILE: &str = "pruning.json";

/// What is remembered about a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedPruning {
    /// Digest of the mirror's `prune` without `dryRun`: a change ends a pause.
    #[serde(default)]
    prune: Option<Digest>,
    #[serde(flatten)]
    pruning: PruningStatus,
}

/// What is remembered, and where.
pub(crate) struct Pruning {
    path: PathBuf,
    mirrors: BTreeMap<String, SavedPruning>,
}

impl Pruning {
    /// Reads what an earlier process wrote. If it cannot be read, deletions pause when more than a
    /// fifth of the images is gone, which is safe.
    pub(crate) fn read(data: &Path) -> Self {
        let path = data.join(FILE);
        let text = fs::read(&path).ok();
        let mirrors = text.and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            path,
            mirrors: mirrors.unwrap_or_default(),
        }
    }

    /// The state with which a mirror with this digest of its `prune` starts; `None` if it is new.
    pub(super) fn state_at_start(
        &self,
        mirror: &str,
        prune: Option<Digest>,
    ) -> Option<PruningStatus> {
        let before = self.mirrors.get(mirror)?;
        let [was, now] = [before.prune, prune].map(|digest| digest.map(|d| d.to_string()));
        let pruning = before.pruning;
        Some(pruning.after_change_of_prune(was.as_deref(), now.as_deref()))
    }

    /// The mirrors whose deletions are paused, with the number of vanished images.
    pub(crate) fn paused(&self) -> BTreeMap<&str, i64> {
        let paused = self.mirrors.iter().filter(|(_, m)| m.pruning.paused);
        paused
            .map(|(name, m)| (name.as_str(), m.pruning.counted))
            .collect()
    }

    /// Saves the state of the mirrors if it changed. `None` stands for a mirror that has not
    /// started: what is remembered about it stays.
    pub(super) fn remember<'a>(
        &mut self,
        now: impl Iterator<Item = (&'a String, Option<Digest>, Option<PruningStatus>)>,
    ) -> io::Result<()> {
        let known = now.filter_map(|(name, prune, pruning)| {
            let now = pruning.map(|pruning| SavedPruning { prune, pruning });
            Some((
                name.clone(),
                now.or_else(|| self.mirrors.get(name).cloned())?,
            ))
        });
        let now: BTreeMap<String, SavedPruning> = known.collect();
        if now == self.mirrors {
            return Ok(());
        }
        // Written under another name first, so that a crash leaves either the old file or the new
        // one.
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

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    #[test]
    fn a_pause_survives_a_restart_and_ends_with_a_change_of_prune() {
        let data = tempfile::tempdir().unwrap();
        let (name, prune) = ("default/m".to_owned(), Some(digest("prune")));
        let paused = PruningStatus {
            paused: true,
            accepted: 7,
            counted: 9,
            confirmed: None,
        };
        let mut pruning = Pruning::read(data.path());
        assert_eq!(pruning.state_at_start(&name, prune), None);
        for now in [Some(paused), None] {
            let now = [(&name, prune, now)];
            pruning.remember(now.into_iter()).unwrap();
        }
        let again = Pruning::read(data.path());
        assert_eq!(again.state_at_start(&name, prune), Some(paused));
        assert_eq!(again.paused(), BTreeMap::from([("default/m", 9)]));
        assert_eq!(
            again.state_at_start(&name, None),
            Some(paused),
            "turned off"
        );
        let open = PruningStatus::accepting(9);
        assert_eq!(
            again.state_at_start(&name, Some(digest("other"))),
            Some(open),
            "what was counted"
        );
    }

    /// Regression: an edit of the interval let a source that lost everything delete the last copies.
    #[test]
    fn a_change_of_prune_confirms_nothing_where_there_is_no_pause() {
        let data = tempfile::tempdir().unwrap();
        let (name, open) = ("default/m".to_owned(), PruningStatus::accepting(7));
        let mut pruning = Pruning::read(data.path());
        let now = [(&name, Some(digest("prune")), Some(open))];
        pruning.remember(now.into_iter()).unwrap();
        assert_eq!(
            pruning.state_at_start(&name, Some(digest("other"))),
            Some(open)
        );
    }

    /// An older version noted a digest of the whole spec: it confirms nothing.
    #[test]
    fn a_pause_that_an_older_version_wrote_down_goes_on() {
        let data = tempfile::tempdir().unwrap();
        let spec = Digest::sha256(b"spec");
        let old = format!(
            r#"{{"default/m": {{"spec": "{spec}", "paused": true, "accepted": -1, "counted": 9}}}}"#
        );
        fs::write(data.path().join(FILE), old).unwrap();
        let before = Pruning::read(data.path()).state_at_start("default/m", Some(digest("prune")));
        assert!(before.unwrap().paused);
    }
}
