//! The step `push`, from what a build wrote to registries.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod pod;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coral_build::contract::{OutputState, PushReport};
use coral_build::{CredentialFuture, CredentialSource, RetryPolicies, StepCredential, push};
use coral_distribution::{Client, ClientOptions, Credentials, HostOptions, RepositoryClient};
use coral_image::{Descriptor, Host, ImageRef};
use coral_mirror::RetryPolicy;
use coral_testkit::{Built, Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use pod::{NoCredential, Password, Replaced, TestPod, basic};

const STREAM: &str = "stream";

fn source() -> Value {
    json!({"limit": 1 << 20, STREAM: {}})
}

/// Writes an image as an OCI layout.
fn write_layout(pod: &TestPod, folder: &str, built: &Built) {
    let root = built.root();
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": root.media_type, "digest": root.digest, "size": root.bytes.len(),
    }]});
    pod.write(&format!("{folder}/index.json"), &index.to_string());
    pod.write(
        &format!("{folder}/oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    let manifests = built.manifests.iter().map(|m| (&m.digest, &m.bytes));
    for (digest, bytes) in built.blobs.iter().chain(manifests) {
        let path = pod.path(&format!(
            "{folder}/blobs/{}/{}",
            digest.algorithm(),
            digest.hex()
        ));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn output(registry: &FaultRegistry, tags: &[&str], also_to: &Value) -> Value {
    json!({
        "limit": 1 << 20, "registry": registry.host(), "tags": tags, "alsoTo": also_to,
    })
}

fn password(registry: &FaultRegistry) -> Password {
    Password::new(&Host::parse(&registry.host()).unwrap(), "secret")
}

fn quick() -> RetryPolicies {
    let policy = RetryPolicy {
        limit: 4,
        max_backoff: Duration::from_millis(5),
    };
    RetryPolicies {
        inside: policy,
        outside: policy,
    }
}

async fn pushed(pod: &TestPod, credentials: &dyn CredentialSource) -> Result<PushReport, String> {
    let pushed = push(&pod.pod, credentials, quick()).await;
    pushed.map_err(|error| coral_image::error_chain(&error))
}

fn down() -> Effect {
    Effect::Status {
        status: 503,
        headers: Vec::new(),
        body: String::new(),
    }
}

async fn inside() -> FaultRegistry {
    FaultRegistry::start_with_auth(basic("token", "secret")).await
}

fn repository(registry: &FaultRegistry, path: &str, user: &str, pass: &str) -> RepositoryClient {
    let host = Host::parse(&registry.host()).unwrap();
    let options = HostOptions {
        plain_http: true,
        ..HostOptions::default()
    };
    let client = Client::new(ClientOptions {
        hosts: [(host.clone(), options)].into(),
        ..ClientOptions::default()
    });
    let credentials = Credentials::for_one_host(host, user, pass, "the test");
    let reference = ImageRef::parse(&format!("{}/{path}", registry.host())).unwrap();
    client
        .unwrap()
        .repository(reference.repository(), Arc::new(credentials))
}

/// The provenance of an image.
async fn provenance(repository: &RepositoryClient, built: &Built) -> Value {
    let referrers = repository.referrers(&built.digest()).await.unwrap();
    let [referrer] = referrers.as_slice() else {
        panic!("one referrer: {referrers:?}");
    };
    let version = coral_image::Version::Digest(referrer.digest);
    let manifest = repository.manifest(&version).await.unwrap();
    let layer: &Descriptor = &manifest.body().layers.as_ref().unwrap()[0];
    assert_eq!(layer.media_type, "application/vnd.in-toto+json");
    let mut blob = repository.blob(layer, 0).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = futures::StreamExt::next(&mut blob).await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn an_image_gets_all_its_tags_inside_and_a_second_push_sends_nothing() {
    let registry = inside().await;
    let tags = ["team-a/shop:3", "team-a/shop:latest", "team-a/other:1"];
    for built in [
        ImageBuilder::new(1).layers_of(&[5000, 3000]).build(),
        IndexBuilder::of_platforms(2, &["linux/amd64", "linux/arm64"], &[4000]).build(),
    ] {
        let pod = TestPod::with_output(&source(), &output(&registry, &tags, &json!([])));
        write_layout(&pod, "coral-build/output", &built);
        let report = pushed(&pod, &password(&registry)).await.unwrap();
        assert_eq!(report.digest, built.digest().to_string());
        let references: Vec<_> = report.outputs.iter().map(|o| &o.reference).collect();
        let expected = tags.map(|tag| format!("{}/{tag}", registry.host()));
        assert_eq!(references, expected.iter().collect::<Vec<_>>());
        assert!(
            report
                .outputs
                .iter()
                .all(|output| { output.state == OutputState::Pushed && output.message.is_none() })
        );
        for (path, tag) in [("team-a/shop", "latest"), ("team-a/other", "1")] {
            assert_eq!(registry.tags(path).get(tag), Some(&built.digest()));
            assert_eq!(registry.difference(path, &built), None);
        }
        assert_eq!(report.bytes.pushed, built.blob_bytes());
        assert_eq!(
            report.bytes.mounted,
            built.blob_bytes(),
            "of the second repository"
        );
        let again = pushed(&pod, &password(&registry)).await.unwrap();
        assert_eq!(again.bytes.pushed, 0);
    }
}

#[tokio::test]
async fn an_archive_is_pushed_like_a_folder() {
    let registry = inside().await;
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let pod = TestPod::with_output(
        &source(),
        &output(&registry, &["team-a/shop:3"], &json!([])),
    );
    write_layout(&pod, "layout", &built);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", pod.path("layout")).unwrap();
    std::fs::write(
        pod.path("coral-build/output/image.tar"),
        tar.into_inner().unwrap(),
    )
    .unwrap();
    let report = pushed(&pod, &password(&registry)).await.unwrap();
    assert_eq!(report.digest, built.digest().to_string());
    assert_eq!(registry.difference("team-a/shop", &built), None);
}

#[tokio::test]
async fn the_provenance_names_source_builder_arguments_and_times_and_no_values_of_variables() {
    let registry = inside().await;
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let git = json!({"limit": 1, "git": {"url": "https://git.example/shop.git", "ref": "main"}});
    let pod = TestPod::with_output(&git, &output(&registry, &["team-a/shop:3"], &json!([])));
    write_layout(&pod, "coral-build/output", &built);
    pod.write(
        "coral-build/record/fetch.json",
        r#"{"commit": "c0ffee", "started": "2026-11-27T09:00:00Z"}"#,
    );
    let mut credentials = password(&registry);
    let hex = "b".repeat(64);
    credentials.0.container.builder = Some(format!("registry.example/builder@sha256:{hex}"));
    credentials.0.container.finished = Some("2026-11-27T09:05:00Z".parse().unwrap());
    pushed(&pod, &credentials).await.unwrap();
    let repository = repository(&registry, "team-a/shop", "token", "secret");
    let statement = provenance(&repository, &built).await;
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    assert_eq!(
        statement["subject"][0]["digest"]["sha256"],
        built.digest().hex()
    );
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(
        definition["resolvedDependencies"],
        json!([
            {"uri": "git+https://git.example/shop.git@main", "digest": {"gitCommit": "c0ffee"}},
            {"uri": "builder:1", "digest": {"sha256": hex}},
        ])
    );
    let builder = &definition["externalParameters"]["builder"];
    assert_eq!(builder["args"], json!(["--target", "web"]));
    assert_eq!(builder["environment"], json!(["NAME"]));
    let times = &statement["predicate"]["runDetails"]["metadata"];
    assert_eq!(times["startedOn"], "2026-11-27T09:00:00Z");
    assert_eq!(times["finishedOn"], "2026-11-27T09:05:00Z");
    assert_eq!(times["invocationId"], "7c9e/0123abcd");
    assert!(!statement.to_string().contains("kept to itself"));
}

#[tokio::test]
async fn an_output_outside_gets_the_image_with_its_own_credential() {
    let (registry, outside) = (
        inside().await,
        FaultRegistry::start_with_auth(basic("acme", "other")).await,
    );
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let also_to =
        json!([{"repository": format!("{}/acme/shop", outside.host()), "tags": ["3", "4"]}]);
    let pod = TestPod::with_output(&source(), &output(&registry, &["team-a/shop:3"], &also_to));
    write_layout(&pod, "coral-build/output", &built);
    pod.write_docker_config(
        "coral-build/credentials/0",
        &outside.host(),
        "acme",
        "other",
    );
    let report = pushed(&pod, &password(&registry)).await.unwrap();
    assert_eq!(report.outputs.len(), 3);
    assert_eq!(outside.tags("acme/shop").get("4"), Some(&built.digest()));
    let repository = repository(&outside, "acme/shop", "acme", "other");
    provenance(&repository, &built).await;
}

#[tokio::test]
async fn what_is_inside_is_noted_before_a_registry_outside_that_never_answers() {
    let (registry, outside) = (inside().await, FaultRegistry::start().await);
    outside.fault(Fault::new(Effect::Stall));
    let also_to = json!([{"repository": format!("{}/acme/shop", outside.host()), "tags": ["3"]}]);
    let pod = TestPod::with_output(&source(), &output(&registry, &["team-a/shop:3"], &also_to));
    pod.write("dev/termination-log", "");
    let built = ImageBuilder::new(1).build();
    write_layout(&pod, "coral-build/output", &built);
    let grants = password(&registry);
    tokio::select! {
        pushed = pushed(&pod, &grants) => panic!("{pushed:?}"),
        () = outside.wait_for(|requests| !requests.is_empty()) => {}
    }
    // As the kubelet finds it when the pod is killed.
    assert!(pod.pod.has_termination_message());
    let noted: PushReport = serde_json::from_str(&pod.read("dev/termination-log")).unwrap();
    assert_eq!(noted.digest, built.digest().to_string());
    let states: Vec<OutputState> = noted.outputs.iter().map(|output| output.state).collect();
    assert_eq!(states, [OutputState::Pushed, OutputState::Failed]);
}

#[tokio::test]
async fn outputs_outside_that_fail_are_reported_and_fail_nothing_else() {
    let (registry, outside) = (
        inside().await,
        FaultRegistry::start_with_auth(basic("acme", "other")).await,
    );
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let at =
        |path: &str| json!({"repository": format!("{}/{path}", outside.host()), "tags": ["3"]});
    let also_to = json!([at("first"), at("second")]);
    let pod = TestPod::with_output(&source(), &output(&registry, &["team-a/shop:3"], &also_to));
    write_layout(&pod, "coral-build/output", &built);
    pod.write_docker_config(
        "coral-build/credentials/0",
        &outside.host(),
        "acme",
        "wrong-word",
    );
    pod.write_docker_config(
        "coral-build/credentials/1",
        &outside.host(),
        "acme",
        "other",
    );
    let report = pushed(&pod, &password(&registry)).await.unwrap();
    let states: Vec<_> = report.outputs.iter().map(|output| output.state).collect();
    let (pushed, failed) = (OutputState::Pushed, OutputState::Failed);
    assert_eq!(states, [pushed, failed, pushed]);
    let message = report.outputs[1].message.as_deref().unwrap();
    assert!(message.contains("401"), "{message}");
    assert!(!message.contains("wrong-word"), "{message}");
    assert_eq!(outside.tags("second").get("3"), Some(&built.digest()));
}

#[tokio::test]
async fn a_registry_that_fails_for_a_while_gets_the_image_all_the_same() {
    let registry = inside().await;
    for method in ["POST", "PUT"] {
        registry.fault(Fault::new(down()).method(method).first(2));
    }
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let pod = TestPod::with_output(
        &source(),
        &output(&registry, &["team-a/shop:3"], &json!([])),
    );
    write_layout(&pod, "coral-build/output", &built);
    let report = pushed(&pod, &password(&registry)).await.unwrap();
    assert_eq!(report.outputs[0].message, None);
    assert_eq!(registry.difference("team-a/shop", &built), None);
}

#[tokio::test]
async fn a_registry_that_stays_down_fails_the_push_and_gets_no_tag() {
    let registry = inside().await;
    registry.fault(Fault::new(down()).method("PUT"));
    let pod = TestPod::with_output(
        &source(),
        &output(&registry, &["team-a/shop:3"], &json!([])),
    );
    write_layout(
        &pod,
        "coral-build/output",
        &ImageBuilder::new(1).layer_of(50).build(),
    );
    let failed = pushed(&pod, &password(&registry)).await.unwrap_err();
    assert!(failed.contains("could not be pushed to"), "{failed}");
    assert!(failed.contains("503"), "{failed}");
    assert!(registry.tags("team-a/shop").is_empty());
}

/// A controller whose credentials end soon.
struct ShortLived(StepCredential, AtomicUsize);

impl CredentialSource for ShortLived {
    fn credential(&self) -> CredentialFuture<'_> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let mut credential = self.0.clone();
        credential.expires = Some(Timestamp::now() + SignedDuration::from_secs(30));
        Box::pin(async { Ok(credential) })
    }
}

#[tokio::test]
async fn a_credential_that_ends_soon_is_renewed() {
    let registry = inside().await;
    let pod = TestPod::with_output(
        &source(),
        &output(&registry, &["team-a/shop:3"], &json!([])),
    );
    write_layout(
        &pod,
        "coral-build/output",
        &ImageBuilder::new(1).layer_of(50).build(),
    );
    let credentials = ShortLived(password(&registry).0, AtomicUsize::new(0));
    pushed(&pod, &credentials).await.unwrap();
    assert!(credentials.1.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn a_credential_of_a_key_that_the_registry_does_not_know_yet_is_replaced() {
    let registry = inside().await;
    let host = Host::parse(&registry.host()).unwrap();
    let built = ImageBuilder::new(1).layer_of(50).build();
    let tags = ["team-a/shop:3"];
    let pod = TestPod::with_output(&source(), &output(&registry, &tags, &json!([])));
    write_layout(&pod, "coral-build/output", &built);
    let replaced = Replaced::after(&host, 2);
    let report = pushed(&pod, &replaced).await.unwrap();
    assert_eq!(report.outputs[0].message, None);
    assert_eq!(registry.difference("team-a/shop", &built), None);
    assert_eq!(replaced.asked(), 3);
    // As often as anything else that may pass, and no more.
    let never = Replaced::after(&host, usize::MAX);
    let failed = pushed(&pod, &never).await.unwrap_err();
    assert!(failed.contains("401"), "{failed}");
    assert_eq!(never.asked(), 4);
}

#[tokio::test]
async fn the_key_is_replaced_between_the_image_and_its_tag() {
    let registry = inside().await;
    let host = Host::parse(&registry.host()).unwrap();
    let refused = Effect::Status {
        status: 401,
        headers: Vec::new(),
        body: String::new(),
    };
    let refused = Fault::new(refused).method("PUT");
    registry.fault(refused.path("manifests/3").first(1));
    let built = ImageBuilder::new(1).layer_of(50).build();
    let tags = ["team-a/shop:3"];
    let pod = TestPod::with_output(&source(), &output(&registry, &tags, &json!([])));
    write_layout(&pod, "coral-build/output", &built);
    let credentials = Replaced::after(&host, 0);
    pushed(&pod, &credentials).await.unwrap();
    assert_eq!(registry.tags("team-a/shop").get("3"), Some(&built.digest()));
    assert_eq!(credentials.asked(), 2);
}

#[tokio::test]
async fn without_a_credential_nothing_is_pushed() {
    let registry = inside().await;
    let pod = TestPod::with_output(
        &source(),
        &output(&registry, &["team-a/shop:3"], &json!([])),
    );
    write_layout(
        &pod,
        "coral-build/output",
        &ImageBuilder::new(1).layer_of(50).build(),
    );
    let failed = pushed(&pod, &NoCredential).await.unwrap_err();
    assert!(
        failed.contains("the controller gave no credential"),
        "{failed}"
    );
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn a_tag_of_another_namespace_is_refused_before_anything_is_sent() {
    let registry = inside().await;
    for tag in ["team-b/shop:1", "team-abc/shop:1", "shop:1"] {
        let pod = TestPod::with_output(&source(), &output(&registry, &[tag], &json!([])));
        write_layout(
            &pod,
            "coral-build/output",
            &ImageBuilder::new(1).layer_of(50).build(),
        );
        let failed = pushed(&pod, &password(&registry)).await.unwrap_err();
        assert!(failed.contains("is not below team-a/"), "{failed}");
    }
    assert!(registry.requests().is_empty());
}

#[tokio::test]
async fn an_output_that_is_no_image_is_an_error_that_says_what_is_wrong() {
    let registry = inside().await;
    let failed = async |prepare: &dyn Fn(&TestPod)| {
        let pod = TestPod::with_output(
            &source(),
            &output(&registry, &["team-a/shop:3"], &json!([])),
        );
        prepare(&pod);
        pushed(&pod, &password(&registry)).await.unwrap_err()
    };
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let said = failed(&|_| ()).await;
    assert!(said.contains("the build wrote no image"), "{said}");
    let said = failed(&|pod| pod.write("coral-build/output/index.json", "{not json")).await;
    assert!(said.contains("not JSON"), "{said}");
    let said =
        failed(&|pod| pod.write("coral-build/output/index.json", r#"{"manifests": []}"#)).await;
    assert!(said.contains("has no manifest"), "{said}");
    let said = failed(&|pod| pod.write("coral-build/output/image.tar", "not a tar")).await;
    assert!(said.contains("not a tar"), "{said}");
    let too_large = |pod: &TestPod| {
        write_layout(pod, "coral-build/output", &built);
        let large = vec![0; 2 << 20];
        std::fs::write(pod.path("coral-build/output/large"), large).unwrap();
    };
    let said = failed(&too_large).await;
    assert!(said.contains("larger than 1048576 bytes"), "{said}");
    assert_eq!(registry.tags("team-a/shop").len(), 0);
}

#[tokio::test]
async fn a_layout_that_lies_about_a_digest_is_refused_and_gets_no_tag() {
    let built = ImageBuilder::new(1).layer_of(5000).build();
    let digests: Vec<_> = built.blobs.keys().chain([&built.root().digest]).collect();
    for digest in digests {
        let registry = inside().await;
        let pod = TestPod::with_output(
            &source(),
            &output(&registry, &["team-a/shop:3"], &json!([])),
        );
        write_layout(&pod, "coral-build/output", &built);
        let file = pod.path(&format!("coral-build/output/blobs/sha256/{}", digest.hex()));
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let said = pushed(&pod, &password(&registry)).await.unwrap_err();
        assert!(said.contains("sha256:"), "{said}");
        std::fs::remove_file(&file).unwrap();
        let said = pushed(&pod, &password(&registry)).await.unwrap_err();
        assert!(said.contains("sha256:"), "{said}");
        assert_eq!(registry.tags("team-a/shop").len(), 0);
    }
}

#[tokio::test]
async fn no_link_of_the_output_is_followed_and_no_file_is_quoted() {
    let registry = inside().await;
    let built = ImageBuilder::new(1).layer_of(5000).build();
    for name in ["index.json", "blobs", "image.tar"] {
        let pod = TestPod::with_output(
            &source(),
            &output(&registry, &["team-a/shop:3"], &json!([])),
        );
        pod.write(
            "coral-build/credentials/0/index.json",
            r#"{"manifests": "s3cret"}"#,
        );
        write_layout(&pod, "coral-build/credentials/0", &built);
        let target = match name {
            "image.tar" => "../credentials/0/index.json".to_owned(),
            name => format!("../credentials/0/{name}"),
        };
        if name == "blobs" {
            let index = pod.read("coral-build/credentials/0/index.json");
            pod.write("coral-build/output/index.json", &index);
        }
        std::os::unix::fs::symlink(target, pod.path(&format!("coral-build/output/{name}")))
            .unwrap();
        let said = pushed(&pod, &password(&registry)).await.unwrap_err();
        let refused = said.contains("is a symbolic link") || said.contains("wrote no image");
        assert!(refused && !said.contains("s3cret"), "{said}");
    }
    assert_eq!(registry.tags("team-a/shop").len(), 0);
}
