//! Writing one blob into a layout.

use coral_image::Digest;
use futures::StreamExt;

use super::beneath::LayoutFiles;
use super::files::{NewFile, blob_file};
use crate::blob_stream::BlobStream;
use crate::error::{Error, Problem};

/// A blob to be written.
#[derive(Debug)]
pub(crate) struct LayoutUpload {
    dir: LayoutFiles,
    digest: Digest,
}

impl LayoutUpload {
    pub(super) fn new(dir: LayoutFiles, digest: Digest) -> Self {
        Self { dir, digest }
    }

    /// Writes all bytes; their digest must match.
    pub(crate) async fn put(self, mut body: BlobStream) -> Result<(), Error> {
        let fail = |problem| {
            Error::new(
                self.dir.folder().display(),
                format_args!("writing blob {}", self.digest),
                problem,
            )
        };
        let mut file = NewFile::create(&self.dir, &blob_file(&self.digest))
            .await
            .map_err(fail)?;
        let mut hasher = self.digest.algorithm().hasher();
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            hasher.update(&bytes);
            file.write(&bytes).await.map_err(fail)?;
        }
        let actual = hasher.finish();
        if actual != self.digest {
            return Err(fail(Problem::digest(self.digest, actual)));
        }
        file.publish().await.map_err(fail)
    }
}
