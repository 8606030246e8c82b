//! Blobs have exactly the promised bytes, or reading them is an error.

use std::time::Duration;

use coral_distribution::{BlobSource, Category, ClientOptions, Credentials, Disposition, Error};
use coral_image::{Algorithm, Descriptor, Digest};
use coral_testkit::{Effect, Fault};

use crate::fixture::*;

/// The result of reading a blob under this fault.
async fn under(effect: Effect) -> Result<Vec<u8>, Error> {
    let (registry, built) = registry_with_image().await;
    let options = patient_enough(&registry, &effect);
    registry.fault(Fault::new(effect).path("/blobs/"));
    let client = with(&registry, options, Credentials::none());
    read(client.blob(&large_blob(&built).0, 0).await).await
}

/// The result of reading the blob as copies and builds do.
async fn under_a_source(effect: Effect) -> Result<Vec<u8>, Error> {
    let (registry, built) = registry_with_image().await;
    let options = patient_enough(&registry, &effect);
    registry.fault(Fault::new(effect).path("/blobs/"));
    let client = with(&registry, options, Credentials::none());
    let source = BlobSource::new(client.into(), large_blob(&built).0);
    read(source.read().await).await
}

#[tokio::test]
async fn the_length_of_a_blob_is_known_where_head_is_refused() {
    for refusal in [400, 405, 501] {
        let (registry, built) = registry_with_image().await;
        let answer = status(refusal, &[], "");
        registry.fault(Fault::new(answer).method("HEAD").path("/blobs/"));
        let client = anonymous(&registry);
        let (blob, _) = large_blob(&built);
        let size = client.blob_size(&blob.digest).await.unwrap();
        assert_eq!(size, Some(blob.size), "{refusal}");
        let missing = Digest::sha256(b"missing");
        assert_eq!(client.blob_size(&missing).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_blob_comes_whole() {
    let (registry, built) = registry_with_image().await;
    let client = anonymous(&registry);
    let (blob, bytes) = large_blob(&built);
    assert_eq!(
        client.blob_size(&blob.digest).await.unwrap(),
        Some(blob.size)
    );
    assert!(read(client.blob(&blob, 0).await).await.unwrap() == bytes);
    let missing = Digest::sha256(b"missing");
    assert_eq!(client.blob_size(&missing).await.unwrap(), None);
    let error = client
        .blob(&Descriptor::new("", missing, 7), 0)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::NotFound);
}

#[tokio::test]
async fn each_lie_about_a_blob_is_named() {
    let cases = [
        (Effect::FlipByte { at: 5 }, Category::Digest),
        (Effect::Shorten { bytes: 1 }, Category::Digest),
        (Effect::Lengthen { bytes: 1 }, Category::TooLarge),
        (Effect::CutBody { after: 50_000 }, Category::Cut),
        (Effect::CutWire { after: 50_000 }, Category::Cut),
        (Effect::StallBody { after: 50_000 }, Category::Timeout),
        (Effect::Gzip, Category::Protocol),
        (Effect::Html { status: 200 }, Category::Protocol),
        (
            status(200, &[("content-type", "application/octet-stream")], ""),
            Category::Digest,
        ),
    ];
    for (effect, expected) in cases {
        let error = under(effect.clone())
            .await
            .map(|bytes| bytes.len())
            .unwrap_err();
        assert_eq!(error.category(), expected, "{effect:?}: {error}");
    }
}

/// Stores label blobs that they hold compressed, yet send the bytes of the digest.
#[tokio::test]
async fn a_label_of_an_encoding_does_not_matter_where_the_bytes_are_right() {
    for label in ["gzip", "x-gzip", "aws-chunked", "identity", ""] {
        under(set_header("content-encoding", label)).await.unwrap();
    }
}

/// Regression: a store that labels all content as HTML was refused, though every byte was right.
#[tokio::test]
async fn what_is_called_a_page_is_taken_where_the_content_is_right() {
    let page = || set_header("content-type", "text/html; charset=utf-8");
    under(page()).await.unwrap();
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(page()));
    let client = anonymous(&registry);
    let manifest = client.manifest(&tag("1")).await.unwrap();
    let head = client.head(&tag("1")).await.unwrap().unwrap();
    assert_eq!(head.digest, manifest.digest());
    assert!(
        built
            .manifests
            .iter()
            .any(|it| it.digest == manifest.digest())
    );
    assert_eq!(
        client.tags().await.unwrap(),
        [coral_image::Tag::parse("1").unwrap()]
    );
}

/// Regression: a blob that its store labels as HTML was refused by `HEAD`. A page of another length
/// is not the blob.
#[tokio::test]
async fn the_length_of_what_is_called_a_page_is_known_where_it_does_not_begin_like_one() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(set_header("content-type", "text/html")).path("/blobs/"));
    let (blob, _) = large_blob(&built);
    let size = anonymous(&registry).blob_size(&blob.digest).await.unwrap();
    assert_eq!(size, Some(blob.size));
    let html = ("content-type", "text/html");
    for effect in [
        Effect::Html { status: 200 },
        status(200, &[html], "Access denied"),
        status(200, &[html], ""),
    ] {
        let (registry, _) = registry_with_image().await;
        let told = format!("{effect:?}");
        registry.fault(Fault::new(effect).path("/blobs/"));
        let error = anonymous(&registry).blob_size(&blob.digest).await;
        let error = error.expect_err(&told);
        assert_eq!(error.disposition(), Disposition::WaitForChange, "{told}");
        assert!(error.to_string().contains("HTML page"), "{told}: {error}");
    }
}

