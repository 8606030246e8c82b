mod failures;
mod slots;

use std::collections::{BTreeMap, BTreeSet};

use coral_api::image::ImageTagState;
use coral_api::node_images::{NodeImage, NodeImageStatus};
use coral_cri::{Category, ImageName, RuntimeError, RuntimeImage};
use jiff::Timestamp;

use super::attempt::Attempt;
use super::decide::{ClusterHost, Decision, DecisionInput, Pull, decide};
use super::mark::{LABEL, Role, marks};
use super::names::NameAction;
use super::remove::{FailedRemoval, FailedRemovals};
use super::slots::RemovalHold;
use crate::probe::HostState;

const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// The input of a decision; everything is empty by default.
struct Scene {
    images: Vec<NodeImage>,
    pins: Vec<String>,
    present: Vec<RuntimeImage>,
    in_use: BTreeSet<String>,
    attempts: BTreeMap<String, Attempt>,
    pulling: BTreeMap<String, Timestamp>,
    hold: RemovalHold,
    failed_removals: FailedRemovals,
    placed: BTreeSet<String>,
    hosts: BTreeMap<String, ClusterHost>,
    now: Timestamp,
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn scene(images: &[NodeImage]) -> Scene {
    Scene {
        images: images.to_vec(),
        pins: Vec::new(),
        present: Vec::new(),
        in_use: BTreeSet::new(),
        attempts: BTreeMap::new(),
        pulling: BTreeMap::new(),
        hold: RemovalHold::default(),
        failed_removals: FailedRemovals::new(),
        placed: BTreeSet::new(),
        hosts: BTreeMap::new(),
        now: at(0),
    }
}

impl Scene {
    fn decide(&self) -> Decision {
        decide(&DecisionInput {
            images: &self.images,
            pins: &self.pins,
            present: &self.present,
            in_use: &self.in_use,
            attempts: &self.attempts,
            pulling: &self.pulling,
            hold: self.hold,
            failed_removals: &self.failed_removals,
            placed: &self.placed,
            hosts: &self.hosts,
            parallel: 2,
            now: self.now,
        })
    }

    fn pulls(&self) -> Vec<String> {
        let pulls = self.decide().pulls.into_iter();
        pulls.map(|pull| pull.name).collect()
    }

    /// Starts the pulls of the decision.
    fn run_pulls(&mut self) {
        let now = self.now;
        let pulls = self.pulls().into_iter();
        self.pulling = pulls.map(|name| (name, now)).collect();
    }

    fn put_back(&mut self, index: usize) {
        let image = &self.images[index];
        let before = self.attempts.get(&image.reference);
        let attempt = Attempt::yielded(image, before, self.now, 0.0);
        self.attempts.insert(image.reference.clone(), attempt);
    }

