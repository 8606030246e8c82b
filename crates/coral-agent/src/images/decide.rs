//! Decides what to do from the spec and the images of the runtime. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use coral_api::image::ImageTagState;
use coral_api::node_images::{NodeImage, NodeImageStatus};
use coral_cri::{ImageName, Marks, RuntimeImage};
use coral_image::{Digest, ImageRef};
use jiff::Timestamp;

use super::attempt::Attempt;
use super::mark::{Role, marks};
use super::names::NameAction;
use super::remove::{FailedRemovals, Removal, postponed, removal};
use super::slots::{RemovalHold, Slots};
use crate::probe::HostState;

/// The input of a decision.
pub(crate) struct DecisionInput<'a> {
    pub(crate) images: &'a [NodeImage],
    /// Names that are pinned while they are there, and never pulled.
    pub(crate) pins: &'a [String],
    pub(crate) present: &'a [RuntimeImage],
    /// IDs of images that containers were made from.
    pub(crate) in_use: &'a BTreeSet<String>,
    /// Failures, by reference.
    pub(crate) attempts: &'a BTreeMap<String, Attempt>,
    /// Pulls that run, as `HOST/PATH@DIGEST`, and since when.
    pub(crate) pulling: &'a BTreeMap<String, Timestamp>,
    /// Whether a removal waits for the running pulls, and since when.
    pub(crate) hold: RemovalHold,
    /// Removals that failed.
    pub(crate) failed_removals: &'a FailedRemovals,
    /// References that the last status reported as placed by the agent: a pull by kubelet removes
    /// the labels of a name.
    pub(crate) placed: &'a BTreeSet<String>,
    /// The state of the hosts in the cluster, and whether their source may be asked as well.
    pub(crate) hosts: &'a BTreeMap<String, ClusterHost>,
    /// Most pulls at once.
    pub(crate) parallel: usize,
    pub(crate) now: Timestamp,
}

/// A host whose images are served from inside the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClusterHost {
    pub(crate) standing: HostState,
    /// Whether the source may be asked after a miss.
    pub(crate) has_source: bool,
}

/// A pull to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pull {
    /// `HOST/PATH@DIGEST`.
    pub(crate) name: String,
    /// The mark of the name once it exists.
    pub(crate) marks: Marks,
}

/// What to do, and what to report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    /// Pulls to start, the most urgent first.
    pub(crate) pulls: Vec<Pull>,
    /// Every pull that is still wanted, running or not: others are cancelled.
    pub(crate) wanted: BTreeSet<String>,
    /// Running pulls that are cancelled so that others get their slots, and are retried later: they
    /// are not in `wanted`.
    pub(crate) overdue: Vec<String>,
    /// Whether a removal waits for the running pulls.
    pub(crate) removal_waits: bool,
    /// Changes of names, in order.
    pub(crate) names: Vec<NameAction>,
    /// When something becomes due.
    pub(crate) wake: Option<Timestamp>,
    /// A state for each image of the spec, and for what still has to go.
    pub(crate) statuses: Vec<NodeImageStatus>,
    /// Pinned names that exist.
    pub(crate) pins: Vec<String>,
    /// Problems that belong to no image of the spec.
    pub(crate) trouble: Vec<String>,
}

/// An image of the spec with its names.
pub(super) struct Wanted<'a> {
    pub(super) image: &'a NodeImage,
    host: String,
    /// The name that pods use, canonical.
    name: String,
    /// `HOST/PATH@DIGEST`.
    pub(super) pulled: String,
}

impl<'a> Wanted<'a> {
    fn parse(image: &'a NodeImage) -> Result<Self, String> {
        let reference = ImageRef::parse(&image.reference).map_err(|error| error.to_string())?;
        let digest = Digest::parse(&image.digest).map_err(|error| error.to_string())?;
        if let Some(named) = reference.digest().filter(|named| **named != digest) {
            return Err(format!(
                "the reference names {named}, the digest to pull is {digest}"
            ));
        }
        Ok(Self {
            image,
            host: reference.repository().host().to_string(),
            name: reference.to_string(),
            pulled: reference.pinned(digest).to_string(),
        })
    }
}

/// The host of an image, and the name that it is pulled by; `None` for a malformed reference.
pub(crate) fn pulled_name(image: &NodeImage) -> Option<(String, String)> {
    let wanted = Wanted::parse(image).ok()?;
    Some((wanted.host, wanted.pulled))
}

