//! Writes a layout as a single tar file.

mod inherited;
mod replace;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inherited::Inherited;
use replace::{is_name_refused, may_be_written, rename, settle};

use super::files::problem;
use super::tree::{Form, TarIndex};
use super::{Layout, Tree, docker};
use crate::error::{Error, Problem};

/// Size of the buffer through which files are copied.
const BUFFER: usize = 256 * 1024;
/// How often the removal of the folder is attempted.
const REMOVALS: usize = 8;

/// A tar to be written. Its content is collected in a folder beside it, which is removed when this
/// value is dropped. [`NewArchive::finish`] writes the tar, syncs it and gives it its name; an
/// existing file is replaced.
///
/// If the target is a symbolic link, the link stays and the file that it names is replaced. A
/// target that is not a regular file, such as a pipe, is written into. So is a file that this
/// process has open, such as `/dev/stdout` or `/dev/fd/5`, from its current position.
#[derive(Debug)]
pub struct NewArchive {
    target: PathBuf,
    mode: WriteMode,
    content: Content,
    folder: Folder,
}

/// What the tar contains.
#[derive(Debug, Clone)]
enum Content {
    /// The layout with all its images.
    Layout,
    /// The only image of the layout in Docker's format, under this name.
    Docker(Option<String>),
}

/// How the tar gets to its target.
#[derive(Debug)]
enum WriteMode {
    /// As a new file that takes this name.
    Replace(PathBuf),
    /// Byte by byte into an existing target: a pipe, a terminal, a device.
    Into(PathBuf),
    /// Byte by byte into a file that this process inherited.
    Open(Inherited),
}

/// Most symbolic links that are followed to a file that does not exist yet.
const MAX_LINKS: usize = 40;

/// Examines the target.
fn write_mode_for(target: &Path) -> std::io::Result<WriteMode> {
    if let Some(number) = inherited::number(target) {
        return Inherited::take(number).map(WriteMode::Open);
    }
    match std::fs::metadata(target) {
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        // A socket is connected to, not opened.
        Ok(found) if found.file_type().is_socket() => Err(std::io::Error::new(
            ErrorKind::InvalidInput,
            "a socket cannot hold an archive",
        )),
        Ok(found) if !found.is_file() => Ok(WriteMode::Into(target.to_owned())),
        Ok(_) => std::fs::canonicalize(target).map(WriteMode::Replace),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            end_of_links(target).map(WriteMode::Replace)
        }
        Err(error) => Err(error),
    }
}

/// Creates the folder to collect the content in. If no folder can be created beside an existing
/// file that is writable, the tar is written into that file.
fn with_folder(
    mode: WriteMode,
    name: &str,
) -> Result<(WriteMode, PathBuf), (PathBuf, std::io::Error)> {
    let elsewhere = std::env::temp_dir().join(name);
    let (mode, folder) = match mode {
        WriteMode::Replace(file) => {
            let beside = parent(&file).join(name);
            match std::fs::create_dir(&beside) {
                Ok(()) => return Ok((WriteMode::Replace(file), beside)),
                Err(error) if is_name_refused(&error) && may_be_written(&file) => {
                    (WriteMode::Into(file), elsewhere)
                }
                Err(error) => return Err((beside, error)),
            }
        }
        mode => (mode, elsewhere),
    };
    match std::fs::create_dir(&folder) {
        Ok(()) => Ok((mode, folder)),
        Err(error) => Err((folder, error)),
    }
}

/// The file that a symbolic link leads to, which does not exist yet.
fn end_of_links(target: &Path) -> std::io::Result<PathBuf> {
    let mut path = target.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&path) {
            Ok(next) => path = parent(&path).join(next),
            Err(_) => return Ok(path),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

/// A folder that is removed when this value is dropped.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Set before the folder is removed, because a tar that is being packed at that time may lack
    /// blobs.
    is_given_up: Arc<Mutex<bool>>,
}

impl NewArchive {
    /// Creates the folder: in the folder of the tar, or in the one for temporary files if the tar
    /// is written into an existing target.
    pub fn create(target: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::create_with(target.into(), Content::Layout)
    }

    /// Like [`Self::create`], but the tar will contain the single image of the layout in the format
    /// that `docker load` reads, under a name such as `app:1`. [`Self::finish`] refuses an artifact
    /// that is not a container image, and an index of several images.
    pub fn create_docker(target: impl Into<PathBuf>, name: Option<String>) -> Result<Self, Error> {
        Self::create_with(target.into(), Content::Docker(name))
    }

    fn create_with(target: PathBuf, content: Content) -> Result<Self, Error> {
        let mode = write_mode_for(&target).map_err(|error| {
            let problem = problem("cannot write to", &target, error);
            Error::new(target.display(), "writing the archive", problem)
        })?;
        let name = format!(".coral-{}", uuid::Uuid::new_v4().simple());
        let (mode, folder) = with_folder(mode, &name).map_err(|(folder, error)| {
            let problem = problem("cannot make the folder", &folder, error);
            Error::new(target.display(), "writing the archive", problem)
        })?;
        Ok(Self {
            target,
            mode,
            content,
            folder: Folder {
                path: folder,
                is_given_up: Arc::default(),
            },
        })
    }

