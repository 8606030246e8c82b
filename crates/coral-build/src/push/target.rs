//! One repository that gets the image, with retries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coral_distribution::{Category, Client, Credentials, Disposition, Error, RepositoryClient};
use coral_image::{Repository, Version};
use coral_mirror::{
    Cause, Copied, Copier, CopyError, CopyOptions, CopyRequest, CopySide, Event, RetryPolicy, chain,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::output::BuiltImage;
use super::{PushError, Wanted};
use crate::access::{AccessError, CredentialSource, StepCredential};
use crate::contract::BuildContainer;
use crate::provenance;

/// A credential is renewed when it has less than this left: a request that begins with it has to end.
const RENEWAL: SignedDuration = SignedDuration::from_mins(3);

/// How a registry is reached. A credential of the controller lives for minutes and is asked for again.
pub(super) struct Login<'a> {
    client: Client,
    credentials: Arc<Credentials>,
    /// What gives another credential when this one ends.
    source: Option<&'a dyn CredentialSource>,
    expires: Option<Timestamp>,
    container: BuildContainer,
}

impl<'a> Login<'a> {
    /// With credentials of the controller.
    pub(super) async fn renewed(
        client: Client,
        source: &'a dyn CredentialSource,
    ) -> Result<Self, AccessError> {
        let credential = source.credential().await?;
        Ok(Self {
            client,
            credentials: credential.credentials,
            source: Some(source),
            expires: credential.expires,
            container: credential.container,
        })
    }

    /// With credentials that do not end.
    pub(super) fn constant(
        client: Client,
        credentials: Arc<Credentials>,
        container: BuildContainer,
    ) -> Self {
        Self {
            client,
            credentials,
            source: None,
            expires: None,
            container,
        }
    }

    /// What the controller said last of the build container.
    pub(super) fn container(&self) -> &BuildContainer {
        &self.container
    }

    /// The registry does not take the credential. Whether another one may be taken: the controller may
    /// sign with another key since, and the registry hear of that key a moment later.
    fn is_refused(&mut self) -> bool {
        self.expires = Some(Timestamp::MIN);
        self.source.is_some()
    }

    /// Asks for a credential again if this one ends soon. The old one is used on if that fails: the
    /// registry says whether it is still good.
    async fn renew(&mut self, now: Timestamp) {
        let Some(source) = self.source else { return };
        if self
            .expires
            .is_none_or(|at| at.duration_since(now) > RENEWAL)
        {
            return;
        }
        match source.credential().await {
            Ok(StepCredential {
                credentials,
                expires,
                container,
            }) => {
                (self.credentials, self.expires) = (credentials, expires);
                self.container = container;
            }
            Err(error) => tracing::warn!(error = chain(&error), "the credential is not renewed"),
        }
    }
}

/// Bytes of the image's blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Sent over the network.
    pub(super) pushed: u64,
    /// Had by the registry, or mounted in it.
    pub(super) mounted: u64,
}

/// One repository that gets the image.
pub(super) struct Target<'a, 'g> {
    wanted: &'a Wanted,
    login: &'a mut Login<'g>,
    policy: RetryPolicy,
}

impl<'a, 'g> Target<'a, 'g> {
    /// This repository, which failures are retried at by this policy.
    pub(super) fn new(wanted: &'a Wanted, login: &'a mut Login<'g>, policy: RetryPolicy) -> Self {
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
    ) -> Result<Sent, PushError> {
        let moved = Arc::new(AtomicU64::new(0));
        for attempt in 1.. {
            let request = self.request(image, &moved).await;
            let error = match copier.copy(&request).await {
                Ok(done) => return Ok(sent(&done, moved.load(Ordering::Relaxed))),
                Err(error) => error,
            };
            let is_unauthorized = error.category() == Category::Unauthorized.as_str();
            let hope = self.hope(hope_of_copy(error.cause()), is_unauthorized);
            if !self.waits(attempt, hope, &chain(&error)).await {
                return Err(self.copy_error(error));
            }
        }
        unreachable!("the policy has a limit")
    }

