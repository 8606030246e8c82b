//! The flags of `coral build`, and the `ImageBuild` that they describe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use coral_api::LocalObjectReference;
use coral_api::image_build::{
    AlsoTo, BuildCache, BuildOutput, BuildRegistry, BuildSource, BuildStep, ImageBuild,
    ImageBuildSpec, StreamSource,
};
use coral_image::ImageRef;
use jiff::Timestamp;

use crate::cluster::ClusterArguments;
use crate::failure::Failure;

/// Longest name that is made from a folder's: names of Jobs and pods are made from it.
const MAX_NAME: usize = 40;

/// What `coral build` takes.
#[derive(Debug, Args)]
pub(crate) struct BuildArguments {
    /// Folder to build. All of it is sent to the cluster, except for what its .dockerignore excludes
    #[arg(value_name = "FOLDER", default_value = ".")]
    pub(super) folder: PathBuf,
    /// Name of the image in the Registry, below the namespace; may be repeated [default:
    /// NAMESPACE/NAME:latest]
    #[arg(short, long = "tag", value_name = "NAMESPACE/PATH:TAG")]
    pub(super) tags: Vec<String>,
    /// Name of the ImageBuild object [default: the name of the folder]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Registry object that the image is pushed to
    #[arg(
        long,
        env = "CORAL_BUILD_REGISTRY",
        value_name = "NAMESPACE/NAME",
        default_value = "coral-system/reg"
    )]
    pub(super) registry: String,
    /// Also push to a registry outside the cluster, with the credential in a Secret of the
    /// namespace; may be repeated
    #[arg(long, value_name = "HOST/PATH:TAG[=SECRET]")]
    pub(super) also_to: Vec<String>,
    /// Dockerfile, inside the folder [default: Dockerfile, else Containerfile]
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Build argument; without =VALUE, the value of the environment variable NAME. Do not pass
    /// secrets: the value is stored in the object and in the image's provenance
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    pub(super) build_args: Vec<String>,
    /// Stage of the Dockerfile to build
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,
    /// Platforms to build for, such as linux/arm64; more than one needs binfmt on the node
    #[arg(long = "platform", value_name = "OS/ARCH", value_delimiter = ',')]
    pub(super) platforms: Vec<String>,
    /// PersistentVolumeClaim in the namespace that keeps layers from one run to the next
    #[arg(long, value_name = "CLAIM")]
    pub(super) cache: Option<String>,
    /// Image of the build container [default: the builder that the cluster offers]
    #[arg(long, value_name = "IMAGE")]
    pub(super) builder: Option<String>,
    /// Maximum size of the folder in the cluster, in bytes, such as 500M or 4Gi [default: 2Gi]
    #[arg(long, value_name = "SIZE")]
    pub(super) source_limit: Option<String>,
    /// How long the run may take, such as 90s, 30m or 2h
    #[arg(long, value_name = "TIME")]
    pub(super) timeout: Option<String>,
    /// Print the ImageBuild object and do nothing else; needs no cluster
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Exit once the folder is sent; the run continues
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) detach: bool,
    /// Namespace of the object and of its run [default: the namespace of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    #[command(flatten)]
    pub(super) cluster: ClusterArguments,
}

/// The object that the flags describe. `now` makes it run even if nothing else has changed.
pub(super) fn object(
    arguments: &BuildArguments,
    namespace: &str,
    dockerfile: Option<&Path>,
    now: Timestamp,
) -> Result<ImageBuild, Failure> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => folder_name(&arguments.folder)?,
    };
    let tags = tags(&arguments.tags, namespace, &name)?;
    let step = BuildStep {
        image: arguments.builder.clone(),
        args: builder_arguments(arguments, dockerfile)?,
        ..BuildStep::default()
    };
    let spec = ImageBuildSpec {
        source: BuildSource {
            stream: Some(StreamSource {}),
            limit: arguments.source_limit.clone(),
            ..BuildSource::default()
        },
        build: (step != BuildStep::default()).then_some(step),
        output: BuildOutput {
            registry: registry(&arguments.registry)?,
            tags,
            also_to: also_to(&arguments.also_to)?,
            ..BuildOutput::default()
        },
        cache: arguments.cache.clone().map(|pvc| BuildCache { pvc }),
        timeout: arguments.timeout.clone(),
        rerun: Some(now.to_string()),
        ..ImageBuildSpec::default()
    };
    let mut object = ImageBuild::new(&name, spec);
    object.metadata.namespace = Some(namespace.to_owned());
    object.settings().map_err(Failure::inputs)?;
    Ok(object)
}

