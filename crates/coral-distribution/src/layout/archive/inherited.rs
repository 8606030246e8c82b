//! Files that this process inherited, by their names below `/dev/fd` and `/proc/self/fd`.

use std::fs::File;
use std::io::{ErrorKind, Seek as _, SeekFrom, Write};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{MAX_LINKS, parent};

/// The number of the descriptor that a path names, if it is a descriptor of this process.
pub(super) fn number(target: &Path) -> Option<RawFd> {
    // These names are recognised without a file system mounted below them.
    match target.to_str() {
        Some("/dev/stdout") => return Some(1),
        Some("/dev/stderr") => return Some(2),
        _ => {}
    }
    let mut path = target.to_owned();
    for _ in 0..MAX_LINKS {
        if let Some(number) = number_in_own_folder(&path) {
            return Some(number);
        }
        let next = std::fs::read_link(&path).ok()?;
        path = parent(&path).join(next);
    }
    None
}

/// The number in `/proc/PID/fd/N` and `/proc/PID/task/TID/fd/N`, however the folder is written.
fn number_in_own_folder(path: &Path) -> Option<RawFd> {
    let number = path.file_name()?.to_str()?.parse().ok()?;
    let folder = std::fs::canonicalize(parent(path)).ok()?;
    let own = Path::new("/proc").join(std::process::id().to_string());
    let rest = folder.strip_prefix(own).ok()?;
    (rest.ends_with("fd") && rest.components().count() <= 3).then_some(number)
}

/// A duplicated descriptor of the process. It shares position and flags with the inherited one, so
/// that the output of others goes before and after it.
#[derive(Debug)]
pub(super) struct Inherited(File);

impl Inherited {
    pub(super) fn take(number: RawFd) -> std::io::Result<Self> {
        let file = File::from(duplicate(number)?);
        if file.metadata()?.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let mode = rustix::fs::fcntl_getfl(&file)? & OFlags::RWMODE;
        if mode == OFlags::RDONLY {
            let text = "it is open for reading only";
            return Err(std::io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(Self(file))
    }
}

fn duplicate(number: RawFd) -> std::io::Result<OwnedFd> {
    match number {
        1 => return std::io::stdout().as_fd().try_clone_to_owned(),
        2 => return std::io::stderr().as_fd().try_clone_to_owned(),
        _ => {}
    }
    match duplicated_by_the_kernel(number) {
        Err(Errno::BADF) => Err(Errno::BADF.into()),
        // Duplicating fails on old kernels, and in containers that forbid it.
        Err(_) => opened_again(number),
        Ok(file) => Ok(file),
    }
}

pub(super) fn duplicated_by_the_kernel(number: RawFd) -> Result<OwnedFd, Errno> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(own, number, PidfdGetfdFlags::empty())
}

/// Opens the same file a second time. The new descriptor has a position of its own, which is set to
/// that of the first.
fn opened_again(number: RawFd) -> std::io::Result<OwnedFd> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let field = |name: &str| {
        let rest = about.lines().find_map(|line| line.strip_prefix(name));
        rest.map(str::trim).unwrap_or_default().to_owned()
    };
    let flags = u32::from_str_radix(&field("flags:"), 8).unwrap_or_default();
    let appends = OFlags::from_bits_retain(flags).contains(OFlags::APPEND);
    let mut options = File::options();
    let path = format!("/proc/self/fd/{number}");
    let mut file = options.write(true).append(appends).open(path)?;
    if let (true, Ok(position)) = (file.metadata()?.is_file(), field("pos:").parse()) {
        file.seek(SeekFrom::Start(position))?;
    }
    Ok(file.into())
}

impl Write for &Inherited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match (&self.0).write(bytes) {
                // The other side of a socket or pipe may have set it to non-blocking, for all that
                // share it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut writable = [PollFd::new(&self.0, PollFlags::OUT)];
                    rustix::event::poll(&mut writable, None)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_descriptors_are_meant() {
        for (path, expected) in [
            ("/dev/stdout", Some(1)),
            ("/dev/stderr", Some(2)),
            ("/dev/fd/0", Some(0)),
            ("/proc/self/fd/0", Some(0)),
            ("/proc/thread-self/fd/0", Some(0)),
            ("/proc/1/fd/0", None),
            ("/dev/null", None),
            ("/proc/self/fd/x", None),
            ("fd/1", None),
        ] {
            assert_eq!(number(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_file_that_is_opened_again_goes_on_where_the_first_one_stands() {
        use std::os::fd::AsRawFd as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"before").unwrap();
        let again = opened_again(file.as_file().as_raw_fd()).unwrap();
        File::from(again).write_all(b" after").unwrap();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"before after");
    }
}