    async fn request(&mut self, image: &BuiltImage, moved: &Arc<AtomicU64>) -> CopyRequest {
        let repository = self.client().await;
        let version = Version::Digest(image.digest());
        let moved = Arc::clone(moved);
        CopyRequest {
            source: image.site(),
            source_version: version.clone(),
            destination: CopySide::new(repository.into(), self.repository()),
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

    /// Attaches a provenance to the image, which is there.
    pub(super) async fn attach(
        &mut self,
        image: &BuiltImage,
        statement: &Value,
        now: Timestamp,
    ) -> Result<(), PushError> {
        let artifact = provenance::Artifact::new(image.manifest(), statement, now);
        self.write("the provenance", async |repository| {
            artifact.put(repository).await
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
        work: impl AsyncFn(&RepositoryClient) -> Result<(), Error>,
    ) -> Result<(), PushError> {
        for attempt in 1.. {
            let repository = self.client().await;
            let Err(source) = work(&repository).await else {
                return Ok(());
            };
            let is_unauthorized = source.category() == Category::Unauthorized;
            let hope = self.hope(hope_of_request(source.disposition()), is_unauthorized);
            if !self.waits(attempt, hope, &chain(&source)).await {
                return Err(PushError::Write {
                    repository: self.repository().to_string(),
                    what: what.to_owned(),
                    source,
                });
            }
        }
        unreachable!("the policy has a limit")
    }

    async fn client(&mut self) -> RepositoryClient {
        self.login.renew(Timestamp::now()).await;
        let credentials = Arc::clone(&self.login.credentials);
        self.login
            .client
            .repository(&self.wanted.repository, credentials)
    }

    /// How soon a failure may pass at the earliest, once more where another credential may help.
    fn hope(&mut self, hope: Option<Duration>, is_unauthorized: bool) -> Option<Duration> {
        let may_help = is_unauthorized && self.login.is_refused();
        hope.or_else(|| may_help.then_some(Duration::ZERO))
    }

    /// Waits until a failure may have passed. Whether it is worth another try.
    async fn waits(&self, attempt: u32, hope: Option<Duration>, error: &str) -> bool {
        let Some(wait) = next_wait(&self.policy, attempt, hope, rand::random()) else {
            return false;
        };
        tracing::warn!(
            repository = %self.repository(),
            error,
            seconds = wait.as_secs_f64(),
            "a push failed and is tried again"
        );
        tokio::time::sleep(wait).await;
        true
    }

    fn copy_error(&self, source: CopyError) -> PushError {
        PushError::Copy {
            repository: self.repository().to_string(),
            source,
        }
    }
}

/// How soon a failure of a copy may pass at the earliest; `None` if it does not pass meanwhile.
fn hope_of_copy(cause: Cause) -> Option<Duration> {
    match cause {
        cause if cause.ends_at_once() => None,
        Cause::After(asked) => Some(asked),
        _ => Some(Duration::ZERO),
    }
}

/// The same of a single request.
fn hope_of_request(disposition: Disposition) -> Option<Duration> {
    match disposition {
        Disposition::Retry => Some(Duration::ZERO),
        Disposition::RetryAfter(asked) => hope_of_copy(Cause::After(asked)),
        _ => None,
    }
}

/// How long to wait after the `attempt`-th failure; `None` if it is the last one.
fn next_wait(
    policy: &RetryPolicy,
    attempt: u32,
    hope: Option<Duration>,
    jitter: f64,
) -> Option<Duration> {
    let hope = hope.filter(|_| attempt < policy.limit)?;
    Some(policy.backoff(attempt, jitter).max(hope))
}

/// `moved` counts what was sent by attempts that failed, too.
fn sent(copied: &Copied, moved: u64) -> Sent {
    let all = copied.moved.saturating_add(copied.spared);
    Sent {
        pushed: moved,
        mounted: all.saturating_sub(moved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_as_often_as_the_policy_says_and_a_refusal_once() {
        let policy = RetryPolicy {
            limit: 3,
            max_backoff: Duration::from_secs(30),
        };
        let wait = |attempt, cause| next_wait(&policy, attempt, hope_of_copy(cause), 1.0);
        assert_eq!(wait(1, Cause::Transient), Some(Duration::from_secs(1)));
        assert_eq!(wait(2, Cause::Transient), Some(Duration::from_secs(2)));
        assert_eq!(wait(3, Cause::Transient), None);
        assert_eq!(wait(1, Cause::Refusal), None);
        let asked = Duration::from_secs(20);
        assert_eq!(wait(1, Cause::After(asked)), Some(asked));
        let day = Disposition::RetryAfter(Duration::from_hours(24));
        assert_eq!(hope_of_request(day), None);
    }
}
