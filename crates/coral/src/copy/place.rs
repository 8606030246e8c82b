//! The ends of a copy, as they are typed.

use std::collections::BTreeSet;
use std::fs::{File, FileType};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coral_distribution::{Client, Credentials, Endpoint, Layout, NewArchive};
use coral_image::{Digest, ImageRef, Tag, Version};
use coral_mirror::{Key, Site};

use crate::failure::Failure;

/// Other tools' transports. None is the name of an image at Docker Hub.
const FOREIGN: [&str; 12] = [
    "atomic",
    "containers-storage",
    "dir",
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
/// The file that `-` stands for as a destination.
const STANDARD_OUTPUT: &str = "/dev/stdout";
/// The file that `-` stands for as a source.
const STANDARD_INPUT: &str = "/dev/stdin";
/// What can be typed.
const SUPPORTED: &str = "HOST/PATH:TAG, HOST/PATH@DIGEST, oci:DIR[:TAG], oci-archive:FILE.tar[:TAG] and \
     docker-archive:FILE.tar[:NAME:TAG]";
/// How an archive in Docker's format is typed.
const DOCKER_ARCHIVE: &str = "docker-archive:FILE.tar[:NAME:TAG]";

/// One end of a copy, as typed.
#[derive(Debug)]
pub(crate) enum Place {
    Image(ImageRef, Name),
    Layout(Layout, Name),
    Archive(PathBuf, Name),
    /// What `docker save` writes and `docker load` reads.
    DockerArchive(PathBuf, Name),
}

/// What an image is called at one end, as far as that was typed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Name {
    tag: Option<Tag>,
    digest: Option<Digest>,
    /// A whole reference, which many tools write as the name of an image in a layout.
    reference: Option<String>,
}

impl Name {
    /// To read by: the digest if there is one.
    fn to_read(&self) -> Option<Version> {
        let tag = || self.tag.clone().map(Version::Tag);
        self.digest.map(Version::Digest).or_else(tag)
    }

    /// To write as: the tag if there is one.
    fn to_write(&self) -> Option<Version> {
        let digest = || self.digest.map(Version::Digest);
        self.tag.clone().map(Version::Tag).or_else(digest)
    }

    /// With the digest that a whole reference names in a layout.
    async fn resolved(mut self, layout: &Layout) -> Result<Self, Failure> {
        let Some(reference) = self.reference.take() else {
            return Ok(self);
        };
        let found = layout.named(&reference).await;
        let Some(entry) = found.map_err(|error| Failure::error(&error))? else {
            return Err(Failure::input(format!(
                "{}: no image in it is named {reference:?}",
                layout.dir().display()
            )));
        };
        self.tag = ImageRef::parse(&reference)
            .ok()
            .and_then(|image| image.tag().cloned());
        self.digest = Some(entry.digest);
        Ok(self)
    }
}

