//! `index.json` of a layout: its entries and their names.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use coral_image::{
    Descriptor, Digest, ImageRef, MAX_MANIFEST_SIZE, Manifest, Tag, Version, media_type,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::beneath::LayoutFiles;
use super::files::{self, blob_file};
use super::names::{self, REF_NAME, has_tag, is_named, is_same_image, name};
use super::tree::Tree;
use crate::error::Problem;
use crate::transport::clean;

/// Largest index in bytes; an index of ten thousand images has a few megabytes.
const MAX_INDEX: usize = 64 * 1024 * 1024;
/// Most manifests that are examined for the referrers of one subject.
const MAX_SCANNED: usize = 100_000;

/// The JSON of `index.json`; fields that Coral does not know are kept.
pub(super) struct Index(Value);

/// Reads the index; a layout without one has no entries.
pub(super) async fn read(tree: &Tree) -> Result<Index, Problem> {
    match tree.read_bounded(Path::new("index.json"), MAX_INDEX).await {
        Ok(bytes) => Index::parse(&bytes),
        Err(Problem::Missing) => Ok(Index::empty()),
        Err(problem) => Err(problem),
    }
}

impl Index {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| Problem::Broken(format!("index.json is not JSON: {error}")))?;
        if value.get("manifests").is_some_and(Value::is_array) {
            let index = Self(value);
            if let Some((count, first)) = index.unreadable() {
                tracing::warn!(
                    count,
                    first,
                    "entries of index.json cannot be read and are skipped"
                );
            }
            return Ok(index);
        }
        let text = "index.json has no list of manifests".to_owned();
        Err(Problem::Broken(text))
    }

    #[cfg(fuzzing)]
    pub(super) fn value(&self) -> &Value {
        &self.0
    }

    fn empty() -> Self {
        Self(json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }))
    }

    /// How many entries are malformed, and what is wrong with the first of them.
    fn unreadable(&self) -> Option<(usize, String)> {
        let manifests = self.0["manifests"].as_array().into_iter().flatten();
        let read = manifests.map(Descriptor::deserialize).enumerate();
        let mut wrong = read.filter_map(|(at, read)| Some((at, read.err()?)));
        let (at, error) = wrong.next()?;
        let first = clean(&format!("manifests[{at}]: {error}"));
        Some((1 + wrong.count(), first))
    }

    /// All valid entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = Descriptor> {
        let manifests = self.0["manifests"].as_array().into_iter().flatten();
        manifests.filter_map(|value| Descriptor::deserialize(value).ok())
    }

    /// The entry of a tag or digest. If no entry is named by the tag itself, an entry whose name is
    /// a full reference with this tag is used. A tag that several images have is refused.
    pub(super) fn find(&self, version: &Version) -> Result<Option<Descriptor>, Problem> {
        let mut exact = self.entries().filter(|entry| is(entry, version));
        let Version::Tag(tag) = version else {
            return Ok(exact.next());
        };
        if let Some(found) = names::only(tag.as_str(), exact)? {
            return Ok(Some(found));
        }
        let with_tag = self.entries().filter(|it| has_tag(it, tag.as_str()));
        names::only(tag.as_str(), with_tag)
    }

    /// The entry with this name: first by the exact text, whatever its form, then by the image that
    /// the name refers to.
    pub(super) fn named(&self, wanted: &str) -> Result<Option<Descriptor>, Problem> {
        let exact = self.entries().filter(|entry| is_named(entry, wanted));
        let found = names::only(wanted, exact)?;
        let (None, Ok(image)) = (&found, ImageRef::parse(wanted)) else {
            return Ok(found);
        };
        let same = self.entries().filter(|entry| is_same_image(entry, &image));
        names::only(wanted, same)
    }

    fn has(&self, version: &Version) -> bool {
        self.entries().any(|entry| is(&entry, version))
    }

    fn push(&mut self, entry: &Descriptor) {
        if let Some(Value::Array(manifests)) = self.0.get_mut("manifests") {
            manifests.push(serde_json::to_value(entry).expect("a descriptor is plain JSON"));
        }
    }

    /// The names that are tags, without duplicates, sorted.
    pub(super) fn tags(&self) -> Vec<Tag> {
        let names: BTreeSet<Tag> = self
            .entries()
            .filter_map(|entry| Tag::parse(name(&entry)?).ok())
            .collect();
        names.into_iter().collect()
    }
}

fn is(entry: &Descriptor, version: &Version) -> bool {
    match version {
        Version::Tag(tag) => name(entry) == Some(tag.as_str()),
        Version::Digest(digest) => entry.digest == *digest,
    }
}

/// The exclusive lock on the directory: other tasks and other processes wait for it.
struct WriteLock {
    _directory: std::fs::File,
}

/// Waits for the lock that is needed to change the index. The lock is on the directory itself and
/// leaves no file behind.
async fn lock(dir: &Path) -> Result<WriteLock, Problem> {
    let dir = dir.to_owned();
    let locking = tokio::task::spawn_blocking(move || {
        let fail = |error| files::problem("cannot lock", &dir, error);
        std::fs::create_dir_all(&dir).map_err(fail)?;
        let directory = std::fs::File::open(&dir).map_err(fail)?;
        directory.lock().map_err(fail)?;
        Ok(WriteLock {
            _directory: directory,
        })
    });
    locking.await.expect("taking a lock does not panic")
}

