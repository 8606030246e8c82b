//! From files to mirrors that can run: what `coral up` and `coral mirror` read.

mod registry;
mod secrets;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coral_api::documents::{self, Document, DocumentError, Object};
use coral_api::{MirrorSettings, RegistryMirror, Target, metadata};
use coral_distribution::{Credentials, HostOptions};
use coral_image::{Digest, Host};
use coral_mirror::chain;

use crate::failure::Failure;
pub(crate) use registry::LoadedRegistry;
use secrets::Secrets;

/// Largest file that is read; the reader of documents says so too.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What a set of files says.
pub(crate) struct Loaded {
    /// The mirrors in which nothing is wrong.
    pub(crate) mirrors: Vec<LoadedMirror>,
    /// The registry, if the files describe one.
    pub(crate) registry: Option<LoadedRegistry>,
    /// What a person should know.
    pub(crate) warnings: Vec<String>,
    /// What is wrong.
    pub(crate) problems: Vec<String>,
    /// Files in which something is wrong: nothing is known of what else they hold.
    pub(crate) broken: BTreeSet<String>,
}

impl Loaded {
    /// What the files say, or everything that is wrong with them.
    pub(crate) fn flawless(self) -> Result<Self, Failure> {
        if self.problems.is_empty() {
            Ok(self)
        } else {
            Err(Failure::inputs(self.problems))
        }
    }
}

/// A mirror with everything it names.
pub(crate) struct LoadedMirror {
    /// `namespace/name`.
    pub(crate) name: String,
    /// The file it stands in.
    pub(crate) origin: String,
    pub(crate) settings: MirrorSettings,
    /// Changes whenever the mirror or a Secret that it names does.
    pub(crate) fingerprint: Digest,
    pub(crate) destination: Host,
    pub(crate) source_credentials: Arc<Credentials>,
    pub(crate) destination_credentials: Arc<Credentials>,
    /// How its destination is to be reached.
    pub(crate) host_options: Option<(Host, HostOptions)>,
}

/// What mirrors get from outside their files.
pub(crate) struct Surroundings {
    /// What `registry: {name: …}` means.
    pub(crate) embedded: Host,
    /// The credentials for that.
    pub(crate) embedded_credentials: Arc<Credentials>,
    /// Used where a mirror names no Secret.
    pub(crate) user_credentials: Arc<Credentials>,
    /// Another number whenever these are others than before.
    pub(crate) credentials_version: u64,
}

/// Reads files and folders; everything that is wrong is reported at once.
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
        let registry = loaded.registry.as_ref();
        match load_mirror(document, mirror, &secrets, registry, surroundings) {
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

/// The files that `paths` name: files as they are, of folders those that end in .yaml or .yml.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = vec![];
    for path in paths {
        let failed = |error| Failure::input(format!("{}: {error}", path.display()));
        if !std::fs::metadata(path).map_err(failed)?.is_dir() {
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
            let problem = format!("{}: no *.yaml or *.yml file in this folder", path.display());
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

/// Opens a file, or what the shell hands over below `/dev`. Any other pipe would be waited for,
/// for ever.
pub(crate) fn open(file: &Path) -> std::io::Result<std::fs::File> {
    if !std::fs::metadata(file)?.is_file() && !file.starts_with("/dev") {
        return Err(std::io::Error::other("not a regular file"));
    }
    std::fs::File::open(file)
}

/// The text of a file, or what is wrong with it.
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
        warnings.push(format!("{kind} {name:?} is skipped: {reason}"));
    }
    let place = |w: &String| format!("{}:{}: {w}", document.origin, document.line);
    warnings.iter().map(place).collect()
}

fn load_mirror(
    document: &Document,
    mirror: &RegistryMirror,
    secrets: &Secrets<'_>,
    registry: Option<&LoadedRegistry>,
    surroundings: &Surroundings,
) -> Result<LoadedMirror, Vec<DocumentError>> {
    let wrong = |problems| placed(document, mirror, problems);
    let settings = mirror
        .settings()
        .map_err(|problems| wrong(texts(&problems)))?;
    let namespace = metadata::namespace(&mirror.metadata);
    let mut named = Named {
        namespace,
        secrets,
        seen: format!("{mirror:?}").into_bytes(),
    };
    let source_credentials = named
        .credentials(
            "spec.imagePullSecrets",
            &settings.pull_secrets,
            surroundings,
        )
        .map_err(wrong)?;
    let (destination, destination_credentials, host_options) = match &settings.target {
        Target::Named(name) => {
            is_there(namespace, name, registry).map_err(|problem| wrong(vec![problem]))?;
            (
                surroundings.embedded.clone(),
                surroundings.embedded_credentials.clone(),
                None,
            )
        }
        Target::Address(address) => {
            let wanted: Vec<String> = address.secret.iter().cloned().collect();
            let credentials = named
                .credentials("spec.registry.secretRef", &wanted, surroundings)
                .map_err(wrong)?;
            let options = HostOptions {
                plain_http: address.reach.plain_http,
                skip_tls_verify: !address.reach.tls_verify,
                ca_pem: address.reach.ca.clone().map(String::into_bytes),
                client_pem: None,
            };
            let options = (options != HostOptions::default()).then_some(options);
            let host_options = options.map(|options| (address.host.clone(), options));
            (address.host.clone(), credentials, host_options)
        }
    };
    Ok(LoadedMirror {
        name: format!("{namespace}/{}", metadata::name(&mirror.metadata)),
        origin: document.origin.clone(),
        fingerprint: Digest::sha256(&named.seen),
        settings,
        destination,
        source_credentials,
        destination_credentials,
        host_options,
    })
}

/// Where files describe a registry, its name is the only one there is.
fn is_there(namespace: &str, name: &str, registry: Option<&LoadedRegistry>) -> Result<(), String> {
    match registry {
        Some(there) if there.namespace != namespace || there.name != name => Err(format!(
            "spec.registry.name: there is no Registry {name:?} in namespace {namespace:?}; there \
             is {} in namespace {:?}",
            there.place(),
            there.namespace
        )),
        _ => Ok(()),
    }
}

fn texts(problems: &[impl ToString]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// The Secrets that a mirror names.
struct Named<'a> {
    namespace: &'a str,
    secrets: &'a Secrets<'a>,
    /// Everything the mirror depends on, for its fingerprint.
    seen: Vec<u8>,
}

impl Named<'_> {
    fn credentials(
        &mut self,
        field: &str,
        names: &[String],
        surroundings: &Surroundings,
    ) -> Result<Arc<Credentials>, Vec<String>> {
        if names.is_empty() {
            let version = surroundings.credentials_version.to_le_bytes();
            self.seen.extend_from_slice(&version);
            return Ok(surroundings.user_credentials.clone());
        }
        let mut all = Credentials::none();
        for name in names {
            let secret = self
                .secrets
                .get(self.namespace, name)
                .map_err(|problem| vec![format!("{field}: {problem}")])?;
            let wrong = |e: &dyn std::error::Error| vec![format!("{field}: {}", chain(e))];
            let config = secret.docker_config().map_err(|e| wrong(&e))?;
            self.seen.extend_from_slice(config.json.expose());
            let origin = format!("Secret {name:?}");
            let found = Credentials::from_docker_config(config.json.expose(), &origin);
            all = all.merged_with(found.map_err(|e| wrong(&e))?);
        }
        Ok(Arc::new(all))
    }
}
