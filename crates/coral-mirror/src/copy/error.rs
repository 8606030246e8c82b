//! Why a copy failed.

use coral_distribution::{Category, Disposition, Error};
use coral_image::{Digest, Version};

use crate::state::Cause;

/// What was being done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Step {
    #[error("reading manifest {0} at the source")]
    ReadManifest(Version),
    #[error("looking for manifest {0} at the destination")]
    FindManifest(Version),
    #[error("listing what refers to {0} at the source")]
    FindReferrers(Digest),
    #[error("looking for blob {0} at the destination")]
    FindBlob(Digest),
    #[error("reading blob {0} at the source")]
    ReadBlob(Digest),
    #[error("writing blob {0} to the destination")]
    WriteBlob(Digest),
    #[error("writing manifest {0} to the destination")]
    WriteManifest(Version),
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CopyError(#[from] Kind);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    #[error("{step}")]
    Distribution { step: Step, source: Error },
    #[error("none of its platforms was asked for ({wanted}); it has {available}")]
    NoPlatform { wanted: String, available: String },
    #[error("its indexes are nested more than {0} deep")]
    TooDeep(usize),
    #[error("it has more than {0} manifests")]
    TooMany(usize),
    #[error("its manifests are larger than {0} bytes together")]
    TooLarge(usize),
}

impl CopyError {
    pub(crate) fn at(step: Step, source: Error) -> Self {
        Self(Kind::Distribution { step, source })
    }

    /// What the failure asks for.
    pub fn cause(&self) -> Cause {
        match &self.0 {
            Kind::Distribution { source, .. } => cause_of(source),
            _ => Cause::Refusal,
        }
    }

    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match &self.0 {
            Kind::Distribution { source, .. } => Category::as_str(source.category()),
            Kind::NoPlatform { .. } => "no_platform",
            Kind::TooDeep(_) | Kind::TooMany(_) | Kind::TooLarge(_) => "too_large",
        }
    }
}

/// What a failed request asks for.
pub(crate) fn cause_of(error: &Error) -> Cause {
    match error.disposition() {
        Disposition::Retry => Cause::Transient,
        Disposition::RetryAfter(wait) => Cause::After(wait),
        Disposition::WaitForChange => Cause::Refusal,
    }
}
