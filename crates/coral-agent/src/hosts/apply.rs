//! Changes of files. Each step is one call of the operating system, and a crash after any of them
//! leaves what the next plan can finish.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::plan::Action;
use super::{FILE, HostsPaths};

/// Readable for all, as a runtime may not run as root.
const FOLDER_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// What failed, by folder; the empty name stands for the CA and our own folder.
pub(crate) type Failures = BTreeMap<String, io::Error>;

/// Carries out the plan. After a failure the rest of that folder's actions is left out, and the CA
/// stays.
pub(crate) fn apply(places: &HostsPaths, actions: &[Action]) -> Failures {
    apply_with(places, actions, &mut || Ok(()))
}

/// As [`apply`], but calls `step` before each step; an error of `step` counts as that step's.
pub(super) fn apply_with(
    places: &HostsPaths,
    actions: &[Action],
    step: &mut dyn FnMut() -> io::Result<()>,
) -> Failures {
    let mut work = Applier { places, step };
    let mut failures = Failures::new();
    for action in actions {
        let folder = action.folder().unwrap_or_default();
        let is_over = failures.contains_key(folder) || failures.contains_key("");
        let keeps_ca = *action == Action::RemoveCa && !failures.is_empty();
        if is_over || keeps_ca {
            continue;
        }
        if let Err(error) = work.act(action) {
            failures.insert(folder.to_owned(), error);
        }
    }
    failures
}

struct Applier<'a> {
    places: &'a HostsPaths,
    step: &'a mut dyn FnMut() -> io::Result<()>,
}

impl Applier<'_> {
    fn act(&mut self, action: &Action) -> io::Result<()> {
        let places = self.places;
        match action {
            Action::WriteCa(bytes) => self.replace(bytes, &places.ca()),
            Action::AddFolder { folder, content } => self.add_folder(folder, content),
            Action::Keep { folder } => self.keep(folder),
            Action::Write { folder, content } => {
                self.replace(content.as_bytes(), &places.certs.join(folder).join(FILE))
            }
            Action::Restore { folder } => self.restore(folder),
            Action::RemoveFile { folder } => {
                self.rename_out(&places.certs.join(folder).join(FILE), folder)
            }
            Action::RemoveFolder { folder } => self.rename_out(&places.certs.join(folder), folder),
            Action::Forget { folder } => self.rename_out(&places.kept().join(folder), folder),
            Action::RemoveCa => self.step(|| fs::remove_file(places.ca())),
            Action::Sweep => self.sweep(),
        }
    }

    fn step<T>(&mut self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        (self.step)()?;
        call()
    }

    fn add_folder(&mut self, folder: &str, content: &str) -> io::Result<()> {
        let places = self.places;
        let new = self.scrap(folder)?;
        self.step(|| make_folder(&new))?;
        self.step(|| write(&new.join(FILE), content.as_bytes()))?;
        self.step(|| make_folders(&places.certs))?;
        self.step(|| fs::rename(&new, places.certs.join(folder)))?;
        sync(&places.certs)
    }

    /// Backs the file up, by a hard link if possible, so that owner and times are restored too.
    fn keep(&mut self, folder: &str) -> io::Result<()> {
        let places = self.places;
        let new = self.scrap(folder)?;
        self.step(|| make_folder(&new))?;
        let file = places.certs.join(folder).join(FILE);
        self.step(|| link_or_copy(&file, &new.join(FILE)))?;
        sync(&new)?;
        self.step(|| make_folders(&places.kept()))?;
        let kept = places.kept().join(folder);
        if kept.exists() {
            self.rename_out(&kept, folder)?;
        }
        self.step(|| fs::rename(&new, &kept))?;
        sync(&places.kept())
    }

    fn restore(&mut self, folder: &str) -> io::Result<()> {
        let places = self.places;
        let (kept, home) = (places.kept().join(folder), places.certs.join(folder));
        self.step(|| make_folders(&home))?;
        self.step(|| fs::rename(kept.join(FILE), home.join(FILE)))?;
        sync(&home)?;
        self.step(|| fs::remove_dir(&kept))
    }

    /// Renames a new file into place, over an existing one.
    fn replace(&mut self, bytes: &[u8], path: &Path) -> io::Result<()> {
        let new = self.scrap("file")?;
        self.step(|| write(&new, bytes))?;
        self.step(|| fs::rename(&new, path))?;
        path.parent().map_or(Ok(()), sync)
    }

    fn rename_out(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let scrap = self.scrap(&format!("{name}.old"))?;
        self.step(|| fs::rename(path, scrap))?;
        path.parent().map_or(Ok(()), sync)
    }

    /// A free name among the scraps.
    fn scrap(&mut self, name: &str) -> io::Result<std::path::PathBuf> {
        let folder = self.places.scraps();
        self.step(|| make_folders(&folder))?;
        let scrap = folder.join(name);
        self.step(|| remove(&scrap))?;
        Ok(scrap)
    }

    fn sweep(&mut self) -> io::Result<()> {
        let places = self.places;
        self.step(|| remove(&places.scraps()))?;
        // These stay while they are not empty.
        for folder in [places.kept(), places.state.clone()] {
            let _ = self.step(|| fs::remove_dir(&folder));
        }
        Ok(())
    }
}

/// Links a file; one of another owner may not be linked without a capability, so it is copied.
fn link_or_copy(file: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(file, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::copy(file, to)?;
            File::open(to)?.sync_all()
        }
        linked => linked,
    }
}

fn make_folders(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folders(parent)?;
    }
    make_folder(path)
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(FOLDER_MODE))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    file.sync_all()
}

/// Makes a rename in this folder survive a power cut.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
