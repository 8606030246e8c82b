//! An archive that arrives through a pipe. It is stored in a temporary file, because a layout is
//! not read from front to back.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags};

use super::Layout;
use super::tree::{Form, TarIndex};
use crate::error::{Error, Problem};

/// Size of the buffer through which bytes are copied.
const BUFFER: usize = 256 * 1024;

/// A temporary file without a name. Its space is freed when this value is dropped, or when the
/// process ends for any reason.
#[derive(Debug)]
pub(super) struct Spooled(File);

impl Spooled {
    /// Reads a pipe to its end into a file in `folder`.
    ///
    /// A separate thread reads the pipe, so that a copy that is stopped does not wait for the other
    /// end.
    pub(super) async fn read(pipe: File, folder: PathBuf) -> Result<Self, Problem> {
        let (done, result) = tokio::sync::oneshot::channel();
        let reading = std::thread::Builder::new().name("spool".to_owned());
        let started = reading.spawn(move || {
            // A copy that was stopped meanwhile does not receive the result.
            let _ = done.send(Self::read_blocking(&pipe, &folder));
        });
        started.map_err(|error| unreadable(&error))?;
        result.await.expect("reading a pipe does not panic")
    }

    fn read_blocking(pipe: &File, folder: &Path) -> Result<Self, Problem> {
        let mut file = unnamed(folder).map_err(|error| unwritable(folder, &error))?;
        fill(pipe, &mut file, folder)?;
        Ok(Self(file))
    }

    /// A path that opens the file again, with a separate position.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl Layout {
    /// Reads the layout inside a tar that arrives through a pipe or a socket. The tar is stored in
    /// an unnamed file in the folder for temporary files (`TMPDIR`) while the layout is in use.
    /// `place` names the pipe in errors.
    pub async fn read_archive(pipe: File, place: &str) -> Result<Self, Error> {
        Self::read_tar(pipe, place, Form::Layout).await
    }

    /// Does the same for an archive in Docker's format, see [`Self::open_docker_archive`].
    pub async fn read_docker_archive(pipe: File, place: &str) -> Result<Self, Error> {
        Self::read_tar(pipe, place, Form::Docker).await
    }

    async fn read_tar(pipe: File, place: &str, form: Form) -> Result<Self, Error> {
        let found = match Spooled::read(pipe, std::env::temp_dir()).await {
            Ok(spooled) => TarIndex::read_spooled(spooled, form).await,
            Err(problem) => Err(problem),
        };
        Self::of_tar(place, found).await
    }
}

/// Creates a file that only this process can open: its name is removed at once.
fn unnamed(folder: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = folder.join(format!(".coral-{}", uuid::Uuid::new_v4().simple()));
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    let file = options.open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn fill(mut pipe: &File, file: &mut File, folder: &Path) -> Result<(), Problem> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let written = file.write_all(&buffer[..length]);
                written.map_err(|error| unwritable(folder, &error))?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The other side may have set the pipe to non-blocking, for all that share it.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut readable = [PollFd::new(pipe, PollFlags::IN)];
                let polled = rustix::event::poll(&mut readable, None);
                polled.map_err(|error| unreadable(&error.into()))?;
            }
            Err(error) => return Err(unreadable(&error)),
        }
    }
}

fn unreadable(error: &std::io::Error) -> Problem {
    Problem::Broken(format!("it cannot be read: {error}"))
}

fn unwritable(folder: &Path, error: &std::io::Error) -> Problem {
    let why = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "is full".to_owned(),
        _ => format!("takes no file ({error})"),
    };
    let folder = folder.display();
    Problem::Options(format!(
        "an archive from a pipe is kept in a temporary file, and {folder} {why}: set TMPDIR to a \
         folder with enough space, or write the archive to a file and name that file"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe_with(bytes: Vec<u8>) -> File {
        let (reader, writer) = std::io::pipe().unwrap();
        std::thread::spawn(move || {
            // The reader may give up early.
            let _ = File::from(std::os::fd::OwnedFd::from(writer)).write_all(&bytes);
        });
        File::from(std::os::fd::OwnedFd::from(reader))
    }

    #[tokio::test]
    async fn what_a_pipe_gave_is_read_again_and_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = pipe_with(vec![7; 1_000_000]);
        let spooled = Spooled::read(pipe, folder.path().to_owned()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(std::fs::read(spooled.path()).unwrap(), vec![7; 1_000_000]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_without_room_is_named_with_the_way_out() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let folder = Path::new("/a/folder");
        let error = fill(&pipe_with(b"bytes".to_vec()), &mut full, folder).unwrap_err();
        assert!(error.to_string().contains("/a/folder is full"), "{error}");
        assert!(error.to_string().contains("set TMPDIR"), "{error}");
        let none = Spooled::read(pipe_with(Vec::new()), PathBuf::from("/none/here")).await;
        let error = none.unwrap_err().to_string();
        assert!(error.contains("/none/here takes no file"), "{error}");
    }
}