/// A name for objects, from the folder's.
fn folder_name(folder: &Path) -> Result<String, Failure> {
    let full = folder
        .canonicalize()
        .map_err(|error| Failure::input(format!("{}: {error}", folder.display())))?;
    let name = full.file_name().unwrap_or_default().to_string_lossy();
    let letter = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    let name: String = name.chars().map(letter).collect();
    // The cut may have left a dash at the end.
    let name = name.trim_start_matches('-');
    let name = name[..name.len().min(MAX_NAME)].trim_end_matches('-');
    if name.is_empty() {
        let problem = "no object name can be made from its name: give one with --name";
        return Err(Failure::input(format!("{}: {problem}", full.display())));
    }
    Ok(name.to_owned())
}

/// The tags, each below the namespace, so that a build cannot overwrite images of other namespaces.
fn tags(given: &[String], namespace: &str, name: &str) -> Result<Vec<String>, Failure> {
    if given.is_empty() {
        return Ok(vec![format!("{namespace}/{name}:latest")]);
    }
    let mut tags = Vec::new();
    for tag in given {
        let below = tag.strip_prefix(namespace);
        if !below.is_some_and(|rest| rest.starts_with('/')) {
            return Err(Failure::input(format!(
                "--tag {tag}: not below the namespace {namespace:?}: write {namespace}/{}",
                suggested(tag)
            )));
        }
        if !tags.contains(tag) {
            tags.push(tag.clone());
        }
    }
    Ok(tags)
}

/// A tag without the host that it may begin with.
fn suggested(tag: &str) -> &str {
    match tag.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => tag.trim_start_matches('/'),
    }
}

fn registry(text: &str) -> Result<BuildRegistry, Failure> {
    let parts = text.split_once('/');
    match parts.filter(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && !name.contains('/')
    }) {
        Some((namespace, name)) => Ok(BuildRegistry {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }),
        None => Err(Failure::input(format!(
            "--registry {text}: expected NAMESPACE/NAME of a Registry object, such as \
             coral-system/reg"
        ))),
    }
}

