//! What the steps of a run reported.

use coral_api::conditions::cut;
use coral_api::image_build::{BuildBytes, BuildDurations, BuiltOutput, BuiltSource, OutputState};
use coral_build::contract::{self, FetchReport, PushReport, Step};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::pod::terminated;
use super::text::advised;
use crate::results::Told;

/// Bytes of the message of an output.
const MAX_OUTPUT_MESSAGE: usize = 1024;

/// The reports of the steps that have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::builds) struct Reports {
    pub(in crate::builds) source: Option<BuiltSource>,
    pub(in crate::builds) digest: Option<String>,
    pub(in crate::builds) outputs: Option<Vec<BuiltOutput>>,
    pub(in crate::builds) bytes: Option<BuildBytes>,
    pub(in crate::builds) durations: Option<BuildDurations>,
}

/// What the step `push` reported: in its pod, or itself.
pub(super) fn push_report(pod: &Pod, told: Option<&Told>) -> Option<PushReport> {
    let message = terminated(pod, Step::Push).and_then(|ended| ended.message.as_deref());
    let reported = message.and_then(|message| serde_json::from_str(message).ok());
    reported.or_else(|| told.map(|it| it.report.clone()))
}

/// What the steps of the pod reported.
pub(in crate::builds) fn reports(pod: &Pod, told: Option<&Told>) -> Reports {
    let fetched = terminated(pod, Step::Fetch).filter(|it| it.exit_code == 0);
    let fetched = fetched.and_then(|it| it.message.as_deref());
    let fetched = fetched.and_then(|text| serde_json::from_str::<FetchReport>(text).ok());
    let pushed = push_report(pod, told);
    let exact = Exact {
        fetch: fetched.as_ref().and_then(|it| it.milliseconds),
        push: pushed.as_ref().and_then(|it| it.milliseconds),
    };
    Reports {
        source: fetched.map(|it| BuiltSource {
            commit: it.commit.map(|commit| cut(&commit, 64)),
            bytes: i64::try_from(it.bytes).ok(),
        }),
        digest: pushed.as_ref().map(|it| cut(&it.digest, 200)),
        bytes: pushed.as_ref().map(|it| BuildBytes {
            pushed: i64::try_from(it.bytes.pushed).ok(),
            mounted: i64::try_from(it.bytes.mounted).ok(),
        }),
        outputs: pushed.map(|it| it.outputs.into_iter().map(output).collect()),
        durations: durations(pod, exact),
    }
}

fn output(pushed: contract::PushedOutput) -> BuiltOutput {
    BuiltOutput {
        reference: cut(&pushed.reference, 700),
        digest: pushed.digest.map(|digest| cut(&digest, 200)),
        state: match pushed.state {
            contract::OutputState::Pushed => OutputState::Pushed,
            contract::OutputState::Failed => OutputState::Failed,
        },
        message: pushed
            .message
            .map(|message| cut(&advised(&message), MAX_OUTPUT_MESSAGE)),
    }
}

/// What Coral's own steps measured, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Exact {
    fetch: Option<u64>,
    push: Option<u64>,
}

/// How long the steps took: Coral's own steps as they measured it, and the user's container as the node
/// reports it, in whole seconds.
fn durations(pod: &Pod, exact: Exact) -> Option<BuildDurations> {
    let took = |step| {
        let ended = terminated(pod, step)?;
        let (began, ended) = (ended.started_at.as_ref()?, ended.finished_at.as_ref()?);
        // A container that never started is reported to have started in 1970.
        (began.0 > Timestamp::UNIX_EPOCH).then_some(())?;
        let seconds = ended.0.as_second().saturating_sub(began.0.as_second());
        Some(words(u64::try_from(seconds).unwrap_or_default()))
    };
    let durations = BuildDurations {
        fetch: exact.fetch.map(tenths).or_else(|| took(Step::Fetch)),
        build: took(Step::Build),
        push: exact.push.map(tenths).or_else(|| took(Step::Push)),
    };
    (durations != BuildDurations::default()).then_some(durations)
}

/// `0.4s`, `9.9s`; whole seconds from ten on.
fn tenths(milliseconds: u64) -> String {
    match milliseconds / 100 {
        tenths @ 0..100 => format!("{}.{}s", tenths / 10, tenths % 10),
        _ => words(milliseconds / 1000),
    }
}

/// `3s`, `2m5s`, `1h0m3s`.
pub(in crate::builds) fn words(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_kubernetes_says_them() {
        let said = [0, 59, 65, 3600, 3723].map(words);
        assert_eq!(said, ["0s", "59s", "1m5s", "1h0m0s", "1h2m3s"]);
        let said = [0, 49, 417, 9_999, 10_000, 3_723_999].map(tenths);
        assert_eq!(said, ["0.0s", "0.0s", "0.4s", "9.9s", "10s", "1h2m3s"]);
    }
}
