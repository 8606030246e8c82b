//! Uploads that are resumed after a restart of the process.

use coral_image::Digest;
use http::header::RANGE;
use http::{HeaderMap, Method};
use url::{Position, Url};

use super::{PostRequest, RegistryUpload, UploadState, stored};
use crate::error::{Error, Problem};
use crate::location;
use crate::open_uploads::{RecordedUpload, UploadRecord};
use crate::repository::RepositoryClient;
use crate::transport::Body;

impl RepositoryClient {
    /// Takes the stored state of this blob's upload, if the client stores uploads.
    pub(super) fn take_record(
        &self,
        digest: &Digest,
    ) -> Option<(UploadRecord, Option<RecordedUpload>)> {
        let uploads = self.open_uploads.as_ref()?;
        uploads.take(&self.repository, digest)
    }

    /// Resumes an upload of an earlier process, if the registry reports its progress. If the
    /// registry does not verify digests, the upload is cancelled, because its bytes would have to
    /// be read again.
    pub(super) async fn resume_recorded(
        &self,
        digest: &Digest,
        record: &UploadRecord,
        remembered: &RecordedUpload,
    ) -> Option<RegistryUpload> {
        let location = self.origin().ok()?.join(&remembered.location).ok()?;
        let mut upload = RegistryUpload {
            client: self.clone(),
            digest: *digest,
            location,
            min_chunk: 0,
            verifies: remembered.verifies,
            elsewhere: false,
            state: UploadState::Open,
            sent: 0,
            record: None,
        };
        if upload.verifies
            && let Ok(sent) = upload.query_offset().await
        {
            tracing::info!(%digest, sent, "an upload of an earlier run resumes");
            upload.sent = sent;
            return Some(upload);
        }
        tracing::info!(%digest, "an upload of an earlier run is cancelled");
        upload.give_up().await;
        record.forget();
        None
    }

    /// The URL of an upload, without scheme and host if these are the registry's own: they may
    /// differ when the upload is resumed.
    fn relative(&self, location: &Url) -> String {
        let is_own = |own: Url| location::same_origin(&own, location);
        if self.origin().is_ok_and(is_own) {
            location[Position::BeforePath..].to_owned()
        } else {
            location.to_string()
        }
    }

    fn origin(&self) -> Result<Url, Error> {
        self.url("", format_args!("an upload of an earlier run"))
    }
}

impl RegistryUpload {
    /// Asks how many bytes of the upload the registry has.
    async fn query_offset(&mut self) -> Result<u64, Error> {
        let url = self.location.clone();
        let response = self.send(Method::GET, url, HeaderMap::new(), Body::Empty);
        let response = response.await?;
        let there = response.header(RANGE).and_then(stored);
        match there.filter(|_| response.status().is_success()) {
            Some(there) => {
                if let Some(location) = self.client.next_location(&response, &self.location)? {
                    self.location = location;
                }
                Ok(there)
            }
            None => Err(response.error(Problem::Missing)),
        }
    }

    /// Stores the URL of the upload, so that the next process can resume it.
    pub(super) fn remembered_by(mut self, record: UploadRecord) -> Self {
        record.remember(&RecordedUpload {
            location: self.client.relative(&self.location),
            verifies: self.verifies,
        });
        self.record = Some(record);
        self
    }

    /// Replaces an upload that cannot be resumed.
    pub(super) fn replace_with(&mut self, mut new: Self) {
        // An upload that began with stored state keeps it.
        if let Some(record) = self.record.take() {
            new = new.remembered_by(record);
        }
        *self = new;
    }

    /// Starts over, for callers that send everything.
    pub(super) async fn restart_from_zero(&mut self) -> Result<(), Error> {
        if self.sent == 0 {
            return Ok(());
        }
        // The bytes that arrived are not used: the caller sends all bytes again.
        let _ = self.delete().await;
        self.state = UploadState::Ended;
        let begun = self
            .client
            .post_upload(&self.digest, PostRequest::Upload)
            .await?;
        if let Some(new) = begun {
            self.replace_with(new);
        }
        Ok(())
    }

    /// Whether the next process can resume this upload if it is left open.
    pub(super) fn is_left_for_next_process(&self) -> bool {
        self.record.is_some() && self.verifies
    }
}
