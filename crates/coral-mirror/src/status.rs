//! The state of a mirror, in types of the API.
//!
//! The status of the object, the status page and the JSON of the commands are made from the values
//! of this module, so that all of them count and name the same things. Pure.

use coral_api::metadata::time;
use coral_api::mirrored_images::{MirroredImage, MirroredState};
use coral_api::{MirrorFailure, MirroredRepository, RegistryMirrorStatus};
use jiff::Timestamp;

use crate::snapshot::Snapshot;
use crate::sync::Summary;

/// How many failures a status names.
pub const MOST_FAILURES: usize = 20;

impl Snapshot {
    /// Counts, failures and repositories; the other fields of a status are unknown here.
    pub fn status(&self) -> RegistryMirrorStatus {
        let images = || self.images.iter();
        let failures = failures(&self.repositories, images());
        let is_gone = |image: &&MirroredImage| image.state == MirroredState::SourceGone;
        let waits = |image: &&MirroredImage| image.state == MirroredState::Waiting;
        let is_pending =
            |image: &&MirroredImage| !image.is_held() && !image.has_failed() && !waits(image);
        let mut status = RegistryMirrorStatus {
            desired: Some(count(self.images.len())),
            mirrored: Some(count(images().filter(|image| image.is_held()).count())),
            pending: Some(count(images().filter(is_pending).count())),
            waiting: Some(count(images().filter(waits).count())),
            failed: Some(count(images().filter(|image| image.has_failed()).count())),
            source_gone: Some(count(images().filter(is_gone).count())),
            pruning: Some(self.pruning),
            bytes_copied: i64::try_from(self.moved).ok(),
            repositories: Some(self.repositories.clone()),
            ..RegistryMirrorStatus::default()
        };
        let all = failures.len();
        name_failures(&mut status, failures, all);
        status
    }
}

impl Summary {
    /// Images that failed at the last attempt, whether they are retried or in error. Repositories
    /// that failed as a whole are counted in [`Self::repositories`].
    pub fn failed(&self) -> usize {
        let repositories = self.repositories.failing + self.repositories.errors;
        (self.failing + self.errors).saturating_sub(repositories)
    }

    /// Counts and times, the same as those of a [`Snapshot`] of this moment.
    pub fn status(&self) -> RegistryMirrorStatus {
        // A mirror that has just started has been due forever.
        let next = self.next_pass.filter(|at| *at > Timestamp::UNIX_EPOCH);
        RegistryMirrorStatus {
            desired: Some(count(self.desired)),
            mirrored: Some(count(self.mirrored)),
            pending: Some(count(self.pending)),
            waiting: Some(count(self.waiting)),
            failed: Some(count(self.failed())),
            source_gone: Some(count(self.source_gone)),
            pruning: Some(self.pruning),
            bytes_copied: i64::try_from(self.moved).ok(),
            last_sync: self.last_pass.map(time),
            next_sync: next.map(time),
            ..RegistryMirrorStatus::default()
        }
    }
}

/// A number as in the API.
pub(crate) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// All failures: repositories first, then images.
pub fn failures<'a>(
    repositories: &[MirroredRepository],
    images: impl IntoIterator<Item = &'a MirroredImage>,
) -> Vec<MirrorFailure> {
    let repositories = repositories.iter().filter_map(repository_failure);
    let images = images.into_iter().filter_map(image_failure);
    repositories.chain(images).collect()
}

/// Puts the first failures into a status, and the number of those that are omitted.
pub fn name_failures(
    status: &mut RegistryMirrorStatus,
    mut failures: Vec<MirrorFailure>,
    all: usize,
) {
    failures.truncate(MOST_FAILURES);
    let omitted = all.saturating_sub(failures.len());
    status.failures_omitted = (omitted > 0).then(|| count(omitted));
    status.failures = (!failures.is_empty()).then_some(failures);
}

/// Why a repository's tags could not be listed or deleted; `None` if they could.
pub fn repository_failure(repository: &MirroredRepository) -> Option<MirrorFailure> {
    Some(MirrorFailure {
        reference: repository.name.clone(),
        reason: Some("Repository".to_owned()),
        message: Some(repository.message.clone()?),
        attempts: repository.attempts,
        next_attempt: repository.next_attempt.clone(),
    })
}

/// Why an image could not be compared or copied; `None` if the last attempt succeeded.
pub fn image_failure(image: &MirroredImage) -> Option<MirrorFailure> {
    let next = image.next_attempt.as_ref().and_then(|at| at.parse().ok());
    image.has_failed().then(|| MirrorFailure {
        reference: image.reference.clone(),
        reason: Some(format!("{:?}", image.state)),
        message: image.message.clone(),
        attempts: image.attempts.map(Into::into),
        next_attempt: next.map(time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(tag: usize, state: MirroredState, digest: Option<&str>) -> MirroredImage {
        let (reference, destination) = ("quay.io/a/b", "mirror:5000/quay.io/a/b");
        MirroredImage {
            digest: digest.map(ToOwned::to_owned),
            message: matches!(state, MirroredState::Failing).then(|| "source: down".to_owned()),
            attempts: Some(2),
            next_attempt: Some("2026-01-01T00:00:00.5Z".to_owned()),
            ..MirroredImage::new(
                format!("{reference}:{tag}"),
                format!("{destination}:{tag}"),
                state,
            )
        }
    }

    #[test]
    fn an_image_that_the_destination_holds_counts_as_mirrored_while_a_later_look_fails() {
        let snapshot = Snapshot {
            images: vec![
                image(1, MirroredState::Mirrored, Some("sha256:00")),
                image(2, MirroredState::Failing, Some("sha256:00")),
                image(3, MirroredState::Failing, None),
                image(4, MirroredState::Pending, None),
            ],
            moved: 7,
            ..Snapshot::default()
        };
        let status = snapshot.status();
        let counts = (status.desired, status.mirrored, status.pending);
        assert_eq!(counts, (Some(4), Some(2), Some(1)));
        assert_eq!((status.failed, status.bytes_copied), (Some(2), Some(7)));
    }

    #[test]
    fn failures_are_named_repositories_first_and_those_left_out_are_counted() {
        let repository = MirroredRepository {
            name: "quay.io/c/d".to_owned(),
            message: Some("source: forbidden".to_owned()),
            ..MirroredRepository::default()
        };
        let snapshot = Snapshot {
            repositories: vec![MirroredRepository::default(), repository],
            images: (0..30)
                .map(|tag| image(tag, MirroredState::Failing, None))
                .collect(),
            ..Snapshot::default()
        };
        let status = snapshot.status();
        assert_eq!(status.failures_omitted, Some(11));
        let failures = status.failures.unwrap();
        assert_eq!(failures.len(), MOST_FAILURES);
        assert_eq!(failures[0].reference, "quay.io/c/d");
        assert_eq!(failures[1].reason.as_deref(), Some("Failing"));
        let next = failures[1].next_attempt.as_ref().unwrap();
        assert_eq!(next.0.to_string(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_status_without_failures_has_no_list_of_them() {
        let status = Snapshot::default().status();
        assert_eq!((status.failures, status.failures_omitted), (None, None));
    }

    #[test]
    fn repositories_are_no_failed_images() {
        let mut summary = Summary {
            failing: 3,
            errors: 1,
            next_pass: Some(Timestamp::MIN),
            ..Summary::default()
        };
        summary.repositories.failing = 2;
        let status = summary.status();
        assert_eq!((status.failed, status.next_sync), (Some(2), None));
    }
}
