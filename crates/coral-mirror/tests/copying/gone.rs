//! Images that vanish or move at their source, while tags are pruned.

use std::collections::BTreeMap;

use coral_api::PruningStatus;
use coral_api::mirrored_images::{MirroredImage, MirroredState};
use coral_image::{Digest, Repository, Version};
use coral_mirror::{Ended, PlannedAction, Snapshot, Vanished, plan, vanished};
use jiff::Timestamp;

use super::*;

/// All reported events, by the names of their types; and the images that are reported as up to
/// date.
#[derive(Default)]
pub(super) struct Heard(Mutex<Vec<String>>, Mutex<Vec<String>>);

impl Observer for Heard {
    fn observe(&self, subject: &Subject<'_>, event: &Event<'_>) {
        let tag = subject.source.rsplit(':').next().unwrap_or_default();
        let said = match event {
            Event::UpToDate { .. } => return self.1.lock().unwrap().push(tag.to_owned()),
            Event::SourceGone => "gone".to_owned(),
            Event::TagMoved { at, from, to } => format!("{at:?} {from} {to}"),
            Event::PruningPaused { new, images, .. } => format!("paused {new}/{images}"),
            Event::PruningStaysPaused { vanished, images } => format!("now {vanished}/{images}"),
            Event::Pruned { gone } => format!("pruned gone={gone}"),
            Event::Mirrored {
                digest,
                replaced: Some(before),
                ..
            } => format!("mirrored {digest} before {before}"),
            _ => return,
        };
        self.0.lock().unwrap().push(format!("{tag} {said}"));
    }
}

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub(super) fn take_up_to_date(&self) -> Vec<String> {
        std::mem::take(&mut self.1.lock().unwrap())
    }
}

/// An image under each of these tags, all different.
fn images(seed: u64, tags: &[String]) -> Built {
    let numbered = (0..).zip(tags);
    numbered.fold(Built::default(), |all, (n, tag)| {
        let image = ImageBuilder::new(seed + n).layers_of(&[500]).build();
        all.with(image.tagged(tag))
    })
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("v{n:02}")).collect()
}

impl Pair {
    /// A mirror named `m` of these repositories, `{name: HOST/PATH, …}` each.
    pub(super) fn mirror_with(&self, spec: &str, repositories: &[(&str, &str)]) -> Mirror {
        let source = self.source.host();
        let entries = repositories.iter();
        let entries =
            entries.map(|(path, what)| format!("    - {{name: {source}/{path}, {what}}}\n"));
        let yaml = format!(
            "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: m}}\nspec:\n  \
             registry: {{name: local}}\n  retry: {{limit: 2, maxBackoff: 100ms}}\n{spec}  \
             repositories:\n{}",
            entries.collect::<String>()
        );
        let documents = documents::read("m.yaml", &yaml).unwrap();
        let Object::RegistryMirror(mirror) = &documents[0].object else {
            panic!("a mirror")
        };
        Mirror {
            settings: mirror.settings().unwrap(),
            ..self.described("default/m", &["a/b"])
        }
    }

    /// One pass of a mirror that starts from the snapshot `before`.
    pub(super) async fn pass_of(
        &self,
        mirror: Mirror,
        before: Option<Snapshot>,
        heard: &Arc<Heard>,
    ) -> Ended {
        let engine = Engine::start(InProcess::default(), EngineLimits::default(), heard.clone());
        let mirror = Mirror {
            restored: before.map(|before| {
                Arc::new(Snapshot {
                    next_pass: None,
                    ..before
                })
            }),
            ..mirror
        };
        let stop = CancellationToken::new();
        engine.run(mirror, Until::OnePass, stop, |_| {}).await
    }

    async fn remove(&self, at: &FaultRegistry, path: &str, tag: &str) {
        let repository = Repository::parse(&format!("{}/{path}", at.host())).unwrap();
        let credentials = Arc::new(Credentials::none());
        let endpoint = self.client.repository(&repository, credentials);
        endpoint
            .delete(&Version::parse(tag).unwrap())
            .await
            .unwrap();
    }
}

pub(super) fn status_of(code: u16) -> Effect {
    Effect::Status {
        status: code,
        headers: vec![],
        body: String::new(),
    }
}

fn by_tag(ended: &Ended) -> BTreeMap<&str, &MirroredImage> {
    let images = ended.snapshot.images.iter();
    let tag = |image: &'_ MirroredImage| image.reference.rfind(':').map(|at| at + 1);
    images
        .map(|image| (&image.reference[tag(image).unwrap()..], image))
        .collect()
}

