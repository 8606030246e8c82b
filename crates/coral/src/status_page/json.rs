//! The page for programs: the types of the API, with what only the page knows.

use std::collections::{BTreeMap, BTreeSet};

use coral_api::RegistryMirrorStatus;
use coral_api::metadata::time;
use coral_api::mirrored_images::MirroredImage;
use coral_image::{Host, RepositoryPath};
use coral_mirror::{Activity, ImageFilter, MOST_FAILURES, failures, name_failures};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use super::Visit;
use super::api::ApiError;
use super::board::BoardMirror;
use super::html::repositories::PER_PAGE as REPOSITORIES;
use super::images::{ImagesPage, PER_PAGE, ShownImage};
use super::query::PageQuery;
use super::storage::{Scrub, Storage};

/// How many mirrors one answer lists; others are requested by name.
const MOST_MIRRORS: usize = 100;

/// The body of `/status.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusAnswer {
    version: &'static str,
    time: Timestamp,
    registry: RegistryName,
    /// Whether the reader may read every repository; only then are mirrors listed.
    everything: bool,
    broken_files: BTreeSet<String>,
    mirrors_total: usize,
    mirrors: Vec<MirrorStatus>,
    /// Stored and free bytes, if the disk can be queried.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Storage>,
    /// The state of the scrub.
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub: Option<Scrub>,
    repositories: RepositoryNames,
}

#[derive(Debug, Serialize)]
struct RegistryName {
    host: Host,
}

#[derive(Debug, Serialize)]
struct RepositoryNames {
    names: Vec<RepositoryPath>,
    next: Option<RepositoryPath>,
    /// Bytes of each of them.
    stored: BTreeMap<String, u64>,
}

/// A mirror with one page of its images.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MirrorStatus {
    name: String,
    file: String,
    destination: String,
    suspended: bool,
    #[serde(flatten)]
    status: RegistryMirrorStatus,
    /// Images that lack platforms or foreign layers that they name.
    sparse: usize,
    /// When the next retry is.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Time>,
    page: usize,
    pages: usize,
    /// Images on all pages.
    total: usize,
    images: Vec<ImageStatus>,
}

/// An image, with what this registry knows about it.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ImageStatus {
    #[serde(flatten)]
    image: MirroredImage,
    activity: Activity,
    /// When source and destination were last compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platforms: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
}

pub(super) async fn status(visit: &Visit, query: &PageQuery) -> Result<StatusAnswer, ApiError> {
    let last = query.last(RepositoryPath::parse);
    let api = &visit.pages.api;
    let repositories = api
        .repositories(&visit.reader, last.as_ref(), REPOSITORIES)
        .await?;
    let mut mirrors = vec![];
    let everything = repositories.is_whole;
    let board = &visit.pages.site.board;
    let (running, broken_files) = if everything {
        (board.mirrors(), board.broken())
    } else {
        Default::default()
    };
    let is_asked_for = |name: &str| query.mirror().is_none_or(|asked| asked == name);
    let mirrors_total = running.len();
    let asked = running
        .into_iter()
        .filter(|mirror| is_asked_for(&mirror.name));
    for mirror in asked.take(MOST_MIRRORS) {
        mirrors.push(mirror_status(visit, &mirror, query).await);
    }
    Ok(StatusAnswer {
        version: env!("CARGO_PKG_VERSION"),
        time: visit.now,
        registry: RegistryName {
            host: visit.host.clone(),
        },
        everything,
        broken_files,
        mirrors_total,
        mirrors,
        storage: api.storage(&visit.reader).await.ok(),
        scrub: api.scrub(&visit.reader).await.ok(),
        repositories: RepositoryNames {
            stored: stored(visit, &repositories.names).await,
            next: repositories.next().cloned(),
            names: repositories.names,
        },
    })
}

