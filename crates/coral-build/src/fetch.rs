//! The first step: fetches the source into its folder.
//!
//! [`destination`] writes every kind of source: bounded in bytes and entries, and never through a
//! symbolic link.

mod config_map;
mod destination;
mod git;
mod image;
mod unpack;
mod volume;

use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use coral_image::ReferenceError;
use jiff::Timestamp;

use crate::access::{AccessError, CredentialSource};
use crate::contract::{FetchRecord, FetchReport, SourceKind, milliseconds, path};
use crate::pod::{Pod, PodError};
use destination::Destination;
pub use git::GitError;
use unpack::ArchiveKind;

/// Most characters of an untrusted name that are shown.
const MAX_SHOWN: usize = 200;

/// Why a source could not be fetched. Credentials are in none of the messages.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source is larger than its limit.
    #[error(
        "the source is larger than {limit} bytes, its limit; set source.limit if it may be larger"
    )]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// One entry of the source is refused.
    #[error("{name:?} in the source is refused: {problem}")]
    Entry {
        /// Its name, cut to a printable length.
        name: String,
        /// Why.
        problem: &'static str,
    },
    /// The archive cannot be read.
    #[error("the archive with the source cannot be unpacked: {0}")]
    Archive(String),
    /// There is nothing in it.
    #[error("{0}")]
    Empty(&'static str),
    /// The path is no folder of the source.
    #[error("path {path:?}: {problem}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        problem: &'static str,
    },
    /// Something cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// What.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something cannot be written.
    #[error("{path} cannot be written")]
    Write {
        /// What.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The reference of a source image.
    #[error("the reference of the source image cannot be used")]
    Reference(#[from] ReferenceError),
    /// The source image.
    #[error("the source image cannot be read")]
    Image(#[source] coral_distribution::Error),
    /// The source image cannot contain a source.
    #[error("the source image {0}")]
    ImageForm(String),
    /// How a registry is reached.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file of the contract.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The git repository.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl FetchError {
    fn entry(path: &Path, problem: &'static str) -> Self {
        let name = path.to_string_lossy().chars().take(MAX_SHOWN).collect();
        Self::Entry { name, problem }
    }

    fn read(path: &Path, source: io::Error) -> Self {
        let path = shown(path);
        Self::Read { path, source }
    }

    fn write(path: &Path, source: io::Error) -> Self {
        let path = shown(path);
        Self::Write { path, source }
    }

    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    fn archive(source: io::Error) -> Self {
        Self::Archive(source.to_string())
    }
}

/// A name for a message, without control characters.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    text.take(MAX_SHOWN).collect()
}

/// Fetches the source of the pod's run and records where it came from. `input` is the standard input,
/// which a stream comes by.
pub async fn fetch(
    pod: &Pod,
    credentials: &dyn CredentialSource,
    input: impl Read + Send + 'static,
) -> Result<FetchReport, FetchError> {
    let (started, began) = (Timestamp::now(), Instant::now());
    let run = pod.run()?;
    let to = Destination::open(&pod.path(path::SOURCE), run.source.limit)?;
    let mut record = FetchRecord {
        started: Some(started.to_string()),
        ..FetchRecord::default()
    };
    let from = pod.path(path::INPUT);
    let to = match run.source.kind {
        SourceKind::Stream(_) => blocking(to, move |to| stream(input, to)).await?,
        SourceKind::ConfigMap {} => blocking(to, move |to| config_map::copy(&from, to)).await?,
        SourceKind::Pvc(source) => {
            let path = source.path.unwrap_or_default();
            blocking(to, move |to| volume::copy(&from, &path, to)).await?
        }
        SourceKind::Image(source) => {
            let registry = &run.output.registry;
            let (digest, to) = image::fetch(pod, credentials, &source, registry, to).await?;
            record.digest = Some(digest.to_string());
            to
        }
        SourceKind::Git(source) => {
            let secret = pod.path(path::GIT);
            let (commit, to) = git::fetch(&source, &secret, run.source.limit, to).await?;
            record.commit = Some(commit);
            to
        }
    };
    let report = FetchReport {
        commit: record.commit.clone(),
        bytes: to.bytes(),
        milliseconds: Some(milliseconds(began)),
    };
    pod.write_record(&record)?;
    Ok(report)
}

/// Unpacks an archive from standard input.
fn stream(mut input: impl Read, to: &mut Destination) -> Result<(), FetchError> {
    unpack::unpack(&mut input, ArchiveKind::Folder, to)
}

/// Runs work that waits for the file system on a blocking thread.
async fn blocking(
    mut to: Destination,
    work: impl FnOnce(&mut Destination) -> Result<(), FetchError> + Send + 'static,
) -> Result<Destination, FetchError> {
    let working = tokio::task::spawn_blocking(move || work(&mut to).map(|()| to));
    working.await.expect("writing a source does not panic")
}
