//! From files to mirrors that can run: what `coral up` and `coral mirror` read.

mod registry;
mod secrets;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coral_api::documents::{self, Document, DocumentError, Object};
use coral_api::{RegistryMirror, Secret, metadata};
use coral_distribution::{Credentials, HostOptions};
use coral_image::Host;
use coral_mirror::{Fallback, Lookup, NamedRegistry, Prepared, prepare};

use crate::failure::Failure;
pub(crate) use registry::LoadedRegistry;
use secrets::{SecretLookupError, Secrets};

/// Largest file that is read; the reader of documents has the same limit.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// The content of a set of files.
pub(crate) struct Loaded {
    /// The mirrors without a mistake.
    pub(crate) mirrors: Vec<LoadedMirror>,
    /// The registry, if the files describe one.
    pub(crate) registry: Option<LoadedRegistry>,
    /// Warnings for the person at the terminal.
    pub(crate) warnings: Vec<String>,
    /// The mistakes.
    pub(crate) problems: Vec<String>,
    /// Files with a mistake; the rest of their content is unknown.
    pub(crate) broken: BTreeSet<String>,
}

impl Loaded {
    /// The content of the files, or all their mistakes.
    pub(crate) fn flawless(self) -> Result<Self, Failure> {
        if self.problems.is_empty() {
            Ok(self)
        } else {
            Err(Failure::inputs(self.problems))
        }
    }
}

/// A mirror and where it was read.
pub(crate) struct LoadedMirror {
    /// The file that defines it.
    pub(crate) origin: String,
    /// The mirror with everything that it refers to.
    pub(crate) prepared: Prepared,
}

/// What mirrors get from outside their files.
pub(crate) struct Surroundings {
    /// The registry that `registry: {name: …}` stands for.
    pub(crate) embedded: Host,
    /// The credentials for that registry.
    pub(crate) embedded_credentials: Arc<Credentials>,
    /// Used where a mirror names no Secret.
    pub(crate) user_credentials: Arc<Credentials>,
    /// Changes whenever these credentials change.
    pub(crate) credentials_version: u64,
}

/// Reads files and folders; all mistakes are reported at once.
pub(crate) fn load(paths: &[PathBuf], surroundings: &Surroundings) -> Result<Loaded, Failure> {
    let mut documents = vec![];
    let mut loaded = Loaded {
        mirrors: vec![],
        registry: None,
        warnings: vec![],
        problems: vec![],
        broken: BTreeSet::new(),
    };
    for file in files(paths)? {
        let origin = file.display().to_string();
        match read(&file).map(|text| documents::read(&origin, &text)) {
            Ok(Ok(found)) => documents.extend(found),
            Ok(Err(errors)) => loaded.blame(errors),
            Err(problem) => {
                loaded.problems.push(format!("{origin}: {problem}"));
                loaded.broken.insert(origin);
            }
        }
    }
    loaded.blame(documents::duplicates(&documents));
    let broken = loaded.broken.clone();
    let secrets = Secrets::among(&documents, &broken);
    let (registry, errors) = registry::load(&documents, &secrets);
    let now = jiff::Timestamp::now();
    let warnings = registry.iter().flat_map(|registry| registry.warnings(now));
    loaded.warnings.extend(warnings);
    loaded.registry = registry;
    loaded.blame(errors);
    for document in &documents {
        loaded.warnings.extend(warnings_of(document));
        let Object::RegistryMirror(mirror) = &document.object else {
            continue;
        };
        let files = Files {
            secrets: &secrets,
            registry: loaded.registry.as_ref(),
            surroundings,
        };
        match load_mirror(document, mirror, &files) {
            Ok(mirror) => loaded.mirrors.push(mirror),
            Err(errors) => loaded.blame(errors),
        }
    }
    loaded
        .mirrors
        .retain(|mirror| !loaded.broken.contains(&mirror.origin));
    Ok(loaded)
}

impl Loaded {
    fn blame(&mut self, errors: Vec<DocumentError>) {
        self.problems.extend(errors.iter().map(ToString::to_string));
        self.broken
            .extend(errors.into_iter().map(|error| error.origin));
    }
}

/// The files that `paths` name: files as they are, and in folders the files that end in .yaml or
/// .yml.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = vec![];
    for path in paths {
        let failed = |error| Failure::input(format!("{}: {error}", path.display()));
        let absent = |error| failed(error).hinting("name a file or a folder of YAML files");
        if !std::fs::metadata(path).map_err(absent)?.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if is_yaml(&file) && file.is_file() {
                files.push(file);
            }
        }
        if files.len() == before {
            let problem = format!(
                "{}: no *.yaml or *.yml file in this folder; name the file or folder with your \
                 mirrors",
                path.display()
            );
            return Err(Failure::input(problem));
        }
        files[before..].sort();
    }
    Ok(files)
}

