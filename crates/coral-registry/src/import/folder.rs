//! The storage folder of a distribution registry, as it is on disk.
//!
//! ```text
//! docker/registry/v2/blobs/<alg>/<2 hex>/<hex>/data                    all content
//! docker/registry/v2/repositories/<path>/_layers/<alg>/<hex>/link      the repository has the blob
//! docker/registry/v2/repositories/<path>/_manifests/revisions/<alg>/<hex>/link   and the manifest
//! docker/registry/v2/repositories/<path>/_manifests/tags/<tag>/current/link      and the tag
//! docker/registry/v2/repositories/<path>/_uploads/                     what is on its way in
//! ```
//!
//! A link is a file that contains a digest. When a link is deleted, its folder stays. The folder is
//! untrusted: no symbolic link is followed, and what is read into memory is bounded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use coral_distribution::{FolderEntry, LayoutFiles};
use coral_image::{Digest, MAX_MANIFEST_SIZE, Manifest, RepositoryPath, Tag};

use super::{ImportError, Skipped};

const ROOT: &str = "docker/registry/v2";
/// Most entries of one folder; each takes about 100 bytes of memory.
const MOST_ENTRIES: usize = 1_000_000;
/// The longest digest has 135 bytes.
const MOST_LINK: u64 = 256;
/// The longest path of a repository.
const MOST_PATH: usize = 255;

/// The storage folder of a distribution registry.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    files: LayoutFiles,
}

/// The content of one repository.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Its manifests, sorted by digest.
    pub(super) revisions: Vec<Digest>,
    /// The tags that point to each of them.
    pub(super) tags: BTreeMap<Digest, Vec<Tag>>,
}

impl Folder {
    pub(super) fn open(folder: &Path) -> Result<Self, ImportError> {
        let files = LayoutFiles::new(folder);
        let found = files.metadata(&Path::new(ROOT).join("repositories"));
        match found {
            Ok(found) if found.is_dir() => Ok(Self { files }),
            Ok(_) => Err(ImportError::NoRegistry(folder.to_owned())),
            Err(error) if is_absent(&error) => Err(ImportError::NoRegistry(folder.to_owned())),
            Err(source) => Err(ImportError::Read {
                path: folder.to_owned(),
                source,
            }),
        }
    }

    /// The repositories, and folders among them that are not repositories.
    pub(super) fn repositories(&self) -> (Vec<RepositoryPath>, Vec<Skipped>) {
        let (mut found, mut skipped) = (vec![], vec![]);
        let mut waiting = vec![String::new()];
        while let Some(path) = waiting.pop() {
            let entries = match self.list(&repositories().join(&path)) {
                Ok(entries) => entries,
                Err(error) => {
                    skipped.push(Skipped::new(shown(&path), error));
                    continue;
                }
            };
            let mut is_repository = false;
            for FolderEntry { name, is_folder } in entries {
                let inner = match name.to_str() {
                    Some(name) if path.is_empty() => name.to_owned(),
                    Some(name) => format!("{path}/{name}"),
                    None => {
                        let name = format!("{path}/{}", name.display());
                        skipped.push(Skipped::new(shown(&name), "its name is not valid UTF-8"));
                        continue;
                    }
                };
                match name.to_str() {
                    Some("_manifests" | "_layers" | "_uploads") if is_folder => {
                        is_repository = true;
                    }
                    Some(name)
                        if is_folder && !name.starts_with('_') && inner.len() <= MOST_PATH =>
                    {
                        waiting.push(inner);
                    }
                    _ => skipped.push(Skipped::new(shown(&inner), "not a part of a repository")),
                }
            }
            match RepositoryPath::parse(&path) {
                _ if !is_repository => {}
                Ok(path) => found.push(path),
                Err(error) => skipped.push(Skipped::new(shown(&path), error)),
            }
        }
        found.sort_unstable();
        (found, skipped)
    }

    /// The content of one repository, and items in it that cannot be used.
    pub(super) fn contents(&self, path: &RepositoryPath) -> (Contents, Vec<Skipped>) {
        let (mut contents, mut skipped) = (Contents::default(), vec![]);
        self.read_revisions(path, &mut contents, &mut skipped);
        self.read_tags(path, &mut contents, &mut skipped);
        (contents, skipped)
    }

