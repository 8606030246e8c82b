//! What `coral up` remembers about images across restarts: a file per mirror in the data folder,
//! with the digests of its mirrored images. They show the next process which tags have moved
//! meanwhile, at the source or in the mirror.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coral_api::mirrored_images::{MirroredImage, MirroredState, MissingPart};
use coral_image::{Digest, Host, RepositoryPath};
use coral_mirror::Snapshot;
use serde::{Deserialize, Serialize};

/// The folder of the files, in the data folder.
const FOLDER: &str = "mirrored";
/// Separates namespace and name in a file name; neither can contain it.
const BETWEEN: char = '_';
/// Largest file that is read: enough for the most images that a mirror can have, with long names.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// A file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedImages {
    /// The registry that holds the images; absent for the embedded one, whose address may differ at
    /// the next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    /// The path prefix of all of them, if they are not at the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    /// By `PATH:TAG` at the destination.
    images: BTreeMap<String, Image>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Image {
    digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing: Vec<MissingPart>,
}

/// Where a mirror copies to.
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyTarget<'a> {
    pub(super) destination: &'a Host,
    /// The path prefix that it copies to, if it is not the root of the registry.
    pub(super) prefix: Option<&'a RepositoryPath>,
}

/// Images that a mirror copied to a former destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FormerDestination {
    /// The registry and the path prefix.
    pub(super) place: String,
    pub(super) images: usize,
}

/// The files, and where they are.
pub(super) struct Memory {
    folder: PathBuf,
    /// The embedded registry.
    embedded: Host,
    /// Digest of what was last written, by mirror.
    written: BTreeMap<String, Digest>,
}

impl Memory {
    pub(super) fn new(data: &Path, embedded: &Host) -> Self {
        Self {
            folder: data.join(FOLDER),
            embedded: embedded.clone(),
            written: BTreeMap::new(),
        }
    }

    /// What is remembered about a mirror with this destination. Nothing, if the file cannot be read
    /// or is about another destination.
    pub(super) fn read(&self, mirror: &str, destination: &Host) -> Snapshot {
        let remembered = self.read_file(mirror).unwrap_or_default();
        if remembered.destination != self.name_of(destination) {
            return Snapshot::default();
        }
        let images = remembered.images.into_iter().map(|(name, image)| {
            let place = format!("{destination}/{name}");
            MirroredImage {
                digest: Some(image.digest),
                missing: image.missing,
                ..MirroredImage::new(&name, &place, MirroredState::Pending)
            }
        });
        Snapshot {
            is_memory: true,
            images: images.collect(),
            ..Snapshot::default()
        }
    }

    /// What the mirror copied to another destination than this one.
    pub(super) fn left_behind(
        &self,
        mirror: &str,
        now: CopyTarget<'_>,
    ) -> Option<FormerDestination> {
        let before = self.read_file(mirror)?;
        let is_same = before.destination == self.name_of(now.destination)
            && before.prefix.as_deref() == now.prefix.map(RepositoryPath::as_str);
        if is_same || before.images.is_empty() {
            return None;
        }
        let host = before.destination;
        let host = host.unwrap_or_else(|| self.embedded.to_string());
        Some(FormerDestination {
            place: match before.prefix {
                Some(prefix) => format!("{host}/{prefix}"),
                None => host,
            },
            images: before.images.len(),
        })
    }

    /// Saves what a mirror knows, if that differs from what was last written.
    pub(super) fn write(
        &mut self,
        mirror: &str,
        CopyTarget {
            destination,
            prefix,
        }: CopyTarget<'_>,
        snapshot: Snapshot,
    ) -> io::Result<()> {
        let root = format!("{destination}/");
        let images = snapshot.into_memory().images.into_iter();
        let images = images.filter_map(|image| {
            let name = image.destination.strip_prefix(&root)?.to_owned();
            let (digest, missing) = (image.digest?, image.missing);
            Some((name, Image { digest, missing }))
        });
        let text = serde_json::to_vec(&SavedImages {
            destination: self.name_of(destination),
            prefix: prefix.map(ToString::to_string),
            images: images.collect(),
        })?;
        let digest = Digest::sha256(&text);
        if self.written.get(mirror) == Some(&digest) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let path = self.path(mirror);
        // Written under another name first, so that a crash leaves either the old file or the new
        // one.
        let next = path.with_extension("next");
        fs::write(&next, &text)?;
        fs::rename(&next, &path)?;
        self.written.insert(mirror.to_owned(), digest);
        Ok(())
    }

    /// Forgets a mirror that was removed.
    pub(super) fn forget(&mut self, mirror: &str) {
        self.written.remove(mirror);
        // Images that no longer exist are forgotten.
        let _ = fs::remove_file(self.path(mirror));
    }

