//! The step `fetch`, from the files of a pod to the source folder.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod pod;

use coral_build::{CredentialSource, fetch};
use coral_image::Host;
use coral_testkit::{Effect, Fault, FaultRegistry, ImageBuilder, IndexBuilder, Recorded};
use serde_json::json;

use pod::{NoCredential, Password, Replaced, TestPod, basic};

/// A tar with one file.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

async fn fetched(
    pod: &TestPod,
    credentials: &dyn CredentialSource,
    input: &[u8],
) -> Result<u64, String> {
    let input = std::io::Cursor::new(input.to_vec());
    let report = fetch(&pod.pod, credentials, input).await;
    report
        .map(|report| report.bytes)
        .map_err(|error| coral_image::error_chain(&error))
}

#[tokio::test]
async fn a_stream_is_unpacked_and_what_it_was_is_recorded() {
    let pod = TestPod::new(&json!({"limit": 1 << 20, "stream": {}}), &["team-a/shop:1"]);
    let tar = tar_of("Dockerfile", b"FROM x");
    assert_eq!(fetched(&pod, &NoCredential, &tar).await, Ok(6));
    assert_eq!(pod.read("coral-build/source/Dockerfile"), "FROM x");
    assert!(
        pod.read("coral-build/record/fetch.json")
            .contains("started")
    );
}

#[tokio::test]
async fn a_stream_beyond_the_limit_is_refused_with_the_limit() {
    let pod = TestPod::new(&json!({"limit": 8192, "stream": {}}), &["team-a/shop:1"]);
    let tar = tar_of("large", &[1; 10_000]);
    let refused = fetched(&pod, &NoCredential, &tar).await.unwrap_err();
    assert!(refused.contains("larger than 8192 bytes"), "{refused}");
}

#[tokio::test]
async fn a_config_map_and_a_volume_are_copied_from_where_they_are_mounted() {
    for source in [
        json!({"limit": 1 << 20, "configMap": {}}),
        json!({"limit": 1 << 20, "pvc": {}}),
    ] {
        let pod = TestPod::new(&source, &["team-a/shop:1"]);
        pod.write("coral-build/input/Dockerfile", "FROM x");
        assert_eq!(fetched(&pod, &NoCredential, b"").await, Ok(6));
        assert_eq!(pod.read("coral-build/source/Dockerfile"), "FROM x");
    }
}

#[tokio::test]
async fn an_image_inside_is_read_with_the_controllers_credential() {
    let registry = FaultRegistry::start_with_auth(basic("token", "secret")).await;
    let image = ImageBuilder::new(1)
        .layer(tar_of("one", b"1"))
        .layer(tar_of("two", b"22"))
        .tag("1")
        .build();
    registry.load("team-a/source", &image);
    let reference = format!("{}/team-a/source:1", registry.host());
    let source = json!({"limit": 1 << 20, "image": {"reference": reference}});
    let pod = TestPod::at(&registry.host(), &source, &["team-a/shop:1"]);
    let password = Password::new(&Host::parse(&registry.host()).unwrap(), "secret");
    assert_eq!(fetched(&pod, &password, b"").await, Ok(3));
    assert_eq!(pod.read("coral-build/source/two"), "22");
    let record = pod.read("coral-build/record/fetch.json");
    assert!(record.contains(&image.digest().to_string()), "{record}");
    // The controller signs with a key of which the registry hears a moment later.
    let pod = TestPod::at(&registry.host(), &source, &["team-a/shop:1"]);
    let replaced = Replaced::after(&Host::parse(&registry.host()).unwrap(), 1);
    assert_eq!(fetched(&pod, &replaced, b"").await, Ok(3));
    assert_eq!(replaced.asked(), 2);
}

#[tokio::test]
async fn the_key_is_replaced_while_an_image_inside_is_read() {
    let registry = FaultRegistry::start_with_auth(basic("token", "secret")).await;
    let host = Host::parse(&registry.host()).unwrap();
    let image = ImageBuilder::new(1).layer(tar_of("one", b"1"));
    let image = image.layer(tar_of("two", b"22")).build();
    let index = IndexBuilder::new().image(image.clone(), "linux/amd64");
    let index = index.build().tagged("1");
    registry.load("team-a/source", &index);
    let reference = format!("{}/team-a/source:1", registry.host());
    let source = json!({"limit": 1 << 20, "image": {"reference": reference}});
    let refused = Fault::new(Effect::Status {
        status: 401,
        headers: Vec::new(),
        body: String::new(),
    });
    // The image in the index, and the second of its layers.
    let second = coral_image::Algorithm::Sha256.digest(&tar_of("two", b"22"));
    let child = format!("manifests/{}", image.digest());
    for path in [child, format!("blobs/{second}")] {
        registry.clear_faults();
        registry.fault(refused.clone().path(&path).first(1));
        let pod = TestPod::at(&registry.host(), &source, &["team-a/shop:1"]);
        let credentials = Replaced::after(&host, 0);
        assert_eq!(fetched(&pod, &credentials, b"").await, Ok(3), "{path}");
        assert_eq!(credentials.asked(), 2, "{path}");
        assert_eq!(pod.read("coral-build/source/two"), "22");
    }
}