    fn read_revisions(
        &self,
        path: &RepositoryPath,
        contents: &mut Contents,
        skipped: &mut Vec<Skipped>,
    ) {
        let revisions = repository(path).join("_manifests/revisions");
        let mut take = |what: String, found: Result<Option<Digest>, String>| match found {
            Ok(digest) => contents.revisions.extend(digest),
            Err(why) => skipped.push(Skipped::new(format!("{path}, {what}"), why)),
        };
        let algorithms = match self.list_if_there(&revisions) {
            Ok(algorithms) => algorithms,
            Err(error) => return take("its manifests".to_owned(), Err(error.to_string())),
        };
        for FolderEntry {
            name: algorithm, ..
        } in algorithms
        {
            let entries = match self.list(&revisions.join(&algorithm)) {
                Ok(entries) => entries,
                Err(error) => {
                    take(quoted(&algorithm), Err(error.to_string()));
                    continue;
                }
            };
            for FolderEntry { name, .. } in entries {
                let link = revisions.join(&algorithm).join(&name).join("link");
                let named = format!("{}:{}", algorithm.display(), name.display());
                let found = match Digest::parse(&named) {
                    Ok(digest) => self.link_to(&link, Some(digest)),
                    Err(error) => Err(error.to_string()),
                };
                take(format!("manifest {}", shown(&named)), found);
            }
        }
        contents.revisions.sort_unstable();
    }

    fn read_tags(
        &self,
        path: &RepositoryPath,
        contents: &mut Contents,
        skipped: &mut Vec<Skipped>,
    ) {
        let tags = repository(path).join("_manifests/tags");
        let entries = match self.list_if_there(&tags) {
            Ok(entries) => entries,
            Err(error) => {
                skipped.push(Skipped::new(format!("{path}, its tags"), error));
                return;
            }
        };
        for FolderEntry { name, .. } in entries {
            let tag = name
                .to_str()
                .ok_or_else(|| "its name is not valid UTF-8".to_owned());
            let tag = tag.and_then(|name| Tag::parse(name).map_err(|error| error.to_string()));
            let found = tag.and_then(|tag| {
                let digest = self.link_to(&tags.join(&name).join("current/link"), None)?;
                let Some(digest) = digest else {
                    return Ok(());
                };
                if contents.revisions.binary_search(&digest).is_err() {
                    return Err(format!(
                        "it points at {digest}, which the repository does not have"
                    ));
                }
                contents.tags.entry(digest).or_default().push(tag);
                Ok(())
            });
            if let Err(why) = found {
                skipped.push(Skipped::new(format!("{path}, tag {}", quoted(&name)), why));
            }
        }
    }

    /// The digest in a link; `None` if the link was deleted.
    fn link_to(&self, link: &Path, expected: Option<Digest>) -> Result<Option<Digest>, String> {
        let text = match self.read(link, MOST_LINK) {
            Ok(text) => text,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(format!("its link cannot be read: {error}")),
        };
        let text = String::from_utf8_lossy(&text);
        let digest = Digest::parse(text.trim()).map_err(|error| format!("its link: {error}"))?;
        match expected {
            Some(expected) if digest != expected => Err(format!("its link contains {digest}")),
            _ => Ok(Some(digest)),
        }
    }

    /// A manifest, compared with its digest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Manifest, String> {
        let bytes = self.read(&data(digest), MAX_MANIFEST_SIZE as u64);
        let bytes = bytes.map_err(|error| format!("it cannot be read: {error}"))?;
        Manifest::parse_pinned(Bytes::from(bytes), None, digest).map_err(|error| error.to_string())
    }

    /// The file of a blob that the repository has; `None` if it does not have the blob.
    pub(super) fn blob(
        &self,
        path: &RepositoryPath,
        digest: &Digest,
    ) -> Result<Option<File>, String> {
        let mut link = repository(path).join("_layers");
        link.extend([digest.algorithm().name(), &digest.hex(), "link"]);
        if self.link_to(&link, Some(*digest))?.is_none() {
            return Ok(None);
        }
        let file = self.files.open(&data(digest));
        file.map(Some)
            .map_err(|error| format!("its bytes cannot be read: {error}"))
    }

    fn read(&self, name: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        let file = self.files.open(name)?;
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it is larger than {most} bytes")));
        }
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<FolderEntry>> {
        self.files.entries(folder, MOST_ENTRIES)
    }

    fn list_if_there(&self, folder: &Path) -> io::Result<Vec<FolderEntry>> {
        match self.list(folder) {
            Err(error) if is_absent(&error) => Ok(vec![]),
            listed => listed,
        }
    }
}

fn repositories() -> PathBuf {
    Path::new(ROOT).join("repositories")
}

fn repository(path: &RepositoryPath) -> PathBuf {
    repositories().join(path.as_str())
}

fn data(digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let mut path = Path::new(ROOT).join("blobs");
    path.extend([digest.algorithm().name(), &hex[..2], &hex, "data"]);
    path
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// An untrusted name, made safe for a line of text.
fn shown(name: &str) -> String {
    let name: String = name.escape_debug().take(MOST_PATH).collect();
    if name.is_empty() {
        "the folder of repositories".to_owned()
    } else {
        name
    }
}

fn quoted(name: &OsStr) -> String {
    shown(&name.to_string_lossy())
}