fn states(ended: &Ended, tags: &[String]) -> Vec<(MirroredState, bool)> {
    let images = by_tag(ended);
    let found = tags.iter().map(|tag| images[tag.as_str()]);
    let mut found: Vec<_> = found.map(|image| (image.state, image.is_held())).collect();
    found.dedup();
    found
}

const PRUNING: &str = "  prune: {enabled: true}\n";
const REPOSITORIES: [(&str, &str); 2] = [
    ("a/b", "select: {regex: 'v[0-9]+'}"),
    ("c/d", "select: {all: true}"),
];

#[tokio::test]
async fn of_a_hundred_tags_of_which_many_vanish_move_or_are_refused_none_is_lost() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let all = numbered(0..100);
    let other = ["x".to_owned(), "y".to_owned()];
    pair.source.load("a/b", &images(1, &all));
    pair.source.load("c/d", &images(500, &other));
    let mirror = pair.mirror_with(PRUNING, &REPOSITORIES);
    let ended = pair.pass_of(mirror.clone(), None, &heard).await;
    assert_eq!(ended.summary.mirrored, 102);
    // 30 tags vanish, 10 move, 10 are refused, and one repository does not exist.
    for tag in numbered(0..30) {
        pair.remove(&pair.source, "a/b", &tag).await;
    }
    let moved = images(1000, &numbered(30..40));
    pair.source.load("a/b", &moved);
    pair.source
        .fault(Fault::new(status_of(401)).path("/a/b/manifests/v4"));
    pair.source.fault(Fault::new(status_of(404)).path("/c/d/"));
    let ended = pair
        .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
        .await;
    let there = pair.destination.tags(&pair.landed("a/b"));
    assert_eq!(there.len(), 100);
    assert_eq!(pair.destination.tags(&pair.landed("c/d")).len(), 2);
    let gone = [(MirroredState::SourceGone, true)];
    assert_eq!(states(&ended, &numbered(0..30)), gone);
    assert_eq!(states(&ended, &other), gone);
    assert_eq!(
        states(&ended, &numbered(40..50)),
        [(MirroredState::Error, true)]
    );
    let mirrored = [(MirroredState::Mirrored, true)];
    assert_eq!(states(&ended, &numbered(30..40)), mirrored);
    assert_eq!(states(&ended, &numbered(50..100)), mirrored);
    for (tag, digest) in &moved.tags {
        assert_eq!(there[tag], *digest, "{tag}");
    }
    let summary = &ended.summary;
    assert_eq!((summary.mirrored, summary.source_gone), (102, 32));
    assert_eq!((summary.errors, summary.pruned), (10, 0));
    assert!(summary.pruning.paused);
    let heard_now = heard.take();
    assert!(
        heard_now.contains(&"default/m paused 32/102".to_owned()),
        "{heard_now:?}"
    );
    let vanished = heard_now.iter().filter(|said| said.ends_with(" gone"));
    assert_eq!(vanished.count(), 32);
    // All tags come back.
    pair.source.clear_faults();
    pair.source.load("a/b", &images(1, &numbered(0..30)));
    let ended = pair.pass_of(mirror, Some(ended.snapshot), &heard).await;
    assert_eq!(states(&ended, &all), mirrored);
    assert_eq!(states(&ended, &other), mirrored);
    let summary = &ended.summary;
    assert_eq!((summary.mirrored, summary.source_gone), (102, 0));
    assert_eq!((summary.errors, summary.failing, summary.pruned), (0, 0, 0));
    assert!(heard.take().is_empty(), "what came back is no news");
}

#[tokio::test]
async fn a_process_that_knows_nothing_keeps_what_vanished_and_deletes_what_no_rule_takes() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let tags = ["v1", "v2", "v3", "v4", "v5", "v6", "w"].map(str::to_owned);
    pair.source.load("a/b", &images(1, &tags));
    let everything = pair.mirror_with("", &[("a/b", "select: {all: true}")]);
    pair.pass_of(everything, None, &heard).await;
    pair.remove(&pair.source, "a/b", "v1").await;
    let versions = pair.mirror_with(PRUNING, &[("a/b", "select: {glob: 'v*'}")]);
    let ended = pair.pass_of(versions, None, &heard).await;
    let there = pair.destination.tags(&pair.landed("a/b"));
    assert_eq!(there.into_keys().collect::<Vec<_>>(), tags[..6]);
    assert_eq!((ended.summary.pruned, ended.summary.source_gone), (1, 1));
    assert_eq!(heard.take(), ["v1 gone", "w pruned gone=false"]);
}

