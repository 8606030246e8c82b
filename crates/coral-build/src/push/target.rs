//! One repository that gets the image, with retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coral_distribution::{Error, RepositoryClient};
use coral_image::{Repository, Version};
use coral_mirror::{Copied, Copier, CopyOptions, CopyRequest, CopySide, Event, RetryPolicy};
use jiff::Timestamp;
use serde_json::Value;

use super::output::BuiltImage;
use super::{PushError, TaggedRepository};
use crate::login::Login;
use crate::provenance;

/// Bytes of the image's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobBytes {
    /// Sent over the network.
    pub(super) pushed: u64,
    /// Had by the registry, or mounted in it.
    pub(super) mounted: u64,
}

/// One repository that gets the image.
pub(super) struct Target<'a, 'g> {
    wanted: &'a TaggedRepository,
    login: &'a mut Login<'g>,
    policy: RetryPolicy,
}

impl<'a, 'g> Target<'a, 'g> {
    /// This repository, which failures are retried at by this policy.
    pub(super) fn new(
        wanted: &'a TaggedRepository,
        login: &'a mut Login<'g>,
        policy: RetryPolicy,
    ) -> Self {
        Self {
            wanted,
            login,
            policy,
        }
    }

    /// The repository.
    pub(super) fn repository(&self) -> &Repository {
        &self.wanted.repository
    }

    /// How it is reached.
    pub(super) fn login(&self) -> &Login<'g> {
        self.login
    }

    /// Sends blobs and manifests, under the image's digest.
    pub(super) async fn send(
        &mut self,
        copier: &Copier,
        image: &BuiltImage,
    ) -> Result<BlobBytes, PushError> {
        let moved = Arc::new(AtomicU64::new(0));
        let to = &self.wanted.repository;
        let copying = self.login.again(to, self.policy, async |repository| {
            copier.copy(&request(image, repository, to, &moved)).await
        });
        match copying.await {
            Ok(done) => Ok(sent(&done, moved.load(Ordering::Relaxed))),
            Err(source) => Err(PushError::Copy {
                repository: to.to_string(),
                source,
            }),
        }
    }

    /// Attaches a provenance to the image, which is there.
    pub(super) async fn attach(
        &mut self,
        image: &BuiltImage,
        statement: &Value,
        now: Timestamp,
    ) -> Result<(), PushError> {
        let artifact = provenance::Artifact::new(image.manifest(), statement, now);
        self.write("the provenance", async |repository| {
            artifact.put(&repository).await
        })
        .await
    }

    /// Gives the image, which is there, its tags.
    pub(super) async fn tag(&mut self, image: &BuiltImage) -> Result<(), PushError> {
        for tag in self.wanted.tags.clone() {
            let version = Version::Tag(tag.clone());
            self.write(&format!("the tag {tag}"), async |repository| {
                let put = repository.put_manifest(&version, image.manifest());
                put.await.map(drop)
            })
            .await?;
        }
        Ok(())
    }

    async fn write(
        &mut self,
        what: &str,
        work: impl AsyncFn(RepositoryClient) -> Result<(), Error>,
    ) -> Result<(), PushError> {
        let to = &self.wanted.repository;
        let writing = self.login.again(to, self.policy, work).await;
        writing.map_err(|source| PushError::Write {
            repository: to.to_string(),
            what: what.to_owned(),
            source,
        })
    }
}

/// The copy of an image to a repository; `moved` counts what is sent.
fn request(
    image: &BuiltImage,
    client: RepositoryClient,
    to: &Repository,
    moved: &Arc<AtomicU64>,
) -> CopyRequest {
    let version = Version::Digest(image.digest());
    let moved = Arc::clone(moved);
    CopyRequest {
        source: image.site(),
        source_version: version.clone(),
        destination: CopySide::new(client.into(), to),
        destination_version: version,
        options: CopyOptions {
            look_first: true,
            ..CopyOptions::default()
        },
        report: Arc::new(move |event| {
            if let Event::Moved { bytes } = event {
                moved.fetch_add(*bytes, Ordering::Relaxed);
            }
        }),
    }
}

/// `moved` includes the bytes of attempts that failed.
fn sent(copied: &Copied, moved: u64) -> BlobBytes {
    let all = copied.moved.saturating_add(copied.spared);
    BlobBytes {
        pushed: moved,
        mounted: all.saturating_sub(moved),
    }
}
