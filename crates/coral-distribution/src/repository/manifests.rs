//! Reads, writes and deletes manifests of a registry.

use bytes::Bytes;
use coral_image::{
    Descriptor, Digest, DigestError, MAX_MANIFEST_SIZE, Manifest, Version, media_type,
};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, StatusCode};

use super::{Call, PutManifest, RepositoryClient, TokenScope, expect, header, is_without_head};
use crate::error::{Category, Error, Problem};
use crate::transport::{Body, Response, is_html, markup, read_document};

pub(super) const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";
const OCI_SUBJECT: &str = "oci-subject";

impl RepositoryClient {
    /// The descriptor that a tag or digest points at, by `HEAD`; `None` if it does not exist. If
    /// the answer lacks the digest or the length, or if `HEAD` itself is refused, the manifest is
    /// read instead.
    pub async fn head(&self, version: &Version) -> Result<Option<Descriptor>, Error> {
        let asked = format!("looking up {}", self.named(version));
        let response = self.ask_manifest(Method::HEAD, version, &asked).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if is_without_head(response.status()) {
            return self.head_by_get(version).await;
        }
        let response = expect(response, &[200]).await?;
        // An answer that is labelled as HTML may still be the manifest, so its content has to be
        // read.
        if is_html(&response) {
            return self.head_by_get(version).await;
        }
        let digest = sent_digest(&response)?;
        if let (Some(actual), Some(expected)) = (digest, version.digest())
            && actual != *expected
            && actual.algorithm() == expected.algorithm()
        {
            return Err(response.error(Problem::digest(*expected, actual)));
        }
        let known = version.digest().copied().or(digest);
        let (Some(digest), Some(size)) = (known, response.content_length()) else {
            return self.head_by_get(version).await;
        };
        if size > MAX_MANIFEST_SIZE as u64 {
            return Err(response.error(Problem::TooLarge {
                limit: MAX_MANIFEST_SIZE as u64,
            }));
        }
        let media_type = response.header(CONTENT_TYPE).map(media_type::essence);
        Ok(Some(Descriptor::new(
            media_type.unwrap_or_default(),
            digest,
            size,
        )))
    }

    async fn head_by_get(&self, version: &Version) -> Result<Option<Descriptor>, Error> {
        match self.manifest(version).await {
            Ok(manifest) => {
                let size = manifest.size();
                Ok(Some(Descriptor::new(
                    manifest.media_type(),
                    manifest.digest(),
                    size,
                )))
            }
            Err(error) if error.category() == Category::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The manifest, verified. A missing manifest is an error of category
    /// [`Category::NotFound`].
    pub async fn manifest(&self, version: &Version) -> Result<Manifest, Error> {
        let asked = format!("reading manifest {}", self.named(version));
        let response = expect(
            self.ask_manifest(Method::GET, version, &asked).await?,
            &[200],
        )
        .await?;
        let is_page = is_html(&response);
        let expected = match version.digest() {
            Some(digest) => Some(*digest),
            None => sent_digest(&response)?,
        };
        let content_type = response.header(CONTENT_TYPE).filter(|_| !is_page);
        let content_type = content_type.map(ToOwned::to_owned);
        let host = response.host.clone();
        let body = read_document(response, MAX_MANIFEST_SIZE).await?;
        let parsed = parse(body, content_type.as_deref(), expected.as_ref());
        parsed.map_err(|problem| {
            let problem = if is_page { Problem::Html } else { problem };
            Error::new(host, asked, problem)
        })
    }

    /// Writes a manifest under a tag or its digest.
    pub async fn put_manifest(
        &self,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<PutManifest, Error> {
        let recorded = self.put_bytes(version, manifest).await?;
        let Some(subject) = manifest.subject() else {
            return Ok(PutManifest {
                subject_recorded: true,
            });
        };
        if !recorded {
            self.add_referrer(&subject.digest, manifest.descriptor())
                .await?;
        }
        Ok(PutManifest {
            subject_recorded: recorded,
        })
    }

    /// Writes a manifest. Returns whether the registry said that it recorded the subject.
    pub(super) async fn put_bytes(
        &self,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<bool, Error> {
        let mut ask = self.ask(Call {
            method: Method::PUT,
            path: format!("manifests/{version}"),
            access: TokenScope::Push,
            asked: format_args!("writing manifest {}", self.named(version)),
        })?;
        header(&mut ask, CONTENT_TYPE, manifest.media_type())?;
        ask.body = Body::Bytes(manifest.bytes().clone());
        let response = expect(self.session.send(ask).await?, &[200, 201, 202, 204]).await?;
        let (expected, sent) = (manifest.digest(), sent_digest(&response)?);
        if let Some(actual) = sent.filter(|d| d.algorithm() == expected.algorithm())
            && actual != expected
        {
            return Err(response.error(Problem::digest(expected, actual)));
        }
        Ok(response.header(OCI_SUBJECT).is_some())
    }

    /// Deletes a tag, or a manifest with all its tags. A missing one is an error.
    pub async fn delete(&self, version: &Version) -> Result<(), Error> {
        let ask = self.ask(Call {
            method: Method::DELETE,
            path: format!("manifests/{version}"),
            access: TokenScope::Delete,
            asked: format_args!("deleting {}", self.named(version)),
        })?;
        expect(self.session.send(ask).await?, &[200, 202, 204])
            .await
            .map(drop)
    }

    async fn ask_manifest(
        &self,
        method: Method,
        version: &Version,
        asked: &str,
    ) -> Result<Response, Error> {
        let mut ask = self.ask(Call {
            method,
            path: format!("manifests/{version}"),
            access: TokenScope::Pull,
            asked: format_args!("{asked}"),
        })?;
        // Artifacts may have media types of their own.
        header(
            &mut ask,
            ACCEPT,
            &format!("{}, */*", media_type::MANIFESTS.join(", ")),
        )?;
        self.session.send(ask).await
    }
}

fn parse(
    body: Bytes,
    content_type: Option<&str>,
    expected: Option<&Digest>,
) -> Result<Manifest, Problem> {
    if let Some(problem) = markup(&body) {
        return Err(problem);
    }
    Ok(match expected {
        Some(digest) => Manifest::parse_pinned(body, content_type, digest)?,
        None => Manifest::parse(body, content_type)?,
    })
}

/// The `Docker-Content-Digest`, if there is one with an algorithm that can be verified.
fn sent_digest(response: &Response) -> Result<Option<Digest>, Error> {
    let Some(text) = response
        .header(DOCKER_CONTENT_DIGEST)
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    match Digest::parse(text.trim()) {
        Ok(digest) => Ok(Some(digest)),
        Err(DigestError::Algorithm(_)) => Ok(None),
        Err(error) => Err(response.error(Problem::protocol(format_args!(
            "Docker-Content-Digest: {error}"
        )))),
    }
}
