//! Resumes an interrupted upload at the offset that the registry reports.

use http::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method};

use super::{PostRequest, RegistryUpload, UploadState, stored};
use crate::blob_source::{BlobSource, Check};
use crate::error::{Category, Disposition, Error};
use crate::resume::Resumes;
use crate::transport::Body;
use crate::upload::{BlobPushError, Tail};

/// The progress of an interrupted upload.
enum Progress {
    /// The registry has this many bytes.
    At(u64),
    /// The registry has the complete blob: only the answer that said so was lost.
    Done,
}

impl RegistryUpload {
    /// Sends a blob in one request and, after an interruption, the missing bytes in another one.
    pub(crate) async fn put_from(mut self, source: &BlobSource) -> Result<(), BlobPushError> {
        let failed = match self.try_to_put(source).await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        match &failed {
            // This says nothing about the registry that has the upload.
            BlobPushError::Source(_) => self.give_up().await,
            BlobPushError::Destination(error) => self.clean_up(error).await,
        }
        Err(failed)
    }

    /// If the registry verifies the digest itself, the bytes are not hashed here too. If it reports
    /// a mismatch, they are sent once more and hashed, which shows which side is to blame.
    async fn try_to_put(&mut self, source: &BlobSource) -> Result<(), BlobPushError> {
        if !self.verifies {
            return self.put_whole(source, Check::Digest).await;
        }
        let refused = match self.put_whole(source, Check::Length).await {
            Err(BlobPushError::Destination(error)) if error.status() == Some(400) => error,
            other => return other,
        };
        tracing::info!(error = %refused, "an upload was refused and is sent again");
        match self
            .client
            .post_upload(&self.digest, PostRequest::Upload)
            .await
        {
            Ok(Some(new)) => self.replace_with(new),
            Ok(None) => {
                self.end();
                return Ok(());
            }
            Err(_) => return Err(BlobPushError::Destination(refused)),
        }
        self.put_whole(source, Check::Digest).await
    }

    async fn put_whole(&mut self, source: &BlobSource, check: Check) -> Result<(), BlobPushError> {
        let mut resumes = Resumes::default();
        let size = source.blob().size;
        let mut offset = std::mem::take(&mut self.sent);
        if offset > size {
            // The stored bytes are not those of this blob.
            self.give_up().await;
            match self
                .client
                .post_upload(&self.digest, PostRequest::Upload)
                .await
            {
                Ok(Some(new)) => self.replace_with(new),
                Ok(None) => return Ok(()),
                Err(error) => return Err(BlobPushError::Destination(error)),
            }
            offset = 0;
        }
        loop {
            let failed = match self.put_rest(source, offset, check).await {
                Err(BlobPushError::Destination(error)) if may_resume(&error) => error,
                other => return other,
            };
            let Some(wait) = resumes.next(offset) else {
                return Err(BlobPushError::Destination(failed));
            };
            tracing::info!(error = %failed, "an upload was interrupted and resumes");
            tokio::time::sleep(wait).await;
            offset = match self.progress(source.blob().size).await {
                Ok(Progress::At(there)) => there,
                Ok(Progress::Done) => {
                    self.end();
                    return Ok(());
                }
                // The error that interrupted the upload is more useful than that of the request for
                // its progress.
                Err(_) => return Err(BlobPushError::Destination(failed)),
            };
        }
    }

    async fn put_rest(
        &mut self,
        source: &BlobSource,
        offset: u64,
        check: Check,
    ) -> Result<(), BlobPushError> {
        let size = source.blob().size;
        let (body, end) = Tail::open(source, offset, check).await?.watched();
        let body = Body::Stream(size - offset, body);
        let ended = self.finish(headers(offset, size), body).await;
        ended.map_err(|error| end.blame(error))
    }

    /// Asks for the progress of the upload. An empty or unknown upload starts over.
    async fn progress(&mut self, size: u64) -> Result<Progress, Error> {
        let url = self.location.clone();
        let response = self.send(Method::GET, url, HeaderMap::new(), Body::Empty);
        let response = response.await?;
        if response.status().is_success()
            && let Some(there) = response.header(RANGE).and_then(stored)
            && there <= size
        {
            if let Some(location) = self.client.next_location(&response, &self.location)? {
                self.location = location;
            }
            return Ok(Progress::At(there));
        }
        let unknown = matches!(response.status().as_u16(), 404 | 410);
        if unknown {
            self.state = UploadState::Ended;
        }
        if unknown && self.client.blob_size(&self.digest).await? == Some(size) {
            return Ok(Progress::Done);
        }
        match self
            .client
            .post_upload(&self.digest, PostRequest::Upload)
            .await?
        {
            None => Ok(Progress::Done),
            Some(new) => {
                self.replace_with(new);
                Ok(Progress::At(0))
            }
        }
    }
}

/// A partial request names its offset, so that bytes of a request that was believed dead cannot be
/// counted twice.
fn headers(offset: u64, size: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, octets);
    if offset > 0 && offset < size {
        let range = HeaderValue::from_str(&format!("{offset}-{}", size - 1));
        headers.insert(
            CONTENT_RANGE,
            range.expect("digits and a dash can stand in a header"),
        );
    }
    headers
}

/// Whether to resume: after no answer, an answer of a gateway in between, or one that asks to begin
/// again. Refusals by the registry itself are left to the code that retries whole copies.
fn may_resume(error: &Error) -> bool {
    use Category::{Connect, Cut, Dns, NotFound, Refused, Timeout, Unauthorized};
    let again = error.disposition() == Disposition::Retry;
    again
        && (matches!(error.status(), Some(502 | 504))
            || matches!(
                error.category(),
                Connect | Cut | Dns | Timeout | NotFound | Refused | Unauthorized
            ))
}
