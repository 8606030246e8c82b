//! What annotations ask for, and what a policy allows.

use e2e::cluster::{Cluster, Namespace, PATIENCE, REGISTRY, has_condition};
use e2e::{image::GREETING, until};
use serde_json::{Value, json};

use crate::private::Private;
use crate::stage::{Applied, Stage, image_of, inside, label_of, pod};

const INJECT: &str = "image.stvz.io/inject";
const ORIGINAL: &str = "image.stvz.io/original";

/// A pod with annotations.
fn annotated(name: &str, image: &str, annotations: Value) -> Value {
    let mut pod = pod(name, image);
    pod["metadata"]["annotations"] = annotations;
    pod
}

/// A pod with an init container and an image volume, whose container shows the volume.
fn whole_pod(stage: &Stage<'_>, name: &str, annotations: Value) -> Value {
    let mut pod = annotated(name, &stage.app(), annotations);
    let wait = json!([
        "/bin/sh",
        "-c",
        "cat /inside/greeting && /bin/busybox sleep 3600"
    ]);
    pod["spec"]["containers"][0]["command"] = wait;
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "inside", "mountPath": "/inside"}]);
    let init = json!({"name": "first", "image": stage.plain("web"), "command": ["/bin/echo"]});
    pod["spec"]["initContainers"] = json!([init]);
    let volume = json!({"name": "inside", "image": {"reference": stage.daemon()}});
    pod["spec"]["volumes"] = json!([volume]);
    pod
}

/// The images of [`whole_pod`], the volume's last.
fn images(pod: &Value) -> [&str; 3] {
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    [
        text("/spec/containers/0/image"),
        text("/spec/initContainers/0/image"),
        text("/spec/volumes/0/image/reference"),
    ]
}

#[test]
#[ignore = "needs a cluster"]
fn containers_init_containers_and_image_volumes_are_rewritten_and_start() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("own");
    let outside = [stage.app(), stage.plain("web"), stage.daemon()];
    let inside = outside.each_ref().map(|image| inside(image));
    let whole = whole_pod(&stage, "whole", json!({INJECT: "registry"}));
    namespace.apply(&whole.to_string());
    let started = cluster.wait_for_pod(namespace.name(), "whole");
    assert_eq!(images(&started), inside);
    let log = ["-n", namespace.name(), "logs", "whole"];
    assert_eq!(cluster.kubectl(&log).succeeded().text(), GREETING);
    let pinned = whole_pod(&stage, "pinned", json!({INJECT: "registry=digest"}));
    for (image, inside) in images(&stage.dry_run(&namespace, &pinned).object)
        .iter()
        .zip(&inside)
    {
        let repository = inside.rsplit_once(':').unwrap().0;
        assert!(
            image.starts_with(&format!("{repository}@sha256:")),
            "{image}"
        );
    }
    let plain = whole_pod(&stage, "plain", json!({}));
    assert_eq!(images(&stage.dry_run(&namespace, &plain).object), outside);
}

#[test]
#[ignore = "needs a cluster"]
fn a_namespace_asks_for_its_pods_and_a_pod_for_itself() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("asks");
    let asks = format!("{INJECT}=registry");
    let _ = cluster
        .kubectl(&["annotate", "namespace", namespace.name(), &asks])
        .succeeded();
    let (image, inside) = (stage.app(), inside(&stage.app()));
    until("the namespace's annotation works", PATIENCE, || {
        let created = stage.dry_run(&namespace, &pod("inherits", &image));
        (image_of(&created.object) == inside).then_some(())
    });
    for (own, expected) in [
        ("none", &image),
        ("pull-policy", &image),
        ("registry", &inside),
    ] {
        let object = annotated("own", &image, json!({INJECT: own}));
        let created = stage.dry_run(&namespace, &object);
        assert_eq!(image_of(&created.object), expected, "{own}");
    }
}

#[test]
#[ignore = "needs a cluster"]
fn only_what_is_mirrored_public_and_meant_for_the_namespace_is_rewritten() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let tenant = stage.tenant("tenant");
    let other = cluster.namespace("other");
    let image_in = |namespace: &Namespace<'_>, image: &str| {
        let object = annotated("p", image, json!({INJECT: "registry"}));
        image_of(&stage.dry_run(namespace, &object).object).to_owned()
    };
    let (app, absent) = (stage.app(), stage.plain("absent"));
    assert_eq!(image_in(&tenant, &app), inside(&app));
    assert_eq!(image_in(&tenant, &absent), absent, "no mirror holds it");
    assert_eq!(
        image_in(&other, &app),
        app,
        "allowFrom does not select the namespace"
    );
    let policy = policy_of(
        "takes-in",
        &other,
        &json!({
            "mirrors": [{"namespace": "coral-system", "name": "outside"}],
        }),
    );
    let policy = Applied::new(&cluster, "", "injectionpolicy", &policy);
    until("the policy takes the namespace in", PATIENCE, || {
        (image_in(&other, &app) == inside(&app)).then_some(())
    });
    drop(policy);
    until("the namespace is left out again", PATIENCE, || {
        (image_in(&other, &app) == app).then_some(())
    });
}

