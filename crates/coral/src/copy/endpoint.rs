//! The ends of a copy.

mod archive;
mod name;
mod typed;

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use coral_distribution::{Client, Credentials, Endpoint, Layout, NewArchive};
use coral_image::{Digest, ImageRef, Tag, Version};
use coral_mirror::{CopySide, Key};

use archive::{Format, STANDARD_OUTPUT, is_same_file, open_archive};
pub(crate) use name::Name;
use name::name_in_docker;

use crate::failure::Failure;

/// One end of a copy, as typed.
#[derive(Debug)]
pub(crate) enum CopyEndpoint {
    Image(ImageRef, Name),
    Layout(Layout, Name),
    Archive(PathBuf, Name),
    /// What `docker save` writes and `docker load` reads.
    DockerArchive(PathBuf, Name),
}

impl CopyEndpoint {
    /// The endpoint opened as a source: an archive becomes the layout in it, and a whole reference
    /// the digest that it names there.
    pub(crate) async fn opened(self) -> Result<Self, Failure> {
        let (layout, name) = match self {
            Self::Image(..) => return Ok(self),
            Self::Layout(layout, name) => (layout, name),
            Self::Archive(file, name) => (open_archive(file, Format::Oci).await?, name),
            Self::DockerArchive(file, name) => (open_archive(file, Format::Docker).await?, name),
        };
        let name = name.resolved(&layout).await?;
        Ok(Self::Layout(layout, name))
    }

    /// The endpoint opened as a destination: an archive becomes a layout that is packed at the end.
    /// In a Docker archive for which no name was typed, an image keeps its name in `source`.
    pub(crate) fn begun(
        self,
        source: Option<&Self>,
    ) -> Result<(Self, Option<NewArchive>), Failure> {
        if let Self::DockerArchive(file, name) = self {
            let whole = name_in_docker(&name, source);
            let archive = NewArchive::create_docker(file, whole);
            let archive = archive.map_err(|error| Failure::error(&error))?;
            let name = Name {
                tag: name.tag,
                ..Name::default()
            };
            return Ok((Self::Layout(archive.layout(), name), Some(archive)));
        }
        if let Some(reference) = &self.name().reference {
            return Err(Failure::input(format!(
                "{reference:?} is not a tag: an image can be written only under a tag"
            )));
        }
        let Self::Archive(file, name) = self else {
            return Ok((self, None));
        };
        let archive = NewArchive::create(file).map_err(|error| Failure::error(&error))?;
        Ok((Self::Layout(archive.layout(), name), Some(archive)))
    }

    /// Whether it is standard output, under any of its names.
    pub(crate) fn is_standard_output(&self) -> bool {
        let (Self::Archive(file, _) | Self::DockerArchive(file, _)) = self else {
            return false;
        };
        file.as_os_str() == STANDARD_OUTPUT || is_same_file(file, std::io::stdout().as_fd())
    }

    pub(crate) fn site(&self, client: &Client, credentials: &Arc<Credentials>) -> CopySide {
        match self {
            Self::Image(image, _) => {
                let repository = image.repository();
                CopySide::new(
                    client.repository(repository, credentials.clone()).into(),
                    repository,
                )
            }
            Self::Layout(layout, _) => CopySide::layout(layout.clone()),
            Self::Archive(file, _) | Self::DockerArchive(file, _) => {
                CopySide::layout(Layout::new(file))
            }
        }
    }

    /// Where manifests and blobs are written.
    pub(crate) fn endpoint(&self, client: &Client, credentials: &Arc<Credentials>) -> Endpoint {
        match self {
            Self::Image(image, _) => client
                .repository(image.repository(), credentials.clone())
                .into(),
            Self::Layout(layout, _) => layout.clone().into(),
            Self::Archive(file, _) | Self::DockerArchive(file, _) => Layout::new(file).into(),
        }
    }

    fn name(&self) -> &Name {
        match self {
            Self::Image(_, name)
            | Self::Layout(_, name)
            | Self::Archive(_, name)
            | Self::DockerArchive(_, name) => name,
        }
    }

    /// The version that was typed, for reading.
    pub(crate) fn version(&self) -> Option<Version> {
        self.name().to_read()
    }

