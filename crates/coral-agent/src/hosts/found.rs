//! Scans the files on the node.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::{DEFAULT, FILE, HostsPaths, MARKER};

/// The largest file that is read; ours are under a kilobyte.
const MAX_FILE: u64 = 1 << 20;
/// Most hosts' folders that are read.
const MAX_FOLDERS: usize = 20_000;

/// The files on the node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodeFiles {
    /// The hosts' folders, by name.
    pub(crate) folders: BTreeMap<String, Folder>,
    /// The backups, by the folder's name.
    pub(crate) kept: BTreeMap<String, Backup>,
    /// The CA that our files name.
    pub(crate) ca: Option<Vec<u8>>,
    /// Whether the node has rules for hosts without a folder of their own.
    pub(crate) has_default: bool,
    /// Whether there is a folder of ours.
    pub(crate) has_state: bool,
}

/// A host's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Its `hosts.toml`.
    pub(crate) file: File,
    /// Whether there is anything beside the file.
    pub(crate) others: bool,
}

/// The state of a `hosts.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum File {
    /// It does not exist.
    Absent,
    /// It is ours, with this content.
    Ours(String),
    /// It belongs to another program or person.
    Foreign,
    /// It is not a file, or its folder is not a folder.
    Unusable,
}

/// A backup of the state before ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backup {
    /// A folder without a file.
    Folder,
    /// A file.
    File,
}

impl NodeFiles {
    /// The file in a folder; a missing folder has none.
    pub(crate) fn file(&self, folder: &str) -> &File {
        self.folders
            .get(folder)
            .map_or(&File::Absent, |folder| &folder.file)
    }

    /// Folders with a file of ours.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &String> {
        let ours = |folder: &Folder| matches!(folder.file, File::Ours(_));
        self.folders
            .iter()
            .filter(move |(_, folder)| ours(folder))
            .map(|(name, _)| name)
    }
}

/// Reads the files on the node. Folders that are not there hold nothing.
pub(crate) fn scan(places: &HostsPaths) -> io::Result<NodeFiles> {
    let mut found = NodeFiles {
        ca: read(&places.ca())?,
        has_default: exists(&places.certs.join(DEFAULT))?,
        has_state: exists(&places.state)?,
        ..NodeFiles::default()
    };
    for name in names(&places.certs)? {
        if name != DEFAULT && !is_plain_file(&places.certs.join(&name)) {
            let folder = folder(&places.certs.join(&name))?;
            found.folders.insert(name, folder);
        }
    }
    for name in names(&places.kept())? {
        let file = places.kept().join(&name).join(FILE);
        let kept = if exists(&file)? {
            Backup::File
        } else {
            Backup::Folder
        };
        found.kept.insert(name, kept);
    }
    Ok(found)
}

/// A file that lies beside the hosts' folders; no host's name leads to it.
fn is_plain_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file())
}

fn folder(path: &Path) -> io::Result<Folder> {
    let unusable = Folder {
        file: File::Unusable,
        others: true,
    };
    // A dangling link exists for containerd, but cannot hold a file.
    if !fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(unusable);
    }
    let others = names(path)?.iter().any(|name| name != FILE);
    let path = path.join(FILE);
    let file = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => File::Absent,
        Err(error) => return Err(error),
        Ok(metadata) if metadata.is_dir() => File::Unusable,
        Ok(metadata) if metadata.is_file() => match read(&path)?.map(String::from_utf8) {
            Some(Ok(content)) if content.starts_with(MARKER) => File::Ours(content),
            Some(_) => File::Foreign,
            None => File::Absent,
        },
        Ok(_) => File::Foreign,
    };
    Ok(Folder { file, others })
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        }
    }
}

fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Names in a folder, without those that are not UTF-8: no host has such a name.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries.take(MAX_FOLDERS) {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}
