//! Reads blobs of a registry.

use coral_image::{Descriptor, Digest, Hasher};
use futures::StreamExt as _;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, RANGE};
use http::{Method, StatusCode};

use super::{Call, RepositoryClient, TokenScope, expect, header, is_without_head};
use crate::blob_stream::{BlobStream, Checked, Incoming, Promise};
use crate::error::{Category, Error, Problem};
use crate::transport::{Response, is_html, markup};

/// Most bytes that are hashed of an answer that is labelled as a page.
const LONGEST_PAGE: usize = 64 * 1024;

impl RepositoryClient {
    /// The length of a blob in bytes, by `HEAD`; `None` if the blob does not exist. If `HEAD`
    /// itself is refused, the headers of a `GET` give the length.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let mut response = self.ask_blob(Method::HEAD, digest, 0).await?;
        if is_without_head(response.status()) {
            response = self.ask_blob(Method::GET, digest, 0).await?;
        }
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = expect(response, &[200]).await?;
        if is_html(&response) {
            return self.size_of_page(digest).await;
        }
        content_length(&response).map(Some)
    }

    /// The length of a blob that its store labels as a page; `None` if the blob does not exist. A
    /// short answer is the blob if its digest matches; a longer one is judged by how it begins.
    async fn size_of_page(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let response = self.ask_blob(Method::GET, digest, 0).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = expect(response, &[200]).await?;
        let (length, page) = (response.content_length(), response.error(Problem::Html));
        let mut incoming = Incoming::new(response);
        let mut start = Vec::new();
        while start.len() < LONGEST_PAGE {
            match incoming.next().await.transpose()? {
                Some(chunk) => start.extend_from_slice(&chunk),
                None if digest.matches(&start) => return Ok(Some(start.len() as u64)),
                None => return Err(page),
            }
        }
        match length {
            Some(length) if markup(&start).is_none() => Ok(Some(length)),
            _ => Err(page),
        }
    }

    /// The blob from `offset` (in bytes) on. From 0 the digest is verified; from any other offset
    /// only the length is, see [`Self::blob_from`].
    pub async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobStream, Error> {
        let hasher = (offset == 0).then(|| blob.digest.algorithm().hasher());
        self.open(Promise::new(blob, offset, hasher)).await
    }

    /// The blob from `offset` on, verified: `hasher` must have hashed all bytes before it.
    pub async fn blob_from(
        &self,
        blob: &Descriptor,
        offset: u64,
        hasher: Hasher,
    ) -> Result<BlobStream, Error> {
        self.open(Promise::new(blob, offset, Some(hasher))).await
    }

    pub(crate) async fn open(&self, promise: Promise) -> Result<BlobStream, Error> {
        let asked = self.reading(&promise.digest);
        let host = self.repository.host().as_str();
        let Promise { offset, size, .. } = promise;
        if offset > size {
            let text = format!("the offset {offset} is beyond the {size} bytes of the blob");
            return Err(Error::new(host, asked, Problem::Options(text)));
        }
        if offset == size {
            let nothing = BlobStream::empty();
            return Ok(BlobStream::new(Checked::new(
                nothing, promise, 0, host, asked,
            )));
        }
        let response = self.ask_blob(Method::GET, &promise.digest, offset).await?;
        let response = expect(response, if offset > 0 { &[200, 206] } else { &[200] }).await?;
        let label = encoding(&response);
        let skip = skipped(&response, offset, size)
            .map_err(|problem| labelled(response.error(problem), label.as_deref()))?;
        let place = response.host.clone();
        let incoming = BlobStream::new(Incoming::new(response));
        let checked = Checked::new(incoming, promise, skip, place, asked).with_page_detection();
        Ok(match label {
            None => BlobStream::new(checked),
            Some(label) => BlobStream::new(
                checked.map(move |item| item.map_err(|error| labelled(error, Some(&label)))),
            ),
        })
    }

    async fn ask_blob(
        &self,
        method: Method,
        digest: &Digest,
        offset: u64,
    ) -> Result<Response, Error> {
        let mut ask = self.ask(Call {
            method,
            path: format!("blobs/{digest}"),
            access: TokenScope::Pull,
            asked: format_args!("{}", self.reading(digest)),
        })?;
        if offset > 0 {
            header(&mut ask, RANGE, &format!("bytes={offset}-"))?;
        }
        self.session.send(ask).await
    }

    fn reading(&self, digest: &Digest) -> String {
        format!("reading blob {digest} of {}", self.repository.path())
    }
}

