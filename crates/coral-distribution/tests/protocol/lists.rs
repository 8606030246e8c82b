//! Tags and referrers.

use coral_distribution::Category;
use coral_image::{Manifest, Version};
use coral_testkit::{Built, Effect, Fault, FaultRegistry, ImageBuilder, Options};

use crate::fixture::*;
use crate::warnings::Warnings;

async fn registry_with_tags(count: usize, page_size: usize) -> FaultRegistry {
    let options = Options {
        page_size,
        ..Options::default()
    };
    let registry = FaultRegistry::start_with(options).await.unwrap();
    let built = (0..count).fold(image(), |built, n| built.tagged(&format!("v{n}")));
    registry.load(PATH, &built);
    registry
}

#[tokio::test]
async fn all_pages_of_tags_are_read() {
    let registry = registry_with_tags(25, 10).await;
    let tags = anonymous(&registry).tags().await.unwrap();
    assert_eq!(tags.len(), 26);
    assert_eq!(registry.requests().len(), 3);
}

#[tokio::test]
async fn pages_that_go_in_a_circle_or_elsewhere_are_named() {
    let cases = [
        (Effect::LoopingLink, "circle"),
        (
            set_header("link", "<https://elsewhere.example/v2/>; rel=\"next\""),
            "another host",
        ),
        (
            set_header("link", "<file:///etc>; rel=\"next\""),
            "not an HTTP address",
        ),
    ];
    for (effect, expected) in cases {
        let registry = registry_with_tags(5, 10).await;
        registry.fault(Fault::new(effect));
        let error = anonymous(&registry).tags().await.unwrap_err();
        assert_eq!(error.category(), Category::Protocol);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Regression: the list ended after its first page, and a mirror with prune deleted the other tags.
#[tokio::test]
async fn a_list_whose_link_is_not_understood_is_not_taken_for_whole() {
    for link in [
        "/v2/x/tags/list?n=2&last=b; rel=next",
        "</v2/x/tags/list?n=2&last=b>",
    ] {
        let (registry, built) = registry_with_image().await;
        registry.fault(Fault::new(set_header("link", link)));
        let client = anonymous(&registry);
        let tags = client.tags().await.unwrap_err().to_string();
        assert!(tags.contains("not understood"), "{tags}");
        let referrers = client.referrers(&built.digest()).await.unwrap_err();
        assert!(referrers.to_string().contains("not understood"));
    }
}

#[tokio::test]
async fn a_full_page_without_a_link_is_not_the_end_of_the_list() {
    let registry = registry_with_tags(150, 100).await;
    registry.fault(Fault::new(set_header("link", "</x>; rel=prev")).first(1));
    let tags = anonymous(&registry).tags().await.unwrap();
    assert_eq!(tags.len(), 151);
}

/// Regression: three of seven tags were taken for the complete list, and the others were deleted.
#[tokio::test]
async fn a_page_of_any_size_without_a_link_is_not_the_end_of_the_list() {
    let registry = registry_with_tags(6, 3).await;
    registry.fault(Fault::new(set_header("link", "</x>; rel=prev")));
    let tags = anonymous(&registry).tags().await.unwrap();
    assert_eq!(tags.len(), 7);
    assert_eq!(registry.requests().len(), 4);
}

/// Regression: each listing of a repository cost two requests, and some sources count every
/// request.
#[tokio::test]
async fn a_host_that_gave_a_larger_page_whole_is_not_asked_for_more() {
    let registry = registry_with_tags(6, 100).await;
    let client = anonymous(&registry);
    assert_eq!(client.tags().await.unwrap().len(), 7);
    assert_eq!(registry.requests().len(), 2);
    assert_eq!(client.tags().await.unwrap().len(), 7);
    assert_eq!(registry.requests().len(), 3);
    // A larger page is doubted again.
    let more = (0..20).fold(image(), |built, n| built.tagged(&format!("v{n}")));
    registry.load(PATH, &more);
    assert_eq!(client.tags().await.unwrap().len(), 21);
    assert_eq!(registry.requests().len(), 5);
}

#[tokio::test]
async fn what_was_seen_of_a_host_that_cuts_its_pages_is_forgotten() {
    let registry = registry_with_tags(0, 10).await;
    let client = anonymous(&registry);
    let listed = async |answers: Vec<(&str, Effect)>| {
        registry.clear_faults();
        for (path, answer) in answers {
            registry.fault(Fault::new(answer).path(path));
        }
        client.tags().await.unwrap().len()
    };
    let whole = vec![("last=", page(0..0, None)), ("", page(0..4, None))];
    assert_eq!(listed(whole).await, 4);
    let linked = page(0..4, Some("n=1000&last=v3"));
    let linked = vec![("last=", page(4..6, None)), ("", linked)];
    assert_eq!(listed(linked).await, 6);
    // A proxy drops the link from now on.
    let dropped = vec![
        ("last=v5", page(0..0, None)),
        ("last=v3", page(4..6, None)),
        ("", page(0..4, None)),
    ];
    assert_eq!(listed(dropped).await, 6);
}

/// A registry without paging returns the same list again, which ends the listing.
#[tokio::test]
async fn a_registry_that_knows_no_pages_is_read_to_its_end() {
    let registry = registry_with_tags(0, 10).await;
    let names: Vec<_> = (0..100).map(|n| format!("\"v{n}\"")).collect();
    let body = format!("{{\"name\":\"x\",\"tags\":[{}]}}", names.join(","));
    let json = [("content-type", "application/json")];
    registry.fault(Fault::new(status(200, &json, &body)));
    assert_eq!(anonymous(&registry).tags().await.unwrap().len(), 100);
    assert_eq!(registry.requests().len(), 2);
}

/// A page of these tags, with a link to `next`.
fn page(names: std::ops::Range<usize>, next: Option<&str>) -> Effect {
    let names: Vec<_> = names.map(|n| format!("\"v{n}\"")).collect();
    let body = format!("{{\"name\":\"x\",\"tags\":[{}]}}", names.join(","));
    let link = next.map(|next| format!("</v2/{PATH}/tags/list?{next}>; rel=\"next\""));
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(link.as_deref().map(|link| ("link", link)));
    status(200, &headers, &body)
}

/// Regression: a registry with its own page tokens failed permanently if its last page was full.
#[tokio::test]
async fn what_answers_the_guess_of_a_further_page_does_no_harm() {
    let answers = [
        status(400, &[], ""),
        status(404, &[], ""),
        status(405, &[], ""),
        status(403, &[], ""),
        status(429, &[], ""),
        status(500, &[], ""),
        status(503, &[], ""),
        Effect::Html { status: 200 },
        Effect::Garbage { status: 200 },
        page(0..0, None),
        page(0..100, Some("next_page=1")),
        page(0..100, Some("next_page=other")),
        page(50..150, Some("next_page=1")),
        // A tag was pushed meanwhile, and the links form a circle.
        page(150..201, Some("next_page=1")),
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let registry = registry_with_tags(0, 10).await;
        registry.fault(Fault::new(answer).path("last="));
        registry.fault(Fault::new(page(100..200, None)).path("next_page=1"));
        registry.fault(Fault::new(page(0..100, Some("next_page=1"))).first(1));
        let tags = anonymous(&registry).tags().await.unwrap();
        let expected = if number == 13 { 201 } else { 200 };
        assert_eq!(tags.len(), expected, "answer {number}");
        assert_eq!(registry.requests().len(), 3, "answer {number}");
    }
}

#[tokio::test]
async fn an_answer_without_tags_is_no_empty_list() {
    let registry = registry_with_tags(5, 10).await;
    registry.fault(Fault::new(status(200, &[], r#"{"errors": []}"#)));
    let error = anonymous(&registry).tags().await.unwrap_err();
    assert!(error.to_string().contains("not a list of tags"), "{error}");
}

#[tokio::test]
async fn what_is_no_list_is_named() {
    let cases = [
        (Effect::Html { status: 200 }, Category::Protocol),
        (Effect::Garbage { status: 200 }, Category::Protocol),
        (Effect::Endless, Category::TooLarge),
        (status(404, &[], ""), Category::NotFound),
    ];
    for (effect, expected) in cases {
        let registry = registry_with_tags(5, 10).await;
        registry.fault(Fault::new(effect.clone()));
        let error = anonymous(&registry).tags().await.unwrap_err();
        assert_eq!(error.category(), expected, "{effect:?}: {error}");
    }
    let registry = registry_with_tags(5, 10).await;
    registry.fault(Fault::new(status(
        200,
        &[],
        r#"{"name": "x", "tags": null}"#,
    )));
    assert!(anonymous(&registry).tags().await.unwrap().is_empty());
    let registry = registry_with_tags(5, 10).await;
    registry.fault(Fault::new(status(200, &[], r#"{"tags": ["no tag", "1"]}"#)));
    let tags = anonymous(&registry).tags().await.unwrap();
    assert_eq!(tags.len(), 1, "one name that is no tag hides no other");
}

/// A page with this many invalid names, and a valid one.
fn odd_page(names: usize) -> Fault {
    let list = vec!["!"; names].join("\",\"");
    let body = format!("{{\"name\":\"x\",\"tags\":[\"{list}\",\"good\"]}}");
    Fault::new(status(200, &[("content-type", "application/json")], &body))
}

/// Regression: one page of 6 MB produced 300,000 lines of log.
#[tokio::test]
async fn names_that_are_no_tags_are_told_of_once() {
    let registry = registry_with_tags(0, 10).await;
    registry.fault(odd_page(300_000));
    let warnings = Warnings::listen();
    let tags = anonymous(&registry).tags().await.unwrap();
    assert_eq!((tags.len(), warnings.count()), (1, 1));
}

/// Invalid names are left out, but they count towards the limit on the list.
#[tokio::test]
async fn names_that_are_no_tags_count_towards_the_limit() {
    let registry = registry_with_tags(5, 10).await;
    registry.fault(odd_page(1000));
    let tags = anonymous(&registry).tags().await.unwrap();
    assert_eq!(tags.len(), 1);
    registry.clear_faults();
    registry.fault(odd_page(1_000_001));
    let error = anonymous(&registry).tags().await.unwrap_err();
    assert!(error.to_string().contains("more than 1000000"), "{error}");
}

/// Regression: the annotations of referrers were kept, page by page, without a limit.
#[tokio::test]
async fn the_annotations_of_referrers_are_not_held() {
    let (registry, built) = registry_with_image().await;
    let noted = ImageBuilder::new(7)
        .artifact("application/x.note")
        .subject(&built)
        .annotation("text", &"x".repeat(1000))
        .build();
    registry.load(PATH, &noted);
    let found = anonymous(&registry).referrers(&built.digest()).await;
    let found = found.unwrap();
    assert_eq!(found[0].digest, noted.digest());
    assert_eq!(
        found[0].artifact_type.as_deref(),
        Some("application/x.note")
    );
    assert_eq!(found[0].annotations, None);
}

#[tokio::test]
async fn pages_of_referrers_without_end_are_too_large() {
    let (registry, built) = registry_with_image().await;
    let text = "x".repeat(3_900_000);
    let descriptor = format!(
        "{{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"size\":1,\"digest\":\"{}\",\
         \"annotations\":{{\"x\":\"{text}\"}}}}",
        built.digest()
    );
    let body = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\
         \"manifests\":[{descriptor}]}}"
    );
    for page in 0..20 {
        let next = format!(
            "</v2/{PATH}/referrers/{}?page={}>; rel=\"next\"",
            built.digest(),
            page + 1
        );
        let headers = [
            ("content-type", "application/vnd.oci.image.index.v1+json"),
            ("link", next.as_str()),
        ];
        registry.fault(
            Fault::new(status(200, &headers, &body))
                .path("/referrers/")
                .first(1),
        );
    }
    let error = anonymous(&registry).referrers(&built.digest()).await;
    assert_eq!(error.unwrap_err().category(), Category::TooLarge);
}

fn manifest(built: &Built) -> Manifest {
    let root = built.root();
    Manifest::parse(root.bytes.clone(), Some(&root.media_type)).unwrap()
}

fn referrer(seed: u64, of: &Built) -> Built {
    ImageBuilder::new(seed)
        .artifact("application/vnd.example.sbom")
        .annotation("seed", &seed.to_string())
        .subject(of)
        .build()
}

#[tokio::test]
async fn referrers_are_found_by_the_api_and_by_the_tag_that_stands_for_it() {
    for api in [true, false] {
        let (registry, built) = registry_with_image().await;
        registry.set_referrers(api);
        let client = anonymous(&registry);
        assert!(client.referrers(&built.digest()).await.unwrap().is_empty());
        for seed in [10, 11] {
            let referrer = referrer(seed, &built);
            load_blobs(&registry, &referrer);
            let referrer = manifest(&referrer);
            let put = client
                .put_manifest(&referrer.digest().into(), &referrer)
                .await
                .unwrap();
            assert_eq!(put.subject_recorded, api);
            // Pushing it again adds no second entry.
            client
                .put_manifest(&referrer.digest().into(), &referrer)
                .await
                .unwrap();
        }
        let found = client.referrers(&built.digest()).await.unwrap();
        assert_eq!(found.len(), 2, "api: {api}");
        assert_eq!(
            found[0].artifact_type.as_deref(),
            Some("application/vnd.example.sbom")
        );
        let tags = registry.tags(PATH);
        assert_eq!(tags.contains_key(&built.fallback_tag()), !api);
    }
}

#[tokio::test]
async fn writers_of_one_client_lose_no_referrer() {
    let (registry, built) = registry_with_image().await;
    registry.set_referrers(false);
    let client = anonymous(&registry);
    let referrers: Vec<_> = (0..20).map(|seed| referrer(seed + 100, &built)).collect();
    for referrer in &referrers {
        load_blobs(&registry, referrer);
    }
    let manifests: Vec<_> = referrers.iter().map(manifest).collect();
    let versions: Vec<Version> = manifests.iter().map(|m| m.digest().into()).collect();
    let puts = versions
        .iter()
        .zip(&manifests)
        .map(|(v, m)| client.put_manifest(v, m));
    futures::future::try_join_all(puts).await.unwrap();
    assert_eq!(client.referrers(&built.digest()).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_registry_that_does_not_know_the_api_is_not_an_error() {
    for effect in [
        status(405, &[], ""),
        status(400, &[], ""),
        Effect::Html { status: 200 },
    ] {
        let (registry, built) = registry_with_image().await;
        registry.fault(Fault::new(effect).path("/referrers/"));
        assert!(
            anonymous(&registry)
                .referrers(&built.digest())
                .await
                .unwrap()
                .is_empty()
        );
    }
    let (registry, built) = registry_with_image().await;
    registry.fault(Fault::new(status(503, &[], "")).path("/referrers/"));
    let error = anonymous(&registry)
        .referrers(&built.digest())
        .await
        .unwrap_err();
    assert_eq!(error.category(), Category::Server);
}

#[tokio::test]
async fn the_tag_for_a_long_digest_is_cut_to_what_fits() {
    let registry = FaultRegistry::start().await;
    let digest = coral_image::Algorithm::Sha512.digest(b"x");
    registry.fault(Fault::new(status(404, &[], "")).path("/referrers/"));
    anonymous(&registry).referrers(&digest).await.unwrap();
    let asked = registry.requests().pop().unwrap().path;
    assert_eq!(
        asked,
        format!("/v2/{PATH}/manifests/sha512-{}", &digest.hex()[..64])
    );
}
