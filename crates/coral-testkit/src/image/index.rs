//! Several images under one digest.

use coral_image::{Algorithm, media_type};
use serde_json::{Value, json};

use super::builder::descriptor;
use super::json::odd_bytes;
use super::{Built, BuiltManifest, ImageBuilder};

/// Makes an index (or a Docker manifest list) of images that were built before.
#[derive(Debug, Clone, Default)]
pub struct IndexBuilder {
    content: Built,
    children: Vec<Value>,
    docker: bool,
    tags: Vec<String>,
}

impl IndexBuilder {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// An index of one image a platform, each with layers of the given sizes.
    pub fn of_platforms(seed: u64, platforms: &[&str], layers: &[usize]) -> Self {
        platforms
            .iter()
            .zip(0..)
            .fold(Self::new(), |index, (platform, place)| {
                let image = ImageBuilder::new(seed.wrapping_mul(100) + place).platform(platform);
                index.image(image.layers_of(layers).build(), platform)
            })
    }

    /// Adds an image for a platform, `os/architecture[/variant]`.
    #[must_use]
    pub fn image(self, image: Built, platform: &str) -> Self {
        let mut parts = platform.split('/');
        let mut platform = json!({
            "os": parts.next().unwrap_or_default(),
            "architecture": parts.next().unwrap_or_default(),
        });
        if let Some(variant) = parts.next() {
            platform["variant"] = variant.into();
        }
        self.child(image, &json!({ "platform": platform }))
    }

    /// Adds an index below this one.
    #[must_use]
    pub fn nested(self, index: Built) -> Self {
        self.child(index, &json!({}))
    }

    /// Adds a build attestation for the child added last, as `BuildKit` writes it: platform
    /// `unknown/unknown`, and an annotation that names what it is about.
    #[must_use]
    pub fn attestation(self) -> Self {
        let about = self.children.last().expect("a child to attest")["digest"].clone();
        let place = self.children.len() as u64;
        let image = ImageBuilder::new(1_000_003 + place)
            .platform("unknown/unknown")
            .layer(format!(
                "{{\"predicateType\":\"https://slsa.dev/provenance/v0.2\",\"of\":{about}}}"
            ))
            .build();
        self.child(
            image,
            &json!({
                "annotations": {
                    "vnd.docker.reference.digest": about,
                    "vnd.docker.reference.type": "attestation-manifest",
                },
                "platform": { "architecture": "unknown", "os": "unknown" },
            }),
        )
    }

    /// Docker's manifest list in place of an OCI index.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Names it.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.to_owned());
        self
    }

    /// Builds it.
    pub fn build(self) -> Built {
        let media_type = if self.docker {
            media_type::DOCKER_INDEX
        } else {
            media_type::OCI_INDEX
        }
        .to_owned();
        let bytes = odd_bytes(json!({
            "manifests": self.children,
            "mediaType": media_type,
            "schemaVersion": 2,
        }));
        let digest = Algorithm::Sha256.digest(&bytes);
        let mut built = self.content;
        built.manifests.push(BuiltManifest {
            media_type,
            digest,
            bytes,
        });
        self.tags.iter().fold(built, |built, tag| built.tagged(tag))
    }

    fn child(mut self, image: Built, fields: &Value) -> Self {
        let root = image.root();
        let mut child = descriptor(&root.media_type, &root.digest, &root.bytes);
        for (key, value) in fields.as_object().into_iter().flatten() {
            child[key] = value.clone();
        }
        self.children.push(child);
        self.content = self.content.with(image);
        self
    }
}
