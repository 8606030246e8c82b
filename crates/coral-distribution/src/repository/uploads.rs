//! Pushes blobs to a registry.

mod mounts;
mod remembered;
mod resume;

use bytes::{Bytes, BytesMut};
use coral_image::{Digest, RepositoryPath};
use futures::StreamExt;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use url::Url;

use super::{Call, RepositoryClient, TokenScope, expect};
use crate::abandoned::CANCEL_TIMEOUT;
use crate::auth::{AuthRequest, KnownAuthorizations};
use crate::blob_stream::BlobStream;
use crate::error::{Category, Error, Problem};
use crate::location;
use crate::open_uploads::UploadRecord;
use crate::transport::{Body, Request, Response};
use crate::upload::{BlobPush, Upload};

pub(crate) use mounts::ThrottledMounts;
use mounts::{check_mounted, upload_may_help};

const OCI_CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";
/// Coral's registry sends this header with the uploads that it accepts: it verifies the digest
/// before the blob becomes visible.
const CORAL_VERIFIES: &str = "coral-verifies-digest";
/// Coral's registry sends this header if the blob was not in the repository to mount from, but is
/// in another one that the client may read.
const CORAL_ELSEWHERE: &str = "coral-blob-elsewhere";
/// Largest chunk in bytes: chunks are held in record, so a larger size that a registry asks for is
/// ignored.
const MAX_CHUNK: usize = 64 * 1024 * 1024;

/// An upload that a registry has accepted. If it is dropped while open, it is cancelled at the
/// registry.
#[derive(Debug)]
pub(crate) struct RegistryUpload {
    client: RepositoryClient,
    digest: Digest,
    location: Url,
    min_chunk: usize,
    /// Whether the registry verifies the digest, so that the client need not.
    verifies: bool,
    /// Whether another repository of the registry has the blob.
    elsewhere: bool,
    state: UploadState,
    /// Bytes that an earlier process has sent.
    sent: u64,
    /// The stored state that the next process finds if this one ends before the upload does.
    record: Option<UploadRecord>,
}

/// Whether an upload takes space at the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadState {
    Open,
    /// The upload is finished, cancelled, or lost by the registry.
    Ended,
}

impl RepositoryClient {
    /// Starts to push a blob, or mounts it from a repository of the same registry, which may be
    /// this one if it has the blob already. Without a repository to mount from, the blob is sent
    /// whether or not the registry claims to have it. If a registry does not mount, an upload is
    /// requested at once; if it throttles the mount, the next push requests an upload.
    pub async fn begin_blob(
        &self,
        digest: &Digest,
        mount_from: Option<&RepositoryPath>,
    ) -> Result<BlobPush, Error> {
        let Some((record, remembered)) = self.take_record(digest) else {
            return self.restart(digest, mount_from).await.map(into_push);
        };
        if let Some(remembered) = remembered
            && let Some(upload) = self.resume_recorded(digest, &record, &remembered).await
        {
            return Ok(into_push(Some(upload.remembered_by(record))));
        }
        let begun = self.restart(digest, mount_from).await?;
        Ok(into_push(begun.map(|upload| upload.remembered_by(record))))
    }

    async fn restart(
        &self,
        digest: &Digest,
        mount_from: Option<&RepositoryPath>,
    ) -> Result<Option<RegistryUpload>, Error> {
        let Some(from) = mount_from else {
            return self.post_upload(digest, PostRequest::Upload).await;
        };
        if self.throttled_mounts.take(&self.repository, digest) {
            return self.post_upload(digest, PostRequest::Upload).await;
        }
        match self.post_upload(digest, PostRequest::Mount { from }).await {
            Err(error) if error.category() == Category::RateLimited => {
                self.throttled_mounts.note(&self.repository, digest);
                Err(error)
            }
            Err(error) if upload_may_help(&error) => {
                self.post_upload(digest, PostRequest::Upload).await
            }
            other => other,
        }
    }

    /// Requests an upload; the result has none if the registry has the blob already. The answer is
    /// awaited even if the caller is gone, because only the answer says which upload has to be
    /// cancelled.
    async fn post_upload(
        &self,
        digest: &Digest,
        request: PostRequest<'_>,
    ) -> Result<Option<RegistryUpload>, Error> {
        let ask = self.upload_request(digest, request)?;
        let (client, digest) = (self.clone(), *digest);
        let is_mount = !matches!(request, PostRequest::Upload);
        let asking = async move { client.new_upload(digest, ask, is_mount).await };
        self.abandoned.run_to_completion(asking).await
    }

    fn upload_request(
        &self,
        digest: &Digest,
        request: PostRequest<'_>,
    ) -> Result<AuthRequest, Error> {
        let mut ask = self.ask(Call {
            method: Method::POST,
            path: "blobs/uploads/".to_owned(),
            access: TokenScope::Push,
            asked: format_args!("{}", self.pushing(digest)),
        })?;
        if let PostRequest::Mount { .. } | PostRequest::MountFromAnywhere = request {
            ask.url
                .query_pairs_mut()
                .append_pair("mount", &digest.to_string());
        }
        if let PostRequest::Mount { from } = request {
            ask.url.query_pairs_mut().append_pair("from", from.as_str());
            ask.scopes.push(format!("repository:{from}:pull"));
        }
        Ok(ask)
    }

