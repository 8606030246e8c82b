use base64::Engine as _;
use coral_image::{Host, Repository};
use proptest::prelude::*;

use crate::credentials::{Candidate, CredentialKind, Credentials};

const SECRET: &str = "hunter2-secret";

fn auth(user: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{user}:{SECRET}"))
}

fn users(config: &str, repository: &str) -> Vec<String> {
    let credentials = Credentials::from_docker_config(config.as_bytes(), "config.json").unwrap();
    let repository = Repository::parse(repository).unwrap();
    let found = credentials.for_repository(&repository);
    found
        .iter()
        .map(|credential| credential.username.clone())
        .collect()
}

fn message(config: &str) -> String {
    let error = Credentials::from_docker_config(config.as_bytes(), "config.json").unwrap_err();
    error.to_string()
}

/// The hint that is shown once the registry asks for a credential.
fn hint(config: &str, repository: &str) -> Option<String> {
    let read = Credentials::from_own_docker_config(config.as_bytes(), "config.json").unwrap();
    read.hint_for(&Repository::parse(repository).unwrap())
}

#[test]
fn an_entry_that_is_odd_takes_nothing_from_the_others() {
    for odd in [
        r#""other.example": {"auth": "%%%"}"#,
        r#""other.example": {"auth": "anVzdHVzZXI="}"#,
        r#""other.example": {"identitytoken": 7}"#,
        r#""other.example": null"#,
        r#""": {"auth": "dTpw"}"#,
        r#""not a host": []"#,
    ] {
        let good = auth("me");
        let config = format!(r#"{{"auths": {{{odd}, "quay.io": {{"auth": "{good}"}}}}}}"#);
        assert_eq!(users(&config, "quay.io/a"), ["me"], "{odd}");
        assert_eq!(hint(&config, "quay.io/a"), None);
    }
}

/// Regression: each of these stopped every copy, even of public images.
#[test]
fn what_docker_reads_without_a_word_is_no_error() {
    let read = |json: &[u8]| Credentials::from_docker_config(json, "config.json").unwrap();
    for empty in ["", " \n", "null", "\u{feff}{}", "\u{feff}"] {
        assert!(read(empty.as_bytes()).is_empty(), "{empty:?}");
    }
    let odd: [&[u8]; 6] = [
        b"\xe4",
        br"\ud800",
        br"\udc00\ud800",
        br"\\\ud800\\",
        br"\ud83d\ude00",
        br"\ud800\u",
    ];
    let good = auth("me");
    for odd in &odd[..5] {
        let config = [
            br#"{"auths": {"x.example": {"username": "x", "password": ""#,
            *odd,
            br#""}, "quay.io": {"auth": ""#,
            good.as_bytes(),
            br#""}}}"#,
        ]
        .concat();
        let read = read(&config);
        let found = read.for_repository(&Repository::parse("quay.io/a").unwrap());
        assert_eq!(found[0].username, "me", "{}", odd.escape_ascii());
    }
    let broken = [br#"{"x": ""#, odd[5], br#""}"#].concat();
    assert!(Credentials::from_docker_config(&broken, "config.json").is_err());
}

#[test]
fn the_longest_path_comes_first() {
    let config = format!(
        r#"{{"auths": {{
            "quay.io": {{"auth": "{}"}},
            "quay.io/org/team": {{"auth": "{}"}},
            "https://quay.io/org/": {{"auth": "{}"}},
            "ghcr.io": {{"auth": "{}"}}
        }}}}"#,
        auth("host"),
        auth("team"),
        auth("org"),
        auth("other")
    );
    assert_eq!(
        users(&config, "quay.io/org/team/app"),
        ["team", "org", "host"]
    );
    assert_eq!(users(&config, "quay.io/org/team"), ["team", "org", "host"]);
    assert_eq!(users(&config, "quay.io/org/teams"), ["org", "host"]);
    assert_eq!(users(&config, "quay.io/other"), ["host"]);
    assert!(users(&config, "quay.example/org").is_empty());
    assert!(users(&config, "quay.io:8443/org").is_empty());
}

