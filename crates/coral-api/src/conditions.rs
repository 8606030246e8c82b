//! Conditions of a status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::metadata::time;

/// Types of conditions that every kind has.
pub mod kind {
    /// Whether the object is in the state that its spec asks for.
    pub const READY: &str = "Ready";
    /// Whether work towards that state is going on.
    pub const PROGRESSING: &str = "Progressing";
    /// Whether something is wrong that a person should look at.
    pub const DEGRADED: &str = "Degraded";
    /// Whether some mirrored images no longer exist at their sources.
    pub const SOURCE_GONE: &str = "SourceGone";
    /// Whether a mirror has stopped deleting tags until a person confirms it.
    pub const PRUNE_PAUSED: &str = "PrunePaused";
    /// Whether a registry has room for what is pushed.
    pub const STORAGE_AVAILABLE: &str = "StorageAvailable";
    /// Whether a build waits for a slot, and since when.
    pub const IN_QUEUE: &str = "InQueue";
    /// Whether every Ready node takes part in a lock's routes.
    pub const LOCK_COMPLETE: &str = "LockComplete";
}

/// Longest message of a condition, in bytes. Kubernetes allows 32,768, but a person does not read
/// that much.
pub const MAX_MESSAGE: usize = 1024;

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It is not known whether it holds.
    Unknown,
}

impl Truth {
    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The new values of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionUpdate<'a> {
    /// Its type, such as [`kind::READY`].
    pub kind: &'a str,
    /// Its status.
    pub truth: Truth,
    /// One word in camel case, such as `ProbeFailed`.
    pub reason: &'a str,
    /// The state in words, and what to do. Cut at [`MAX_MESSAGE`].
    pub message: &'a str,
}

/// Sets a condition. `lastTransitionTime` stays while `status` is the same, so that an unchanged
/// condition leaves the status unchanged.
///
/// ```
/// use coral_api::conditions::{ConditionUpdate, Truth, kind, set};
///
/// let mut conditions = Vec::new();
/// let update = ConditionUpdate { kind: kind::READY, truth: Truth::True, reason: "Serving", message: "" };
/// set(&mut conditions, &update, Some(3), jiff::Timestamp::UNIX_EPOCH);
/// set(&mut conditions, &update, Some(3), jiff::Timestamp::now());
/// assert_eq!(conditions.len(), 1);
/// assert_eq!(conditions[0].last_transition_time.0.as_second(), 0);
/// ```
pub fn set(
    conditions: &mut Vec<Condition>,
    update: &ConditionUpdate<'_>,
    generation: Option<i64>,
    now: Timestamp,
) {
    let position = conditions.iter().position(|c| c.type_ == update.kind);
    let before = position.map(|at| &conditions[at]);
    let unchanged = before.filter(|before| before.status == update.truth.as_str());
    let since = unchanged.map_or_else(|| time(now), |before| before.last_transition_time.clone());
    let condition = Condition {
        type_: update.kind.to_owned(),
        status: update.truth.as_str().to_owned(),
        reason: update.reason.to_owned(),
        message: cut(update.message, MAX_MESSAGE),
        observed_generation: generation,
        last_transition_time: since,
    };
    match position {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// Whether a condition of this type exists and is `True`.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.type_ == kind && c.status == Truth::True.as_str())
}

/// Truncates `text` to at most `most` bytes, between characters. A truncated text ends in `…`.
pub fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = most.saturating_sub('…'.len_utf8());
    let end = (0..=end).rev().find(|&at| text.is_char_boundary(at));
    format!("{}…", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(truth: Truth) -> ConditionUpdate<'static> {
        ConditionUpdate {
            kind: kind::READY,
            truth,
            reason: "Reason",
            message: "message",
        }
    }

    #[test]
    fn the_time_of_a_condition_changes_with_its_status_only() {
        let mut conditions = Vec::new();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        set(&mut conditions, &update(Truth::False), Some(1), at(10));
        set(&mut conditions, &update(Truth::False), Some(2), at(20));
        assert_eq!(conditions[0].last_transition_time.0, at(10));
        assert_eq!(conditions[0].observed_generation, Some(2));
        set(&mut conditions, &update(Truth::True), Some(2), at(30));
        assert_eq!(conditions[0].last_transition_time.0, at(30));
        assert!(is_true(&conditions, kind::READY));
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("longer", 5), "lo…");
        assert_eq!(cut("ääää", 7), "ää…");
    }
}
