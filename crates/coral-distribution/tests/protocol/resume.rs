//! An interrupted transfer resumes where it ended, on both sides of a copy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coral_distribution::{
    BlobPushError, BlobSource, BlobStream, Category, Client, ClientOptions, Credentials, Endpoint,
    Error, HostOptions, Layout, OpenUploads, RepositoryClient,
};
use coral_image::{Host, Repository};
use coral_testkit::{Auth, Bearer, Built, Effect, Fault, FaultRegistry, ImageBuilder, Recorded};
use futures::StreamExt;

use crate::fixture::*;

fn source_of(registry: &FaultRegistry, built: &Built) -> BlobSource {
    BlobSource::new(anonymous(registry).into(), large_blob(built).0)
}

fn ranges(registry: &FaultRegistry) -> Vec<String> {
    registry
        .requests()
        .into_iter()
        .filter_map(|request| request.range)
        .collect()
}

/// Pushes the large blob of an image from one registry to the other.
async fn copy(
    from: &FaultRegistry,
    to: &FaultRegistry,
    built: &Built,
) -> Result<(), BlobPushError> {
    let to = anonymous(to);
    let upload = begin(&to, &large_blob(built).0.digest).await.unwrap();
    upload.put_from(&source_of(from, built)).await
}

fn arrived(registry: &FaultRegistry, built: &Built) -> bool {
    let (blob, bytes) = large_blob(built);
    registry.blob(PATH, &blob.digest) == Some(bytes)
}

/// Two registries, the first with an image.
async fn pair() -> (FaultRegistry, FaultRegistry, Built) {
    let (from, built) = registry_with_image().await;
    (from, FaultRegistry::start().await, built)
}

#[tokio::test]
async fn a_read_goes_on_at_its_offset_after_each_kind_of_cut() {
    for effect in [
        Effect::CutBody { after: 60_000 },
        Effect::CutWire { after: 60_000 },
        Effect::StallBody { after: 60_000 },
    ] {
        let (registry, built) = registry_with_image().await;
        registry.fault(Fault::new(effect.clone()).path("/blobs/").first(1));
        let client = with(
            &registry,
            patient_enough(&registry, &effect),
            Credentials::none(),
        );
        let (blob, bytes) = large_blob(&built);
        let source = BlobSource::new(client.into(), blob);
        assert!(
            read(source.read().await).await.unwrap() == bytes,
            "{effect:?}"
        );
        let ranges = ranges(&registry);
        assert_eq!(ranges.len(), 1, "{effect:?} {ranges:?}");
        assert_ne!(ranges[0], "bytes=0-");
        let sent: u64 = registry.requests().iter().map(|r| r.sent).sum();
        assert!(sent < 170_000, "read on, not again: {sent}");
    }
}

#[tokio::test]
async fn a_read_that_gets_nowhere_ends_with_what_cut_it() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(Effect::CutBody { after: 100 }).path("/blobs/"));
    let source = source_of(&registry, &built);
    let error = read(source.read().await).await.unwrap_err();
    assert_eq!(error.category(), Category::Cut, "{error}");
    assert_eq!(registry.requests().len(), 6);
}

#[tokio::test]
async fn a_blob_that_drips_from_its_beginning_is_not_asked_for_again() {
    let (registry, built) = registry_with_image().await;
    let drip = Effect::Drip {
        chunk: 1,
        every_ms: 300,
    };
    registry.fault(Fault::new(drip).path("/blobs/"));
    let options = ClientOptions {
        stall_timeout: Duration::from_secs(2),
        ..plain(&[&registry])
    };
    let client = with(&registry, options, Credentials::none());
    let source = BlobSource::new(client.into(), large_blob(&built).0);
    let error = read(source.read().await).await.unwrap_err();
    assert!(error.to_string().contains("bytes came in"), "{error}");
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_not_read_again() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(Effect::FlipByte { at: 9 }).path("/blobs/"));
    let error = read(source_of(&registry, &built).read().await)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Digest, "{error}");
    assert_eq!(registry.requests().len(), 1);
    // A flipped byte after the interruption is detected as well: both parts are hashed.
    registry.clear_faults();
    registry.clear_requests();
    registry.fault(Fault::new(Effect::CutBody { after: 50_000 }).first(1));
    registry.fault(Fault::new(Effect::FlipByte { at: 9 }).after(1));
    let error = read(source_of(&registry, &built).read().await)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Digest, "{error}");
}