/// Decides.
pub(crate) fn decide(view: &DecisionInput<'_>) -> Decision {
    let mut decision = Decision::default();
    let names = names(view.present);
    let mut wanted = Vec::new();
    for image in view.images {
        match Wanted::parse(image) {
            Ok(parsed) => wanted.push(parsed),
            Err(message) => {
                let malformed = Attempt::malformed(image, message);
                decision.statuses.push(failed_status(image, &malformed));
            }
        }
    }
    // Images that were not yet tried come first, the most urgent before the rest, then those tried
    // longest ago, so that images that fail repeatedly never delay others. Equals are sorted by
    // name, so that two passes agree.
    wanted.sort_by_cached_key(|w| {
        let attempt = view.attempts.get(&w.image.reference);
        let attempt = attempt.filter(|attempt| attempt.is_about(w.image));
        let priority = Reverse(w.image.priority.unwrap_or(0));
        (
            attempt.and_then(|a| a.next),
            priority,
            w.image.reference.clone(),
        )
    });
    let shared = shared_requirements(&wanted);
    let keep = wanted
        .iter()
        .flat_map(|w| [w.name.clone(), w.pulled.clone()])
        .chain(view.pins.iter().cloned())
        .collect();
    let may_remove = view.pulling.is_empty();
    let removal = removal(view.present, &keep, view.in_use, may_remove, |name| {
        postponed(view.failed_removals, name, view.now)
    });
    decision.removal_waits = !removal.waiting.is_empty();
    let mut slots = Slots::new(view);
    if decision.removal_waits {
        decision.wake = slots.hold(view);
    }
    let later = removal.postponed.iter().map(|(_, _, failed)| failed.next);
    decision.wake = decision.wake.into_iter().chain(later).min();
    for wish in &wanted {
        decision.wanted.insert(wish.pulled.clone());
        let status = match place(wish, &names, &shared, view, &mut decision.names) {
            Some(status) => status,
            None => NodeImageStatus {
                placed: has_older(wish, &names, view),
                ..pull(wish, &shared, view, &mut slots, &mut decision)
            },
        };
        decision.statuses.push(status);
    }
    slots.cancel_overdue(view, &wanted, &mut decision);
    for name in view.pins {
        decision.names.extend(pin(name, &names));
        decision
            .pins
            .extend(names.get(name.as_str()).map(|_| name.clone()));
    }
    decision.statuses.extend(leaving(&removal));
    decision.names.extend(removal.actions);
    decision
        .statuses
        .sort_by(|one, other| one.reference.cmp(&other.reference));
    decision
        .statuses
        .dedup_by(|one, other| one.reference == other.reference);
    decision
}

/// The statuses of names that still have to go. A name by digest has none.
fn leaving(removal: &Removal) -> Vec<NodeImageStatus> {
    let waiting = removal
        .waiting
        .iter()
        .map(|(name, digest)| NodeImageStatus {
            reason: Some("WaitsForPulls".to_owned()),
            ..leaving_status(name, digest)
        });
    let postponed = removal.postponed.iter();
    let postponed = postponed.map(|(name, digest, failed)| NodeImageStatus {
        reason: Some(failed.reason.clone()),
        message: Some(failed.message.clone()),
        next_attempt: Some(failed.next.to_string()),
        ..leaving_status(name, digest)
    });
    let is_tag = |status: &NodeImageStatus| !status.reference.contains('@');
    waiting.chain(postponed).filter(is_tag).collect()
}

fn names(present: &[RuntimeImage]) -> BTreeMap<&str, (&RuntimeImage, &ImageName)> {
    let names = present
        .iter()
        .flat_map(|image| image.names.iter().map(move |name| (image, name)));
    names
        .map(|(image, name)| (name.name.as_str(), (image, name)))
        .collect()
}

