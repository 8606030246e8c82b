//! Coral is installed by one apply, each part may do what it needs and nothing else, and nothing of
//! it is left after `coral uninstall` and `kubectl delete -k deploy/`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster_deploy/uninstall.rs"]
mod uninstall;

use std::fs;

use e2e::cluster::{Cluster, Namespace, PATIENCE, is_ready, names_of};
use e2e::{Finished, run, scratch, until};
use serde_json::Value;

const CONTROLLER: &str = "system:serviceaccount:coral-system:coral-controller";
const AGENT: &str = "system:serviceaccount:coral-nodes:coral-agent";
const WEBHOOK: &str = "system:serviceaccount:coral-system:coral-webhook";

/// Whether an account may do something, as RBAC sees it.
fn may(cluster: &Cluster, account: &str, question: &[&str]) -> bool {
    let asked = [&["auth", "can-i", "--as", account], question].concat();
    let answer = cluster.kubectl(&asked);
    match answer.text() {
        "yes" => true,
        "no" => false,
        _ => panic!("no answer: {answer}"),
    }
}

/// kubectl with a token instead of the administrator's certificate.
fn with_token(cluster: &Cluster, token: &str, arguments: &[&str]) -> Finished {
    let view = ["config", "view", "--raw", "--minify", "-o", "json"];
    let config = cluster.kubectl(&view).succeeded();
    let mut config: Value = serde_json::from_str(&config.stdout).unwrap();
    config["users"][0]["user"] = serde_json::json!({"token": token});
    let folder = scratch();
    let file = folder.path().join("kubeconfig");
    fs::write(&file, config.to_string()).unwrap();
    let mut kubectl = std::process::Command::new("kubectl");
    run(kubectl.env("KUBECONFIG", &file).args(arguments))
}

/// A token of the agent that runs on a node, bound to its pod as the projected one is.
fn agent_token(cluster: &Cluster, node: &str) -> String {
    let on_node = format!("spec.nodeName={node}");
    let pods = ["-n", "coral-nodes", "pods", "--field-selector", &on_node];
    let pods = cluster.get(&pods).unwrap();
    let pod = names_of(&pods).into_iter().next().unwrap();
    let bound = ["--bound-object-kind", "Pod", "--bound-object-name", &pod];
    let create = ["-n", "coral-nodes", "create", "token", "coral-agent"];
    let token = cluster.kubectl(&[&create[..], &bound].concat()).succeeded();
    token.text().to_owned()
}

#[test]
#[ignore = "needs a cluster"]
fn one_apply_installs_everything_and_a_second_one_changes_nothing() {
    let cluster = Cluster::connect();
    cluster.install();
    let secret = ["-n", "coral-system", "secret", "coral-ca"];
    cluster.wait_until("the CA", &secret, PATIENCE, |_| true);
    let webhook = ["mutatingwebhookconfiguration", "coral"];
    let has_bundle = |found: &Value| found["webhooks"][0]["clientConfig"]["caBundle"].is_string();
    cluster.wait_until("the webhook's CA bundle", &webhook, PATIENCE, has_bundle);
    cluster.apply_deploy();
    let found = cluster.get(&webhook).unwrap();
    assert!(has_bundle(&found), "a second apply took the CA bundle away");
    cluster.wait_until_installed();
}

