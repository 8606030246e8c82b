//! Writing one blob into a layout.

use std::path::PathBuf;

use coral_image::Digest;
use futures::StreamExt;

use super::files::{self, NewFile};
use crate::blob_stream::BlobStream;
use crate::error::{Error, Problem};

/// A blob that is to be written.
#[derive(Debug)]
pub(crate) struct LayoutUpload {
    dir: PathBuf,
    digest: Digest,
}

impl LayoutUpload {
    pub(super) fn new(dir: PathBuf, digest: Digest) -> Self {
        Self { dir, digest }
    }

    /// Writes all bytes; they must hash to the digest.
    pub(crate) async fn put(self, mut body: BlobStream) -> Result<(), Error> {
        let fail = |problem| {
            Error::new(
                self.dir.display(),
                format_args!("writing blob {}", self.digest),
                problem,
            )
        };
        let target = files::blob_path(&self.dir, &self.digest);
        let mut file = NewFile::create(&target).await.map_err(fail)?;
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