impl Place {
    /// `oci:DIR[:TAG]`, `oci:DIR[@DIGEST]`, the same with `oci-archive:FILE.tar`, else an image
    /// reference.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, name) = path_and_name(text, rest, "oci:DIR[:TAG]")?;
            return Ok(Self::Layout(Layout::new(dir), name));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, name) = path_and_name(text, rest, "oci-archive:FILE.tar[:TAG]")?;
            return Ok(Self::Archive(not_dash(file), name));
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, name) = docker_name(text, rest)?;
            return Ok(Self::DockerArchive(not_dash(file), name));
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
        if is_named_like_an_archive(text) {
            return Err(Failure::input(format!(
                "{text}: for a file write oci-archive:{text}, for an image of Docker Hub \
                 docker.io/library/{text}"
            )));
        }
        let image = ImageRef::parse(text);
        let image = image.map_err(|e| Failure::input(format!("{text}: {e}")))?;
        let last = text.rsplit('/').next().unwrap_or_default();
        let is_typed = last.contains([':', '@']);
        let name = Name {
            tag: image.tag().cloned().filter(|_| is_typed),
            digest: image.digest().copied(),
            reference: None,
        };
        Ok(Self::Image(image, name))
    }

    /// To read from: an archive becomes the layout in it, and a whole reference the digest that it
    /// names there.
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

    /// To write to: an archive becomes a layout that is packed in the end. An image from `source`
    /// keeps its name in an archive of Docker's that was typed without one.
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
                "{reference:?} is no tag, and an image is written under a tag"
            )));
        }
        let Self::Archive(file, name) = self else {
            return Ok((self, None));
        };
        let archive = NewArchive::create(file).map_err(|error| Failure::error(&error))?;
        Ok((Self::Layout(archive.layout(), name), Some(archive)))
    }

    /// Whether it is written to standard output, under whatever name.
    pub(crate) fn is_standard_output(&self) -> bool {
        let (Self::Archive(file, _) | Self::DockerArchive(file, _)) = self else {
            return false;
        };
        file.as_os_str() == STANDARD_OUTPUT || is_same_file(file, std::io::stdout().as_fd())
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
            Self::Archive(file, _) | Self::DockerArchive(file, _) => {
                Site::layout(Layout::new(file))
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

    /// The version that was typed, to read by.
    pub(crate) fn version(&self) -> Option<Version> {
        self.name().to_read()
    }

    /// The version to write: what was typed, else what the source is called. A tag goes before a
    /// digest, which the image is held against all the same.
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
            Self::Image(image, _) => Some(Key::of(image)),
            Self::Layout(..) | Self::Archive(..) | Self::DockerArchive(..) => None,
        }
    }

    /// What is copied: what was typed; of a layout without a tag, the only thing in it.
    pub(crate) async fn source_version(&self, typed: &str) -> Result<Version, Failure> {
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
            [] if !layout.dir().exists() => {
                Err(Failure::input(format!("{typed}: there is no such folder")))
            }
            [] => Err(Failure::input(format!("{typed}: it holds no image"))),
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

/// Whether a text is the name of a file without a folder, such as `coral.tar` or `coral.tar:latest`. As
/// an image it would be one of Docker Hub.
fn is_named_like_an_archive(text: &str) -> bool {
    let name = text.split(':').next().unwrap_or_default();
    !text.contains(['/', '@']) && Path::new(name).extension().is_some_and(|it| it == "tar")
}

/// What the files of an archive are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Oci,
    Docker,
}

/// The file that is meant where `-` was typed.
fn not_dash(file: PathBuf) -> PathBuf {
    match file.to_str() {
        Some("-") => PathBuf::from(STANDARD_OUTPUT),
        _ => file,
    }
}

/// Takes `FILE[:NAME:TAG]` apart, or `FILE:TAG`, at the first colon: the file need not be there yet.
fn docker_name(text: &str, rest: &str) -> Result<(PathBuf, Name), Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::input(format!("{text}: {e}"));
    let (file, typed) = match rest.split_once(':') {
        Some((file, typed)) => (file, Some(typed)),
        None => (rest, None),
    };
    if file.is_empty() || typed == Some("") {
        return Err(wrong(&format!("expected {DOCKER_ARCHIVE}")));
    }
    let mut name = Name::default();
    match typed {
        None => {}
        Some(typed) if typed.contains([':', '/', '@']) => {
            let image = ImageRef::parse(typed).map_err(|error| wrong(&error))?;
            if image.digest().is_some() {
                return Err(wrong(&format!(
                    "an image in it has no digest to be named by; expected {DOCKER_ARCHIVE}"
                )));
            }
            name.tag = image.tag().cloned();
            name.reference = Some(typed.to_owned());
        }
        Some(tag) => name.tag = Some(Tag::parse(tag).map_err(|error| wrong(&error))?),
    }
    Ok((PathBuf::from(file), name))
}