#[tokio::test]
async fn an_upload_goes_on_where_the_registry_stands() {
    let (from, to, built) = pair().await;
    to.fault(
        Fault::new(Effect::CutUpload { after: 60_000 })
            .method("PUT")
            .first(1),
    );
    copy(&from, &to, &built).await.unwrap();
    assert!(arrived(&to, &built));
    let methods: Vec<_> = to.requests().into_iter().map(|r| r.method).collect();
    assert_eq!(methods, ["POST", "PUT", "GET", "PUT"]);
    let last = to.requests().pop().unwrap();
    assert_eq!(last.received, 40_000, "only what was missing");
}

#[tokio::test]
async fn an_upload_that_was_dropped_begins_anew() {
    for dropped in [
        Effect::CutUpload { after: 0 },
        Effect::Close,
        status(404, &[], ""),
    ] {
        let (from, to, built) = pair().await;
        to.fault(Fault::new(dropped).method("PUT").first(1));
        to.fault(
            Fault::new(status(404, &[], ""))
                .method("GET")
                .path("/uploads/"),
        );
        copy(&from, &to, &built).await.unwrap();
        assert!(arrived(&to, &built));
        assert_eq!(to.count(|r| r.method == "POST"), 2);
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_finished_upload_is_no_failure() {
    let (from, to, built) = pair().await;
    to.fault(
        Fault::new(Effect::CutWire { after: 0 })
            .method("PUT")
            .first(1),
    );
    copy(&from, &to, &built).await.unwrap();
    assert!(arrived(&to, &built));
    assert_eq!(to.count(|r| r.method == "PUT"), 1);
    assert_eq!(to.count(|r| r.method == "POST"), 1);
}

#[tokio::test]
async fn a_token_that_ends_with_the_upload_open_is_renewed_and_the_upload_goes_on() {
    let (from, built) = registry_with_image().await;
    let auth = Bearer {
        uses: Some(2),
        ..bearer()
    };
    let to = FaultRegistry::start_with_auth(Auth::Bearer(auth)).await;
    let client = logged_in(&to);
    client.head(&tag("1")).await.unwrap();
    let upload = begin(&client, &large_blob(&built).0.digest).await.unwrap();
    upload.put_from(&source_of(&from, &built)).await.unwrap();
    assert!(arrived(&to, &built));
}

#[tokio::test]
async fn an_upload_that_always_ends_is_given_up_and_blamed_on_the_right_side() {
    let (from, to, built) = pair().await;
    to.fault(Fault::new(Effect::CutUpload { after: 10 }).method("PUT"));
    let failed = copy(&from, &to, &built).await.unwrap_err();
    assert!(
        matches!(&failed, BlobPushError::Destination(e) if e.place() == to.host()),
        "{failed:?}"
    );
    let (from, to, built) = pair().await;
    from.fault(Fault::new(Effect::CutBody { after: 10 }).method("GET"));
    let failed = copy(&from, &to, &built).await.unwrap_err();
    assert!(
        matches!(&failed, BlobPushError::Source(e) if e.place() == from.host()),
        "{failed:?}"
    );
    assert_eq!(to.count(|r| r.method == "DELETE" && r.status == 204), 1);
}

#[tokio::test]
async fn a_refusal_is_not_pushed_against() {
    for code in [400, 403, 413, 429, 500, 507] {
        let (from, to, built) = pair().await;
        to.fault(Fault::new(status(code, &[], "")).method("PUT"));
        let failed = copy(&from, &to, &built).await.unwrap_err();
        assert!(
            matches!(&failed, BlobPushError::Destination(e) if e.status() == Some(code)),
            "{failed:?}"
        );
        assert_eq!(to.count(|r| r.method == "PUT"), 1);
    }
}

#[tokio::test]
async fn a_large_blob_is_read_again_only_from_near_the_cut() {
    const MIB: usize = 1024 * 1024;
    let built = ImageBuilder::new(3).layers_of(&[9 * MIB]).tag("1").build();
    let (from, to) = (FaultRegistry::start().await, FaultRegistry::start().await);
    from.load(PATH, &built);
    to.fault(
        Fault::new(Effect::CutUpload { after: 8 * MIB + 5 })
            .method("PUT")
            .first(1),
    );
    copy(&from, &to, &built).await.unwrap();
    assert!(arrived(&to, &built));
    let ranges = ranges(&from);
    let start: usize = ranges[0]
        .trim_start_matches("bytes=")
        .trim_end_matches('-')
        .parse()
        .unwrap();
    assert!((4 * MIB..=8 * MIB + 5).contains(&start), "{ranges:?}");
}

#[tokio::test]
async fn every_byte_passes_through_what_counts_it() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let (registry, built) = registry_with_image().await;
    registry.fault(
        Fault::new(Effect::CutBody { after: 60_000 })
            .path("/blobs/")
            .first(1),
    );
    let counter = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&counter);
    let source = source_of(&registry, &built).with_wrapper(move |stream| {
        let counter = Arc::clone(&counter);
        BlobStream::new(stream.inspect(move |item: &Result<_, Error>| {
            if let Ok(bytes) = item as &Result<bytes::Bytes, Error> {
                counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        }))
    });
    read(source.read().await).await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), source.blob().size);
}

