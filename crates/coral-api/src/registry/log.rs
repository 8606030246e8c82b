//! What a registry in a cluster writes into its log.

#![allow(unreachable_pub, reason = "KubeSchema expands a second public struct")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a registry in a cluster writes into its log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryLog {
    /// The least important lines that are written: `Warn` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// Which requests are logged, with who asked, from where, for what, and how much: `Changes` if
    /// not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessLog>,
    /// Form of the lines: `Text` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}

/// How important a line has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogLevel {
    /// Only what went wrong.
    Error,
    /// Also what may go wrong soon.
    #[default]
    Warn,
    /// Also what happened.
    Info,
    /// Also each step, for the search of a fault.
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

/// Form of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
    /// A value that this version does not know; it is treated as `Text`.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}
