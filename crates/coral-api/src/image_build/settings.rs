//! The validated settings of a build: every text is parsed and every default filled in.

mod git_source;

use std::time::Duration;

use coral_image::{Digest, ImageRef, Repository, RepositoryPath, Tag};

use super::{
    AlsoTo, BuildOutput, BuildSource, BuildStep, BuildVisibility, GitSource, ImageBuild,
    ImageBuildSpec, TolerationOperator,
};
use crate::duration::GoDuration;
use crate::metadata;
use crate::object_reference::LocalObjectReference;
use crate::problem::{Problem, Problems};
use crate::quantity::Quantity;
use crate::registry_mirror::{object_name, object_names};

const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_hours(168);
const DEFAULT_SOURCE: u64 = 2 << 30;
const DEFAULT_OUTPUT: u64 = 10 << 30;
/// The lowest limit of a source or output.
const MIN_LIMIT: u64 = 1 << 20;
/// User IDs that a container may have. Higher ones do not exist in a pod's user namespace.
const MIN_USER: u32 = 1;
const MAX_USER: u32 = 65535;
const DEFAULT_HISTORY: u32 = 3;
const MAX_HISTORY: u32 = 100;
/// Bytes of SHA-256 in the key of a run.
const KEY_BYTES: usize = 4;

/// What a build means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSettings {
    /// Where the source comes from.
    pub source: SourceSettings,
    /// Bytes that the source may have.
    pub source_limit: u64,
    /// Bytes that the output may have.
    pub output_limit: u64,
    /// Namespace and name of the Registry that the image goes to.
    pub registry: (String, String),
    /// Its names there.
    pub tags: Vec<BuildTag>,
    /// Registries outside that the image is pushed to as well.
    pub also_to: Vec<AlsoToSettings>,
    /// The claim of the cache.
    pub cache: Option<String>,
    /// How long a run may take.
    pub timeout: Duration,
}

/// Where a source comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSettings {
    /// A git repository.
    Git(GitSource),
    /// A folder that a client sends.
    Stream,
    /// An OCI artifact.
    Image {
        /// The artifact.
        reference: ImageRef,
        /// The Secret with the credential.
        secret: Option<String>,
    },
    /// The files of the ConfigMap of this name.
    ConfigMap(String),
    /// The folder of a volume.
    Volume {
        /// The claim.
        claim: String,
        /// The folder; none: all of it.
        path: Option<String>,
    },
}

/// A name of an image in the Registry inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildTag {
    /// The repository.
    pub path: RepositoryPath,
    /// The tag.
    pub tag: Tag,
}

/// A registry outside that an image goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlsoToSettings {
    /// The repository.
    pub repository: Repository,
    /// The tags there.
    pub tags: Vec<Tag>,
    /// The Secret with the credential.
    pub secret: Option<String>,
    /// Certificates of the registry's authority, as PEM text.
    pub ca: Option<String>,
    /// Whether to use plain HTTP.
    pub plain_http: bool,
}

impl ImageBuildSpec {
    /// The key of the run that this spec asks for: equal specs have equal keys, and a change of
    /// `source`, `build`, `output`, `cache` or `rerun` changes it. Eight hexadecimal digits.
    pub fn run_key(&self) -> String {
        let parts = (
            &self.source,
            &self.build,
            &self.output,
            &self.cache,
            &self.rerun,
        );
        let json = serde_json::to_vec(&parts).unwrap_or_default();
        let digest = Digest::sha256(&json).to_string();
        let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
        hex.chars().take(2 * KEY_BYTES).collect()
    }

    /// How many Jobs of ended runs are kept: of those that succeeded, and of the others.
    pub fn kept_runs(&self) -> (usize, usize) {
        let history = self.history.as_ref();
        let kept = |count: Option<u32>| count.unwrap_or(DEFAULT_HISTORY) as usize;
        (
            kept(history.and_then(|it| it.succeeded)),
            kept(history.and_then(|it| it.failed)),
        )
    }
}

impl ImageBuild {
    /// Validates the build. Returns its settings, or every problem.
    pub fn settings(&self) -> Result<BuildSettings, Vec<Problem>> {
        let mut problems = Problems::default();
        object_names(&mut problems, &self.metadata);
        let spec = &self.spec;
        let namespace = self.metadata.namespace.as_deref();
        check_history(&mut problems, spec);
        step(&mut problems, spec.build.as_ref());
        let source = source(&mut problems, &spec.source);
        let settings = BuildSettings {
            source_limit: limit(
                &mut problems,
                "spec.source.limit",
                spec.source.limit.as_deref(),
                DEFAULT_SOURCE,
            ),
            output_limit: limit(
                &mut problems,
                "spec.output.limit",
                spec.output.limit.as_deref(),
                DEFAULT_OUTPUT,
            ),
            registry: registry(&mut problems, &spec.output),
            tags: tags(&mut problems, &spec.output, namespace),
            also_to: also_to(&mut problems, &spec.output.also_to),
            cache: cache(&mut problems, spec),
            timeout: timeout(&mut problems, spec.timeout.as_deref()),
            // A placeholder: a build without a source has a problem and therefore no settings.
            source: SourceSettings::Stream,
        };
        let settings = source.map(|source| BuildSettings { source, ..settings });
        problems.into_result(settings)
    }