    async fn new_upload(
        &self,
        digest: Digest,
        ask: AuthRequest,
        is_mount: bool,
    ) -> Result<Option<RegistryUpload>, Error> {
        let response = expect(self.session.send(ask).await?, &[201, 202]).await?;
        if response.status() == 201 {
            check_mounted(&response, &digest, is_mount)?;
            return Ok(None);
        }
        let min_chunk = response
            .header(OCI_CHUNK_MIN_LENGTH)
            .and_then(|v| v.trim().parse().ok());
        let location = self.next_location(&response, response.url())?;
        Ok(Some(RegistryUpload {
            client: self.clone(),
            digest,
            location: location.ok_or_else(|| no_location(&response))?,
            min_chunk: min_chunk.unwrap_or(0).min(MAX_CHUNK),
            verifies: response.header(CORAL_VERIFIES).is_some(),
            elsewhere: response.header(CORAL_ELSEWHERE).is_some(),
            state: UploadState::Open,
            sent: 0,
            record: None,
        }))
    }

    fn next_location(&self, response: &Response, base: &Url) -> Result<Option<Url>, Error> {
        let Some(text) = response.header(LOCATION) else {
            return Ok(None);
        };
        let target =
            location::join(base, text).map_err(|text| response.error(Problem::Protocol(text)))?;
        self.session
            .transport
            .check_downgrade(base, &target)
            .map_err(|problem| response.error(problem))?;
        Ok(Some(target))
    }

    fn pushing(&self, digest: &Digest) -> String {
        format!("pushing blob {digest} to {}", self.repository.path())
    }
}

/// What a `POST` asks for.
#[derive(Clone, Copy)]
enum PostRequest<'a> {
    /// The blob from this repository if it has it, otherwise an upload.
    Mount { from: &'a RepositoryPath },
    /// The blob from any repository that has it, otherwise an upload.
    MountFromAnywhere,
    /// An upload.
    Upload,
}

fn into_push(upload: Option<RegistryUpload>) -> BlobPush {
    upload.map_or(BlobPush::Mounted, |upload| {
        BlobPush::Upload(Upload::from(upload))
    })
}

fn no_location(response: &Response) -> Error {
    response.error(Problem::protocol(
        "the upload was accepted without a Location",
    ))
}

impl RegistryUpload {
    /// Whether the registry is Coral's, which verifies digests and reports blobs that other
    /// repositories have.
    pub(crate) fn is_coral(&self) -> bool {
        self.verifies
    }

    /// Whether another repository of the registry has the blob, so that it could be mounted.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    /// Mounts the blob from any repository that has it; this upload is then cancelled. If the mount
    /// fails, this upload continues.
    pub(crate) async fn mount(self) -> Result<BlobPush, Error> {
        let request = PostRequest::MountFromAnywhere;
        match self.client.post_upload(&self.digest, request).await {
            Err(error) if upload_may_help(&error) => Ok(into_push(Some(self))),
            other => other.map(into_push),
        }
    }

    /// Sends all bytes in one request and completes the upload.
    pub(crate) async fn put(mut self, size: u64, body: BlobStream) -> Result<(), Error> {
        self.restart_from_zero().await?;
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let ended = self.finish(headers, Body::Stream(size, body)).await;
        self.clean_up_after(ended).await
    }

    /// Sends chunks of `chunk` bytes, more if the registry asks for more, and completes the upload.
    pub(crate) async fn put_chunked(mut self, chunk: usize, body: BlobStream) -> Result<(), Error> {
        self.restart_from_zero().await?;
        let ended = self.send_chunks(chunk, body).await;
        self.clean_up_after(ended).await
    }

    async fn send_chunks(&mut self, chunk: usize, mut body: BlobStream) -> Result<(), Error> {
        let chunk = chunk.clamp(1, MAX_CHUNK).max(self.min_chunk);
        let mut waiting = BytesMut::new();
        let mut sent = 0;
        while let Some(bytes) = body.next().await {
            waiting.extend_from_slice(&bytes?);
            while waiting.len() >= chunk {
                sent = self.patch(sent, waiting.split_to(chunk).freeze()).await?;
            }
        }
        if !waiting.is_empty() {
            self.patch(sent, waiting.freeze()).await?;
        }
        self.finish(HeaderMap::new(), Body::Empty).await
    }

    async fn clean_up_after(mut self, ended: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = &ended {
            self.clean_up(error).await;
        }
        ended
    }

    /// Cancels a failed upload, so that it takes no space at the registry until it expires. If the
    /// registry cannot be reached, the upload is left open and may be resumed later.
    async fn clean_up(&mut self, error: &Error) {
        use Category::{Connect, Dns, NotFound, Timeout, Tls};
        match error.category() {
            Dns | Connect | Tls | Timeout if self.is_left_for_next_process() => {
                self.state = UploadState::Ended;
            }
            Dns | Connect | Tls | Timeout | NotFound => self.end(),
            _ => self.give_up().await,
        }
    }

