//! The files of a commit, from a pack into the source folder.

use std::path::{Path, PathBuf};

use gix_hash::ObjectId;
use gix_object::bstr::ByteSlice as _;
use gix_object::tree::EntryKind;
use gix_object::{CommitRefIter, Kind, TagRefIter, TreeRefIter};
use gix_pack::Bundle;
use gix_zlib::Inflate;

use super::GitError;
use super::address::Address;
use super::remote::FetchedPack;
use crate::beneath::MAX_DEPTH;
use crate::fetch::FetchError;
use crate::fetch::destination::{Destination, Links};

const HASH: gix_hash::Kind = gix_hash::Kind::Sha1;
/// Tags of tags of tags.
const MAX_TAGS: usize = 10;
/// The file that lists the URLs of submodules.
const MODULES_FILE: &[u8] = b".gitmodules";

/// What was written.
pub(super) struct Checkout {
    pub(super) commit: ObjectId,
    /// The paths of submodules, relative to the folder that was written, with their commits.
    pub(super) submodules: Vec<(PathBuf, ObjectId)>,
    /// The content of `.gitmodules`, if there is one.
    pub(super) modules: Option<Vec<u8>>,
}

/// Writes the files of the fetched commit into this folder of the source.
pub(super) fn checkout(
    received: FetchedPack,
    address: &Address,
    folder: &Path,
    to: &mut Destination,
) -> Result<Checkout, FetchError> {
    let mut objects = Objects {
        bundle: received.bundle,
        inflate: Inflate::default(),
        url: address.to_string(),
        submodules: Vec::new(),
    };
    let (commit, tree) = objects.peel(received.wanted)?;
    write_tree(&mut objects, tree, folder, 0, to)?;
    let modules = objects.modules(tree)?;
    let mut submodules = objects.submodules;
    for (path, _) in &mut submodules {
        if let Ok(below) = path.strip_prefix(folder) {
            *path = below.to_owned();
        }
    }
    Ok(Checkout {
        commit,
        submodules,
        modules,
    })
}

/// The objects of a pack.
struct Objects {
    bundle: Bundle,
    inflate: Inflate,
    url: String,
    /// Entries of trees that are commits of other repositories.
    submodules: Vec<(PathBuf, ObjectId)>,
}

impl Objects {
    fn find(&mut self, id: ObjectId) -> Result<(Kind, Vec<u8>), GitError> {
        let mut bytes = Vec::new();
        let mut cache = gix_pack::cache::Never;
        let found = self
            .bundle
            .find(&id, &mut bytes, &mut self.inflate, &mut cache);
        let found = found.map_err(|error| broken(&self.url, &error.to_string()))?;
        let Some((object, _)) = found else {
            return Err(broken(&self.url, &format!("the object {id} is missing")));
        };
        let kind = object.kind;
        Ok((kind, bytes))
    }

    /// The commit that an object is or a tag points at, and its tree.
    fn peel(&mut self, object: ObjectId) -> Result<(ObjectId, ObjectId), GitError> {
        let mut id = object;
        for _ in 0..MAX_TAGS {
            let (kind, bytes) = self.find(id)?;
            let fail = |error: gix_error::Error| broken(&self.url, &error.to_string());
            match kind {
                Kind::Tag => {
                    id = TagRefIter::from_bytes(&bytes, HASH)
                        .target_id()
                        .map_err(fail)?;
                }
                Kind::Commit => {
                    let tree = CommitRefIter::from_bytes(&bytes, HASH).tree_id();
                    return Ok((id, tree.map_err(fail)?));
                }
                Kind::Tree | Kind::Blob => break,
            }
        }
        Err(broken(&self.url, "the requested object is not a commit"))
    }

    /// The content of the file `.gitmodules` in the root of this tree.
    fn modules(&mut self, root: ObjectId) -> Result<Option<Vec<u8>>, GitError> {
        let (_, bytes) = self.find(root)?;
        let entries = TreeRefIter::from_bytes(&bytes, HASH);
        let mut files = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.mode.is_blob());
        let Some(file) = files.find(|entry| entry.filename == MODULES_FILE) else {
            return Ok(None);
        };
        Ok(Some(self.find(file.oid.to_owned())?.1))
    }
}

fn broken(url: &str, problem: &str) -> GitError {
    GitError::Broken {
        url: url.to_owned(),
        problem: crate::contract::failure_text(problem),
    }
}

fn write_tree(
    objects: &mut Objects,
    tree: ObjectId,
    folder: &Path,
    depth: usize,
    to: &mut Destination,
) -> Result<(), FetchError> {
    if depth > MAX_DEPTH {
        return Err(FetchError::entry(
            folder,
            "its folders are nested too deeply",
        ));
    }
    let (_, bytes) = objects.find(tree)?;
    for entry in TreeRefIter::from_bytes(&bytes, HASH) {
        let entry = entry.map_err(|error| broken(&objects.url, &error.to_string()))?;
        let name = entry.filename.to_os_str_lossy();
        let path = folder.join(&name);
        // git refuses this name as well: tools would treat the folder as the repository's own
        // configuration and run hooks from it.
        if entry.filename.eq_ignore_ascii_case(b".git") {
            let problem = "a repository must not contain a file or folder .git";
            return Err(FetchError::entry(&path, problem));
        }
        if entry.filename.contains(&b'/') {
            return Err(FetchError::entry(&path, "its name has a slash"));
        }
        let id = entry.oid.to_owned();
        match entry.mode.kind() {
            EntryKind::Tree => {
                to.folder(&path, 0o755)?;
                write_tree(objects, id, &path, depth + 1, to)?;
            }
            // The content of a submodule is in another repository.
            EntryKind::Commit => {
                to.folder(&path, 0o755)?;
                objects.submodules.push((path, id));
            }
            EntryKind::Link => {
                let (_, target) = objects.find(id)?;
                to.link(
                    &path,
                    target.as_bstr().to_os_str_lossy().as_ref(),
                    Links::All,
                )?;
            }
            kind @ (EntryKind::Blob | EntryKind::BlobExecutable) => {
                let mode = if kind == EntryKind::Blob {
                    0o644
                } else {
                    0o755
                };
                let (_, content) = objects.find(id)?;
                to.file(&path, mode, None, &mut &content[..])?;
            }
        }
    }
    Ok(())
}
