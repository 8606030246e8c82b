//! Media types of manifests (OCI image-spec, `media-types.md`; Docker image manifest V2.2).

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI artifact manifest, withdrawn from the specification but still found in registries.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The empty JSON object, used as the configuration of an artifact without one.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// An uncompressed layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer compressed with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer compressed with zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Docker manifest list.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The manifest types that Coral accepts from a registry, in order of preference.
pub const MANIFESTS: [&str; 5] = [
    OCI_INDEX,
    DOCKER_INDEX,
    OCI_MANIFEST,
    DOCKER_MANIFEST,
    OCI_ARTIFACT,
];

/// Whether a descriptor of this type names a manifest. A descriptor without a type is judged by its
/// role alone. Schema 1 counts as a manifest, so that reading it gives a clear error. Every other
/// type, known or not, is a blob's: an index may list layers, as build caches do.
pub fn is_manifest(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.is_empty()
        || MANIFESTS.contains(&essence.as_str())
        || essence.starts_with("application/vnd.docker.distribution.manifest.")
}

/// Whether this is the media type of an image's configuration; artifacts have other types.
pub fn is_image_config(media_type: &str) -> bool {
    [OCI_CONFIG, DOCKER_CONFIG].contains(&essence(media_type).as_str())
}

/// Whether the content of this type must not be distributed: OCI's non-distributable layers and
/// Docker's foreign ones.
pub fn is_nondistributable(media_type: &str) -> bool {
    let essence = essence(media_type);
    essence.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || essence.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// The media type without its parameters, in lower case: `a/b; charset=utf-8` becomes `a/b`.
pub fn essence(value: &str) -> String {
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Docker's images count as images just as OCI's do; other artifacts that are packed like an
    /// image do not.
    #[test]
    fn the_configuration_of_an_image_is_known_in_both_forms() {
        for image in [
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.docker.container.image.v1+json",
            "Application/vnd.docker.container.image.V1+json; charset=utf-8",
        ] {
            assert!(is_image_config(image), "{image}");
        }
        for other in [
            "",
            OCI_EMPTY,
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.docker.plugin.v1+json",
        ] {
            assert!(!is_image_config(other), "{other}");
        }
    }
}
