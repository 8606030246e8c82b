//! A source that is a folder of a volume.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FileType;

use super::FetchError;
use super::destination::{Destination, Links};
use crate::beneath::{Folder, MAX_DEPTH, components, kind};

/// Copies a folder beneath the root of a volume. Links are copied as links; none is followed, on the way
/// to the folder neither. Sockets, pipes and devices are left out, since they have no content.
pub(super) fn copy(from: &Path, path: &str, to: &mut Destination) -> Result<(), FetchError> {
    let wanted = Path::new(path.trim_start_matches('/'));
    let Some(parts) = components(wanted) else {
        return Err(FetchError::Path {
            path: path.to_owned(),
            problem: "it leads out of the volume",
        });
    };
    let mut folder = Folder::open(from).map_err(|error| FetchError::read(from, error))?;
    for part in parts {
        folder = inner(&folder, part, path)?;
    }
    copy_folder(&folder, &PathBuf::new(), to, 0)
}

fn inner(folder: &Folder, name: &OsStr, path: &str) -> Result<Folder, FetchError> {
    let problem = match folder.stat(name).map(|found| kind(&found)) {
        Ok(FileType::Directory) => {
            let opened = folder.folder(name);
            return opened.map_err(|error| FetchError::read(Path::new(path), error));
        }
        Ok(FileType::Symlink) => "a symbolic link is in the path, and links are not followed",
        Ok(_) => "it is not a folder",
        Err(_) => "the volume has no such folder",
    };
    Err(FetchError::Path {
        path: path.to_owned(),
        problem,
    })
}

fn copy_folder(
    folder: &Folder,
    path: &Path,
    to: &mut Destination,
    depth: usize,
) -> Result<(), FetchError> {
    if depth > MAX_DEPTH {
        return Err(FetchError::entry(path, "its folders are nested too deeply"));
    }
    let names = folder.names();
    for name in names.map_err(|error| FetchError::read(path, error))? {
        let path = path.join(&name);
        let fail = |error| FetchError::read(&path, error);
        let found = folder.stat(&name).map_err(fail)?;
        match kind(&found) {
            FileType::Directory => {
                to.folder(&path, found.st_mode)?;
                let inner = folder.folder(&name).map_err(fail)?;
                copy_folder(&inner, &path, to, depth + 1)?;
            }
            FileType::RegularFile => {
                to.has_room(u64::try_from(found.st_size).unwrap_or_default())?;
                let mut file = folder.file(&name).map_err(fail)?;
                let seconds = u64::try_from(found.st_mtime).unwrap_or(0);
                let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
                to.file(&path, found.st_mode, modified, &mut file)?;
            }
            FileType::Symlink => {
                let target = folder.link_target(&name).map_err(fail)?;
                to.link(&path, &target, Links::All)?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Volumes {
        from: tempfile::TempDir,
        to: tempfile::TempDir,
    }

    impl Volumes {
        fn new() -> Self {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            std::fs::create_dir_all(from.path().join("web/app")).unwrap();
            std::fs::write(from.path().join("web/app/main"), "main").unwrap();
            std::fs::write(from.path().join("other"), "other").unwrap();
            Self { from, to }
        }

        fn copy(&self, path: &str) -> Result<u64, String> {
            let mut to = Destination::open(self.to.path(), 1 << 20).unwrap();
            let copied = copy(self.from.path(), path, &mut to);
            copied.map(|()| to.bytes()).map_err(|e| e.to_string())
        }
    }

    #[test]
    fn the_folder_alone_is_copied() {
        for path in ["web", "/web/", "./web"] {
            let volumes = Volumes::new();
            assert_eq!(volumes.copy(path), Ok(4));
            let main = std::fs::read_to_string(volumes.to.path().join("app/main"));
            assert_eq!(main.unwrap(), "main");
            assert!(!volumes.to.path().join("other").exists());
        }
        assert_eq!(Volumes::new().copy(""), Ok(9));
    }

    #[test]
    fn a_file_that_is_larger_than_the_limit_is_refused_before_it_is_read() {
        let volumes = Volumes::new();
        let large = std::fs::File::create(volumes.from.path().join("web/large")).unwrap();
        large.set_len(1 << 40).unwrap();
        let refused = volumes.copy("web").unwrap_err();
        assert!(refused.contains("larger than 1048576 bytes"), "{refused}");
        assert!(!volumes.to.path().join("large").exists());
    }

    #[test]
    fn a_link_is_copied_and_not_what_it_points_at() {
        let volumes = Volumes::new();
        symlink("/etc/passwd", volumes.from.path().join("web/link")).unwrap();
        symlink("/etc", volumes.from.path().join("web/folder")).unwrap();
        assert_eq!(volumes.copy("web"), Ok(4));
        let link = std::fs::read_link(volumes.to.path().join("link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
        assert!(volumes.to.path().join("folder").is_symlink());
    }

    #[test]
    fn a_path_that_is_no_folder_of_the_volume_is_refused_with_the_reason() {
        let volumes = Volumes::new();
        symlink("/etc", volumes.from.path().join("out")).unwrap();
        for (path, said) in [
            ("../x", "path \"../x\": it leads out of the volume"),
            ("none", "path \"none\": the volume has no such folder"),
            ("other", "path \"other\": it is not a folder"),
            (
                "out",
                "path \"out\": a symbolic link is in the path, and links are not followed",
            ),
        ] {
            assert_eq!(volumes.copy(path), Err(said.to_owned()));
        }
    }

    #[test]
    fn what_has_no_content_is_left_out() {
        let volumes = Volumes::new();
        let pipe = volumes.from.path().join("web/pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
        assert_eq!(volumes.copy("web"), Ok(4));
        assert!(!volumes.to.path().join("pipe").exists());
    }
}
