//! One run of a build, as the controller describes it to the steps.

use serde::{Deserialize, Serialize};

use super::path;

/// A step of a build: also the name of its container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Brings the source.
    Fetch,
    /// The user's container.
    Build,
    /// Sends what was built.
    Push,
}

impl Step {
    /// All, in the order in which they run.
    pub const ALL: [Self; 3] = [Self::Fetch, Self::Build, Self::Push];

    /// Its name, which is the name of its container.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Build => "build",
            Self::Push => "push",
        }
    }
}

/// One run of an `ImageBuild`, in the file `build.json`. `fetch` and `push` act on it; the user's
/// container can read it, so nothing in it is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildJson {
    /// Name of the `ImageBuild`.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The run's key: eight hexadecimal digits.
    pub run: String,
    /// Where the source comes from.
    pub source: SourceJson,
    /// The user's container, as the provenance names it.
    pub build: BuilderJson,
    /// Where the image goes.
    pub output: OutputJson,
}

/// The source of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceJson {
    /// Bytes that the source may have.
    pub limit: u64,
    /// Which kind it is of.
    #[serde(flatten)]
    pub kind: SourceKind,
}

/// The kinds of sources: one key beside `limit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceKind {
    /// A git repository.
    Git(GitSource),
    /// A tar archive on standard input.
    Stream(StreamSource),
    /// An image or an OCI artifact.
    Image(ImageSource),
    /// The files of a `ConfigMap`, mounted at [`path::INPUT`].
    ConfigMap {},
    /// A folder of a claim, mounted at [`path::INPUT`].
    Pvc(PathSource),
}

/// A git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// Its URL, without a credential.
    pub url: String,
    /// A branch, tag or commit. The remote's default branch without it.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The folder that the build reads; the repository is fetched whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether submodules are fetched too.
    #[serde(default)]
    pub submodules: bool,
}

/// A stream has no settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSource {}

/// An image or OCI artifact that holds a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// Its reference, by tag or digest.
    pub reference: String,
}

/// A folder of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathSource {
    /// The folder beneath the volume's root that is the source; the whole volume without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

impl SourceKind {
    /// What `CORAL_SOURCE` says to `build`: the source folder with a git source's `path`. The path of
    /// a claim is not in it, since `fetch` copies that folder alone.
    pub fn folder(&self) -> String {
        match self {
            Self::Git(GitSource {
                path: Some(path), ..
            }) => format!("{}/{}", path::SOURCE, path.trim_matches('/')),
            _ => path::SOURCE.to_owned(),
        }
    }
}

/// The user's container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuilderJson {
    /// Its image as written.
    pub image: String,
    /// Its command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvironmentVariable>,
}

/// One variable of the user's container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentVariable {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

/// Where the image of a run goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputJson {
    /// Bytes that the output may have.
    pub limit: u64,
    /// Host and port of the internal registry.
    pub registry: String,
    /// Repositories with tags in it, such as `team-a/shop:3`: at least one, each below the namespace.
    pub tags: Vec<String>,
    /// Repositories elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_to: Vec<AlsoTo>,
}

impl OutputJson {
    /// The references inside, in the order of `tags`.
    pub fn references(&self) -> impl Iterator<Item = String> {
        let registry = &self.registry;
        self.tags.iter().map(move |tag| format!("{registry}/{tag}"))
    }
}

/// A repository outside that gets the image, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlsoTo {
    /// The repository, such as `ghcr.io/acme/shop`.
    pub repository: String,
    /// Its tags, at least one.
    pub tags: Vec<String>,
    /// Certificates of the registry's authority in PEM, beside those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Whether plain HTTP is spoken to the registry.
    #[serde(
        rename = "plainHTTP",
        default,
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub plain_http: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn run(source: &Value) -> Value {
        json!({
            "name": "shop", "namespace": "team-a", "uid": "1", "run": "0123abcd",
            "source": source,
            "build": {"image": "builder:1", "env": [{"name": "A", "value": "1"}]},
            "output": {
                "limit": 10,
                "registry": "local.coral-system.svc:5000",
                "tags": ["team-a/shop:3"],
                "alsoTo": [{"repository": "ghcr.io/acme/shop", "tags": ["3"]}],
            },
        })
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        for source in [
            json!({"limit": 1, "git": {"url": "https://a/b", "ref": "main", "path": "web", "submodules": true}}),
            json!({"limit": 1, "stream": {}}),
            json!({"limit": 1, "image": {"reference": "a/b:1"}}),
            json!({"limit": 1, "configMap": {}}),
            json!({"limit": 1, "pvc": {"path": "web"}}),
        ] {
            let written = run(&source);
            let read: BuildJson = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), written);
        }
    }

    #[test]
    fn the_build_reads_the_path_of_a_git_source() {
        let read: BuildJson = serde_json::from_value(run(
            &json!({"limit": 1, "git": {"url": "https://a/b", "path": "web/app/"}}),
        ))
        .unwrap();
        assert_eq!(read.source.kind.folder(), "/coral-build/source/web/app");
        let whole = SourceKind::Pvc(PathSource {
            path: Some("web".to_owned()),
        });
        assert_eq!(whole.folder(), "/coral-build/source");
    }

    #[test]
    fn references_are_in_the_internal_registry() {
        let read: BuildJson =
            serde_json::from_value(run(&json!({"limit": 1, "stream": {}}))).unwrap();
        assert_eq!(
            read.output.references().collect::<Vec<_>>(),
            ["local.coral-system.svc:5000/team-a/shop:3"]
        );
    }
}
