//! Properties of every parser: no input makes it panic, accepted values are normalised once and for
//! all, and the printed form can be parsed again.

use std::fmt::{Debug, Display};

use bytes::Bytes;
use coral_image::select::{LatestBy, NewerThan, TagFilter, TagSelection, VersionRange};
use coral_image::{
    Algorithm, Digest, Host, ImageRef, Manifest, PinnedRef, Platform, Repository, RepositoryPath,
    Tag, Version, destination_path, destination_path_below, media_type,
};
use jiff::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// `parse` returns the same value for the printed form of the value.
fn check_round_trip<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>)
where
    T: Display + Debug + PartialEq,
    E: Debug + Display,
{
    match parse(text) {
        Ok(value) => {
            let printed = value.to_string();
            let again = parse(&printed).unwrap_or_else(|e| panic!("{text:?} → {printed:?}: {e}"));
            assert_eq!(again, value, "{text:?} → {printed:?}");
            assert_eq!(again.to_string(), printed);
        }
        Err(error) => assert!(error.to_string().len() < 4000, "a message is short"),
    }
}

fn check_every_parser(text: &str) {
    check_round_trip(text, Digest::parse);
    check_round_trip(text, Host::parse);
    check_round_trip(text, RepositoryPath::parse);
    check_round_trip(text, Repository::parse);
    check_round_trip(text, Tag::parse);
    check_round_trip(text, Version::parse);
    check_round_trip(text, ImageRef::parse);
    check_round_trip(text, PinnedRef::parse);
    check_round_trip(text, Platform::parse);
    let _ = VersionRange::parse(text);
    let _ = media_type::essence(text);
    if let Ok(repository) = Repository::parse(text)
        && let Ok(path) = destination_path(&repository)
    {
        assert_eq!(RepositoryPath::parse(path.as_str()), Ok(path));
    }
}