fn is_yaml(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

/// Opens a file, or a pipe that the shell passes below `/dev`. Opening any other pipe might block
/// forever.
pub(crate) fn open(file: &Path) -> std::io::Result<std::fs::File> {
    if !std::fs::metadata(file)?.is_file() && !file.starts_with("/dev") {
        return Err(std::io::Error::other("not a regular file"));
    }
    std::fs::File::open(file)
}

/// The text of a file, or why it cannot be read.
fn read(file: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut bytes = vec![];
    let open = open(file).map_err(failed)?;
    open.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("larger than {MAX_FILE} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())
}

fn placed(
    document: &Document,
    mirror: &RegistryMirror,
    problems: Vec<String>,
) -> Vec<DocumentError> {
    let title = format!("RegistryMirror {:?}", metadata::name(&mirror.metadata));
    let error = |message| error_at(document, title.clone(), message);
    problems.into_iter().map(error).collect()
}

fn error_at(document: &Document, title: String, message: String) -> DocumentError {
    DocumentError {
        origin: document.origin.clone(),
        line: document.line,
        object: Some(title),
        message,
    }
}

fn warnings_of(document: &Document) -> Vec<String> {
    let mut warnings = document.warnings.clone();
    if let Object::Skipped { kind, name, reason } = &document.object {
        warnings.push(if kind.is_empty() {
            format!("skipped: {reason}")
        } else {
            format!("{kind} {name:?} is skipped: {reason}")
        });
    }
    let place = |w: &String| format!("{}:{}: {w}", document.origin, document.line);
    warnings.iter().map(place).collect()
}

fn load_mirror(
    document: &Document,
    mirror: &RegistryMirror,
    files: &Files<'_>,
) -> Result<LoadedMirror, Vec<DocumentError>> {
    let prepared = prepare(mirror, files);
    Ok(LoadedMirror {
        prepared: prepared.map_err(|error| placed(document, mirror, error.problems()))?,
        origin: document.origin.clone(),
    })
}

/// What mirrors can refer to in the files.
struct Files<'a> {
    secrets: &'a Secrets<'a>,
    registry: Option<&'a LoadedRegistry>,
    surroundings: &'a Surroundings,
}

/// Why something that a mirror refers to cannot be used.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error(transparent)]
    Secret(#[from] SecretLookupError),
    /// If the files describe a registry, no other name is known.
    #[error(
        "there is no Registry {name:?} in namespace {namespace:?}; there is {place} in namespace \
         {other:?}"
    )]
    Registry {
        name: String,
        namespace: String,
        place: String,
        other: String,
    },
}

impl Lookup for Files<'_> {
    type Error = LookupError;

    fn secret(&self, namespace: &str, name: &str) -> Result<&Secret, LookupError> {
        Ok(self.secrets.get(namespace, name)?)
    }

    fn registry(&self, namespace: &str, name: &str) -> Result<NamedRegistry, LookupError> {
        match self.registry {
            Some(there) if there.namespace != namespace || there.name != name => {
                Err(LookupError::Registry {
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    place: there.place(),
                    other: there.namespace.clone(),
                })
            }
            _ => Ok(NamedRegistry {
                host: self.surroundings.embedded.clone(),
                credentials: self.surroundings.embedded_credentials.clone(),
                options: HostOptions::default(),
                version: vec![],
            }),
        }
    }

    fn fallback(&self) -> Fallback {
        Fallback {
            credentials: self.surroundings.user_credentials.clone(),
            version: self.surroundings.credentials_version,
        }
    }
}

fn texts(problems: &[impl ToString]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this folder holds.
    fn loaded(folder: &Path) -> Loaded {
        let surroundings = Surroundings {
            embedded: Host::parse("127.0.0.1:5000").unwrap(),
            embedded_credentials: Arc::default(),
            user_credentials: Arc::default(),
            credentials_version: 0,
        };
        load(&[folder.to_owned()], &surroundings).unwrap()
    }

    #[test]
    fn a_build_is_skipped_by_name_and_the_mirrors_beside_it_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let text = include_str!("load/with-build.yaml");
        std::fs::write(folder.path().join("all.yaml"), text).unwrap();
        let loaded = loaded(folder.path());
        assert_eq!(loaded.problems, Vec::<String>::new());
        assert_eq!(loaded.mirrors.len(), 1);
        let [warning] = loaded.warnings.as_slice() else {
            panic!("{:?}", loaded.warnings);
        };
        let end = "all.yaml:1: ImageBuild \"shop\" is skipped: ImageBuild objects need a cluster";
        assert!(warning.ends_with(end), "{warning}");
    }

    /// Regression: `coral up` reads the present folder, and a compose file in it stopped all mirrors.
    #[test]
    fn files_of_compose_and_helm_are_skipped_by_name_and_the_mirrors_beside_them_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "docker-compose.yaml",
                include_str!("load/docker-compose.yaml"),
            ),
            ("mirrors.yaml", include_str!("load/with-build.yaml")),
            ("values.yaml", include_str!("load/values.yaml")),
            ("values-edge.yaml", "kind: DaemonSet\nreplicaCount: 0\n"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let loaded = loaded(folder.path());
        assert_eq!(loaded.problems, Vec::<String>::new());
        assert_eq!(loaded.mirrors.len(), 1);
        for (name, why) in [
            ("docker-compose.yaml", "skipped: it is no Kubernetes object"),
            ("values.yaml", "skipped: it is no Kubernetes object"),
            (
                "values-edge.yaml",
                "DaemonSet \"\" is skipped: it has no apiVersion",
            ),
        ] {
            let told = loaded.warnings.iter().filter(|it| it.contains(name));
            let told: Vec<_> = told.collect();
            assert_eq!(told.len(), 1, "{:?}", loaded.warnings);
            assert!(told[0].contains(why), "{told:?}");
        }
    }
}
