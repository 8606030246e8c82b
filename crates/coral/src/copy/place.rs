//! The ends of a copy, as they are typed.

use std::path::PathBuf;
use std::sync::Arc;

use coral_distribution::{Client, Credentials, Endpoint, Layout, NewArchive};
use coral_image::{ImageRef, Tag, Version};
use coral_mirror::{Key, Site};

use crate::failure::Failure;

/// Other tools' transports. None is the name of an image at Docker Hub.
const FOREIGN: [&str; 13] = [
    "atomic",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "file",
    "oci-dir",
    "oci-layout",
    "ocidir",
    "ocifile",
    "ostree",
    "sif",
    "tarball",
];
/// What can be typed.
const SUPPORTED: &str =
    "HOST/PATH:TAG, HOST/PATH@DIGEST, oci:DIR[:TAG] and oci-archive:FILE.tar[:TAG]";

/// One end of a copy, as typed.
#[derive(Debug)]
pub(crate) enum Place {
    Image(ImageRef, bool),
    Layout(Layout, Option<Version>),
    Archive(PathBuf, Option<Version>),
}

impl Place {
    /// `oci:DIR[:TAG]`, `oci:DIR[@DIGEST]`, the same with `oci-archive:FILE.tar`, else an image
    /// reference.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, version) = path_and_version(text, rest, "oci:DIR[:TAG]")?;
            return Ok(Self::Layout(Layout::new(dir), version));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, version) = path_and_version(text, rest, "oci-archive:FILE.tar[:TAG]")?;
            return Ok(Self::Archive(file, version));
        }
        if let Some(name) = transport(text) {
            return Err(Failure::input(format!(
                "{text}: the transport {name}: is not supported; what is: {SUPPORTED}"
            )));
        }
        if let Some(image) = text.strip_prefix("docker://") {
            return Err(Failure::input(format!(
                "{text}: no docker:// is needed: write {image}"
            )));
        }
        let image = ImageRef::parse(text);
        let image = image.map_err(|e| Failure::input(format!("{text}: {e}")))?;
        let last = text.rsplit('/').next().unwrap_or_default();
        Ok(Self::Image(image, last.contains([':', '@'])))
    }

    /// To read from: an archive becomes the layout in it.
    pub(crate) async fn opened(self) -> Result<Self, Failure> {
        let Self::Archive(file, version) = self else {
            return Ok(self);
        };
        let layout = Layout::open_archive(file).await;
        let layout = layout.map_err(|error| Failure::error(&error))?;
        Ok(Self::Layout(layout, version))
    }

    /// To write to: an archive becomes a layout that is packed in the end.
    pub(crate) fn begun(self) -> Result<(Self, Option<NewArchive>), Failure> {
        let Self::Archive(file, version) = self else {
            return Ok((self, None));
        };
        let archive = NewArchive::create(file).map_err(|error| Failure::error(&error))?;
        Ok((Self::Layout(archive.layout(), version), Some(archive)))
    }

    pub(crate) fn site(&self, client: &Client, credentials: &Arc<Credentials>) -> Site {
        match self {
            Self::Image(image, _) => {
                let repository = image.repository();
                Site::new(
                    client.repository(repository, credentials.clone()).into(),
                    repository,
                )
            }
            Self::Layout(layout, _) => Site::layout(layout.clone()),
            Self::Archive(file, _) => Site::layout(Layout::new(file)),
        }
    }

    /// Where manifests and blobs are written.
    pub(crate) fn endpoint(&self, client: &Client, credentials: &Arc<Credentials>) -> Endpoint {
        match self {
            Self::Image(image, _) => client
                .repository(image.repository(), credentials.clone())
                .into(),
            Self::Layout(layout, _) => layout.clone().into(),
            Self::Archive(file, _) => Layout::new(file).into(),
        }
    }

    /// The version that was typed.
    pub(crate) fn version(&self) -> Option<Version> {
        match self {
            Self::Image(image, true) => Some(image.version()),
            Self::Image(_, false) => None,
            Self::Layout(_, version) | Self::Archive(_, version) => version.clone(),
        }
    }

    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Self::Image(image, _) => Some(Key::of(image)),
            Self::Layout(..) | Self::Archive(..) => None,
        }
    }

    /// What is copied: what was typed; of a layout without a tag, the only thing in it.
    pub(crate) async fn source_version(&self, typed: &str) -> Result<Version, Failure> {
        let Self::Layout(layout, None) = self else {
            return Ok(self
                .version()
                .unwrap_or_else(|| Version::Tag(Tag::latest())));
        };
        let entries = layout
            .entries()
            .await
            .map_err(|error| Failure::error(&error))?;
        match entries.as_slice() {
            [only] => Ok(Version::Digest(only.digest)),
            [] => Err(Failure::input(format!("{typed}: no image is in there"))),
            several => Err(Failure::input(format!(
                "{typed}: the layout holds {} images; name one with {typed}:TAG",
                several.len()
            ))),
        }
    }
}

