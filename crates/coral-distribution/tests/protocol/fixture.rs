//! A client for a registry, and helpers for requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coral_distribution::{
    BlobPush, BlobStream, Client, ClientOptions, Credentials, Error, HostOptions, RepositoryClient,
    Upload,
};
use coral_image::{Descriptor, Digest, Host, Repository, Version};
use coral_testkit::{Auth, Bearer, Built, Effect, FaultRegistry, ImageBuilder};
use futures::StreamExt;

/// Tests use this repository unless they say otherwise.
pub(crate) const PATH: &str = "team/app";
pub(crate) const USER: &str = "anna";
pub(crate) const PASSWORD: &str = "hunter2-secret";

/// Options that speak plain HTTP to these registries.
pub(crate) fn plain(registries: &[&FaultRegistry]) -> ClientOptions {
    let mut options = ClientOptions::default();
    for registry in registries {
        let plain = HostOptions {
            plain_http: true,
            ..HostOptions::default()
        };
        options.hosts.insert(host(registry), plain);
    }
    options
}

/// Options for one registry under this fault. They give up soon if no byte can arrive any more.
pub(crate) fn patient_enough(registry: &FaultRegistry, effect: &Effect) -> ClientOptions {
    let for_ever = matches!(
        effect,
        Effect::Stall | Effect::StallBody { .. } | Effect::StallUpload { .. }
    );
    let mut options = plain(&[registry]);
    if for_ever {
        options.stall_timeout = Duration::from_secs(2);
    }
    options
}

pub(crate) fn host(registry: &FaultRegistry) -> Host {
    Host::parse(&registry.host()).unwrap()
}

pub(crate) fn repository(registry: &FaultRegistry, path: &str) -> Repository {
    Repository::parse(&format!("{}/{path}", registry.host())).unwrap()
}

pub(crate) fn credentials(registry: &FaultRegistry) -> Credentials {
    Credentials::for_one_host(host(registry), USER, PASSWORD, "the test")
}

/// A client of `PATH` without credentials.
pub(crate) fn anonymous(registry: &FaultRegistry) -> RepositoryClient {
    with(registry, plain(&[registry]), Credentials::none())
}

/// A client of `PATH` with the credential that registries of this suite accept.
pub(crate) fn logged_in(registry: &FaultRegistry) -> RepositoryClient {
    with(registry, plain(&[registry]), credentials(registry))
}

pub(crate) fn with(
    registry: &FaultRegistry,
    options: ClientOptions,
    credentials: Credentials,
) -> RepositoryClient {
    let client = Client::new(options).unwrap();
    client.repository(&repository(registry, PATH), Arc::new(credentials))
}

pub(crate) fn basic() -> Auth {
    Auth::Basic {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
    }
}

pub(crate) fn bearer() -> Bearer {
    Bearer {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        ..Bearer::default()
    }
}

/// An image of two layers under the tag `1`.
pub(crate) fn image() -> Built {
    ImageBuilder::new(1)
        .layers_of(&[100_000, 20_000])
        .tag("1")
        .build()
}

/// A registry that holds [`image`].
pub(crate) async fn registry_with_image() -> (FaultRegistry, Built) {
    let registry = FaultRegistry::start().await;
    let built = image();
    registry.load(PATH, &built);
    (registry, built)
}

/// Puts the blobs of an image into the registry, but not its manifest.
pub(crate) fn load_blobs(registry: &FaultRegistry, built: &Built) {
    registry.load(
        PATH,
        &Built {
            blobs: built.blobs.clone(),
            ..Built::default()
        },
    );
}

pub(crate) fn tag(name: &str) -> Version {
    Version::parse(name).unwrap()
}

/// The largest blob of an image.
pub(crate) fn large_blob(built: &Built) -> (Descriptor, Bytes) {
    let (digest, bytes) = built
        .blobs
        .iter()
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    (
        Descriptor::new("", *digest, bytes.len() as u64),
        bytes.clone(),
    )
}

/// Reads a stream up to its end or its error.
pub(crate) async fn read(stream: Result<BlobStream, Error>) -> Result<Vec<u8>, Error> {
    let mut stream = stream?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

/// A blob's bytes as a stream of chunks of 10,000 bytes.
pub(crate) fn stream_of(bytes: &Bytes) -> BlobStream {
    let chunks: Vec<_> = bytes
        .chunks(10_000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    BlobStream::new(futures::stream::iter(chunks))
}

pub(crate) async fn begin(repository: &RepositoryClient, digest: &Digest) -> Result<Upload, Error> {
    match repository.begin_blob(digest, None).await? {
        BlobPush::Upload(upload) => Ok(upload),
        BlobPush::Mounted => panic!("nothing was to be mounted"),
    }
}

pub(crate) fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Effect {
    let headers = headers
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect();
    Effect::Status {
        status,
        headers,
        body: body.to_owned(),
    }
}

pub(crate) fn set_header(name: &str, value: &str) -> Effect {
    Effect::SetHeader {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}
