//! A layout as one tar file, written as a whole.

mod inherited;
mod replace;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inherited::Inherited;
use replace::{is_of_the_name, may_be_written, rename, settle};

use super::files::problem;
use super::tree::{Form, TarIndex};
use super::{Layout, Tree, docker};
use crate::error::{Error, Problem};

/// Files are copied through a buffer of this size.
const BUFFER: usize = 256 * 1024;
/// How often the removal of the folder is tried.
const REMOVALS: usize = 8;

/// A tar that is going to be written. Its content is collected in a folder beside it, which is
/// removed with this value; the file appears, synced and under its name, when
/// [`NewArchive::finish`] returns, and replaces one that was there. A symbolic link stays, and the
/// file that it names is written; what is no regular file, such as a pipe, is written into, and so
/// is a file that this process has open, as `/dev/stdout` or `/dev/fd/5`, from where it stands.
#[derive(Debug)]
pub struct NewArchive {
    target: PathBuf,
    way: Way,
    content: Content,
    folder: Folder,
}

/// What is written of the layout that was collected.
#[derive(Debug, Clone)]
enum Content {
    /// All of it.
    Layout,
    /// Its only image in Docker's format, under this name.
    Docker(Option<String>),
}

/// How the tar is written to its target.
#[derive(Debug)]
enum Way {
    /// As a new file that takes this name.
    Replace(PathBuf),
    /// Byte by byte into an existing target: a pipe, a terminal, a device.
    Into(PathBuf),
    /// Byte by byte into a file that this process was started with.
    Open(Inherited),
}

/// Links that are followed to a file that is not there yet.
const MAX_LINKS: usize = 40;

/// Examines the target.
fn way_to(target: &Path) -> std::io::Result<Way> {
    if let Some(number) = inherited::number(target) {
        return Inherited::take(number).map(Way::Open);
    }
    match std::fs::metadata(target) {
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        // A socket is connected to, not opened.
        Ok(found) if found.file_type().is_socket() => Err(std::io::Error::new(
            ErrorKind::InvalidInput,
            "a socket cannot hold an archive",
        )),
        Ok(found) if !found.is_file() => Ok(Way::Into(target.to_owned())),
        Ok(_) => std::fs::canonicalize(target).map(Way::Replace),
        Err(error) if error.kind() == ErrorKind::NotFound => end_of_links(target).map(Way::Replace),
        Err(error) => Err(error),
    }
}

/// Makes the folder to collect in. Where none can be made beside a file that is there and may be
/// written, that file is written into.
fn with_folder(way: Way, name: &str) -> Result<(Way, PathBuf), (PathBuf, std::io::Error)> {
    let elsewhere = std::env::temp_dir().join(name);
    let (way, folder) = match way {
        Way::Replace(file) => {
            let beside = parent(&file).join(name);
            match std::fs::create_dir(&beside) {
                Ok(()) => return Ok((Way::Replace(file), beside)),
                Err(error) if is_of_the_name(&error) && may_be_written(&file) => {
                    (Way::Into(file), elsewhere)
                }
                Err(error) => return Err((beside, error)),
            }
        }
        way => (way, elsewhere),
    };
    match std::fs::create_dir(&folder) {
        Ok(()) => Ok((way, folder)),
        Err(error) => Err((folder, error)),
    }
}

/// The file that a link names, which is not there yet.
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

/// A folder that is removed with this value.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Set before the folder is removed: a tar that is packed meanwhile may lack blobs.
    is_given_up: Arc<Mutex<bool>>,
}

impl NewArchive {
    /// Makes the folder, in the one that the tar will be in; in the one for temporary files where
    /// no file will appear.
    pub fn create(target: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::create_with(target.into(), Content::Layout)
    }

    /// The same, and the tar will have the one image that the layout has in the end, in the format
    /// that `docker load` reads, under this name, such as `app:1`. One that is no image of a
    /// container, or an index of several, is refused by [`Self::finish`].
    pub fn create_docker(target: impl Into<PathBuf>, name: Option<String>) -> Result<Self, Error> {
        Self::create_with(target.into(), Content::Docker(name))
    }