/// The registries outside the cluster; tags of one repository become one entry.
fn also_to(given: &[String]) -> Result<Vec<AlsoTo>, Failure> {
    let mut found: BTreeMap<(String, Option<String>), Vec<String>> = BTreeMap::new();
    for text in given {
        let wrong = |problem: &dyn std::fmt::Display| {
            Failure::input(format!("--also-to {text}: {problem}"))
        };
        let (reference, secret) = match text.split_once('=') {
            Some((_, "")) => return Err(wrong(&"no Secret is named after the =")),
            Some((reference, secret)) => (reference, Some(secret.to_owned())),
            None => (text.as_str(), None),
        };
        let reference = ImageRef::parse(reference).map_err(|error| wrong(&error))?;
        let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else {
            return Err(wrong(&"expected a tag, such as ghcr.io/acme/shop:3"));
        };
        let repository = reference.repository().to_string();
        let tags = found.entry((repository, secret)).or_default();
        let tag = tag.to_string();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let entries = found
        .into_iter()
        .map(|((repository, secret), tags)| AlsoTo {
            repository,
            tags,
            secret_ref: secret.map(|name| LocalObjectReference { name }),
            ..AlsoTo::default()
        });
    Ok(entries.collect())
}

/// The arguments of the builder, as the contract of a build container names them.
fn builder_arguments(
    arguments: &BuildArguments,
    dockerfile: Option<&Path>,
) -> Result<Vec<String>, Failure> {
    let mut words = Vec::new();
    for argument in &arguments.build_args {
        words.push("--build-arg".to_owned());
        words.push(build_argument(argument, &|name| std::env::var(name).ok())?);
    }
    if let Some(target) = &arguments.target {
        words.extend(["--target".to_owned(), target.clone()]);
    }
    if !arguments.platforms.is_empty() {
        words.extend(["--platform".to_owned(), arguments.platforms.join(",")]);
    }
    // The builder finds a Dockerfile by itself.
    if let Some(file) = dockerfile.filter(|file| *file != Path::new("Dockerfile")) {
        let Some(file) = file.to_str() else {
            let problem = "its name is not UTF-8 text, which arguments of a container must be";
            return Err(Failure::input(format!("{}: {problem}", file.display())));
        };
        words.extend(["--file".to_owned(), file.to_owned()]);
    }
    Ok(words)
}

fn build_argument(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Failure> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) {
        let problem = "expected NAME=VALUE, such as VERSION=3";
        return Err(Failure::input(format!("--build-arg {text}: {problem}")));
    }
    if text.contains('=') {
        return Ok(text.to_owned());
    }
    variable(name)
        .map(|value| format!("{name}={value}"))
        .ok_or_else(|| {
            Failure::input(format!(
                "--build-arg {name}: no value is given, and the environment variable {name} is not \
                 set"
            ))
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        build: BuildArguments,
    }

    fn build(words: &[&str]) -> Result<ImageBuild, String> {
        let line = Line::try_parse_from(["build"].iter().chain(words)).unwrap();
        let dockerfile = line.build.file.clone();
        let now = Timestamp::from_second(1).unwrap();
        object(&line.build, "team-a", dockerfile.as_deref(), now)
            .map_err(|failure| failure.lines().collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn without_flags_the_folder_gives_its_name_to_object_and_image() {
        let folder = tempfile::tempdir().unwrap();
        let shop = folder.path().join("-My_Shop.2-");
        std::fs::create_dir(&shop).unwrap();
        let object = build(&[shop.to_str().unwrap()]).unwrap();
        assert_eq!(object.metadata.name.as_deref(), Some("my-shop-2"));
        assert_eq!(object.metadata.namespace.as_deref(), Some("team-a"));
        assert_eq!(object.spec.output.tags, ["team-a/my-shop-2:latest"]);
        assert_eq!(object.spec.output.registry.namespace, "coral-system");
        assert_eq!(object.spec.build, None);
        assert_eq!(object.spec.rerun.as_deref(), Some("1970-01-01T00:00:01Z"));
        assert!(object.spec.source.stream.is_some());
    }

    #[test]
    fn flags_are_arguments_of_the_builder_in_the_words_of_the_contract() {
        let object = build(&[
            "--name=shop",
            "--build-arg=V=1 2",
            "--target=run",
            "--file=docker/web",
            "--platform=linux/amd64",
            "--platform=linux/arm64",
            "--cache=layers",
            "--source-limit=4Gi",
            "--builder=quay.io/acme/build:1",
        ]);
        let spec = object.unwrap().spec;
        assert_eq!(spec.cache.unwrap().pvc, "layers");
        assert_eq!(spec.source.limit.as_deref(), Some("4Gi"));
        let step = spec.build.unwrap();
        assert_eq!(step.image.as_deref(), Some("quay.io/acme/build:1"));
        assert_eq!(
            step.args,
            [
                "--build-arg",
                "V=1 2",
                "--target",
                "run",
                "--platform",
                "linux/amd64,linux/arm64",
                "--file",
                "docker/web"
            ]
        );
    }

    #[test]
    fn a_tag_that_is_not_below_the_namespace_is_refused_with_one_that_is() {
        for (tag, instead) in [
            ("shop:3", "team-a/shop:3"),
            ("team-ab/shop:3", "team-a/team-ab/shop:3"),
            ("reg.corp:5000/x/shop:3", "team-a/x/shop:3"),
        ] {
            let refusal = build(&["--name=shop", "--tag", tag]).unwrap_err();
            let end = format!("write {instead}");
            assert!(refusal.ends_with(&end), "{refusal}");
        }
        let refusal = build(&["--name=shop", "--tag=team-a/shop"]).unwrap_err();
        assert!(refusal.contains("spec.output.tags"), "{refusal}");
    }

    #[test]
    fn registries_outside_are_one_entry_for_each_repository_and_secret() {
        let object = build(&[
            "--name=shop",
            "--also-to=ghcr.io/acme/shop:3=ghcr",
            "--also-to=ghcr.io/acme/shop:latest=ghcr",
            "--also-to=quay.io/acme/shop:3",
        ]);
        let also_to = object.unwrap().spec.output.also_to;
        let found: Vec<_> = also_to
            .iter()
            .map(|to| {
                (
                    to.repository.as_str(),
                    to.tags.len(),
                    to.secret_ref.is_some(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("ghcr.io/acme/shop", 2, true),
                ("quay.io/acme/shop", 1, false)
            ]
        );
        let digest = format!("ghcr.io/acme/shop@sha256:{}", "a".repeat(64));
        for wrong in [digest.as_str(), "ghcr.io/acme/shop:3=", "/:"] {
            let refusal = build(&["--name=shop", "--also-to", wrong]).unwrap_err();
            assert!(refusal.contains("--also-to"), "{refusal}");
        }
    }

    #[test]
    fn a_build_argument_without_a_value_is_that_of_the_environment() {
        let variable = |name: &str| (name == "V").then(|| "3".to_owned());
        let read = |text| build_argument(text, &variable).ok();
        assert_eq!(read("V").as_deref(), Some("V=3"));
        assert_eq!(read("V=").as_deref(), Some("V="));
        assert_eq!(read("W"), None);
        assert_eq!(read("=3"), None);
    }

    #[test]
    fn what_the_cluster_would_refuse_is_refused_before() {
        for words in [
            &["--name=Shop"][..],
            &["--name=shop", "--timeout=1x"],
            &["--name=shop", "--source-limit=4GB?"],
            &["--name=shop", "--source-limit=1k"],
            &["--name=shop", "--registry=reg"],
            &["--name=shop", "--registry=a/b/c"],
        ] {
            assert!(build(words).is_err(), "{words:?}");
        }
    }
}
