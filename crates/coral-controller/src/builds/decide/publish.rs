//! When the Registry is told that every pod may pull the built image.

use std::collections::BTreeSet;
use std::time::Duration;

use coral_api::image_build::{BuildPhase, BuildSettings, BuildVisibility};
use jiff::Timestamp;

use super::{Action, Planner, RegistryReadiness, RunDecision};
use crate::builds::outcome::RunState;
use crate::builds::reason;

/// How long after its end a run waits for the Registry to make the image public.
const PUBLIC_DEADLINE: Duration = Duration::from_mins(1);

impl Planner<'_> {
    /// Makes the image public before the status says that it is pushed. The Registry is told while the
    /// image is being built, because it can take a minute until it has loaded the list, and again
    /// before the push, in case the record was changed meanwhile. At the end the run waits for the
    /// Registry's confirmation, for a bounded time, because the Registry may be down by then.
    pub(super) fn publish(&mut self, settings: &BuildSettings, decision: &mut RunDecision) {
        let has_ended = decision.state.phase.is_final() && decision.reports.digest.is_some();
        let known_phase = self.status().and_then(|it| it.phase);
        let phase = decision.state.phase;
        let begins = matches!(phase, BuildPhase::Building | BuildPhase::Pushing)
            && known_phase != Some(phase)
            && self.input.registry != RegistryReadiness::NotAllowed;
        let visibility = self.input.build.spec.output.visibility.unwrap_or_default();
        if !(has_ended || begins) || visibility != BuildVisibility::Cluster {
            return;
        }
        let paths = settings.tags.iter().map(|it| it.path.as_str().to_owned());
        let paths: BTreeSet<String> = paths.collect();
        let loaded = self.input.loaded.as_deref();
        if loaded.is_some_and(|loaded| paths.is_subset(loaded)) {
            return;
        }
        self.actions.push(Action::Publish(paths));
        let ended = decision.state.ended.unwrap_or(self.input.now);
        let due = ended.checked_add(PUBLIC_DEADLINE).unwrap_or(Timestamp::MAX);
        if !has_ended {
            return;
        }
        if due > self.input.now {
            let message =
                "the image is pushed; the Registry has yet to confirm that every pod may pull it";
            decision.state = RunState {
                next: Some(due),
                ..RunState::new(BuildPhase::Pushing, reason::PUBLISHING, message)
            };
        } else {
            // The end of a run is final, although the Registry may still load the list later.
            decision.state.message.push_str(
                ", but its Registry did not confirm within a minute that every pod may pull it: \
                 the Registry \
                 does not answer, or an event NotPublic of this build shows why",
            );
        }
    }
}
