//! Images described in JSON, for registries in another process.

use serde::{Deserialize, Serialize};

use super::{Built, ImageBuilder, IndexBuilder};

/// Which image to make, and where to put it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// What kind of image.
    #[serde(default)]
    pub kind: Kind,
    /// The repository.
    pub path: String,
    /// Its tag; without one it is known by digest only.
    #[serde(default)]
    pub tag: Option<String>,
    /// Sizes of the layers, for each platform.
    #[serde(default = "default_layers")]
    pub layers: Vec<usize>,
    /// What the content follows from.
    #[serde(default)]
    pub seed: u64,
    /// When the image, or each of an index, says that it was made.
    #[serde(default)]
    pub created: Option<String>,
    /// Platforms of an index.
    #[serde(default = "default_platforms")]
    pub platforms: Vec<String>,
    /// Adds an attestation to an index.
    #[serde(default)]
    pub attestation: bool,
    /// Adds a signature under cosign's tag.
    #[serde(default)]
    pub signature: bool,
    /// Adds a referrer with a software bill of materials.
    #[serde(default)]
    pub referrer: bool,
}

/// Kinds of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One OCI image.
    #[default]
    Image,
    /// One OCI image with SHA-512 digests.
    Sha512,
    /// One Docker image of schema 2.
    Docker,
    /// An artifact.
    Artifact,
    /// An OCI index.
    Index,
    /// A Docker manifest list.
    DockerList,
    /// An index in an index.
    Nested,
}

fn default_layers() -> Vec<usize> {
    vec![10_000, 1_000, 100]
}

fn default_platforms() -> Vec<String> {
    ["linux/amd64", "linux/arm64/v8"]
        .map(ToOwned::to_owned)
        .into()
}

impl Seed {
    /// Makes it.
    pub fn build(&self) -> Built {
        let mut built = self.image();
        if let Some(tag) = &self.tag {
            built = built.tagged(tag);
        }
        let root = built.clone();
        // The image itself stays the root: what is about it goes before it.
        if self.signature {
            built = ImageBuilder::cosign_signature(&root).with(built);
        }
        if self.referrer {
            let sbom = ImageBuilder::new(self.seed).artifact("application/spdx+json");
            let sbom = sbom
                .layer("{\"spdxVersion\":\"SPDX-2.3\"}")
                .annotation("k", "v");
            built = sbom.subject(&root).build().with(built);
        }
        built
    }

    fn image(&self) -> Built {
        let image = ImageBuilder::new(self.seed);
        match self.kind {
            Kind::Image => self.dated(image).layers_of(&self.layers).build(),
            Kind::Sha512 => image.sha512().layers_of(&self.layers).build(),
            Kind::Docker => image.docker().layers_of(&self.layers).build(),
            Kind::Artifact => image
                .artifact("application/x-coral")
                .layers_of(&self.layers)
                .build(),
            Kind::Index => self.index().build(),
            Kind::DockerList => self.docker_list(),
            Kind::Nested => IndexBuilder::new().nested(self.index().build()).build(),
        }
    }

    fn dated(&self, image: ImageBuilder) -> ImageBuilder {
        match &self.created {
            Some(time) => image.created(time),
            None => image,
        }
    }

    fn index(&self) -> IndexBuilder {
        let images = self.platforms.iter().zip(0..);
        let index = images.fold(IndexBuilder::new(), |index, (platform, place)| {
            let image = ImageBuilder::new(self.seed.wrapping_mul(100) + place);
            let image = self.dated(image).platform(platform);
            index.image(image.layers_of(&self.layers).build(), platform)
        });
        if self.attestation {
            index.attestation()
        } else {
            index
        }
    }

    fn docker_list(&self) -> Built {
        let images = self.platforms.iter().zip(0..);
        let list = images.fold(IndexBuilder::new().docker(), |list, (platform, place)| {
            let image = ImageBuilder::new(self.seed.wrapping_mul(100) + place).docker();
            list.image(
                image.platform(platform).layers_of(&self.layers).build(),
                platform,
            )
        });
        list.build()
    }
}