    fn create_with(target: PathBuf, content: Content) -> Result<Self, Error> {
        let way = way_to(&target).map_err(|error| {
            let problem = problem("cannot write to", &target, error);
            Error::new(target.display(), "writing the archive", problem)
        })?;
        let name = format!(".coral-{}", uuid::Uuid::new_v4().simple());
        let (way, folder) = with_folder(way, &name).map_err(|(folder, error)| {
            let problem = problem("cannot make the folder", &folder, error);
            Error::new(target.display(), "writing the archive", problem)
        })?;
        Ok(Self {
            target,
            way,
            content,
            folder: Folder {
                path: folder,
                is_given_up: Arc::default(),
            },
        })
    }

    /// What is collected.
    pub fn layout(&self) -> Layout {
        Layout::new(&self.folder.path)
    }

    /// Writes the tar. Dropped before that is done, no tar appears and the folder is gone: what
    /// packs in the background ends because it is missing.
    pub async fn finish(self) -> Result<(), Error> {
        let Self {
            target,
            way,
            content,
            folder,
        } = self;
        let place = target.display().to_string();
        let packing = Packing {
            target,
            way,
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

/// The writing of the tar, on a thread that may wait.
struct Packing {
    target: PathBuf,
    way: Way,
    content: Content,
    folder: PathBuf,
    is_given_up: Arc<Mutex<bool>>,
}

impl Packing {
    fn pack(self) -> Result<(), Problem> {
        let fail = |error| problem("cannot write", &self.target, error);
        let target = match &self.way {
            Way::Replace(target) => target,
            Way::Into(path) => {
                let mut open = File::options();
                let file = open.write(true).truncate(true).open(path);
                return self.write(file.map_err(fail)?).map(drop);
            }
            Way::Open(inherited) => return self.write(inherited).map(drop),
        };
        let whole = self.folder.join("whole.tar");
        let file = self.write(File::create_new(&whole).map_err(fail)?)?;
        file.sync_all().map_err(fail)?;
        // Held over the renaming: the removal begins before it, and no tar appears, or after it.
        let is_given_up = lock(&self.is_given_up);
        if *is_given_up {
            return Err(fail(ErrorKind::Interrupted.into()));
        }
        let renamed = rename(&whole, target);
        drop(is_given_up);
        settle(&whole, target, renamed).map_err(fail)
    }

    /// Writes all of the tar into a file.
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

    /// All blobs, in the order of their digests: the same content makes the same file.
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
        // The thread that packs may still add or remove a file, which fails a removal that is under
        // way. A folder that stays all the same is hidden by its name.
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

/// The folder that a file is in.
fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

impl Layout {
    /// The layout inside a tar, to be read. It is read in place, never unpacked.
    pub async fn open_archive(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let place = path.display().to_string();
        Self::of_tar(&place, TarIndex::read(path, Form::Layout).await).await
    }

    /// The images inside a tar in Docker's format, which `docker save` writes, to be read as a
    /// layout: each under its names, with a manifest of the layers as they are. It is read in place,
    /// never unpacked, but all of it is read once, to hash the layers.
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
        let replaced = |path: &Path| match way_to(path).unwrap() {
            Way::Replace(file) => file,
            other => panic!("{other:?}"),
        };
        assert_eq!(replaced(&at("there.tar")), real);
        assert_eq!(replaced(&at("link")), real);
        assert_eq!(replaced(&at("dangling")), at("new.tar"));
        assert_eq!(replaced(&at("none")), at("none"));
        assert!(matches!(way_to(&at("pipe")).unwrap(), Way::Into(_)));
        let null = Path::new("/dev/null");
        assert!(matches!(way_to(null).unwrap(), Way::Into(_)));
        assert!(way_to(&at("circle")).is_err());
        assert!(way_to(dir.path()).is_err());
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

    /// The rules of a container may forbid it for all descriptors but the standard ones.
    fn may_duplicate(file: &impl std::os::fd::AsRawFd) -> bool {
        inherited::duplicated_by_the_kernel(file.as_raw_fd()).is_ok()
    }

    /// Regression: what was there before was lost, and what came after went over the archive.
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
        assert!(way_to(&of_this_process(&file)).is_err());
        assert!(way_to(Path::new("/proc/self/fd/987654")).is_err());
    }
}
