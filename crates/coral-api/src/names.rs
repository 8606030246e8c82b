//! Every name that people and other programs rely on. These names are a contract: changing one
//! breaks running clusters.

/// The API group.
pub const GROUP: &str = "stvz.io";
/// The version of the API.
pub const VERSION: &str = "v1";
/// Group and version as they stand in `apiVersion`.
pub const API_VERSION: &str = "stvz.io/v1";

/// Kinds of the group.
pub mod kind {
    /// These images, on those nodes.
    pub const IMAGE: &str = "Image";
    /// These images, in that registry.
    pub const REGISTRY_MIRROR: &str = "RegistryMirror";
    /// A managed registry.
    pub const REGISTRY: &str = "Registry";
    /// A build with the user's own container.
    pub const IMAGE_BUILD: &str = "ImageBuild";
    /// What administrators allow and enforce for pods.
    pub const INJECTION_POLICY: &str = "InjectionPolicy";
    /// What one node should hold; written by the controller.
    pub const NODE_IMAGES: &str = "NodeImages";
    /// What a mirror holds; written by the controller.
    pub const MIRRORED_IMAGES: &str = "MirroredImages";
    /// Image names unchanged, pulls from inside.
    pub const REGISTRY_ROUTE: &str = "RegistryRoute";
    /// The older name of [`REGISTRY_MIRROR`].
    pub const MIRROR: &str = "Mirror";

    /// Every kind of the group, the older name included.
    pub const ALL: [&str; 9] = [
        IMAGE,
        REGISTRY_MIRROR,
        REGISTRY,
        IMAGE_BUILD,
        INJECTION_POLICY,
        NODE_IMAGES,
        MIRRORED_IMAGES,
        REGISTRY_ROUTE,
        MIRROR,
    ];
}

/// Annotations on pods, their owners, namespaces and mirrors.
pub mod annotation {
    /// The requested changes: `pull-policy,selectors,registry`, each with an optional value, or `none`.
    pub const INJECT: &str = "image.stvz.io/inject";
    /// The containers to change, by name.
    pub const INCLUDE: &str = "image.stvz.io/include";
    /// The containers not to change, by name. Ignored beside [`INCLUDE`].
    pub const EXCLUDE: &str = "image.stvz.io/exclude";
    /// The older spelling of [`INCLUDE`].
    pub const INCLUDED: &str = "image.stvz.io/included";
    /// The older spelling of [`EXCLUDE`].
    pub const EXCLUDED: &str = "image.stvz.io/excluded";
    /// The mark on a pod that was changed.
    pub const INJECTED: &str = "image.stvz.io/injected";
    /// The images that a pod named before it was changed, as JSON. For people: nothing trusts it.
    pub const ORIGINAL: &str = "image.stvz.io/original";
    /// On a RegistryMirror: how many vanished images a person has looked at, so that tags are
    /// deleted again.
    pub const CONFIRM_PRUNE: &str = "image.stvz.io/confirm-prune";
}

/// Labels on nodes.
pub mod label {
    /// Prefix of the hash of an image's canonical reference; the value is its state on the node.
    pub const IMAGE_PREFIX: &str = "image.stvz.io/";
    /// Prefix of the hash of a registry; the value is `ready` where nodes can pull from it.
    pub const REGISTRY_PREFIX: &str = "registry.stvz.io/";
    /// Value of an image's label where the image is there.
    pub const AVAILABLE: &str = "available";
    /// Value of an image's label where the image is waited for.
    pub const PENDING: &str = "pending";
    /// Value of an image's label where the image is in error.
    pub const ERROR: &str = "error";
    /// Value of a registry's label where nodes can pull from it.
    pub const READY: &str = "ready";

    /// The key of the node label for an image, from its canonical reference
    /// (`host/path:tag` or `host/path@digest`).
    ///
    /// ```
    /// let key = coral_api::names::label::image("docker.io/library/debian:bookworm-slim");
    /// assert_eq!(key, "image.stvz.io/1022bc06d051d9e7870973e6dc0c0004");
    /// ```
    pub fn image(reference: &str) -> String {
        format!("{IMAGE_PREFIX}{}", hash(reference))
    }

