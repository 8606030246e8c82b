//! The status of an Image: what its nodes report, counted.

use std::collections::BTreeSet;

use coral_api::conditions::{self, ConditionUpdate, Truth, cut, kind};
use coral_api::image::{
    ImageCondition, ImageData, ImageFailure, ImageNodeCounts, ImageStatus, ImageTagState,
    ImageTagStatus, MAX_FAILURES, MAX_IMAGES,
};
use coral_api::names::label;
use coral_api::node_images::{MAX_IMAGE_LABELS, MAX_NODE_IMAGES, YIELDED};
use coral_image::ImageRef;
use jiff::Timestamp;

use super::agents::{Silence, silence};
use super::input::WantedImage;
use super::placement::Placement;
use super::reported::Reported;
use super::resolution::Resolutions;

const MAX_TEXT: usize = 1024;

/// Decides the status of an Image. `before` is the current one, whose transition times are kept.
pub(crate) fn status(
    wish: &WantedImage,
    nodes: &[Reported<'_>],
    resolutions: &Resolutions,
    placement: &Placement,
    before: Option<&ImageStatus>,
    now: Timestamp,
) -> ImageStatus {
    // A node without an agent cannot report: it would make every image pending for ever.
    let selected = nodes.iter().filter(|reported| wish.is_for(reported.node));
    let selected: Vec<&Reported<'_>> = selected
        .filter(|reported| reported.node.status().is_some())
        .collect();
    let images = wish.settings.images.iter();
    let images: Vec<ImageTagStatus> = images
        .map(|image| one_image(image, &selected, resolutions))
        .collect();
    let counts = count(&images);
    let total = images.len();
    let listed = images.iter().take(MAX_IMAGES);
    let data = listed.clone().map(|image| ImageData {
        name: image.reference.clone(),
        label: image.label.clone(),
    });
    let mut conditions = before.map_or_else(Vec::new, |before| before.conditions.clone());
    let mut updates = condition_values(wish, &images, counts, selected.len(), placement);
    if let Some(silence) = silence(selected.iter().map(|reported| reported.node)) {
        add_silence(&mut updates, &silence);
    }
    for value in updates {
        let update = ConditionUpdate {
            kind: value.0,
            truth: value.1,
            reason: value.2,
            message: &value.3,
        };
        conditions::set(&mut conditions, &update, Some(wish.generation), now);
    }
    ImageStatus {
        observed_generation: Some(wish.generation),
        total_nodes: Some(number(selected.len())),
        total_images: Some(number(total)),
        condition: Some(counts),
        data: data.collect(),
        images: listed.cloned().collect(),
        omitted_images: (total > MAX_IMAGES).then(|| number(total - MAX_IMAGES)),
        conditions,
    }
}

fn one_image(
    image: &ImageRef,
    nodes: &[&Reported<'_>],
    resolutions: &Resolutions,
) -> ImageTagStatus {
    let reference = image.to_string();
    let mut counts = ImageNodeCounts::default();
    for node in nodes {
        match node.state(&reference) {
            ImageTagState::Available => counts.available += 1,
            ImageTagState::Error => counts.error += 1,
            ImageTagState::Pending | ImageTagState::Unknown => counts.pending += 1,
        }
    }
    let resolution = resolutions.get(image);
    let digest = resolution.and_then(|resolution| resolution.digest);
    let failure = resolution.and_then(|resolution| resolution.failure.as_deref());
    let overall = match (nodes.is_empty(), &counts) {
        (true, _) => None,
        (false, counts) if counts.error > 0 => Some(ImageTagState::Error),
        (false, counts) if counts.pending > 0 => Some(ImageTagState::Pending),
        (false, _) => Some(ImageTagState::Available),
    };
    let mut sizes = nodes.iter().filter_map(|node| node.image(&reference)?.size);
    let failures = nodes.iter().filter_map(|reported| {
        let image = reported.image(&reference)?;
        let failed = image.reason.as_ref().filter(|reason| *reason != YIELDED)?;
        Some(ImageFailure {
            node: reported.node.name.clone(),
            reason: failed.clone(),
            message: cut(image.message.as_deref().unwrap_or_default(), MAX_TEXT),
            attempts: image.attempts.unwrap_or(0),
            next_attempt: image.next_attempt.clone(),
        })
    });
    ImageTagStatus {
        label: label::image(&reference),
        digest: digest.map(|digest| digest.to_string()),
        size: sizes.next(),
        state: overall,
        message: failure.map(|why| cut(why, MAX_TEXT)),
        nodes: Some(counts),
        failures: failures.take(MAX_FAILURES).collect(),
        reference,
    }
}

/// An image is available once every node has it; without nodes nothing is known.
fn count(images: &[ImageTagStatus]) -> ImageCondition {
    let mut counts = ImageCondition::default();
    for image in images {
        match image.state {
            Some(ImageTagState::Available) => counts.available += 1,
            Some(_) => counts.pending += 1,
            None => counts.unknown += 1,
        }
    }
    counts
}

type ConditionValue = (&'static str, Truth, &'static str, String);

fn condition_values(
    wish: &WantedImage,
    images: &[ImageTagStatus],
    counts: ImageCondition,
    nodes: usize,
    placement: &Placement,
) -> Vec<ConditionValue> {
    let first_problem = first_problem(wish, images, placement);
    let (all, settings) = (images.len(), &wish.settings);
    let (there, pending) = (counts.available as usize, counts.pending > 0);
    let is_understood = settings.problems.is_empty() && settings.lists_all.is_empty();
    let complete = all > 0 && there == all && is_understood;
    let ready = if complete {
        let message = format!("{all}/{all} images on {nodes}/{nodes} nodes");
        (kind::READY, Truth::True, "Available", message)
    } else if nodes == 0 && all > 0 && first_problem.is_none() {
        let message = "no node with an agent matches the selector".to_owned();
        (kind::READY, Truth::Unknown, "NoNodes", message)
    } else {
        let counted = format!("{there}/{all} images are on every selected node ({nodes})");
        let message = match &first_problem {
            Some((_, why)) => format!("{counted}; {why}"),
            None => counted,
        };
        let reason = first_problem
            .as_ref()
            .map_or("Pulling", |(reason, _)| *reason);
        (kind::READY, Truth::False, reason, message)
    };
    let progressing = match (settings.suspend, pending) {
        (true, _) => (
            kind::PROGRESSING,
            Truth::False,
            "Suspended",
            "spec.suspend is true: nothing new is pulled".to_owned(),
        ),
        (false, true) => {
            let message = format!("images missing on at least one node: {}", counts.pending);
            (kind::PROGRESSING, Truth::True, "Pulling", message)
        }
        (false, false) => (kind::PROGRESSING, Truth::False, "Settled", String::new()),
    };
    let degraded = match first_problem {
        Some((reason, why)) => (kind::DEGRADED, Truth::True, reason, why),
        None => (kind::DEGRADED, Truth::False, "AsExpected", String::new()),
    };
    vec![ready, progressing, degraded]
}

/// Adds that agents have stopped reporting: what they reported last still counts.
fn add_silence(conditions: &mut [ConditionValue], silence: &Silence) {
    for (kind, truth, reason, message) in conditions {
        if *kind == kind::READY {
            *message = format!("{message}; {}", silence.message);
        }
        let is_new = *kind == kind::DEGRADED && *truth == Truth::False && silence.is_fault;
        if is_new {
            (*truth, *reason) = (Truth::True, "AgentSilent");
            message.clone_from(&silence.message);
        }
    }
}

/// The first problem that a person should look at.
fn first_problem(
    wish: &WantedImage,
    images: &[ImageTagStatus],
    placement: &Placement,
) -> Option<(&'static str, String)> {
    let settings = &wish.settings;
    if let Some(problem) = settings.problems.first() {
        let more = match settings.problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return Some(("InvalidSpec", format!("{problem}{more}")));
    }
    if let Some(name) = settings.lists_all.first() {
        let why = format!(
            "{name}: listSelection is not supported yet: name the tags (the older Coral did not \
             support it either)"
        );
        return Some(("NotSupportedYet", why));
    }
    let failed = images.iter().find_map(|image| {
        let (reference, failure) = (&image.reference, image.failures.first()?);
        let ImageFailure { node, message, .. } = failure;
        Some(format!("{reference} on node {node}: {message}"))
    });
    let unresolved = images.iter().find_map(|image| {
        let why = image.message.as_ref()?;
        Some(format!("{}: {why}", image.reference))
    });
    if let Some(why) = unresolved {
        return Some(("NotResolved", with_secrets(settings.names_secrets, &why)));
    }
    if let Some(why) = failed {
        return Some(("PullFailed", with_secrets(settings.names_secrets, &why)));
    }
    if let Some(nodes) = placement.left_out.get(&wish.key) {
        let why = format!(
            "{} reached the limit of {MAX_NODE_IMAGES} images, and namespace {} has its share of \
             them: name fewer images in it, or narrow the selector",
            first_of(nodes),
            wish.key.namespace
        );
        return Some(("TooManyImages", why));
    }
    let nodes = placement.unlabelled.get(&wish.key)?;
    let why = format!(
        "{} reached the limit of {MAX_IMAGE_LABELS} image labels, and namespace {} has its share of \
         them, so pods cannot be scheduled by labels of some of these images: name fewer images in \
         it, or \
         narrow the selector",
        first_of(nodes),
        wish.key.namespace
    );
    Some(("TooManyLabels", why))
}

/// The first node and the number of the others, as the subject of a sentence in the perfect tense.
fn first_of(nodes: &BTreeSet<String>) -> String {
    let first = nodes.first().map_or("", String::as_str);
    match nodes.len().saturating_sub(1) {
        0 => format!("node {first} has"),
        1 => format!("node {first} and 1 more node have"),
        more => format!("node {first} and {more} more nodes have"),
    }
}

fn with_secrets(names_secrets: bool, why: &str) -> String {
    if names_secrets {
        format!(
            "{why}; imagePullSecrets are not yet used: a later version will support private \
                 images"
        )
    } else {
        why.to_owned()
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{digest, node, reporting, wish};
    use super::super::input::NodeView;
    use super::*;
    use coral_api::node_images::NodeImageStatus;

    const IMAGE: &str = "quay.io/a/b:1";

    fn reported(state: ImageTagState, reason: Option<&str>) -> NodeImageStatus {
        NodeImageStatus {
            reference: IMAGE.into(),
            digest: digest("x").to_string(),
            observed_generation: None,
            state,
            placed: true,
            removing: false,
            size: Some(7),
            reason: reason.map(str::to_owned),
            message: reason.map(|reason| format!("{reason} happened")),
            attempts: Some(3),
            next_attempt: None,
        }
    }

    fn on(name: &str, state: ImageTagState) -> NodeView {
        reporting(name, vec![reported(state, None)], vec![])
    }

    fn decided(wish: &WantedImage, nodes: &[NodeView]) -> ImageStatus {
        let now = Timestamp::UNIX_EPOCH;
        decided_after(wish, nodes, &Placement::default(), None, now)
    }

    fn decided_after(
        wish: &WantedImage,
        nodes: &[NodeView],
        placement: &Placement,
        before: Option<&ImageStatus>,
        now: Timestamp,
    ) -> ImageStatus {
        let nodes: Vec<Reported<'_>> = nodes.iter().map(Reported::by).collect();
        status(
            wish,
            &nodes,
            &Resolutions::default(),
            placement,
            before,
            now,
        )
    }

    fn said<'a>(status: &'a ImageStatus, kind: &str) -> (&'a str, &'a str, &'a str) {
        let found = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
        (&found.status, &found.reason, &found.message)
    }

    #[test]
    fn an_image_on_19_of_20_nodes_is_pending_and_not_nothing() {
        let mut nodes: Vec<NodeView> = (0..19)
            .map(|n| on(&format!("n{n}"), ImageTagState::Available))
            .collect();
        nodes.push(on("n19", ImageTagState::Pending));
        let status = decided(&wish("web", &[IMAGE]), &nodes);
        let counts = status.condition.unwrap();
        assert_eq!(
            (counts.available, counts.pending, counts.unknown),
            (0, 1, 0)
        );
        assert_eq!(status.images[0].nodes.unwrap().available, 19);
        assert_eq!(status.total_nodes, Some(20));
        assert_eq!(said(&status, "Ready").0, "False");
        assert_eq!(said(&status, "Progressing").0, "True");
    }

    #[test]
    fn an_agent_that_has_stopped_reporting_is_told() {
        let mut nodes = [
            on("n1", ImageTagState::Available),
            on("n2", ImageTagState::Available),
        ];
        nodes[1].silent = Some("pod x is not ready".to_owned());
        let status = decided(&wish("web", &[IMAGE]), &nodes);
        let (ready, _, message) = said(&status, "Ready");
        assert_eq!(ready, "True", "what was reported last counts");
        let expected =
            "1/1 images on 2/2 nodes; no agent reports from node n2 (pod x is not ready)";
        assert!(message.starts_with(expected), "{message}");
        let (degraded, reason, _) = said(&status, "Degraded");
        assert_eq!((degraded, reason), ("True", "AgentSilent"));
        // A node that is not Ready is the cluster's trouble.
        nodes[1].ready = false;
        let status = decided(&wish("web", &[IMAGE]), &nodes);
        assert!(
            said(&status, "Ready")
                .2
                .contains("no agent reports from node n2")
        );
        assert_eq!(said(&status, "Degraded").0, "False");
    }

    #[test]
    fn nodes_without_an_agent_are_not_waited_for() {
        let nodes = [on("n1", ImageTagState::Available), node("n2", &[])];
        let status = decided(&wish("web", &[IMAGE]), &nodes);
        assert_eq!(status.total_nodes, Some(1));
        let expected = ("True", "Available", "1/1 images on 1/1 nodes");
        assert_eq!(said(&status, "Ready"), expected);
    }

    #[test]
    fn a_repository_whose_every_tag_is_asked_for_is_never_complete() {
        let mut wish = wish("web", &[IMAGE]);
        wish.settings.lists_all = vec!["quay.io/a/c".to_owned()];
        let status = decided(&wish, &[on("n1", ImageTagState::Available)]);
        let (ready, reason, _) = said(&status, "Ready");
        assert_eq!((ready, reason), ("False", "NotSupportedYet"));
    }

    #[test]
    fn images_without_room_or_without_a_label_are_named() {
        let wish = wish("web", &[IMAGE]);
        let nodes = |names: &[&str]| {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            std::collections::BTreeMap::from([(wish.key.clone(), names)])
        };
        let full = Placement {
            left_out: nodes(&["n1"]),
            unlabelled: nodes(&["n1"]),
            ..Placement::default()
        };
        let here = [on("n1", ImageTagState::Available)];
        let decided = |placement: &Placement| {
            decided_after(&wish, &here, placement, None, Timestamp::UNIX_EPOCH)
        };
        let full = decided(&full);
        let (_, reason, message) = said(&full, "Degraded");
        assert_eq!(reason, "TooManyImages");
        assert!(message.starts_with("node n1 has reached the limit of 2000 images"));
        let unlabelled = Placement {
            unlabelled: nodes(&["n1", "n2", "n3"]),
            ..Placement::default()
        };
        let unlabelled = decided(&unlabelled);
        let (_, reason, message) = said(&unlabelled, "Degraded");
        assert_eq!(reason, "TooManyLabels");
        assert!(message.starts_with("node n1 and 2 more nodes have reached the limit of 500"));
        assert_eq!(said(&unlabelled, "Ready").0, "True", "the images are there");
    }

    #[test]
    fn without_nodes_nothing_is_known() {
        let status = decided(&wish("web", &[IMAGE]), &[]);
        assert_eq!(status.condition.unwrap().unknown, 1);
        assert_eq!(said(&status, "Ready").0, "Unknown");
    }

    #[test]
    fn the_first_failures_are_listed_with_their_reasons() {
        let failing = |n: usize| {
            let report = reported(ImageTagState::Error, Some("NotFound"));
            reporting(&format!("n{n}"), vec![report], vec![])
        };
        let nodes: Vec<NodeView> = (0..9).map(failing).collect();
        let status = decided(&wish("web", &[IMAGE]), &nodes);
        let image = &status.images[0];
        assert_eq!(image.failures.len(), MAX_FAILURES);
        assert_eq!(image.failures[0].attempts, 3);
        assert_eq!(image.nodes.unwrap().error, 9);
        let (truth, reason, message) = said(&status, "Degraded");
        assert_eq!((truth, reason), ("True", "PullFailed"));
        assert_eq!(message, "quay.io/a/b:1 on node n0: NotFound happened");
    }

    #[test]
    fn a_pull_that_gave_its_slot_to_others_is_no_failure() {
        let report = reported(ImageTagState::Pending, Some(YIELDED));
        let nodes = [reporting("n1", vec![report], vec![])];
        let status = decided(&wish("web", &[IMAGE]), &nodes);
        assert_eq!(status.images[0].failures, []);
        assert_eq!(said(&status, "Degraded").0, "False");
        assert_eq!(said(&status, "Progressing").0, "True");
    }

    #[test]
    fn the_same_state_gives_the_same_status_whenever_it_is_decided() {
        let nodes = [on("n1", ImageTagState::Available)];
        let wish = wish("web", &[IMAGE]);
        let first = decided(&wish, &nodes);
        let later = Timestamp::from_second(1000).unwrap();
        let again = decided_after(&wish, &nodes, &Placement::default(), Some(&first), later);
        assert_eq!(first, again);
    }
}
