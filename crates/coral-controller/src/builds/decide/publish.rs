//! When the Registry is told that every pod may pull the built image.

use std::collections::BTreeSet;
use std::time::Duration;

use coral_api::image_build::{BuildPhase, BuildSettings, BuildVisibility};
use jiff::Timestamp;

use super::{Action, Come, Deciding, RegistrySeen};
use crate::builds::outcome::Standing;
use crate::builds::reason;

/// How long after its end a run waits for the Registry to make the image public.
const UNTIL_PUBLIC: Duration = Duration::from_mins(1);

impl Deciding<'_> {
    /// Makes the image public before the status says that it is pushed. The Registry is told while the
    /// image is being built, because it can take a minute until it has loaded the list, and again
    /// before the push, in case the record was changed meanwhile. At the end the run waits for the
    /// Registry's confirmation, for a bounded time, because the Registry may be down by then.
    pub(super) fn publish(&mut self, settings: &BuildSettings, come: &mut Come) {
        let has_ended = come.standing.phase.is_final() && come.reports.digest.is_some();
        let said = self.status().and_then(|it| it.phase);
        let phase = come.standing.phase;
        let begins = matches!(phase, BuildPhase::Building | BuildPhase::Pushing)
            && said != Some(phase)
            && self.seen.registry != RegistrySeen::NotAllowed;
        let visibility = self.seen.build.spec.output.visibility.unwrap_or_default();
        if !(has_ended || begins) || visibility != BuildVisibility::Cluster {
            return;
        }
        let paths = settings.tags.iter().map(|it| it.path.as_str().to_owned());
        let paths: BTreeSet<String> = paths.collect();
        let loaded = self.seen.loaded.as_deref();
        if loaded.is_some_and(|loaded| paths.is_subset(loaded)) {
            return;
        }
        self.actions.push(Action::Publish(paths));
        let ended = come.standing.ended.unwrap_or(self.seen.now);
        let due = ended.checked_add(UNTIL_PUBLIC).unwrap_or(Timestamp::MAX);
        if !has_ended {
            return;
        }
        if due > self.seen.now {
            let says =
                "the image is pushed; the Registry has yet to confirm that every pod may pull it";
            come.standing = Standing {
                next: Some(due),
                ..Standing::new(BuildPhase::Pushing, reason::PUBLISHING, says)
            };
        } else {
            // The end of a run is reported once: the Registry may load the list later.
            come.standing.says.push_str(
                ", but its Registry did not confirm within a minute that every pod may pull it: \
                 the Registry \
                 does not answer, or an event NotPublic of this build shows why",
            );
        }
    }
}
