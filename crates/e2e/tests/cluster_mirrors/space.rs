//! What a Registry stores, and what happens to pushes and mirrors when it is full.

use e2e::cluster::{Cluster, OutsideRegistry, is_ready};
use e2e::{Layout, RegistryProgram, scratch};
use serde_json::{Value, json};

use crate::stage::{NAMESPACE, Stage, condition, copy_of, fill, is_degraded, path_inside};

/// Waits until a Registry says this of its space, of its spec as it is now.
fn wait_for_space(stage: &Stage<'_>, status: &str, reason: &str) -> Value {
    let what = format!("StorageAvailable {status} {reason}");
    stage.wait_for_registry(&what, |registry| {
        let said = condition(registry, "StorageAvailable");
        said["status"] == status
            && said["reason"] == reason
            && said["observedGeneration"] == registry["metadata"]["generation"]
    })
}

/// A column of `kubectl get registries` for a Registry.
fn column(cluster: &Cluster, registry: &str, header: &str) -> String {
    let table = cluster.kubectl(&["-n", NAMESPACE, "get", "registry", registry]);
    let table = table.succeeded().stdout;
    let mut lines = table.lines();
    // Columns are apart by three spaces; what is empty leaves none between them.
    let at = lines.next().unwrap().find(header).expect(header);
    let value = lines.next().unwrap().get(at..).unwrap_or_default();
    value.split("   ").next().unwrap().to_owned()
}

/// Two mebibytes that no compression makes smaller.
fn large_layer() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    (0..2 << 20).map(|_| next()).collect()
}

#[test]
#[ignore = "needs a cluster"]
fn a_registry_at_its_limit_refuses_pushes_and_mirrors_wait_until_it_is_raised() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own).another("small");
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    let folder = scratch();
    let layout = Layout::open(folder.path().join("layout"));
    layout.tag("1", &layout.add_image("amd64", &large_layer()));
    source.push(&layout, "1", "team/first:1");
    let first = copy_of(&source, "team/first", r#"tags: ["1"]"#);
    let _first = stage.mirror("small-first", "interval: 1h", &[first]);
    stage.wait_for("small-first", "ready", is_ready);
    stage.wait_for_registry("what is stored", |registry| {
        let stored = registry["status"]["storage"]["stored"].as_str();
        stored.is_some_and(|stored| stored != "0")
    });
    wait_for_space(&stage, "True", "Available");
    for header in ["STORED", "FREE"] {
        let value = column(&cluster, "small", header);
        let begins = value.chars().next().unwrap_or_default();
        assert!(begins.is_ascii_digit(), "{header}: {value:?}");
    }

    stage.push_blob("team/private", "of no mirror");
    assert_eq!(
        stage.get_anonymously("/v2/team/private/tags/list").status,
        401
    );
    let named = stage.wait_for_registry("both repositories by size", |registry| {
        registry["status"]["storage"]["repositories"] == 2
    });
    let largest = named["status"]["storage"]["largest"].clone();
    let copied = path_inside(&source, "team/first");
    assert_eq!(largest[0]["name"], copied.as_str(), "{largest:#}");
    let stored = largest[0]["stored"].as_str().unwrap();
    assert!(
        stored.starts_with("20") && stored.ends_with("Ki"),
        "{largest:#}"
    );
    let private = json!({"name": "team/private", "stored": "12"});
    assert_eq!(largest[1], private, "{largest:#}");

    stage.patch(r#"{"storage": {"limit": "1Mi"}}"#);
    let full = wait_for_space(&stage, "False", "StorageFull");
    assert!(is_degraded(&full, "StorageFull"), "{full:#}");
    assert_eq!(full["status"]["storage"]["free"], "0", "{full:#}");
    assert_eq!(stage.begin_upload("team/pushed", true), 507);
    fill(&source, "team/second", &["1"]);
    let second = copy_of(&source, "team/second", r#"tags: ["1"]"#);
    let _second = stage.mirror("small-second", "interval: 1h", &[second]);
    let waiting = stage.wait_for("small-second", "waiting for space", |mirror| {
        condition(mirror, "Ready")["reason"] == "WaitingForRoom"
    });
    assert_eq!(waiting["status"]["waiting"], 1, "{waiting:#}");
    assert_eq!(waiting["status"]["failed"], 0, "{waiting:#}");

    stage.patch(r#"{"storage": {"limit": "1Gi"}}"#);
    let again = wait_for_space(&stage, "True", "Available");
    assert!(!is_degraded(&again, "StorageFull"), "{again:#}");
    let ready = stage.wait_for("small-second", "ready", is_ready);
    assert_eq!(ready["status"]["mirrored"], 1, "{ready:#}");
    let delete = ["-n", NAMESPACE, "delete", "registry", "small"];
    let _ = cluster.kubectl(&delete).succeeded();
}
