//! What a mirror does besides copying: it verifies what it copied before, and deletes what no
//! mirror wants any more.

use std::collections::BTreeSet;

use coral_api::VerifyBy;
use coral_image::{Digest, Repository, Version, error_chain};
use futures::FutureExt;

use super::guard::GuardVerdict;
use super::{BackgroundResult, Driver};
use crate::copy::CopyError;
use crate::expand::Wanted;
use crate::inspect::Confirmation;
use crate::outcome::Failure;
use crate::progress::{Event, Key};
use crate::prune::{Caution, CombinedClaims, Destination, PruneError, Pruned, prune};
use crate::queue::Queue;
use crate::state::{Cause, Until, retry_cause};
use crate::verify::verify;

/// If an image is found damaged this many times in a row, copying does not repair it.
const HOPELESS: u32 = 3;

impl<Q: Queue> Driver<Q> {
    pub(super) fn ask_to_verify(&mut self, wanted: Wanted, digest: Digest) {
        let access = self.mirror.access.clone();
        let by = self
            .mirror
            .settings
            .verify
            .map_or(VerifyBy::default(), |verify| verify.by);
        let layers = self.ledger.layers(&wanted.key);
        let host = self.host(wanted.key.repository.host());
        self.questions.push(
            async move {
                let _turn = host.acquire().await;
                let destination = access.destination(&wanted.key.repository).endpoint;
                let found = verify(&destination, digest, &wanted, layers, by)
                    .boxed()
                    .await;
                BackgroundResult::Verified(wanted.key, found)
            }
            .boxed(),
        );
    }

    pub(super) async fn fold_in_verified(
        &mut self,
        key: &Key,
        found: Result<BTreeSet<Digest>, CopyError>,
    ) {
        let broken = match found {
            Ok(broken) => broken,
            Err(error) => {
                let failure = Failure {
                    error: error_chain(&error),
                    category: error.category().into(),
                    cause: error.cause(),
                };
                return self.image_failed(key, failure);
            }
        };
        let parts = broken.len();
        match self.ledger.verified(key, broken, self.now()) {
            0 => {}
            HOPELESS.. => self.image_failed(key, hopeless(parts)),
            _ => {
                if let Some(wanted) = self.ledger.copying(key) {
                    self.observe(&wanted, &Event::Damaged { parts });
                }
                self.enqueue(key).await;
            }
        }
    }

    /// Claims the wanted images of a repository. `is_empty` means that its source has none of them.
    pub(super) fn claim(&mut self, repository: usize, wanted: &[Wanted], is_empty: bool) {
        if self.mirror.settings.prune.is_some() {
            if is_empty {
                // A source that no longer lists anything is more likely broken than empty.
                let source = &self.mirror.settings.repositories[repository].repository;
                tracing::warn!(repository = %source, "not pruned: nothing is selected");
                self.to_prune.remove(&repository);
            } else {
                self.to_prune.insert(repository);
            }
        }
        self.claim_known(repository, wanted);
    }

    fn claim_known(&self, repository: usize, wanted: &[Wanted]) {
        let versions: BTreeSet<Version> = wanted.iter().map(|w| w.key.version.clone()).collect();
        let name = &self.mirror.name;
        self.wiring
            .claims
            .send_if_modified(|claims| claims.known(name, repository, versions));
    }

    pub(super) fn claim_unknown(&mut self, repository: usize) {
        self.to_prune.remove(&repository);
        let name = &self.mirror.name;
        self.wiring
            .claims
            .send_modify(|claims| claims.unknown(name, repository));
    }

    /// A mirror that lists nothing still wants something.
    pub(super) fn claim_nothing_known(&mut self) {
        for repository in 0..self.mirror.settings.repositories.len() {
            self.claim_unknown(repository);
        }
    }

    /// Applies a person's confirmation of vanished images.
    pub(super) fn confirm_prune(&mut self, confirmation: Confirmation) {
        if self.guard.confirm(confirmation) {
            // The next pass finds out what to delete.
            self.next_pass = self.next_pass.map(|_| self.now());
        }
    }