#[tokio::test]
async fn a_last_copy_is_kept_when_newer_tags_appear_and_what_they_replace_is_deleted() {
    for (spec, left) in [
        (PRUNING, vec!["1.1.0", "1.2.0", "1.3.0"]),
        (
            "  prune: {enabled: true, sourceGone: Delete}\n",
            vec!["1.2.0", "1.3.0"],
        ),
    ] {
        let pair = Pair::start().await;
        let heard = Arc::new(Heard::default());
        let tags = ["1.0.0", "1.1.0", "1.2.0"].map(str::to_owned);
        pair.source.load("a/b", &images(1, &tags));
        let everything = pair.mirror_with("", &[("a/b", "select: {all: true}")]);
        pair.pass_of(everything, None, &heard).await;
        pair.remove(&pair.source, "a/b", "1.1.0").await;
        pair.source.load("a/b", &images(9, &["1.3.0".to_owned()]));
        let latest = pair.mirror_with(spec, &[("a/b", "select: {semver: '*', latest: 2}")]);
        let mut before = pair.pass_of(latest.clone(), None, &heard).await.snapshot;
        before.pruning = PruningStatus::accepting(i64::MAX);
        pair.pass_of(latest, Some(before), &heard).await;
        let there = pair.destination.tags(&pair.landed("a/b"));
        assert_eq!(there.into_keys().collect::<Vec<_>>(), left, "{spec}");
        let said = heard.take();
        let replaced = "1.0.0 pruned gone=false".to_owned();
        assert!(said.contains(&replaced), "{said:?}");
    }
}

#[tokio::test]
async fn a_list_that_is_not_found_where_manifests_are_is_a_failure_and_named_tags_go_on() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let all = ["n", "v1", "v2"].map(str::to_owned);
    pair.source.load("a/b", &images(1, &all));
    let what = [("a/b", "tags: [n], select: {glob: 'v*'}")];
    let mirror = pair.mirror_with("  prune: {enabled: true, sourceGone: Delete}\n", &what);
    let ended = pair.pass_of(mirror.clone(), None, &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.errors), (3, 0));
    let no_list = Fault::new(status_of(404)).path("/a/b/tags/list");
    pair.source.fault(no_list);
    let moved = images(9, &["n".to_owned()]);
    pair.source.load("a/b", &moved);
    pair.remove(&pair.source, "a/b", "v1").await;
    heard.take_up_to_date();
    let mut known = ended.snapshot;
    for before in [true, true, false] {
        let before = before.then(|| known.clone());
        let desired = if before.is_some() { 3 } else { 1 };
        let ended = pair.pass_of(mirror.clone(), before, &heard).await;
        let summary = &ended.summary;
        assert_eq!((summary.errors, summary.repositories.errors), (1, 1));
        let images = (summary.desired, summary.mirrored, summary.source_gone);
        assert_eq!(images, (desired, desired, 0));
        let message = ended.snapshot.repositories[0].message.clone().unwrap();
        assert!(
            message.starts_with("its tags could not be listed"),
            "{message}"
        );
        let there = pair.destination.tags(&pair.landed("a/b"));
        assert_eq!(there.len(), 3);
        assert_eq!(there["n"], moved.digest());
        assert!(
            !heard
                .take_up_to_date()
                .iter()
                .any(|tag| tag.starts_with('v'))
        );
        if desired == 3 {
            known = ended.snapshot;
        }
    }
    // The repository is listed again, and new tags are mirrored.
    pair.source.clear_faults();
    pair.source.load("a/b", &images(20, &["v3".to_owned()]));
    let keeps = pair.mirror_with(PRUNING, &what);
    let ended = pair.pass_of(keeps, Some(known), &heard).await;
    assert_eq!((ended.summary.mirrored, ended.summary.errors), (4, 0));
    assert_eq!(ended.summary.source_gone, 1);
}

