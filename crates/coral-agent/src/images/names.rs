//! Applies changes of names one by one, so that a failed change does not hold up the others.

use std::collections::BTreeSet;
use std::time::Duration;

use coral_api::node_images::{NodeImage, NodeImageStatus};
use coral_cri::{Category, ImageRuntime, Marks, RuntimeError, RuntimeImage};
use jiff::Timestamp;
use tokio::time::Instant;

use super::decide::{Decision, leaving_status, pulled_name};
use super::remove::{FailedRemoval, FailedRemovals};
use crate::health_monitor::HealthMonitor;

/// How long one pass continues with changes of names, since pulls, probes and the report wait for
/// them. The last change may add its own deadline to this.
const TIME: Duration = Duration::from_secs(30);

/// A change of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameAction {
    /// Give an image a further name.
    Tag {
        source: String,
        name: String,
        marks: Marks,
    },
    /// Change the marks of a name.
    Mark { name: String, marks: Marks },
    /// Remove a name.
    Untag { name: String },
    /// Remove an image with all its names.
    Remove { name: String },
}

impl NameAction {
    /// The name that is changed.
    fn name(&self) -> &str {
        match self {
            Self::Tag { name, .. }
            | Self::Mark { name, .. }
            | Self::Untag { name }
            | Self::Remove { name } => name,
        }
    }

    /// Whether the name is removed.
    fn is_removal(&self) -> bool {
        matches!(self, Self::Untag { .. } | Self::Remove { .. })
    }

    /// Makes the change.
    async fn apply<R: ImageRuntime>(&self, runtime: &R) -> Result<(), RuntimeError> {
        tracing::debug!(action = ?self, "changing an image's names");
        let done = match self {
            Self::Tag {
                source,
                name,
                marks,
            } => runtime.tag(source, name, marks).await,
            Self::Mark { name, marks } => runtime.mark(name, marks).await,
            Self::Untag { name } => runtime.untag(name).await,
            Self::Remove { name } => runtime.remove(name).await,
        };
        match done {
            // The image was removed in the meantime: the next pass sees that.
            Err(error) if error.category() == Category::NotFound => Ok(()),
            done => done,
        }
    }
}

/// The state of changes of names between passes.
#[derive(Debug, Default)]
pub(crate) struct NameState {
    /// The change that the last pass had no time for: the next pass begins with it.
    first: Option<NameAction>,
    /// Removals that failed.
    pub(crate) failed: FailedRemovals,
}

impl NameState {
    /// Forgets the failures of names that are no longer there.
    pub(crate) fn retain(&mut self, present: &[RuntimeImage]) {
        let names = present.iter().flat_map(|image| &image.names);
        let names: BTreeSet<&str> = names.map(|name| name.name.as_str()).collect();
        self.failed.retain(|name, _| names.contains(name.as_str()));
    }

    fn note(&mut self, action: &NameAction, done: Result<(), &RuntimeError>, now: Timestamp) {
        let NameAction::Remove { name } = action else {
            return;
        };
        let before = self.failed.remove(name);
        if let Err(error) = done {
            let failed = FailedRemoval::after(before.as_ref(), error, now, rand::random());
            self.failed.insert(name.clone(), failed);
        }
    }
}

/// Makes the changes of a decision, and continues after a failure. A failure is reported on the
/// image that the name belongs to. After [`TIME`] no further change is begun: the next pass makes
/// the rest, beginning with the first one left, so that changes that fail each time do not delay
/// others. Returns whether removals are left. It is an error if the runtime does not answer at all.
pub(crate) async fn apply<R: ImageRuntime>(
    decision: &mut Decision,
    memory: &mut NameState,
    images: &[NodeImage],
    runtime: &R,
    monitor: &HealthMonitor,
    now: Timestamp,
) -> Result<bool, RuntimeError> {
    let mut actions = std::mem::take(&mut decision.names);
    let place = actions
        .iter()
        .position(|a| Some(a) == memory.first.as_ref());
    if let Some(place) = place {
        actions.rotate_left(place);
        memory.first = None;
    }
    let began = Instant::now();
    let mut actions = actions.into_iter();
    for action in actions.by_ref() {
        let done = action.apply(runtime).await;
        monitor.goes_on();
        match done {
            Ok(()) => memory.note(&action, Ok(()), now),
            Err(error) if error.category() == Category::Unavailable => return Err(error),
            Err(error) => {
                let name = action.name();
                tracing::warn!(image = name, %error, "a name of an image could not be changed");
                memory.note(&action, Err(&error), now);
                note(decision, images, &action, &error);
            }
        }
        if began.elapsed() >= TIME {
            break;
        }
    }
    let left = actions.as_slice();
    if let Some(next) = left.first() {
        memory.first = Some(next.clone());
    }
    for action in left.iter().filter(|action| action.is_removal()) {
        show_leaving(decision, action.name(), |status| {
            status.reason = Some("WaitsForRemovals".to_owned());
        });
    }
    Ok(left.iter().any(NameAction::is_removal))
}

/// Reports a change that failed.
fn note(decision: &mut Decision, images: &[NodeImage], action: &NameAction, error: &RuntimeError) {
    let name = action.name();
    let is_named = |image: &&NodeImage| {
        image.reference == name || pulled_name(image).is_some_and(|(_, pulled)| pulled == name)
    };
    let named = images.iter().filter(is_named);
    let named: Vec<&str> = named.map(|image| image.reference.as_str()).collect();
    let tell = |status: &mut NodeImageStatus| {
        status.reason = Some(error.category().to_string());
        status.message = Some(error.to_string());
    };
    let statuses = decision.statuses.iter_mut();
    statuses
        .filter(|status| named.contains(&status.reference.as_str()))
        .for_each(tell);
    if !named.is_empty() {
        return;
    }
    // A name by digest has no status of its own.
    if action.is_removal() && !name.contains('@') {
        show_leaving(decision, name, tell);
        return;
    }
    decision
        .trouble
        .push(format!("the image name {name}: {error}"));
}

/// Reports a name that still has to be removed, unless it has a status already. A name by digest
/// has none.
fn show_leaving(decision: &mut Decision, name: &str, tell: impl Fn(&mut NodeImageStatus)) {
    if name.contains('@') {
        return;
    }
    let mut status = leaving_status(name, "");
    tell(&mut status);
    let place = decision
        .statuses
        .binary_search_by(|other| other.reference.as_str().cmp(name));
    if let Err(place) = place {
        decision.statuses.insert(place, status);
    }
}
