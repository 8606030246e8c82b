//! Access to a registry with retries, and with a new credential if the controller gives one.

use std::sync::Arc;
use std::time::Duration;

use coral_distribution::{Category, Client, Credentials, Disposition, Error, RepositoryClient};
use coral_image::{Repository, error_chain};
use coral_mirror::{Cause, CopyError, RetryPolicy};
use jiff::{SignedDuration, Timestamp};

use crate::access::{AccessError, CredentialSource, StepCredential};
use crate::contract::BuildContainer;

/// How failures at the internal registry, which may be restarting, are retried.
pub(crate) const INTERNAL_RETRY: RetryPolicy = RetryPolicy {
    limit: 9,
    max_backoff: Duration::from_secs(30),
};

/// A credential is renewed when it is valid for less than this, so that requests that begin with it
/// can end.
const RENEWAL: SignedDuration = SignedDuration::from_mins(3);

/// How a registry is reached. A credential of the controller is valid for minutes and is then
/// requested again.
pub(crate) struct Login<'a> {
    client: Client,
    credentials: Arc<Credentials>,
    /// Where a new credential comes from when this one expires.
    source: Option<&'a dyn CredentialSource>,
    expires: Option<Timestamp>,
    container: BuildContainer,
}

impl<'a> Login<'a> {
    /// With credentials of the controller.
    pub(crate) async fn renewed(
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

    /// With credentials that do not expire.
    pub(crate) fn constant(
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

    /// The controller's last information about the build container.
    pub(crate) fn container(&self) -> &BuildContainer {
        &self.container
    }

    /// The repository's client, with the current credential.
    pub(crate) fn at(&self, repository: &Repository) -> RepositoryClient {
        let credentials = Arc::clone(&self.credentials);
        self.client.repository(repository, credentials)
    }

    /// Runs an operation at a repository, and retries it as long as the policy allows and the
    /// failure is transient or another credential may help.
    pub(crate) async fn again<T, E: Failure>(
        &mut self,
        repository: &Repository,
        policy: RetryPolicy,
        work: impl AsyncFn(RepositoryClient) -> Result<T, E>,
    ) -> Result<T, E> {
        for attempt in 1.. {
            self.renew(Timestamp::now()).await;
            let error = match work(self.at(repository)).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let Some(wait) = next_wait(&policy, attempt, self.retry_after(&error), rand::random())
            else {
                return Err(error);
            };
            tracing::warn!(
                %repository,
                error = error_chain(&error),
                seconds = wait.as_secs_f64(),
                "a request to a registry failed and is retried"
            );
            tokio::time::sleep(wait).await;
        }
        unreachable!("the policy has a limit")
    }

    /// How soon a retry may help at the earliest, including a retry with another credential.
    fn retry_after(&mut self, error: &impl Failure) -> Option<Duration> {
        let may_help = error.is_unauthorized() && self.is_refused();
        error
            .retry_after()
            .or_else(|| may_help.then_some(Duration::ZERO))
    }

    /// The registry refused the credential. Returns whether another one may be accepted: the
    /// controller may have a new signing key, and the registry may get that key a moment later.
    fn is_refused(&mut self) -> bool {
        self.expires = Some(Timestamp::MIN);
        self.source.is_some()
    }

    /// Requests a new credential if this one expires soon. If that fails, the old one stays in use:
    /// the registry says whether it is still valid.
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
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "the credential could not be renewed"
                );
            }
        }
    }
}

/// A failure at a registry.
pub(crate) trait Failure: std::error::Error + Sized + 'static {
    /// The minimum wait before a retry may succeed; `None` if no retry of the policy can succeed.
    fn retry_after(&self) -> Option<Duration>;

    /// Whether the registry refused the credential.
    fn is_unauthorized(&self) -> bool;
}

impl Failure for Error {
    fn retry_after(&self) -> Option<Duration> {
        retry_after_request(self.disposition())
    }

    fn is_unauthorized(&self) -> bool {
        self.category() == Category::Unauthorized
    }
}

impl Failure for CopyError {
    fn retry_after(&self) -> Option<Duration> {
        retry_after_copy(self.cause())
    }

    fn is_unauthorized(&self) -> bool {
        self.category() == Category::Unauthorized.as_str()
    }
}

/// The minimum wait before a retry of a copy may succeed; `None` if no retry of the policy can.
fn retry_after_copy(cause: Cause) -> Option<Duration> {
    match cause {
        cause if cause.ends_at_once() => None,
        Cause::After(asked) => Some(asked),
        _ => Some(Duration::ZERO),
    }
}

/// The same of a single request.
fn retry_after_request(disposition: Disposition) -> Option<Duration> {
    match disposition {
        Disposition::Retry => Some(Duration::ZERO),
        Disposition::RetryAfter(asked) => retry_after_copy(Cause::After(asked)),
        _ => None,
    }
}

/// How long to wait after the `attempt`-th failure; `None` if it is the last one.
fn next_wait(
    policy: &RetryPolicy,
    attempt: u32,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Option<Duration> {
    let retry_after = retry_after.filter(|_| attempt < policy.limit)?;
    Some(policy.backoff(attempt, jitter).max(retry_after))
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
        let wait = |attempt, cause| next_wait(&policy, attempt, retry_after_copy(cause), 1.0);
        assert_eq!(wait(1, Cause::Transient), Some(Duration::from_secs(1)));
        assert_eq!(wait(2, Cause::Transient), Some(Duration::from_secs(2)));
        assert_eq!(wait(3, Cause::Transient), None);
        assert_eq!(wait(1, Cause::Refusal), None);
        let asked = Duration::from_secs(20);
        assert_eq!(wait(1, Cause::After(asked)), Some(asked));
        let day = Disposition::RetryAfter(Duration::from_hours(24));
        assert_eq!(retry_after_request(day), None);
    }
}