#[tokio::test]
async fn what_vanished_is_deleted_on_request_up_to_a_fifth_and_beyond_after_a_confirmation() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let tags = numbered(0..10);
    pair.source.load("a/b", &images(1, &tags));
    let delete = "  prune: {enabled: true, sourceGone: Delete}\n";
    // It makes no difference whether tags are named one by one or listed.
    let what = "tags: [v00, v01], select: {glob: 'v*'}";
    let mirror = pair.mirror_with(delete, &[("a/b", what)]);
    let ended = pair.pass_of(mirror.clone(), None, &heard).await;
    for tag in ["v01", "v02"] {
        pair.remove(&pair.source, "a/b", tag).await;
    }
    let ended = pair
        .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
        .await;
    assert_eq!((ended.summary.pruned, ended.summary.desired), (2, 8));
    let said = heard.take();
    assert!(
        said.contains(&"v01 pruned gone=true".to_owned()),
        "{said:?}"
    );
    for tag in ["v03", "v04"] {
        pair.remove(&pair.source, "a/b", tag).await;
    }
    let mut mirror = mirror;
    mirror.settings.repositories[0].tags.clear();
    let paused = pair
        .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
        .await;
    assert!(paused.summary.pruning.paused);
    assert_eq!(pair.destination.tags(&pair.landed("a/b")).len(), 8);
    // The number grows, which is reported; the number that was reported first confirms nothing.
    pair.remove(&pair.source, "a/b", "v05").await;
    heard.take();
    let paused = pair
        .pass_of(mirror.clone(), Some(paused.snapshot), &heard)
        .await;
    assert!(heard.take().contains(&"default/m now 3/8".to_owned()));
    let before = paused.snapshot.pruning;
    assert_eq!((before.paused, before.counted), (true, 3));
    assert_eq!(before.after_confirmation(2), before);
    let confirmed = Snapshot {
        pruning: before.after_confirmation(3),
        ..paused.snapshot
    };
    let ended = pair.pass_of(mirror, Some(confirmed), &heard).await;
    assert!(!ended.summary.pruning.paused);
    assert_eq!(pair.destination.tags(&pair.landed("a/b")).len(), 5);
}

#[tokio::test]
async fn a_tag_that_vanished_is_kept_where_another_mirror_keeps_it() {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let tags = numbered(0..10);
    pair.source.load("a/b", &images(1, &tags));
    let what = [("a/b", "select: {glob: 'v*'}")];
    let keeps = pair.mirror_with(PRUNING, &what);
    pair.pass_of(keeps.clone(), None, &heard).await;
    pair.remove(&pair.source, "a/b", "v05").await;
    let deletes = Mirror {
        name: "default/other".to_owned(),
        ..pair.mirror_with("  prune: {enabled: true, sourceGone: Delete}\n", &what)
    };
    let engine = Engine::start(InProcess::default(), EngineLimits::default(), heard.clone());
    let mirrors = [keeps, deletes];
    for mirror in &mirrors {
        engine.announce(mirror);
    }
    let run = |mirror| engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {});
    futures::future::join_all(mirrors.into_iter().map(run)).await;
    assert_eq!(pair.destination.tags(&pair.landed("a/b")).len(), 10);
}

/// Tag 1 names another image at the source than the one that was mirrored.
async fn drifted(spec: &str) -> (Pair, Mirror, Ended, Arc<Heard>, [Digest; 2]) {
    let pair = Pair::start().await;
    let heard = Arc::new(Heard::default());
    let [before, after] = [1, 2].map(image);
    pair.source.load("a/b", &before);
    let mirror = pair.mirror_with(spec, &[("a/b", "tags: ['1']")]);
    let ended = pair.pass_of(mirror.clone(), None, &heard).await;
    pair.source.load("a/b", &after);
    let digests = [before.digest(), after.digest()];
    (pair, mirror, ended, heard, digests)
}

#[tokio::test]
async fn a_tag_that_moves_at_its_source_is_followed_warned_of_or_pinned_with_both_digests() {
    for (policy, kept) in [("Follow", 1), ("Warn", 1), ("Pin", 0)] {
        let spec = format!("  driftPolicy: {policy}\n");
        let (pair, mirror, ended, heard, digests) = drifted(&spec).await;
        let ended = pair
            .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
            .await;
        let there = pair.destination.tags(&pair.landed("a/b"));
        assert_eq!(there["1"], digests[kept], "{policy}");
        assert_eq!(
            states(&ended, &["1".to_owned()]),
            [(MirroredState::Mirrored, true)]
        );
        let [from, to] = &digests;
        let mirrored = format!("1 mirrored {to} before {from}");
        let expected = match policy {
            "Follow" => vec![mirrored],
            "Warn" => vec![format!("1 Source {from} {to}"), mirrored],
            _ => vec![format!("1 SourceAndKept {from} {to}")],
        };
        assert_eq!(heard.take(), expected, "{policy}");
        let message = by_tag(&ended)["1"].message.clone();
        assert_eq!(message.is_some(), policy == "Pin");
    }
}