/// Regression: a page of the blob's length was reported as a wrong digest, which is retried.
#[tokio::test]
async fn a_page_in_place_of_a_blob_is_told_as_one_by_its_label_or_its_beginning() {
    let (_, built) = registry_with_image().await;
    let size = usize::try_from(large_blob(&built).0.size).unwrap();
    let page = |length: usize| {
        let start = "<!DOCTYPE html><html>";
        start.to_owned() + &" ".repeat(length - start.len())
    };
    for (kind, length) in [
        ("text/html", 100),
        ("text/html", size),
        ("text/html", size + 100),
        ("application/octet-stream", size),
    ] {
        let effect = || status(200, &[("content-type", kind)], &page(length));
        for came in [under(effect()).await, under_a_source(effect()).await] {
            let error = came.map(|bytes| bytes.len()).unwrap_err();
            let told = format!("{kind} {length}: {error}");
            assert_eq!(error.disposition(), Disposition::WaitForChange, "{told}");
            assert!(error.to_string().contains("HTML page"), "{told}");
        }
    }
}

#[tokio::test]
async fn a_body_that_never_ends_does_end() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(Effect::Endless).path("/blobs/"));
    let (blob, bytes) = large_blob(&built);
    // Bytes after the promised ones are an error if they are seen, and never a part of the blob.
    match read(anonymous(&registry).blob(&blob, 0).await).await {
        Ok(got) => assert!(got == bytes),
        Err(error) => assert_eq!(error.category(), Category::TooLarge, "{error}"),
    }
    let shorter = Descriptor {
        size: blob.size - 1,
        ..blob
    };
    let error = read(anonymous(&registry).blob(&shorter, 0).await).await;
    let error = error.map(|bytes| bytes.len()).unwrap_err();
    assert!(
        matches!(error.category(), Category::TooLarge | Category::Digest),
        "{error}"
    );
}

