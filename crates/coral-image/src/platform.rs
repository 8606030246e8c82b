//! Platforms: operating system, architecture and variant.

mod pattern;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::null::null_as_default;
pub use pattern::PlatformPattern;

/// A platform in an index (OCI image-spec, `image-index.md`). Fields that Coral does not use are
/// dropped here: the manifest is copied by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system, as in Go's `GOOS`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,
    /// Architecture, as in Go's `GOARCH`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,
    /// Variant of the architecture, such as `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system; Windows images state it.
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
}

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "platform {0:?} is not of the form os/architecture or os/architecture/variant, such as linux/amd64 or linux/arm/v7"
)]
pub struct PlatformError(pub String);

impl PlatformError {
    fn from_text(text: &str) -> Self {
        Self(text.chars().take(80).collect())
    }
}

impl Platform {
    /// Parses `os/architecture[/variant]`; aliases such as `x86_64` and `aarch64` are normalised.
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        let error = || PlatformError::from_text(text);
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            !part.is_empty()
                && part.len() <= 40
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(valid) {
            return Err(error());
        }
        Ok(Self {
            os: parts[0].to_ascii_lowercase(),
            architecture: parts[1].to_ascii_lowercase(),
            variant: parts.get(2).map(|v| v.to_ascii_lowercase()),
            os_version: None,
        }
        .normalized())
    }

    /// The platform that this program runs on.
    pub fn current() -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            variant: None,
            os_version: None,
        }
        .normalized()
    }

    /// Normalises: aliases become the names that Go uses, the default variants `arm64/v8` and
    /// `amd64/v1` are dropped, and `arm` becomes `arm/v7`.
    #[must_use]
    pub fn normalized(mut self) -> Self {
        let variant = self.variant.take().filter(|v| !v.is_empty());
        let (architecture, variant) = match (self.architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", v) => ("amd64", v),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64" | "arm64", v) => ("arm64", v),
            ("i386" | "i686" | "x86" | "386", v) => ("386", v),
            ("armhf", None) | ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("armel", None) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("powerpc64" | "ppc64le", v) => ("ppc64le", v),
            (a, v) => (a, v),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.map(ToOwned::to_owned));
        if self.os == "macos" {
            "darwin".clone_into(&mut self.os);
        }
        Self {
            architecture,
            variant,
            ..self
        }
    }

    /// Whether an image for `candidate` satisfies a request for `self`. The operating system's
    /// version matters only if `self` has one.
    pub fn accepts(&self, candidate: &Self) -> bool {
        let (want, have) = (self.clone().normalized(), candidate.clone().normalized());
        want.os == have.os
            && want.architecture == have.architecture
            && want.variant == have.variant
            && (want.os_version.is_none() || want.os_version == have.os_version)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|v| write!(f, "/{v}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}
