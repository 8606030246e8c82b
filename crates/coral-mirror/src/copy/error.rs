//! Why a copy failed.

use std::fmt;

use coral_distribution::Category;
use coral_image::Digest;

use crate::pace::AskError;
use crate::state::Cause;

/// The side that a request went to. The client's error names what was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CopyError(#[from] Kind);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Kind {
    #[error("{side}")]
    Distribution {
        side: Side,
        source: AskError,
        /// Bytes that had to be written.
        needed: u64,
    },
    #[error("none of its platforms was asked for ({wanted}); it has {available}")]
    NoPlatform { wanted: String, available: String },
    #[error("it is for {platform}, which was not asked for ({wanted})")]
    OtherPlatform { wanted: String, platform: String },
    #[error(
        "the destination's digest is {expected}, but the image has {actual}; nothing was written"
    )]
    OtherDigest {
        expected: Box<Digest>,
        actual: Box<Digest>,
    },
    #[error("it does not name {0} as its subject")]
    NoReferrer(Box<Digest>),
    #[error("its indexes are nested more than {0} deep")]
    TooDeep(usize),
    #[error("it has more than {0} manifests")]
    TooMany(usize),
    #[error("it has more than {0} referrers")]
    TooManyReferrers(usize),
    #[error("its manifests are larger than {0} bytes together")]
    TooLarge(usize),
}

impl CopyError {
    pub(crate) fn at(side: Side, source: impl Into<AskError>) -> Self {
        let (source, needed) = (source.into(), 0);
        Self(Kind::Distribution {
            side,
            source,
            needed,
        })
    }

    /// Adds the number of bytes that were to be written.
    pub(super) fn with_needed_bytes(mut self, bytes: u64) -> Self {
        if let Kind::Distribution { needed, .. } = &mut self.0 {
            *needed = bytes;
        }
        self
    }

    /// Whether the source refused because of too many requests.
    pub(super) fn is_refusal_of_source(&self) -> bool {
        let Kind::Distribution { side, source, .. } = &self.0 else {
            return false;
        };
        matches!(source, AskError::Request(error) if error.category() == Category::RateLimited)
            && *side == Side::Source
    }

    /// Whether something that was listed as a referrer is not one.
    pub(super) fn is_no_referrer(&self) -> bool {
        matches!(self.0, Kind::NoReferrer(_))
    }

    /// What has to happen before a retry can help.
    pub fn cause(&self) -> Cause {
        match &self.0 {
            Kind::Distribution { source, needed, .. } => match source.cause() {
                Cause::NoRoom { .. } => Cause::NoRoom { needed: *needed },
                cause => cause,
            },
            _ => Cause::Refusal,
        }
    }

    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match &self.0 {
            Kind::Distribution { source, .. } => source.category(),
            Kind::NoPlatform { .. } | Kind::OtherPlatform { .. } => "no_platform",
            Kind::OtherDigest { .. } => "digest",
            Kind::NoReferrer(_) => "no_referrer",
            Kind::TooDeep(_) | Kind::TooMany(_) | Kind::TooManyReferrers(_) | Kind::TooLarge(_) => {
                "too_large"
            }
        }
    }
}
