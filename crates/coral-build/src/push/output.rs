//! The output of the build: an OCI layout or an archive of one. It is untrusted.
//!
//! It is read beneath its folder, and no link in it is followed. Bytes are compared with their digests as
//! they are read. What a file contains is in no message.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use coral_distribution::{Error, Layout, LayoutFiles};
use coral_image::{Descriptor, Digest, Manifest, Version};
use coral_mirror::CopySide;
use rustix::fs::FileType;

use crate::beneath::{Folder, MAX_DEPTH, kind};

/// Most files of an output.
const MAX_FILES: u64 = 1_000_000;
/// The files that an OCI layout has in its folder.
const LAYOUT_FILES: [&str; 2] = ["index.json", "oci-layout"];
/// The annotation of an entry of `index.json` that is its name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why what the build wrote cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// There is neither a layout nor an archive.
    #[error(
        "the build wrote no image: its output folder ($CORAL_OUTPUT) has neither an index.json, as an \
         OCI layout has, nor one archive whose name ends in .tar"
    )]
    None,
    /// There are several archives, and none has precedence.
    #[error(
        "the build wrote {0} archives to its output folder ($CORAL_OUTPUT), and only one can be pushed"
    )]
    Archives(usize),
    /// The list of images is empty.
    #[error("the OCI layout that the build wrote has no manifest: index.json lists none")]
    NoManifest,
    /// Several images.
    #[error(
        "the OCI layout that the build wrote lists {0} images; write one, or an image index of them"
    )]
    Several(usize),
    /// More than the output may have.
    #[error(
        "the output is larger than {limit} bytes, its limit; set output.limit if it may be larger"
    )]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// More files than any image has.
    #[error("the output has more than {MAX_FILES} files, or folders nested too deeply")]
    TooMany,
    /// It cannot be read.
    #[error("the output folder ($CORAL_OUTPUT) cannot be read")]
    Read(#[source] io::Error),
    /// It is no layout, or a broken one.
    #[error("the OCI layout that the build wrote cannot be used")]
    Layout(#[source] Error),
}

/// The image that is pushed: the root of a layout.
#[derive(Debug)]
pub(super) struct BuiltImage {
    layout: Layout,
    manifest: Manifest,
}

impl BuiltImage {
    /// Digest of the image or index.
    pub(super) fn digest(&self) -> Digest {
        self.manifest.digest()
    }

    /// The image or index itself.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where it is copied from.
    pub(super) fn site(&self) -> CopySide {
        CopySide::layout(self.layout.clone())
    }
}

/// Finds the image in the output folder.
pub(super) async fn find(folder: &Path, limit: u64) -> Result<BuiltImage, OutputError> {
    let path = folder.to_owned();
    let found = tokio::task::spawn_blocking(move || detect(&path, limit)).await;
    let layout = match found.expect("looking at a folder does not panic")? {
        OutputForm::Layout => Layout::from(LayoutFiles::new(folder)),
        OutputForm::Archive(name) => {
            let opened = Layout::open_archive(folder.join(name)).await;
            opened.map_err(OutputError::Layout)?
        }
    };
    let entries = layout.entries().await.map_err(OutputError::Layout)?;
    let version = Version::Digest(only(&entries)?);
    let manifest = layout.manifest(&version).await;
    let manifest = manifest.map_err(OutputError::Layout)?;
    Ok(BuiltImage { layout, manifest })
}

/// What lies in an output folder.
#[derive(Debug, PartialEq, Eq)]
enum OutputForm {
    Layout,
    Archive(std::ffi::OsString),
}

/// Detects the form of an output and adds up its bytes. The build has ended, so nothing changes any
/// more.
fn detect(path: &Path, limit: u64) -> Result<OutputForm, OutputError> {
    let folder = Folder::open(path).map_err(OutputError::Read)?;
    let mut files = MAX_FILES;
    if size(&folder, 0, &mut files)? > limit {
        return Err(OutputError::TooLarge { limit });
    }
    let names = folder.names().map_err(OutputError::Read)?;
    let is_there = |name: &str| folder.stat(OsStr::new(name)).is_ok();
    if LAYOUT_FILES.iter().any(|name| is_there(name)) {
        return Ok(OutputForm::Layout);
    }
    // A link is no file.
    let is_file = |name: &OsStr| {
        let found = folder.stat(name);
        found.is_ok_and(|found| kind(&found) == FileType::RegularFile)
    };
    let is_archive = |name: &std::ffi::OsString| {
        let ends = Path::new(name).extension() == Some(OsStr::new("tar"));
        ends && is_file(name)
    };
    let mut archives: Vec<_> = names.into_iter().filter(is_archive).collect();
    match (archives.pop(), archives.len()) {
        (None, _) => Err(OutputError::None),
        (Some(only), 0) => Ok(OutputForm::Archive(only)),
        (Some(_), more) => Err(OutputError::Archives(more + 1)),
    }
}

/// Bytes of all files in a folder.
fn size(folder: &Folder, depth: usize, files: &mut u64) -> Result<u64, OutputError> {
    let mut bytes: u64 = 0;
    for name in folder.names().map_err(OutputError::Read)? {
        *files = files.checked_sub(1).ok_or(OutputError::TooMany)?;
        let found = folder.stat(&name).map_err(OutputError::Read)?;
        let more = match kind(&found) {
            FileType::RegularFile => u64::try_from(found.st_size).unwrap_or(0),
            FileType::Directory if depth == MAX_DEPTH => return Err(OutputError::TooMany),
            FileType::Directory => {
                let inner = folder.folder(&name).map_err(OutputError::Read)?;
                size(&inner, depth + 1, files)?
            }
            _ => 0,
        };
        bytes = bytes.saturating_add(more);
    }
    Ok(bytes)
}

/// The only image of a list. Of several entries, the one with a name, since signatures and the like
/// have no name.
fn only(entries: &[Descriptor]) -> Result<Digest, OutputError> {
    let name = |entry: &Descriptor| entry.annotations.as_ref()?.get(REF_NAME).cloned();
    let distinct = |entries: &mut dyn Iterator<Item = &Descriptor>| {
        let mut digests: Vec<Digest> = Vec::new();
        for entry in entries {
            if !digests.contains(&entry.digest) {
                digests.push(entry.digest);
            }
        }
        digests
    };
    let all = distinct(&mut entries.iter());
    let named = distinct(&mut entries.iter().filter(|entry| name(entry).is_some()));
    match (all.as_slice(), named.as_slice()) {
        ([], _) => Err(OutputError::NoManifest),
        ([only], _) | (_, [only]) => Ok(*only),
        (all, _) => Err(OutputError::Several(all.len())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use coral_image::Algorithm;

    use super::*;

    fn entry(content: &str, name: Option<&str>) -> Descriptor {
        let digest = Algorithm::Sha256.digest(content.as_bytes());
        let annotations = name.map(|name| BTreeMap::from([(REF_NAME.to_owned(), name.to_owned())]));
        Descriptor {
            annotations,
            ..Descriptor::new("", digest, 1)
        }
    }

    #[test]
    fn one_image_is_pushed_under_however_many_names_it_is_listed() {
        let digest = |content: &str| Algorithm::Sha256.digest(content.as_bytes());
        let only = |entries: &[Descriptor]| only(entries).map_err(|error| error.to_string());
        assert_eq!(only(&[entry("a", None)]), Ok(digest("a")));
        let twice = [entry("a", Some("1")), entry("a", Some("2"))];
        assert_eq!(only(&twice), Ok(digest("a")));
        let signed = [entry("signature", None), entry("a", Some("1"))];
        assert_eq!(only(&signed), Ok(digest("a")));
        let none = only(&[]).unwrap_err();
        assert!(none.contains("has no manifest"), "{none}");
        let several = only(&[entry("a", Some("1")), entry("b", Some("2"))]).unwrap_err();
        assert!(several.contains("lists 2 images"), "{several}");
    }

    #[test]
    fn a_folder_is_a_layout_or_has_one_archive() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let detect = || detect(dir.path(), 100).map_err(|error| error.to_string());
        assert!(detect().unwrap_err().contains("wrote no image"));
        // A link to an archive is none.
        std::fs::write(at("elsewhere"), "").unwrap();
        symlink("elsewhere", at("link.tar")).unwrap();
        assert!(detect().unwrap_err().contains("wrote no image"));
        std::fs::write(at("a.tar"), "").unwrap();
        assert_eq!(detect(), Ok(OutputForm::Archive("a.tar".into())));
        std::fs::write(at("b.tar"), "").unwrap();
        assert!(detect().unwrap_err().contains("wrote 2 archives"));
        std::fs::write(at("index.json"), "").unwrap();
        assert_eq!(detect(), Ok(OutputForm::Layout));
    }

    #[test]
    fn an_output_of_exactly_its_limit_is_taken_and_a_larger_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        std::fs::write(dir.path().join("index.json"), "12345").unwrap();
        std::fs::write(dir.path().join("blobs/sha256/x"), "12345").unwrap();
        // Counted as a link, not as what it points at.
        symlink("/proc/kcore", dir.path().join("blobs/link")).unwrap();
        assert_eq!(detect(dir.path(), 10).unwrap(), OutputForm::Layout);
        let refused = detect(dir.path(), 9).unwrap_err().to_string();
        assert!(refused.contains("larger than 9 bytes"), "{refused}");
    }
}
