//! Gets a blob to the destination without sending its bytes: the attempts before an upload.

use coral_distribution::{BlobPush, Upload};
use coral_image::{Descriptor, RepositoryPath};

use super::catalogue::{FirstPush, MountHints, PushPreparation};
use super::error::Side;
use super::{CopyError, CopyRequest};

/// What is known about mounting a blob before it is pushed.
pub(super) enum MountFrom {
    /// It is sent, whatever the destination claims to have.
    Nowhere,
    /// The source has it, and so has this repository of the destination.
    At(RepositoryPath),
    /// Nothing is known. This is the repository that it is pushed to.
    Unknown(RepositoryPath),
}

/// Looks for a blob with an unknown location in other images of the mirror, unless the registry
/// itself hints where it has a blob. The first push finds out whether it does.
pub(super) async fn look<'r>(
    request: &'r CopyRequest,
    blob: &Descriptor,
    mount_from: MountFrom,
) -> (MountFrom, Option<FirstPush<'r>>) {
    let (MountFrom::Unknown(_), Some(candidates)) = (&mount_from, &request.destination.candidates)
    else {
        return (mount_from, None);
    };
    match candidates.before_push().await {
        PushPreparation::Nothing => (mount_from, None),
        PushPreparation::SearchCatalogue => {
            let other = find(request, blob).await;
            (other.map_or(mount_from, MountFrom::At), None)
        }
        PushPreparation::Push(first) => (mount_from, Some(first)),
    }
}

impl FirstPush<'_> {
    /// Records the registry's answer; returns whether it gives no hints.
    pub(super) fn gets_no_hints(self, upload: &Upload) -> bool {
        let gives_hints = upload.reports_mountable_blobs();
        self.answered(if gives_hints {
            MountHints::Given
        } else {
            MountHints::Absent
        });
        !gives_hints
    }
}

/// A repository of the destination that has the blob, if the source has it too.
pub(super) async fn find(request: &CopyRequest, blob: &Descriptor) -> Option<RepositoryPath> {
    let candidates = request.destination.candidates.as_ref()?;
    let source = &request.source.registry;
    let other = candidates.find(source, &blob.digest).await?;
    let is_own = request.destination.path.as_ref() == Some(&other);
    (!is_own && source_has(request, blob).await).then_some(other)
}

/// Asks the destination for the blob, in the cheapest way possible.
pub(super) async fn begin(
    request: &CopyRequest,
    blob: &Descriptor,
    mount_from: &MountFrom,
) -> Result<BlobPush, CopyError> {
    let mount_from = match mount_from {
        MountFrom::Nowhere => None,
        // A mount from the same repository finds the blob without an extra request.
        MountFrom::At(path) | MountFrom::Unknown(path) => Some(path),
    };
    let failed = |e| CopyError::at(Side::Destination, e);
    let endpoint = &request.destination.endpoint;
    let begun = endpoint.begin_blob(&blob.digest, mount_from).await;
    match begun.map_err(failed)? {
        BlobPush::Upload(upload)
            if mount_from.is_some() && upload.is_elsewhere() && source_has(request, blob).await =>
        {
            upload.mount().await.map_err(failed)
        }
        begun => Ok(begun),
    }
}

/// Whether the source itself has this blob, in this size. If it cannot be asked, it counts as not
/// having it: what it sends will be verified.
pub(super) async fn source_has(request: &CopyRequest, blob: &Descriptor) -> bool {
    let source = &request.source;
    let size = source.ask(|| source.endpoint.blob_size(&blob.digest)).await;
    matches!(size, Ok(Some(size)) if size == blob.size)
}
