//! What the registry holds: everything in memory, visible per repository.

use std::collections::BTreeMap;

use bytes::Bytes;
use coral_image::Digest;
use serde_json::Value;

use crate::image::Built;

/// All repositories.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) repositories: BTreeMap<String, Repository>,
}

/// One repository.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) blobs: BTreeMap<Digest, Bytes>,
    pub(super) manifests: BTreeMap<Digest, Stored>,
    pub(super) tags: BTreeMap<String, Digest>,
    pub(super) uploads: BTreeMap<String, Vec<u8>>,
}

/// A manifest as it was put.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) media_type: String,
    pub(super) bytes: Bytes,
}

impl Store {
    pub(super) fn repository(&self, path: &str) -> Option<&Repository> {
        self.repositories.get(path)
    }

    pub(super) fn blob_of_any(&self, digest: &Digest) -> Option<Bytes> {
        self.repositories
            .values()
            .find_map(|repository| repository.blobs.get(digest).cloned())
    }

    pub(super) fn make(&mut self, path: &str) -> &mut Repository {
        self.repositories.entry(path.to_owned()).or_default()
    }

    pub(super) fn load(&mut self, path: &str, built: &Built) {
        let repository = self.make(path);
        repository.blobs.extend(built.blobs.clone());
        for manifest in &built.manifests {
            let media_type = manifest.media_type.clone();
            let stored = Stored {
                media_type,
                bytes: manifest.bytes.clone(),
            };
            repository.manifests.insert(manifest.digest, stored);
        }
        repository.tags.extend(built.tags.clone());
    }

    /// The first thing of `built` that is missing in the repository, or is not the same there.
    pub(super) fn difference(&self, path: &str, built: &Built) -> Option<String> {
        let nothing = Repository::default();
        let here = self.repository(path).unwrap_or(&nothing);
        let blob = built
            .blobs
            .iter()
            .find(|(digest, bytes)| here.blobs.get(digest) != Some(bytes));
        if let Some((digest, _)) = blob {
            return Some(format!("blob {digest}"));
        }
        let manifest = built.manifests.iter().find(|wanted| {
            here.manifests.get(&wanted.digest).is_none_or(|stored| {
                stored.media_type != wanted.media_type || stored.bytes != wanted.bytes
            })
        });
        if let Some(manifest) = manifest {
            return Some(format!("manifest {}", manifest.digest));
        }
        let tag = built
            .tags
            .iter()
            .find(|(tag, digest)| here.tags.get(*tag) != Some(*digest));
        tag.map(|(tag, _)| format!("tag {tag}"))
    }
}

impl Repository {
    /// The digest that a tag or a digest in text names here.
    pub(super) fn resolve(&self, reference: &str) -> Option<Digest> {
        match Digest::parse(reference) {
            Ok(digest) => self.manifests.contains_key(&digest).then_some(digest),
            Err(_) => self.tags.get(reference).copied(),
        }
    }

    /// Descriptors of the manifests whose subject is `digest`.
    pub(super) fn referrers(&self, digest: &str) -> Vec<Value> {
        self.manifests
            .iter()
            .filter_map(|(own, stored)| referrer(own, stored, digest))
            .collect()
    }

    /// The first thing that a manifest needs and that is not here.
    pub(super) fn missing_for(&self, manifest: &Value) -> Option<String> {
        let needed = |field: &str| manifest[field].as_array().cloned().unwrap_or_default();
        let blobs = needed("layers")
            .into_iter()
            .chain([manifest["config"].clone()]);
        let blob_is_here = |d: &Digest| self.blobs.contains_key(d);
        // An index may list layers, as build caches do.
        let child_is_here = |d: &Digest| self.manifests.contains_key(d) || blob_is_here(d);
        let absent = |descriptor: &Value, here: &dyn Fn(&Digest) -> bool| {
            let text = descriptor["digest"].as_str()?;
            let there = Digest::parse(text).is_ok_and(|digest| here(&digest));
            (!there && descriptor["urls"].is_null()).then(|| text.to_owned())
        };
        blobs
            .into_iter()
            .find_map(|d| absent(&d, &blob_is_here))
            .or_else(|| {
                needed("manifests")
                    .iter()
                    .find_map(|d| absent(d, &child_is_here))
            })
    }
}

fn referrer(own: &Digest, stored: &Stored, subject: &str) -> Option<Value> {
    let manifest: Value = serde_json::from_slice(&stored.bytes).ok()?;
    if manifest["subject"]["digest"].as_str() != Some(subject) {
        return None;
    }
    let mut descriptor = serde_json::json!({
        "mediaType": stored.media_type,
        "digest": own,
        "size": stored.bytes.len(),
    });
    let own_type = manifest["artifactType"].as_str();
    let kind = own_type.or_else(|| manifest["config"]["mediaType"].as_str());
    descriptor["artifactType"] = kind.into();
    if manifest["annotations"].is_object() {
        descriptor["annotations"] = manifest["annotations"].clone();
    }
    Some(descriptor)
}
