//! What the commands print as JSON: the types of the API, with what only a command knows.

use std::collections::BTreeMap;

use coral_api::mirrored_images::MirroredImage;
use coral_api::{MirroredRepository, RegistryMirrorStatus};
use coral_mirror::{Snapshot, Summary};
use serde::Serialize;

use crate::terminal::print;

/// What was done to an image or a tag, or would be. If several mirrors want an image, the greatest
/// of their actions is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Action {
    /// Some of it was missing or damaged at the destination.
    Damaged,
    /// The destination already had it.
    UpToDate,
    /// A pass would copy it.
    WouldBeCopied,
    /// It was copied.
    Copied,
    /// A pass would delete the tag, or this one would have but for `dryRun`.
    WouldBeDeleted,
    /// The tag was deleted.
    Deleted,
}

/// The state of an image, and what a command did to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageReport<T> {
    /// The mirrors that want it; none for a copy that no mirror asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) mirrors: Vec<String>,
    #[serde(flatten)]
    pub(crate) image: MirroredImage,
    #[serde(flatten)]
    pub(crate) done: T,
}

/// What a pass did to an image.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PassDone {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) action: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_copied: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<f64>,
    /// A bounded label of a failure: `not_found`, `dns`, `rate_limited` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) category: Option<String>,
}

/// A tag at the destination that no mirror selects any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeletionReport {
    pub(crate) mirrors: Vec<String>,
    pub(crate) reference: String,
    pub(crate) destination: String,
    pub(crate) action: Action,
    /// Whether the mirror's `prune.dryRun` keeps it.
    pub(crate) dry_run: bool,
    /// Whether its deletion waits for a confirmation, since too many images vanished at once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) paused: bool,
}

/// A repository of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RepositoryReport {
    pub(crate) mirror: String,
    #[serde(flatten)]
    pub(crate) repository: MirroredRepository,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) category: Option<String>,
}

/// The counts of all mirrors of a pass.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    #[serde(flatten)]
    status: RegistryMirrorStatus,
    sparse: usize,
    /// Images without some of their referrers.
    referrers_missed: usize,
    deleted: usize,
}

impl From<&Summary> for Totals {
    fn from(total: &Summary) -> Self {
        Self {
            status: total.status(),
            sparse: total.sparse,
            referrers_missed: total.missed,
            deleted: total.pruned,
        }
    }
}

/// The events of a pass, by mirror and destination, or by source for a repository.
pub(crate) type PassEvents = BTreeMap<(String, String), PassDone>;

/// The images of all mirrors in the order of their destinations. An image that several mirrors want
/// is reported once, unless its states differ.
pub(crate) fn images(
    ended: &[(String, Snapshot)],
    heard: &PassEvents,
) -> Vec<ImageReport<PassDone>> {
    let mut reports: BTreeMap<&str, Vec<ImageReport<PassDone>>> = BTreeMap::new();
    for (mirror, snapshot) in ended {
        for image in &snapshot.images {
            let key = (mirror.clone(), image.destination.clone());
            let done = heard.get(&key).cloned().unwrap_or_default();
            let same = reports.entry(&image.destination).or_default();
            if let Some(report) = same.iter_mut().find(|r| stand_alike(&r.image, image)) {
                report.mirrors.push(mirror.clone());
                report.done.join(done);
            } else {
                same.push(ImageReport {
                    mirrors: vec![mirror.clone()],
                    image: image.clone(),
                    done,
                });
            }
        }
    }
    reports.into_values().flatten().collect()
}

/// The repositories of all mirrors.
pub(crate) fn repositories(
    ended: &[(String, Snapshot)],
    heard: &PassEvents,
) -> Vec<RepositoryReport> {
    let mut reports = vec![];
    for (mirror, snapshot) in ended {
        for repository in &snapshot.repositories {
            let key = (mirror.clone(), repository.name.clone());
            reports.push(RepositoryReport {
                mirror: mirror.clone(),
                category: heard.get(&key).and_then(|done| done.category.clone()),
                repository: repository.clone(),
            });
        }
    }
    reports
}

fn stand_alike(one: &MirroredImage, other: &MirroredImage) -> bool {
    (one.state, &one.digest, one.sparse) == (other.state, &other.digest, other.sparse)
}

impl PassDone {
    /// Adds the result of another mirror's pass for the same image.
    fn join(&mut self, other: Self) {
        self.action = self.action.max(other.action);
        self.bytes_copied = match (self.bytes_copied, other.bytes_copied) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        self.seconds = self.seconds.or(other.seconds);
        self.category = self.category.take().or(other.category);
    }
}

/// Prints a report on one line.
pub(crate) fn print_json(report: &impl Serialize) {
    print(&serde_json::to_string(report).expect("the keys of a report are strings"));
}

#[cfg(test)]
mod tests {
    use coral_api::mirrored_images::MirroredState;

    use super::*;

    fn ended(mirror: &str, state: MirroredState) -> (String, Snapshot) {
        let image = MirroredImage::new("quay.io/a/b:1", "mirror:5000/quay.io/a/b:1", state);
        let snapshot = Snapshot {
            images: vec![image],
            ..Snapshot::default()
        };
        (mirror.to_owned(), snapshot)
    }

    fn done(mirror: &str, action: Action, bytes_copied: Option<u64>) -> PassEvents {
        let key = (mirror.to_owned(), "mirror:5000/quay.io/a/b:1".to_owned());
        let done = PassDone {
            action: Some(action),
            bytes_copied,
            ..PassDone::default()
        };
        PassEvents::from([(key, done)])
    }

    #[test]
    fn an_image_of_two_mirrors_is_reported_once_unless_it_stands_differently() {
        use MirroredState::{Failing, Mirrored};
        let mut heard = done("a/one", Action::UpToDate, None);
        heard.append(&mut done("a/two", Action::Copied, Some(7)));
        let all = [
            ended("a/one", Mirrored),
            ended("a/two", Mirrored),
            ended("a/three", Failing),
        ];
        let reports = images(&all, &heard);
        let [mirrored, failing] = reports.as_slice() else {
            panic!("{reports:?}");
        };
        assert_eq!(mirrored.mirrors, ["a/one", "a/two"]);
        assert_eq!(mirrored.done.action, Some(Action::Copied));
        assert_eq!(mirrored.done.bytes_copied, Some(7));
        assert_eq!(failing.mirrors, ["a/three"]);
        assert_eq!(failing.done, PassDone::default());
    }

    #[test]
    fn a_report_has_the_fields_of_the_api_and_those_of_the_pass_beside_them() {
        let reports = images(
            &[ended("a/one", MirroredState::Mirrored)],
            &done("a/one", Action::Copied, Some(7)),
        );
        let json = serde_json::to_value(&reports[0]).unwrap();
        let expected = serde_json::json!({
            "mirrors": ["a/one"],
            "reference": "quay.io/a/b:1",
            "destination": "mirror:5000/quay.io/a/b:1",
            "state": "Mirrored",
            "action": "Copied",
            "bytesCopied": 7,
        });
        assert_eq!(json, expected);
    }
}
