//! The names by which an entry of `index.json` can be chosen.

use coral_image::{Descriptor, ImageRef};

use crate::error::Problem;

/// The annotation with the name of an image; most tools write a tag, some a full reference.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with the full reference, which containerd, and thus Docker, writes beside the
/// tag.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Most images that a message lists.
const MAX_LISTED: usize = 10;

/// The name according to the OCI specification.
pub(super) fn name(entry: &Descriptor) -> Option<&str> {
    annotation(entry, REF_NAME)
}

fn annotation<'a>(entry: &'a Descriptor, key: &str) -> Option<&'a str> {
    entry.annotations.as_ref()?.get(key).map(String::as_str)
}

fn names(entry: &Descriptor) -> impl Iterator<Item = &str> {
    let keys = [CONTAINERD_NAME, REF_NAME].into_iter();
    keys.filter_map(|key| annotation(entry, key))
}

/// Whether one of the entry's names is a full reference with this tag.
pub(super) fn has_tag(entry: &Descriptor, tag: &str) -> bool {
    names(entry).any(|name| {
        let name = name.split_once('@').map_or(name, |(name, _)| name);
        name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
    })
}

/// Whether one of the entry's names is exactly this text.
pub(super) fn is_named(entry: &Descriptor, wanted: &str) -> bool {
    names(entry).any(|name| name == wanted)
}

/// Whether one of the entry's names refers to the same image: `foo:1.0` is
/// `docker.io/library/foo:1.0`. If the wanted name has a digest, it must be the entry's digest.
pub(super) fn is_same_image(entry: &Descriptor, wanted: &ImageRef) -> bool {
    names(entry).any(|name| {
        let Ok(name) = ImageRef::parse(name) else {
            return false;
        };
        let is_digest = wanted.digest() == Some(&entry.digest);
        let is_tag = wanted.tag().is_none() || wanted.tag() == name.tag();
        name == *wanted || (is_digest && is_tag && name.repository() == wanted.repository())
    })
}

/// The only matching entry; several entries with different content are refused with an error that
/// lists their names.
pub(super) fn only(
    wanted: &str,
    found: impl IntoIterator<Item = Descriptor>,
) -> Result<Option<Descriptor>, Problem> {
    let mut found: Vec<Descriptor> = found.into_iter().collect();
    if found.iter().all(|entry| entry.digest == found[0].digest) {
        return Ok((!found.is_empty()).then(|| found.swap_remove(0)));
    }
    let listed = found.iter().take(MAX_LISTED).map(|entry| {
        let name = names(entry).find(|name| *name != wanted).unwrap_or(wanted);
        let name = crate::transport::clean(name);
        format!("{name} ({})", entry.digest)
    });
    let mut listed: Vec<String> = listed.collect();
    if found.len() > MAX_LISTED {
        listed.push(format!("{} more", found.len() - MAX_LISTED));
    }
    Err(Problem::Broken(format!(
        "{wanted} is the name of several images: {}; choose one by its whole name or by @DIGEST",
        listed.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use coral_image::{Digest, Tag, Version};
    use serde_json::json;

    use super::super::index::Index;
    use super::*;

    /// An index as `ctr images export` and `docker save` write it: a tag, and the full reference
    /// beside it.
    fn index(images: &[(&str, Option<&str>, &str)]) -> Index {
        let images = images.iter().map(|(name, whole, content)| {
            let mut names = serde_json::Map::new();
            names.insert(REF_NAME.to_owned(), json!(name));
            if let Some(whole) = whole {
                names.insert(CONTAINERD_NAME.to_owned(), json!(whole));
            }
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
                "digest": Digest::sha256(content.as_bytes()), "annotations": names,
            })
        });
        let images: Vec<_> = images.collect();
        Index::parse(json!({ "manifests": images }).to_string().as_bytes()).unwrap()
    }

    fn tag(index: &Index, tag: &str) -> Result<Option<Digest>, Problem> {
        let found = index.find(&Version::Tag(Tag::parse(tag).unwrap()))?;
        Ok(found.map(|entry| entry.digest))
    }

    fn named(index: &Index, name: &str) -> Option<Digest> {
        index.named(name).unwrap().map(|entry| entry.digest)
    }

    #[test]
    fn an_image_is_found_by_either_of_its_names_however_it_is_written() {
        let bar = Digest::sha256(b"bar");
        let index = index(&[
            ("1.0", Some("docker.io/library/foo:1.0"), "foo"),
            ("1.0", Some("docker.io/library/bar:1.0"), "bar"),
            ("localhost:5000/x/y:2", None, "y"),
        ]);
        for name in ["docker.io/library/bar:1.0", "bar:1.0", "docker.io/bar:1.0"] {
            assert_eq!(named(&index, name), Some(bar), "{name}");
            let with_digest = format!("{name}@{bar}");
            assert_eq!(named(&index, &with_digest), Some(bar), "{with_digest}");
            let with_another = format!("{name}@{}", Digest::sha256(b"foo"));
            assert_eq!(named(&index, &with_another), None, "{with_another}");
        }
        let by_digest = format!("docker.io/library/bar@{bar}");
        assert_eq!(named(&index, &by_digest), Some(bar));
        assert_eq!(named(&index, "bar:2.0"), None);
        assert_eq!(named(&index, "quay.io/bar:1.0"), None);
        assert_eq!(tag(&index, "2").unwrap(), Some(Digest::sha256(b"y")));
    }

    #[test]
    fn a_name_with_a_digest_or_with_spaces_can_be_chosen_as_it_stands() {
        let digest = Digest::sha256(b"foo");
        let name = format!("docker.io/library/foo@{}", Digest::sha256(b"an index"));
        let index = index(&[("my image", Some(&name), "foo")]);
        for name in ["my image", &name] {
            assert_eq!(named(&index, name), Some(digest), "{name}");
        }
    }

    /// Regression: the first of them was copied silently.
    #[test]
    fn a_name_of_several_images_is_refused_with_their_names() {
        let index = index(&[
            ("1.0", Some("docker.io/library/foo:1.0"), "foo"),
            ("1.0", Some("docker.io/library/bar:1.0"), "bar"),
            ("2.0", Some("docker.io/library/foo:2.0"), "foo"),
            ("2.0", Some("docker.io/library/bar:2.0"), "foo"),
            ("a/b:3", None, "b"),
            ("a/c:3", None, "c"),
        ]);
        for (wanted, names) in [
            (
                "1.0",
                ["library/foo:1.0 (sha256:", "library/bar:1.0 (sha256:"],
            ),
            ("3", ["a/b:3 (sha256:", "a/c:3 (sha256:"]),
        ] {
            let said = tag(&index, wanted).unwrap_err().to_string();
            assert!(names.iter().all(|name| said.contains(name)), "{said}");
        }
        let same = tag(&index, "2.0").unwrap();
        assert_eq!(same, Some(Digest::sha256(b"foo")));
    }

    #[test]
    fn the_list_of_names_is_bounded() {
        let contents: Vec<String> = (0..50).map(|number| number.to_string()).collect();
        let images: Vec<_> = contents.iter().map(|it| ("1", None, it.as_str())).collect();
        let said = tag(&index(&images), "1").unwrap_err().to_string();
        assert!(said.contains("40 more"), "{said}");
    }
}
