//! A source that is a few files of a `ConfigMap`, mounted as a volume.

use std::fs::File;
use std::path::Path;

use super::FetchError;
use super::destination::Destination;

/// Copies the files of a mounted `ConfigMap`.
///
/// Kubernetes mounts them as links into a folder `..data`, which it swaps on updates. Keys contain no slash
/// and do not begin with two dots, so names that do are Kubernetes' own. Links are followed: only the
/// content of the files is untrusted in such a volume.
pub(super) fn copy(from: &Path, to: &mut Destination) -> Result<(), FetchError> {
    let fail = |error| FetchError::read(from, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name());
    }
    names.sort();
    names.retain(|name| !name.as_encoded_bytes().starts_with(b".."));
    if names.is_empty() {
        return Err(FetchError::Empty("the ConfigMap has no files"));
    }
    for name in names {
        let (path, name) = (from.join(&name), Path::new(&name));
        let mut file = File::open(&path).map_err(|error| FetchError::read(&path, error))?;
        to.file(name, 0o644, None, &mut file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder as Kubernetes mounts a `ConfigMap`.
    fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..2026_11_27");
        std::fs::create_dir(&data).unwrap();
        symlink("..2026_11_27", dir.path().join("..data")).unwrap();
        for (name, content) in files {
            std::fs::write(data.join(name), content).unwrap();
            symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
        }
        dir
    }

    #[test]
    fn the_files_are_copied_and_not_the_links() {
        let from = mounted(&[("Dockerfile", "FROM x"), (".dockerignore", "a")]);
        let dir = tempfile::tempdir().unwrap();
        let mut to = Destination::open(dir.path(), 1 << 20).unwrap();
        copy(from.path(), &mut to).unwrap();
        for (name, content) in [("Dockerfile", "FROM x"), (".dockerignore", "a")] {
            let path = dir.path().join(name);
            assert!(!path.is_symlink());
            assert_eq!(std::fs::read_to_string(path).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(to.bytes(), 7);
    }

    #[test]
    fn a_config_map_without_files_is_no_source() {
        let (from, dir) = (mounted(&[]), tempfile::tempdir().unwrap());
        let mut to = Destination::open(dir.path(), 1 << 20).unwrap();
        let error = copy(from.path(), &mut to).unwrap_err();
        assert_eq!(error.to_string(), "the ConfigMap has no files");
    }
}