#[test]
#[ignore = "needs a cluster"]
fn no_part_may_do_what_it_does_not_need() {
    let cluster = Cluster::connect();
    cluster.apply_deploy();
    let every = ["--all-namespaces"];
    for account in [AGENT, WEBHOOK, CONTROLLER] {
        for verb in ["get", "list", "watch"] {
            let question = [&[verb, "secrets"][..], &every].concat();
            assert!(
                !may(&cluster, account, &question),
                "{account} {verb} secrets"
            );
        }
        for question in [
            ["create", "pods"],
            ["delete", "nodes"],
            ["create", "clusterrolebindings"],
            ["delete", "namespaces"],
        ] {
            let question = [&question[..], &every].concat();
            assert!(!may(&cluster, account, &question), "{account} {question:?}");
        }
    }
    for account in [AGENT, WEBHOOK] {
        for resource in ["nodes", "nodes/status", "nodeimages.stvz.io", "pods"] {
            let question = ["patch", resource, "--all-namespaces"];
            assert!(!may(&cluster, account, &question), "{account} {question:?}");
        }
    }
    let lock = "validatingadmissionpolicies.admissionregistration.k8s.io";
    let named = |name: &str| format!("{lock}/{name}");
    // The API server applies roles a moment after it has stored them.
    until("the controller may delete its policy", PATIENCE, || {
        may(&cluster, CONTROLLER, &["delete", &named("coral-lock")]).then_some(())
    });
    for other in ["coral-controller-nodes", "coral-agent-node-images", "other"] {
        assert!(
            !may(&cluster, CONTROLLER, &["delete", &named(other)]),
            "{other}"
        );
    }
    // The key that signs credentials of builds is the controller's alone.
    let key = ["get", "secrets/coral-tokens", "-n", "coral-system"];
    let reviews = ["create", "tokenreviews.authentication.k8s.io"];
    for question in [&key[..], &reviews[..]] {
        assert!(may(&cluster, CONTROLLER, question), "{question:?}");
        for account in [AGENT, WEBHOOK] {
            assert!(!may(&cluster, account, question), "{account} {question:?}");
        }
    }
    let agents_pods = ["watch", "pods", "-n", "coral-nodes"];
    assert!(may(&cluster, CONTROLLER, &agents_pods));
    assert!(!may(
        &cluster,
        CONTROLLER,
        &["watch", "pods", "-n", "default"]
    ));
    assert!(!may(
        &cluster,
        CONTROLLER,
        &["delete", "pods", "-n", "coral-nodes"]
    ));
    let classes = "storageclasses.storage.k8s.io";
    assert!(may(&cluster, CONTROLLER, &["list", classes]));
    for verb in ["watch", "create", "patch", "delete"] {
        assert!(!may(&cluster, CONTROLLER, &[verb, classes]), "{verb}");
    }
    let foreign = "mutatingwebhookconfigurations.admissionregistration.k8s.io/other";
    assert!(!may(&cluster, CONTROLLER, &["patch", foreign]));
    let status = ["patch", "nodeimages.stvz.io", "--subresource=status"];
    assert!(
        !may(&cluster, CONTROLLER, &status),
        "the status is the agents'"
    );
}