/// Writes a manifest's bytes, then its entry. A manifest that is put by its digest gets an entry
/// without a name, which is removed when an index that contains it is put.
pub(super) async fn put(
    tree: &Tree,
    version: &Version,
    manifest: &Manifest,
) -> Result<(), Problem> {
    let digest = manifest.digest();
    let dir = tree.writable()?;
    let _lock = lock(dir.folder()).await?;
    files::write_whole(dir, &blob_file(&digest), manifest.bytes()).await?;
    let mut index = read(tree).await?;
    add_entry(&mut index, version, manifest);
    write(dir, &index).await
}

/// Adds the entry of a manifest, and removes those that it replaces.
pub(super) fn add_entry(index: &mut Index, version: &Version, manifest: &Manifest) {
    let digest = manifest.digest();
    let children: BTreeSet<_> = manifest
        .children()
        .iter()
        .map(|child| child.digest)
        .collect();
    edit(index, |known| {
        let nameless = name(known).is_none();
        let same = is(known, version) && !matches!(version, Version::Digest(_));
        !same && !(nameless && (known.digest == digest || children.contains(&known.digest)))
    });
    if matches!(version, Version::Tag(_)) || !index.has(version) {
        let mut entry = Descriptor::new(manifest.media_type(), digest, manifest.size());
        entry
            .artifact_type
            .clone_from(&manifest.body().artifact_type);
        if let Version::Tag(tag) = version {
            entry.annotations = Some([(REF_NAME.to_owned(), tag.to_string())].into());
        }
        index.push(&entry);
    }
}

pub(super) async fn remove(tree: &Tree, version: &Version) -> Result<(), Problem> {
    let dir = tree.writable()?;
    if files::size(dir, Path::new("index.json")).await?.is_none() {
        return Err(Problem::Missing);
    }
    let _lock = lock(dir.folder()).await?;
    let mut index = read(tree).await?;
    if !index.has(version) {
        return Err(Problem::Missing);
    }
    edit(&mut index, |known| !is(known, version));
    write(dir, &index).await
}

/// Keeps the entries that satisfy `wanted`, and those that are malformed.
fn edit(index: &mut Index, wanted: impl Fn(&Descriptor) -> bool) {
    if let Some(Value::Array(manifests)) = index.0.get_mut("manifests") {
        manifests.retain(|value| Descriptor::deserialize(value).map_or(true, |d| wanted(&d)));
    }
}

async fn write(dir: &LayoutFiles, index: &Index) -> Result<(), Problem> {
    let marker = Path::new("oci-layout");
    if files::size(dir, marker).await?.is_none() {
        files::write_whole(dir, marker, br#"{"imageLayoutVersion":"1.0.0"}"#).await?;
    }
    let bytes = serde_json::to_vec(&index.0).expect("JSON that was read can be written");
    files::write_whole(dir, Path::new("index.json"), &bytes).await
}

/// All manifests of the layout that have this subject.
pub(super) async fn referrers(tree: &Tree, subject: &Digest) -> Result<Vec<Descriptor>, Problem> {
    let index = read(tree).await?;
    let mut waiting: VecDeque<Descriptor> = index.entries().collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(entry) = waiting.pop_front() {
        if !seen.insert(entry.digest) || entry.size > MAX_MANIFEST_SIZE as u64 {
            continue;
        }
        if seen.len() > MAX_SCANNED {
            return Err(Problem::Broken(format!(
                "more than {MAX_SCANNED} manifests"
            )));
        }
        let file = blob_file(&entry.digest);
        let bytes = match tree.read_bounded(&file, MAX_MANIFEST_SIZE).await {
            Ok(bytes) => bytes,
            Err(Problem::Missing) => continue,
            Err(problem) => return Err(problem),
        };
        let media_type = Some(entry.media_type.as_str());
        let Ok(manifest) = Manifest::parse_pinned(bytes, media_type, &entry.digest) else {
            continue;
        };
        if manifest.subject().is_some_and(|s| s.digest == *subject) {
            found.push(manifest.descriptor());
        }
        waiting.extend(manifest.children().iter().cloned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: such an entry was skipped silently, and its image was reported as missing.
    #[test]
    fn entries_that_cannot_be_read_are_counted_and_the_first_is_named() {
        let good = json!({"mediaType": "a/b", "digest": Digest::sha256(b""), "size": 1});
        let odd = json!({"mediaType": "a/b", "digest": "sha256:12", "size": 1});
        let of = |entries: &[&Value]| {
            let index = json!({ "schemaVersion": 2, "manifests": entries });
            Index::parse(index.to_string().as_bytes()).unwrap()
        };
        assert_eq!(of(&[&good]).unreadable(), None);
        let index = of(&[&good, &odd, &good, &json!(7)]);
        let (count, first) = index.unreadable().unwrap();
        assert_eq!((count, index.entries().count()), (2, 2));
        assert!(first.starts_with("manifests[1]: "), "{first}");
    }
}