/// Fragments of references, valid and invalid, that random characters would hardly form.
fn reference_like() -> impl Strategy<Value = String> {
    let piece = select(vec![
        "docker.io",
        "index.docker.io",
        "localhost",
        "[::1]",
        "[FD00::1]",
        "quay.io",
        "Quay.IO",
        "library",
        "debian",
        "a",
        "A",
        "0",
        "_",
        "__",
        ".",
        "-",
        ":",
        "/",
        "@",
        "5000",
        "00080",
        "70000",
        "latest",
        "sha256:",
        "sha512:",
        "://",
        "é",
        " ",
        "\n",
        "[",
        "]",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ]);
    vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

fn digest() -> impl Strategy<Value = Digest> {
    let algorithm = select(vec![Algorithm::Sha256, Algorithm::Sha512]);
    (algorithm, any::<[u8; 8]>()).prop_map(|(algorithm, seed)| algorithm.digest(&seed))
}

fn valid_reference() -> impl Strategy<Value = String> {
    let host = proptest::option::of(select(vec![
        "docker.io/",
        "index.docker.io/",
        "quay.io/",
        "QUAY.io:443/",
        "localhost/",
        "localhost:5000/",
        "10.0.0.1:5000/",
        "[::1]/",
        "[fd00:0::A]:5000/",
    ]));
    let path = "[a-z0-9]{1,10}(/[a-z0-9]{1,10}((\\.|_|__|-{1,3})[a-z0-9]{1,5}){0,2}){0,3}";
    let tag = proptest::option::of("[A-Za-z0-9_][A-Za-z0-9._-]{0,20}");
    (host, path, tag, proptest::option::of(digest())).prop_map(|(host, path, tag, digest)| {
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = digest
            .map(|digest| format!("@{digest}"))
            .unwrap_or_default();
        format!("{}{path}{tag}{digest}", host.unwrap_or_default())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_brings_a_parser_down(text in any::<String>()) {
        check_every_parser(&text);
    }

    #[test]
    fn nothing_like_a_reference_brings_a_parser_down(text in reference_like()) {
        check_every_parser(&text);
    }

    #[test]
    fn every_valid_reference_is_read(text in valid_reference()) {
        let image = ImageRef::parse(&text).expect(&text);
        check_every_parser(&text);
        prop_assert!(destination_path(image.repository()).is_ok());
        if let Some(digest) = image.digest() {
            let pinned = PinnedRef::parse(&text).expect(&text);
            prop_assert_eq!(&image.pinned(*digest), &pinned);
            prop_assert_eq!(image.version(), Version::Digest(*digest));
        }
    }

    #[test]
    fn different_hosts_never_land_in_one_place(
        a in select(vec!["quay.io", "ghcr.io", "localhost:5000", "localhost", "[::1]:5000", "[::1]"]),
        b in select(vec!["quay.io", "ghcr.io", "localhost:5000", "localhost", "[::1]:5000", "[::1]"]),
        path in "[a-z0-9]{1,10}(/[a-z0-9]{1,10}){0,2}",
    ) {
        let land = |host| destination_path(&Repository::parse(&format!("{host}/{path}")).unwrap());
        prop_assert_eq!(land(a) == land(b), a == b);
    }

    #[test]
    fn below_a_prefix_everything_lies_where_it_lay_with_the_prefix_before_it(
        prefix in "[a-z0-9]{1,10}(/[a-z0-9]{1,10}){0,2}",
        source in "(quay[.]io/|localhost:5000/|)[a-z0-9]{1,10}(/[a-z0-9]{1,10}){0,2}",
    ) {
        let source = Repository::parse(&source).unwrap();
        let path = destination_path(&source).unwrap();
        let below = RepositoryPath::parse(&prefix).unwrap();
        let below = destination_path_below(Some(&below), &source).unwrap();
        prop_assert_eq!(below.as_str(), format!("{prefix}/{path}"));
    }

    #[test]
    fn a_digest_is_the_same_however_the_content_is_cut(
        content in vec(any::<u8>(), 0..300),
        cut in any::<prop::sample::Index>(),
    ) {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let (head, tail) = content.split_at(cut.index(content.len() + 1));
            let mut hasher = algorithm.hasher();
            hasher.update(head);
            let mut later = hasher.clone();
            later.update(tail);
            prop_assert_eq!(later.finish(), algorithm.digest(&content));
            prop_assert!(algorithm.digest(&content).matches(&content));
        }
    }

    #[test]
    fn any_digest_is_read_back(digest in digest()) {
        prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        let json = serde_json::to_string(&digest)
            .expect("what was read once is read again");
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    #[test]
    fn normalising_a_platform_twice_changes_nothing(
        os in select(vec!["linux", "macos", "windows", ""]),
        architecture in select(vec![
            "amd64", "x86_64", "x86-64", "arm64", "aarch64", "arm", "armhf", "armel", "386", "i686",
            "powerpc64", "ppc64le", "s390x", "",
        ]),
        variant in proptest::option::of(select(vec!["", "v1", "v2", "v5", "5", "6", "7", "8", "v7", "v8"])),
    ) {
        let platform = Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(ToOwned::to_owned),
            os_version: None,
        };
        let normal = platform.clone().normalized();
        prop_assert_eq!(normal.clone().normalized(), normal.clone());
        prop_assert!(platform.accepts(&normal) && normal.accepts(&platform));
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[a-z/+.0-9-]{0,20}".prop_map(Into::into),
        digest().prop_map(|digest| digest.to_string().into()),
        select(media_type::MANIFESTS.to_vec()).prop_map(Into::into),
    ];
    let key = select(vec![
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "blobs",
        "subject",
        "digest",
        "size",
        "platform",
        "os",
        "architecture",
        "variant",
        "annotations",
        "artifactType",
        "urls",
        "x-unknown",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            proptest::collection::hash_map(key.clone().prop_map(ToOwned::to_owned), inner, 0..8)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn check_manifest(bytes: Bytes, content_type: Option<&str>) {
    if let Ok(manifest) = Manifest::parse(bytes.clone(), content_type) {
        assert_eq!(*manifest.bytes(), bytes, "not one byte changes");
        assert_eq!(manifest.digest(), Digest::sha256(&bytes));
        let digest = manifest.digest();
        let again = Manifest::parse_pinned(bytes, Some(manifest.media_type()), &digest)
            .expect("what was read once is read again");
        assert_eq!(again, manifest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_bring_the_reading_of_manifests_down(bytes in vec(any::<u8>(), 0..500)) {
        check_manifest(bytes.into(), Some(media_type::OCI_MANIFEST));
    }

    #[test]
    fn nothing_like_a_manifest_brings_its_reading_down(
        value in json(),
        content_type in proptest::option::of(select(media_type::MANIFESTS.to_vec())),
    ) {
        check_manifest(value.to_string().into_bytes().into(), content_type);
    }

    #[test]
    fn no_selection_brings_its_compiling_down(
        regex in proptest::option::of(any::<String>()),
        glob in proptest::option::of("[a-z*?{},\\[\\]!\\\\-]{0,20}"),
        semver in proptest::option::of("[0-9.vxX*<>=~^| ,a-z+-]{0,20}"),
        exclude in vec("[a-z*?{}\\[\\]]{0,10}", 0..4),
        latest in proptest::option::of(0_usize..5),
        hours in proptest::option::of(any::<u64>()),
        tags in vec("[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", 0..20),
    ) {
        let selection = TagSelection {
            all: true,
            regex,
            glob,
            semver,
            exclude,
            latest,
            newer_than: hours.map(|h| NewerThan::Age(std::time::Duration::from_secs(h))),
            latest_by: LatestBy::Creation,
        };
        let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
        match TagFilter::compile(&selection) {
            Ok(filter) => {
                let now = Timestamp::from_second(1_800_000_000).unwrap();
                let chosen = filter.select(&tags, now, |_| Some(now));
                prop_assert!(chosen.iter().all(|tag| tags.contains(tag)));
                prop_assert!(latest.is_none_or(|latest| chosen.len() <= latest));
            }
            Err(errors) => prop_assert!(!errors.is_empty()),
        }
    }
}
