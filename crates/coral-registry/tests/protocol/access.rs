//! Logins, rights and limits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coral_image::Digest;
use coral_registry::{
    Access, Grant, Grants, Htpasswd, InternalUser, Limits, PathPatterns, Settings, Who, Writes,
};
use http::StatusCode;

use crate::client::{Answer, Served, request};

/// Hashes of the lowest cost, so that tests are fast.
fn users(list: &[(&str, &str)]) -> Htpasswd {
    let line = |(user, password): &(&str, &str)| {
        let hash = bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap();
        format!("{user}:{hash}\n")
    };
    Htpasswd::parse(&list.iter().map(line).collect::<String>()).unwrap()
}

fn grant(who: Who, path: &str) -> Grant {
    let paths = PathPatterns::parse([path]).unwrap();
    Grant { who, paths }
}

/// `anna` may read everything, `ci` may write below `team`; `pull` grants rights to others.
fn settings(pull: Vec<Grant>) -> Settings {
    let named = |name: &str| Who::Users([name.to_owned()].into());
    let mut list = vec![grant(named("anna"), "**")];
    list.extend(pull);
    Settings {
        access: Access::Granted(Grants {
            users: users(&[("anna", "a secret"), ("ci", "robot")]),
            pull: list,
            push: vec![grant(named("ci"), "team/**")],
        }),
        ..Settings::default()
    }
}

async fn served(settings: Settings) -> Served {
    let served = Served::new();
    served.push_image("team/app", "1", b"layer").await;
    served.push_image("public/app", "1", b"layer").await;
    served.registry.configure(settings);
    served
}

async fn ask(served: &Served, login: Option<(&str, &str)>, method: &str, target: &str) -> Answer {
    let header = login
        .map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    let headers: Vec<_> = header
        .iter()
        .map(|h| ("authorization", h.as_str()))
        .collect();
    served.ask(request(method, target, &headers, b"")).await
}

const ANNA: Option<(&str, &str)> = Some(("anna", "a secret"));
const CI: Option<(&str, &str)> = Some(("ci", "robot"));
const MANIFEST: &str = "/v2/team/app/manifests/1";
const UPLOADS: &str = "/v2/team/app/blobs/uploads/";

#[tokio::test]
async fn without_a_login_there_is_an_invitation_and_nothing_else() {
    let served = served(settings(vec![])).await;
    for (method, target) in [
        ("GET", "/v2/"),
        ("GET", "/v2/_catalog"),
        ("HEAD", MANIFEST),
        ("POST", UPLOADS),
        ("DELETE", MANIFEST),
        ("GET", "/v2/team/app/tags/list"),
    ] {
        let answer = ask(&served, None, method, target).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {target}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"coral\"");
        if method != "HEAD" {
            assert_eq!(answer.code(), "UNAUTHORIZED");
        }
    }
    // Some clients send an empty name and password for anonymous access.
    let anonymous = ask(&served, Some(("", "")), "GET", "/v2/").await;
    assert_eq!(anonymous.status, StatusCode::UNAUTHORIZED);
}

/// A client that sends an unknown type of credential gets an answer that says so.
#[tokio::test]
async fn a_login_of_another_scheme_is_a_wrong_one() {
    let served = served(settings(vec![grant(Who::Anybody, "**")])).await;
    assert_eq!(served.get(MANIFEST).await.status, StatusCode::OK);
    for header in ["Bearer token", "Basic", "Basic %", "nonsense"] {
        let headers = [("authorization", header)];
        let refused = served.ask(request("GET", MANIFEST, &headers, b"")).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{header}");
        assert_eq!(refused.header("www-authenticate"), "Basic realm=\"coral\"");
    }
}

#[tokio::test]
async fn a_wrong_password_is_refused_where_none_is_needed_too() {
    let served = served(settings(vec![grant(Who::Anybody, "**")])).await;
    assert_eq!(
        ask(&served, None, "GET", MANIFEST).await.status,
        StatusCode::OK
    );
    for login in [("anna", "robot"), ("unknown", "robot"), ("anna", "")] {
        let answer = ask(&served, Some(login), "GET", MANIFEST).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{login:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("robot"));
    }
}

#[tokio::test]
async fn rights_are_by_user_path_and_kind() {
    let served = served(settings(vec![])).await;
    for (login, method, target, expected) in [
        (ANNA, "GET", "/v2/", StatusCode::OK),
        (ANNA, "GET", MANIFEST, StatusCode::OK),
        (ANNA, "POST", UPLOADS, StatusCode::FORBIDDEN),
        (ANNA, "DELETE", MANIFEST, StatusCode::FORBIDDEN),
        (CI, "GET", MANIFEST, StatusCode::OK),
        (
            CI,
            "GET",
            "/v2/public/app/manifests/1",
            StatusCode::FORBIDDEN,
        ),
        (
            CI,
            "POST",
            "/v2/public/app/blobs/uploads/",
            StatusCode::FORBIDDEN,
        ),
        (CI, "POST", UPLOADS, StatusCode::ACCEPTED),
        (CI, "DELETE", MANIFEST, StatusCode::ACCEPTED),
    ] {
        let answer = ask(&served, login, method, target).await;
        assert_eq!(answer.status, expected, "{login:?} {method} {target}");
        if expected == StatusCode::FORBIDDEN {
            assert_eq!(answer.code(), "DENIED");
        }
    }
}

