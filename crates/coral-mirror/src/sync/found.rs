//! Handles the results of requests about repositories and images.

use coral_api::Drift;
use coral_distribution::Error;
use coral_image::{Digest, ImageRef, error_chain};

use super::ledger::Arrival;
use super::{Driver, MOST_IMAGES};
use crate::compare::{CompareError, Difference};
use crate::copy::Sparse;
use crate::expand::{ExpandError, Expanded, Wanted};
use crate::outcome::Failure;
use crate::progress::{Event, Key, MovedAt};
use crate::prune::PruneError;
use crate::queue::Queue;
use crate::state::{Cause, retry_cause};

impl<Q: Queue> Driver<Q> {
    pub(super) fn fold_in_expanded(
        &mut self,
        repository: usize,
        expanded: Result<Expanded, ExpandError>,
    ) {
        match expanded {
            Ok(expanded) => {
                let room =
                    MOST_IMAGES.checked_sub(self.ledger.would_hold(repository, &expanded.wanted));
                match room {
                    Some(room) => self.take_in(repository, expanded, room),
                    None => self.select_less(repository, expanded.wanted.len()),
                }
            }
            Err(error) => {
                let is_unknown = error.is_host_unknown();
                self.claim_unknown(repository);
                self.repository_failed(repository, unknown(&error));
                if is_unknown {
                    for wanted in self.ledger.repository_unknown(repository) {
                        self.observe_gone(&wanted);
                    }
                }
            }
        }
    }

    /// Adds the images that a repository's settings select. At most `room` of them may be images
    /// that are gone at their source.
    fn take_in(&mut self, repository: usize, expanded: Expanded, room: usize) {
        let Expanded {
            mut wanted,
            mut vanished,
            unlisted,
            untold,
            unmatched,
        } = expanded;
        if let Some(error) = untold {
            // What is known about the others stays as it is, and none of them is compared.
            self.claim_unknown(repository);
            self.ledger.joined(repository, wanted, self.now());
            return self.repository_failed(repository, unknown(&error));
        }
        let is_whole = unlisted.is_none() && vanished.len() <= room;
        vanished.truncate(room);
        let is_empty = wanted.is_empty();
        wanted.extend(vanished);
        if unlisted.is_some() {
            // Images that are known to be gone are not forgotten because of that.
            let known = self.ledger.gone_images(repository).into_iter();
            let new = known.filter(|gone| wanted.iter().all(|wanted| wanted.key != gone.key));
            let new: Vec<Wanted> = new.collect();
            wanted.extend(new);
        }
        if is_whole {
            self.claim(repository, &wanted, is_empty);
        } else {
            self.claim_unknown(repository);
        }
        self.ledger.expanded(repository, wanted, self.now());
        self.ledger.unmatched(repository, unmatched);
        if let Some(tags) = unmatched {
            let settings = &self.mirror.settings.repositories[repository];
            let source = settings.repository.to_string();
            self.observe_as(&source, None, &Event::Unmatched { tags });
        }
        if let Some(error) = unlisted.filter(|_| self.mirror.settings.prune.is_some()) {
            self.repository_failed(repository, unlistable(error));
        }
    }

    fn select_less(&mut self, repository: usize, selected: usize) {
        let failure = Failure {
            error: format!(
                "it selects {selected} images, which would give the mirror more than \
                 {MOST_IMAGES}: narrow its select, or split the mirror"
            ),
            category: "limit".into(),
            cause: Cause::Refusal,
        };
        self.claim_unknown(repository);
        self.repository_failed(repository, failure);
    }