/// For each `HOST/PATH@DIGEST`, which several references may share: whether at least one of them
/// pins it, and whether all of them want it removed in the end.
fn shared_requirements(wanted: &[Wanted<'_>]) -> BTreeMap<String, (bool, bool)> {
    let mut shared: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    for wish in wanted {
        let entry = shared.entry(wish.pulled.clone()).or_insert((false, true));
        entry.0 |= wish.image.pin;
        entry.1 &= wish.image.remove;
    }
    shared
}

/// The status of an existing image, with the changes that its names still need; `None` if it has to
/// be pulled.
fn place(
    wish: &Wanted<'_>,
    names: &BTreeMap<&str, (&RuntimeImage, &ImageName)>,
    shared: &BTreeMap<String, (bool, bool)>,
    view: &DecisionInput<'_>,
    actions: &mut Vec<NameAction>,
) -> Option<NodeImageStatus> {
    let image = wish.image;
    let reference = wish.name.as_str();
    let there = |name: &str| {
        let found = names.get(name).copied();
        found.filter(|(_, name)| name.digest == image.digest)
    };
    let (pin, remove) = shared.get(&wish.pulled).copied().unwrap_or_default();
    let pulled = there(&wish.pulled);
    if let Some((_, name)) = pulled.filter(|_| wish.pulled != reference) {
        actions.extend(remark(name, pin, remove, false));
    }
    let Some((found, name)) = there(reference) else {
        pulled?;
        actions.push(NameAction::Tag {
            source: wish.pulled.clone(),
            name: reference.to_owned(),
            marks: marks(Some(Role::made(image.remove)), image.pin),
        });
        // It is reported once the runtime lists it.
        return Some(status(image, ImageTagState::Pending));
    };
    let placed = view.placed.contains(&image.reference);
    actions.extend(remark(name, image.pin, image.remove, placed));
    let is_made = Role::on(name).is_some_and(Role::is_made) || placed;
    Some(NodeImageStatus {
        placed: is_made,
        size: i64::try_from(found.size).ok(),
        ..status(image, ImageTagState::Available)
    })
}

/// Whether the name exists with another digest, and the agent made it: a new release of an image
/// keeps the place that the image has on the node.
fn has_older(
    wish: &Wanted<'_>,
    names: &BTreeMap<&str, (&RuntimeImage, &ImageName)>,
    view: &DecisionInput<'_>,
) -> bool {
    names.get(wish.name.as_str()).is_some_and(|(_, name)| {
        let is_made = Role::on(name).is_some_and(Role::is_made);
        is_made || view.placed.contains(&wish.image.reference)
    })
}

/// The change that makes an existing name match the spec.
fn remark(name: &ImageName, pin: bool, remove: bool, placed: bool) -> Option<NameAction> {
    let now = Role::on(name);
    let role = match now {
        Some(Role::Keep | Role::Remove) => Some(Role::made(remove)),
        None if placed => Some(Role::made(remove)),
        _ => pin.then_some(Role::Preexisting),
    };
    // A pin on a name without our label was set by someone else and stays.
    let pinned = pin || (now.is_none() && name.pinned);
    let is_right = role == now && pinned == name.pinned;
    (!is_right).then(|| NameAction::Mark {
        name: name.name.clone(),
        marks: marks(role, pinned),
    })
}

/// Pins an existing name that is never pulled.
fn pin(name: &str, names: &BTreeMap<&str, (&RuntimeImage, &ImageName)>) -> Option<NameAction> {
    let (_, found) = names.get(name)?;
    let role = Role::on(found);
    (!found.pinned || role.is_none()).then(|| NameAction::Mark {
        name: name.to_owned(),
        marks: marks(role.or(Some(Role::Preexisting)), true),
    })
}

/// Starts the pull of a missing image, or reports what it waits for.
fn pull(
    wish: &Wanted<'_>,
    shared: &BTreeMap<String, (bool, bool)>,
    view: &DecisionInput<'_>,
    slots: &mut Slots,
    decision: &mut Decision,
) -> NodeImageStatus {
    let image = wish.image;
    let attempt = view.attempts.get(&image.reference);
    let attempt = attempt.filter(|attempt| attempt.is_about(image));
    let shown = match (attempt, host_trouble(wish, view)) {
        (Some(attempt), _) => failed_status(image, attempt),
        (None, Some(message)) => waiting_status(image, message),
        (None, None) => status(image, ImageTagState::Pending),
    };
    if view.pulling.contains_key(&wish.pulled) || host_trouble(wish, view).is_some() {
        return shown;
    }
    if let Some(attempt) = attempt.filter(|attempt| !attempt.is_due(view.now)) {
        decision.wake = [decision.wake, attempt.next].into_iter().flatten().min();
        return shown;
    }
    let is_planned = decision.pulls.iter().any(|pull| pull.name == wish.pulled);
    if !is_planned && slots.take(&wish.host) {
        let (pin, remove) = shared.get(&wish.pulled).copied().unwrap_or_default();
        decision.pulls.push(Pull {
            name: wish.pulled.clone(),
            marks: marks(Some(Role::made(remove)), pin),
        });
    }
    shown
}

/// Why the image's host cannot be used yet.
fn host_trouble(wish: &Wanted<'_>, view: &DecisionInput<'_>) -> Option<String> {
    let inside = view.hosts.get(&wish.host)?;
    match &inside.standing {
        HostState::Ready => None,
        // The runtime asks the source when the registry inside fails.
        HostState::Failed(_) if inside.has_source => None,
        HostState::Pending(why) | HostState::Failed(why) => {
            Some(format!("{} is not ready on this node: {why}", wish.host))
        }
    }
}

fn status(image: &NodeImage, state: ImageTagState) -> NodeImageStatus {
    NodeImageStatus {
        reference: image.reference.clone(),
        digest: image.digest.clone(),
        observed_generation: image.generation,
        state,
        placed: false,
        removing: false,
        size: None,
        reason: None,
        message: None,
        attempts: None,
        next_attempt: None,
    }
}

fn failed_status(image: &NodeImage, attempt: &Attempt) -> NodeImageStatus {
    NodeImageStatus {
        reason: Some(attempt.reason.clone()),
        message: Some(attempt.message.clone()),
        attempts: (attempt.failures > 0).then_some(attempt.failures),
        next_attempt: attempt.next.map(|next| next.to_string()),
        ..status(image, attempt.state(image))
    }
}

fn waiting_status(image: &NodeImage, message: String) -> NodeImageStatus {
    NodeImageStatus {
        reason: Some("RegistryNotReady".to_owned()),
        message: Some(message),
        ..status(image, ImageTagState::Pending)
    }
}

pub(super) fn leaving_status(name: &str, digest: &str) -> NodeImageStatus {
    let image = NodeImage {
        reference: name.to_owned(),
        digest: digest.to_owned(),
        ..NodeImage::default()
    };
    NodeImageStatus {
        placed: true,
        removing: true,
        ..status(&image, ImageTagState::Available)
    }
}