async fn stored(visit: &Visit, names: &[RepositoryPath]) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for name in names {
        let stored = visit.pages.api.stored(&visit.reader, name).await;
        all.extend(stored.map(|stored| (name.to_string(), stored)));
    }
    all
}

async fn mirror_status(visit: &Visit, mirror: &BoardMirror, query: &PageQuery) -> MirrorStatus {
    let summary = mirror.summary();
    let shown = visit.images(mirror, query.which(), query.page(), PER_PAGE);
    let shown = shown.await;
    let failed = if summary.failing + summary.errors > 0 {
        let failed = visit.images(mirror, ImageFilter::Failed, 1, MOST_FAILURES);
        Some(failed.await)
    } else {
        None
    };
    let mut status = summary.status();
    if let Some(failed) = failed {
        name_shown_failures(&mut status, &failed);
    }
    status.repositories = Some(shown.repositories);
    MirrorStatus {
        name: mirror.name.clone(),
        file: mirror.origin.clone(),
        destination: mirror.destination.clone(),
        suspended: mirror.suspended,
        status,
        sparse: summary.sparse,
        next_attempt: summary.next_try.map(time),
        page: shown.page,
        pages: shown.pages,
        total: shown.total,
        images: shown.images.iter().map(ImageStatus::from).collect(),
    }
}

/// Failures of images that the reader may not read are only counted.
fn name_shown_failures(status: &mut RegistryMirrorStatus, failed: &ImagesPage) {
    let images = failed.images.iter().map(|image| &image.view.image);
    let repositories = &failed.repositories;
    let broken = repositories.iter().filter(|r| r.message.is_some()).count();
    let named = failures(repositories, images);
    name_failures(status, named, broken + failed.total);
}

impl From<&ShownImage> for ImageStatus {
    fn from(shown: &ShownImage) -> Self {
        let (view, facts) = (&shown.view, shown.facts.as_deref());
        let platforms = facts.map(|facts| facts.platforms.iter().map(ToString::to_string));
        Self {
            image: view.image.clone(),
            activity: view.activity,
            checked: view.looked,
            size: facts.map(|facts| facts.size),
            platforms: platforms.map(Iterator::collect),
            created: facts.and_then(|facts| facts.created),
        }
    }
}

#[cfg(test)]
mod tests {
    use coral_api::mirrored_images::MirroredState;
    use coral_image::ImageRef;
    use coral_mirror::{ImageView, Key};

    use super::*;

    fn shown(tag: &str, state: MirroredState) -> ShownImage {
        let destination = format!("mirror:5000/quay.io/a/b:{tag}");
        let key = Key::from_reference(&ImageRef::parse(&destination).unwrap());
        ShownImage {
            view: ImageView {
                key,
                image: MirroredImage::new(format!("quay.io/a/b:{tag}"), destination, state),
                activity: Activity::Resting,
                looked: None,
            },
            facts: None,
        }
    }

    #[test]
    fn an_image_has_the_fields_of_the_api_and_those_of_the_page_beside_them() {
        let status = ImageStatus::from(&shown("1", MirroredState::Pending));
        let expected = serde_json::json!({
            "reference": "quay.io/a/b:1",
            "destination": "mirror:5000/quay.io/a/b:1",
            "state": "Pending",
            "activity": "Resting",
        });
        assert_eq!(serde_json::to_value(status).unwrap(), expected);
    }

    #[test]
    fn a_failure_that_the_reader_may_not_see_is_not_named() {
        let failed = ImagesPage {
            images: vec![shown("1", MirroredState::Failing)],
            hidden: 1,
            page: 1,
            pages: 1,
            total: 2,
            repositories: vec![],
        };
        let mut status = RegistryMirrorStatus::default();
        name_shown_failures(&mut status, &failed);
        let names = status.failures.unwrap();
        assert_eq!((names.len(), status.failures_omitted), (1, Some(1)));
        assert_eq!(names[0].reference, "quay.io/a/b:1");
    }
}
