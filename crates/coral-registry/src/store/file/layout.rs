//! The layout of the storage folder.
//!
//! ```text
//! coral-store.json                               version mark
//! coral-clock.json                               the store's clock, which leases are measured by
//! coral-scrub.json                               how far the scrub is
//! lock                                           held by the process that has the store
//! blobs/<alg>/<2 hex>/<hex>                      all content, once for all repositories
//! repositories/_mark                             empty: this is the folder that the store made
//! repositories/<path>/_blobs/<alg>/<hex>         empty: this repository has the blob; its time
//!                                                of modification is the last lease on it
//! repositories/<path>/_manifests/<alg>/<hex>     record: media type, size, subject
//! repositories/<path>/_tags/<tag>                record: digest, media type, size
//! repositories/<path>/_referrers/<alg>/<hex>/<alg>-<hex>   descriptor of a referrer
//! uploads/<uuid>@<repository, / as +>            what is on its way in
//! damaged/<alg>-<hex>                            content that was moved out of the way; empty: its bytes
//!                                                were given up
//! tmp/<uuid>                                     files before they get their name
//! ```
//!
//! Only validated values become paths, so no path can leave the folder; components of a
//! repository's name begin with a letter or digit, so none is `_tags`.

use std::path::{Path, PathBuf};

use coral_image::{Algorithm, Digest, RepositoryPath, Tag};

use crate::store::UploadId;

pub(super) const MARK: &str = "coral-store.json";
pub(super) const LOCK: &str = "lock";
/// How many bytes of a repository's name are part of the file name of an upload, which has at most
/// 255.
const MOST_IN_UPLOAD: usize = 200;
pub(super) const MANIFESTS: &str = "_manifests";

/// The paths of one store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn mark(&self) -> PathBuf {
        self.root.join(MARK)
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join(LOCK)
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The position of the scrub.
    pub(super) fn scrub_position(&self) -> PathBuf {
        self.root.join("coral-scrub.json")
    }

    /// Content that was damaged.
    pub(super) fn damaged_folder(&self) -> PathBuf {
        self.root.join("damaged")
    }

    pub(super) fn damaged(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm(), digest.hex());
        self.damaged_folder().join(name)
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The contents of one algorithm, in folders (shelves) by the first byte of their digests.
    pub(super) fn contents(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.name())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.contents(digest.algorithm());
        path.extend([&hex[..2], &hex]);
        path
    }

    pub(super) fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    /// If it is missing, the folder of repositories is not the one that the content belongs to.
    pub(super) fn repositories_mark(&self) -> PathBuf {
        self.repositories().join("_mark")
    }

    pub(super) fn repository(&self, repository: &RepositoryPath) -> PathBuf {
        self.repositories().join(repository.as_str())
    }

    pub(super) fn blob_link(&self, repository: &RepositoryPath, digest: &Digest) -> PathBuf {
        let mut path = self.repository(repository);
        path.extend(["_blobs", digest.algorithm().name(), &digest.hex()]);
        path
    }

    /// The links of one repository to blobs of one algorithm.
    pub(super) fn blob_links(&self, repository: &RepositoryPath, algorithm: Algorithm) -> PathBuf {
        let mut path = self.repository(repository);
        path.extend(["_blobs", algorithm.name()]);
        path
    }

    /// The records of one repository's manifests of one algorithm.
    pub(super) fn manifests(&self, repository: &RepositoryPath, algorithm: Algorithm) -> PathBuf {
        let mut path = self.repository(repository);
        path.extend([MANIFESTS, algorithm.name()]);
        path
    }

    pub(super) fn manifest(&self, repository: &RepositoryPath, digest: &Digest) -> PathBuf {
        let mut path = self.repository(repository);
        path.extend([MANIFESTS, digest.algorithm().name(), &digest.hex()]);
        path
    }

    pub(super) fn tags(&self, repository: &RepositoryPath) -> PathBuf {
        self.repository(repository).join("_tags")
    }

    pub(super) fn tag(&self, repository: &RepositoryPath, tag: &Tag) -> PathBuf {
        self.tags(repository).join(tag.as_str())
    }

    pub(super) fn referrers(&self, repository: &RepositoryPath, subject: &Digest) -> PathBuf {
        let mut path = self.repository(repository);
        path.extend(["_referrers", subject.algorithm().name(), &subject.hex()]);
        path
    }

    pub(super) fn referrer(
        &self,
        repository: &RepositoryPath,
        subject: &Digest,
        referrer: &Digest,
    ) -> PathBuf {
        let name = format!("{}-{}", referrer.algorithm(), referrer.hex());
        self.referrers(repository, subject).join(name)
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(super) fn upload(&self, repository: &RepositoryPath, id: UploadId) -> PathBuf {
        let mut name = repository.as_str().replace('/', "+");
        if name.len() > MOST_IN_UPLOAD {
            // A truncated name could belong to several repositories.
            let digest = Digest::sha256(name.as_bytes()).hex();
            name.truncate(MOST_IN_UPLOAD - 65);
            name.push('~');
            name.push_str(&digest);
        }
        self.uploads().join(format!("{id}@{name}"))
    }

    /// The upload of the file with this name.
    pub(super) fn upload_id_from_name(name: &str) -> Option<UploadId> {
        UploadId::parse(name.split_once('@')?.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_has_a_file_of_its_own_however_long_the_name_of_its_repository_is() {
        let layout = Layout::new(Path::new("/s"));
        let id = UploadId::random();
        let long = |last: &str| {
            let path = format!("{}{last}", "a/".repeat(120));
            RepositoryPath::parse(&path).unwrap()
        };
        let names: Vec<String> = [
            RepositoryPath::parse("team/app").unwrap(),
            long("b"),
            long("c"),
        ]
        .iter()
        .map(|path| {
            let file = layout.upload(path, id);
            file.file_name().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
        assert_eq!(names[0], format!("{id}@team+app"));
        assert_ne!(names[1], names[2]);
        for name in names {
            assert!(name.len() <= 255, "{name}");
            assert_eq!(Layout::upload_id_from_name(&name), Some(id));
        }
        assert_eq!(Layout::upload_id_from_name(&id.to_string()), None);
    }
}