    /// The layout in which the content is collected.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.folder.path)
    }

    /// Writes the tar. If the future is dropped before it completes, no tar appears and the folder
    /// is removed; the packing in the background then ends because the folder is missing.
    pub async fn finish(self) -> Result<(), Error> {
        let Self {
            target,
            mode,
            content,
            folder,
        } = self;
        let place = target.display().to_string();
        let packing = Packing {
            target,
            mode,
            content,
            folder: folder.path.clone(),
            is_given_up: folder.is_given_up.clone(),
        };
        let packed = tokio::task::spawn_blocking(move || packing.pack()).await;
        drop(folder);
        let packed = packed.expect("writing a tar does not panic");
        packed.map_err(|problem| Error::new(place, "writing the archive", problem))
    }
}

/// Writes the tar on a blocking thread.
struct Packing {
    target: PathBuf,
    mode: WriteMode,
    content: Content,
    folder: PathBuf,
    is_given_up: Arc<Mutex<bool>>,
}

impl Packing {
    fn pack(self) -> Result<(), Problem> {
        let fail = |error| problem("cannot write", &self.target, error);
        let target = match &self.mode {
            WriteMode::Replace(target) => target,
            WriteMode::Into(path) => {
                let mut open = File::options();
                let file = open.write(true).truncate(true).open(path);
                return self.write(file.map_err(fail)?).map(drop);
            }
            WriteMode::Open(inherited) => return self.write(inherited).map(drop),
        };
        let whole = self.folder.join("whole.tar");
        let file = self.write(File::create_new(&whole).map_err(fail)?)?;
        file.sync_all().map_err(fail)?;
        // Held during the rename, so that the removal happens either before it, and no tar appears,
        // or after it.
        let is_given_up = lock(&self.is_given_up);
        if *is_given_up {
            return Err(fail(ErrorKind::Interrupted.into()));
        }
        let renamed = rename(&whole, target);
        drop(is_given_up);
        settle(&whole, target, renamed).map_err(fail)
    }

    /// Writes the complete tar into a file.
    fn write<W: std::io::Write>(&self, file: W) -> Result<W, Problem> {
        let fail = |error| problem("cannot write", &self.target, error);
        let mut tar = tar::Builder::new(BufWriter::with_capacity(BUFFER, file));
        match &self.content {
            Content::Layout => {
                for name in ["oci-layout", "index.json"] {
                    self.append(&mut tar, Path::new(name), Path::new(name))?;
                }
                for name in self.blobs().map_err(fail)? {
                    self.append(&mut tar, &name, &name)?;
                }
            }
            Content::Docker(name) => {
                let append = |tar: &mut _, from: &_, to: &_| self.append(tar, from, to);
                docker::pack(&self.folder, name.as_deref(), &mut tar, append, fail)?;
            }
        }
        let mut buffered = tar.into_inner().map_err(fail)?;
        buffered.flush().map_err(fail)?;
        buffered
            .into_inner()
            .map_err(|error| fail(error.into_error()))
    }

    /// All blobs, sorted by digest, so that the same content gives the same file.
    fn blobs(&self) -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for algorithm in std::fs::read_dir(self.folder.join("blobs"))? {
            let algorithm = PathBuf::from("blobs").join(algorithm?.file_name());
            for blob in std::fs::read_dir(self.folder.join(&algorithm))? {
                found.push(algorithm.join(blob?.file_name()));
            }
        }
        found.sort();
        Ok(found)
    }

    fn append<W: std::io::Write>(
        &self,
        tar: &mut tar::Builder<W>,
        from: &Path,
        to: &Path,
    ) -> Result<(), Problem> {
        let path = self.folder.join(from);
        let read = |error| problem("cannot read", &path, error);
        let file = File::open(&path).map_err(read)?;
        let mut header = tar::Header::new_gnu();
        header.set_size(file.metadata().map_err(read)?.len());
        header.set_mode(0o644);
        header.set_mtime(0);
        tar.append_data(&mut header, to, file)
            .map_err(|error| problem("cannot write", &self.target, error))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        *lock(&self.is_given_up) = true;
        // The packing thread may still add or remove a file, which makes the removal fail. A folder
        // that remains all the same is hidden by its name.
        for _ in 0..REMOVALS {
            match std::fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound || self.path.exists() => {}
                _ => return,
            }
        }
    }
}

fn lock(flag: &Mutex<bool>) -> MutexGuard<'_, bool> {
    flag.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder that contains a file.
fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

