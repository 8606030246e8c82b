//! Every name that people and other programs rely on, in one place. Changing one breaks clusters
//! that run: they are a contract.

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
    /// A registry, managed.
    pub const REGISTRY: &str = "Registry";
    /// A build with the user's own container.
    pub const IMAGE_BUILD: &str = "ImageBuild";
    /// What administrators force.
    pub const INJECTION_POLICY: &str = "InjectionPolicy";
    /// What one node should hold; the controller's own.
    pub const NODE_IMAGES: &str = "NodeImages";
    /// What a mirror holds; the controller's own.
    pub const MIRRORED_IMAGES: &str = "MirroredImages";
    /// The older name of [`REGISTRY_MIRROR`].
    pub const MIRROR: &str = "Mirror";

    /// Every kind of the group, the older name included.
    pub const ALL: [&str; 8] = [
        IMAGE,
        REGISTRY_MIRROR,
        REGISTRY,
        IMAGE_BUILD,
        INJECTION_POLICY,
        NODE_IMAGES,
        MIRRORED_IMAGES,
        MIRROR,
    ];
}

/// Annotations on pods, their owners and namespaces.
pub mod annotation {
    /// What is wished for: `pull-policy,selectors,registry`, each with an optional value, or `none`.
    pub const INJECT: &str = "image.stvz.io/inject";
    /// The containers that are meant, by name.
    pub const INCLUDE: &str = "image.stvz.io/include";
    /// The containers that are not meant, by name. Ignored beside [`INCLUDE`].
    pub const EXCLUDE: &str = "image.stvz.io/exclude";
    /// The older spelling of [`INCLUDE`].
    pub const INCLUDED: &str = "image.stvz.io/included";
    /// The older spelling of [`EXCLUDE`].
    pub const EXCLUDED: &str = "image.stvz.io/excluded";
    /// The mark on a pod that was changed.
    pub const INJECTED: &str = "image.stvz.io/injected";
}

/// Labels on nodes.
pub mod label {
    /// Before the hash of an image's canonical reference; the value is its state on the node.
    pub const IMAGE_PREFIX: &str = "image.stvz.io/";
    /// Before the hash of a registry; the value is `ready` where nodes can pull from it.
    pub const REGISTRY_PREFIX: &str = "registry.stvz.io/";
}

/// The finalizer of the older Coral: objects that still carry it must be deletable.
pub const FINALIZER: &str = "image.stvz.io/finalizer";
/// The taint on a node whose set of images is not there yet.
pub const STARTUP_TAINT: &str = "image.stvz.io/not-ready";
