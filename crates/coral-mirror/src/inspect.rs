//! Looking at a running mirror from outside: what it knows of its images, page by page.
//!
//! A mirror answers between two steps of its own, from the state it decides by; without a question
//! nothing is copied.

use std::sync::Arc;

use coral_api::MirroredRepository;
use coral_api::mirrored_images::MirroredImage;
use coral_image::RepositoryPath;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::progress::Key;
use crate::snapshot::Snapshot;

/// Questions that may wait for one mirror.
pub(crate) const MOST_WAITING: usize = 16;

/// How a person says that tags may be deleted though many images vanished at their sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmation {
    /// Once, of so many images.
    Command(i64),
    /// By the number that the mirror's annotation has now; `None` where it has none.
    Annotation(Option<i64>),
}

/// Which images are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// All of them.
    #[default]
    All,
    /// Those that are not mirrored: failing, in error, or not there yet.
    Missing,
    /// Those that failed and were not mirrored since.
    Failed,
    /// Those that are mirrored, and that their sources have no longer.
    SourceGone,
    /// Those that the destination has no room for now.
    Waiting,
}

/// A page of a mirror's images, in the order of their destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageQuery {
    /// Which images.
    pub which: Which,
    /// How many of these to leave out at the beginning.
    pub skip: usize,
    /// How many to tell of at most.
    pub limit: usize,
}

/// What a mirror is doing about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Activity {
    /// Source and destination are being compared, or are about to be.
    Comparing,
    /// In the queue, or being copied.
    Copying,
    /// Nothing, until the next try or the next pass.
    Resting,
}

/// What a mirror knows of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    /// Where to.
    pub key: Key,
    /// Where from, and how it stands.
    pub image: MirroredImage,
    /// What is being done about it.
    pub activity: Activity,
    /// When source and destination were last found equal or made so, or when that last failed.
    pub looked: Option<Timestamp>,
}

/// The answer to an [`ImageQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImagePage {
    /// The images of this page.
    pub images: Vec<ImageView>,
    /// How many there are on all pages.
    pub total: usize,
    /// All repositories; not paged, since a mirror names 1000 at most.
    pub repositories: Vec<MirroredRepository>,
}

/// A question to a running mirror, with the way back of the answer.
pub(crate) enum Look {
    /// A page of its images.
    Page(ImageQuery, oneshot::Sender<ImagePage>),
    /// Everything, to be written down.
    Snapshot(oneshot::Sender<Snapshot>),
    /// What failed is to be tried at once.
    Retry,
    /// Content of these repositories at the destination was damaged: their images are verified at
    /// once.
    Damaged(Arc<[RepositoryPath]>),
    /// A person has looked at what vanished: tags are deleted again.
    ConfirmPrune(Confirmation),
}

pub(crate) fn channel() -> (mpsc::Sender<Look>, mpsc::Receiver<Look>) {
    mpsc::channel(MOST_WAITING)
}

/// Asks a mirror; `None` if it has ended.
pub(crate) async fn ask(mirror: &mpsc::Sender<Look>, query: ImageQuery) -> Option<ImagePage> {
    let (answer, page) = oneshot::channel();
    mirror.send(Look::Page(query, answer)).await.ok()?;
    page.await.ok()
}

/// Asks a mirror for everything it knows; `None` if it has ended.
pub(crate) async fn ask_for_snapshot(mirror: &mpsc::Sender<Look>) -> Option<Snapshot> {
    let (answer, snapshot) = oneshot::channel();
    mirror.send(Look::Snapshot(answer)).await.ok()?;
    snapshot.await.ok()
}
