//! Credentials of sources, private images, and addresses that no mirror reads from.

use e2e::cluster::Cluster;
use e2e::cluster::{Namespace, OutsideRegistry, OwnCluster, PATIENCE, is_ready};
use e2e::{RegistryProgram, User, until};

use super::stage::{NAMESPACE, Stage, complaint, copy_of, fill, is_degraded, path_inside};

const READER: User = User {
    name: "reader",
    password: "a-word-that-only-the-source-knows",
};

/// A registry outside that asks for [`READER`], with one image.
fn private_source(own: &OwnCluster) -> OutsideRegistry {
    let source = OutsideRegistry::start_for(RegistryProgram::DockerRegistry, own, READER);
    fill(&source, "team/secret", &["1"]);
    source
}

/// Makes a Secret with a credential for a registry.
fn make_secret(cluster: &Cluster, namespace: &str, name: &str, host: &str, user: (&str, &str)) {
    let create = ["-n", namespace, "create", "secret", "docker-registry", name];
    let values = [
        format!("--docker-server={host}"),
        format!("--docker-username={}", user.0),
        format!("--docker-password={}", user.1),
    ];
    let values = values.each_ref().map(String::as_str);
    let print = ["--dry-run=client", "-o", "yaml"];
    let printed = cluster.kubectl(&[&create[..], &values, &print].concat());
    cluster.apply(&printed.succeeded().stdout);
}

/// Coral's certificates, as a value of `ca:`.
fn authority(cluster: &Cluster) -> String {
    let map = cluster.get(&["-n", "coral-nodes", "configmap", "coral"]);
    map.unwrap()["data"]["ca.crt"].to_string()
}

#[test]
#[ignore = "needs a cluster"]
fn a_secret_that_is_not_granted_is_asked_for_with_the_command_to_type() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = private_source(own);
    let namespace = cluster.namespace("credentials");
    let name = namespace.name();
    let registry = format!("reg.{NAMESPACE}.svc");
    make_secret(
        &cluster,
        name,
        "source",
        source.host(),
        (READER.name, READER.password),
    );
    let pushing = stage.pusher();
    make_secret(&cluster, name, "push", &format!("{registry}:5000"), pushing);
    namespace.apply(&format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: private}}\nspec:\n  \
         registry: {{host: {registry}, port: 5000, secretRef: {{name: push}}, ca: {ca}}}\n  \
         imagePullSecrets: [{{name: source}}]\n  repositories:\n    - {entry}\n",
        ca = authority(&cluster),
        entry = copy_of(&source, "team/secret", r#"tags: ["1"]"#),
    ));
    let mirror = ["-n", name, "registrymirror", "private"];
    let refused = cluster.wait_until("told what to grant", &mirror, PATIENCE, |mirror| {
        is_degraded(mirror, "SecretNotGranted")
    });
    let command = format!("coral grant {name} push source | kubectl apply -f -");
    assert!(complaint(&refused).contains(&command), "{refused:#}");
    assert!(source.requests().is_empty(), "{:?}", source.requests());

    cluster.grant(name, &["push", "source"]);
    cluster.wait_until("mirrored", &mirror, PATIENCE, is_ready);
    assert_eq!(stage.tags(&source, "team/secret"), ["1"]);
    let logs = ["-n", NAMESPACE, "logs", "deployment/coral-controller"];
    let logs = cluster.kubectl(&logs).succeeded();
    assert!(!logs.stdout.contains(READER.password), "{logs}");
}

#[test]
#[ignore = "needs a cluster"]
fn a_private_repository_is_refused_to_everyone_without_its_credential() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let source = private_source(own);
    make_secret(
        &cluster,
        NAMESPACE,
        "source",
        source.host(),
        (READER.name, READER.password),
    );
    cluster.grant(NAMESPACE, &["source"]);
    let entry = copy_of(&source, "team/secret", r#"tags: ["1"]"#);
    let more = "imagePullSecrets: [{name: source}]";
    let mirror = stage.mirror("private", more, &[entry]);
    let seen = stage.wait_for("private", "ready", is_ready);
    let repository = &seen["status"]["repositories"][0];
    assert_eq!(repository["visibility"], "Private", "{seen:#}");

    let path = path_inside(&source, "team/secret");
    let absent = path_inside(&source, "team/absent");
    let manifest = |path: &str, more: &str| format!("/v2/{path}/manifests/1{more}");
    assert_eq!(stage.get_inside(&manifest(&path, "")).status, 200);
    assert_eq!(stage.get_anonymously(&manifest(&path, "")).status, 401);
    assert_eq!(stage.get_anonymously(&manifest(&absent, "")).status, 401);
    // As containerd asks on a route: for the name at the source, and for whom.
    let routed = format!("?ns={}", source.host());
    let [refused, missing] = ["team/secret", "team/absent"].map(|path| {
        let answer = stage.get_anonymously(&manifest(path, &routed));
        (answer.status, answer.body.replace(path, "PATH"))
    });
    assert_eq!(refused.0, 404, "{refused:?}");
    assert_eq!(refused, missing, "a private repository looks like none");
    assert!(!stage.can_be_fetched(&source, "team/secret:1"));

    let namespace = cluster.namespace("tenant");
    a_tenant_cannot_read_it(&stage, &namespace, &path);
    drop(mirror);
    let delete = ["-n", NAMESPACE, "delete", "secret", "source"];
    let _ = cluster.kubectl(&delete).succeeded();
}

