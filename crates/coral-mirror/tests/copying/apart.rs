//! Sources do not affect each other, neither by slowness nor by the digests that they name.

use std::time::Duration;

use super::*;

const SOON: Duration = Duration::from_mins(2);

fn status(status: u16) -> Effect {
    Effect::Status {
        status,
        headers: vec![],
        body: String::new(),
    }
}

fn engine() -> Engine {
    Engine::start(
        InProcess::default(),
        EngineLimits::default(),
        Arc::new(Deaf),
    )
}

/// Regression: a source that named a digest got the blob of another repository.
#[tokio::test]
async fn a_blob_that_the_source_has_not_is_not_mounted_from_elsewhere() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/one", &built);
    pair.source.load("team/two", &built);
    pair.source
        .fault(Fault::new(status(404)).path("team/two/blobs/"));
    let copier = Copier::default();
    let mine = pair.request("team/one:1", "here/one:1");
    copier.copy(&mine).await.unwrap();
    let theirs = pair.request("team/two:1", "here/two:1");
    let error = copier.copy(&theirs).await.unwrap_err();
    assert_eq!(error.category(), "not_found");
    assert!(error.to_string().contains("source"), "{error}");
    assert!(pair.destination.tags("here/two").is_empty());
    for digest in built.blobs.keys() {
        assert_eq!(pair.destination.blob("here/two", digest), None);
    }
}

/// The answer of Coral's registry about a blob that another repository has.
fn elsewhere() -> Fault {
    let (name, value) = ("coral-blob-elsewhere".to_owned(), "true".to_owned());
    Fault::new(Effect::SetHeader { name, value }).method("POST")
}

#[tokio::test]
async fn a_blob_that_any_repository_has_is_mounted_by_a_process_that_knows_of_none() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/two", &built);
    pair.destination.load("here/one", &built);
    pair.destination.fault(elsewhere());
    let theirs = pair.request("team/two:1", "here/two:1");
    let copied = Copier::default().copy(&theirs).await.unwrap();
    assert_eq!(copied.moved, 0);
    assert_eq!(pair.destination.difference("here/two", &built), None);
    let read = |r: &coral_testkit::Recorded| r.method == "GET" && r.path.contains("/blobs/");
    assert_eq!(pair.source.count(read), 0);
}

#[tokio::test]
async fn a_blob_that_the_source_has_not_is_not_mounted_from_anywhere() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/two", &built);
    pair.source
        .fault(Fault::new(status(404)).path("team/two/blobs/"));
    pair.destination.load("here/one", &built);
    pair.destination.fault(elsewhere());
    let theirs = pair.request("team/two:1", "here/two:1");
    let error = Copier::default().copy(&theirs).await.unwrap_err();
    assert_eq!(error.category(), "not_found");
    for digest in built.blobs.keys() {
        assert_eq!(pair.destination.blob("here/two", digest), None);
    }
}

/// Regression: the size in a manifest was not compared with the source.
#[tokio::test]
async fn a_blob_of_another_size_than_the_source_has_is_not_mounted_from_elsewhere() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/one", &built);
    let root = String::from_utf8(built.root().bytes.to_vec()).unwrap();
    // The manifest names the same layer with a larger size.
    let bytes = bytes::Bytes::from(root.replace("60000", "60001"));
    let mut lying = built.clone();
    let manifest = lying.manifests.last_mut().unwrap();
    (manifest.digest, manifest.bytes) = (coral_image::Digest::sha256(&bytes), bytes);
    lying.tags.insert("1".to_owned(), manifest.digest);
    pair.source.load("team/two", &lying);
    let copier = Copier::default();
    let mine = pair.request("team/one:1", "here/one:1");
    copier.copy(&mine).await.unwrap();
    let theirs = pair.request("team/two:1", "here/two:1");
    let error = copier.copy(&theirs).await.unwrap_err().to_string();
    assert!(error.contains("source"), "{error}");
    assert!(pair.destination.tags("here/two").is_empty());
    let (layer, _) = built.blobs.iter().find(|(_, b)| b.len() == 60_000).unwrap();
    assert_eq!(pair.destination.blob("here/two", layer), None);
}

