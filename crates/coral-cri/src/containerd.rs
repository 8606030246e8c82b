//! A client for containerd, over its unix socket.

mod channel;
mod config;
mod images;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::proto::{containerd as ctr, cri};
use crate::{
    ConfigPath, Credential, ImageName, ImageRuntime, Marks, RuntimeError, RuntimeImage,
    RuntimeVersion,
};
use channel::{Channel, Deadlines};

/// Why a socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path is relative.
    #[error("the runtime's socket {} is not an absolute path", .0.display())]
    Relative(PathBuf),
}

/// A client for containerd. It is cheap to clone, connects at the first call, and reconnects after
/// the connection broke.
///
/// In a container, mount the *folder* of the socket: a mounted socket file goes stale when
/// containerd restarts.
#[derive(Debug, Clone)]
pub struct Containerd {
    channel: Channel,
}

impl Containerd {
    /// A client for the containerd with the socket at this absolute path. Must be called within a
    /// tokio runtime; it does not connect yet.
    pub fn new(socket: &Path) -> Result<Self, SocketError> {
        Self::with_deadlines(socket, Deadlines::default())
    }

    /// Like [`Self::new`], with another deadline for a pull (default: 30 minutes; containerd itself
    /// ends a pull that makes no progress).
    pub fn with_pull_deadline(socket: &Path, pull: Duration) -> Result<Self, SocketError> {
        let deadlines = Deadlines {
            pull,
            ..Deadlines::default()
        };
        Self::with_deadlines(socket, deadlines)
    }

    fn with_deadlines(socket: &Path, deadlines: Deadlines) -> Result<Self, SocketError> {
        if !socket.is_absolute() {
            return Err(SocketError::Relative(socket.to_owned()));
        }
        Ok(Self {
            channel: Channel::new(socket, deadlines),
        })
    }
}

fn image_spec(reference: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: reference.to_owned(),
    }
}

impl ImageRuntime for Containerd {
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError> {
        let request = cri::VersionRequest::default();
        let path = "/runtime.v1.RuntimeService/Version";
        let answer: cri::VersionResponse = self
            .channel
            .quick("ask for the version", path, request)
            .await?;
        Ok(RuntimeVersion {
            name: answer.runtime_name,
            version: answer.runtime_version,
        })
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, RuntimeError> {
        // CRI reports which images are complete and which names refer to one image; containerd
        // reports the target of each name, and its labels. A name that appears between the two
        // calls is seen at the next call.
        let names = self.named().await?;
        let path = "/runtime.v1.ImageService/ListImages";
        let request = cri::ListImagesRequest {};
        let answer: cri::ListImagesResponse =
            self.channel.listing("list images", path, request).await?;
        let images = answer.images.into_iter();
        Ok(images.map(|image| combine(image, &names)).collect())
    }

    async fn in_use(&self) -> Result<BTreeSet<String>, RuntimeError> {
        let path = "/runtime.v1.RuntimeService/ListContainers";
        let request = cri::ListContainersRequest {};
        let answer: cri::ListContainersResponse = self
            .channel
            .listing("list containers", path, request)
            .await?;
        let used = answer.containers.into_iter();
        let mut used: BTreeSet<String> = used.flat_map(|c| [c.image_ref, c.image_id]).collect();
        used.remove("");
        Ok(used)
    }

    async fn pull(
        &self,
        reference: &str,
        credential: Option<&Credential>,
    ) -> Result<String, RuntimeError> {
        let request = cri::PullImageRequest {
            image: Some(image_spec(reference)),
            auth: credential.map(|credential| cri::AuthConfig {
                username: credential.username.clone(),
                password: credential.password.clone(),
                server_address: credential.server.clone(),
            }),
        };
        let path = "/runtime.v1.ImageService/PullImage";
        let answer: cri::PullImageResponse = self
            .channel
            .pulling("pull the image", path, request)
            .await?;
        Ok(answer.image_ref)
    }

    async fn tag(&self, source: &str, name: &str, marks: &Marks) -> Result<(), RuntimeError> {
        self.name_image(source, name, marks).await
    }

    async fn mark(&self, name: &str, marks: &Marks) -> Result<(), RuntimeError> {
        self.mark_name(name, marks).await
    }

    async fn untag(&self, name: &str) -> Result<(), RuntimeError> {
        self.delete_name(name).await
    }

    async fn remove(&self, reference: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveImageRequest {
            image: Some(image_spec(reference)),
        };
        let path = "/runtime.v1.ImageService/RemoveImage";
        let _: cri::RemoveImageResponse = self
            .channel
            .listing("remove the image", path, request)
            .await?;
        Ok(())
    }

    async fn config_path(&self) -> Result<ConfigPath, RuntimeError> {
        self.registry_config_path().await
    }
}

/// Combines CRI's view of an image with containerd's view of its names.
fn combine(image: cri::Image, names: &BTreeMap<String, ctr::Image>) -> RuntimeImage {
    let mut combine: Vec<ImageName> = image
        .repo_tags
        .iter()
        .chain(&image.repo_digests)
        .filter_map(|name| names.get(name))
        .map(images::image_name)
        .collect();
    combine.sort_by(|one, other| one.name.cmp(&other.name));
    RuntimeImage {
        id: image.id,
        names: combine,
        size: image.size,
        pinned: image.pinned,
    }
}