/// Neither with what the administrator of another namespace may read, nor by a mirror of their own.
fn a_tenant_cannot_read_it(stage: &Stage<'_>, namespace: &Namespace<'_>, path: &str) {
    let (cluster, name) = (stage.cluster, namespace.name());
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: tenant, namespace: {name}}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: tenant, \
         namespace: {name}}}\nroleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, \
         name: admin}}\nsubjects: [{{kind: ServiceAccount, name: tenant}}]\n"
    ));
    let tenant = format!("--as=system:serviceaccount:{name}:tenant");
    until("the tenant may make mirrors", PATIENCE, || {
        let asked = [
            "auth",
            "can-i",
            &tenant,
            "create",
            "registrymirrors.stvz.io",
            "-n",
            name,
        ];
        (cluster.kubectl(&asked).text() == "yes").then_some(())
    });
    for question in [
        ["get", "secret/reg-push"],
        ["get", "secret/source"],
        ["create", "pods/exec"],
        ["create", "registrymirrors.stvz.io"],
        ["patch", "configmap/reg-public"],
    ] {
        let asked = [&["auth", "can-i", &tenant, "-n", NAMESPACE], &question[..]].concat();
        let answer = cluster.kubectl(&asked);
        assert_eq!(answer.text(), "no", "{answer}");
    }
    let into = OutsideRegistry::start(RegistryProgram::DockerRegistry, stage.own);
    let (host, port) = into.host().split_once(':').unwrap();
    namespace.apply(&format!(
        "apiVersion: stvz.io/v1\nkind: RegistryMirror\nmetadata: {{name: taken}}\nspec:\n  \
         registry: {{host: {host}, port: {port}, plainHTTP: true}}\n  repositories:\n    - {{name: \
         \"reg.{NAMESPACE}.svc:5000/{path}\", tags: [\"1\"], ca: {ca}}}\n",
        ca = authority(cluster),
    ));
    let mirror = ["-n", name, "registrymirror", "taken"];
    let refused = cluster.wait_until("the tenant's mirror fails", &mirror, PATIENCE, |mirror| {
        is_degraded(mirror, "Failing")
    });
    assert_eq!(refused["status"]["mirrored"], 0, "{refused:#}");
    let told = complaint(&refused);
    assert!(
        told.contains("401") || told.contains("credential"),
        "{told}"
    );
    let written = into.requests();
    assert!(!written.iter().any(|r| r.method == "PUT"), "{written:#?}");
}

#[test]
#[ignore = "needs a cluster"]
fn the_machine_itself_and_the_api_server_are_refused_as_sources() {
    let cluster = Cluster::connect();
    let Some(own) = cluster.own() else { return };
    let stage = Stage::set(&cluster, own);
    let service = cluster
        .get(&["-n", "default", "service", "kubernetes"])
        .unwrap();
    let service = service["spec"]["clusterIP"].as_str().unwrap();
    let server = [
        "config",
        "view",
        "--minify",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ];
    let server = cluster.kubectl(&server).succeeded();
    let server = server.text().strip_prefix("https://").unwrap();
    let local = "the machine itself";
    let near = "a link-local address";
    let api = "the address of the Kubernetes API server";
    let sources = [
        ("127.0.0.1:8080".to_owned(), local),
        ("localhost:8080".to_owned(), local),
        ("169.254.169.254:80".to_owned(), near),
        (server.to_owned(), api),
        (format!("{service}:443"), api),
        ("kubernetes.default.svc:443".to_owned(), api),
    ];
    let entry = |(host, _): &(String, &str)| {
        format!("{{name: \"{host}/team/app\", tags: [\"1\"], tlsVerify: false}}")
    };
    let entries: Vec<String> = sources.iter().map(entry).collect();
    let _mirror = stage.mirror("guarded", "interval: 1h", &entries);
    let refused = stage.wait_for("guarded", "all refused", |mirror| {
        is_degraded(mirror, "Failing") && mirror["status"]["failed"] == sources.len()
    });
    let failures = refused["status"]["failures"].as_array().unwrap();
    for (host, why) in &sources {
        let image = format!("{host}/team/app:1");
        let failure = failures
            .iter()
            .find(|failure| failure["reference"] == image);
        let told = failure.unwrap()["message"].as_str().unwrap();
        let expected = format!("{why}, and images are not read from there");
        assert!(told.contains(&expected), "{image}: {told}");
    }
    // The same address at another port is an ordinary one.
    let beside = OutsideRegistry::start(RegistryProgram::DockerRegistry, own);
    assert_eq!(beside.host().split(':').next(), server.split(':').next());
    fill(&beside, "team/app", &["1"]);
    let entry = copy_of(&beside, "team/app", r#"tags: ["1"]"#);
    let _beside = stage.mirror("beside-server", "interval: 1h", &[entry]);
    stage.wait_for("beside-server", "ready", is_ready);
}
