//! Uploads arrive completely, or the error says why not.

use coral_distribution::{
    BlobPush, BlobStream, Category, Credentials, Disposition, RepositoryClient,
};
use coral_image::{Digest, RepositoryPath};
use coral_testkit::{Auth, Bearer, Effect, Fault, FaultRegistry};

use crate::fixture::*;

async fn push(
    client: &RepositoryClient,
    chunk: Option<usize>,
) -> Result<(), coral_distribution::Error> {
    let (blob, bytes) = large_blob(&image());
    let upload = begin(client, &blob.digest).await?;
    match chunk {
        None => upload.put(blob.size, stream_of(&bytes)).await,
        Some(chunk) => upload.put_chunked(chunk, stream_of(&bytes)).await,
    }
}

fn arrived(registry: &FaultRegistry) -> bool {
    let (blob, bytes) = large_blob(&image());
    registry
        .blob(PATH, &blob.digest)
        .is_some_and(|stored| stored == bytes)
}

#[tokio::test]
async fn a_blob_is_pushed_in_two_requests() {
    let registry = FaultRegistry::start().await;
    push(&anonymous(&registry), None).await.unwrap();
    assert!(arrived(&registry));
    let methods: Vec<_> = registry.requests().into_iter().map(|r| r.method).collect();
    assert_eq!(methods, ["POST", "PUT"]);
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks_as_large_as_the_registry_wants() {
    for (chunk, minimum, patches) in [(40_000, "1", 3), (100_000, "1", 1), (1, "60000", 2)] {
        let registry = FaultRegistry::start().await;
        registry.fault(Fault::new(set_header("oci-chunk-min-length", minimum)).method("POST"));
        push(&anonymous(&registry), Some(chunk)).await.unwrap();
        assert!(arrived(&registry));
        assert_eq!(registry.count(|r| r.method == "PATCH"), patches);
    }
}

#[tokio::test]
async fn a_location_may_be_relative_and_have_a_query() {
    let registry = FaultRegistry::start().await;
    let (blob, bytes) = large_blob(&image());
    let client = anonymous(&registry);
    registry.fault(Fault::new(set_header("location", "some-id?state=a%2Fb")).method("POST"));
    let upload = begin(&client, &blob.digest).await.unwrap();
    let _ = upload.put(blob.size, stream_of(&bytes)).await;
    let put = registry.requests().pop().unwrap().path;
    let expected = format!("/v2/{PATH}/blobs/uploads/some-id?state=a%2Fb&digest=sha256%3A");
    assert!(put.starts_with(&expected), "{put}");
}

#[tokio::test]
async fn a_blob_is_mounted_where_it_is_and_pushed_where_it_is_not() {
    let registry = FaultRegistry::start().await;
    registry.load("library/base", &image());
    let client = anonymous(&registry);
    let (blob, bytes) = large_blob(&image());
    let elsewhere = RepositoryPath::parse("library/other").unwrap();
    let push = client
        .begin_blob(&blob.digest, Some(&elsewhere))
        .await
        .unwrap();
    assert!(matches!(push, BlobPush::Upload(_)));
    let base = RepositoryPath::parse("library/base").unwrap();
    let push = client.begin_blob(&blob.digest, Some(&base)).await.unwrap();
    assert!(matches!(push, BlobPush::Mounted));
    assert_eq!(registry.blob(PATH, &blob.digest), Some(bytes));
}

#[tokio::test]
async fn a_registry_that_refuses_to_mount_still_gets_the_blob() {
    for refusal in [400, 403, 404, 405] {
        let registry = FaultRegistry::start().await;
        registry.fault(Fault::new(status(refusal, &[], "")).path("from="));
        let base = RepositoryPath::parse("library/base").unwrap();
        let digest = Digest::sha256(b"x");
        let push = anonymous(&registry)
            .begin_blob(&digest, Some(&base))
            .await
            .unwrap();
        assert!(matches!(push, BlobPush::Upload(_)), "{refusal}");
    }
}

#[tokio::test]
async fn a_mount_that_breaks_is_followed_by_an_upload() {
    let stalls = Effect::Stall;
    for effect in [
        status(500, &[], ""),
        status(503, &[], ""),
        Effect::Close,
        stalls,
    ] {
        let registry = FaultRegistry::start().await;
        registry.fault(Fault::new(effect.clone()).path("mount="));
        let options = patient_enough(&registry, &effect);
        let client = with(&registry, options, Credentials::none());
        let base = RepositoryPath::parse("library/base").unwrap();
        let (digest, name) = (Digest::sha256(b"x"), format!("{effect:?}"));
        let push = client.begin_blob(&digest, Some(&base)).await.expect(&name);
        assert!(matches!(push, BlobPush::Upload(_)), "{name}");
    }
}

/// A blob that is believed to exist is not sent, and the image would lack it.
#[tokio::test]
async fn an_answer_that_the_blob_is_there_is_held_against_what_was_asked_for() {
    let (digest, other) = (Digest::sha256(b"x"), Digest::sha256(b"y"));
    let base = RepositoryPath::parse("library/base").unwrap();
    for (named, is_believed) in [(digest, true), (other, false)] {
        let registry = FaultRegistry::start().await;
        let named = named.to_string();
        let mounted = status(201, &[("docker-content-digest", &named)], "");
        registry.fault(Fault::new(mounted).path("mount="));
        let push = anonymous(&registry).begin_blob(&digest, Some(&base)).await;
        let is_sent = matches!(push.unwrap(), BlobPush::Upload(_));
        assert_eq!(is_sent, !is_believed, "{named}");
    }
    let registry = FaultRegistry::start().await;
    registry.fault(Fault::new(status(201, &[], "")).method("POST"));
    let error = anonymous(&registry).begin_blob(&digest, None).await;
    let said = error.map(|_| ()).unwrap_err().to_string();
    assert!(said.contains("before any of its bytes arrived"), "{said}");
}

#[tokio::test]
async fn a_mount_that_is_throttled_is_followed_by_an_upload_after_the_wait() {
    let registry = FaultRegistry::start().await;
    let throttled = status(429, &[("retry-after", "7")], "");
    registry.fault(Fault::new(throttled).path("mount="));
    let (client, digest) = (anonymous(&registry), Digest::sha256(b"x"));
    let base = RepositoryPath::parse("library/base").unwrap();
    let begin = || client.begin_blob(&digest, Some(&base));
    let wait = begin().await.unwrap_err().retry_after().unwrap();
    assert_eq!(wait.as_secs(), 7);
    assert!(matches!(begin().await.unwrap(), BlobPush::Upload(_)));
    assert!(begin().await.is_err(), "later pushes ask for a mount again");
}

#[tokio::test]
async fn wrong_bytes_are_refused_by_the_other_side_with_its_reason() {
    let registry = FaultRegistry::start().await;
    let client = anonymous(&registry);
    let upload = begin(&client, &Digest::sha256(b"something else"))
        .await
        .unwrap();
    let error = upload.put(4, stream_of(&"blob".into())).await.unwrap_err();
    assert_eq!(error.category(), Category::Refused);
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
}

#[tokio::test]
async fn the_error_of_the_source_is_what_comes_out() {
    let (source, built) = registry_with_image().await;
    let (blob, _) = large_blob(&built);
    source.fault(Fault::new(Effect::FlipByte { at: 99_999 }).path("/blobs/"));
    let from = anonymous(&source);
    for chunk in [None, Some(30_000)] {
        let registry = FaultRegistry::start().await;
        let upload = begin(&anonymous(&registry), &blob.digest).await.unwrap();
        let body: BlobStream = from.blob(&blob, 0).await.unwrap();
        let error = match chunk {
            None => upload.put(blob.size, body).await.unwrap_err(),
            Some(chunk) => upload.put_chunked(chunk, body).await.unwrap_err(),
        };
        assert_eq!(error.category(), Category::Digest, "{error}");
        assert_eq!(error.place(), source.host());
        let ended = registry.count(|r| r.method == "PUT" && r.status != 0);
        assert_eq!(
            ended,
            0,
            "nothing wrong was ever complete: {:?}",
            registry.requests()
        );
    }
}

#[tokio::test]
async fn an_upload_that_is_cut_or_stalls_is_named() {
    let cases = [
        (Effect::CutUpload { after: 30_000 }, Category::Cut),
        (Effect::StallUpload { after: 30_000 }, Category::Timeout),
        (Effect::Stall, Category::Timeout),
        (status(500, &[], ""), Category::Server),
        (status(413, &[], ""), Category::TooLarge),
        (status(507, &[], "disk full"), Category::NoRoom),
    ];
    for (effect, expected) in cases {
        for (method, chunk) in [("PUT", None), ("PATCH", Some(50_000))] {
            let registry = FaultRegistry::start().await;
            registry.fault(Fault::new(effect.clone()).method(method));
            let options = patient_enough(&registry, &effect);
            let client = with(&registry, options, Credentials::none());
            let error = push(&client, chunk).await.unwrap_err();
            assert_eq!(error.category(), expected, "{effect:?} {method}: {error}");
        }
    }
}

#[tokio::test]
async fn a_token_that_ends_with_the_upload_open_makes_it_begin_again() {
    let auth = Bearer {
        uses: Some(1),
        ..bearer()
    };
    let registry = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    let client = logged_in(&registry);
    let error = push(&client, None).await.unwrap_err();
    assert_eq!(error.category(), Category::Unauthorized);
    assert_eq!(error.disposition(), Disposition::Retry);
    // The chunks are in memory, so they are simply sent again.
    push(&client, Some(30_000)).await.unwrap();
    assert!(arrived(&registry));
}

#[tokio::test]
async fn an_upload_that_the_other_side_has_lost_may_begin_again() {
    for lost in [404, 410, 416] {
        for (method, chunk) in [("PUT", None), ("PATCH", Some(50_000))] {
            let registry = FaultRegistry::start().await;
            registry.fault(Fault::new(status(lost, &[], "")).method(method).first(1));
            let client = anonymous(&registry);
            let error = push(&client, chunk).await.unwrap_err();
            assert_eq!(error.disposition(), Disposition::Retry, "{error}");
            push(&client, chunk).await.unwrap();
            assert!(arrived(&registry));
        }
    }
}

#[tokio::test]
async fn a_refused_upload_is_given_up_and_takes_no_room() {
    for (method, chunk) in [("PUT", None), ("PATCH", Some(50_000))] {
        let registry = FaultRegistry::start().await;
        registry.fault(Fault::new(status(507, &[], "full")).method(method));
        let error = push(&anonymous(&registry), chunk).await.unwrap_err();
        assert_eq!(error.status(), Some(507));
        let given_up = registry.count(|r| r.method == "DELETE" && r.status == 204);
        assert_eq!(given_up, 1, "{:?}", registry.requests());
    }
}

#[tokio::test]
async fn an_upload_can_be_given_up() {
    let registry = FaultRegistry::start().await;
    let upload = begin(&anonymous(&registry), &Digest::sha256(b"x"))
        .await
        .unwrap();
    upload.cancel().await.unwrap();
    assert_eq!(
        registry.count(|r| r.method == "DELETE" && r.status == 204),
        1
    );
}

#[tokio::test]
async fn an_upload_without_location_or_with_a_wrong_count_is_named() {
    let registry = FaultRegistry::start().await;
    registry.fault(
        Fault::new(Effect::DropHeader {
            name: "location".to_owned(),
        })
        .method("POST"),
    );
    let error = push(&anonymous(&registry), None).await.unwrap_err();
    assert!(error.to_string().contains("Location"), "{error}");
    let registry = FaultRegistry::start().await;
    registry.fault(Fault::new(set_header("range", "0-7")).method("PATCH"));
    let error = push(&anonymous(&registry), Some(30_000)).await.unwrap_err();
    assert!(error.to_string().contains("it claims to have 8"), "{error}");
}

#[tokio::test]
async fn an_upload_cannot_be_redirected_half_way() {
    let registry = FaultRegistry::start().await;
    let elsewhere = FaultRegistry::start().await;
    let to = elsewhere.url().to_owned();
    registry.fault(Fault::new(Effect::Redirect { to }).method("PUT"));
    let error = push(&anonymous(&registry), None).await.unwrap_err();
    assert_eq!(error.category(), Category::Protocol, "{error}");
    assert!(elsewhere.requests().is_empty());
}

/// Regression: the body was consumed by then, and the upload was tried five times.
#[tokio::test]
async fn an_upload_that_is_redirected_is_refused_at_once() {
    let (registry, elsewhere) = (FaultRegistry::start().await, FaultRegistry::start().await);
    let (blob, bytes) = large_blob(&image());
    let upload = begin(&anonymous(&registry), &blob.digest).await.unwrap();
    let to = elsewhere.url().to_owned();
    registry.fault(Fault::new(Effect::Redirect { to }).method("PUT"));
    let error = upload.put(blob.size, stream_of(&bytes)).await.unwrap_err();
    let disposition = error.disposition();
    assert_eq!(disposition, coral_distribution::Disposition::WaitForChange);
    assert!(error.to_string().contains("redirect"), "{error}");
}

/// Regression: for a registry that believes to be behind TLS, the message named a flag that was
/// already given.
#[tokio::test]
async fn an_address_for_an_upload_that_is_wrong_is_named_and_no_flag_that_was_given() {
    let registry = FaultRegistry::start().await;
    let location = format!("https://{}/v2/{PATH}/blobs/uploads/x", registry.host());
    registry.fault(Fault::new(set_header("location", &location)).method("POST"));
    let error = push(&anonymous(&registry), None).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains(&location), "{said}");
    assert!(said.contains("external address"), "{said}");
    assert!(!said.contains("--plain-http"), "{said}");
    assert_eq!(error.disposition(), Disposition::WaitForChange, "{said}");
}