#[test]
#[ignore = "needs a cluster"]
fn a_repository_that_is_not_public_is_mirrored_and_not_rewritten_to() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("private");
    let outside = Private::start(&stage);
    let [_secret, _mirror] = outside.bring_inside(&cluster);
    cluster.wait_for_ready("coral-system", "registrymirror", "private");
    let mirror = ["-n", "coral-system", "registrymirror", "private"];
    cluster.wait_until("the repository is private", &mirror, PATIENCE, |mirror| {
        mirror["status"]["repositories"][0]["visibility"] == "Private"
    });
    // The lock judges the pod as the webhook leaves it, and names the image that it sees.
    let object = annotated("p", &outside.image(), json!({INJECT: "registry"}));
    let refused = stage.create(&namespace, &object, &["--dry-run=server"]);
    let told = format!("image {} is not from a registry", outside.image());
    let _ = refused.exited(1).saying(&told);
}

/// A policy for one namespace.
fn policy_of(name: &str, namespace: &Namespace<'_>, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let labels = json!({"kubernetes.io/metadata.name": namespace.name()});
    spec["namespaceSelector"] = json!({"matchLabels": labels});
    json!({
        "apiVersion": "stvz.io/v1", "kind": "InjectionPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}

#[test]
#[ignore = "needs a cluster"]
fn a_policy_switches_features_off_and_the_author_of_the_pod_is_told() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("off");
    let (app, all) = (
        stage.app(),
        json!({INJECT: "registry,pull-policy,selectors=preferred"}),
    );
    let object = annotated("p", &app, all);
    let before = stage.dry_run(&namespace, &object);
    assert_eq!(before.warnings, "");
    let spec = json!({"registry": "Off", "pullPolicy": "Allow", "selectors": "Off"});
    let policy = policy_of("switches-off", &namespace, &spec);
    let _policy = Applied::new(&cluster, "", "injectionpolicy", &policy);
    let created = until("the policy in force", PATIENCE, || {
        let created = stage.dry_run(&namespace, &object);
        (image_of(&created.object) == app).then_some(created)
    });
    for feature in ["registry", "selectors"] {
        let told = format!(
            "Warning: {INJECT}: {feature} has no effect: InjectionPolicy \"switches-off\" sets it to Off"
        );
        assert!(created.warnings.contains(&told), "{}", created.warnings);
    }
    assert!(created.object["spec"]["affinity"].is_null());
    let policy = &created.object["spec"]["containers"][0]["imagePullPolicy"];
    assert_eq!(policy, "IfNotPresent", "what is allowed is done");
    assert!(
        !created.warnings.contains("pull-policy"),
        "{}",
        created.warnings
    );
}

#[test]
#[ignore = "needs a cluster"]
fn a_pod_that_wishes_for_selectors_starts_on_the_node_that_has_its_image() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("select");
    let image = stage.plain("placed");
    namespace.apply(&Stage::placed("placed", &image, Some("node2")).to_string());
    let label = label_of(&image);
    let node = ["node", "node2"];
    cluster.wait_until("the image on node2", &node, PATIENCE, |node| {
        node["metadata"]["labels"][&label] == "available"
    });
    // Three would hardly all be there by chance.
    for number in 1..=3 {
        let name = format!("p{number}");
        let wishes = json!({INJECT: "selectors,pull-policy=Never"});
        namespace.apply(&annotated(&name, &image, wishes).to_string());
        let started = cluster.wait_for_pod(namespace.name(), &name);
        assert_eq!(started["spec"]["nodeSelector"][&label], "available");
        assert_eq!(started["spec"]["nodeName"], "node2");
        assert_eq!(image_of(&started), image);
    }
    let preferred = annotated("p", &image, json!({INJECT: "selectors=preferred"}));
    let preferred = stage.dry_run(&namespace, &preferred).object;
    assert!(preferred["spec"]["nodeSelector"].is_null());
    let affinity = preferred["spec"]["affinity"]["nodeAffinity"].to_string();
    assert!(affinity.contains(&label), "{affinity}");
    // Rewritten, the pod asks for the image under its name in the Registry, which no node has.
    let both = annotated("p", &image, json!({INJECT: "registry,selectors"}));
    let both = stage.dry_run(&namespace, &both);
    let label = label_of(&inside(&image));
    assert_eq!(both.object["spec"]["nodeSelector"][&label], "available");
    let told = format!("no node is yet known to have {}", inside(&image));
    assert!(both.warnings.contains(&told), "{}", both.warnings);
}

#[test]
#[ignore = "needs a cluster"]
fn pull_policies_are_set_on_the_containers_that_are_meant() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("meant");
    for (key, names, wish, expected) in [
        (
            "include",
            "inside",
            "pull-policy",
            ["Always", "Always", "IfNotPresent"],
        ),
        (
            "exclude",
            "main, first",
            "pull-policy",
            ["Always", "Always", "IfNotPresent"],
        ),
        (
            "included",
            "main,first",
            "pull-policy=Never",
            ["Never", "Never", "Always"],
        ),
        (
            "excluded",
            "first",
            "pull-policy=Never",
            ["Never", "Always", "Never"],
        ),
    ] {
        let key = format!("image.stvz.io/{key}");
        let wishes = json!({INJECT: format!("registry,{wish}"), key: names});
        let mut object = whole_pod(&stage, "p", wishes);
        for place in ["/spec/containers/0", "/spec/initContainers/0"] {
            object.pointer_mut(place).unwrap()["imagePullPolicy"] = json!("Always");
        }
        object["spec"]["volumes"][0]["image"]["pullPolicy"] = json!("Always");
        let created = stage.dry_run(&namespace, &object);
        assert_eq!(created.warnings, "", "{names}");
        let spec = &created.object["spec"];
        let seen = [
            &spec["containers"][0]["imagePullPolicy"],
            &spec["initContainers"][0]["imagePullPolicy"],
            &spec["volumes"][0]["image"]["pullPolicy"],
        ];
        assert_eq!(seen, expected, "{names}");
        for (image, policy) in images(&created.object).iter().zip(expected) {
            let is_inside = image.starts_with(REGISTRY);
            assert_eq!(is_inside, policy != "Always", "{names}: {image}");
        }
    }
}

