//! The test vectors of `testdata/vectors.json`: references, destinations, platforms, selections.
//! They are a contract: vectors may be added, but not changed.

use std::collections::BTreeMap;
use std::time::Duration;

use coral_image::select::{LatestBy, NewerThan, TagFilter, TagSelection};
use coral_image::{ImageRef, Platform, Repository, Tag, destination_path};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn vectors<T: DeserializeOwned>(part: &str) -> Vec<T> {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../testdata/vectors.json")).expect("the file is JSON");
    let vectors: Vec<T> =
        serde_json::from_value(all[part].clone()).expect("the part has its shape");
    assert!(vectors.len() > 10, "{part}: the vectors are there");
    vectors
}

/// Compares a failed parse with the vector, or says that it should have failed.
fn check_error<T: std::fmt::Debug>(
    input: &str,
    result: Result<T, impl std::error::Error>,
    wanted: &str,
) {
    let error = result.expect_err(&format!("{input:?} is refused"));
    let text = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    assert!(text.contains(wanted), "{input:?}: {text:?} has {wanted:?}");
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    input: String,
    host: Option<String>,
    path: Option<String>,
    tag: Option<String>,
    digest: Option<String>,
    error: Option<String>,
}

#[test]
fn references_are_read_as_the_vectors_say() {
    for vector in vectors::<Reference>("references") {
        let parsed = ImageRef::parse(&vector.input);
        if let Some(error) = vector.error {
            check_error(&vector.input, parsed, &error);
            continue;
        }
        let image = parsed.unwrap_or_else(|e| panic!("{:?}: {e}", vector.input));
        let repository = image.repository();
        assert_eq!(
            Some(repository.host().as_str()),
            vector.host.as_deref(),
            "{}",
            vector.input
        );
        assert_eq!(
            Some(repository.path().as_str()),
            vector.path.as_deref(),
            "{}",
            vector.input
        );
        assert_eq!(
            image.tag().map(Tag::as_str),
            vector.tag.as_deref(),
            "{}",
            vector.input
        );
        assert_eq!(
            image.digest().map(ToString::to_string),
            vector.digest,
            "{}",
            vector.input
        );
        assert_eq!(
            ImageRef::parse(&image.to_string()),
            Ok(image),
            "{}",
            vector.input
        );
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    source: String,
    path: Option<String>,
    error: Option<String>,
}

#[test]
fn images_land_where_the_vectors_say() {
    for vector in vectors::<Destination>("destinations") {
        let landed = destination_path(&Repository::parse(&vector.source).unwrap());
        match vector.error {
            Some(error) => check_error(&vector.source, landed, &error),
            None => assert_eq!(Some(landed.unwrap().as_str()), vector.path.as_deref()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlatformVector {
    input: String,
    canonical: Option<String>,
    error: Option<String>,
}

#[test]
fn platforms_are_read_as_the_vectors_say() {
    for vector in vectors::<PlatformVector>("platforms") {
        let parsed = Platform::parse(&vector.input);
        match vector.error {
            Some(error) => check_error(&vector.input, parsed, &error),
            None => assert_eq!(Some(parsed.unwrap().to_string()), vector.canonical),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    name: String,
    select: Select,
    tags: Vec<Tag>,
    #[serde(default)]
    created: BTreeMap<String, Option<Timestamp>>,
    now: Option<Timestamp>,
    expected: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
struct Select {
    all: bool,
    regex: Option<String>,
    glob: Option<String>,
    semver: Option<String>,
    newer_than: Option<Newer>,
    exclude: Vec<String>,
    latest: Option<usize>,
    latest_by: Option<By>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Newer {
    Hours(u64),
    Time(Timestamp),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum By {
    Semver,
    Creation,
}

impl From<Select> for TagSelection {
    fn from(select: Select) -> Self {
        Self {
            all: select.all,
            regex: select.regex,
            glob: select.glob,
            semver: select.semver,
            newer_than: select.newer_than.map(|newer| match newer {
                Newer::Hours(hours) => NewerThan::Age(Duration::from_hours(hours)),
                Newer::Time(time) => NewerThan::Time(time),
            }),
            exclude: select.exclude,
            latest: select.latest,
            latest_by: match select.latest_by {
                Some(By::Creation) => LatestBy::Creation,
                Some(By::Semver) | None => LatestBy::Semver,
            },
        }
    }
}

#[test]
fn tags_are_selected_as_the_vectors_say() {
    for vector in vectors::<Selection>("selections") {
        let filter = TagFilter::compile(&vector.select.into()).unwrap();
        let now = vector.now.unwrap_or(Timestamp::UNIX_EPOCH);
        let created = |tag: &Tag| vector.created.get(tag.as_str()).copied().flatten();
        let chosen = filter.select(&vector.tags, now, created);
        assert_eq!(chosen, vector.expected, "{}", vector.name);

        let mut backwards = vector.tags.clone();
        backwards.reverse();
        let again = filter.select(&backwards, now, created);
        assert_eq!(chosen, again, "{}: whatever the order", vector.name);
        let candidates = filter.candidates(&vector.tags);
        let narrowed = filter.select(&candidates, now, created);
        assert_eq!(
            chosen, narrowed,
            "{}: from the candidates alone",
            vector.name
        );
    }
}