/// What an image is called in an archive of Docker's: as was typed, or else as at its source, with the
/// tag that was typed.
fn name_in_docker(name: &Name, source: Option<&Place>) -> Option<String> {
    if name.reference.is_some() {
        return name.reference.clone();
    }
    let Some(Place::Image(image, _)) = source else {
        return None;
    };
    let tag = name.tag.as_ref().or(image.tag())?;
    Some(format!("{}:{tag}", image.repository()))
}

/// The layout in an archive; `-` is standard input. What comes through a pipe is kept in a temporary
/// file.
async fn open_archive(file: PathBuf, format: Format) -> Result<Layout, Failure> {
    let file = if file.as_os_str() == STANDARD_OUTPUT {
        PathBuf::from(STANDARD_INPUT)
    } else {
        file
    };
    let found = std::fs::metadata(&file).ok();
    let is = |kind: fn(&FileType) -> bool| found.as_ref().is_some_and(|f| kind(&f.file_type()));
    if is(FileType::is_fifo) || is(FileType::is_socket) {
        let place = file.display().to_string();
        let pipe = tokio::task::spawn_blocking(move || open_pipe(&file)).await;
        let pipe = pipe
            .expect("opening a pipe does not panic")
            .map_err(|e| Failure::input(format!("{place}: cannot be opened: {e}")))?;
        let layout = match format {
            Format::Oci => Layout::read_archive(pipe, &place).await,
            Format::Docker => Layout::read_docker_archive(pipe, &place).await,
        };
        return layout.map_err(|error| Failure::error(&error));
    }
    if found.is_some() && !is(FileType::is_file) && !is(FileType::is_dir) {
        return Err(Failure::input(format!(
            "{}: neither a file nor a pipe, which an archive is read from",
            file.display()
        )));
    }
    let layout = match format {
        Format::Oci => Layout::open_archive(file).await,
        Format::Docker => Layout::open_docker_archive(file).await,
    };
    layout.map_err(|error| Failure::error(&error))
}

/// The end of a pipe to read from. A socket cannot be opened by its path, but standard input may be
/// one.
fn open_pipe(path: &Path) -> std::io::Result<File> {
    if path.as_os_str() == STANDARD_INPUT {
        return std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from);
    }
    File::open(path)
}

/// Takes `PATH:REFERENCE` apart where the path is there and what follows is no tag.
fn path_and_reference(rest: &str) -> Option<(PathBuf, Name)> {
    let ends = rest.match_indices(':').map(|(at, _)| rest.split_at(at));
    let mut ends = ends.map(|(path, name)| (path, &name[1..]));
    let (path, reference) = ends.find(|(path, reference)| {
        // A tag with a digest behind it is no name of its own.
        let before = reference.split('@').next().unwrap_or_default();
        let is_whole = !before.is_empty() && Tag::parse(before).is_err();
        is_whole && !path.is_empty() && Path::new(path).exists()
    })?;
    let name = Name {
        reference: Some(reference.to_owned()),
        ..Name::default()
    };
    Some((PathBuf::from(path), name))
}

/// Takes `PATH[:TAG][@DIGEST]` or `PATH:REFERENCE` apart.
fn path_and_name(text: &str, rest: &str, expected: &str) -> Result<(PathBuf, Name), Failure> {
    if let Some(found) = path_and_reference(rest) {
        return Ok(found);
    }
    let wrong = |e: &dyn std::fmt::Display| Failure::input(format!("{text}: {e}"));
    let mut name = Name::default();
    let mut path = rest;
    if let Some((before, digest)) = rest.rsplit_once('@')
        && !digest.contains('/')
    {
        name.digest = Some(Digest::parse(digest).map_err(|e| wrong(&e))?);
        path = before;
    }
    if let Some((before, tag)) = path.rsplit_once(':')
        && !tag.contains('/')
    {
        name.tag = Some(Tag::parse(tag).map_err(|e| wrong(&e))?);
        path = before;
    }
    if path.is_empty() {
        return Err(Failure::input(format!("{text}: expected {expected}")));
    }
    Ok((PathBuf::from(path), name))
}