    /// Every problem of the build; none if it can be run.
    pub fn validate(&self) -> Vec<Problem> {
        self.settings().err().unwrap_or_default()
    }

    /// Name and namespace, as far as they are there.
    pub fn key(&self) -> (&str, &str) {
        (
            metadata::namespace(&self.metadata),
            metadata::name(&self.metadata),
        )
    }
}

fn source(problems: &mut Problems, source: &BuildSource) -> Option<SourceSettings> {
    const PATH: &str = "spec.source";
    let given = [
        source.git.is_some(),
        source.stream.is_some(),
        source.image.is_some(),
        source.config_map.is_some(),
        source.pvc.is_some(),
    ];
    if given.iter().filter(|given| **given).count() != 1 {
        let message = "needs exactly one of git, stream, image, configMap and pvc";
        problems.add(PATH, message);
        return None;
    }
    if let Some(git) = &source.git {
        git_source::check(problems, git);
        return Some(SourceSettings::Git(git.clone()));
    }
    if let Some(image) = &source.image {
        let reference = ImageRef::parse(&image.reference);
        let secret = secret(
            problems,
            "spec.source.image.secretRef.name",
            image.secret_ref.as_ref(),
        );
        let reference = problems.check("spec.source.image.reference", reference)?;
        return Some(SourceSettings::Image { reference, secret });
    }
    if let Some(config_map) = &source.config_map {
        object_name(problems, "spec.source.configMap.name", &config_map.name);
        return Some(SourceSettings::ConfigMap(config_map.name.clone()));
    }
    if let Some(volume) = &source.pvc {
        object_name(problems, "spec.source.pvc.claimName", &volume.claim_name);
        path_within(problems, "spec.source.pvc.path", volume.path.as_deref());
        let (claim, path) = (volume.claim_name.clone(), volume.path.clone());
        return Some(SourceSettings::Volume { claim, path });
    }
    Some(SourceSettings::Stream)
}

fn path_within(problems: &mut Problems, at: &str, path: Option<&str>) {
    let leaves = |path: &str| path.starts_with('/') || path.split('/').any(|part| part == "..");
    if path.is_some_and(leaves) {
        problems.add(at, "must be a relative path without ..");
    }
}

fn secret(
    problems: &mut Problems,
    path: &str,
    reference: Option<&LocalObjectReference>,
) -> Option<String> {
    let name = &reference?.name;
    object_name(problems, path, name);
    Some(name.clone())
}

fn step(problems: &mut Problems, step: Option<&BuildStep>) {
    let Some(step) = step else { return };
    if let Some(image) = &step.image {
        let _ = problems.check("spec.build.image", ImageRef::parse(image));
    }
    if let Some(user) = step.run_as_user {
        if step.image.is_none() {
            let message = "has runAsUser without image: the offered builder runs as root, so name a \
                           container that does not need to";
            problems.add("spec.build", message);
        }
        if !(MIN_USER..=MAX_USER).contains(&user) {
            problems.add(
                "spec.build.runAsUser",
                format_args!("is {user}, must be 1 to 65535"),
            );
        }
    }
    if let Some(class) = &step.runtime_class_name {
        object_name(problems, "spec.build.runtimeClassName", class);
    }
    for (i, variable) in step.env.iter().enumerate() {
        let path = format!("spec.build.env[{i}]");
        if variable.value_from.is_some() {
            let message = "has valueFrom: secrets and other objects do not enter a build, since \
                           its container could send or keep them; give a plain value";
            problems.add(path.as_str(), message);
        }
        if variable.name.starts_with("CORAL_") {
            let message = "begins with CORAL_: these names are Coral's own";
            problems.add(format!("{path}.name"), message);
        }
        if step.env[..i]
            .iter()
            .any(|other| other.name == variable.name)
        {
            problems.add(
                path,
                format_args!("{:?} occurs twice: remove one", variable.name),
            );
        }
    }
    for (i, toleration) in step.tolerations.iter().enumerate() {
        if toleration.operator == Some(TolerationOperator::Unknown) {
            problems.unknown_value(format!("spec.build.tolerations[{i}].operator"));
        }
    }
}

fn registry(problems: &mut Problems, output: &BuildOutput) -> (String, String) {
    let registry = &output.registry;
    object_name(
        problems,
        "spec.output.registry.namespace",
        &registry.namespace,
    );
    object_name(problems, "spec.output.registry.name", &registry.name);
    if output.visibility == Some(BuildVisibility::Unknown) {
        problems.unknown_value("spec.output.visibility");
    }
    (registry.namespace.clone(), registry.name.clone())
}

