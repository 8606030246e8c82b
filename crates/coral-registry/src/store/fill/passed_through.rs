//! Blobs that clients are sent without being stored.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use coral_distribution::{BlobSource, BlobStream, RepositoryClient};
use coral_image::Descriptor;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryFutureExt as _, TryStreamExt as _};

use crate::store::{BlobContent, BlobHandle, BlobReader, StoreError};

/// A blob that is not stored, because there is no room for it.
pub(super) fn passed_through(upstream: RepositoryClient, blob: Descriptor) -> BlobHandle {
    let size = blob.size;
    let content = BlobContent::Stream(Arc::new(PassedThrough { upstream, blob }));
    BlobHandle { size, content }
}

#[derive(Debug)]
struct PassedThrough {
    upstream: RepositoryClient,
    blob: Descriptor,
}

impl BlobReader for PassedThrough {
    fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let (upstream, blob) = (self.upstream.clone(), self.blob.clone());
        let open = async move {
            let opened: Result<BlobStream, _> = if range.start == 0 {
                BlobSource::new(upstream.into(), blob).read().await
            } else {
                upstream.blob(&blob, range.start).await
            };
            opened.map_err(|error| StoreError::Upstream(Box::new(error.into())))
        };
        let pieces = open
            .map_ok(|stream| stream.map_err(|error| StoreError::Upstream(Box::new(error.into()))));
        pieces.try_flatten_stream().boxed()
    }
}