/// Whether a path leads to an open file.
fn is_same_file(path: &Path, open: BorrowedFd<'_>) -> bool {
    let open = open.try_clone_to_owned().map(std::fs::File::from);
    let open = open.and_then(|open| open.metadata());
    matches!(
        (std::fs::metadata(path), open),
        (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino())
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn other_transports_are_named_and_hosts_with_a_port_are_not_taken_for_one() {
        for (text, name) in [
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
    fn an_archive_without_its_transport_is_not_looked_for_at_docker_hub() {
        for file in ["coral.tar", "coral.tar:latest"] {
            let failure = Place::parse(file).unwrap_err();
            let said = failure.lines().collect::<String>();
            let expected = format!("for a file write oci-archive:{file},");
            assert!(said.contains(&expected), "{said}");
        }
        for image in ["quay.io/a/x.tar", "docker.io/library/coral.tar", "tar:1"] {
            assert!(Place::parse(image).is_ok(), "{image}");
        }
    }

    #[tokio::test]
    async fn a_folder_that_does_not_exist_is_said_not_to_exist() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str| format!("oci:{}", dir.path().join(name).display());
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        for (name, expected) in [
            ("none", ": there is no such folder"),
            ("empty", ": it holds no image"),
        ] {
            let typed = folder(name);
            let place = Place::parse(&typed).unwrap();
            let failure = place.source_version(&typed).await.unwrap_err();
            let said = failure.lines().collect::<String>();
            assert_eq!(said, format!("{typed}{expected}"));
        }
    }

    #[test]
    fn a_name_in_an_archive_of_dockers_stands_behind_the_file() {
        let image = |text| Place::parse(text).unwrap();
        let source = image("quay.io/acme/web:1");
        for (text, file, own, from_source) in [
            (
                "docker-archive:x.tar",
                "x.tar",
                None,
                Some("quay.io/acme/web:1"),
            ),
            (
                "docker-archive:x.tar:2",
                "x.tar",
                None,
                Some("quay.io/acme/web:2"),
            ),
            (
                "docker-archive:x.tar:web:3",
                "x.tar",
                Some("web:3"),
                Some("web:3"),
            ),
            (
                "docker-archive:/a/x.tar:localhost:5000/web:3",
                "/a/x.tar",
                Some("localhost:5000/web:3"),
                Some("localhost:5000/web:3"),
            ),
            (
                "docker-archive:-",
                STANDARD_OUTPUT,
                None,
                Some("quay.io/acme/web:1"),
            ),
        ] {
            let Place::DockerArchive(path, name) = image(text) else {
                panic!("{text}");
            };
            assert_eq!(path, Path::new(file), "{text}");
            assert_eq!(name_in_docker(&name, None).as_deref(), own, "{text}");
            let named = name_in_docker(&name, Some(&source));
            assert_eq!(named.as_deref(), from_source, "{text}");
        }
        for text in [
            "docker-archive:",
            "docker-archive:x.tar:",
            "docker-archive:x.tar:a b",
            "docker-archive:x.tar:Web:1",
            "docker-archive:x.tar:web@sha256:12",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reference_in_skopeos_spelling_is_told_in_ours() {
        let failure = Place::parse("docker://localhost:5000/x:1").unwrap_err();
        let said = failure.lines().collect::<String>();
        assert!(said.ends_with("write localhost:5000/x:1"), "{said}");
    }

    #[test]
    fn a_tag_is_written_and_a_digest_beside_it_is_kept_to_be_held_against() {
        let hex = "a".repeat(64);
        let source = Place::parse("quay.io/a:1").unwrap();
        let read = source.version().unwrap();
        for prefix in [
            "localhost:5000/x",
            "oci:dir",
            "oci-archive:x.tar",
            "oci:a@b/dir",
        ] {
            let both = Place::parse(&format!("{prefix}:2@sha256:{hex}")).unwrap();
            let tag = Version::Tag(Tag::parse("2").unwrap());
            assert_eq!(both.version_to_write(&source, &read), tag, "{prefix}");
            let digest = both.digest().unwrap();
            assert_eq!(both.version(), Some(Version::Digest(digest)), "{prefix}");
            let alone = Place::parse(&format!("{prefix}@sha256:{hex}")).unwrap();
            let written = alone.version_to_write(&source, &read);
            assert_eq!(written, Version::Digest(digest), "{prefix}");
            let none = Place::parse(prefix).unwrap();
            assert_eq!(none.version_to_write(&source, &read), read, "{prefix}");
        }
        Place::parse("oci:dir@latest").unwrap_err();
    }

    #[test]
    fn a_name_in_a_layout_may_be_a_whole_reference_and_is_no_name_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().display();
        let pinned = format!("foo:1.0@sha256:{}", "a".repeat(64));
        for reference in [
            "docker.io/library/foo:1.0",
            "host:5000/foo",
            "foo:1.0",
            "a name",
            &pinned,
        ] {
            let place = Place::parse(&format!("oci:{dir}:{reference}")).unwrap();
            assert_eq!(place.name().reference.as_deref(), Some(reference));
            place.begun(None).unwrap_err();
        }
        for tagged in ["1.0".to_owned(), pinned.replace("foo:", "")] {
            let place = Place::parse(&format!("oci:{dir}:{tagged}")).unwrap();
            assert_eq!(place.name().reference, None, "{tagged}");
        }
        let place = Place::parse(&format!("oci:{dir}:1.0")).unwrap();
        let Place::Layout(layout, _) = place else {
            panic!("a layout");
        };
        assert_eq!(layout.dir().display().to_string(), dir.to_string());
    }

    #[test]
    fn a_dash_is_standard_output_or_input() {
        let place = Place::parse("oci-archive:-:1").unwrap();
        assert!(place.is_standard_output());
        assert!(
            !Place::parse("oci-archive:-x:1")
                .unwrap()
                .is_standard_output()
        );
    }

    #[tokio::test]
    async fn an_archive_is_read_from_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let mut header = tar::Header::new_gnu();
        header.set_size(index.len() as u64);
        let mut tar = tar::Builder::new(Vec::new());
        let appended = tar.append_data(&mut header, "index.json", &index[..]);
        appended.unwrap();
        let tar = tar.into_inner().unwrap();
        let target = path.clone();
        let writing = std::thread::spawn(move || std::fs::write(target, tar));
        let layout = open_archive(path, Format::Oci).await.unwrap();
        writing.join().unwrap().unwrap();
        for _ in 0..2 {
            assert!(layout.entries().await.unwrap().is_empty());
        }
        open_archive(PathBuf::from("/dev/null"), Format::Oci)
            .await
            .unwrap_err();
    }

    #[test]
    fn an_open_file_is_known_by_any_of_its_names() {
        let (one, other) = (
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        let open = format!("/proc/self/fd/{}", one.as_file().as_raw_fd());
        for path in [Path::new(&open), one.path()] {
            assert!(is_same_file(path, one.as_fd()));
            assert!(!is_same_file(path, other.as_fd()));
        }
        assert!(!is_same_file(Path::new("/none"), one.as_fd()));
    }

    #[test]
    fn a_destination_without_a_name_takes_the_tag_of_a_source_that_is_read_by_digest() {
        let source = format!("quay.io/a:1@sha256:{}", "a".repeat(64));
        let source = Place::parse(&source).unwrap();
        let read = source.version().unwrap();
        let destination = Place::parse("localhost:5000/x").unwrap();
        let tag = Version::Tag(Tag::parse("1").unwrap());
        assert_eq!(destination.version_to_write(&source, &read), tag);
    }
}
