//! Whether two registries hold the same image, byte for byte.

use std::collections::BTreeSet;

use crate::http::{Answer, get};
use crate::layout::sha256;

/// What was compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Digests of manifests and indexes.
    pub manifests: BTreeSet<String>,
    /// Digests of configs and layers.
    pub blobs: BTreeSet<String>,
}

/// A repository of a registry on plain HTTP.
#[derive(Clone, Copy)]
pub struct ImageRepository<'a> {
    /// `host:port`.
    pub host: &'a str,
    /// The path.
    pub repository: &'a str,
}

impl ImageRepository<'_> {
    fn get(self, kind: &str, reference: &str) -> Answer {
        let url = format!(
            "http://{}/v2/{}/{kind}/{reference}",
            self.host, self.repository
        );
        let answer = get(&url);
        assert_eq!(answer.status, 200, "GET {url}");
        answer
    }
}

/// Walks an image from its tag or digest: every manifest has the same bytes and type at both
/// places, and every blob at `copy` hashes to its digest.
///
/// # Panics
/// If not.
pub fn assert_same(
    original: ImageRepository<'_>,
    copy: ImageRepository<'_>,
    reference: &str,
) -> Compared {
    let mut compared = Compared::default();
    walk(original, copy, reference, &mut compared);
    compared
}

fn walk(
    original: ImageRepository<'_>,
    copy: ImageRepository<'_>,
    reference: &str,
    compared: &mut Compared,
) {
    let ours = copy.get("manifests", reference);
    let theirs = original.get("manifests", reference);
    assert!(ours.body == theirs.body, "the bytes of {reference} differ");
    assert_eq!(
        ours.header("content-type"),
        theirs.header("content-type"),
        "of {reference}"
    );
    let digest = sha256(&ours.body);
    assert_eq!(ours.header("docker-content-digest"), Some(digest.as_str()));
    compared.manifests.insert(digest);
    let manifest = ours.json();
    for child in manifest["manifests"].as_array().into_iter().flatten() {
        walk(
            original,
            copy,
            child["digest"].as_str().unwrap_or_default(),
            compared,
        );
    }
    let layers = manifest["layers"].as_array().into_iter().flatten();
    for blob in layers.chain(manifest.get("config")) {
        let digest = blob["digest"].as_str().unwrap_or_default();
        let answer = copy.get("blobs", digest);
        assert_eq!(sha256(&answer.body), digest, "the bytes of a blob");
        compared.blobs.insert(digest.to_owned());
    }
}
