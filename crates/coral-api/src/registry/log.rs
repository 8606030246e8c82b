//! What a registry in a cluster writes into its log.

#![allow(unreachable_pub, reason = "KubeSchema expands a second public struct")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a registry in a cluster writes into its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryLog {
    /// The lowest level that is logged: `Warn` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// Which requests are logged, each with user, address, request and size: `Changes` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessLog>,
    /// Format of the lines: `Text` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

/// The lowest level of the lines that are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// Only what went wrong.
    Error,
    /// Also what may go wrong soon.
    #[default]
    Warn,
    /// Also what happened.
    Info,
    /// Also each step, for debugging.
    Debug,
    /// A value that this version does not know; it is treated as `Warn`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLog {
    /// None.
    Off,
    /// Pushed manifests, deletions, moved tags and failed logins.
    #[default]
    Changes,
    /// Every request.
    All,
    /// A value that this version does not know; it is treated as `Changes`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
    /// A value that this version does not know; it is treated as `Text`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
