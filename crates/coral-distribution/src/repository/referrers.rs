//! Referrers: the API, and the fallback tag (OCI distribution-spec, "Listing Referrers" and
//! "Referrers Tag Schema").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use coral_image::{
    Descriptor, Digest, MAX_MANIFEST_SIZE, Manifest, ManifestKind, Tag, Version, media_type,
};
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::RepositoryClient;
use super::listing::Pages;
use crate::error::{Category, Error, Problem};
use crate::transport::{Response, read_document, refusal};

/// How often the client writes the tag before it gives way to another writer.
const MAX_ATTEMPTS: usize = 5;
/// Most pages that are read of the referrers of one manifest.
const MAX_PAGES: usize = 500;
/// Most referrers of one manifest that are read.
const MAX_REFERRERS: usize = 100_000;
/// Most bytes of all pages of referrers of one manifest.
const MAX_REFERRERS_BYTES: usize = 64 * 1024 * 1024;

/// One lock for each referrers tag that is being written by this client.
#[derive(Debug, Default)]
pub(crate) struct ReferrersLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl ReferrersLocks {
    fn lock_for(&self, name: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(name, Arc::downgrade(&lock));
        lock
    }
}

impl RepositoryClient {
    /// The manifests that refer to this one, by the referrers API, or else by the fallback tag. A
    /// manifest without referrers gives an empty list. Their annotations, which may be large, are
    /// left out. The registry's list is not verified: whether an entry really refers to this
    /// manifest is decided by its `subject`.
    pub async fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>, Error> {
        match self.referrers_by_api(subject).await? {
            Some(found) => Ok(found),
            None => match self.referrers_tag(subject).await? {
                Some(index) if lists_referrers(&index, subject) => {
                    Ok(index.entries().map(without_annotations).collect())
                }
                // Some registries answer the tag with the manifest itself, which lists no
                // referrers. Neither does anything else that is not an index.
                _ => Ok(vec![]),
            },
        }
    }

    /// `None` if the registry does not implement the API.
    async fn referrers_by_api(&self, subject: &Digest) -> Result<Option<Vec<Descriptor>>, Error> {
        let asked = format!(
            "listing the referrers of {}@{subject}",
            self.repository.path()
        );
        let mut pages =
            Pages::new(self.url(&format!("referrers/{subject}"), format_args!("{asked}"))?)
                .at_most(MAX_PAGES);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some(url) = pages.next() {
            let response = self.ask_page(url, &asked, media_type::OCI_INDEX).await?;
            // If the first page arrived, the API is implemented, so a failure of a later page is an
            // error.
            if pages.is_first() && has_no_api(&response) {
                return Ok(None);
            }
            let (host, asked) = (response.host.clone(), response.asked.clone());
            if response.status() != 200 {
                return Err(Error::new(host, asked, refusal(response).await));
            }
            pages.follow(&response)?;
            let body = read_document(response, MAX_MANIFEST_SIZE).await?;
            bytes += body.len();
            if bytes > MAX_REFERRERS_BYTES {
                let limit = MAX_REFERRERS_BYTES as u64;
                return Err(Error::new(&host, &asked, Problem::TooLarge { limit }));
            }
            let index = Manifest::parse(body, Some(media_type::OCI_INDEX))
                .map_err(|error| Error::new(&host, &asked, error))?;
            if subject.algorithm().digest(index.bytes()) == *subject {
                // The registry has answered with the manifest itself.
                return Ok(None);
            }
            found.extend(index.entries().map(without_annotations));
            if found.len() > MAX_REFERRERS {
                let text = format!("more than {MAX_REFERRERS} referrers");
                return Err(Error::new(&host, &asked, Problem::Permanent(text)));
            }
        }
        Ok(Some(found))
    }