/// Bytes that no compression makes small.
fn noise(length: u32) -> Vec<u8> {
    let bytes = (0..length).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]);
    bytes.collect()
}

/// Regression: a layer that was cut in the seconds of a replaced key failed the build.
#[tokio::test]
async fn a_layer_is_read_on_with_another_credential_when_it_is_cut_while_the_key_is_replaced() {
    let registry = FaultRegistry::start_with_auth(basic("token", "unknown")).await;
    let host = Host::parse(&registry.host()).unwrap();
    let content = noise(7_000_000);
    let layer = tar_of("large", &content);
    let image = ImageBuilder::new(1).layer(layer.clone()).tag("1").build();
    registry.load("team-a/source", &image);
    let digest = coral_image::Algorithm::Sha256.digest(&layer);
    let path = format!("blobs/{digest}");
    registry.fault(
        Fault::new(Effect::CutBody { after: 6_000_000 })
            .path(&path)
            .first(1),
    );
    let held = Effect::Hold {
        gate: "replaced".to_owned(),
    };
    registry.fault(Fault::new(held).path(&path).after(1));
    let reference = format!("{}/team-a/source:1", registry.host());
    let source = json!({"limit": 8 << 20, "image": {"reference": reference}});
    let pod = TestPod::at(&registry.host(), &source, &["team-a/shop:1"]);
    let credentials = Replaced::after(&host, 1);
    let replacing = async {
        let reads = |all: &[Recorded]| all.iter().filter(|it| it.path.contains(&path)).count();
        registry.wait_for(|all| reads(all) == 2).await;
        registry.set_auth(basic("token", "secret"));
        registry.release("replaced");
    };
    let (fetched, ()) = tokio::join!(fetched(&pod, &credentials, b""), replacing);
    assert_eq!(fetched, Ok(7_000_000));
    assert_eq!(credentials.asked(), 2);
    assert!(std::fs::read(pod.path("coral-build/source/large")).unwrap() == content);
    // Cut, refused, and read to its end.
    let statuses = registry.requests().into_iter();
    let statuses = statuses.filter(|it| it.path.contains(&path));
    let statuses: Vec<_> = statuses.map(|it| (it.status, it.range.is_some())).collect();
    assert_eq!(statuses.first(), Some(&(200, false)), "{statuses:?}");
    assert_eq!(statuses.last(), Some(&(206, true)), "{statuses:?}");
    assert!(statuses.contains(&(401, true)), "{statuses:?}");
}

#[tokio::test]
async fn an_image_outside_is_read_with_the_secret_of_the_source_and_never_with_the_controllers() {
    let registry = FaultRegistry::start_with_auth(basic("user", "password")).await;
    let image = ImageBuilder::new(1).layer(tar_of("one", b"1")).build();
    registry.load("source", &image);
    let reference = format!("{}/source@{}", registry.host(), image.digest());
    let source = json!({"limit": 1 << 20, "image": {"reference": reference}});
    let pod = TestPod::new(&source, &["team-a/shop:1"]);
    let mut asks = Vec::new();
    for secret in [None, Some("wrong")] {
        if let Some(word) = secret {
            let folder = "coral-build/source-credential";
            pod.write_docker_config(folder, &registry.host(), "user", word);
        }
        registry.clear_requests();
        let refused = fetched(&pod, &NoCredential, b"").await.unwrap_err();
        assert!(refused.contains("401"), "{refused}");
        asks.push(registry.count(|it| it.path.contains("manifests")));
    }
    // With nothing, or with a credential that does not change, what is refused is asked for at once only:
    // by a request without the credential, and by some with it.
    assert!(asks.iter().all(|asks| *asks <= 3), "{asks:?}");
    pod.write_docker_config(
        "coral-build/source-credential",
        &registry.host(),
        "user",
        "password",
    );
    assert_eq!(fetched(&pod, &NoCredential, b"").await, Ok(1));
}

#[tokio::test]
async fn an_image_that_is_not_there_or_whose_bytes_are_wrong_is_an_error_that_says_so() {
    let registry = FaultRegistry::start().await;
    let image = ImageBuilder::new(1)
        .layer(tar_of("one", b"1"))
        .tag("1")
        .build();
    registry.load("source", &image);
    let fetch_it = async |version: &str| {
        let reference = format!("{}/source{version}", registry.host());
        let source = json!({"limit": 1 << 20, "image": {"reference": reference}});
        fetched(
            &TestPod::new(&source, &["team-a/shop:1"]),
            &NoCredential,
            b"",
        )
        .await
    };
    let missing = fetch_it(":2").await.unwrap_err();
    assert!(missing.contains("404"), "{missing}");
    let layer = coral_image::Algorithm::Sha256.digest(&tar_of("one", b"1"));
    registry.spoil_blob("source", &layer, tar_of("one", b"2"));
    let wrong = fetch_it(":1").await.unwrap_err();
    assert!(wrong.contains("sha256:"), "{wrong}");
}
