//! Builds that go wrong: each ends once, and its status says why.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "cluster_build_faults/interruptions.rs"]
mod interruptions;
#[path = "cluster_build_faults/outputs.rs"]
mod outputs;

use e2e::cluster::{Builds, Cluster, has_ended, ready};
use e2e::{GitServer, User};

const USER: User = User {
    name: "git",
    password: "a wrong word is refused",
};

/// A build that fails: its objects, the reason, and what its messages say.
struct Fault {
    name: &'static str,
    yaml: String,
    reason: &'static str,
    says: String,
}

fn check(builds: &Builds<'_>, faults: &[Fault]) {
    builds.apply(&faults.iter().map(|it| it.yaml.as_str()).collect::<String>());
    let mut wrong = Vec::new();
    for fault in faults {
        let build = builds.ended(fault.name);
        let ready = ready(&build);
        let said = format!("{} {}", ready["message"], build["status"]["message"]);
        let is_right = build["status"]["phase"] == "Failed"
            && ready["reason"] == fault.reason
            && said.to_lowercase().contains(&fault.says);
        if !is_right {
            let (wanted, says) = (fault.reason, &fault.says);
            wrong.push(format!(
                "{}: {wanted} with `{says}`, not {build:#}",
                fault.name
            ));
        }
        assert!(!said.contains(USER.password), "{build:#}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
#[ignore = "needs a cluster"]
fn a_source_that_cannot_be_fetched_says_why() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let server = GitServer::start(own.address(), USER);
    server.commit(&[("Dockerfile", b"FROM scratch\n")]);
    let big = GitServer::start(own.address(), USER);
    // Content that no compression makes small.
    let content: Vec<u8> = (0..3_u32 << 20)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    big.commit(&[("big", &content)]);
    let secrets = [("right", USER.password), ("wrong", "not the password")].map(|(name, word)| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: \
             {{username: git, password: {word}}}\n"
        )
    });
    builds.apply(&secrets.concat());
    let git = |name: &'static str, url: &str, more: &str, says: &str| Fault {
        name,
        yaml: builds.yaml(
            name,
            &format!("{{git: {{url: \"{url}\"{more}}}}}"),
            "{}",
            "",
            "",
        ),
        reason: "FetchFailed",
        says: says.to_owned(),
    };
    let nowhere = format!("http://{}:1/app.git", own.address());
    let mut limited = git(
        "too-big",
        &big.url(),
        ", secretRef: {name: right}",
        "1048576",
    );
    limited.yaml = limited.yaml.replace("  build:", "    limit: 1Mi\n  build:");
    limited.yaml = limited.yaml.replace("source: {git: ", "source:\n    git: ");
    limited.yaml = limited.yaml.replace("}}\n    limit", "}\n    limit");
    check(
        &builds,
        &[
            git("wrong-url", &nowhere, "", &format!("{}:1", own.address())),
            git(
                "wrong-ref",
                &server.url(),
                ", ref: absent, secretRef: {name: right}",
                "absent",
            ),
            git(
                "wrong-word",
                &server.url(),
                ", secretRef: {name: wrong}",
                "401",
            ),
            git("no-word", &server.url(), "", "401"),
            limited,
        ],
    );
}

#[test]
#[ignore = "needs a cluster"]
fn a_container_that_does_not_build_says_why() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let fault = |name: &'static str, script: &str, more: &str, reason: &'static str, says: &str| {
        let yaml = builds.script(name, script, more);
        let says = says.to_owned();
        Fault {
            name,
            yaml,
            reason,
            says,
        }
    };
    let mut memory = fault("memory", "tail /dev/zero", "", "BuildFailed", "memory");
    memory.yaml = with_build(&memory.yaml, "resources: {limits: {memory: 32Mi}}");
    let mut absent = fault("no-image", "true", "  timeout: 10s\n", "TimedOut", "");
    absent.yaml = absent
        .yaml
        .replace(&cluster.busybox(), "localhost/absent:1");
    let forks = "for i in $(seq 1000); do sleep 60 & done; echo started all >&2; exit 4";
    let fills = "dd if=/dev/zero of=$CORAL_OUTPUT/file bs=1M count=64; sleep 90";
    let mut disk = fault("disk", fills, "", "Evicted", "limit");
    disk.yaml = disk
        .yaml
        .replace("  output:\n", "  output:\n    limit: 8Mi\n");
    check(
        &builds,
        &[
            fault(
                "exit",
                "echo no such thing >&2; exit 3",
                "",
                "BuildFailed",
                "no such thing",
            ),
            fault("forks", forks, "", "BuildFailed", "started all"),
            fault("never", "sleep 600", "  timeout: 8s\n", "TimedOut", "build"),
            memory,
            absent,
            disk,
        ],
    );
}

/// Adds fields to `spec.build`.
fn with_build(yaml: &str, more: &str) -> String {
    yaml.replace("build.sh]}", &format!("build.sh], {more}}}"))
}

#[test]
#[ignore = "needs a cluster"]
fn a_failing_registry_outside_does_not_undo_what_is_inside() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let nowhere = format!("{}:1/acme/app", own.address());
    let also_to =
        format!("    alsoTo: [{{repository: \"{nowhere}\", tags: [\"1\"], plainHTTP: true}}]\n");
    let script = builds.script("both", &builds.small_image(), "");
    builds.apply(&script.replace("  output:\n", &format!("  output:\n{also_to}")));
    let said = builds.failed("both", "AlsoToFailed");
    assert!(said.contains(&nowhere), "{said}");
    let status = &builds.get("both")["status"];
    assert!(status["digest"].is_string(), "{status:#}");
    let outputs = status["outputs"].as_array().unwrap();
    let both: Vec<_> = outputs
        .iter()
        .map(|it| it["state"].as_str().unwrap())
        .collect();
    assert_eq!(both, ["Pushed", "Failed"], "{status:#}");
    builds.deploy("both", ", command: [/bin/busybox, sleep, \"3600\"]");
}

#[test]
#[ignore = "needs a cluster"]
fn a_build_pushes_below_its_namespace_only_and_takes_no_secret() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let yaml = builds.script("elsewhere", "true", "");
    let tag = format!("\"{}/elsewhere:1\"", builds.namespace());
    builds.apply(&yaml.replace(&tag, "\"docker.io/library/busybox:1\""));
    let refused = builds.wait_for("elsewhere", "refused", |build| {
        ready(build)["status"] == "False"
    });
    let message = ready(&refused)["message"].to_string();
    assert!(message.contains(builds.namespace()), "{message}");
    assert_eq!(builds.pods("elsewhere").len(), 0);
    let secret = "env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]";
    let with_secret = with_build(&builds.script("secret", "true", ""), secret);
    let refused = cluster.try_apply(&with_secret.replace(
        "metadata: {",
        &format!("metadata: {{namespace: {}, ", builds.namespace()),
    ));
    assert_ne!(refused.code, 0, "{refused}");
    assert!(
        refused
            .stderr
            .contains("secrets and other objects do not enter a build"),
        "{refused}"
    );
}

#[test]
#[ignore = "needs a cluster"]
fn ten_builds_at_once_all_end() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let builds = Builds::set(&cluster, own);
    let script = builds.small_image();
    let names: Vec<String> = (0..10).map(|n| format!("ten-{n}")).collect();
    let all = names.iter().map(|name| builds.script(name, &script, ""));
    builds.apply(&all.collect::<String>());
    for name in &names {
        assert!(has_ended(&builds.ended(name)));
        builds.succeeded(name);
    }
}
