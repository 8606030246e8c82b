//! The content of a layout.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;

use bytes::Bytes;
use coral_distribution::LayoutFiles;
use coral_image::{Descriptor, Digest, Manifest, Tag, Version};
use serde::Deserialize;

use super::LayoutError;
use super::files::{INDEX, blob, read, read_error};
use crate::store::{ManifestRecord, Page, PageQuery};

/// Most manifests of one layout.
const MOST_MANIFESTS: usize = 10_000;
const NAME: &str = "org.opencontainers.image.ref.name";

/// Tags, manifests and blobs, as `index.json` and the manifests below it name them.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    tags: BTreeMap<Tag, Digest>,
    manifests: HashMap<Digest, ManifestRecord>,
    blobs: HashSet<Digest>,
    referrers: HashMap<Digest, Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

impl Catalog {
    pub(super) fn read(files: &LayoutFiles) -> Result<Self, LayoutError> {
        let marker: Marker = json(files, Path::new("oci-layout"))?;
        if !marker.image_layout_version.starts_with("1.") {
            let version: String = marker.image_layout_version.chars().take(40).collect();
            let reason = format!("its version is {version:?}; only versions 1.x are supported");
            let path = files.path(Path::new("oci-layout"));
            return Err(LayoutError::Form { path, reason });
        }
        let index: Index = json(files, Path::new(INDEX))?;
        let mut catalog = Self::default();
        let mut waiting = VecDeque::new();
        let mut doubtful = HashSet::new();
        for descriptor in index.manifests {
            if let Some(tag) = entry_tag(&descriptor) {
                let other = catalog.tags.insert(tag.clone(), descriptor.digest);
                if other.is_some_and(|other| other != descriptor.digest) {
                    doubtful.insert(tag);
                }
            }
            waiting.push_back(descriptor);
        }
        for tag in doubtful {
            let folder = files.folder().display();
            tracing::warn!(%folder, %tag, "not served: several images of the layout have this tag");
            catalog.tags.remove(&tag);
        }
        while let Some(descriptor) = waiting.pop_front() {
            if catalog.manifests.contains_key(&descriptor.digest) {
                continue;
            }
            if catalog.manifests.len() == MOST_MANIFESTS {
                let reason = format!("it has more than {MOST_MANIFESTS} manifests");
                let path = files.path(Path::new(INDEX));
                return Err(LayoutError::Form { path, reason });
            }
            match manifest(files, &descriptor) {
                Ok(manifest) => waiting.extend(catalog.take(&manifest)),
                // An incomplete image does not affect the others.
                Err(reason) => {
                    let digest = descriptor.digest;
                    let folder = files.folder().display();
                    tracing::warn!(%folder, %digest, reason, "not served");
                }
            }
        }
        let manifests = &catalog.manifests;
        catalog
            .tags
            .retain(|_, digest| manifests.contains_key(digest));
        for list in catalog.referrers.values_mut() {
            list.sort_by_key(|referrer| referrer.digest.to_string());
        }
        Ok(catalog)
    }

    /// Adds a manifest. Returns the descriptors to read next.
    fn take(&mut self, manifest: &Manifest) -> Vec<Descriptor> {
        let record = ManifestRecord {
            digest: manifest.digest(),
            media_type: manifest.media_type().to_owned(),
            size: manifest.size(),
        };
        self.manifests.insert(record.digest, record);
        self.blobs.extend(manifest.blobs().map(|blob| blob.digest));
        if let Some(subject) = manifest.subject() {
            let list = self.referrers.entry(subject.digest).or_default();
            list.push(manifest.descriptor());
        }
        manifest.children().to_vec()
    }

    pub(super) fn resolve(&self, version: &Version) -> Option<&ManifestRecord> {
        let digest = match version {
            Version::Tag(tag) => self.tags.get(tag)?,
            Version::Digest(digest) => digest,
        };
        self.manifests.get(digest)
    }

    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest)
    }

    pub(super) fn tags(&self, page: &PageQuery) -> Page<Tag> {
        let is_behind = |tag: &&Tag| {
            let after = page.after.as_deref();
            after.is_none_or(|after| tag.as_str() > after)
        };
        let mut behind = self.tags.keys().filter(is_behind);
        Page {
            entries: behind.by_ref().take(page.most).cloned().collect(),
            more: behind.next().is_some(),
        }
    }

    pub(super) fn referrers(&self, subject: &Digest) -> &[Descriptor] {
        self.referrers.get(subject).map_or(&[], Vec::as_slice)
    }
}

/// The tags that an `index.json` names.
#[cfg(fuzzing)]
pub(super) fn names(json: &[u8]) -> Option<Vec<Tag>> {
    let index: Index = serde_json::from_slice(json).ok()?;
    Some(index.manifests.iter().filter_map(entry_tag).collect())
}

/// The name of an image: a tag, or a whole reference that ends in one.
fn entry_tag(descriptor: &Descriptor) -> Option<Tag> {
    let name = descriptor.annotations.as_ref()?.get(NAME)?;
    let tag = name.rsplit(['/', ':']).next().unwrap_or(name);
    Tag::parse(tag).ok()
}

fn manifest(files: &LayoutFiles, descriptor: &Descriptor) -> Result<Manifest, String> {
    let bytes = read(files, &blob(&descriptor.digest)).map_err(|error| error.to_string())?;
    let media_type = Some(descriptor.media_type.as_str());
    Manifest::parse_pinned(Bytes::from(bytes), media_type, &descriptor.digest)
        .map_err(|error| error.to_string())
}

/// Parses JSON. Errors do not quote the content, which may be secret.
fn json<T: serde::de::DeserializeOwned>(
    files: &LayoutFiles,
    name: &Path,
) -> Result<T, LayoutError> {
    let bytes = read(files, name).map_err(|source| read_error(&files.path(name), source))?;
    serde_json::from_slice(&bytes).map_err(|error| LayoutError::Form {
        path: files.path(name),
        reason: form(&error),
    })
}

fn form(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let what = match error.classify() {
        serde_json::error::Category::Data => "it does not have the form of this file",
        _ => "it is not JSON",
    };
    format!("{what}: line {line}, column {column}")
}
