//! How a mirror is doing: the status of the object, and what the status page and the commands
//! print as JSON. Every field is optional: a status that was written in part must not look whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a mirror is doing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryMirrorStatus {
    /// The generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many images the spec selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<i64>,
    /// How many of them the destination holds, including those whose latest check failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirrored: Option<i64>,
    /// How many of them are still to be copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i64>,
    /// How many of them wait for free space at the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i64>,
    /// How many of them could not be copied at the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<i64>,
    /// How many of the mirrored images no longer exist at their source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_gone: Option<i64>,
    /// Whether tags are deleted at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruning: Option<PruningStatus>,
    /// A digest of `spec.prune` without `dryRun`; absent while pruning is off. A change from one
    /// digest to another ends a pause of `pruning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub prune_digest: Option<String>,
    /// Bytes copied since the mirror was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_copied: Option<i64>,
    /// When the last pass over the sources ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<Time>,
    /// When the next pass begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_sync: Option<Time>,
    /// The first failures, at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    pub failures: Option<Vec<MirrorFailure>>,
    /// How many failures are left out of `failures`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_omitted: Option<i64>,
    /// The mirrored repositories, at most 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub repositories: Option<Vec<MirroredRepository>>,
    /// The state in conditions: `Ready` and what keeps it from being true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Option<Vec<Condition>>,
}

/// Whether a mirror deletes tags. It stops by itself when more than a fifth of its images vanish
/// at their sources in one pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PruningStatus {
    /// Whether deletions are paused until a person confirms them, or changes `spec.prune` in more
    /// than `dryRun`.
    pub paused: bool,
    /// How many vanished images were confirmed, or had vanished at the end of the last pass that
    /// did not stop deletions. Only those beyond them are counted.
    pub accepted: i64,
    /// While paused: how many images had vanished at the end of the last pass. A confirmation must
    /// name at least this number.
    pub counted: i64,
    /// The number in the annotation `image.stvz.io/confirm-prune` that was last read. It confirms
    /// once: to confirm another pause, set another number, or remove the annotation and set it
    /// again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<i64>,
}

impl PruningStatus {
    /// Tags are deleted as long as no more than `number` images have vanished.
    pub fn accepting(number: i64) -> Self {
        Self {
            accepted: number,
            ..Self::default()
        }
    }

    /// The next state for a spec whose [`prune_digest`](super::RegistryMirrorSpec::prune_digest)
    /// changed from `before` to `now`. A change ends a pause. It confirms only what a pass has
    /// counted already: images that vanish later are judged again. Turning pruning off and on again
    /// is not a change.
    #[must_use]
    pub fn after_change_of_prune(self, before: Option<&str>, now: Option<&str>) -> Self {
        match (before, now) {
            (Some(before), Some(now)) if before != now => self.after_confirmation(self.counted),
            _ => self,
        }
    }

    /// The next state after a person has confirmed that `number` images vanished. If more were
    /// counted, the pause continues: the person has not seen all of those images.
    #[must_use]
    pub fn after_confirmation(self, number: i64) -> Self {
        if self.paused && number >= self.counted {
            Self {
                paused: false,
                accepted: self.counted.max(0),
                counted: 0,
                ..self
            }
        } else {
            self
        }
    }

    /// The next state while the mirror's annotation names `number`. A number that is too small does
    /// not end the pause, and one that was there before the pause confirms nothing.
    #[must_use]
    pub fn after_annotation(self, number: Option<i64>) -> Self {
        let Some(named) = number.filter(|_| self.confirmed != number) else {
            return Self {
                confirmed: number,
                ..self
            };
        };
        if self.paused && named < self.counted {
            return self;
        }
        Self {
            confirmed: number,
            ..self.after_confirmation(named)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused(counted: i64) -> PruningStatus {
        PruningStatus {
            paused: true,
            accepted: 4,
            counted,
            confirmed: None,
        }
    }

    #[test]
    fn a_confirmation_has_to_name_as_many_images_as_were_counted() {
        for (number, is_taken) in [(-1, false), (24, false), (25, true), (30, true)] {
            let after = paused(25).after_confirmation(number);
            assert_eq!(after.paused, !is_taken, "{number}");
            assert_eq!(after.accepted, if is_taken { 25 } else { 4 }, "{number}");
        }
        let open = PruningStatus::accepting(7);
        assert_eq!(open.after_confirmation(100), open, "there is no pause");
    }

    #[test]
    fn an_annotation_confirms_one_pause_and_none_that_comes_after_it() {
        let open = paused(25).after_annotation(Some(25));
        assert_eq!((open.paused, open.confirmed), (false, Some(25)));
        let again = PruningStatus {
            paused: true,
            counted: 25,
            ..open
        };
        assert!(again.after_annotation(Some(25)).paused, "it was used");
        assert!(!again.after_annotation(Some(26)).paused, "another number");
        let removed = again.after_annotation(None);
        assert!(removed.paused);
        assert!(!removed.after_annotation(Some(25)).paused, "set again");
    }

    #[test]
    fn an_annotation_that_names_too_few_waits_and_one_from_before_the_pause_is_not_looked_at() {
        let more = paused(100);
        assert_eq!(more.after_annotation(Some(25)), more);
        assert!(
            !paused(25).after_annotation(Some(25)).paused,
            "they came back"
        );
        let early = PruningStatus::default().after_annotation(Some(1000));
        assert_eq!(early.confirmed, Some(1000));
        let pauses = PruningStatus {
            paused: true,
            counted: 60,
            ..early
        };
        assert!(pauses.after_annotation(Some(1000)).paused);
    }
}

/// An image that could not be copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirrorFailure {
    /// The image, as the source names it.
    #[schemars(length(max = 512))]
    pub reference: String,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
    /// What the registry said, at most 1024 letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// Time of the next attempt; absent if a retry needs a change first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
}

/// A repository that the mirror copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MirroredRepository {
    /// The source, with its host: `docker.io/library/debian`.
    #[schemars(length(max = 512))]
    pub name: String,
    /// Whether every client may read it. Private until its source is known to be public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// Whether the Registry has said that it serves the repository to everyone now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<bool>,
    /// Number of selected images; absent until the tags have been resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<i64>,
    /// How many tags the source has if `select` matches none of them; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmatched_tags: Option<i64>,
    /// Why its tags could not be listed or deleted, at most 1024 letters; absent if nothing failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<i64>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
}

/// Who may read a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// A manifest of it was read anonymously at the source.
    Public,
    /// The credential reads it at the source, and anonymous access is refused.
    Private,
    /// A value that this version does not know; to be treated as private.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
