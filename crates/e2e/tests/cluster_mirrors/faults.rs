//! Sources that are gone, mirrors that conflict, and mirrors that select nothing: each mirror
//! reports its own problem and affects no other.

use e2e::RegistryProgram;
use e2e::cluster::{Cluster, OutsideRegistry, is_ready};
use serde_json::Value;

use super::stage::{NAMESPACE, PATIENCE, Stage, complaint, condition, copy_of, fill, is_degraded};

#[test]
#[ignore = "needs a cluster"]
fn a_source_that_is_gone_is_named_and_what_was_mirrored_stays() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let kind = RegistryProgram::DockerRegistry;
    let (mut source, beside) = (
        OutsideRegistry::start(kind, own),
        OutsideRegistry::start(kind, own),
    );
    fill(&source, "team/app", &["1"]);
    fill(&beside, "team/other", &["1"]);
    let all = |source, path| copy_of(source, path, "select: {all: true}");
    let again = "interval: 1s\n  retry: {maxBackoff: 2s}";
    let _mirror = stage.mirror("gone", again, &[all(&source, "team/app")]);
    let _beside = stage.mirror("there", "interval: 1s", &[all(&beside, "team/other")]);
    stage.wait_for_public_images("gone", 1);
    stage.wait_for("there", "ready", is_ready);

    source.stop();
    let failing = stage.wait_for("gone", "degraded", |mirror| is_degraded(mirror, "Failing"));
    let told = complaint(&failing);
    assert!(told.contains(source.host()), "{told}");
    assert!(told.contains("refused"), "{told}");
    let status = &failing["status"];
    assert_eq!(
        (&status["desired"], &status["mirrored"]),
        (&1.into(), &1.into()),
        "{status:#}"
    );
    let repository = &status["repositories"][0];
    assert_eq!(repository["visibility"], "Public", "{status:#}");
    assert_eq!(repository["loaded"], true, "{status:#}");
    assert!(stage.can_be_fetched(&source, "team/app:1"));
    fill(&beside, "team/other", &["2"]);
    stage.wait_for_images("there", 2);

    source.start_again();
    fill(&source, "team/app", &["2"]);
    let well = stage.wait_for_images("gone", 2);
    assert_eq!(condition(&well, "Degraded")["status"], "False", "{well:#}");
    assert!(stage.can_be_fetched(&source, "team/app:2"));
}

/// One place for two sources: the name of a Service is what an IPv6 address becomes in a path.
#[test]
#[ignore = "needs a cluster"]
fn of_two_mirrors_with_different_sources_at_one_place_the_older_goes_on() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&source, "team/app", &["1"]);
    fill(&source, "team/own", &["1"]);
    let namespace = cluster.namespace("place");
    let (address, port) = source.host().split_once(':').unwrap();
    let service = "fd00-0-0-0-0-0-0-1";
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: {NAMESPACE}}}\n\
         spec:\n  ports: [{{port: {port}}}]\n---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata: {{name: {service}, namespace: {NAMESPACE}, labels: \
         {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\nports: [{{port: \
         {port}}}]\nendpoints: [{{addresses: [{address}]}}]\n"
    ));
    let entry = |host: &str, tags: &str| {
        format!("{{name: \"{host}:{port}/team/app\", plainHTTP: true, {tags}}}")
    };
    let all = "select: {all: true}";
    let older = stage.mirror("older", "interval: 1s", &[entry(service, all)]);
    stage.wait_for("older", "ready", is_ready);
    let entries = [
        entry("[fd00::1]", all),
        copy_of(&source, "team/own", r#"tags: ["1"]"#),
    ];
    let _younger = stage.mirror("younger", "interval: 1s", &entries);
    let younger = stage.wait_for("younger", "in conflict", |mirror| {
        is_degraded(mirror, "Conflict") && mirror["status"]["mirrored"] == 1
    });
    let told = complaint(&younger);
    for part in ["[fd00::1]", "coral-system/older", service, "remove one"] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
    assert_eq!(
        stage.tags(&source, "team/own"),
        ["1"],
        "the rest is mirrored"
    );
    fill(&source, "team/app", &["2"]);
    let goes_on = stage.wait_for_images("older", 2);
    assert_eq!(condition(&goes_on, "Degraded")["status"], "False");
    drop(older);
    stage.wait_for("younger", "no longer in conflict", |mirror| {
        condition(mirror, "Degraded")["reason"] != "Conflict"
    });
    drop(namespace);
    for kind in ["service", "endpointslice"] {
        let _ = cluster.kubectl(&["-n", NAMESPACE, "delete", kind, service]);
    }
}

/// What is wrong with a mirror, and how it is told.
struct Broken {
    name: &'static str,
    more: &'static str,
    entry: String,
    reason: &'static str,
    told: &'static [&'static str],
}

