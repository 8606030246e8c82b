//! Stored and free bytes of the registry and the state of its scrub, from its API.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The answer of `/coral/v1/storage`, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Storage {
    /// Content, each blob once.
    pub(super) stored: u64,
    /// Open uploads.
    pub(super) uploads: u64,
    /// Damaged content that was moved aside.
    pub(super) damaged: u64,
    /// Whether all content has been counted; until then `stored` is too low.
    pub(super) counted: bool,
    /// How much content and open uploads may take together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<u64>,
    /// Size of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<u64>,
    /// Free space of the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) free: Option<u64>,
    /// Space on the disk that pushes leave free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min_free: Option<u64>,
    /// Why pushes are refused; absent while they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) full: Option<String>,
    /// The limit that was reached, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// The answer of `/coral/v1/scrub`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScrubAnswer {
    began: Option<i64>,
    completed: Option<i64>,
    open: bool,
    percent: u8,
    read_bytes: u64,
    damaged: u64,
    unsure: u64,
    missing: u64,
    bandwidth: u64,
}

/// How the scrub is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scrub {
    /// When the last round began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) began: Option<Timestamp>,
    /// When a round last read all content to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_completed: Option<Timestamp>,
    /// How much of the content the open round has read, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<u8>,
    /// Bytes that it, or else the last round, has read since the start.
    pub(super) checked_bytes: u64,
    /// Blobs and manifests that it found damaged.
    pub(super) damaged: u64,
    /// Blobs and manifests that may be damaged: they could not be read, or two readings differed.
    pub(super) unsure: u64,
    /// Blobs and manifests that are damaged and have not been restored.
    pub(super) missing: u64,
    /// Most bytes per second that it reads; 0 if it is turned off.
    pub(super) bandwidth: u64,
}

impl From<ScrubAnswer> for Scrub {
    fn from(answer: ScrubAnswer) -> Self {
        let time = |seconds: Option<i64>| Timestamp::from_second(seconds?).ok();
        Self {
            began: time(answer.began),
            last_completed: time(answer.completed),
            progress: answer.open.then_some(answer.percent),
            checked_bytes: answer.read_bytes,
            damaged: answer.damaged,
            unsure: answer.unsure,
            missing: answer.missing,
            bandwidth: answer.bandwidth,
        }
    }
}
