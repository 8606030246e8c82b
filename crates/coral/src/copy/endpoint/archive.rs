//! Archives as files, pipes, and standard input and output.

use std::fs::{File, FileType};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use coral_distribution::Layout;

use crate::failure::Failure;

/// The file that `-` stands for as a destination.
pub(super) const STANDARD_OUTPUT: &str = "/dev/stdout";
/// The file that `-` stands for as a source.
const STANDARD_INPUT: &str = "/dev/stdin";

/// The format of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Oci,
    Docker,
}

/// The file that `-` stands for; any other file stays as it is.
pub(super) fn not_dash(file: PathBuf) -> PathBuf {
    match file.to_str() {
        Some("-") => PathBuf::from(STANDARD_OUTPUT),
        _ => file,
    }
}

/// The layout in an archive; `-` is standard input. The content of a pipe is kept in a temporary
/// file.
pub(super) async fn open_archive(file: PathBuf, format: Format) -> Result<Layout, Failure> {
    let file = if file.as_os_str() == STANDARD_OUTPUT {
        PathBuf::from(STANDARD_INPUT)
    } else {
        file
    };
    let found = std::fs::metadata(&file).ok();
    let is = |kind: fn(&FileType) -> bool| found.as_ref().is_some_and(|f| kind(&f.file_type()));
    if is(FileType::is_fifo) || is(FileType::is_socket) {
        let place = file.display().to_string();
        let pipe = tokio::task::spawn_blocking(move || open_pipe(&file)).await;
        let pipe = pipe
            .expect("opening a pipe does not panic")
            .map_err(|e| Failure::input(format!("{place}: cannot be opened: {e}")))?;
        let layout = match format {
            Format::Oci => Layout::read_archive(pipe, &place).await,
            Format::Docker => Layout::read_docker_archive(pipe, &place).await,
        };
        return layout.map_err(|error| Failure::error(&error));
    }
    if found.is_some() && !is(FileType::is_file) && !is(FileType::is_dir) {
        return Err(Failure::input(format!(
            "{}: neither a file nor a pipe; an archive is read from one of these",
            file.display()
        )));
    }
    let layout = match format {
        Format::Oci => Layout::open_archive(file).await,
        Format::Docker => Layout::open_docker_archive(file).await,
    };
    layout.map_err(|error| Failure::error(&error))
}

/// The read end of a pipe. Standard input may be a socket, which cannot be opened by its path.
fn open_pipe(path: &Path) -> std::io::Result<File> {
    if path.as_os_str() == STANDARD_INPUT {
        return std::io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from);
    }
    File::open(path)
}

/// Whether a path leads to an open file.
pub(super) fn is_same_file(path: &Path, open: BorrowedFd<'_>) -> bool {
    let open = open.try_clone_to_owned().map(std::fs::File::from);
    let open = open.and_then(|open| open.metadata());
    matches!(
        (std::fs::metadata(path), open),
        (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino())
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::super::CopyEndpoint;
    use super::*;

    #[test]
    fn a_dash_is_standard_output_or_input() {
        let place = CopyEndpoint::parse("oci-archive:-:1").unwrap();
        assert!(place.is_standard_output());
        assert!(
            !CopyEndpoint::parse("oci-archive:-x:1")
                .unwrap()
                .is_standard_output()
        );
    }

    #[tokio::test]
    async fn an_archive_is_read_from_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let mut header = tar::Header::new_gnu();
        header.set_size(index.len() as u64);
        let mut tar = tar::Builder::new(Vec::new());
        let appended = tar.append_data(&mut header, "index.json", &index[..]);
        appended.unwrap();
        let tar = tar.into_inner().unwrap();
        let target = path.clone();
        let writing = std::thread::spawn(move || std::fs::write(target, tar));
        let layout = open_archive(path, Format::Oci).await.unwrap();
        writing.join().unwrap().unwrap();
        for _ in 0..2 {
            assert!(layout.entries().await.unwrap().is_empty());
        }
        open_archive(PathBuf::from("/dev/null"), Format::Oci)
            .await
            .unwrap_err();
    }

    #[test]
    fn an_open_file_is_known_by_any_of_its_names() {
        let (one, other) = (
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        let open = format!("/proc/self/fd/{}", one.as_file().as_raw_fd());
        for path in [Path::new(&open), one.path()] {
            assert!(is_same_file(path, one.as_fd()));
            assert!(!is_same_file(path, other.as_fd()));
        }
        assert!(!is_same_file(Path::new("/none"), one.as_fd()));
    }
}
