//! The last step: sends what the build wrote.
//!
//! The image goes to the internal registry first: blobs and manifests by digest, its provenance, then its
//! tags, so that what a tag resolves to is complete. After that each repository of `alsoTo` gets it; one
//! that fails is reported and fails nothing else.

mod output;
mod target;

use std::time::Instant;

use coral_image::{ImageRef, ReferenceError, Repository, Tag, error_chain};
use coral_mirror::{Copier, CopyError, RetryPolicy};
use jiff::Timestamp;

use crate::access::{self, AccessError, CredentialSource};
use crate::contract::{
    AlsoTo, BuildContainer, BuildJson, FetchRecord, OutputState, PushReport, PushedBytes,
    PushedOutput, also_to_credential, failure_text, milliseconds, path,
};
use crate::login::{self, Login};
use crate::pod::{Pod, PodError};
use crate::provenance;
use output::BuiltImage;
pub use output::OutputError;
use target::{BlobBytes, Target};

/// How often a failing push is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicies {
    /// For the internal registry, which may be restarting: without it the build fails.
    pub inside: RetryPolicy,
    /// For each repository of `alsoTo`.
    pub outside: RetryPolicy,
}

impl Default for RetryPolicies {
    fn default() -> Self {
        Self {
            inside: login::INTERNAL_RETRY,
            outside: RetryPolicy::default(),
        }
    }
}

/// Why the image could not be pushed to the internal registry. Credentials and contents of files are in none
/// of the messages.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// What the build wrote is no image.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A reference that the controller wrote.
    #[error("the reference {text:?} cannot be used")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        #[source]
        source: ReferenceError,
    },
    /// A reference that is another namespace's.
    #[error("{reference} is not below {namespace}/, where builds of this namespace may push to")]
    Elsewhere {
        /// The reference.
        reference: String,
        /// The namespace.
        namespace: String,
    },
    /// A repository would have no tag.
    #[error("{0} has no tags")]
    NoTags(String),
    /// How a registry is reached.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A file of the contract.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The image was not copied.
    #[error("the image could not be pushed to {repository}")]
    Copy {
        /// Where it should have gone.
        repository: String,
        /// Why it did not.
        #[source]
        source: CopyError,
    },
    /// An object other than the image was not written.
    #[error("{what} could not be pushed to {repository}")]
    Write {
        /// Where it should have gone.
        repository: String,
        /// What.
        what: String,
        /// Why it did not.
        #[source]
        source: coral_distribution::Error,
    },
}

/// A repository with the tags that it gets, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TaggedRepository {
    repository: Repository,
    tags: Vec<Tag>,
}

/// Pushes the image of the pod's run. A failure at the internal registry is an error; failures at
/// other registries are in the report.
pub async fn push(
    pod: &Pod,
    credentials: &dyn CredentialSource,
    retry: RetryPolicies,
) -> Result<PushReport, PushError> {
    let began = Instant::now();
    let run = pod.run()?;
    let wanted = wanted_inside(&run)?;
    let image = output::find(&pod.path(path::OUTPUT), run.output.limit).await?;
    let push = Push {
        record: pod.record()?,
        copier: Copier::default(),
        retry,
        pod,
        run: &run,
        image: &image,
    };
    let (mut report, container) = push.inside(credentials, &wanted).await?;
    push.write_report(&report);
    for (position, also_to) in run.output.also_to.iter().enumerate() {
        report
            .outputs
            .extend(push.outside(position, also_to, &container).await);
    }
    report.milliseconds = Some(milliseconds(began));
    Ok(report)
}

/// The repositories inside with their tags, in the order in which they are named first.
fn wanted_inside(run: &BuildJson) -> Result<Vec<TaggedRepository>, PushError> {
    let mut wanted: Vec<TaggedRepository> = Vec::new();
    let below = format!("{}/", run.namespace);
    for text in run.output.references() {
        let (repository, tag) = parsed(&text)?;
        if !repository.path().as_str().starts_with(&below) {
            return Err(PushError::Elsewhere {
                reference: text,
                namespace: run.namespace.clone(),
            });
        }
        match wanted.iter_mut().find(|it| it.repository == repository) {
            Some(known) => known.tags.push(tag),
            None => wanted.push(TaggedRepository {
                repository,
                tags: vec![tag],
            }),
        }
    }
    if wanted.is_empty() {
        return Err(PushError::NoTags(run.output.registry.clone()));
    }
    Ok(wanted)
}

fn wanted_outside(also_to: &AlsoTo) -> Result<TaggedRepository, PushError> {
    let texts = also_to.tags.iter();
    let texts = texts.map(|tag| format!("{}:{tag}", also_to.repository));
    let found: Vec<(Repository, Tag)> =
        texts.map(|text| parsed(&text)).collect::<Result<_, _>>()?;
    let Some((repository, _)) = found.first().cloned() else {
        return Err(PushError::NoTags(also_to.repository.clone()));
    };
    let tags = found.into_iter().map(|(_, tag)| tag).collect();
    Ok(TaggedRepository { repository, tags })
}