    /// The version to write: what was typed, else the version of the source. A tag takes precedence
    /// over a digest, against which the image is checked in any case.
    pub(crate) fn version_to_write(&self, source: &Self, read: &Version) -> Version {
        let own = self.name().to_write();
        let of_source = || source.name().tag.clone().map(Version::Tag);
        own.or_else(of_source).unwrap_or_else(|| read.clone())
    }

    /// The digest that was typed.
    pub(crate) fn digest(&self) -> Option<Digest> {
        self.name().digest
    }

    pub(crate) fn key(&self) -> Option<Key> {
        match self {
            Self::Image(image, _) => Some(Key::from_reference(image)),
            Self::Layout(..) | Self::Archive(..) | Self::DockerArchive(..) => None,
        }
    }

    /// The version to copy: what was typed, or the only image of a layout.
    pub(crate) async fn source_version(&self, typed: &str) -> Result<Version, Failure> {
        if let Self::Layout(layout, _) = self
            && typed.starts_with("oci:")
            && !layout.dir().exists()
        {
            return Err(Failure::input(format!("{typed}: no such folder")));
        }
        if let Some(version) = self.version() {
            return Ok(version);
        }
        let Self::Layout(layout, _) = self else {
            return Ok(Version::Tag(Tag::latest()));
        };
        let entries = layout
            .entries()
            .await
            .map_err(|error| Failure::error(&error))?;
        let images: BTreeSet<Digest> = entries.iter().map(|entry| entry.digest).collect();
        match Vec::from_iter(images).as_slice() {
            [only] => Ok(Version::Digest(*only)),
            [] => Err(Failure::input(format!("{typed}: it holds no image"))),
            several => Err(Failure::input(format!(
                "{typed}: the layout holds {} images; name one with {typed}:TAG",
                several.len()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_that_does_not_exist_is_said_not_to_exist() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| format!("oci:{}", dir.path().join(name).display());
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        for (name, expected) in [
            ("none", ": no such folder"),
            ("none:1", ": no such folder"),
            ("empty", ": it holds no image"),
        ] {
            let typed = folder(name);
            let place = CopyEndpoint::parse(&typed).unwrap();
            let failure = place.source_version(&typed).await.unwrap_err();
            let said = failure.lines().collect::<String>();
            assert_eq!(said, format!("{typed}{expected}"));
        }
    }

    #[test]
    fn a_tag_is_written_and_a_digest_beside_it_is_kept_to_be_held_against() {
        let hex = "a".repeat(64);
        let source = CopyEndpoint::parse("quay.io/a:1").unwrap();
        let read = source.version().unwrap();
        for prefix in [
            "localhost:5000/x",
            "oci:dir",
            "oci-archive:x.tar",
            "oci:a@b/dir",
        ] {
            let both = CopyEndpoint::parse(&format!("{prefix}:2@sha256:{hex}")).unwrap();
            let tag = Version::Tag(Tag::parse("2").unwrap());
            assert_eq!(both.version_to_write(&source, &read), tag, "{prefix}");
            let digest = both.digest().unwrap();
            assert_eq!(both.version(), Some(Version::Digest(digest)), "{prefix}");
            let alone = CopyEndpoint::parse(&format!("{prefix}@sha256:{hex}")).unwrap();
            let written = alone.version_to_write(&source, &read);
            assert_eq!(written, Version::Digest(digest), "{prefix}");
            let none = CopyEndpoint::parse(prefix).unwrap();
            assert_eq!(none.version_to_write(&source, &read), read, "{prefix}");
        }
        CopyEndpoint::parse("oci:dir@latest").unwrap_err();
    }

    #[test]
    fn a_destination_without_a_name_takes_the_tag_of_a_source_that_is_read_by_digest() {
        let source = format!("quay.io/a:1@sha256:{}", "a".repeat(64));
        let source = CopyEndpoint::parse(&source).unwrap();
        let read = source.version().unwrap();
        let destination = CopyEndpoint::parse("localhost:5000/x").unwrap();
        let tag = Version::Tag(Tag::parse("1").unwrap());
        assert_eq!(destination.version_to_write(&source, &read), tag);
    }
}
