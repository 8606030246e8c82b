//! Pushing one blob.

use crate::blob_stream::BlobStream;
use crate::error::Error;

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
pub struct Upload {}

impl Upload {
    /// Sends all `size` bytes in one request and ends the upload.
    pub async fn put(self, size: u64, body: BlobStream) -> Result<(), Error> {
        todo!("{size} {body:?}")
    }

    /// Sends the bytes in pieces of about `chunk` bytes (more if the other side asks for more)
    /// and ends the upload.
    pub async fn put_chunked(self, chunk: usize, body: BlobStream) -> Result<(), Error> {
        todo!("{chunk} {body:?}")
    }

    /// Gives the upload up at the other side.
    pub async fn cancel(self) -> Result<(), Error> {
        todo!()
    }
}