impl Layout {
    /// Opens the layout inside a tar for reading. The tar is read in place, never unpacked.
    pub async fn open_archive(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let place = path.display().to_string();
        Self::of_tar(&place, TarIndex::read(path, Form::Layout).await).await
    }

    /// Opens a tar in Docker's format, which `docker save` writes, for reading as a layout: each
    /// image under its names, with a manifest that lists the layers as they are. The tar is read in
    /// place, never unpacked, but all of it is read once to hash the layers.
    pub async fn open_docker_archive(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let place = path.display().to_string();
        Self::of_tar(&place, TarIndex::read(path, Form::Docker).await).await
    }

    pub(super) async fn of_tar(
        place: &str,
        found: Result<TarIndex, Problem>,
    ) -> Result<Self, Error> {
        let found = found.map_err(|problem| Error::new(place, "reading the archive", problem))?;
        let tree = Tree::Tar(std::sync::Arc::new(found));
        let index = tree.size(Path::new("index.json")).await;
        let index = index.map_err(|problem| Error::new(place, "reading the archive", problem))?;
        if index.is_none() {
            let problem =
                Problem::Broken("it contains no index.json, so it is not an OCI layout".to_owned());
            return Err(Error::new(place, "reading the archive", problem));
        }
        Ok(Self { tree })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_and_what_is_no_file_is_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("there.tar"), "").unwrap();
        std::os::unix::fs::symlink("there.tar", at("link")).unwrap();
        std::os::unix::fs::symlink("new.tar", at("dangling")).unwrap();
        std::os::unix::fs::symlink("circle", at("circle")).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            mode,
            0,
        )
        .unwrap();
        let real = std::fs::canonicalize(at("there.tar")).unwrap();
        let replaced = |path: &Path| match write_mode_for(path).unwrap() {
            WriteMode::Replace(file) => file,
            other => panic!("{other:?}"),
        };
        assert_eq!(replaced(&at("there.tar")), real);
        assert_eq!(replaced(&at("link")), real);
        assert_eq!(replaced(&at("dangling")), at("new.tar"));
        assert_eq!(replaced(&at("none")), at("none"));
        assert!(matches!(
            write_mode_for(&at("pipe")).unwrap(),
            WriteMode::Into(_)
        ));
        let null = Path::new("/dev/null");
        assert!(matches!(write_mode_for(null).unwrap(), WriteMode::Into(_)));
        assert!(write_mode_for(&at("circle")).is_err());
        assert!(write_mode_for(dir.path()).is_err());
    }

    fn tar_into(target: PathBuf) {
        let archive = NewArchive::create(target).unwrap();
        let layout = archive.folder.path.clone();
        std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        for name in ["oci-layout", "index.json", "blobs/sha256/x"] {
            std::fs::write(layout.join(name), name).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(archive.finish()).unwrap();
    }

    fn of_this_process(file: &impl std::os::fd::AsRawFd) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    /// A container's security policy may forbid duplicating all descriptors but the standard ones.
    fn may_duplicate(file: &impl std::os::fd::AsRawFd) -> bool {
        inherited::duplicated_by_the_kernel(file.as_raw_fd()).is_ok()
    }

    /// Regression: content before the position was lost, and content after it overwrote the
    /// archive.
    #[test]
    fn an_open_file_is_written_from_where_it_stands_and_nothing_is_cut_off() {
        for appends in [true, false] {
            let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
            std::fs::write(&path, "before and the rest").unwrap();
            let mut options = File::options();
            let mut file = options.write(true).append(appends).open(&path).unwrap();
            if !may_duplicate(&file) {
                return;
            }
            if !appends {
                file.write_all(b"before").unwrap();
            }
            tar_into(of_this_process(&file));
            file.write_all(b"after").unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let start: &[u8] = if appends {
                b"before and the rest"
            } else {
                b"before"
            };
            let tar = bytes.strip_prefix(start).unwrap();
            let tar = tar.strip_suffix(b"after").unwrap();
            let mut tar = tar::Archive::new(tar);
            assert_eq!(tar.entries().unwrap().count(), 3, "appends: {appends}");
        }
    }

    #[test]
    fn a_socket_that_is_open_takes_an_archive() {
        use std::io::Read as _;
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        if !may_duplicate(&theirs) {
            return;
        }
        theirs.set_nonblocking(true).unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            ours.read_to_end(&mut bytes).unwrap();
            bytes
        });
        tar_into(of_this_process(&theirs));
        drop(theirs);
        let bytes = reader.join().unwrap();
        let mut tar = tar::Archive::new(&bytes[..]);
        assert_eq!(tar.entries().unwrap().count(), 3);
    }

    #[test]
    fn what_is_open_for_reading_only_is_refused_before_the_copy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = File::open(file.path()).unwrap();
        assert!(write_mode_for(&of_this_process(&file)).is_err());
        assert!(write_mode_for(Path::new("/proc/self/fd/987654")).is_err());
    }
}