    /// The index that the referrers tag of a manifest points at.
    async fn referrers_tag(&self, subject: &Digest) -> Result<Option<Manifest>, Error> {
        match self.manifest(&Version::Tag(fallback_tag(subject))).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.category() == Category::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a manifest to the referrers tag of its subject. Writers of this client take turns.
    /// Whether another writer came in between is checked afterwards, as far as a registry allows.
    pub(super) async fn add_referrer(
        &self,
        subject: &Digest,
        referrer: Descriptor,
    ) -> Result<(), Error> {
        let tag = Version::Tag(fallback_tag(subject));
        let lock = self
            .referrers
            .lock_for(format!("{}:{tag}", self.repository));
        let _turn = lock.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let before = self.referrers_tag(subject).await?;
            let refused = |problem| {
                Error::new(
                    self.repository.host(),
                    format_args!("adding to {tag}"),
                    problem,
                )
            };
            if before
                .as_ref()
                .is_some_and(|b| !lists_referrers(b, subject))
            {
                return Err(refused(Problem::protocol(
                    "the referrers tag does not point at an index of referrers",
                )));
            }
            let changed = with_referrer(before.as_ref(), &referrer).map_err(refused)?;
            let Some(index) = changed else { return Ok(()) };
            self.put_bytes(&tag, &index).await?;
            let now = self.head(&tag).await?;
            if now.is_some_and(|descriptor| descriptor.digest == index.digest()) {
                return Ok(());
            }
        }
        let text = format!("other writers kept overwriting it, {MAX_ATTEMPTS} times in a row");
        let asked = format!("adding a referrer to {}", self.named(&tag));
        Err(Error::new(
            self.repository.host(),
            asked,
            Problem::Protocol(text),
        ))
    }
}

/// Whether the target of the referrers tag can be a list of the manifest's referrers.
fn lists_referrers(found: &Manifest, subject: &Digest) -> bool {
    found.kind() == ManifestKind::Index && subject.algorithm().digest(found.bytes()) != *subject
}

/// A referrer without its fields of unlimited length.
fn without_annotations(referrer: &Descriptor) -> Descriptor {
    Descriptor {
        artifact_type: referrer.artifact_type.clone(),
        ..Descriptor::new(referrer.media_type.clone(), referrer.digest, referrer.size)
    }
}

/// Whether the registry does not implement the referrers API. Some registries answer unknown paths
/// with a page of their web interface.
fn has_no_api(response: &Response) -> bool {
    let json = |value: &str| media_type::essence(value).ends_with("json");
    let typed = response.inner.headers().contains_key(CONTENT_TYPE);
    match response.status().as_u16() {
        400 | 404 | 405 | 501 => true,
        200 => typed && !response.header(CONTENT_TYPE).is_some_and(json),
        _ => false,
    }
}

/// The tag that lists the referrers of a manifest. It holds only the first 64 digits of a long
/// digest.
pub(crate) fn fallback_tag(subject: &Digest) -> Tag {
    let digits: String = subject.hex().chars().take(64).collect();
    Tag::parse(&format!("{}-{digits}", subject.algorithm()))
        .expect("an algorithm's name and hexadecimal digits make a tag")
}

/// The index with one more referrer; `None` if it has the referrer already. All other fields of the
/// index are kept.
pub(crate) fn with_referrer(
    before: Option<&Manifest>,
    referrer: &Descriptor,
) -> Result<Option<Manifest>, Problem> {
    let mut index = match before {
        Some(index) if index.entries().any(|child| child.digest == referrer.digest) => {
            return Ok(None);
        }
        Some(index) => serde_json::from_slice(index.bytes()).map_err(|error| {
            Problem::Protocol(format!("the referrers tag is not JSON: {error}"))
        })?,
        None => json!({
            "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [],
        }),
    };
    let entry = serde_json::to_value(referrer).expect("a descriptor is plain JSON");
    match index.get_mut("manifests") {
        Some(Value::Array(manifests)) => manifests.push(entry),
        _ => {
            return Err(Problem::protocol(
                "the referrers tag does not point at an index",
            ));
        }
    }
    let bytes = serde_json::to_vec(&index).expect("JSON that was read can be written");
    Ok(Some(Manifest::parse(
        bytes.into(),
        Some(media_type::OCI_INDEX),
    )?))
}
