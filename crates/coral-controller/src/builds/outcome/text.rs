//! The output of a step in a form that is safe to show.

use std::sync::LazyLock;

use coral_build::contract::PushReport;
use k8s_openapi::api::core::v1::ContainerStateTerminated;
use regex::Regex;

use crate::advice::{Means, in_cluster};

/// Bytes of `status.message`.
const MAX_MESSAGE: usize = 2048;

/// The last lines of a step, without text that looks like a credential. The report of a push that was
/// killed does not count as output.
pub(super) fn lines(ended: &ContainerStateTerminated) -> Option<String> {
    let message = ended.message.as_deref().unwrap_or_default();
    if serde_json::from_str::<PushReport>(message).is_ok() {
        return None;
    }
    let lines = masked(message);
    let lines = last(lines.trim(), MAX_MESSAGE);
    (!lines.is_empty()).then_some(lines)
}

/// A message of Coral's own steps: [`masked`], and with fields of the ImageBuild instead of flags.
pub(super) fn advised(message: &str) -> String {
    in_cluster(&masked(message), Means::Build)
}

/// Removes text that looks like a credential, because a step's output is shown to all users who may read
/// the object, and control characters, because it is shown on terminals.
pub(super) fn masked(text: &str) -> String {
    static SECRETS: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
        let compiled = |pattern| Regex::new(pattern).expect("a fixed pattern");
        [
            (compiled(r"(://)[^/\s@]*:[^/\s@]*@"), "${1}***@"),
            (
                compiled(
                    r#"(?i)((?:authorization|password|passwd|token|secret)["']?\s*[:=]\s*["']?(?:bearer |basic )?)[^\s"',;&]+"#,
                ),
                "${1}***",
            ),
            (
                compiled(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
                "***",
            ),
        ]
    });
    let shown = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    let mut text: String = text.chars().map(shown).collect();
    for (pattern, instead) in SECRETS.iter() {
        text = pattern.replace_all(&text, *instead).into_owned();
    }
    text
}

/// The end of the text, at most `most` bytes of it.
fn last(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let from = text.ceil_char_boundary(text.len() - most + '…'.len_utf8());
    format!("…{}", &text[from..])
}

#[cfg(test)]
mod tests;