    fn read_file(&self, mirror: &str) -> Option<SavedImages> {
        let path = self.path(mirror);
        let size = fs::metadata(&path).ok()?.len();
        let text = (size <= MAX_FILE).then(|| fs::read(&path).ok())??;
        serde_json::from_slice(&text)
            .inspect_err(|error| {
                let path = path.display();
                tracing::warn!(%path, %error, "the record of mirrored images cannot be read");
            })
            .ok()
    }

    fn name_of(&self, destination: &Host) -> Option<String> {
        (*destination != self.embedded).then(|| destination.to_string())
    }

    fn path(&self, mirror: &str) -> PathBuf {
        let name = mirror.replace('/', &BETWEEN.to_string());
        self.folder.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Host {
        Host::parse(name).unwrap()
    }

    fn at(destination: &str, digest: &Digest) -> Snapshot {
        let place = format!("{destination}/quay.io/a:1");
        let image = MirroredImage {
            digest: Some(digest.to_string()),
            missing: vec![MissingPart::Platforms, MissingPart::Referrers],
            ..MirroredImage::new("quay.io/a:1", &place, MirroredState::Mirrored)
        };
        Snapshot {
            images: vec![image],
            ..Snapshot::default()
        }
    }

    fn target(destination: &Host) -> CopyTarget<'_> {
        CopyTarget {
            destination,
            prefix: None,
        }
    }

    fn known(snapshot: &Snapshot) -> Vec<(&str, Option<&str>, MirroredState)> {
        let images = snapshot.images.iter();
        images
            .map(|image| (&*image.destination, image.digest.as_deref(), image.state))
            .collect()
    }

    #[test]
    fn digests_are_remembered_though_the_registry_beside_the_mirrors_has_another_port() {
        let data = tempfile::tempdir().unwrap();
        let digest = Digest::sha256(b"x");
        let before = host("127.0.0.1:5000");
        let mut memory = Memory::new(data.path(), &before);
        memory
            .write("default/m", target(&before), at("127.0.0.1:5000", &digest))
            .unwrap();
        let now = host("127.0.0.1:5001");
        let memory = Memory::new(data.path(), &now);
        let read = memory.read("default/m", &now);
        let text = digest.to_string();
        let place = "127.0.0.1:5001/quay.io/a:1";
        assert_eq!(
            known(&read),
            [(place, Some(&*text), MirroredState::Pending)]
        );
        // Which platforms are missing is seen, which referrers were missed is not.
        assert_eq!(read.images[0].missing, [MissingPart::Referrers]);
        // Another registry has nothing of it.
        assert_eq!(
            memory.read("default/m", &host("r.example")),
            Snapshot::default()
        );
    }

    #[test]
    fn a_mirror_that_is_gone_is_forgotten_and_a_broken_file_remembers_nothing() {
        let data = tempfile::tempdir().unwrap();
        let place = host("r.example");
        let mut memory = Memory::new(data.path(), &host("127.0.0.1:5000"));
        for name in ["default/m", "default/n"] {
            let snapshot = at("r.example", &Digest::sha256(b"x"));
            memory.write(name, target(&place), snapshot).unwrap();
        }
        memory.forget("default/m");
        assert_eq!(memory.read("default/m", &place), Snapshot::default());
        assert_eq!(memory.read("default/n", &place).images.len(), 1);
        fs::write(data.path().join("mirrored/default_n.json"), "{").unwrap();
        assert_eq!(memory.read("default/n", &place), Snapshot::default());
    }

    #[test]
    fn what_was_copied_to_another_place_is_left_behind_there() {
        let data = tempfile::tempdir().unwrap();
        let (embedded, other) = (host("127.0.0.1:5000"), host("r.example"));
        let mut memory = Memory::new(data.path(), &embedded);
        let below = RepositoryPath::parse("team").unwrap();
        let with_prefix = |destination| CopyTarget {
            prefix: Some(&below),
            ..target(destination)
        };
        let left = |memory: &Memory, now| {
            let left = memory.left_behind("default/m", now);
            left.map(|left| (left.place, left.images))
        };
        assert_eq!(left(&memory, target(&other)), None);
        let snapshot = at("r.example", &Digest::sha256(b"x"));
        memory
            .write("default/m", with_prefix(&other), snapshot)
            .unwrap();
        assert_eq!(left(&memory, with_prefix(&other)), None);
        let expected = Some(("r.example/team".to_owned(), 1));
        assert_eq!(left(&memory, target(&other)), expected);
        assert_eq!(left(&memory, with_prefix(&embedded)), expected);
        // Where nothing was copied, nothing stays.
        memory
            .write("default/m", target(&embedded), Snapshot::default())
            .unwrap();
        assert_eq!(left(&memory, target(&other)), None);
    }
}