#[tokio::test]
async fn the_list_of_repositories_has_what_one_may_read() {
    let served = served(settings(vec![grant(Who::Anybody, "public/**")])).await;
    for (login, expected) in [
        (None, vec!["public/app"]),
        (CI, vec!["public/app", "team/app"]),
        (ANNA, vec!["public/app", "team/app"]),
    ] {
        let answer = ask(&served, login, "GET", "/v2/_catalog").await;
        assert_eq!(answer.json()["repositories"], serde_json::json!(expected));
    }
    let first = ask(&served, CI, "GET", "/v2/_catalog?n=1").await;
    assert_eq!(
        first.json()["repositories"],
        serde_json::json!(["public/app"])
    );
    let next = "</v2/_catalog?n=1&last=public%2Fapp>; rel=\"next\"";
    assert_eq!(first.header("link"), next);
    let only = ask(&served, None, "GET", "/v2/_catalog?n=1").await;
    assert_eq!(
        only.header("link"),
        "",
        "a name that may not be read is not told"
    );
    // Clients that look for a login at `/v2/` are challenged.
    let door = ask(&served, None, "GET", "/v2/").await;
    assert_eq!(door.status, StatusCode::OK);
    assert_eq!(door.header("www-authenticate"), "Basic realm=\"coral\"");
}

#[tokio::test]
async fn a_blob_cannot_be_mounted_out_of_a_repository_that_one_may_not_read() {
    let served = served(settings(vec![])).await;
    let secret = Digest::sha256(b"layer");
    for (from, expected) in [
        ("&from=public/app", StatusCode::ACCEPTED),
        ("", StatusCode::ACCEPTED),
        ("&from=team/app", StatusCode::CREATED),
    ] {
        let target = format!("/v2/team/other/blobs/uploads/?mount={secret}{from}");
        let answer = ask(&served, CI, "POST", &target).await;
        assert_eq!(answer.status, expected, "{from}");
        // The client does not learn that the blob exists.
        assert_eq!(answer.header("coral-blob-elsewhere"), "", "{from}");
    }
}

#[tokio::test]
async fn a_read_only_registry_is_written_by_the_program_itself_alone() {
    let internal = InternalUser::random();
    let served = Served::with_internal_user(internal.clone());
    served.push_image("team/app", "1", b"layer").await;
    served.registry.configure(Settings {
        writes: Writes::Refused,
        ..Settings::default()
    });
    assert_eq!(
        ask(&served, None, "GET", MANIFEST).await.status,
        StatusCode::OK
    );
    for (method, target) in [("POST", UPLOADS), ("DELETE", MANIFEST), ("PUT", MANIFEST)] {
        let answer = ask(&served, None, method, target).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.code(), "UNSUPPORTED");
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
    let own = Some((internal.name(), internal.password()));
    let answer = ask(&served, own, "POST", UPLOADS).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let guessed = Some((internal.name(), "guess"));
    let answer = ask(&served, guessed, "POST", UPLOADS).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let served = served(settings(vec![])).await;
    assert_eq!(
        ask(&served, ANNA, "GET", "/v2/").await.status,
        StatusCode::OK
    );
    let mut limited = 0;
    for n in 0..20 {
        let answer = ask(
            &served,
            Some(("anna", &format!("guess {n}"))),
            "GET",
            "/v2/",
        )
        .await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer.code(), "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
            limited += 1;
        } else {
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        }
    }
    assert!(limited >= 8, "{limited} of 20 guesses were limited");
    assert_eq!(
        ask(&served, ANNA, "GET", "/v2/").await.status,
        StatusCode::OK
    );
}

fn limited(limits: Limits) -> Settings {
    Settings {
        limits,
        ..Settings::default()
    }
}

#[tokio::test]
async fn a_blob_that_is_too_large_is_refused_however_it_comes() {
    let served = Served::new();
    served.registry.configure(limited(Limits {
        blob_bytes: Some(10),
        ..Limits::default()
    }));
    served.push("a", &[1; 10]).await;
    let whole = format!("/v2/a/blobs/uploads/?digest={}", Digest::sha256(&[1; 11]));
    let answer = served.send("POST", &whole, &[1; 11]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.code(), "SIZE_INVALID");
    let upload = served.begin("a").await;
    assert_eq!(
        served.send("PATCH", &upload, &[1; 6]).await.status,
        StatusCode::ACCEPTED
    );
    let announced = [("content-length", "6")];
    for headers in [&announced[..], &[]] {
        let answer = served
            .ask(request("PATCH", &upload, headers, &[1; 6]))
            .await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{headers:?}");
    }
}

