//! Parses the ends of a copy.

use std::path::{Path, PathBuf};

use coral_distribution::Layout;
use coral_image::{Digest, ImageRef, Tag};

use super::archive::not_dash;
use super::{CopyEndpoint, Name};
use crate::failure::Failure;

/// Transports of other tools. None of them is the name of an image on Docker Hub.
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
/// What can be typed.
const SUPPORTED: &str = "HOST/PATH:TAG, HOST/PATH@DIGEST, oci:DIR[:TAG], oci-archive:FILE.tar[:TAG] and \
     docker-archive:FILE.tar[:NAME:TAG]";
/// Syntax of an archive in Docker's format.
const DOCKER_ARCHIVE: &str = "docker-archive:FILE.tar[:NAME:TAG]";

impl CopyEndpoint {
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
}

/// The transport that a text begins with, if any: a known name, or any word before a path.
/// `dir:5000/app` is an image at a host called `dir`.
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

/// Whether a text is the name of a file without a folder, such as `coral.tar` or
/// `coral.tar:latest`. As an image it would be one on Docker Hub.
fn is_named_like_an_archive(text: &str) -> bool {
    let name = text.split(':').next().unwrap_or_default();
    !text.contains(['/', '@']) && Path::new(name).extension().is_some_and(|it| it == "tar")
}

/// Splits `FILE[:NAME:TAG]` or `FILE:TAG` at the first colon: the file need not exist yet.
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

/// Splits `PATH:REFERENCE` if the path exists and what follows is not a tag.
fn path_and_reference(rest: &str) -> Option<(PathBuf, Name)> {
    let ends = rest.match_indices(':').map(|(at, _)| rest.split_at(at));
    let mut ends = ends.map(|(path, name)| (path, &name[1..]));
    let (path, reference) = ends.find(|(path, reference)| {
        // A tag followed by a digest is not a whole reference.
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

/// Splits `PATH[:TAG][@DIGEST]` or `PATH:REFERENCE`.
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

#[cfg(test)]
mod tests {
    use super::super::archive::STANDARD_OUTPUT;
    use super::super::name::name_in_docker;
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
            let failure = CopyEndpoint::parse(text).unwrap_err();
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
                matches!(CopyEndpoint::parse(image), Ok(CopyEndpoint::Image(..))),
                "{image}"
            );
        }
    }

    #[test]
    fn an_archive_without_its_transport_is_not_looked_for_at_docker_hub() {
        for file in ["coral.tar", "coral.tar:latest"] {
            let failure = CopyEndpoint::parse(file).unwrap_err();
            let said = failure.lines().collect::<String>();
            let expected = format!("for a file write oci-archive:{file},");
            assert!(said.contains(&expected), "{said}");
        }
        for image in ["quay.io/a/x.tar", "docker.io/library/coral.tar", "tar:1"] {
            assert!(CopyEndpoint::parse(image).is_ok(), "{image}");
        }
    }

    #[test]
    fn a_name_in_an_archive_of_dockers_stands_behind_the_file() {
        let image = |text| CopyEndpoint::parse(text).unwrap();
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
            let CopyEndpoint::DockerArchive(path, name) = image(text) else {
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
            assert!(CopyEndpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_reference_in_skopeos_spelling_is_told_in_ours() {
        let failure = CopyEndpoint::parse("docker://localhost:5000/x:1").unwrap_err();
        let said = failure.lines().collect::<String>();
        assert!(said.ends_with("write localhost:5000/x:1"), "{said}");
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
            let place = CopyEndpoint::parse(&format!("oci:{dir}:{reference}")).unwrap();
            assert_eq!(place.name().reference.as_deref(), Some(reference));
            place.begun(None).unwrap_err();
        }
        for tagged in ["1.0".to_owned(), pinned.replace("foo:", "")] {
            let place = CopyEndpoint::parse(&format!("oci:{dir}:{tagged}")).unwrap();
            assert_eq!(place.name().reference, None, "{tagged}");
        }
        let place = CopyEndpoint::parse(&format!("oci:{dir}:1.0")).unwrap();
        let CopyEndpoint::Layout(layout, _) = place else {
            panic!("a layout");
        };
        assert_eq!(layout.dir().display().to_string(), dir.to_string());
    }
}