fn parsed(text: &str) -> Result<(Repository, Tag), PushError> {
    let fail = |source| PushError::Reference {
        text: text.to_owned(),
        source,
    };
    let reference = ImageRef::parse(text).map_err(fail)?;
    let tag = reference.tag().cloned().unwrap_or_else(Tag::latest);
    Ok((reference.repository().clone(), tag))
}

/// One push of one image.
struct Push<'a> {
    pod: &'a Pod,
    run: &'a BuildJson,
    record: FetchRecord,
    image: &'a BuiltImage,
    copier: Copier,
    retry: RetryPolicies,
}

impl Push<'_> {
    /// Pushes to the internal registry. Also returns what the controller knows of the build container.
    async fn inside(
        &self,
        credentials: &dyn CredentialSource,
        wanted: &[TaggedRepository],
    ) -> Result<(PushReport, BuildContainer), PushError> {
        let host = wanted[0].repository.host();
        let client = access::internal(self.pod, host)?;
        let mut login = Login::renewed(client, credentials).await?;
        let mut report = PushReport {
            digest: self.image.digest().to_string(),
            outputs: Vec::new(),
            bytes: PushedBytes::default(),
            milliseconds: None,
        };
        for wanted in wanted {
            let mut target = Target::new(wanted, &mut login, self.retry.inside);
            let sent = target.send(&self.copier, self.image).await?;
            let write_report = self.attach(&mut target).await;
            target.tag(self.image).await?;
            report.bytes.pushed += sent.pushed;
            report.bytes.mounted += sent.mounted;
            report
                .outputs
                .extend(pushed(wanted, self.image, write_report.as_deref()));
        }
        Ok((report, login.container().clone()))
    }

    /// Writes the report before registries outside are contacted: one that never ends its response
    /// may get the pod killed by its timeout, and by then the internal result must be recorded.
    fn write_report(&self, report: &PushReport) {
        if self.run.output.also_to.is_empty() {
            return;
        }
        let mut report = report.clone();
        for also_to in &self.run.output.also_to {
            let why = "the step ended before it was pushed";
            report.outputs.extend(not_pushed(also_to, why));
        }
        if let Err(error) = self.pod.write_termination_message(&report.to_message()) {
            tracing::warn!(
                error = error_chain(&error),
                "the report of the push cannot be saved"
            );
        }
    }

    /// Pushes to one repository outside.
    async fn outside(
        &self,
        position: usize,
        also_to: &AlsoTo,
        container: &BuildContainer,
    ) -> Vec<PushedOutput> {
        let failed = |error: &PushError| {
            let message = failure_text(&error_chain(error));
            tracing::warn!(repository = also_to.repository, error = %message, "not pushed");
            not_pushed(also_to, &message)
        };
        let wanted = match wanted_outside(also_to) {
            Ok(wanted) => wanted,
            Err(error) => return failed(&error),
        };
        let sent = self.send_outside(position, also_to, &wanted, container);
        match sent.await {
            Ok(write_report) => pushed(&wanted, self.image, write_report.as_deref()).collect(),
            Err(error) => failed(&error),
        }
    }

    async fn send_outside(
        &self,
        position: usize,
        also_to: &AlsoTo,
        wanted: &TaggedRepository,
        container: &BuildContainer,
    ) -> Result<Option<String>, PushError> {
        let folder = self.pod.path(&also_to_credential(position));
        let (client, credentials) = access::also_to(&folder, wanted.repository.host(), also_to)?;
        let mut login = Login::constant(client, credentials, container.clone());
        let mut target = Target::new(wanted, &mut login, self.retry.outside);
        let _: BlobBytes = target.send(&self.copier, self.image).await?;
        let write_report = self.attach(&mut target).await;
        target.tag(self.image).await?;
        Ok(write_report)
    }

    /// Attaches the provenance. Returns a warning if that fails, because an image without
    /// provenance is better than none.
    async fn attach(&self, target: &mut Target<'_, '_>) -> Option<String> {
        let now = Timestamp::now();
        let statement = provenance::statement(&provenance::ProvenanceInput {
            run: self.run,
            record: &self.record,
            container: target.login().container(),
            repository: target.repository(),
            image: self.image.manifest(),
            now,
        });
        let error = target.attach(self.image, &statement, now).await.err()?;
        let message = failure_text(&format!(
            "pushed without provenance: {}",
            error_chain(&error)
        ));
        tracing::warn!(repository = %target.repository(), message);
        Some(message)
    }
}

/// The outputs of a repository outside that does not have the image.
fn not_pushed(also_to: &AlsoTo, why: &str) -> Vec<PushedOutput> {
    let output = |tag: &String| PushedOutput {
        reference: format!("{}:{tag}", also_to.repository),
        digest: None,
        state: OutputState::Failed,
        message: Some(why.to_owned()),
    };
    also_to.tags.iter().map(output).collect()
}

/// The outputs of a repository that has the image.
fn pushed(
    wanted: &TaggedRepository,
    image: &BuiltImage,
    write_report: Option<&str>,
) -> impl Iterator<Item = PushedOutput> {
    let digest = image.digest().to_string();
    wanted.tags.iter().map(move |tag| PushedOutput {
        reference: format!("{}:{tag}", wanted.repository),
        digest: Some(digest.clone()),
        state: OutputState::Pushed,
        message: write_report.map(ToOwned::to_owned),
    })
}