    /// The key of the node label for a registry, from its host as it stands in references
    /// (`reg.coral-system.svc:5000`).
    pub fn registry(host: &str) -> String {
        format!("{REGISTRY_PREFIX}{}", hash(host))
    }

    /// Whether Coral writes node labels of this key. Other labels under the prefixes are left alone.
    ///
    /// ```
    /// use coral_api::names::label;
    /// assert!(label::is_own(&label::image("docker.io/library/debian:bookworm-slim")));
    /// assert!(!label::is_own("image.stvz.io/owner"));
    /// ```
    pub fn is_own(key: &str) -> bool {
        let hash = key
            .strip_prefix(IMAGE_PREFIX)
            .or_else(|| key.strip_prefix(REGISTRY_PREFIX));
        let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        hash.is_some_and(|hash| hash.len() == 32 && hash.chars().all(is_digit))
    }

    /// The first 32 hexadecimal digits of SHA-256: the name of a label ends at 63 letters.
    fn hash(text: &str) -> String {
        use sha2::{Digest, Sha256};
        hex::encode(&Sha256::digest(text.as_bytes())[..16])
    }
}

/// Namespaces that Coral is installed into.
pub mod namespace {
    /// Controller, webhook and the administrators' registries.
    pub const SYSTEM: &str = "coral-system";
    /// The agents.
    pub const NODES: &str = "coral-nodes";
}

/// Labels and annotations on what a build is made of.
pub mod build {
    /// Label of a run's Job, pods and ConfigMap: the name of the ImageBuild, cut to 63 letters.
    pub const NAME: &str = "image.stvz.io/build";
    /// Label of a run's Job, pods and ConfigMap: the key of the run.
    pub const RUN: &str = "image.stvz.io/run";
    /// Annotation of a run's Job and pods: the uid of the ImageBuild.
    pub const UID: &str = "image.stvz.io/build-uid";
    /// Annotation of a run's Job: the generation of the ImageBuild that it was made for.
    pub const GENERATION: &str = "image.stvz.io/build-generation";
    /// Annotation of a run's Job that was started.
    pub const BEGUN: &str = "image.stvz.io/build-begun";
}

/// The path and tag of the reserved image without layers, by which nodes are probed.
pub const PROBE_PATH: &str = "coral-reserved/probe";
/// The tag of [`PROBE_PATH`].
pub const PROBE_TAG: &str = "1";
/// The digest of the manifest of the reserved image. Nodes pull it by this digest, so that a
/// registry cannot answer with another image.
pub const PROBE_DIGEST: &str =
    "sha256:09ade42fe3e69018a3360bb092265af902f9e7d6013146cf152c82ac3a944707";
/// The port of a managed Registry.
pub const REGISTRY_PORT: u16 = 5000;

/// The host of a managed Registry, as it stands in references.
///
/// ```
/// assert_eq!(coral_api::names::registry_host("coral-system", "reg"), "reg.coral-system.svc:5000");
/// ```
pub fn registry_host(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc:{REGISTRY_PORT}")
}

/// Whether the host is a managed Registry of Coral's own namespace, in which only administrators
/// write.
///
/// ```
/// assert!(coral_api::names::is_of_system("reg.coral-system.svc:5000"));
/// assert!(!coral_api::names::is_of_system("reg.team.svc:5000"));
/// ```
pub fn is_of_system(host: &str) -> bool {
    let rest = host.split_once('.').map(|(_, rest)| rest);
    rest.is_some_and(|rest| rest == format!("{}.svc:{REGISTRY_PORT}", namespace::SYSTEM))
}

/// The finalizer of the older Coral: objects that still carry it must be deletable.
pub const FINALIZER: &str = "image.stvz.io/finalizer";
/// The taint on a node whose images are not all there yet.
pub const STARTUP_TAINT: &str = "image.stvz.io/not-ready";