#[tokio::test]
async fn a_tag_that_was_moved_in_the_mirror_is_put_back_with_one_warning() {
    let (pair, mirror, ended, heard, [mirrored, _]) = drifted("  driftPolicy: Pin\n").await;
    let strange = image(3);
    pair.destination.load(&pair.landed("a/b"), &strange);
    // The tag moved at the source, too, and stays pinned to the mirrored image.
    let ended = pair
        .pass_of(mirror.clone(), Some(ended.snapshot), &heard)
        .await;
    let there = pair.destination.tags(&pair.landed("a/b"));
    assert_eq!(there["1"], mirrored);
    let strange = strange.digest();
    let both = format!("1 Destination {mirrored} {strange}");
    let back = format!("1 mirrored {mirrored} before {strange}");
    assert_eq!(heard.take(), [both, back]);
    pair.pass_of(mirror, Some(ended.snapshot), &heard).await;
    assert_eq!(heard.take().len(), 1, "the tag at the source is told of");
}

/// Regression: after a restart, an image that another client had put in place of the mirrored one
/// counted as mirrored.
#[tokio::test]
async fn a_process_that_compares_everything_anew_knows_where_a_tag_was_moved() {
    for policy in ["Follow", "Pin"] {
        let spec = format!("  driftPolicy: {policy}\n");
        let (pair, mirror, ended, heard, [mirrored, after]) = drifted(&spec).await;
        let strange = image(3);
        pair.destination.load(&pair.landed("a/b"), &strange);
        let remembered = ended.snapshot.into_memory();
        assert!(!remembered.images[0].state.eq(&MirroredState::Mirrored));
        let ended = pair.pass_of(mirror, Some(remembered), &heard).await;
        let wanted = if policy == "Pin" { mirrored } else { after };
        let there = pair.destination.tags(&pair.landed("a/b"));
        assert_eq!(there["1"], wanted, "{policy}");
        let strange = strange.digest();
        let both = format!("1 Destination {wanted} {strange}");
        let back = format!("1 mirrored {wanted} before {strange}");
        assert_eq!(heard.take(), [both, back], "{policy}");
        assert_eq!(ended.summary.mirrored, 1);
    }
}

/// Regression: the plan said that a pinned tag would be copied.
#[tokio::test]
async fn a_plan_keeps_a_tag_that_is_pinned() {
    for (policy, keeps) in [("Follow", false), ("Warn", false), ("Pin", true)] {
        let spec = format!("  driftPolicy: {policy}\n");
        let (_pair, mirror, _, _, [digest, at_source]) = drifted(&spec).await;
        let counted = &mut std::collections::HashSet::new();
        let planned = plan(&mirror, Timestamp::now(), counted).await;
        let [image] = planned.as_slice() else {
            panic!("{planned:?}")
        };
        let kept = PlannedAction::Keep { digest, at_source };
        assert_eq!(image.action == kept, keeps, "{policy}: {image:?}");
        let message = image.image().unwrap().message;
        assert_eq!(message.is_some(), keeps, "{policy}: {message:?}");
    }
}

/// Regression: the plan named tags to delete, but no pass deleted them.
#[tokio::test]
async fn a_plan_says_that_too_many_images_vanished_for_a_tag_to_be_deleted() {
    let pair = Pair::start().await;
    pair.source.load("a/b", &images(1, &numbered(0..10)));
    let what = [("a/b", "select: {glob: 'v*'}")];
    let mirror = pair.mirror_with("  prune: {enabled: true, sourceGone: Delete}\n", &what);
    let _ = pair.pass_of(mirror.clone(), None, &Arc::default()).await;
    let few = Some(Vanished { images: 3, of: 10 });
    for (gone, expected) in [(["v00", "v01"].as_slice(), None), (&["v02"], few)] {
        for tag in gone {
            pair.remove(&pair.source, "a/b", tag).await;
        }
        let counted = &mut std::collections::HashSet::new();
        let planned = plan(&mirror, Timestamp::now(), counted).await;
        assert_eq!(vanished(&mirror, &planned), expected, "{gone:?}");
        let keeps = pair.mirror_with("", &what);
        assert_eq!(vanished(&keeps, &planned), None, "nothing is pruned");
    }
}