    fn fail(&mut self, index: usize, category: Category, is_inside: bool) {
        let image = &self.images[index];
        let error = RuntimeError::new("pull the image", category, "it failed");
        let before = self.attempts.get(&image.reference);
        let attempt = Attempt::failed(image, before, &error, is_inside, self.now, 0.0);
        self.attempts.insert(image.reference.clone(), attempt);
    }
}

fn image(reference: &str, digest: &str) -> NodeImage {
    NodeImage {
        reference: reference.to_owned(),
        digest: digest.to_owned(),
        ..NodeImage::default()
    }
}

fn name(name: &str, digest: &str, label: &str, pinned: bool) -> ImageName {
    let label = (!label.is_empty()).then(|| (LABEL.to_owned(), label.to_owned()));
    ImageName {
        name: name.to_owned(),
        digest: digest.to_owned(),
        pinned,
        labels: label.into_iter().collect(),
    }
}

fn there(id: &str, names: &[ImageName]) -> RuntimeImage {
    RuntimeImage {
        id: id.to_owned(),
        names: names.to_vec(),
        size: 7,
        pinned: names.iter().any(|name| name.pinned),
    }
}

fn only(decision: &Decision) -> &NodeImageStatus {
    assert_eq!(decision.statuses.len(), 1, "{decision:?}");
    &decision.statuses[0]
}

fn pulled(path: &str) -> String {
    format!("{path}@{ONE}")
}

#[test]
fn an_image_that_is_not_there_is_pulled_by_digest_then_named_then_available() {
    let mut scene = scene(&[NodeImage {
        pin: true,
        ..image("reg.io/a:1", ONE)
    }]);
    let decision = scene.decide();
    let pull = Pull {
        name: pulled("reg.io/a"),
        marks: marks(Some(Role::Keep), true),
    };
    assert_eq!(decision.pulls, [pull]);
    assert_eq!(only(&decision).state, ImageTagState::Pending);

    scene.present = vec![there("id", &[name(&pulled("reg.io/a"), ONE, "keep", true)])];
    let decision = scene.decide();
    assert!(decision.pulls.is_empty());
    let tag = NameAction::Tag {
        source: pulled("reg.io/a"),
        name: "reg.io/a:1".to_owned(),
        marks: marks(Some(Role::Keep), true),
    };
    assert_eq!(decision.names, [tag]);

    scene.present[0]
        .names
        .push(name("reg.io/a:1", ONE, "keep", true));
    let decision = scene.decide();
    assert_eq!(decision.names, []);
    let status = only(&decision);
    assert_eq!(status.state, ImageTagState::Available);
    assert!(status.placed);
    assert_eq!(status.size, Some(7));
}

#[test]
fn an_image_is_pulled_once_however_often_it_is_looked_at() {
    let mut scene = scene(&[image("reg.io/a:1", ONE), image("reg.io/a:latest", ONE)]);
    assert_eq!(scene.decide().pulls.len(), 1);
    scene.pulling.insert(pulled("reg.io/a"), at(0));
    assert!(scene.decide().pulls.is_empty());
    assert!(scene.decide().wanted.contains(&pulled("reg.io/a")));
}

#[test]
fn a_tag_that_moved_is_pulled_again_and_the_old_digest_is_let_go() {
    let mut scene = scene(&[image("reg.io/a:1", TWO)]);
    let old = name(&pulled("reg.io/a"), ONE, "keep", true);
    scene.present = vec![there("id", &[old, name("reg.io/a:1", ONE, "keep", false)])];
    let decision = scene.decide();
    assert_eq!(decision.pulls[0].name, format!("reg.io/a@{TWO}"));
    let release = NameAction::Mark {
        name: pulled("reg.io/a"),
        marks: marks(None, false),
    };
    assert_eq!(decision.names, [release]);
}

#[test]
fn an_image_waits_for_its_registry_and_a_routed_one_with_a_source_only_for_the_first_probe() {
    let mut scene = scene(&[image("reg:5000/a:1", ONE)]);
    let mut stand = |standing: HostState, has_source| {
        let inside = ClusterHost {
            standing,
            has_source,
        };
        scene.hosts.insert("reg:5000".to_owned(), inside);
        scene.decide()
    };
    let pending = HostState::Pending("no probe yet".to_owned());
    let failed = HostState::Failed("connection refused".to_owned());
    for (standing, has_source, pulls) in [
        (pending.clone(), false, 0),
        (pending, true, 0),
        (failed.clone(), false, 0),
        (failed, true, 1),
        (HostState::Ready, false, 1),
    ] {
        let decision = stand(standing.clone(), has_source);
        assert_eq!(decision.pulls.len(), pulls, "{standing:?} {has_source}");
        let is_waiting = only(&decision).reason.as_deref() == Some("RegistryNotReady");
        assert_eq!(is_waiting, pulls == 0);
    }
}

#[test]
fn an_image_that_was_there_is_pinned_and_given_back_when_it_is_no_longer_wanted() {
    let mut scene = scene(&[NodeImage {
        pin: true,
        remove: true,
        ..image("reg.io/a:1", ONE)
    }]);
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "", false)])];
    let decision = scene.decide();
    let pin = NameAction::Mark {
        name: "reg.io/a:1".to_owned(),
        marks: marks(Some(Role::Preexisting), true),
    };
    assert_eq!(decision.names, [pin]);
    assert!(!only(&decision).placed);
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "found", true)])];
    scene.images.clear();
    let release = NameAction::Mark {
        name: "reg.io/a:1".to_owned(),
        marks: marks(None, false),
    };
    assert_eq!(scene.decide().names, [release]);
}

#[test]
fn a_pin_of_another_is_left_alone() {
    let mut scene = scene(&[image("reg.io/a:1", ONE)]);
    scene.present = vec![there("id", &[name("reg.io/a:1", ONE, "", true)])];
    assert_eq!(scene.decide().names, []);
    scene.images.clear();
    assert_eq!(scene.decide().names, []);
}