/// Names below the namespace, if that is known: for a file without a namespace, `kubectl apply` chooses
/// it.
fn tags(problems: &mut Problems, output: &BuildOutput, namespace: Option<&str>) -> Vec<BuildTag> {
    const PATH: &str = "spec.output.tags";
    if output.tags.is_empty() {
        problems.add(PATH, "is empty: name the image, such as team-a/shop:3");
    }
    let mut tags: Vec<BuildTag> = Vec::new();
    for (i, text) in output.tags.iter().enumerate() {
        let at = format!("{PATH}[{i}]");
        let Some((path, tag)) = text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) else {
            problems.add(at, format_args!("has no tag: write {text:.120}:TAG"));
            continue;
        };
        let path = problems.check(at.as_str(), RepositoryPath::parse(path));
        let tag = problems.check(at.as_str(), Tag::parse(tag));
        let (Some(path), Some(tag)) = (path, tag) else {
            continue;
        };
        let below = path.as_str().split_once('/').map(|(first, _)| first);
        match namespace {
            _ if below.is_none() => {
                let message = "has no namespace: write NAMESPACE/NAME:TAG";
                problems.add(at, message);
            }
            Some(namespace) if below != Some(namespace) => {
                let message = format!("is not below the object's namespace: write {namespace}/…");
                problems.add(at, message);
            }
            _ => {
                let tag = BuildTag { path, tag };
                if tags.contains(&tag) {
                    problems.add(at, "occurs twice: remove one");
                } else {
                    tags.push(tag);
                }
            }
        }
    }
    tags
}

fn also_to(problems: &mut Problems, list: &[AlsoTo]) -> Vec<AlsoToSettings> {
    let mut all = Vec::new();
    for (i, to) in list.iter().enumerate() {
        let path = format!("spec.output.alsoTo[{i}]");
        let plain_http = to.plain_http.unwrap_or_default();
        if plain_http && to.ca.is_some() {
            problems.add(
                path.as_str(),
                "has plainHTTP with ca: that belongs to HTTPS",
            );
        }
        check_certificates(problems, &format!("{path}.ca"), to.ca.as_deref());
        let secret = secret(
            problems,
            &format!("{path}.secretRef.name"),
            to.secret_ref.as_ref(),
        );
        let mut tags = Vec::new();
        for (n, tag) in to.tags.iter().enumerate() {
            tags.extend(problems.check(format!("{path}.tags[{n}]"), Tag::parse(tag)));
        }
        if to.tags.is_empty() {
            problems.add(format!("{path}.tags"), "is empty: name at least one");
        }
        let repository = Repository::parse(&to.repository);
        if let Some(repository) = problems.check(format!("{path}.repository"), repository) {
            all.push(AlsoToSettings {
                repository,
                tags,
                secret,
                ca: to.ca.clone(),
                plain_http,
            });
        }
    }
    all
}

fn check_certificates(problems: &mut Problems, path: &str, pem: Option<&str>) {
    let Some(pem) = pem else { return };
    if !pem.contains("-----BEGIN CERTIFICATE-----") {
        let message = "is not PEM text: it begins with -----BEGIN CERTIFICATE-----";
        problems.add(path, message);
    }
    if pem.contains("PRIVATE KEY-----") {
        problems.add(path, "holds a private key: give certificates only");
    }
}

fn cache(problems: &mut Problems, spec: &ImageBuildSpec) -> Option<String> {
    let claim = &spec.cache.as_ref()?.pvc;
    object_name(problems, "spec.cache.pvc", claim);
    Some(claim.clone())
}

fn timeout(problems: &mut Problems, text: Option<&str>) -> Duration {
    const PATH: &str = "spec.timeout";
    let Some(text) = text else {
        return DEFAULT_TIMEOUT;
    };
    let timeout = problems.check(PATH, GoDuration::parse(text));
    let timeout = timeout.map_or(DEFAULT_TIMEOUT, GoDuration::get);
    if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
        problems.add(PATH, format_args!("is {text:?}, must be 1s to 168h"));
    }
    timeout
}

fn limit(problems: &mut Problems, path: &str, text: Option<&str>, default: u64) -> u64 {
    let Some(text) = text else { return default };
    let limit = problems.check(path, Quantity::parse(text));
    if limit.is_some_and(|limit| limit.get() < MIN_LIMIT) {
        problems.add(path, format_args!("is {text:?}, must be at least 1Mi"));
    }
    limit.map_or(default, Quantity::get)
}

fn check_history(problems: &mut Problems, spec: &ImageBuildSpec) {
    let Some(history) = &spec.history else { return };
    for (field, count) in [("succeeded", history.succeeded), ("failed", history.failed)] {
        if count.is_some_and(|count| count > MAX_HISTORY) {
            let message = format!("must be 0 to {MAX_HISTORY}");
            problems.add(format!("spec.history.{field}"), message);
        }
    }
}