#[test]
#[ignore = "needs a cluster"]
fn a_forged_original_image_changes_nothing() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("forged");
    let (app, other) = (stage.app(), stage.plain("web"));
    let forged = json!({"containers": {"main": other}}).to_string();
    let marks = |more: Value| {
        let mut marks = json!({"image.stvz.io/injected": "true", ORIGINAL: forged});
        marks
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        marks
    };
    let asks = annotated("p", &app, marks(json!({INJECT: "registry"})));
    let created = stage.dry_run(&namespace, &asks).object;
    assert_eq!(image_of(&created), inside(&app));
    let truth = &created["metadata"]["annotations"][ORIGINAL];
    let truth: Value = serde_json::from_str(truth.as_str().unwrap()).unwrap();
    assert_eq!(truth, json!({"containers": {"main": app}}));
    let inner = annotated("p", &inside(&app), marks(json!({INJECT: "registry"})));
    let created = stage.dry_run(&namespace, &inner).object;
    assert_eq!(
        image_of(&created),
        inside(&app),
        "nothing is rewritten back"
    );
    let asks_nothing = annotated("p", &app, marks(json!({})));
    assert_eq!(
        image_of(&stage.dry_run(&namespace, &asks_nothing).object),
        app
    );
}

#[test]
#[ignore = "needs a cluster"]
fn unknown_words_and_spaces_in_annotations_are_warned_of() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let namespace = stage.tenant("words");
    let include = "image.stvz.io/include";
    for (annotations, told) in [
        (
            json!({INJECT: "registry,pullpolicy"}),
            r#"image.stvz.io/inject: "pullpolicy" has no effect: expected pull-policy, selectors"#,
        ),
        (
            json!({INJECT: "pull-policy registry"}),
            r#""pull-policy registry" has no effect: expected words separated by commas, not by"#,
        ),
        (
            json!({INJECT: "registry=tag"}),
            r#""registry=tag" has no effect: expected registry or registry=digest"#,
        ),
        (
            json!({INJECT: "registry", include: "main side"}),
            r#"image.stvz.io/include: the pod has no container or image volume "main side": separate"#,
        ),
    ] {
        let object = annotated("p", &stage.app(), annotations);
        let created = stage.dry_run(&namespace, &object);
        let line = created.warnings.lines().find(|line| line.contains(told));
        let line = line.unwrap_or_else(|| panic!("{told}: {}", created.warnings));
        assert!(line.starts_with("Warning: "), "{line}");
    }
}

#[test]
#[ignore = "needs a cluster"]
fn of_two_policies_with_a_lock_the_other_one_says_so() {
    let cluster = Cluster::connect();
    let Some(stage) = Stage::set(&cluster) else {
        return;
    };
    let lock = json!({"mode": "Mirrored", "registries": ["quay.io"]});
    let second = json!({
        "apiVersion": "stvz.io/v1", "kind": "InjectionPolicy",
        "metadata": {"name": "second"}, "spec": {"lock": lock},
    });
    let _second = Applied::new(&cluster, "", "injectionpolicy", &second);
    let seen = ["injectionpolicy", "second"];
    let seen = cluster.wait_until("the second says so", &seen, PATIENCE, |policy| {
        has_condition(policy, "Ready", "False")
    });
    let conditions = seen["status"]["conditions"].as_array().unwrap();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["reason"], "OtherLock");
    let message = ready["message"].as_str().unwrap();
    assert!(
        message.contains("InjectionPolicy \"cluster\" is in effect"),
        "{message}"
    );
    // The lock of the first policy is still in effect.
    let namespace = stage.tenant("locked");
    let foreign = stage.create(&namespace, &pod("p", "quay.io/x:1"), &["--dry-run=server"]);
    let _ = foreign
        .exited(1)
        .saying("that InjectionPolicy \"cluster\" allows");
}
