//! How an image was made, as a statement that refers to it: an in-toto statement with a SLSA provenance.

use bytes::Bytes;
use coral_distribution::{BlobPush, BlobStream, Error, RepositoryClient};
use coral_image::{Algorithm, Digest, Manifest, Repository, Version, media_type};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::contract::{BuildContainer, BuildJson, EnvironmentVariable, FetchRecord, SourceKind};

/// Type of the statement, as the artifact and its layer have it.
const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
/// Type of an empty configuration (OCI image-spec, "Guidance for an Empty Descriptor").
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// What the predicate is, also as an annotation that other builders write.
const PREDICATE_TYPE: &str = "https://slsa.dev/provenance/v1";
const PREDICATE_ANNOTATION: &str = "in-toto.io/predicate-type";
const CREATED_ANNOTATION: &str = "org.opencontainers.image.created";
/// What `externalParameters` mean.
const BUILD_TYPE: &str = "https://image.stvz.io/ImageBuild/v1";
/// Who ran the build.
const BUILDER_ID: &str = "https://image.stvz.io/coral";

/// What is known of a build.
pub(crate) struct ProvenanceInput<'a> {
    /// The run.
    pub(crate) run: &'a BuildJson,
    /// What `fetch` recorded.
    pub(crate) record: &'a FetchRecord,
    /// The build container.
    pub(crate) container: &'a BuildContainer,
    /// Where the image is.
    pub(crate) repository: &'a Repository,
    /// The image.
    pub(crate) image: &'a Manifest,
    /// When the build ended, if the controller does not say.
    pub(crate) now: Timestamp,
}

/// The statement. Values of environment variables are not in it, since everyone who may pull the image can
/// read it.
pub(crate) fn statement(facts: &ProvenanceInput<'_>) -> Value {
    let ProvenanceInput { run, record, .. } = facts;
    let started = facts.container.started;
    let started = record.started.clone().or(started.map(|at| at.to_string()));
    let finished = facts.container.finished;
    let names = run
        .build
        .env
        .iter()
        .map(|EnvironmentVariable { name, .. }| name);
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{
            "name": facts.repository.to_string(),
            "digest": digest_set(&facts.image.digest()),
        }],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "source": run.source.kind,
                    "builder": {
                        "image": run.build.image,
                        "command": run.build.command,
                        "args": run.build.args,
                        "environment": names.collect::<Vec<_>>(),
                    },
                },
                "internalParameters": {
                    "namespace": run.namespace,
                    "name": run.name,
                },
                "resolvedDependencies": dependencies(facts),
            },
            "runDetails": {
                "builder": {
                    "id": BUILDER_ID,
                    "version": {"coral": env!("CARGO_PKG_VERSION")},
                },
                "metadata": {
                    "invocationId": format!("{}/{}", run.uid, run.run),
                    "startedOn": started,
                    "finishedOn": finished.unwrap_or(facts.now).to_string(),
                },
            },
        },
    })
}

/// The source and the builder, each with its digest.
fn dependencies(facts: &ProvenanceInput<'_>) -> Vec<Value> {
    let mut found = Vec::new();
    match &facts.run.source.kind {
        SourceKind::Git(git) => {
            let mut source = json!({"uri": format!("git+{}", git.url)});
            if let Some(reference) = &git.reference {
                source["uri"] = json!(format!("git+{}@{reference}", git.url));
            }
            if let Some(commit) = &facts.record.commit {
                source["digest"] = json!({"gitCommit": commit});
            }
            found.push(source);
        }
        SourceKind::Image(image) => {
            let mut source = json!({"uri": image.reference});
            let digest = facts.record.digest.as_deref();
            if let Some(digest) = digest.and_then(|digest| Digest::parse(digest).ok()) {
                source["digest"] = digest_set(&digest);
            }
            found.push(source);
        }
        SourceKind::Stream(_) | SourceKind::ConfigMap {} | SourceKind::Pvc(_) => {}
    }
    let mut builder = json!({"uri": facts.run.build.image});
    let reported = facts.container.builder.as_deref();
    if let Some(digest) = reported.and_then(builder_digest) {
        builder["digest"] = digest_set(&digest);
    }
    found.push(builder);
    found
}

/// The digest in an image id as runtimes report it: `NAME@DIGEST`, `SCHEME://NAME@DIGEST` or the digest
/// alone.
fn builder_digest(image_id: &str) -> Option<Digest> {
    let digest = image_id.rsplit('@').next().unwrap_or(image_id);
    Digest::parse(digest).ok()
}

fn digest_set(digest: &Digest) -> Value {
    json!({digest.algorithm().name(): digest.hex()})
}

/// A statement as an artifact that refers to an image.
pub(crate) struct Artifact {
    statement: Bytes,
    manifest: Bytes,
}

impl Artifact {
    /// The artifact with this statement on an image.
    pub(crate) fn new(image: &Manifest, statement: &Value, now: Timestamp) -> Self {
        let statement = Bytes::from(statement.to_string());
        let described = |kind: &str, bytes: &[u8]| {
            json!({
                "mediaType": kind,
                "digest": Algorithm::Sha256.digest(bytes).to_string(),
                "size": bytes.len(),
            })
        };
        let mut layer = described(STATEMENT_TYPE, &statement);
        layer["annotations"] = json!({PREDICATE_ANNOTATION: PREDICATE_TYPE});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "artifactType": STATEMENT_TYPE,
            "config": described(EMPTY_TYPE, EMPTY),
            "layers": [layer],
            "subject": {
                "mediaType": image.media_type(),
                "digest": image.digest().to_string(),
                "size": image.size(),
            },
            "annotations": {
                PREDICATE_ANNOTATION: PREDICATE_TYPE,
                CREATED_ANNOTATION: now.to_string(),
            },
        });
        Self {
            statement,
            manifest: Bytes::from(manifest.to_string()),
        }
    }

    /// Writes it to a repository that has the image.
    pub(crate) async fn put(&self, repository: &RepositoryClient) -> Result<(), Error> {
        put_blob(repository, Bytes::from_static(EMPTY)).await?;
        put_blob(repository, self.statement.clone()).await?;
        let manifest = Manifest::parse(self.manifest.clone(), Some(media_type::OCI_MANIFEST))
            .expect("the manifest was just written");
        let version = Version::Digest(manifest.digest());
        repository.put_manifest(&version, &manifest).await.map(drop)
    }
}

async fn put_blob(repository: &RepositoryClient, bytes: Bytes) -> Result<(), Error> {
    let digest = Algorithm::Sha256.digest(&bytes);
    let path = repository.repository().path().clone();
    match repository.begin_blob(&digest, Some(&path)).await? {
        BlobPush::Mounted => Ok(()),
        BlobPush::Upload(upload) => {
            let size = bytes.len() as u64;
            let body = futures::stream::once(async { Ok(bytes) });
            upload.put(size, BlobStream::new(body)).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builder_is_known_by_its_digest_however_the_runtime_writes_it() {
        let hex = "a".repeat(64);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        for id in [
            format!("registry.example/builder@sha256:{hex}"),
            format!("docker-pullable://builder@sha256:{hex}"),
            format!("sha256:{hex}"),
        ] {
            assert_eq!(builder_digest(&id), Some(digest), "{id}");
        }
        assert_eq!(builder_digest("builder:1"), None);
        assert_eq!(builder_digest(""), None);
    }
}