#[test]
#[ignore = "needs a cluster of two nodes"]
fn an_agent_reports_for_its_own_node_only_and_reads_no_secret() {
    let cluster = Cluster::connect();
    cluster.install();
    let nodes = cluster.nodes();
    let [own, other, ..] = nodes.as_slice() else {
        panic!("this test needs two nodes: {nodes:?}");
    };
    for node in [own, other] {
        let set = ["nodeimages", node];
        cluster.wait_until("NodeImages of a node", &set, PATIENCE, |_| true);
    }
    let token = agent_token(&cluster, own);
    let report = |node: &str, subresource: &[&str]| {
        let patch = ["patch", "nodeimages", node, "--type=merge", "-p"];
        let status = r#"{"status":{"message":"a test"},"spec":{"pins":["a/b:1"]}}"#;
        let arguments = [&patch[..], &[status], subresource].concat();
        with_token(&cluster, &token, &arguments)
    };
    let status = ["--subresource=status"];
    let foreign = report(other, &status);
    assert_ne!(foreign.code, 0, "{foreign}");
    assert!(
        foreign.stderr.contains("of the node that its pod runs on"),
        "{foreign}"
    );
    let spec = report(own, &[]);
    assert_ne!(spec.code, 0, "{spec}");
    let _ = report(own, &status).succeeded();
    let set = cluster.get(&["nodeimages", own]).unwrap();
    let pins = set["spec"]["pins"].as_array().cloned().unwrap_or_default();
    assert!(!pins.contains(&Value::from("a/b:1")), "{set:#}");
    let secrets = with_token(&cluster, &token, &["get", "secrets", "-n", "coral-system"]);
    assert!(secrets.stderr.contains("Forbidden"), "{secrets}");
    let unbound = ["-n", "coral-nodes", "create", "token", "coral-agent"];
    let unbound = cluster.kubectl(&unbound).succeeded();
    let patch = [
        "patch",
        "nodeimages",
        own,
        "--type=merge",
        "--subresource=status",
        "-p",
    ];
    let patch = [&patch[..], &[r#"{"status":{"message":"x"}}"#]].concat();
    let refused = with_token(&cluster, unbound.text(), &patch);
    assert_ne!(refused.code, 0, "a token without a node: {refused}");
}

#[test]
#[ignore = "needs a cluster"]
fn the_controller_changes_of_a_node_only_what_is_corals() {
    let cluster = Cluster::connect();
    cluster.apply_deploy();
    let node = cluster.nodes().remove(0);
    let token = ["-n", "coral-system", "create", "token", "coral-controller"];
    let token = cluster.kubectl(&token).succeeded();
    let patch = |kind: &str, patch: &str, flags: &[&str]| {
        let arguments = ["patch", "node", &node, "--type", kind, "-p", patch];
        with_token(&cluster, token.text(), &[&arguments[..], flags].concat())
    };
    let dry = ["--dry-run=server"];
    let on_status = ["--dry-run=server", "--subresource=status"];
    let own = r#"{"metadata":{"labels":{"image.stvz.io/x":"available"}}}"#;
    let foreign = r#"{"metadata":{"labels":{"team":"a"}}}"#;
    // The API server applies roles and policies a moment after it has stored them.
    until("role and policy in force", PATIENCE, || {
        let is_granted = patch("merge", own, &dry).code == 0;
        (is_granted && patch("merge", foreign, &dry).code != 0).then_some(())
    });
    for (kind, change, flags) in [
        ("merge", foreign, &dry[..]),
        (
            "merge",
            r#"{"metadata":{"labels":{"kubernetes.io/os":null}}}"#,
            &dry,
        ),
        ("merge", r#"{"metadata":{"annotations":{"a":"b"}}}"#, &dry),
        ("merge", r#"{"spec":{"unschedulable":true}}"#, &dry),
        (
            "merge",
            r#"{"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}"#,
            &dry,
        ),
        (
            "merge",
            r#"{"status":{"capacity":{"cpu":"1"}}}"#,
            &on_status,
        ),
        (
            "strategic",
            r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#,
            &on_status,
        ),
        ("merge", foreign, &on_status),
    ] {
        let refused = patch(kind, change, flags);
        assert_ne!(refused.code, 0, "{change}: {refused}");
        let by = if flags == on_status {
            r#"resource "nodes/status""#
        } else {
            "Coral's controller may"
        };
        assert!(refused.stderr.contains(by), "{refused}");
    }
}

#[test]
#[ignore = "needs a cluster"]
fn the_controller_changes_of_an_image_only_its_finalizers() {
    let cluster = Cluster::connect();
    cluster.apply_deploy();
    let namespace = cluster.namespace("finalizers");
    namespace.apply(
        "apiVersion: stvz.io/v1\nkind: Image\nmetadata:\n  name: old\n  finalizers: \
         [image.stvz.io/finalizer]\nspec:\n  repositories: [{name: \
         localhost/none, tags: [\"1\"]}]\n",
    );
    let token = ["-n", "coral-system", "create", "token", "coral-controller"];
    let token = cluster.kubectl(&token).succeeded();
    let patch = |patch: &str| {
        let image = ["-n", namespace.name(), "patch", "images.stvz.io", "old"];
        let flags = ["--type=merge", "--dry-run=server", "-p", patch];
        with_token(&cluster, token.text(), &[&image[..], &flags].concat())
    };
    let foreign = r#"{"metadata":{"labels":{"team":"a"}}}"#;
    // The API server applies roles and policies a moment after it has stored them.
    until("role and policy in force", PATIENCE, || {
        let is_granted = patch(r#"{"metadata":{"finalizers":null}}"#).code == 0;
        (is_granted && patch(foreign).code != 0).then_some(())
    });
    for change in [
        r#"{"spec":{"repositories":[{"name":"localhost/none","tags":["2"]}]}}"#,
        foreign,
        r#"{"metadata":{"finalizers":["image.stvz.io/finalizer","example.org/held"]}}"#,
    ] {
        let refused = patch(change);
        assert_ne!(refused.code, 0, "{change}: {refused}");
        let why = "may only remove finalizers from Images";
        assert!(refused.stderr.contains(why), "{refused}");
    }
    let image = ["-n", namespace.name(), "patch", "images.stvz.io", "old"];
    let release = r#"{"metadata":{"finalizers":null}}"#;
    let _ = cluster
        .kubectl(&[&image[..], &["--type=merge", "-p", release]].concat())
        .succeeded();
}

/// The fields that the policy lists are all that the API server knows: CEL cannot say "the rest".
#[test]
#[ignore = "needs a cluster"]
fn the_policy_for_nodes_names_every_field_that_the_api_server_has() {
    let cluster = Cluster::connect();
    cluster.apply_deploy();
    let policy = cluster.get(&["validatingadmissionpolicy", "coral-controller-nodes"]);
    let policy = policy.unwrap().to_string();
    let schema = cluster
        .kubectl(&["get", "--raw", "/openapi/v3/api/v1"])
        .succeeded();
    let schema: Value = serde_json::from_str(&schema.stdout).unwrap();
    let fields = |part: &str| -> Vec<String> {
        let kind = format!("io.k8s.api.core.v1.Node{part}");
        let fields = schema["components"]["schemas"][&kind]["properties"].as_object();
        fields.unwrap().keys().cloned().collect()
    };
    for (part, name) in [("Spec", "spec"), ("Status", "status")] {
        for field in fields(part) {
            let named = format!("object.{name}.?{field}");
            assert!(
                policy.contains(&named),
                "the policy does not name {name}.{field}"
            );
        }
    }
}

/// A user who is the administrator of one namespace.
fn tenant(cluster: &Cluster, namespace: &Namespace<'_>) -> &'static str {
    let binding = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: tenant, \
         namespace: {}}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: \
         admin}}\nsubjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: tenant}}]\n",
        namespace.name()
    );
    cluster.apply(&binding);
    "tenant"
}