    async fn give_up(&mut self) {
        // Only the failure of the push matters; usually the other side has already cleaned up.
        let _ = tokio::time::timeout(CANCEL_TIMEOUT, self.delete()).await;
        self.end();
    }

    /// Marks the upload as ended, so that it is not resumed.
    fn end(&mut self) {
        self.state = UploadState::Ended;
        if let Some(record) = self.record.take() {
            record.forget();
        }
    }

    /// Cancels the upload. An upload that is already gone is not an error.
    pub(crate) async fn cancel(mut self) -> Result<(), Error> {
        let cancelled = self.delete().await;
        self.end();
        cancelled
    }

    async fn delete(&self) -> Result<(), Error> {
        let response = self.send(
            Method::DELETE,
            self.location.clone(),
            HeaderMap::new(),
            Body::Empty,
        );
        expect(response.await?, &[200, 202, 204, 404])
            .await
            .map(drop)
    }

    /// Sends one chunk. Returns how many bytes the registry has now.
    async fn patch(&mut self, start: u64, bytes: Bytes) -> Result<u64, Error> {
        let next = start + bytes.len() as u64;
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let range = HeaderValue::from_str(&format!("{start}-{}", next - 1));
        headers.insert(
            CONTENT_RANGE,
            range.expect("digits and a dash can stand in a header"),
        );
        let sent = self.send(
            Method::PATCH,
            self.location.clone(),
            headers,
            Body::Bytes(bytes),
        );
        let response = expect(sent.await?, &[202, 204])
            .await
            .map_err(Error::for_open_upload)?;
        if let Some(there) = response.header(RANGE).and_then(stored)
            && there != next
        {
            let text = format!("{next} bytes were sent, but it claims to have {there}");
            return Err(response.error(Problem::Protocol(text)));
        }
        if let Some(location) = self.client.next_location(&response, &self.location)? {
            self.location = location;
        }
        Ok(next)
    }

    async fn finish(&mut self, headers: HeaderMap, body: Body) -> Result<(), Error> {
        let mut url = self.location.clone();
        url.query_pairs_mut()
            .append_pair("digest", &self.digest.to_string());
        let response = self.send(Method::PUT, url, headers, body).await?;
        expect(response, &[200, 201, 204])
            .await
            .map_err(Error::for_open_upload)?;
        self.end();
        Ok(())
    }

    /// Sends a request with the registry's credentials at its own origin, and with none if the
    /// upload's URL is at another origin.
    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response, Error> {
        let client = &self.client;
        let asked = client.pushing(&self.digest);
        let own = client.url("", format_args!("{asked}"))?;
        if location::same_origin(&own, &url) {
            let scopes = vec![client.scope(TokenScope::Push)];
            return client
                .session
                .send(AuthRequest {
                    method,
                    url,
                    headers,
                    body,
                    scopes,
                    asked,
                    attempts: 0,
                })
                .await;
        }
        let request = Request {
            method,
            url,
            headers,
            authorization: None,
            body,
            asked,
            attempt: 1,
            elsewhere: KnownAuthorizations::new(),
        };
        client.session.transport.send(request).await
    }
}

impl Drop for RegistryUpload {
    fn drop(&mut self) {
        if self.state == UploadState::Ended || self.is_left_for_next_process() {
            return;
        }
        if let Some(record) = self.record.take() {
            record.forget();
        }
        // This copy counts as ended, so that dropping it does not cancel the upload.
        let copy = Self {
            client: self.client.clone(),
            digest: self.digest,
            location: self.location.clone(),
            min_chunk: self.min_chunk,
            verifies: self.verifies,
            elsewhere: self.elsewhere,
            state: UploadState::Ended,
            sent: 0,
            record: None,
        };
        let abandoned = &self.client.abandoned;
        abandoned.cancel_in_background(async move {
            // The caller is gone; the registry removes abandoned uploads in time.
            let _ = copy.delete().await;
        });
    }
}

/// Parses `Range: 0-99` or `bytes=0-99`: 100 bytes are stored.
pub(super) fn stored(text: &str) -> Option<u64> {
    let range = text.trim().trim_start_matches("bytes=");
    let (start, end) = range.split_once('-')?;
    let end: u64 = end.trim().parse().ok()?;
    // Some registries write 0-0 when nothing is stored, which looks like one byte.
    let stored = end.checked_add(1)?;
    (start.trim() == "0" && end > 0).then_some(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_range_is_read_leniently() {
        assert_eq!(stored("0-99"), Some(100));
        assert_eq!(stored("bytes=0-99"), Some(100));
        for unclear in ["0-0", "0--1", "5-99", "", "99", "0-18446744073709551615"] {
            assert_eq!(stored(unclear), None, "{unclear}");
        }
    }
}
