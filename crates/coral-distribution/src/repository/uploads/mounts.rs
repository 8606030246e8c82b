//! Handles mounts that fail.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coral_image::{Digest, Repository};

use super::super::manifests::DOCKER_CONTENT_DIGEST;
use crate::error::{Category, Error, Problem};
use crate::transport::Response;

/// Most blobs that are remembered; a forgotten one is requested as a mount again.
const MAX: usize = 4096;

/// Blobs whose mount was answered with 429, by the repository that they are pushed to. Their next
/// push, which comes after the wait that the registry asked for, does not request a mount: a
/// registry may throttle mounts but accept uploads.
#[derive(Debug, Default)]
pub(crate) struct ThrottledMounts(Mutex<HashSet<(Repository, Digest)>>);

impl ThrottledMounts {
    /// Records that a mount was throttled.
    pub(super) fn note(&self, repository: &Repository, digest: &Digest) {
        let mut noted = self.noted();
        if noted.len() < MAX {
            noted.insert((repository.clone(), *digest));
        }
    }

    /// Whether the last mount was throttled. It returns `true` once.
    pub(super) fn take(&self, repository: &Repository, digest: &Digest) -> bool {
        let mut noted = self.noted();
        !noted.is_empty() && noted.remove(&(repository.clone(), *digest))
    }

    fn noted(&self) -> MutexGuard<'_, HashSet<(Repository, Digest)>> {
        // Every change leaves the set consistent, so a panic elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an upload may succeed after a mount failed, whatever refusal or failure the registry
/// reported. A registry that cannot be reached cannot be reached for an upload either.
pub(super) fn upload_may_help(error: &Error) -> bool {
    use Category::{Connect, Dns, Options, RateLimited, Storage, Tls};
    !matches!(
        error.category(),
        Dns | Connect | Tls | RateLimited | Storage | Options
    )
}

/// Checks an answer which says that the blob exists. Only a mount may be answered so, and the
/// answer must not name another digest. The blob is not sent afterwards.
pub(super) fn check_mounted(
    response: &Response,
    digest: &Digest,
    is_mount: bool,
) -> Result<(), Error> {
    if !is_mount {
        let text = "it claims to have the blob before any of its bytes arrived";
        return Err(response.error(Problem::protocol(text)));
    }
    let named = response.header(DOCKER_CONTENT_DIGEST);
    let named = named.and_then(|value| Digest::parse(value.trim()).ok());
    match named.filter(|it| it.algorithm() == digest.algorithm() && it != digest) {
        Some(other) => {
            let text = format!("it has mounted {other} instead of {digest}");
            Err(response.error(Problem::Protocol(text)))
        }
        None => Ok(()),
    }
}