#[test]
#[ignore = "needs a cluster"]
fn a_namespaces_administrator_writes_images_and_mirrors_but_no_route_policy_or_index() {
    let cluster = Cluster::connect();
    cluster.apply_deploy();
    let namespace = cluster.namespace("tenant");
    let tenant = tenant(&cluster, &namespace);
    let in_namespace = ["-n", namespace.name()];
    let may = |verb: &str, kind: &str| {
        let kind = format!("{kind}.stvz.io");
        may(
            &cluster,
            tenant,
            &[&[verb, &kind][..], &in_namespace].concat(),
        )
    };
    until("the roles are aggregated", PATIENCE, || {
        (may("create", "images") && may("list", "mirroredimages")).then_some(())
    });
    for kind in ["images", "registrymirrors", "registries"] {
        assert!(may("create", kind) && may("delete", kind), "{kind}");
    }
    for kind in [
        "mirroredimages",
        "nodeimages",
        "registryroutes",
        "injectionpolicies",
    ] {
        for verb in ["create", "update", "patch", "delete"] {
            assert!(!may(verb, kind), "{verb} {kind}");
        }
    }
    for status in ["images", "registrymirrors", "registries"] {
        let kind = format!("{status}.stvz.io");
        let question = [
            "patch",
            &kind,
            "--subresource=status",
            "-n",
            namespace.name(),
        ];
        assert!(!self::may(&cluster, tenant, &question), "{question:?}");
    }
}