#[test]
fn every_name_of_docker_hub_is_docker_hub() {
    for key in [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "registry-1.docker.io",
        "https://registry-1.docker.io/v2/",
    ] {
        let config = format!(r#"{{"auths": {{"{key}": {{"auth": "{}"}}}}}}"#, auth("me"));
        assert_eq!(users(&config, "debian"), ["me"], "{key}");
    }
}

#[test]
fn kubernetes_patterns_stand_for_one_label() {
    let config = format!(
        r#"{{"auths": {{
            "*.azurecr.io": {{"auth": "{}"}},
            "eu-*.pkg.dev/org": {{"auth": "{}"}},
            "exact.azurecr.io": {{"auth": "{}"}}
        }}}}"#,
        auth("pattern"),
        auth("europe"),
        auth("exact")
    );
    assert_eq!(users(&config, "team.azurecr.io/app"), ["pattern"]);
    assert_eq!(users(&config, "exact.azurecr.io/app"), ["exact", "pattern"]);
    assert_eq!(users(&config, "eu-west1.pkg.dev/org/app"), ["europe"]);
    assert!(users(&config, "us-west1.pkg.dev/org/app").is_empty());
    assert!(users(&config, "a.b.azurecr.io/app").is_empty());
    assert!(users(&config, "azurecr.io.evil.example/app").is_empty());
}

