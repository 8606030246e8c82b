//! Replaces the file at an archive's target.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::parent;

/// Renames the complete file to the existing one, and gives it the permissions of that file. A file
/// with several names (hard links) keeps them: renaming is refused, and [`settle`] overwrites its
/// content.
pub(super) fn rename(whole: &Path, target: &Path) -> io::Result<()> {
    if let Ok(there) = std::fs::metadata(target) {
        if there.nlink() > 1 {
            return Err(ErrorKind::CrossesDevices.into());
        }
        let made = std::fs::metadata(whole)?;
        if (there.uid(), there.gid()) != (made.uid(), made.gid()) {
            // Only root may give a file away. The permissions come after the owner, because the new
            // owner could use them.
            let _ = std::os::unix::fs::chown(whole, Some(there.uid()), Some(there.gid()));
        }
        std::fs::set_permissions(whole, there.permissions())?;
    }
    std::fs::rename(whole, target)
}

/// Completes the replacement after the attempt to rename: if the file had to stay, its content is
/// overwritten.
pub(super) fn settle(whole: &Path, target: &Path, renamed: io::Result<()>) -> io::Result<()> {
    match renamed {
        Ok(()) => File::open(parent(target))?.sync_all(),
        Err(error) if is_name_refused(&error) && may_be_written(target) => {
            // The complete file is gone if the copy was given up meanwhile; the target then stays
            // as it was.
            let mut whole = File::open(whole)?;
            let mut file = File::options().write(true).truncate(true).open(target)?;
            io::copy(&mut whole, &mut file)?;
            file.sync_all()
        }
        Err(error) => Err(error),
    }
}

/// Whether the name was refused, and perhaps not the file under it: one that is mounted, or that is
/// in a folder of another user.
pub(super) fn is_name_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ResourceBusy
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
    )
}

pub(super) fn may_be_written(file: &Path) -> bool {
    file.is_file() && File::options().write(true).open(file).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Regression: a copy into a mounted file, such as one of `docker run -v`, failed.
    #[test]
    fn a_file_that_cannot_be_replaced_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, target) = (dir.path().join("whole.tar"), dir.path().join("target.tar"));
        std::fs::write(&whole, "new").unwrap();
        let refused = |number| Err(std::io::Error::from_raw_os_error(number));
        for errno in [
            rustix::io::Errno::BUSY,
            rustix::io::Errno::XDEV,
            rustix::io::Errno::ACCESS,
        ] {
            std::fs::write(&target, "what was there").unwrap();
            settle(&whole, &target, refused(errno.raw_os_error())).unwrap();
            assert_eq!(std::fs::read(&target).unwrap(), b"new", "{errno}");
        }
        let full = rustix::io::Errno::NOSPC.raw_os_error();
        assert!(settle(&whole, &target, refused(full)).is_err());
        let none = dir.path().join("none.tar");
        let busy = rustix::io::Errno::BUSY.raw_os_error();
        assert!(settle(&whole, &none, refused(busy)).is_err());
        assert!(!none.exists());
    }

    /// Regression: a private image became readable for everyone once it was copied again.
    #[test]
    fn a_file_that_is_replaced_keeps_its_rights_and_one_with_further_names_keeps_them() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("target.tar"), "old").unwrap();
        std::fs::set_permissions(at("target.tar"), PermissionsExt::from_mode(0o600)).unwrap();
        for (content, is_linked) in [("first", false), ("second", true)] {
            if is_linked {
                std::fs::hard_link(at("target.tar"), at("other.tar")).unwrap();
            }
            std::fs::write(at("whole.tar"), content).unwrap();
            let renamed = rename(&at("whole.tar"), &at("target.tar"));
            settle(&at("whole.tar"), &at("target.tar"), renamed).unwrap();
            assert_eq!(std::fs::read_to_string(at("target.tar")).unwrap(), content);
            let mode = std::fs::metadata(at("target.tar")).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600, "{content}");
        }
        assert_eq!(std::fs::read_to_string(at("other.tar")).unwrap(), "second");
    }
}