/// The transport that a text begins with, if it is one: a name that is known to be one, or any word
/// before a path. `dir:5000/app` is an image at a host called `dir`.
fn transport(text: &str) -> Option<&str> {
    let (name, rest) = text.split_once(':')?;
    let port = rest.split('/').next().unwrap_or_default();
    let is_host = rest.contains('/') && port.parse::<u16>().is_ok();
    let is_path = ["/", "./", "../", "~/"]
        .iter()
        .any(|start| rest.starts_with(start) && !rest.starts_with("//"));
    let is_word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let is_transport = FOREIGN.contains(&name) || (is_word && is_path);
    (is_transport && !is_host).then_some(name)
}

/// Takes `PATH[:TAG]` or `PATH[@DIGEST]` apart.
fn path_and_version(
    text: &str,
    rest: &str,
    expected: &str,
) -> Result<(PathBuf, Option<Version>), Failure> {
    let wrong = |e| Failure::input(format!("{text}: {e}"));
    let (path, version) = if let Some((path, digest)) = rest.split_once('@') {
        (path, Some(Version::parse(digest).map_err(wrong)?))
    } else {
        match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => {
                (path, Some(Version::Tag(Tag::parse(tag).map_err(wrong)?)))
            }
            _ => (rest, None),
        }
    };
    if path.is_empty() {
        return Err(Failure::input(format!("{text}: expected {expected}")));
    }
    Ok((PathBuf::from(path), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_transports_are_named_and_hosts_with_a_port_are_not_taken_for_one() {
        for (text, name) in [
            ("docker-archive:x.tar", "docker-archive"),
            ("docker-archive:x.tar:foo/bar:1", "docker-archive"),
            ("docker-daemon:debian:12", "docker-daemon"),
            ("containers-storage:debian", "containers-storage"),
            (
                "containers-storage:localhost/debian:1",
                "containers-storage",
            ),
            ("dir:x", "dir"),
            ("dir:/tmp/x", "dir"),
            ("dir:5000", "dir"),
            ("file:///tmp/x", "file"),
            ("oci-archiv:/tmp/x.tar:1", "oci-archiv"),
            ("ocii:./x", "ocii"),
        ] {
            let failure = Place::parse(text).unwrap_err();
            let said = failure.lines().collect::<String>();
            assert!(said.contains(&format!("the transport {name}: ")), "{said}");
            assert!(said.contains("oci-archive:FILE.tar"), "{said}");
        }
        for image in [
            "localhost:5000/x",
            "registry:5000/x",
            "dir:5000/x",
            "debian:12",
            "docker:24",
            "localhost/dir:1",
            "docker.io/library/sif:1",
        ] {
            assert!(
                matches!(Place::parse(image), Ok(Place::Image(..))),
                "{image}"
            );
        }
    }

    #[test]
    fn a_reference_in_skopeos_spelling_is_told_in_ours() {
        let failure = Place::parse("docker://localhost:5000/x:1").unwrap_err();
        let said = failure.lines().collect::<String>();
        assert!(said.ends_with("write localhost:5000/x:1"), "{said}");
    }
}
