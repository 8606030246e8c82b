//! Mirrors and the Registry in a cluster: a RegistryMirror works there as from a file, and a
//! problem is reported on the object that has it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster_mirrors/faults.rs"]
mod faults;
#[path = "cluster_mirrors/private.rs"]
mod private;
#[path = "cluster_mirrors/registries.rs"]
mod registries;
#[path = "cluster_mirrors/restarts.rs"]
mod restarts;
#[path = "cluster_mirrors/routes.rs"]
mod routes;
#[path = "cluster_mirrors/space.rs"]
mod space;
#[path = "cluster_mirrors/stage.rs"]
mod stage;

use std::time::Duration;

use e2e::cluster::{Cluster, OutsideRegistry, has_condition, is_ready};
use e2e::{Layout, RegistryProgram, scratch, until};

use serde_json::Value;
use stage::{Stage, copy_of, fill, tags_of};

#[test]
#[ignore = "needs a cluster"]
fn named_tags_come_in_and_the_source_is_not_listed() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&source, "team/app", &["1", "1-debug", "2"]);
    let repository = copy_of(&source, "team/app", r#"tags: ["1", "1-debug"]"#);
    let _mirror = stage.mirror("tags", "interval: 1h", &[repository]);
    let mirror = stage.wait_for("tags", "ready", is_ready);
    assert_eq!(mirror["status"]["desired"], 2, "{mirror:#}");
    assert_eq!(mirror["status"]["mirrored"], 2, "{mirror:#}");
    assert_eq!(stage.tags(&source, "team/app"), ["1", "1-debug"]);
    let requests = source.requests();
    let listed = requests.iter().find(|r| r.path.contains("/tags/list"));
    assert_eq!(listed, None);
}

#[test]
#[ignore = "needs a cluster"]
fn a_selection_takes_the_newest_versions_of_a_range_and_what_a_pattern_matches() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::Distribution, own);
    let tags = ["1.0.0", "1.2.0", "1.10.0", "1.11.0-rc.1", "2.0.0", "latest"];
    fill(&source, "team/app", &tags);
    fill(
        &source,
        "team/tool",
        &["v1-slim", "v1", "v2-slim", "v3-slim"],
    );
    let newest = r#"select: {semver: "^1", latest: 2}"#;
    let pattern = r#"select: {glob: "v*-slim", exclude: ["v3*"]}"#;
    let repositories = [
        copy_of(&source, "team/app", newest),
        copy_of(&source, "team/tool", pattern),
    ];
    let _mirror = stage.mirror("select", "interval: 1h", &repositories);
    let mirror = stage.wait_for("select", "ready", is_ready);
    assert_eq!(mirror["status"]["desired"], 4, "{mirror:#}");
    assert_eq!(stage.tags(&source, "team/app"), ["1.10.0", "1.2.0"]);
    assert_eq!(stage.tags(&source, "team/tool"), ["v1-slim", "v2-slim"]);
}

#[test]
#[ignore = "needs a cluster"]
fn only_the_named_platforms_come_in_and_the_index_stays_byte_for_byte() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    let images = ["amd64", "arm64"].map(|name| (layout.add_image(name, name.as_bytes()), name));
    layout.tag("1", &layout.add_index(&images));
    source.push(&layout, "1", "team/app:1");
    let only = r#"tags: ["1"], platforms: [linux/arm64]"#;
    let repository = copy_of(&source, "team/app", only);
    let _mirror = stage.mirror("platforms", "interval: 1h", &[repository]);
    stage.wait_for("platforms", "ready", is_ready);
    let path = stage::path_inside(&source, "team/app");
    let manifest = |version: &str| stage.get_inside(&format!("/v2/{path}/manifests/{version}"));
    let (stored, there) = (manifest("1"), source.manifest("team/app", "1"));
    let index: Value = serde_json::from_str(&there).unwrap();
    assert_eq!((stored.status, stored.body), (200, there));
    let of = |architecture: &str| {
        let mut manifests = index["manifests"].as_array().unwrap().iter();
        let found = manifests.find(|one| one["platform"]["architecture"] == architecture);
        found.unwrap()["digest"].as_str().unwrap()
    };
    assert_eq!(manifest(of("arm64")).status, 200);
    assert_eq!(manifest(of("amd64")).status, 404);
    let shard = stage.shard("platforms");
    assert_eq!(shard["status"]["images"][0]["sparse"], true, "{shard:#}");
}

