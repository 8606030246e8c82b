//! One image or artifact.

use bytes::Bytes;
use coral_image::{Algorithm, Digest, media_type};
use serde_json::{Map, Value, json};

use super::json::odd_bytes;
use super::{Built, BuiltManifest, pseudo_random};

/// Makes one image; layers are plain bytes with a digest that is right.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    seed: u64,
    layers: Vec<Bytes>,
    platform: String,
    algorithm: Algorithm,
    docker: bool,
    created: Option<String>,
    artifact_type: Option<String>,
    subject: Option<Value>,
    annotations: Map<String, Value>,
    tags: Vec<String>,
}

impl ImageBuilder {
    /// An image for linux/amd64 without layers.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            layers: Vec::new(),
            platform: "linux/amd64".to_owned(),
            algorithm: Algorithm::Sha256,
            docker: false,
            created: None,
            artifact_type: None,
            subject: None,
            annotations: Map::new(),
            tags: Vec::new(),
        }
    }

    /// Adds a layer of these bytes.
    #[must_use]
    pub fn layer(mut self, bytes: impl Into<Bytes>) -> Self {
        self.layers.push(bytes.into());
        self
    }

    /// Adds a layer of this many bytes, following from the seed and the layer's place.
    #[must_use]
    pub fn layer_of(self, size: usize) -> Self {
        let seed = self
            .seed
            .wrapping_mul(1000)
            .wrapping_add(self.layers.len() as u64);
        self.layer(pseudo_random(seed, size))
    }

    /// Adds layers of these sizes.
    #[must_use]
    pub fn layers_of(self, sizes: &[usize]) -> Self {
        sizes.iter().fold(self, |image, size| image.layer_of(*size))
    }

    /// When the configuration says that it was made.
    #[must_use]
    pub fn created(mut self, time: &str) -> Self {
        self.created = Some(time.to_owned());
        self
    }

    /// The platform that the configuration names: `os/architecture[/variant]`.
    #[must_use]
    pub fn platform(mut self, platform: &str) -> Self {
        platform.clone_into(&mut self.platform);
        self
    }

    /// Docker's media types (schema 2) in place of OCI's.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// SHA-512 for the manifest and every blob.
    #[must_use]
    pub fn sha512(mut self) -> Self {
        self.algorithm = Algorithm::Sha512;
        self
    }

    /// An artifact of this type, with the empty configuration.
    #[must_use]
    pub fn artifact(mut self, artifact_type: &str) -> Self {
        self.artifact_type = Some(artifact_type.to_owned());
        self
    }

    /// Makes it a referrer of the other one's root.
    #[must_use]
    pub fn subject(mut self, of: &Built) -> Self {
        let root = of.root();
        self.subject = Some(descriptor(&root.media_type, &root.digest, &root.bytes));
        self
    }

    /// An annotation on the manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// Names it.
    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.to_owned());
        self
    }

    /// A signature as cosign stores it: a plain image under the tag `sha256-<hex>.sig`.
    pub fn cosign_signature(of: &Built) -> Built {
        let payload = json!({ "critical": { "image": { "digest": of.digest().to_string() } } });
        Self::new(0x516)
            .layer(payload.to_string())
            .annotation("dev.cosignproject.cosign/signature", "bm90IGEgc2lnbmF0dXJl")
            .tag(&format!("{}.sig", of.fallback_tag()))
            .build()
    }

    /// Builds it.
    pub fn build(self) -> Built {
        let mut built = Built::default();
        let config = self.config_bytes();
        let config_digest = self.keep(&mut built, config.clone());
        let mut manifest = json!({
            "schemaVersion": 2,
            "config": descriptor(self.config_type(), &config_digest, &config),
            "mediaType": self.manifest_type(),
            "layers": self.layers.iter().map(|layer| {
                let digest = self.keep(&mut built, layer.clone());
                descriptor(self.layer_type(), &digest, layer)
            }).collect::<Vec<_>>(),
        });
        self.add_optional_fields(&mut manifest);
        let bytes = odd_bytes(manifest);
        let digest = self.algorithm.digest(&bytes);
        let media_type = self.manifest_type().to_owned();
        built.manifests.push(BuiltManifest {
            media_type,
            digest,
            bytes,
        });
        self.tags.iter().fold(built, |built, tag| built.tagged(tag))
    }

    fn keep(&self, built: &mut Built, bytes: Bytes) -> Digest {
        let digest = self.algorithm.digest(&bytes);
        built.blobs.insert(digest, bytes);
        digest
    }

    fn config_bytes(&self) -> Bytes {
        if self.artifact_type.is_some() {
            return Bytes::from_static(b"{}");
        }
        let mut platform = self.platform.split('/');
        let mut config = json!({
            "os": platform.next().unwrap_or_default(),
            "architecture": platform.next().unwrap_or_default(),
            "config": { "Labels": { "seed": self.seed.to_string() } },
            "rootfs": {
                "type": "layers",
                "diff_ids": self.layers.iter().map(|layer| Digest::sha256(layer)).collect::<Vec<_>>(),
            },
        });
        if let Some(variant) = platform.next() {
            config["variant"] = variant.into();
        }
        if let Some(created) = &self.created {
            config["created"] = created.as_str().into();
        }
        odd_bytes(config)
    }

    fn add_optional_fields(&self, manifest: &mut Value) {
        if let Some(artifact_type) = &self.artifact_type {
            manifest["artifactType"] = artifact_type.as_str().into();
        }
        if let Some(subject) = &self.subject {
            manifest["subject"] = subject.clone();
        }
        if !self.annotations.is_empty() {
            manifest["annotations"] = self.annotations.clone().into();
        }
    }

    fn manifest_type(&self) -> &'static str {
        if self.docker {
            media_type::DOCKER_MANIFEST
        } else {
            media_type::OCI_MANIFEST
        }
    }

    fn config_type(&self) -> &'static str {
        match (&self.artifact_type, self.docker) {
            (Some(_), _) => media_type::OCI_EMPTY,
            (None, true) => media_type::DOCKER_CONFIG,
            (None, false) => media_type::OCI_CONFIG,
        }
    }

    fn layer_type(&self) -> &'static str {
        match (&self.artifact_type, self.docker) {
            (Some(_), _) => "application/octet-stream",
            (None, true) => "application/vnd.docker.image.rootfs.diff.tar",
            (None, false) => media_type::OCI_LAYER,
        }
    }
}

/// A descriptor as it stands in a manifest.
pub(super) fn descriptor(media_type: &str, digest: &Digest, bytes: &Bytes) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}
