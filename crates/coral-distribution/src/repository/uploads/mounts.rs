//! Mounts that fail.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use coral_image::{Digest, Repository};

use super::super::manifests::DOCKER_CONTENT_DIGEST;
use crate::error::{Category, Error, Problem};
use crate::transport::Response;

/// More are not remembered: what is forgotten is asked for as a mount again.
const MAX: usize = 4096;

/// Blobs whose mount was answered with 429, by the repository that they are pushed to. The next
/// push of one, which comes after the wait that the registry asked for, asks for no mount: a
/// registry may throttle mounts and take uploads.
#[derive(Debug, Default)]
pub(crate) struct ThrottledMounts(Mutex<HashSet<(Repository, Digest)>>);

impl ThrottledMounts {
    /// A mount was put off.
    pub(super) fn note(&self, repository: &Repository, digest: &Digest) {
        let mut noted = self.noted();
        if noted.len() < MAX {
            noted.insert((repository.clone(), *digest));
        }
    }

    /// Whether the mount was put off the time before. It returns `true` once.
    pub(super) fn take(&self, repository: &Repository, digest: &Digest) -> bool {
        let mut noted = self.noted();
        !noted.is_empty() && noted.remove(&(repository.clone(), *digest))
    }

    fn noted(&self) -> MutexGuard<'_, HashSet<(Repository, Digest)>> {
        // Every change leaves the set consistent, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an upload may be taken where a mount failed: however the registry says no, and however
/// it breaks. One that is not reached is not reached for an upload either.
pub(super) fn upload_may_help(error: &Error) -> bool {
    use Category::{Connect, Dns, Options, RateLimited, Storage, Tls};
    !matches!(
        error.category(),
        Dns | Connect | Tls | RateLimited | Storage | Options
    )
}

/// Checks an answer which says that the blob exists: only a mount may get it, and it must not name
/// another digest. The blob is not sent after it.
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
