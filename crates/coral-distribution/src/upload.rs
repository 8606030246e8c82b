//! Pushing one blob.

use crate::blob_stream::BlobStream;
use crate::error::Error;
use crate::layout::LayoutUpload;
use crate::repository::RegistryUpload;

/// What came of asking for a push.
#[derive(Debug)]
pub enum BlobPush {
    /// The blob is there: nothing is to be sent.
    Mounted,
    /// The bytes are wanted.
    Upload(Upload),
}

/// An upload that has begun. Dropped without an end, it is left to the other side's cleaning.
#[derive(Debug)]
pub struct Upload(Target);

#[derive(Debug)]
enum Target {
    Registry(Box<RegistryUpload>),
    Layout(LayoutUpload),
}

impl From<RegistryUpload> for Upload {
    fn from(upload: RegistryUpload) -> Self {
        Self(Target::Registry(Box::new(upload)))
    }
}

impl From<LayoutUpload> for Upload {
    fn from(upload: LayoutUpload) -> Self {
        Self(Target::Layout(upload))
    }
}

impl Upload {
    /// Sends all `size` bytes in one request and ends the upload. An error of `body` is returned
    /// as it is.
    pub async fn put(self, size: u64, body: BlobStream) -> Result<(), Error> {
        match self.0 {
            Target::Registry(upload) => upload.put(size, body).await,
            Target::Layout(upload) => upload.put(body).await,
        }
    }

    /// Sends the bytes in pieces of `chunk` bytes (more if the other side asks for more), each
    /// held in memory, and ends the upload.
    pub async fn put_chunked(self, chunk: usize, body: BlobStream) -> Result<(), Error> {
        match self.0 {
            Target::Registry(upload) => upload.put_chunked(chunk, body).await,
            Target::Layout(upload) => upload.put(body).await,
        }
    }

    /// Gives the upload up at the other side.
    pub async fn cancel(self) -> Result<(), Error> {
        match self.0 {
            Target::Registry(upload) => upload.cancel().await,
            Target::Layout(_) => Ok(()),
        }
    }
}
