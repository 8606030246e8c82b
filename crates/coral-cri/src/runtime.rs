//! The interface between a node's agent and its container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::RuntimeError;

/// The images of a container runtime.
///
/// Every call ends within its own deadline. Dropping a call's future cancels it, even a running
/// pull.
pub trait ImageRuntime: Send + Sync + 'static {
    /// The name and version of the runtime.
    fn version(&self) -> impl Future<Output = Result<RuntimeVersion, RuntimeError>> + Send;

    /// The images that containers can start from: completely pulled and unpacked.
    fn list(&self) -> impl Future<Output = Result<Vec<RuntimeImage>, RuntimeError>> + Send;

    /// The IDs of the images that containers on this node were created from, whether or not they
    /// run.
    fn in_use(&self) -> impl Future<Output = Result<BTreeSet<String>, RuntimeError>> + Send;

    /// Pulls an image and returns its ID. After a pull by digest (`HOST/PATH@DIGEST`) the runtime
    /// stores only that name; [`Self::tag`] adds another.
    fn pull(
        &self,
        reference: &str,
        credential: Option<&Credential>,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Gives the image with the name `source` the further name `name`, with `marks`. An existing
    /// name is moved to this image.
    fn tag(
        &self,
        source: &str,
        name: &str,
        marks: &Marks,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Changes the marks of a name.
    fn mark(
        &self,
        name: &str,
        marks: &Marks,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes one name; the image stays while it has another name. A missing name is not an error.
    fn untag(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes the image with the name `reference`, **with all its names**. The runtime does not
    /// check whether a container uses it. A missing image is not an error.
    fn remove(&self, reference: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The folder from which the runtime reads `hosts.toml` files.
    fn config_path(&self) -> impl Future<Output = Result<ConfigPath, RuntimeError>> + Send;
}

/// The name and version of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// The runtime's name, such as `containerd`.
    pub name: String,
    /// The version, in the runtime's own form.
    pub version: String,
}

/// An image that containers can start from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeImage {
    /// The runtime's ID: the digest of the image's configuration. Images with the same ID are the
    /// same image, whatever their names.
    pub id: String,
    /// All names: `HOST/PATH:TAG` and `HOST/PATH@DIGEST`, sorted.
    pub names: Vec<ImageName>,
    /// Size in bytes, as reported by the runtime.
    pub size: u64,
    /// Whether the runtime reports the image as protected from kubelet's garbage collection.
    pub pinned: bool,
}

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageName {
    /// The full name.
    pub name: String,
    /// The digest of the manifest or index that the name points at.
    pub digest: String,
    /// Whether this name has the pin label.
    pub pinned: bool,
    /// The other labels of this name.
    pub labels: BTreeMap<String, String>,
}

/// The pin and the labels of a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Whether kubelet's garbage collection must keep the image.
    pub pinned: bool,
    /// Labels to set; a label with an empty value is removed. Other labels stay.
    pub labels: BTreeMap<String, String>,
}

/// A login for the registry that an image is pulled from.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// URL of the only registry that may receive the password, such as `https://quay.io`.
    pub server: String,
    /// The user name.
    pub username: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("server", &self.server)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// The folders from which a runtime reads `hosts.toml` files, according to its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigPath {
    /// None: the configuration names no folder.
    Unset,
    /// This folder.
    One(PathBuf),
    /// Several folders. containerd 2.2 and newer may read none of them (the transfer service takes
    /// the whole list as one folder's name); they also report this when the configuration names no
    /// folder.
    Several(Vec<PathBuf>),
}

impl ConfigPath {
    /// Parses the value of the configuration: folders separated by colons.
    pub fn parse(text: &str) -> Self {
        let mut folders: Vec<PathBuf> = text
            .split(':')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(PathBuf::from)
            .collect();
        match folders.len() {
            0 => Self::Unset,
            1 => Self::One(folders.remove(0)),
            _ => Self::Several(folders),
        }
    }

    /// The folder to write to, if there is one.
    pub fn first(&self) -> Option<&PathBuf> {
        match self {
            Self::Unset => None,
            Self::One(folder) => Some(folder),
            Self::Several(folders) => folders.first(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_path_is_no_folder_one_or_several() {
        assert_eq!(ConfigPath::parse(""), ConfigPath::Unset);
        let one = ConfigPath::parse("/etc/containerd/certs.d");
        assert_eq!(one, ConfigPath::One("/etc/containerd/certs.d".into()));
        let both = ConfigPath::parse("/etc/containerd/certs.d:/etc/docker/certs.d");
        assert!(matches!(&both, ConfigPath::Several(folders) if folders.len() == 2));
        let first = both.first().unwrap();
        assert_eq!(first.to_str(), Some("/etc/containerd/certs.d"));
    }

    #[test]
    fn a_credential_does_not_show_its_password() {
        let credential = Credential {
            server: "https://quay.io".to_owned(),
            username: "robot".to_owned(),
            password: "hunter2".to_owned(),
        };
        assert!(!format!("{credential:?}").contains("hunter2"));
    }
}
