//! What a node's agent asks of its container runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use crate::RuntimeError;

/// A container runtime's images.
///
/// Every call ends within a deadline of its own. Dropping a call's future cancels it, a running
/// pull included.
pub trait ImageRuntime: Send + Sync + 'static {
    /// Which runtime answers, and its version.
    fn version(&self) -> impl Future<Output = Result<RuntimeVersion, RuntimeError>> + Send;

    /// The images that containers can start from now: completely pulled and unpacked.
    fn list(&self) -> impl Future<Output = Result<Vec<RuntimeImage>, RuntimeError>> + Send;

    /// The IDs of the images that containers on this node were made from, running or not.
    fn in_use(&self) -> impl Future<Output = Result<BTreeSet<String>, RuntimeError>> + Send;

    /// Pulls an image and returns its ID. By digest (`HOST/PATH@DIGEST`) the runtime stores that
    /// name only; [`Self::tag`] gives it another.
    fn pull(
        &self,
        reference: &str,
        credential: Option<&Credential>,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Gives the image that is known as `source` the further name `name`, with `marks`. A name
    /// that there is already is moved to this image.
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

    /// Takes away one name; the image stays while it has another. A name that is not there is no
    /// error.
    fn untag(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes the image that is known as `reference` **with all its names**. The runtime does not
    /// check whether a container uses it. An image that is not there is no error.
    fn remove(&self, reference: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Where the runtime reads `hosts.toml` files.
    fn config_path(&self) -> impl Future<Output = Result<ConfigPath, RuntimeError>> + Send;
}

/// Which runtime answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// The runtime's name, such as `containerd`.
    pub name: String,
    /// Its version, as it spells it.
    pub version: String,
}

/// An image that containers can start from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeImage {
    /// The runtime's ID: the digest of the image's configuration. Images with one ID are one
    /// image, whatever their names.
    pub id: String,
    /// Every name: `HOST/PATH:TAG` and `HOST/PATH@DIGEST`, sorted.
    pub names: Vec<ImageName>,
    /// Bytes, as the runtime counts them.
    pub size: u64,
    /// Whether the runtime reports the image as protected from kubelet's garbage collection.
    pub pinned: bool,
}

/// A name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageName {
    /// The name, in full.
    pub name: String,
    /// The digest of the manifest or index that the name stands for.
    pub digest: String,
    /// Whether this name carries the pin.
    pub pinned: bool,
    /// The other labels of this name.
    pub labels: BTreeMap<String, String>,
}

/// What a name of an image carries beside the image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// Whether kubelet's garbage collection must leave the image alone.
    pub pinned: bool,
    /// Labels to set; a label with an empty value is taken away. Labels that are not named stay.
    pub labels: BTreeMap<String, String>,
}

/// A login for the registry that an image is pulled from.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// URL of the one registry that may be given the password, such as `https://quay.io`.
    pub server: String,
    /// The user's name.
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

/// Where a runtime reads `hosts.toml` files, from its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigPath {
    /// Nowhere: the configuration names no folder.
    Unset,
    /// In this folder.
    One(PathBuf),
    /// In several folders. containerd 2.2 and newer may read none of them (the transfer service
    /// takes the whole list as one folder's name); it is also what they report when the
    /// configuration names no folder.
    Several(Vec<PathBuf>),
}

impl ConfigPath {
    /// From the configuration's own text: folders joined by colons.
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
