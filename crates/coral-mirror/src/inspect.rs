//! Requests to a running mirror from outside: pages of its images, and commands.
//!
//! A mirror answers between two steps, from its own state; nothing is cloned without a request.

use std::sync::Arc;

use coral_api::MirroredRepository;
use coral_api::mirrored_images::MirroredImage;
use coral_image::RepositoryPath;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::progress::Key;
use crate::snapshot::Snapshot;

/// How many requests may wait for one mirror.
pub(crate) const MOST_WAITING: usize = 16;

/// How a person confirms that tags may be deleted although many images vanished at their sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// Once, for up to this many images.
    Command(i64),
    /// By the number in the mirror's annotation; `None` if it has none.
    Annotation(Option<i64>),
}

/// Selects the images of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageFilter {
    /// All of them.
    #[default]
    All,
    /// Images that are not mirrored: failing, in error, or not yet copied.
    Missing,
    /// Images that failed and have not been mirrored since.
    Failed,
    /// Mirrored images that are gone at their sources.
    SourceGone,
    /// Images for which the destination has no space now.
    Waiting,
}

/// A page of a mirror's images, in the order of their destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageQuery {
    /// The images to return.
    pub which: ImageFilter,
    /// How many of these to skip.
    pub skip: usize,
    /// The most images to return.
    pub limit: usize,
}

/// What a mirror is doing about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Activity {
    /// Source and destination are being compared, or are about to be.
    Comparing,
    /// In the queue, or being copied.
    Copying,
    /// Nothing, until the next attempt or the next pass.
    Resting,
}

/// What a mirror knows about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// The destination.
    pub key: Key,
    /// The source, and the state.
    pub image: MirroredImage,
    /// What the mirror is doing about it.
    pub activity: Activity,
    /// When source and destination were last found or made equal, or when that last failed.
    pub looked: Option<Timestamp>,
}

/// The answer to an [`ImageQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImagePage {
    /// The images of this page.
    pub images: Vec<ImageView>,
    /// How many there are on all pages.
    pub total: usize,
    /// All repositories; not paged, since a mirror has at most 1000.
    pub repositories: Vec<MirroredRepository>,
}

/// A request to a running mirror, with the channel for the answer.
pub(crate) enum MirrorRequest {
    /// A page of its images.
    Page(ImageQuery, oneshot::Sender<ImagePage>),
    /// Everything, in order to save it.
    Snapshot(oneshot::Sender<Snapshot>),
    /// Retry at once what failed.
    Retry,
    /// Content of these repositories was damaged at the destination: verify their images at once.
    Damaged(Arc<[RepositoryPath]>),
    /// A person has reviewed what vanished: delete tags again.
    ConfirmPrune(Confirmation),
}

pub(crate) fn channel() -> (mpsc::Sender<MirrorRequest>, mpsc::Receiver<MirrorRequest>) {
    mpsc::channel(MOST_WAITING)
}

/// Asks a mirror; `None` if it has ended.
pub(crate) async fn ask(
    mirror: &mpsc::Sender<MirrorRequest>,
    query: ImageQuery,
) -> Option<ImagePage> {
    let (answer, page) = oneshot::channel();
    mirror.send(MirrorRequest::Page(query, answer)).await.ok()?;
    page.await.ok()
}

/// Asks a mirror for everything it knows; `None` if it has ended.
pub(crate) async fn ask_for_snapshot(mirror: &mpsc::Sender<MirrorRequest>) -> Option<Snapshot> {
    let (answer, snapshot) = oneshot::channel();
    mirror.send(MirrorRequest::Snapshot(answer)).await.ok()?;
    snapshot.await.ok()
}
