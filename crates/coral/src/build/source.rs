//! The folder that is sent: its Dockerfile, and what is excluded.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use coral_build::ignore::{Ignore, MAX_BYTES};

use super::pack::Selection;
use crate::failure::Failure;

/// Names that the cluster's builder looks for by itself.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "Containerfile"];
/// Names of ignore files; the first that exists is used.
const IGNORES: [&str; 2] = [".containerignore", ".dockerignore"];

/// A folder to be sent.
pub(super) struct Source {
    /// The folder.
    pub(super) folder: PathBuf,
    /// Which of its files are sent.
    pub(super) selection: Selection,
    /// The Dockerfile, relative to the folder; `None` if the builder is the user's own and no file
    /// was named.
    pub(super) dockerfile: Option<PathBuf>,
}

impl Source {
    /// Inspects the folder. A Dockerfile is required if `file` names one or the cluster's builder
    /// builds.
    pub(super) fn open(
        folder: &Path,
        file: Option<&Path>,
        needs_dockerfile: bool,
    ) -> Result<Self, Failure> {
        let failed = |error| Failure::input(format!("{}: {error}", folder.display()));
        if !fs::metadata(folder).map_err(failed)?.is_dir() {
            let problem = "is not a folder: name the folder to build";
            return Err(Failure::input(format!("{}: {problem}", folder.display())));
        }
        let dockerfile = match file {
            Some(file) => Some(named(folder, file)?),
            None => found(folder),
        };
        if dockerfile.is_none() && needs_dockerfile {
            return Err(Failure::input(format!(
                "{}: there is no Dockerfile in this folder: name one with --file, or with \
                 --builder a container that builds without one",
                folder.display()
            )));
        }
        let (ignore, ignore_file) = read_ignore(folder, dockerfile.as_deref())?;
        let always = dockerfile.iter().cloned().chain(ignore_file).collect();
        Ok(Self {
            folder: folder.to_owned(),
            selection: Selection { ignore, always },
            dockerfile,
        })
    }
}

fn found(folder: &Path) -> Option<PathBuf> {
    let names = DOCKERFILES.into_iter().map(PathBuf::from);
    names.into_iter().find(|name| folder.join(name).is_file())
}

/// The file that `--file` names: relative to the current folder, as the shell completes it, or else
/// to the folder that is sent. It must be inside the latter, or the build would not have it.
fn named(folder: &Path, file: &Path) -> Result<PathBuf, Failure> {
    let failed = |error| Failure::input(format!("--file {}: {error}", file.display()));
    let root = folder.canonicalize().map_err(failed)?;
    let typed = [file.to_owned(), folder.join(file)];
    let Some(path) = typed.iter().find(|path| path.is_file()) else {
        return Err(Failure::input(format!(
            "--file {}: no such file",
            file.display()
        )));
    };
    // Only the path of the folder is resolved: the Dockerfile itself may be a link to another file
    // in the folder.
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let parent = parent.canonicalize().map_err(failed)?;
    let below = parent.strip_prefix(&root).ok();
    below
        .zip(path.file_name())
        .map(|(below, name)| below.join(name))
        .ok_or_else(|| {
            Failure::input(format!(
                "--file {}: not in {}: only that folder is sent",
                file.display(),
                folder.display()
            ))
        })
}

/// The ignore patterns and their file.
fn read_ignore(
    folder: &Path,
    dockerfile: Option<&Path>,
) -> Result<(Ignore, Option<PathBuf>), Failure> {
    let own = dockerfile.map(|file| {
        let mut name = OsString::from(file);
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let names = own.into_iter().chain(IGNORES.map(PathBuf::from));
    let Some(name) = names.into_iter().find(|name| folder.join(name).is_file()) else {
        return Ok((Ignore::default(), None));
    };
    let path = folder.join(&name);
    let failed =
        |problem: &dyn std::fmt::Display| Failure::input(format!("{}: {problem}", path.display()));
    let mut text = String::new();
    fs::File::open(&path)
        // One byte more than the limit, so that a larger file is reported as such.
        .and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_string(&mut text))
        .map_err(|error| failed(&error))?;
    let ignore = Ignore::parse(&text).map_err(|error| failed(&error))?;
    Ok((ignore, Some(name)))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn said(result: Result<Source, Failure>) -> String {
        match result {
            Ok(source) => panic!("{:?}", source.dockerfile),
            Err(failure) => failure.lines().collect(),
        }
    }

    #[test]
    fn a_folder_without_a_dockerfile_is_refused_unless_the_builder_is_the_users_own() {
        let empty = folder(&[]);
        let refusal = said(Source::open(empty.path(), None, true));
        assert!(
            refusal.contains("--file") && refusal.contains("--builder"),
            "{refusal}"
        );
        let source = Source::open(empty.path(), None, false).unwrap();
        assert_eq!(source.dockerfile, None);
    }

    #[test]
    fn a_containerfile_is_taken_where_there_is_no_dockerfile() {
        let one = folder(&[("Containerfile", "")]);
        let both = folder(&[("Containerfile", ""), ("Dockerfile", "")]);
        for (folder, expected) in [(one, "Containerfile"), (both, "Dockerfile")] {
            let source = Source::open(folder.path(), None, true).unwrap();
            assert_eq!(source.dockerfile, Some(expected.into()));
        }
    }

    #[test]
    fn a_file_may_be_named_by_its_path_or_by_its_place_in_the_folder() {
        let folder = folder(&[("docker/web", "")]);
        let full = folder.path().join("docker/web");
        for file in [full.as_path(), Path::new("docker/web")] {
            let source = Source::open(folder.path(), Some(file), true).unwrap();
            assert_eq!(source.dockerfile, Some("docker/web".into()));
        }
        let gone = said(Source::open(folder.path(), Some(Path::new("x")), true));
        assert!(gone.contains("no such file"), "{gone}");
    }

    #[test]
    fn a_file_outside_of_the_folder_is_refused() {
        let folder = folder(&[("web/a", ""), ("Dockerfile", "")]);
        let outside = folder.path().join("Dockerfile");
        let web = folder.path().join("web");
        let refusal = said(Source::open(&web, Some(&outside), true));
        assert!(refusal.contains("only that folder is sent"), "{refusal}");
    }

    #[test]
    fn the_patterns_beside_the_dockerfile_count_before_those_of_the_folder() {
        let folder = folder(&[
            ("Dockerfile", ""),
            (".dockerignore", "a"),
            ("web", ""),
            ("web.dockerignore", "b"),
        ]);
        let open = |file: Option<&str>| {
            let source = Source::open(folder.path(), file.map(Path::new), true).unwrap();
            let selection = source.selection;
            assert_eq!(selection.always.len(), 2);
            ["a", "b"].map(|path| selection.ignore.excludes(path))
        };
        assert_eq!(open(None), [true, false]);
        assert_eq!(open(Some("web")), [false, true]);
    }

    #[test]
    fn a_pattern_that_is_none_is_told_with_its_file() {
        let folder = folder(&[("Dockerfile", ""), (".dockerignore", "ok\n!\n")]);
        let refusal = said(Source::open(folder.path(), None, true));
        assert!(refusal.contains(".dockerignore: line 2"), "{refusal}");
    }
}
