//! Which images are rewritten, and what is recorded about them.

use serde_json::{Value, json};

use super::{inside, mutated, pod};
use crate::fixture::{NGINX, PINNED};

#[test]
fn an_image_is_rewritten_to_where_it_was_mirrored() {
    let by_digest = format!("nginx@{NGINX}");
    let tag_and_digest = format!("nginx:1@{NGINX}");
    let pinned = format!("quay.io/team/tool@{PINNED}");
    let other_digest = format!("quay.io/team/tool@{NGINX}");
    for (inject, image, expected) in [
        ("registry", "nginx:1", inside("docker.io/library/nginx:1")),
        (
            "registry",
            "docker.io/nginx:1",
            inside("docker.io/library/nginx:1"),
        ),
        (
            "registry",
            "index.docker.io/library/nginx:1",
            inside("docker.io/library/nginx:1"),
        ),
        (
            "registry",
            "quay.io/team/app:v1",
            inside("quay.io/team/app:v1"),
        ),
        (
            "registry=digest",
            "nginx:1",
            inside(&format!("docker.io/library/nginx@{NGINX}")),
        ),
        (
            "registry",
            &by_digest,
            inside(&format!("docker.io/library/{by_digest}")),
        ),
        (
            "registry=digest",
            &by_digest,
            inside(&format!("docker.io/library/{by_digest}")),
        ),
        (
            "registry",
            &tag_and_digest,
            inside(&format!("docker.io/library/{by_digest}")),
        ),
        ("registry", &pinned, inside(&pinned)),
        ("registry", "nginx", "nginx".to_owned()),
        ("registry", "nginx:2", "nginx:2".to_owned()),
        (
            "registry",
            "quay.io/team/tool:1",
            "quay.io/team/tool:1".to_owned(),
        ),
        ("registry", &other_digest, other_digest.clone()),
        ("registry", "Not a reference", "Not a reference".to_owned()),
        (
            "registry",
            &inside("docker.io/library/nginx:1"),
            inside("docker.io/library/nginx:1"),
        ),
    ] {
        let (after, _) = mutated(&pod(inject, &[image]));
        assert_eq!(
            after["spec"]["containers"][0]["image"], expected,
            "{inject} {image}"
        );
        let is_changed = image != expected;
        let mark = &after["metadata"]["annotations"]["image.stvz.io/injected"];
        assert_eq!(mark == "true", is_changed, "{image}");
    }
}

#[test]
fn every_kind_of_container_is_changed_and_noted() {
    let before = json!({
        "metadata": {"annotations": {"image.stvz.io/inject": "pull-policy,registry"}},
        "spec": {
            "unknownField": {"kept": [1, null]},
            "initContainers": [
                {"name": "i", "image": "nginx:1"},
                {"name": "s", "image": "nginx:1", "restartPolicy": "Always", "imagePullPolicy": "IfNotPresent"},
            ],
            "containers": [{"name": "a", "image": "quay.io/team/app:v1", "imagePullPolicy": "Always"}, {"name": "b"}],
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "v", "image": {"reference": "nginx:1", "pullPolicy": "Always"}},
            ],
        },
    });
    let (after, decision) = mutated(&before);
    let nginx = inside("docker.io/library/nginx:1");
    assert_eq!(
        after["spec"],
        json!({
            "unknownField": {"kept": [1, null]},
            "initContainers": [
                {"name": "i", "image": nginx, "imagePullPolicy": "IfNotPresent"},
                {"name": "s", "image": nginx, "restartPolicy": "Always", "imagePullPolicy": "IfNotPresent"},
            ],
            "containers": [{"name": "a", "image": inside("quay.io/team/app:v1"), "imagePullPolicy": "IfNotPresent"}, {"name": "b"}],
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "v", "image": {"reference": nginx, "pullPolicy": "IfNotPresent"}},
            ],
        })
    );
    let noted = after["metadata"]["annotations"]["image.stvz.io/original"]
        .as_str()
        .unwrap();
    let noted: Value = serde_json::from_str(noted).unwrap();
    assert_eq!(
        noted,
        json!({
            "containers": {"a": "quay.io/team/app:v1"},
            "initContainers": {"i": "nginx:1", "s": "nginx:1"},
            "volumes": {"v": "nginx:1"},
        })
    );
    // Four images, three pull policies, two annotations, and nothing more.
    assert_eq!(decision.patch.len(), 9, "{:?}", decision.patch);
    assert_eq!(decision.warnings, [""; 0]);
}

#[test]
fn inclusion_and_exclusion_go_by_the_names_of_containers_and_volumes() {
    for (key, list, expected) in [
        ("include", "c0, v", [true, false, true]),
        ("included", "c1", [false, true, false]),
        ("exclude", " c0 ,", [false, true, true]),
        ("excluded", "c0,c1,v", [false, false, false]),
    ] {
        let mut pod = pod("registry", &["nginx:1", "nginx:1"]);
        pod["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "nginx:1"}}]);
        pod["metadata"]["annotations"][format!("image.stvz.io/{key}")] = json!(list);
        let (after, _) = mutated(&pod);
        let spec = &after["spec"];
        let images = [
            &spec["containers"][0]["image"],
            &spec["containers"][1]["image"],
            &spec["volumes"][0]["image"]["reference"],
        ];
        let changed = images.map(|image| image != "nginx:1");
        assert_eq!(changed, expected, "{key}: {list}");
    }
}

#[test]
fn a_forged_annotation_changes_nothing() {
    let forged = json!({"containers": {"c0": "docker.io/library/nginx:1", "x": "evil/x"}});
    let forge = |pod: &mut Value| {
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["image.stvz.io/original"] = json!(forged.to_string());
        annotations["image.stvz.io/injected"] = json!("true");
    };
    for images in [
        ["nginx:1"],
        ["evil.example/x:1"],
        ["reg.coral-system.svc:5000/evil/x:1"],
    ] {
        let honest = pod("registry,pull-policy,selectors", &images);
        let mut lying = honest.clone();
        forge(&mut lying);
        let (honest, lying) = (mutated(&honest).0, mutated(&lying).0);
        assert_eq!(honest["spec"], lying["spec"], "{images:?}");
    }
    // The rewritten image is recorded correctly, and the forged entry is gone.
    let mut lying = pod("registry", &["quay.io/team/app:v1"]);
    forge(&mut lying);
    let noted = &mutated(&lying).0["metadata"]["annotations"]["image.stvz.io/original"];
    assert_eq!(noted, r#"{"containers":{"c0":"quay.io/team/app:v1"}}"#);
}

#[test]
fn a_container_that_came_between_two_reviews_is_added_to_the_note() {
    let (mut after, _) = mutated(&pod("registry", &["nginx:1"]));
    let sidecar = json!({"name": "sidecar", "image": "quay.io/team/app:v1"});
    after["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(sidecar);
    let (twice, _) = mutated(&after);
    let noted = &twice["metadata"]["annotations"]["image.stvz.io/original"];
    assert_eq!(
        noted,
        r#"{"containers":{"c0":"nginx:1","sidecar":"quay.io/team/app:v1"}}"#
    );
}
