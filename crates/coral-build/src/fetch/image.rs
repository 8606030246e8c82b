//! A source that is in an image or an OCI artifact.

mod download;

use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use coral_distribution::BlobSource;
use coral_image::{
    Descriptor, Digest, Host, ImageRef, Manifest, ManifestKind, Platform, Repository, Version,
};
use coral_mirror::RetryPolicy;
use tokio::sync::mpsc;

use super::destination::Destination;
use super::unpack::{ArchiveKind, unpack};
use super::{FetchError, blocking};
use crate::access::{self, AccessError, CredentialSource};
use crate::contract::{BuildContainer, ImageSource, path};
use crate::login::{self, Login};
use crate::pod::Pod;

/// The annotation of a layer of an artifact that says which file it is.
const TITLE: &str = "org.opencontainers.image.title";
/// The annotation of a layer that is a packed folder, as ORAS writes it.
const PACKED: &str = "io.deis.oras.content.unpack";

/// How a layer becomes files.
#[derive(Debug, PartialEq, Eq)]
enum Layer {
    /// It is a tar.
    Tar,
    /// It is one file of this name.
    File(String),
}

/// Unpacks an image's layers, or writes an artifact's files; the digest of what was read. An image of the
/// internal registry is read with a credential of the controller.
pub(super) async fn fetch(
    pod: &Pod,
    credentials: &dyn CredentialSource,
    source: &ImageSource,
    registry: &str,
    mut to: Destination,
) -> Result<(Digest, Destination), FetchError> {
    let reference = ImageRef::parse(&source.reference)?;
    let registry = Host::parse(registry)?;
    let mut from = SourceRepository::open(pod, credentials, &reference, &registry).await?;
    let root = from.manifest(&reference.version()).await?;
    let image = match for_this_platform(&root)? {
        Some(digest) => from.manifest(&Version::Digest(digest)).await?,
        None => root.clone(),
    };
    let layers = image.body().layers.clone().unwrap_or_default();
    if layers.is_empty() {
        return Err(FetchError::ImageForm("has no layers".to_owned()));
    }
    for descriptor in layers {
        let layer = layer(&descriptor)?;
        let (chunks, mut bytes) = download::channel();
        let writing = blocking(to, move |to| write_layer(layer, &mut bytes, to));
        // A failed download is reported as such, and not as an archive that ends early.
        ((), to) = tokio::try_join!(from.download(&descriptor, chunks), writing)?;
    }
    Ok((root.digest(), to))
}

/// The repository of the source image. Requests that fail are repeated; if the internal registry refuses
/// the controller's credential, with a new one.
struct SourceRepository<'a> {
    repository: Repository,
    login: Login<'a>,
    policy: RetryPolicy,
}

impl<'a> SourceRepository<'a> {
    async fn open(
        pod: &Pod,
        credentials: &'a dyn CredentialSource,
        reference: &ImageRef,
        registry: &Host,
    ) -> Result<Self, AccessError> {
        let repository = reference.repository().clone();
        let host = repository.host();
        let (login, policy) = if host == registry {
            let client = access::internal(pod, registry)?;
            (
                Login::renewed(client, credentials).await?,
                login::INTERNAL_RETRY,
            )
        } else {
            let folder = pod.path(path::SOURCE_CREDENTIAL);
            let (client, credentials) = access::outside(&folder, host)?;
            let login = Login::constant(client, credentials, BuildContainer::default());
            (login, RetryPolicy::default())
        };
        Ok(Self {
            repository,
            login,
            policy,
        })
    }

    async fn manifest(&mut self, version: &Version) -> Result<Manifest, FetchError> {
        let (repository, policy) = (&self.repository, self.policy);
        let asking = self.login.again(repository, policy, async |client| {
            client.manifest(version).await
        });
        asking.await.map_err(FetchError::Image)
    }

    /// Passes on the bytes of a blob. A download that is interrupted goes on where it was: with another
    /// credential if the key that signs them is replaced meanwhile.
    async fn download(
        &mut self,
        blob: &Descriptor,
        chunks: mpsc::Sender<Bytes>,
    ) -> Result<(), FetchError> {
        let (repository, policy) = (&self.repository, self.policy);
        let source = BlobSource::new(self.login.at(repository).into(), blob.clone());
        let passed = AtomicU64::new(0);
        let downloading = self.login.again(repository, policy, async |client| {
            download::pass_on(&source.with_endpoint(client.into()), &passed, &chunks).await
        });
        downloading
            .await
            .map_err(|error| FetchError::Image(error.0))
    }
}

/// The image in an index that is for the running platform, or the only one. `None` for an image.
fn for_this_platform(root: &Manifest) -> Result<Option<Digest>, FetchError> {
    if root.kind() == ManifestKind::Image {
        return Ok(None);
    }
    let here = Platform::current();
    let is_for_here = |child: &&Descriptor| {
        let platform = child.platform.as_ref();
        platform.is_some_and(|platform| here.accepts(platform))
    };
    match root.children() {
        [only] => Ok(Some(only.digest)),
        several => match several.iter().find(is_for_here) {
            Some(child) => Ok(Some(child.digest)),
            None => Err(FetchError::ImageForm(format!(
                "is an index without an image for {here}"
            ))),
        },
    }
}

/// How a layer becomes files, by its media type and annotations.
fn layer(descriptor: &Descriptor) -> Result<Layer, FetchError> {
    let annotation = |key: &str| descriptor.annotations.as_ref()?.get(key).cloned();
    if annotation(PACKED).as_deref() == Some("true") {
        return Ok(Layer::Tar);
    }
    if let Some(title) = annotation(TITLE) {
        return Ok(Layer::File(title));
    }
    let kind = descriptor.media_type.as_str();
    if kind.contains("tar") {
        return Ok(Layer::Tar);
    }
    let shown: String = kind.chars().take(120).collect();
    Err(FetchError::ImageForm(format!(
        "has a layer of type {shown:?}, which is neither a tar nor a file with the annotation {TITLE}"
    )))
}

fn write_layer(layer: Layer, bytes: &mut dyn Read, to: &mut Destination) -> Result<(), FetchError> {
    match layer {
        Layer::Tar => unpack(bytes, ArchiveKind::Layer, to),
        Layer::File(name) => to.file(Path::new(&name), 0o644, None, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(media_type: &str, annotations: &[(&str, &str)]) -> Descriptor {
        let digest = coral_image::Algorithm::Sha256.digest(b"");
        let pairs = annotations.iter();
        let pairs = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Descriptor {
            annotations: Some(pairs.collect()),
            ..Descriptor::new(media_type, digest, 0)
        }
    }

    #[test]
    fn a_layer_is_a_tar_or_a_named_file() {
        let layer = |kind: &str, annotations: &[(&str, &str)]| {
            layer(&described(kind, annotations)).map_err(|error| error.to_string())
        };
        let tar = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(layer(tar, &[]), Ok(Layer::Tar));
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(layer(docker, &[]), Ok(Layer::Tar));
        let file = Layer::File("Dockerfile".to_owned());
        assert_eq!(layer("text/plain", &[(TITLE, "Dockerfile")]), Ok(file));
        let packed = [(TITLE, "web"), (PACKED, "true")];
        assert_eq!(layer(tar, &packed), Ok(Layer::Tar));
        let refused = layer("text/plain", &[]).unwrap_err();
        assert!(
            refused.contains("has a layer of type \"text/plain\""),
            "{refused}"
        );
    }
}