#[tokio::test]
async fn a_cut_download_into_a_layout_goes_on_too() {
    let (from, built) = registry_with_image().await;
    from.fault(
        Fault::new(Effect::CutBody { after: 60_000 })
            .path("/blobs/")
            .first(1),
    );
    let dir = tempfile::tempdir().unwrap();
    let layout = Endpoint::from(Layout::new(dir.path()));
    let (blob, bytes) = large_blob(&built);
    let push = layout.begin_blob(&blob.digest, None).await.unwrap();
    let coral_distribution::BlobPush::Upload(upload) = push else {
        panic!("nothing is there yet");
    };
    upload.put_from(&source_of(&from, &built)).await.unwrap();
    assert_eq!(ranges(&from).len(), 1);
    assert!(read(layout.blob(&blob, 0).await).await.unwrap() == bytes);
}

#[tokio::test]
async fn an_upload_is_given_up_when_its_source_has_nothing() {
    let (from, to, built) = pair().await;
    from.fault(Fault::new(status(404, &[], "")).path("/blobs/"));
    let failed = copy(&from, &to, &built).await.unwrap_err();
    assert!(matches!(failed, BlobPushError::Source(_)), "{failed:?}");
    let methods: Vec<_> = to.requests().into_iter().map(|r| r.method).collect();
    assert_eq!(methods, ["POST", "DELETE"]);
}

/// A registry that verifies digests and says so, as Coral's does.
async fn verifying(
    from: Option<Effect>,
    to: Option<Effect>,
) -> (FaultRegistry, FaultRegistry, Built) {
    let pair = pair().await;
    let (name, value) = ("coral-verifies-digest".to_owned(), "true".to_owned());
    pair.1
        .fault(Fault::new(Effect::SetHeader { name, value }).method("POST"));
    if let Some(effect) = from {
        pair.0.fault(Fault::new(effect).path("/blobs/").first(1));
    }
    if let Some(effect) = to {
        pair.1.fault(Fault::new(effect).method("PUT"));
    }
    pair
}

#[tokio::test]
async fn where_the_registry_verifies_wrong_bytes_are_read_again_to_see_who_is_to_blame() {
    let (from, to, built) = verifying(Some(Effect::FlipByte { at: 9 }), None).await;
    copy(&from, &to, &built).await.unwrap();
    assert!(
        arrived(&to, &built),
        "wrong once: the second read was right"
    );
    assert_eq!(from.requests().len(), 2);

    let (from, to, built) = verifying(None, None).await;
    from.fault(Fault::new(Effect::FlipByte { at: 9 }).path("/blobs/"));
    let failed = copy(&from, &to, &built).await.unwrap_err();
    let BlobPushError::Source(error) = failed else {
        panic!("{failed:?}")
    };
    assert_eq!(error.category(), Category::Digest, "{error}");
    assert!(!arrived(&to, &built));

    let refusal = Effect::Status {
        status: 400,
        headers: vec![],
        body: String::new(),
    };
    let (from, to, built) = verifying(None, Some(refusal)).await;
    let failed = copy(&from, &to, &built).await.unwrap_err();
    assert!(
        matches!(failed, BlobPushError::Destination(_)),
        "{failed:?}"
    );
}

#[tokio::test]
async fn where_the_registry_verifies_a_cut_read_goes_on_and_a_short_one_is_noticed() {
    let cut = Effect::CutBody { after: 60_000 };
    let (from, to, built) = verifying(Some(cut), None).await;
    copy(&from, &to, &built).await.unwrap();
    assert!(arrived(&to, &built));
    assert_eq!(ranges(&from), ["bytes=60000-"]);
    let (from, to, built) = verifying(None, None).await;
    from.fault(Fault::new(Effect::Lengthen { bytes: 1 }).path("/blobs/"));
    let failed = copy(&from, &to, &built).await.unwrap_err();
    assert!(matches!(failed, BlobPushError::Source(_)), "{failed:?}");
}

