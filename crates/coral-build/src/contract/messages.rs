//! What the steps report: a termination message each, and the record that `fetch` leaves for `push`.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Bytes that Kubernetes keeps of a termination message.
pub const MAX_TERMINATION_MESSAGE: usize = 4096;
/// Bytes of the text of a step that failed.
pub const MAX_FAILURE_TEXT: usize = 2048;

/// Termination message of a `fetch` that succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchReport {
    /// The commit of a git source, in hexadecimal digits.
    pub commit: Option<String>,
    /// Bytes of the files that were written.
    pub bytes: u64,
    /// How long the step took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

impl FetchReport {
    /// The message as JSON.
    pub fn to_message(&self) -> String {
        json(self)
    }
}

/// What `fetch` leaves for `push`, for the provenance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FetchRecord {
    /// The commit of a git source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The digest of a source image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// When `fetch` began, as in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
}

/// Termination message of a `push` whose internal outputs are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReport {
    /// Digest of the image.
    pub digest: String,
    /// Each reference, those inside first.
    pub outputs: Vec<PushedOutput>,
    /// What was sent to the internal registry.
    pub bytes: PushedBytes,
    /// How long the step took, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

/// One reference of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushedOutput {
    /// The reference with its tag.
    pub reference: String,
    /// Digest that it resolves to, if it was pushed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How it ended.
    pub state: OutputState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How an output ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputState {
    /// The reference resolves to the image.
    Pushed,
    /// It does not.
    Failed,
}

/// Bytes of blobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushedBytes {
    /// Sent over the network.
    pub pushed: u64,
    /// Not sent, since the destination had or mounted them.
    pub mounted: u64,
}

impl PushReport {
    /// The message as JSON of at most [`MAX_TERMINATION_MESSAGE`] bytes: the texts of failures are
    /// truncated first, and outputs are dropped from the end if that is not enough. Failed outputs
    /// are dropped last: without any, the run would count as successful.
    pub fn to_message(&self) -> String {
        let mut report = self.clone();
        for longest in [400, 120, 0] {
            for output in &mut report.outputs {
                if let Some(message) = &mut output.message {
                    message.truncate(message.floor_char_boundary(longest));
                }
            }
            let text = json(&report);
            if text.len() <= MAX_TERMINATION_MESSAGE {
                return text;
            }
        }
        while json(&report).len() > MAX_TERMINATION_MESSAGE {
            let is_pushed = |output: &PushedOutput| output.state == OutputState::Pushed;
            let pushed = report.outputs.iter().rposition(is_pushed);
            let Some(last) = pushed.or_else(|| report.outputs.len().checked_sub(1)) else {
                break;
            };
            report.outputs.remove(last);
        }
        json(&report)
    }
}

/// How long it is since then.
pub(crate) fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn json(report: &impl Serialize) -> String {
    serde_json::to_string(report).expect("text and numbers have a form in JSON")
}

/// The text of a failure in a form that fits: at most [`MAX_FAILURE_TEXT`] bytes, control
/// characters except line ends replaced by spaces, since part of it may be untrusted.
pub fn failure_text(text: &str) -> String {
    let mut cut: String = text
        .chars()
        .map(|c| match c {
            '\n' => c,
            c if c.is_control() => ' ',
            c => c,
        })
        .take(MAX_FAILURE_TEXT)
        .collect();
    cut.truncate(cut.floor_char_boundary(MAX_FAILURE_TEXT));
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outputs: usize, message: usize) -> PushReport {
        let output = |i: usize| PushedOutput {
            reference: format!("registry.example/{}/{i}:1", "a".repeat(80)),
            digest: None,
            state: OutputState::Failed,
            message: Some("é".repeat(message)),
        };
        PushReport {
            digest: format!("sha256:{}", "0".repeat(64)),
            outputs: (0..outputs).map(output).collect(),
            bytes: PushedBytes::default(),
            milliseconds: Some(u64::MAX),
        }
    }

    #[test]
    fn a_report_always_fits_and_stays_json() {
        for (outputs, message) in [(1, 10), (4, 3000), (12, 3000), (200, 10)] {
            let text = report(outputs, message).to_message();
            assert!(text.len() <= MAX_TERMINATION_MESSAGE, "{}", text.len());
            let read: PushReport = serde_json::from_str(&text).unwrap();
            assert!(!read.outputs.is_empty());
        }
    }

    #[test]
    fn texts_are_cut_before_outputs_are_left_out() {
        let text = report(4, 3000).to_message();
        let read: PushReport = serde_json::from_str(&text).unwrap();
        assert_eq!(read.outputs.len(), 4);
        assert!(read.outputs[0].message.as_ref().unwrap().len() >= 120);
    }

    #[test]
    fn an_output_that_failed_is_told_of_however_many_were_pushed() {
        let mut report = report(26, 300);
        for output in &mut report.outputs[..24] {
            output.state = OutputState::Pushed;
            output.digest = Some(format!("sha256:{}", "1".repeat(64)));
            output.message = None;
        }
        let text = report.to_message();
        let read: PushReport = serde_json::from_str(&text).unwrap();
        let states = read.outputs.iter().map(|output| output.state);
        let failed = states.filter(|state| *state == OutputState::Failed);
        assert_eq!(failed.count(), 2, "{text}");
        assert!(read.outputs.len() > 5, "{}", read.outputs.len());
    }

    #[test]
    fn a_failure_has_no_control_characters_and_ends_at_a_character() {
        assert_eq!(failure_text("a\u{1b}[2Jb\nc"), "a [2Jb\nc");
        let long = failure_text(&"é".repeat(5000));
        assert_eq!(long.len(), MAX_FAILURE_TEXT);
    }
}