#[test]
#[ignore = "needs a cluster"]
fn a_registry_without_the_grant_says_the_command_and_makes_nothing() {
    let cluster = Cluster::connect();
    cluster.install();
    let namespace = cluster.namespace("tenant");
    namespace.apply(
        "apiVersion: stvz.io/v1\nkind: Registry\nmetadata: {name: own}\nspec:\n  storage: \
         {emptyDir: {}}\n",
    );
    let registry = ["-n", namespace.name(), "registry.stvz.io", "own"];
    let command = format!("coral grant --registry {}", namespace.name());
    let said = |found: &Value| found["status"].to_string().contains(&command);
    cluster.wait_until("a condition with the command", &registry, PATIENCE, said);
    for kind in ["statefulsets", "services", "secrets"] {
        let list = cluster.get(&["-n", namespace.name(), kind]).unwrap();
        assert!(names_of(&list).is_empty(), "{list:#}");
    }
}

/// What `coral grant --registry` prints.
fn granted(namespace: &Namespace<'_>, names: &[&str]) -> String {
    let mut grant = e2e::coral();
    grant.args(["grant", "--registry", namespace.name()]);
    run(grant.args(names)).succeeded().stdout
}

/// Applies YAML as another user; the caller looks at the exit code.
fn apply_as(cluster: &Cluster, user: &str, yaml: &str) -> Finished {
    let folder = scratch();
    let file = folder.path().join("objects.yaml");
    fs::write(&file, yaml).unwrap();
    cluster.kubectl(&["--as", user, "apply", "-f", &file.to_string_lossy()])
}

/// The administrator of a namespace holds every right on workloads and Secrets there, and so could
/// pass them on. The verb `run` is what keeps the grant with administrators of the cluster.
#[test]
#[ignore = "needs a cluster"]
fn the_administrator_of_a_namespace_cannot_grant_registries() {
    let cluster = Cluster::connect();
    cluster.install();
    let namespace = cluster.namespace("forged");
    let tenant = tenant(&cluster, &namespace);
    until("the roles are aggregated", PATIENCE, || {
        let question = ["create", "registries.stvz.io", "-n", namespace.name()];
        may(&cluster, tenant, &question).then_some(())
    });
    for names in [&[][..], &["own"]] {
        let grant = granted(&namespace, names);
        let refused = apply_as(&cluster, tenant, &grant);
        assert_ne!(refused.code, 0, "{refused}");
        let why = "attempting to grant RBAC permissions not currently held";
        assert!(refused.stderr.contains(why), "{refused}");
        // Without the verb the tenant can write the Role, and the controller makes nothing of it.
        let forged = grant.replace("verbs: [run]", "verbs: [get]");
        let _ = apply_as(&cluster, tenant, &forged).succeeded();
    }
    namespace.apply(
        "apiVersion: stvz.io/v1\nkind: Registry\nmetadata: {name: own}\nspec:\n  storage: \
         {emptyDir: {}}\n",
    );
    let registry = ["-n", namespace.name(), "registry.stvz.io", "own"];
    let refused = |found: &Value| found["status"].to_string().contains("NotGranted");
    cluster.wait_until("the refusal", &registry, PATIENCE, refused);
    let sets = cluster
        .get(&["-n", namespace.name(), "statefulsets"])
        .unwrap();
    assert!(names_of(&sets).is_empty(), "{sets:#}");
    cluster.apply(&granted(&namespace, &["own"]));
    cluster.wait_until("the Registry", &registry, PATIENCE, is_ready);
}