/// Regression: one source that sent hardly any bytes held every worker of the process.
#[tokio::test]
async fn a_source_that_falls_silent_holds_up_its_own_images_only() {
    let silent = Pair::start().await;
    let names: Vec<String> = (0..20).map(|n| format!("slow/{n}")).collect();
    for (seed, name) in names.iter().enumerate() {
        silent.source.load(name, &image(100 + seed as u64));
    }
    let nothing = Effect::StallBody { after: 10 };
    silent
        .source
        .fault(Fault::new(nothing).method("GET").path("/blobs/"));
    let well = Pair::start().await;
    let built = image(1);
    well.source.load("good", &built);
    let (engine, stop) = (engine(), CancellationToken::new());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let slow = silent.described("default/slow", &names);
    let slow = engine.run(slow, Until::Stopped, stop.clone(), |_| {});
    let good = async {
        // The silent source holds as many workers as it may.
        let reads = |rs: &[coral_testkit::Recorded]| {
            let read =
                |r: &&coral_testkit::Recorded| r.method == "GET" && r.path.contains("/blobs/");
            rs.iter().filter(read).count() >= 8
        };
        silent.source.wait_for(reads).await;
        let good = well.described("default/good", &["good"]);
        let pass = engine.run(good, Until::OnePass, stop.clone(), |_| {});
        let passed = tokio::time::timeout(SOON, pass).await;
        stop.cancel();
        passed
    };
    let (_, passed) = tokio::join!(slow, good);
    let passed = passed.expect("the good source is served");
    assert_eq!(passed.summary.mirrored, 1);
}

/// Regression: the bytes of one copy were counted by every mirror that wanted the image.
#[tokio::test]
async fn two_mirrors_of_one_image_count_its_bytes_once() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("app", &built);
    // The copy begins when both mirrors have asked for it.
    let gate = || Effect::Hold { gate: "go".into() };
    pair.source
        .fault(Fault::new(gate()).method("GET").path("/manifests/"));
    let engine = engine();
    let run = |name: &str| {
        let mirror = pair.described(name, &["app"]);
        engine.run(mirror, Until::OnePass, CancellationToken::new(), |_| {})
    };
    let go = async {
        let heads = |rs: &[coral_testkit::Recorded]| {
            let head = |r: &&coral_testkit::Recorded| r.method == "HEAD";
            rs.iter().filter(head).count() >= 2
        };
        pair.source.wait_for(heads).await;
        pair.destination.wait_for(heads).await;
        pair.source.release("go");
    };
    let (one, two, ()) = tokio::join!(run("default/one"), run("default/two"), go);
    let (one, two) = (one.summary, two.summary);
    assert_eq!((one.mirrored, two.mirrored), (1, 1));
    assert_eq!(one.moved + two.moved, built.blob_bytes());
}

/// A destination that refuses a manifest may have lost blobs: each of them is checked again.
#[tokio::test]
async fn after_a_refused_manifest_no_blob_is_believed_to_be_there() {
    let pair = Pair::start().await;
    let built = image(1);
    pair.source.load("team/app", &built);
    pair.destination.fault(
        Fault::new(status(400))
            .method("PUT")
            .path("/manifests/")
            .first(1),
    );
    let copier = Copier::default();
    let request = pair.request("team/app:1", "here/app:1");
    copier.copy(&request).await.unwrap_err();
    pair.destination.clear_requests();
    copier.copy(&request).await.unwrap();
    let asked = pair.destination.count(|r| r.method == "POST");
    assert_eq!(asked, built.blobs.len());
}

#[tokio::test]
async fn indexes_nested_without_end_are_refused() {
    let pair = Pair::start().await;
    let nested = (0..10).fold(index(1), |inner, _| {
        IndexBuilder::new().nested(inner).tag("1").build()
    });
    pair.source.load("team/app", &nested);
    let error = pair.copy("team/app:1", "here/app:1").await.unwrap_err();
    assert_eq!(error.category(), "too_large");
    assert!(error.to_string().contains("nested"), "{error}");
    assert!(pair.destination.repositories().is_empty());
}