/// A client that stores its open uploads in this folder.
fn remembering(registry: &FaultRegistry, folder: &Path) -> RepositoryClient {
    remembering_at(&host(registry), folder)
}

/// The same for a registry at this address, which may change.
fn remembering_at(host: &Host, folder: &Path) -> RepositoryClient {
    let uploads = OpenUploads::new(folder.to_owned());
    let plain = HostOptions {
        plain_http: true,
        ..HostOptions::default()
    };
    let client = Client::new(ClientOptions {
        open_uploads: Some(uploads.with_alias(host.clone(), "(moves)")),
        hosts: [(host.clone(), plain)].into(),
        ..ClientOptions::default()
    });
    let repository = Repository::parse(&format!("{host}/{PATH}")).unwrap();
    client
        .unwrap()
        .repository(&repository, Arc::new(Credentials::none()))
}

/// A push that is interrupted after 60,000 bytes, and dropped before it resumes.
async fn left_open((from, to): (&FaultRegistry, &FaultRegistry), folder: &Path, built: &Built) {
    let cut = Effect::CutUpload { after: 60_000 };
    to.fault(Fault::new(cut).method("PUT").first(1));
    let asked = Fault::new(Effect::Stall).method("GET").path("/uploads/");
    to.fault(asked.first(1));
    let client = remembering(to, folder);
    let upload = begin(&client, &large_blob(built).0.digest).await.unwrap();
    let source = source_of(from, built);
    let asks = |request: &Recorded| request.method == "GET" && request.path.contains("/uploads/");
    tokio::select! {
        ended = upload.put_from(&source) => panic!("it asks how far it came: {ended:?}"),
        () = to.wait_for(|requests| requests.iter().any(asks)) => {}
    }
}

fn left_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn an_upload_that_a_process_left_open_goes_on_at_its_offset_in_the_next() {
    let (from, to, built) = verifying(None, None).await;
    let folder = tempfile::tempdir().unwrap();
    left_open((&from, &to), folder.path(), &built).await;
    assert_eq!(left_in(folder.path()), 1);
    let next = remembering(&to, folder.path());
    let upload = begin(&next, &large_blob(&built).0.digest).await.unwrap();
    upload.put_from(&source_of(&from, &built)).await.unwrap();
    assert!(arrived(&to, &built));
    let begun = |method: &str| to.count(|r| r.method == method);
    assert_eq!((begun("POST"), begun("DELETE")), (1, 0));
    assert_eq!(ranges(&from).len(), 1, "the source is asked for the rest");
    assert_eq!(left_in(folder.path()), 0);
}

#[tokio::test]
async fn an_upload_that_cannot_be_gone_on_with_is_thrown_away_and_begins_anew() {
    let forgotten = Effect::Status {
        status: 404,
        headers: vec![],
        body: String::new(),
    };
    let folder = tempfile::tempdir().unwrap();
    let (from, to, built) = verifying(None, None).await;
    left_open((&from, &to), folder.path(), &built).await;
    to.fault(Fault::new(forgotten).method("GET").path("/uploads/"));
    let next = remembering(&to, folder.path());
    let upload = begin(&next, &large_blob(&built).0.digest).await.unwrap();
    upload.put_from(&source_of(&from, &built)).await.unwrap();
    assert!(arrived(&to, &built));
    let begun = |method: &str| to.count(|r| r.method == method);
    assert_eq!((begun("POST"), begun("DELETE")), (2, 1));
    assert_eq!(left_in(folder.path()), 0);
}

/// Regression: an upload that a run under another listen port left open was never found, and took
/// space for a day.
#[tokio::test]
async fn an_upload_goes_on_though_the_registry_has_another_address() {
    let (from, to, built) = verifying(None, None).await;
    let folder = tempfile::tempdir().unwrap();
    left_open((&from, &to), folder.path(), &built).await;
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap();
    let remembered = std::fs::read_to_string(file.unwrap().path()).unwrap();
    assert!(remembered.contains("\"/v2/"), "{remembered}");
    let other = to.host().replace("127.0.0.1", "localhost");
    let next = remembering_at(&Host::parse(&other).unwrap(), folder.path());
    let upload = begin(&next, &large_blob(&built).0.digest).await.unwrap();
    upload.put_from(&source_of(&from, &built)).await.unwrap();
    assert!(arrived(&to, &built));
    let begun = |method: &str| to.count(|r| r.method == method);
    assert_eq!((begun("POST"), begun("DELETE")), (1, 0));
    assert_eq!(left_in(folder.path()), 0);
}