fn broken_mirrors(source: &OutsideRegistry) -> [Broken; 4] {
    let good = copy_of(source, "team/app", r#"tags: ["1"]"#);
    [
        Broken {
            name: "bad-schedule",
            more: r#"schedule: "61 * * * *""#,
            entry: good.clone(),
            reason: "InvalidSpec",
            told: &["spec.schedule", "61"],
        },
        Broken {
            name: "bad-regex",
            more: "interval: 1h",
            entry: copy_of(source, "team/app", "select: {regex: \"v(1\"}"),
            reason: "InvalidSpec",
            told: &["spec.repositories[0].select.regex", "v(1"],
        },
        Broken {
            name: "no-secret",
            more: "imagePullSecrets: [{name: absent}]",
            entry: good,
            reason: "SecretMissing",
            told: &["coral-system/absent", "does not exist", "create it"],
        },
        Broken {
            name: "no-host",
            more: "interval: 1h",
            entry: r#"{name: "nowhere.invalid/team/app", tags: ["1"]}"#.to_owned(),
            reason: "Failing",
            told: &["nowhere.invalid"],
        },
    ]
}

#[test]
#[ignore = "needs a cluster"]
fn broken_mirrors_are_reported_on_themselves_and_harm_no_other() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    fill(&source, "team/app", &["1"]);
    let broken = broken_mirrors(&source);
    cluster.grant(NAMESPACE, &["absent"]);
    let apply = |one: &Broken| stage.mirror(one.name, one.more, std::slice::from_ref(&one.entry));
    let _mirrors: Vec<_> = broken.iter().map(apply).collect();
    let good = copy_of(&source, "team/app", r#"tags: ["1"]"#);
    let _good = stage.mirror("good", "interval: 1h", &[good]);
    stage.wait_for("good", "ready", is_ready);
    for one in &broken {
        let mirror = stage.wait_for(one.name, one.reason, |mirror| {
            is_degraded(mirror, one.reason)
        });
        let told = complaint(&mirror);
        for part in one.told {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
        let ready = condition(&mirror, "Ready");
        assert_eq!(ready["status"], "False", "{mirror:#}");
        assert_eq!(
            ready["observedGeneration"],
            mirror["metadata"]["generation"]
        );
    }
    a_mended_one_goes_on(&stage);
}

fn a_mended_one_goes_on(stage: &Stage<'_>) {
    let patch = r#"{"spec": {"schedule": "0 3 * * *"}}"#;
    let object = ["-n", NAMESPACE, "patch", "registrymirror", "bad-schedule"];
    let arguments = [&object[..], &["--type=merge", "-p", patch]].concat();
    let _ = stage.cluster.kubectl(&arguments).succeeded();
    let object = ["-n", NAMESPACE, "registrymirror", "bad-schedule"];
    let mended = |mirror: &Value| is_ready(mirror) && !is_degraded(mirror, "InvalidSpec");
    stage
        .cluster
        .wait_until("the mended mirror is ready", &object, PATIENCE, mended);
}