fn content_length(response: &Response) -> Result<u64, Error> {
    let none = || response.error(Problem::protocol("the answer has no Content-Length"));
    response.content_length().ok_or_else(none)
}

/// The `Content-Encoding` of an answer. Stores label blobs that they hold compressed, yet send
/// exactly the bytes of the digest. So the label alone is no error: the bytes decide.
fn encoding(response: &Response) -> Option<String> {
    let label = response.header(CONTENT_ENCODING)?;
    let is_none = label.is_empty() || label.eq_ignore_ascii_case("identity");
    (!is_none).then(|| crate::transport::clean(label))
}

/// Adds the encoding to the error if the bytes do not match the digest: they were encoded on the
/// way.
fn labelled(error: Error, label: Option<&str>) -> Error {
    let is_of_bytes = matches!(error.category(), Category::Digest | Category::TooLarge);
    match label {
        Some(label) if is_of_bytes => error.noted(&format!(
            "the blob came encoded as {label:?}, which was not requested"
        )),
        _ => error,
    }
}

/// Checks the headers against the request. Returns how many bytes to skip because the offset was
/// ignored.
fn skipped(response: &Response, offset: u64, size: u64) -> Result<u64, Problem> {
    let partial = response.status() == StatusCode::PARTIAL_CONTENT;
    if partial {
        check_range(
            response.header(CONTENT_RANGE).unwrap_or_default(),
            offset,
            size,
        )?;
    }
    let skip = if partial { 0 } else { offset };
    let expected = size - offset + skip;
    match response.content_length() {
        // A blob of the right length may be labelled as a page: its digest decides.
        Some(actual) if actual != expected && is_html(response) => Err(Problem::Html),
        Some(actual) if actual > expected => Err(Problem::TooLarge { limit: expected }),
        Some(actual) if actual < expected => Err(Problem::Length { expected, actual }),
        _ => Ok(skip),
    }
}

/// Checks that `Content-Range: bytes 5-99/100` (RFC 9110, section 14.4) is the range that was asked
/// for.
pub(super) fn check_range(text: &str, offset: u64, size: u64) -> Result<(), Problem> {
    let wrong = || {
        let shown = crate::transport::clean(text);
        Problem::Protocol(format!(
            "asked for bytes {offset}-{}/{size}, got {shown:?}",
            size - 1
        ))
    };
    let (range, total) = parse_content_range(text).ok_or_else(wrong)?;
    let fits = range == (offset, size - 1) && total.is_none_or(|total| total == size);
    if fits { Ok(()) } else { Err(wrong()) }
}

fn parse_content_range(text: &str) -> Option<((u64, u64), Option<u64>)> {
    let (unit, rest) = text.trim().split_once(' ')?;
    let (range, total) = rest.split_once('/')?;
    let (start, end) = range.trim().split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    unit.eq_ignore_ascii_case("bytes").then_some(())?;
    Some(((start.parse().ok()?, end.parse().ok()?), total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_be_the_one_that_was_asked_for() {
        assert!(check_range("bytes 5-9/10", 5, 10).is_ok());
        assert!(check_range("Bytes 5-9/*", 5, 10).is_ok());
        for wrong in [
            "bytes 4-9/10",
            "bytes 5-8/10",
            "bytes 5-9/11",
            "5-9/10",
            "bytes */10",
            "",
        ] {
            assert!(check_range(wrong, 5, 10).is_err(), "{wrong}");
        }
    }
}