#[test]
fn the_legacy_format_and_plain_fields_are_read() {
    let legacy = format!(
        r#"{{"https://index.docker.io/v1/": {{"auth": "{}", "email": ""}}}}"#,
        auth("old")
    );
    assert_eq!(users(&legacy, "debian"), ["old"]);
    let plain = format!(
        r#"{{"auths": {{"reg.example:5000": {{"username": "u", "password": "{SECRET}"}}}}}}"#
    );
    assert_eq!(users(&plain, "reg.example:5000/a"), ["u"]);
    assert!(users("{}", "debian").is_empty());
    assert!(users(r#"{"auths": {}, "HttpHeaders": {"a": "b"}}"#, "debian").is_empty());
    assert!(users(r#"{"HttpHeaders": {"a": "b"}}"#, "debian").is_empty());
}

#[test]
fn passwords_may_hold_colons_and_lack_padding() {
    let auth = base64::engine::general_purpose::STANDARD_NO_PAD.encode("u:a:b:c");
    let config = format!(r#"{{"auths": {{"reg.example": {{"auth": "{auth}"}}}}}}"#);
    let credentials = Credentials::from_docker_config(config.as_bytes(), "x").unwrap();
    let repository = Repository::parse("reg.example/a").unwrap();
    assert_eq!(
        credentials.for_repository(&repository)[0].password.expose(),
        "a:b:c"
    );
}

const HELPERS: &str = r#"{
    "auths": {"quay.io": {}, "ghcr.io": {"identitytoken": "hunter2-secret"}},
    "credHelpers": {"gcr.io": "gcloud", "unset.example": ""}, "credsStore": "desktop"
}"#;

#[test]
fn a_configuration_from_elsewhere_runs_no_helper_and_says_so() {
    let credentials = Credentials::from_docker_config(HELPERS.as_bytes(), "config.json").unwrap();
    let hint = |name: &str| credentials.hint_for(&Repository::parse(name).unwrap());
    assert!(hint("gcr.io/a/b").unwrap().contains("gcloud"));
    assert!(hint("quay.io/a/b").unwrap().contains("desktop"));
    let others = "config.json has none for it (it has ghcr.io)";
    assert_eq!(hint("docker.io/a/b").unwrap(), others);
    let unknown = Host::parse("gcr.io").unwrap();
    assert!(credentials.candidates(&unknown, None).is_empty());
}

#[test]
fn helpers_are_for_their_host_and_the_store_for_every_other() {
    let own = Credentials::from_own_docker_config(HELPERS.as_bytes(), "config.json").unwrap();
    let who = |host: &str| -> Vec<_> {
        let found = own.candidates(&Host::parse(host).unwrap(), None);
        found.iter().filter_map(Candidate::described).collect()
    };
    let store = "credential helper docker-credential-desktop, named by credsStore of config.json";
    let gcloud = "credential helper docker-credential-gcloud, named by credHelpers of config.json";
    assert_eq!(who("gcr.io"), [gcloud, store]);
    assert_eq!(who("unset.example"), [store]);
    assert_eq!(who("quay.io"), [store]);
    assert_eq!(who("ghcr.io"), ["\"ghcr.io\" in config.json", store]);
    for wrong in [
        r#"{"credsStore": "../sh"}"#,
        r#"{"credHelpers": {"quay.io": 7, "not a host": "x"}}"#,
    ] {
        let told = hint(wrong, "quay.io/a").unwrap();
        assert!(told.contains("of config.json must name a helper"), "{told}");
    }
}

#[test]
fn an_identity_token_is_one() {
    let credentials = Credentials::from_docker_config(HELPERS.as_bytes(), "config.json").unwrap();
    let found = credentials.for_repository(&Repository::parse("ghcr.io/a/b").unwrap());
    assert_eq!(found[0].kind, CredentialKind::IdentityToken);
    assert_eq!(found[0].password.expose(), SECRET);
}

#[test]
fn messages_name_file_and_entry_and_never_a_secret() {
    let cases = [
        (
            r#"{"auths": {"reg.example": {"auth": "hunter2-secret!"}}}"#.to_owned(),
            "not base64",
        ),
        (
            r#"{"auths": {"reg.example": {"auth": 7}}}"#.to_owned(),
            "must be an object",
        ),
        (
            r#"{"auths": {"reg.example": "hunter2-secret"}}"#.to_owned(),
            "must be an object",
        ),
        (
            r#"{"auths": {"reg.example": {"username": "u:hunter2-secret", "password": "x"}}}"#
                .to_owned(),
            "with a colon",
        ),
        (
            r#"{"auths": {"reg.example": {"username": "u"}}}"#.to_owned(),
            "without a \"password\"",
        ),
        (
            format!(
                r#"{{"auths": {{"reg.example": {{"auth": "{}"}}}}}}"#,
                base64::engine::general_purpose::STANDARD.encode(SECRET)
            ),
            "user:password",
        ),
    ];
    for (config, expected) in cases {
        let message = hint(&config, "reg.example/a").unwrap();
        assert!(message.contains(expected), "{message}");
        assert!(
            message.contains("config.json") && message.contains("reg.example"),
            "{message}"
        );
        assert!(!message.contains(SECRET), "{message}");
    }
    let broken = message("{\"auths\": {\n \"a\": hunter2-secret");
    assert!(
        broken.contains("line 2") && !broken.contains(SECRET),
        "{broken}"
    );
    assert!(message("[]").contains("object"));
    for odd in ["[]", "\"\"", "5"] {
        let told = hint(&format!(r#"{{"auths": {odd}}}"#), "reg.example/a").unwrap();
        assert!(told.contains("\"auths\" of config.json"), "{told}");
    }
    let huge = format!(
        "{{\"auths\": {{}}, \"x\": \"{}\"}}",
        "x".repeat(super::MAX_CONFIG)
    );
    assert!(message(&huge).contains("larger than"));
}

#[test]
fn a_credential_prints_without_its_secret() {
    let config = format!(
        r#"{{"auths": {{"reg.example": {{"auth": "{}"}}}}}}"#,
        auth("u")
    );
    let credentials = Credentials::from_docker_config(config.as_bytes(), "x").unwrap();
    assert!(!format!("{credentials:?}").contains(SECRET));
}

#[test]
fn the_port_of_https_need_not_be_written_and_another_port_is_another_registry() {
    let config = |host: &str| format!(r#"{{"auths": {{"{host}": {{"auth": "{}"}}}}}}"#, auth("u"));
    for (host, repository, fits) in [
        ("reg.example", "reg.example:443/a", true),
        ("reg.example:443", "reg.example/a", true),
        ("*.example", "reg.example:443/a", true),
        ("reg.example", "reg.example:5000/a", false),
        ("reg.example:443", "reg.example:5000/a", false),
        ("*.example", "reg.example:5000/a", false),
    ] {
        let found = users(&config(host), repository);
        assert_eq!(!found.is_empty(), fits, "{host}: {repository}");
    }
}

#[test]
fn of_equally_specific_entries_the_first_set_wins() {
    let of = |user: &str| {
        let config = format!(
            r#"{{"auths": {{"reg.example": {{"auth": "{}"}}}}}}"#,
            auth(user)
        );
        Credentials::from_docker_config(config.as_bytes(), user).unwrap()
    };
    let merged = of("first").merged_with(of("second"));
    let repository = Repository::parse("reg.example/a").unwrap();
    let found = merged.for_repository(&repository);
    assert_eq!(
        found
            .iter()
            .map(|c| c.username.as_str())
            .collect::<Vec<_>>(),
        ["first", "second"]
    );
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in "\\PC{0,200}") {
        let _ = Credentials::from_docker_config(text.as_bytes(), "x");
    }

    #[test]
    fn no_entry_breaks_the_reader(key in "[ -!#-\\[\\]-~]{0,40}", auth in "[ -!#-\\[\\]-~]{0,40}") {
        let config = format!(r#"{{"auths": {{"{key}": {{"auth": "{auth}"}}}}}}"#);
        let _ = Credentials::from_docker_config(config.as_bytes(), "x");
    }

    #[test]
    fn users_and_passwords_come_back(user in "[a-zA-Z0-9._-]{1,20}", password in "[ -~]{1,40}") {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let config = format!(r#"{{"auths": {{"reg.example": {{"auth": "{auth}"}}}}}}"#);
        let credentials = Credentials::from_docker_config(config.as_bytes(), "x").unwrap();
        let repository = Repository::parse("reg.example/a").unwrap();
        let found = credentials.for_repository(&repository);
        prop_assert_eq!(&found[0].username, &user);
        prop_assert_eq!(found[0].password.expose(), &password);
    }
}