#[tokio::test]
async fn a_slow_blob_is_not_a_stalled_one() {
    let (registry, built) = registry_with_image().await;
    // The total is longer than the stall limit, but no single wait is.
    let limit = Duration::from_secs(3);
    registry.fault(Fault::new(Effect::Drip {
        chunk: 2_000,
        every_ms: 75,
    }));
    let options = ClientOptions {
        stall_timeout: limit,
        ..plain(&[&registry])
    };
    let client = with(&registry, options, Credentials::none());
    let started = std::time::Instant::now();
    let (blob, bytes) = large_blob(&built);
    assert!(read(client.blob(&blob, 0).await).await.unwrap() == bytes);
    assert!(started.elapsed() > limit);
}

#[tokio::test]
async fn a_blob_goes_on_at_an_offset() {
    let (registry, built) = registry_with_image().await;
    let client = anonymous(&registry);
    let (blob, bytes) = large_blob(&built);
    for offset in [1, 50_000, bytes.len() - 1, bytes.len()] {
        let mut hasher = Algorithm::Sha256.hasher();
        hasher.update(&bytes[..offset]);
        let rest = client.blob_from(&blob, offset as u64, hasher).await;
        assert_eq!(read(rest).await.unwrap(), &bytes[offset..]);
        let rest = client.blob(&blob, offset as u64).await;
        assert_eq!(read(rest).await.unwrap(), &bytes[offset..]);
    }
    assert!(
        registry
            .requests()
            .iter()
            .all(|r| r.range.is_some() && r.status == 206)
    );
    assert!(client.blob(&blob, blob.size + 1).await.is_err());
}

#[tokio::test]
async fn what_came_before_the_offset_counts() {
    let (registry, built) = registry_with_image().await;
    let client = anonymous(&registry);
    let (blob, _) = large_blob(&built);
    let mut hasher = Algorithm::Sha256.hasher();
    hasher.update(&vec![0; 50_000]);
    let error = read(client.blob_from(&blob, 50_000, hasher).await)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Digest);
}

#[tokio::test]
async fn a_range_that_is_ignored_costs_bytes_and_nothing_else() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(Effect::IgnoreRange));
    let client = anonymous(&registry);
    let (blob, bytes) = large_blob(&built);
    let mut hasher = Algorithm::Sha256.hasher();
    hasher.update(&bytes[..70_000]);
    let rest = client.blob_from(&blob, 70_000, hasher).await;
    assert_eq!(read(rest).await.unwrap(), &bytes[70_000..]);
}

#[tokio::test]
async fn another_range_than_the_one_asked_for_is_named() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(set_header(
        "content-range",
        "bytes 0-99999/100000",
    )));
    let error = anonymous(&registry)
        .blob(&large_blob(&built).0, 5)
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Protocol, "{error}");
}

#[tokio::test]
async fn a_blob_that_is_not_read_for_a_while_is_not_stalled() {
    use futures::StreamExt;
    let (registry, built) = registry_with_image().await;
    let client = with(&registry, plain(&[&registry]), Credentials::none());
    let (blob, bytes) = large_blob(&built);
    let mut stream = client.blob(&blob, 0).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    // The reader does other work for longer than the limit.
    tokio::time::pause();
    tokio::time::advance(Duration::from_mins(2)).await;
    tokio::time::resume();
    let rest = read(Ok(stream)).await.unwrap();
    assert_eq!([&first[..], &rest].concat(), bytes);
}

#[tokio::test]
async fn a_blob_that_drips_is_too_slow_although_it_moves() {
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(Effect::Drip {
        chunk: 1,
        every_ms: 300,
    }));
    let options = ClientOptions {
        stall_timeout: Duration::from_secs(2),
        ..plain(&[&registry])
    };
    let client = with(&registry, options, Credentials::none());
    let error = read(client.blob(&large_blob(&built).0, 0).await).await;
    let error = error.unwrap_err();
    assert_eq!(error.category(), Category::Timeout, "{error}");
    assert!(error.to_string().contains("bytes came in"), "{error}");
    let error = client.manifest(&tag("1")).await.unwrap_err();
    assert!(error.to_string().contains("bytes came in"), "{error}");
}