#[test]
fn marks_that_a_pull_by_kubelet_took_away_come_back() {
    let mut scene = scene(&[NodeImage {
        pin: true,
        remove: true,
        ..image("reg.io/a:1", ONE)
    }]);
    scene.placed.insert("reg.io/a:1".to_owned());
    let names = [
        name(&pulled("reg.io/a"), ONE, "remove", true),
        name("reg.io/a:1", ONE, "", false),
    ];
    scene.present = vec![there("id", &names)];
    let decision = scene.decide();
    let again = NameAction::Mark {
        name: "reg.io/a:1".to_owned(),
        marks: marks(Some(Role::Remove), true),
    };
    assert_eq!(decision.names, [again]);
    assert!(only(&decision).placed);
}

#[test]
fn an_image_is_removed_only_if_all_its_names_go_and_nothing_uses_or_pulls_it() {
    let mut scene = scene(&[]);
    let names = [
        name(&pulled("reg.io/a"), ONE, "remove", false),
        name("reg.io/a:1", ONE, "remove", false),
    ];
    scene.present = vec![there("id", &names)];
    let remove = NameAction::Remove {
        name: pulled("reg.io/a"),
    };
    assert_eq!(scene.decide().names, [remove]);

    scene.pulling.insert("reg.io/other@x".to_owned(), at(0));
    let waiting = scene.decide();
    assert_eq!(waiting.names, []);
    assert!(only(&waiting).removing);
    // Nothing more is pulled before the image is removed.
    scene.images = vec![image("reg.io/c:1", TWO)];
    assert!(scene.decide().pulls.is_empty());
    scene.pulling.clear();

    scene.images.clear();
    scene.in_use.insert("id".to_owned());
    let kept = scene.decide().names;
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|action| matches!(action,
        NameAction::Mark { marks: given, .. } if *given == marks(None, false))));
    scene.in_use.clear();

    scene.present[0]
        .names
        .push(name("theirs/a:1", ONE, "", false));
    let untag = |name: &str| NameAction::Untag {
        name: name.to_owned(),
    };
    assert_eq!(
        scene.decide().names,
        [untag(&pulled("reg.io/a")), untag("reg.io/a:1")]
    );
}

#[test]
fn a_name_that_shares_its_digest_with_a_wanted_one_goes_alone() {
    let mut scene = scene(&[image("reg.io/a:2", ONE)]);
    let names = [
        name(&pulled("reg.io/a"), ONE, "keep", false),
        name("reg.io/a:1", ONE, "remove", false),
        name("reg.io/a:2", ONE, "keep", false),
    ];
    scene.present = vec![there("id", &names)];
    let untag = NameAction::Untag {
        name: "reg.io/a:1".to_owned(),
    };
    assert_eq!(scene.decide().names, [untag]);
}

#[test]
fn what_is_only_pinned_is_never_pulled_and_is_given_back() {
    let mut scene = scene(&[]);
    scene.pins = vec!["reg.io/coral:1".to_owned()];
    let decision = scene.decide();
    assert_eq!((decision.pulls.len(), decision.pins.len()), (0, 0));
    scene.present = vec![there("id", &[name("reg.io/coral:1", ONE, "", false)])];
    let decision = scene.decide();
    let pin = NameAction::Mark {
        name: "reg.io/coral:1".to_owned(),
        marks: marks(Some(Role::Preexisting), true),
    };
    assert_eq!(decision.names, [pin]);
    assert_eq!(decision.pins, ["reg.io/coral:1"]);
    scene.present = vec![there("id", &[name("reg.io/coral:1", ONE, "found", true)])];
    assert_eq!(scene.decide().names, []);
    scene.pins.clear();
    assert_eq!(scene.decide().names.len(), 1);
}

#[test]
fn a_malformed_reference_or_digest_is_an_error_of_its_own_image() {
    let scene = scene(&[
        image("reg:5000/A:1", ONE),
        image("reg:5000/b:1", "sha256:nope"),
        image(&format!("reg:5000/c@{TWO}"), ONE),
        image("reg:5000/d:1", ONE),
    ]);
    let decision = scene.decide();
    assert_eq!(decision.pulls.len(), 1);
    let errors = decision
        .statuses
        .iter()
        .filter(|status| status.state == ImageTagState::Error && status.next_attempt.is_none());
    assert_eq!(errors.count(), 3);
}

#[test]
fn a_reference_by_digest_needs_no_other_name() {
    let reference = pulled("reg:5000/a");
    let mut scene = scene(&[image(&reference, ONE)]);
    scene.present = vec![there("id", &[name(&reference, ONE, "keep", false)])];
    let decision = scene.decide();
    assert_eq!(decision.names, []);
    assert_eq!(only(&decision).state, ImageTagState::Available);
}