#[tokio::test]
async fn no_more_uploads_are_open_than_there_may_be() {
    let served = Served::new();
    served.registry.configure(limited(Limits {
        open_uploads: 2,
        ..Limits::default()
    }));
    let first = served.begin("a").await;
    served.begin("b").await;
    let target = "/v2/a/blobs/uploads/";
    let answer = served.send("POST", target, b"").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.code(), "TOOMANYREQUESTS");
    served.send("DELETE", &first, b"").await;
    let answer = served.send("POST", target, b"").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
}

/// `ci` may have a tenth of the uploads, but at least a hundred.
#[tokio::test]
async fn one_client_does_not_get_all_places_for_uploads() {
    let limits = Limits {
        open_uploads: 200,
        ..Limits::default()
    };
    let served = Served::new();
    let mut both = settings(vec![]);
    both.limits = limits;
    if let Access::Granted(grants) = &mut both.access {
        grants.push.push(grant(Who::EveryUser, "**"));
    }
    served.registry.configure(both);
    let post = async |login| ask(&served, login, "POST", UPLOADS).await;
    let mut last = String::new();
    for _ in 0..100 {
        let begun = post(CI).await;
        assert_eq!(begun.status, StatusCode::ACCEPTED);
        last = begun.header("location").to_owned();
    }
    let whole = format!("{UPLOADS}?digest={}", Digest::sha256(b""));
    for target in [UPLOADS, whole.as_str()] {
        let refused = ask(&served, CI, "POST", target).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{target}");
        assert_eq!(refused.header("retry-after"), "5");
        let other = ask(&served, ANNA, "POST", target).await;
        assert!(other.status.is_success(), "{target}");
    }
    // The upload is ended by the right digest, by a wrong one, and by the client.
    for ending in ["", "x"] {
        let target = format!("{last}?digest={}", Digest::sha256(ending.as_bytes()));
        ask(&served, CI, "PUT", &target).await;
        last = post(CI).await.header("location").to_owned();
        assert_eq!(post(CI).await.status, StatusCode::TOO_MANY_REQUESTS);
    }
    ask(&served, CI, "DELETE", &last).await;
    assert_eq!(post(CI).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn some_places_for_uploads_are_the_programs_own() {
    let user = InternalUser::random();
    let served = Served::with_internal_user(user.clone());
    served.registry.configure(limited(Limits {
        open_uploads: 10,
        ..Limits::default()
    }));
    for _ in 0..9 {
        served.begin("a").await;
    }
    let target = "/v2/a/blobs/uploads/";
    let refused = served.send("POST", target, b"").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let login = Some((user.name(), user.password()));
    let own = ask(&served, login, "POST", target).await;
    assert_eq!(own.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn an_upload_without_a_byte_does_not_have_its_place_for_long() {
    let served = Served::new();
    served.registry.configure(limited(Limits {
        open_uploads: 2,
        ..Limits::default()
    }));
    let (empty, begun) = (served.begin("a").await, served.begin("a").await);
    served.send("PATCH", &begun, b"x").await;
    for upload in std::fs::read_dir(served.folder.path().join("store/uploads")).unwrap() {
        let file = std::fs::File::options()
            .append(true)
            .open(upload.unwrap().path());
        let before = std::time::SystemTime::now() - std::time::Duration::from_mins(11);
        file.unwrap().set_modified(before).unwrap();
    }
    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    served.registry.clone().keep_clean(stop).await;
    assert_eq!(served.get(&empty).await.status, StatusCode::NOT_FOUND);
    assert_eq!(served.get(&begun).await.status, StatusCode::NO_CONTENT);
    served.begin("a").await;
}

#[tokio::test]
async fn an_oversized_head_is_refused_in_the_form_of_the_specification() {
    let served = Served::new();
    let long = "x".repeat(40_000);
    let headers = [("x-long", long.as_str())];
    let answer = served.ask(request("GET", "/v2/", &headers, b"")).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(answer.code(), "SIZE_INVALID");
}

#[tokio::test]
async fn an_upload_that_was_left_alone_ends_and_others_do_not() {
    let served = Served::new();
    let old = served.begin("a").await;
    let stop = tokio_util::sync::CancellationToken::new();
    served.registry.configure(limited(Limits {
        upload_expiry: std::time::Duration::from_millis(1),
        ..Limits::default()
    }));
    let cleaning = tokio::spawn(served.registry.clone().keep_clean(stop.clone()));
    let gone = async {
        while served.get(&old).await.status != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(2), gone)
        .await
        .unwrap();
    stop.cancel();
    cleaning.await.unwrap();
    let new = served.begin("a").await;
    let stop = tokio_util::sync::CancellationToken::new();
    served.registry.configure(Settings::default());
    stop.cancel();
    served.registry.clone().keep_clean(stop).await;
    assert_eq!(served.get(&new).await.status, StatusCode::NO_CONTENT);
}