    pub(super) async fn fold_in_compared(
        &mut self,
        key: &Key,
        compared: Result<Difference, CompareError>,
    ) {
        let there = compared.as_ref().ok().and_then(Difference::there);
        if let Some(wanted) = self.ledger.wanted(key) {
            let source = wanted.source.repository().host();
            self.mirror.access.catalogue.compared(key, source, there);
        }
        match compared {
            Ok(Difference::None { digest, sparse }) => {
                self.ledger.clear_drift(key);
                self.found(key, digest, sparse).await;
            }
            Ok(Difference::SourceGone { digest }) => {
                let now = self.now();
                if let Some(wanted) = self.ledger.source_gone(key, digest, now) {
                    self.observe_gone(&wanted);
                }
            }
            Ok(Difference::Missing { source, there }) => {
                let moved = source.zip(there).filter(|(source, there)| source != there);
                if let Some((source, there)) = moved {
                    self.fold_in_moved(key, source, there).await;
                } else {
                    self.ledger.replaces(key, None);
                    self.enqueue(key).await;
                }
            }
            Err(error) => {
                let failure = Failure {
                    error: error_chain(&error),
                    category: error.category().into(),
                    cause: error.cause(),
                };
                if error.is_host_unknown() {
                    self.host_failed(key, failure);
                } else {
                    self.image_failed(key, failure);
                }
            }
        }
    }

    /// The image is at the destination; missed referrers are retried, and so are omitted foreign
    /// layers if they are wanted now.
    async fn found(&mut self, key: &Key, digest: Digest, sparse: Sparse) {
        let now = self.now();
        if self.ledger.begins_to_complete(key, digest, sparse, now) {
            self.enqueue(key).await;
        } else {
            self.is_there(key, digest, sparse);
        }
    }

    /// The copy of what an image lacks failed; the image itself is there.
    pub(super) fn could_not_complete(&mut self, wanted: &Wanted, failure: &Failure) {
        if self.ledger.could_not_complete(&wanted.key) {
            let (image, error) = (&wanted.source, &failure.error);
            tracing::warn!(%image, error, "mirrored without its foreign layers; they are retried \
                                           in each pass");
        }
    }

    pub(super) fn is_there(&mut self, key: &Key, digest: Digest, sparse: Sparse) {
        let arrival = Arrival::Present { sparse };
        let now = self.now();
        if let Some(wanted) = self.ledger.succeeded(key, digest, arrival, now) {
            self.observe(&wanted, &Event::UpToDate { digest });
        }
    }

    /// The tag names different images at the source and at the destination.
    async fn fold_in_moved(&mut self, key: &Key, source: Digest, there: Digest) {
        let held = self.ledger.held(key);
        let drift = self.mirror.settings.drift;
        // If it is unknown what was mirrored, assume that the tag moved at the source.
        let has_strayed = held.is_some_and(|held| held != there);
        let wants = match (drift, held) {
            (Drift::Pin, Some(held)) => held,
            _ => source,
        };
        if has_strayed {
            self.observe_moved(key, MovedAt::Destination, wants, there);
        } else if drift == Drift::Pin {
            if self.ledger.pinned(key, source).is_some() {
                self.observe_moved(key, MovedAt::SourceAndKept, there, source);
            }
            return self.found(key, there, Sparse::default()).await;
        } else if drift == Drift::Warn {
            self.observe_moved(key, MovedAt::Source, there, source);
        }
        self.ledger.replaces(key, Some(there));
        self.enqueue(key).await;
    }

    /// The source of a copy: for a pinned tag, the image that was mirrored.
    pub(super) fn copy_source(&self, wanted: &Wanted) -> ImageRef {
        let is_tag = wanted.key.version.digest().is_none();
        let held = self.ledger.held(&wanted.key);
        match (self.mirror.settings.drift, held) {
            (Drift::Pin, Some(digest)) if is_tag => {
                wanted.source.repository().pinned(digest).into()
            }
            _ => wanted.source.clone(),
        }
    }

    fn observe_moved(&self, key: &Key, at: MovedAt, from: Digest, to: Digest) {
        if let Some(wanted) = self.ledger.wanted(key) {
            self.observe(wanted, &Event::TagMoved { at, from, to });
        }
    }

    pub(super) fn observe_gone(&self, wanted: &Wanted) {
        self.observe(wanted, &Event::SourceGone);
    }
}

fn unknown(error: &ExpandError) -> Failure {
    Failure {
        error: error_chain(error),
        category: error.category().into(),
        cause: error.cause(),
    }
}

fn unlistable(error: Error) -> Failure {
    let (category, cause) = (error.category().as_str().into(), retry_cause(&error));
    Failure {
        error: error_chain(&PruneError::List(error)),
        category,
        cause,
    }
}
