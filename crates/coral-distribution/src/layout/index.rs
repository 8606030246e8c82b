//! `index.json` of a layout: what is in it, and under which names.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use coral_image::{Descriptor, Digest, MAX_MANIFEST_SIZE, Manifest, Tag, Version, media_type};
use serde_json::{Value, json};

use super::files;
use crate::error::Problem;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// An index of ten thousand images has a few megabytes.
const MAX_INDEX: usize = 64 * 1024 * 1024;
/// Manifests looked at for referrers of one subject.
const MAX_SCANNED: usize = 100_000;

/// `index.json` as it is; what Coral does not know stays.
pub(super) struct Index(Value);

/// Reads the index; a layout without one is empty.
pub(super) async fn read(dir: &Path) -> Result<Index, Problem> {
    let path = dir.join("index.json");
    let bytes = match files::read_bounded(&path, MAX_INDEX).await {
        Ok(bytes) => bytes,
        Err(Problem::Missing) => return Ok(Index::empty()),
        Err(problem) => return Err(problem),
    };
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::Protocol(format!("index.json is not JSON: {error}")))?;
    match value.get("manifests") {
        Some(Value::Array(_)) => Ok(Index(value)),
        _ => Err(Problem::protocol("index.json has no list of manifests")),
    }
}

impl Index {
    fn empty() -> Self {
        Self(json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [] }))
    }

    fn entries(&self) -> impl Iterator<Item = (&Value, Descriptor)> {
        self.0["manifests"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|value| {
                let descriptor = serde_json::from_value(value.clone()).ok()?;
                Some((value, descriptor))
            })
    }

    /// The entry of a tag or digest. An index with one nameless entry has it under every tag that
    /// nothing else has? No: a name must be written to be found.
    pub(super) fn find(&self, version: &Version) -> Option<Descriptor> {
        self.entries()
            .find(|(_, entry)| is(entry, version))
            .map(|(_, entry)| entry)
    }

    /// Names that are tags, each once, sorted.
    pub(super) fn tags(&self) -> Vec<Tag> {
        let names: BTreeSet<Tag> = self
            .entries()
            .filter_map(|(_, entry)| Tag::parse(name(&entry)?).ok())
            .collect();
        names.into_iter().collect()
    }
}

fn name(entry: &Descriptor) -> Option<&str> {
    entry
        .annotations
        .as_ref()?
        .get(REF_NAME)
        .map(String::as_str)
}

fn is(entry: &Descriptor, version: &Version) -> bool {
    match version {
        Version::Tag(tag) => name(entry) == Some(tag.as_str()),
        Version::Digest(digest) => entry.digest == *digest,
    }
}

/// One writer at a time for each directory, in this process.
fn lock_for(dir: &Path) -> Arc<tokio::sync::Mutex<()>> {
    type Locks = Mutex<HashMap<PathBuf, Weak<tokio::sync::Mutex<()>>>>;
    static LOCKS: LazyLock<Locks> = LazyLock::new(Mutex::default);
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    locks.retain(|_, lock| lock.strong_count() > 0);
    if let Some(lock) = locks.get(&dir).and_then(Weak::upgrade) {
        return lock;
    }
    let lock = Arc::default();
    locks.insert(dir, Arc::downgrade(&lock));
    lock
}

/// Writes a manifest's bytes, then its entry.
pub(super) async fn put(dir: &Path, version: &Version, manifest: &Manifest) -> Result<(), Problem> {
    let digest = manifest.digest();
    files::write_whole(&files::blob_path(dir, &digest), manifest.bytes()).await?;
    let lock = lock_for(dir);
    let _turn = lock.lock().await;
    let mut index = read(dir).await?;
    if matches!(version, Version::Digest(_)) && index.find(version).is_some() {
        return Ok(());
    }
    let mut entry = Descriptor::new(manifest.media_type(), digest, manifest.size());
    entry
        .artifact_type
        .clone_from(&manifest.body().artifact_type);
    if let Version::Tag(tag) = version {
        entry.annotations = Some([(REF_NAME.to_owned(), tag.to_string())].into());
    }
    edit(&mut index, |known| !is_replaced(known, version, &digest));
    if let Some(Value::Array(manifests)) = index.0.get_mut("manifests") {
        manifests.push(serde_json::to_value(entry).expect("a descriptor is plain JSON"));
    }
    write(dir, &index).await
}

/// A tag's old entry gives way, and so does a nameless one of the same manifest.
fn is_replaced(known: &Descriptor, version: &Version, digest: &Digest) -> bool {
    is(known, version) || (name(known).is_none() && known.digest == *digest)
}

pub(super) async fn remove(dir: &Path, version: &Version) -> Result<(), Problem> {
    let lock = lock_for(dir);
    let _turn = lock.lock().await;
    let mut index = read(dir).await?;
    if index.find(version).is_none() {
        return Err(Problem::Missing);
    }
    edit(&mut index, |known| !is(known, version));
    write(dir, &index).await
}

/// Keeps the entries that can be read and are wanted, and those that cannot be read.
fn edit(index: &mut Index, wanted: impl Fn(&Descriptor) -> bool) {
    if let Some(Value::Array(manifests)) = index.0.get_mut("manifests") {
        manifests
            .retain(|value| serde_json::from_value(value.clone()).map_or(true, |d| wanted(&d)));
    }
}

async fn write(dir: &Path, index: &Index) -> Result<(), Problem> {
    let marker = dir.join("oci-layout");
    if files::size(&marker).await?.is_none() {
        files::write_whole(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#).await?;
    }
    let bytes = serde_json::to_vec(&index.0).expect("JSON that was read can be written");
    files::write_whole(&dir.join("index.json"), &bytes).await
}

/// All manifests of the layout that have this subject.
pub(super) async fn referrers(dir: &Path, subject: &Digest) -> Result<Vec<Descriptor>, Problem> {
    let index = read(dir).await?;
    let mut waiting: VecDeque<Descriptor> = index.entries().map(|(_, entry)| entry).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    while let Some(entry) = waiting.pop_front() {
        if !seen.insert(entry.digest) || entry.size > MAX_MANIFEST_SIZE as u64 {
            continue;
        }
        if seen.len() > MAX_SCANNED {
            return Err(Problem::Protocol(format!(
                "more than {MAX_SCANNED} manifests"
            )));
        }
        let path = files::blob_path(dir, &entry.digest);
        let bytes = match files::read_bounded(&path, MAX_MANIFEST_SIZE).await {
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
