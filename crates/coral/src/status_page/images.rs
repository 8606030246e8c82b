//! The images of a mirror that a reader may see.

use std::sync::Arc;

use coral_api::MirroredRepository;
use coral_api::mirrored_images::MirroredState;
use coral_image::Digest;
use coral_mirror::{Activity, ImageFilter, ImagePage, ImageQuery, ImageView};
use futures::{StreamExt, stream};

use super::Visit;
use super::api::ApiError;
use super::board::BoardMirror;
use super::facts::ImageFacts;

/// Images on one page.
pub(super) const PER_PAGE: usize = 50;
/// How many images are looked up at the same time.
const AT_ONCE: usize = 8;

/// One page of a mirror's images.
pub(super) struct ImagesPage {
    pub(super) images: Vec<ShownImage>,
    /// Images on this page that the reader may not see.
    pub(super) hidden: usize,
    pub(super) page: usize,
    pub(super) pages: usize,
    pub(super) total: usize,
    /// All repositories of the mirror.
    pub(super) repositories: Vec<MirroredRepository>,
}

/// One image, with what this registry knows about it.
pub(super) struct ShownImage {
    pub(super) view: ImageView,
    pub(super) facts: Option<Arc<ImageFacts>>,
}

impl ShownImage {
    /// The digest at the destination, even while a later check fails.
    pub(super) fn digest(&self) -> Option<Digest> {
        Digest::parse(self.view.image.digest.as_deref()?).ok()
    }

    /// Its state or activity in a word.
    pub(super) fn state(&self) -> &'static str {
        match (self.view.image.state, self.view.activity) {
            (_, Activity::Copying) => "copying",
            (MirroredState::Mirrored, _) => "mirrored",
            (MirroredState::Failing, _) => "failing",
            (MirroredState::Error, _) => "error",
            (MirroredState::SourceGone, _) => "source gone",
            (MirroredState::Waiting, _) => "waiting for space",
            (MirroredState::Pending | MirroredState::Unknown, _) => "pending",
        }
    }
}

impl Visit {
    /// A page of a mirror's images.
    pub(super) async fn images(
        &self,
        mirror: &BoardMirror,
        which: ImageFilter,
        page: usize,
        per_page: usize,
    ) -> ImagesPage {
        let query = ImageQuery {
            which,
            skip: (page - 1).saturating_mul(per_page),
            limit: per_page,
        };
        let ImagePage {
            images,
            total,
            repositories,
        } = mirror.images(query).await;
        let on_page = images.len();
        let looked = stream::iter(images)
            .map(|view| self.shown_image(mirror, view))
            .buffered(AT_ONCE)
            .collect::<Vec<_>>()
            .await;
        let images: Vec<ShownImage> = looked.into_iter().flatten().collect();
        ImagesPage {
            hidden: on_page - images.len(),
            images,
            page,
            pages: total.div_ceil(per_page).max(1),
            total,
            repositories,
        }
    }

    /// An image with its facts; `None` if the reader may not read its repository.
    async fn shown_image(&self, mirror: &BoardMirror, view: ImageView) -> Option<ShownImage> {
        if !mirror.is_here {
            return Some(ShownImage { view, facts: None });
        }
        let (api, reader) = (&self.pages.api, &self.reader);
        let path = view.key.repository.path();
        let facts = match api.digest(reader, path, &view.key.version).await {
            Ok(digest) => self.pages.facts.get(api, reader, path, &digest).await.ok(),
            Err(ApiError::Refused { .. }) => return None,
            Err(ApiError::Missing | ApiError::Busy | ApiError::Failed) => None,
        };
        Some(ShownImage { view, facts })
    }
}
