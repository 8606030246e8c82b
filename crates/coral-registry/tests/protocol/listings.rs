use coral_image::{Digest, RepositoryPath};
use coral_registry::{FileStore, ReferrersQuery, Source as _};
use http::StatusCode;
use serde_json::{Value, json};

use crate::client::{INDEX, MANIFEST, Served, digest_of};

#[tokio::test]
async fn tags_are_sorted_and_read_page_by_page() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    for tag in ["b", "a", "C", "10", "9"] {
        registry.put("a", tag, &image).await;
    }
    let all = registry.get("/v2/a/tags/list").await;
    assert_eq!(
        all.json(),
        json!({"name": "a", "tags": ["10", "9", "C", "a", "b"]})
    );
    assert_eq!(all.header("link"), "");
    let first = registry.get("/v2/a/tags/list?n=2").await;
    assert_eq!(first.json()["tags"], json!(["10", "9"]));
    assert_eq!(
        first.header("link"),
        "</v2/a/tags/list?n=2&last=9>; rel=\"next\""
    );
    let second = registry.get("/v2/a/tags/list?n=2&last=9").await;
    assert_eq!(second.json()["tags"], json!(["C", "a"]));
    let last = registry.get("/v2/a/tags/list?n=2&last=a").await;
    assert_eq!(
        (last.json()["tags"].clone(), last.header("link")),
        (json!(["b"]), "")
    );
}

#[tokio::test]
async fn the_last_one_of_a_page_need_not_exist_and_is_not_repeated() {
    let registry = Served::new();
    let image = registry.image("a", b"layer").await;
    for tag in ["a", "c"] {
        registry.put("a", tag, &image).await;
    }
    let tags = |last: &str| {
        let target = format!("/v2/a/tags/list?last={last}");
        async { registry.get(&{ target }).await.json()["tags"].clone() }
    };
    assert_eq!(tags("b").await, json!(["c"]));
    assert_eq!(tags("a").await, json!(["c"]));
    assert_eq!(tags("c").await, json!([]));
    assert_eq!(
        registry.get("/v2/a/tags/list?n=0").await.json()["tags"],
        json!([])
    );
}