/// Takes up to a minute, in which other tests may have the cluster.
#[test]
#[ignore = "needs a cluster"]
fn a_schedule_brings_in_a_tag_that_was_pushed_after_the_first_pass() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&source, "team/app", &["1"]);
    let repository = copy_of(&source, "team/app", "select: {all: true}");
    let mirror = stage.mirror("schedule", r#"schedule: "* * * * *""#, &[repository]);
    let first = stage.wait_for("schedule", "ready", is_ready);
    let next = first["status"]["nextSync"].as_str().unwrap();
    assert!(next.ends_with(":00Z"), "a whole minute: {next}");
    fill(&source, "team/app", &["2"]);
    let mirror = mirror.leave();
    drop(cluster);
    until("the schedule fires", Duration::from_secs(90), || {
        let requests = source.requests();
        let copied = |r: &e2e::cluster::OutsideRequest| r.path.ends_with("/manifests/2");
        requests.iter().any(copied).then_some(())
    });
    let cluster = Cluster::connect();
    let stage = Stage::set(&cluster, cluster.own().unwrap());
    let _mirror = stage.take_over(mirror);
    let second = stage.wait_for("schedule", "two images", |mirror| {
        is_ready(mirror) && mirror["status"]["mirrored"] == 2
    });
    assert_ne!(second["status"]["nextSync"], first["status"]["nextSync"]);
    assert_eq!(stage.tags(&source, "team/app"), ["1", "2"]);
}

#[test]
#[ignore = "needs a cluster"]
fn a_suspended_mirror_sends_no_request_until_it_is_resumed() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let kind = RegistryProgram::DockerRegistry;
    let sources = [(); 2].map(|()| OutsideRegistry::start(kind, own));
    let [source, beside] = &sources;
    for source in &sources {
        fill(source, "team/app", &["1"]);
    }
    let all = |source| copy_of(source, "team/app", "select: {all: true}");
    let _mirror = stage.mirror("suspend", "interval: 1s", &[all(source)]);
    let _beside = stage.mirror("beside", "interval: 1s", &[all(beside)]);
    stage.wait_for_public_images("suspend", 1);
    stage.suspend("suspend", true);
    let suspended = stage.wait_for("suspend", "suspended", |mirror| {
        let seen = &mirror["status"]["observedGeneration"];
        *seen == mirror["metadata"]["generation"] && has_condition(mirror, "Progressing", "False")
    });
    let status = &suspended["status"];
    for kind in ["Progressing", "Ready"] {
        let condition = stage::condition(&suspended, kind);
        assert_eq!(condition["reason"], "Suspended", "{suspended:#}");
    }
    assert_eq!(status["mirrored"], 1, "what is there stays: {status:#}");
    assert_eq!(
        status["repositories"][0]["visibility"], "Public",
        "{status:#}"
    );
    let before = source.requests().len();
    fill(source, "team/app", &["2"]);
    let passes = || tags_of(&beside.requests());
    let begin = passes();
    until("four passes beside", stage::PATIENCE, || {
        (passes() >= begin + 4).then_some(())
    });
    assert_eq!(source.requests().len(), before, "while suspended");
    stage.suspend("suspend", false);
    stage.wait_for("suspend", "two images", |mirror| {
        is_ready(mirror) && mirror["status"]["mirrored"] == 2
    });
}