    /// Starts deleting tags once all images were compared: only then is it known which of them are
    /// gone at their sources.
    pub(super) fn ask_to_prune(&mut self) {
        let Some(settings) = self.mirror.settings.prune.clone() else {
            return;
        };
        if !self.ledger.is_quiet() {
            return;
        }
        if self.judge() != GuardVerdict::Open {
            self.to_prune.clear();
        }
        let (destination, places) = (self.mirror.destination(), self.mirror.places());
        for repository in self.to_prune.clone() {
            let place = &places[repository];
            if settings.delete_gone {
                self.claim_known(repository, &self.ledger.remaining_images(repository, true));
            }
            let claims = self
                .claims
                .borrow_and_update()
                .combined(&destination, place);
            let wanted = match claims {
                CombinedClaims::NotYet => continue,
                CombinedClaims::Unknown => {
                    self.hold_back(repository, &destination, place);
                    continue;
                }
                CombinedClaims::Known(wanted) => wanted,
            };
            self.to_prune.remove(&repository);
            self.held_back.remove(&repository);
            self.pruning.insert(repository);
            let destination = self.mirror.access.destination(place).endpoint;
            let settings = settings.clone();
            let caution = self.caution(repository, settings.delete_gone);
            self.questions.push(
                async move {
                    let pruned = prune(&destination, &wanted, &settings, &caution).await;
                    BackgroundResult::Pruned(repository, pruned)
                }
                .boxed(),
            );
        }
    }

    /// Deletes no tag of a repository, because it is unknown what every mirror wants in it.
    fn hold_back(&mut self, repository: usize, destination: &Destination, place: &Repository) {
        self.to_prune.remove(&repository);
        let by = self
            .claims
            .borrow()
            .held_by(destination, place)
            .map(str::to_owned);
        let mirror = by.as_deref().unwrap_or("one that cannot be read");
        tracing::info!(
            repository = %place,
            mirror,
            "not pruned: it is unknown what a mirror wants in it"
        );
        // With the name of the mirror, a person can act on it.
        match by {
            Some(by) => self.held_back.insert(repository, by),
            None => self.held_back.remove(&repository),
        };
    }

    /// Judges whether tags may be deleted, by how many images vanished.
    fn judge(&mut self) -> GuardVerdict {
        let (vanished, images) = self.ledger.vanished();
        let judgement = self.guard.judge(vanished, images);
        let event = match judgement {
            GuardVerdict::Open | GuardVerdict::Paused => return judgement,
            GuardVerdict::Pauses { vanished: new } => Event::PruningPaused {
                new,
                vanished,
                images,
            },
            GuardVerdict::Grows => Event::PruningStaysPaused { vanished, images },
        };
        self.observe_as(&self.mirror.name, None, &event);
        judgement
    }

    /// Chooses how far to trust the selection. It is trusted in a single pass, which a person
    /// starts who can look at its plan, and for tags that are named one by one, unless images that
    /// the source reports as gone are deleted.
    fn caution(&mut self, repository: usize, delete_gone: bool) -> Caution {
        let is_listed = self.mirror.settings.repositories[repository]
            .filter
            .is_some();
        let before = self.doubted.remove(&repository).unwrap_or_default();
        if (is_listed || delete_gone) && self.until == Until::Stopped {
            Caution::Twice(before)
        } else {
            Caution::None
        }
    }

    pub(super) fn fold_in_pruned(&mut self, repository: usize, pruned: Result<Pruned, PruneError>) {
        self.pruning.remove(&repository);
        let tags = match pruned {
            Ok(Pruned::Done(tags)) => tags,
            Ok(Pruned::Doubted(tags)) => {
                let source = &self.mirror.settings.repositories[repository].repository;
                tracing::warn!(
                    repository = %source,
                    tags = tags.len(),
                    "not pruned this time: more than half of the tags would be deleted; they are \
                     deleted if the next pass finds the same"
                );
                self.doubted.insert(repository, tags);
                return;
            }
            Err(error) => {
                let failure = Failure {
                    error: error_chain(&error),
                    category: error.source_error().category().as_str().into(),
                    cause: retry_cause(error.source_error()),
                };
                return self.repository_failed(repository, failure);
            }
        };
        let dry = self
            .mirror
            .settings
            .prune
            .as_ref()
            .is_some_and(|prune| prune.dry_run);
        if !dry {
            self.ledger.pruned(tags.len());
        }
        let source = self.mirror.settings.repositories[repository]
            .repository
            .clone();
        let place = self.mirror.places().swap_remove(repository);
        for tag in tags {
            let image = source.tagged(tag.clone()).to_string();
            let key = Key {
                repository: place.clone(),
                version: Version::Tag(tag),
            };
            let gone = self.ledger.is_gone(&key);
            let event = if dry {
                Event::WouldPrune { gone }
            } else {
                self.ledger.deleted(&key);
                Event::Pruned { gone }
            };
            self.observe_as(&image, Some(&key), &event);
        }
    }
}

fn hopeless(parts: usize) -> Failure {
    Failure {
        error: format!(
            "destination: {parts} manifests or blobs are still missing or damaged after they were \
             copied again: the registry keeps its own copy; delete them there, or have the \
             registry scrubbed"
        ),
        category: "broken".into(),
        cause: Cause::Refusal,
    }
}