#[tokio::test]
async fn a_list_of_an_unknown_repository_or_length_is_refused() {
    let registry = Served::new();
    let unknown = registry.get("/v2/a/tags/list").await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (StatusCode::NOT_FOUND, "NAME_UNKNOWN")
    );
    registry.push_image("a", "x", b"layer").await;
    for n in ["-1", "x", "1.5"] {
        let refused = registry.get(&format!("/v2/a/tags/list?n={n}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert_eq!(refused.code(), "PAGINATION_NUMBER_INVALID");
    }
}

#[tokio::test]
async fn the_catalog_has_every_repository_with_an_image_in_the_order_of_its_bytes() {
    let registry = Served::new();
    for name in ["a/b", "a", "a-b", "docker.io/library/debian"] {
        registry.push_image(name, "x", b"layer").await;
    }
    registry.push("only-a-blob", b"blob").await;
    let all = registry.get("/v2/_catalog").await.json();
    assert_eq!(
        all["repositories"],
        json!(["a", "a-b", "a/b", "docker.io/library/debian"])
    );
    let page = registry.get("/v2/_catalog?n=2&last=a").await;
    assert_eq!(page.json()["repositories"], json!(["a-b", "a/b"]));
    assert_eq!(
        page.header("link"),
        "</v2/_catalog?n=2&last=a%2Fb>; rel=\"next\""
    );
}

async fn push_referrer(registry: &Served, subject: &Digest, kind: &str) -> Value {
    let mut image = registry.image("a", kind.as_bytes()).await;
    image["artifactType"] = json!(kind);
    image["annotations"] = json!({"for": "people"});
    image["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    let pushed = registry
        .put("a", &digest_of(&image).to_string(), &image)
        .await;
    assert_eq!(pushed.header("oci-subject"), subject.to_string());
    image
}

#[tokio::test]
async fn referrers_are_listed_with_what_they_are_and_filtered_by_it() {
    let registry = Served::new();
    let subject = registry.push_image("a", "v1", b"layer").await;
    let signature = push_referrer(&registry, &subject, "x/signature").await;
    push_referrer(&registry, &subject, "x/sbom").await;
    let all = registry.get(&format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(
        (all.status, all.header("content-type")),
        (StatusCode::OK, INDEX)
    );
    assert_eq!(all.json()["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(all.header("oci-filters-applied"), "");
    let target = format!("/v2/a/referrers/{subject}?artifactType=x/signature");
    let filtered = registry.get(&target).await;
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let expected = json!([{
        "mediaType": MANIFEST,
        "digest": digest_of(&signature),
        "size": signature.to_string().len(),
        "artifactType": "x/signature",
        "annotations": {"for": "people"},
    }]);
    assert_eq!(filtered.json()["manifests"], expected);
}

#[tokio::test]
async fn referrers_of_the_unknown_are_an_empty_index() {
    let registry = Served::new();
    let target = format!("/v2/unknown/referrers/{}", Digest::sha256(b"x"));
    let answer = registry.get(&target).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(
        answer.json(),
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})
    );
}

#[tokio::test]
async fn a_deleted_referrer_is_not_listed() {
    let registry = Served::new();
    let subject = Digest::sha256(b"not pushed yet");
    let referrer = push_referrer(&registry, &subject, "x/y").await;
    let target = format!("/v2/a/manifests/{}", digest_of(&referrer));
    assert_eq!(
        registry.send("DELETE", &target, b"").await.status,
        StatusCode::ACCEPTED
    );
    let answer = registry.get(&format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(answer.json()["manifests"], json!([]));
}

#[tokio::test]
async fn more_referrers_than_clients_read_at_once_come_in_pages() {
    let registry = Served::new();
    let subject = Digest::sha256(b"subject");
    let mut expected = Vec::new();
    for number in 0..3 {
        let mut image = registry.image("a", b"layer").await;
        image["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        image["annotations"] = json!({"text": format!("{number}").repeat(2_000_000)});
        let digest = digest_of(&image);
        registry.put("a", &digest.to_string(), &image).await;
        expected.push(digest);
    }
    expected.sort();
    let (mut found, mut next) = (Vec::new(), format!("/v2/a/referrers/{subject}"));
    while !next.is_empty() {
        let page = registry.get(&next).await;
        assert!(page.body.len() <= coral_image::MAX_MANIFEST_SIZE);
        for referrer in page.json()["manifests"].as_array().unwrap() {
            found.push(Digest::parse(referrer["digest"].as_str().unwrap()).unwrap());
        }
        let link = page.header("link").split(['<', '>']).nth(1);
        next = link.unwrap_or_default().to_owned();
    }
    assert_eq!(found, expected);
}

/// Regression: 300 referrers of 4 MB each took 1.2 GB of memory for an answer of 4 MB.
#[tokio::test]
async fn referrers_that_have_no_place_on_a_page_are_not_read_for_it() {
    let registry = Served::new();
    let subject = Digest::sha256(b"subject");
    for number in 0..4 {
        let mut image = registry.image("a", b"layer").await;
        image["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
        image["annotations"] = json!({"text": format!("{number}").repeat(2_000_000)});
        registry.put("a", &format!("r{number}"), &image).await;
    }
    let folder = registry.stored(&format!("a/_referrers/sha256/{}", subject.hex()));
    let names = std::fs::read_dir(&folder).unwrap();
    let last = names.map(|name| name.unwrap().path()).max().unwrap();
    std::fs::remove_file(&last).unwrap();
    // Reading a folder as a file fails.
    std::fs::create_dir(&last).unwrap();
    let first = registry.get(&format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(first.json()["manifests"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_list_that_was_read_before_follows_what_is_pushed_and_deleted() {
    let registry = Served::new();
    let first = registry.push_image("a", "one", b"first").await;
    registry.push_image("b", "one", b"second").await;
    let tags = async || registry.get("/v2/a/tags/list").await.json()["tags"].clone();
    let names = async || registry.get("/v2/_catalog").await.json()["repositories"].clone();
    assert_eq!(
        (tags().await, names().await),
        (json!(["one"]), json!(["a", "b"]))
    );
    registry.push_image("a", "two", b"third").await;
    registry.push_image("c", "one", b"first").await;
    assert_eq!(
        (tags().await, names().await),
        (json!(["one", "two"]), json!(["a", "b", "c"]))
    );
    registry.send("DELETE", "/v2/a/manifests/two", b"").await;
    assert_eq!(tags().await, json!(["one"]));
    let target = format!("/v2/a/manifests/{first}");
    registry.send("DELETE", &target, b"").await;
    assert_eq!(tags().await, json!([]));
    let target = format!("/v2/c/manifests/{first}");
    registry.send("DELETE", &target, b"").await;
    assert_eq!(names().await, json!(["a", "b"]));
}

#[tokio::test]
async fn referrers_of_other_types_are_passed_over_page_by_page() {
    let registry = Served::new();
    let subject = Digest::sha256(b"subject");
    for number in 0..40 {
        push_referrer(&registry, &subject, &format!("x/{number}")).await;
    }
    let folder = registry.ended();
    let store = FileStore::open(&folder.path().join("store")).unwrap();
    let name = RepositoryPath::parse("a").unwrap();
    let mut page = ReferrersQuery {
        after: None,
        artifact_type: Some("x/7".to_owned()),
        most_bytes: 400,
    };
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let part = store
            .referrers(&name, &subject, page.clone())
            .await
            .unwrap();
        found.extend(part.descriptors);
        pages += 1;
        let Some(next) = part.next else { break };
        page.after = Some(next.to_string());
    }
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].artifact_type.as_deref(), Some("x/7"));
    assert!((2..=10).contains(&pages), "{pages} pages");
}
